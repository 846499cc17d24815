"""The main job on real parts: development identities, Envoy, Triton, this server."""
