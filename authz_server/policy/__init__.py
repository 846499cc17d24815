"""Stage 5, decide: the access policy, and Rego in WebAssembly that evaluates it."""
