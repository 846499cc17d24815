"""The JSON Schema of the access policy file, for editors.

It says less than the reader, which alone decides: what refers to something else in the
file, and what contradicts it, a schema can't see.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

_FILE: Final = Path(__file__).with_name("schema.json")


def schema_text() -> str:
    """Return the schema: JSON, draft 2020-12."""
    return _FILE.read_text(encoding="utf-8")
