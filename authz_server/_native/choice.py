"""Native core or Python twins: the one place that chooses.

``AUTHZ_SERVER_PURE=1`` chooses the twins, everything else the core. It is read when a
room is imported, before there is a configuration, so it is no setting of that.
"""

from __future__ import annotations

import os
from typing import Final

VARIABLE: Final = "AUTHZ_SERVER_PURE"

_CHOICES: Final = {"": False, "0": False, "1": True}

_MEND: Final = (
    "the native core of authz-server is missing, or was built for another Python: "
    "`make venv` (or `pip install -e .`) builds it and needs a C compiler; "
    f"{VARIABLE}=1 runs the slower Python code instead"
)


def is_pure() -> bool:
    """Return whether the Python twins are to run.

    Raises:
        ImportError: the variable is neither 0 nor 1, or the core cannot be loaded.
    """
    value = os.environ.get(VARIABLE, "")
    if value not in _CHOICES:
        raise ImportError(f"{VARIABLE} must be 0 or 1, not {value!r}")
    if _CHOICES[value]:
        return True
    try:
        import authz_server._native._core  # noqa: F401, PLC0415 - to say how to mend it
    except ImportError as error:
        raise ImportError(_MEND) from error
    return False
