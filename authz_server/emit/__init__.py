"""From the access policy to what other enforcement points need: pure functions.

`kubernetes` and `istio` each turn an `AccessPolicy` and `EmitOptions` into manifests;
`render` writes them as text. Nothing here reads a file, a clock or the environment, so
the same policy gives the same bytes on every machine.
"""
