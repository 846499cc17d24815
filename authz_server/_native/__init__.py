"""The native core, in C: a remembered decision costs nothing of Python.

`core/` is C11 without Python and without globals; `bind_*.c` and `module.c` make it a
module. There is one switch: ``AUTHZ_SERVER_PURE=1`` runs the Python twins, which are
the oracle of the tests. Without it a missing extension is an error, never a silent
fallback.
"""
