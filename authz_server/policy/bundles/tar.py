"""Reads a tar archive from memory, strictly, each byte of it once.

Python's own reader is made for archives that one trusts: a header of 200 kB keeps the
3.11 one busy for a minute, and every other thread waits; a chain of headers ends in a
RecursionError; a hole of gigabytes is filled in; a broken header ends the archive as
if nothing followed. What is read here are the forms that tar programs and OPA write
for files and folders: ustar and its forerunner, long names as GNU writes them, PAX
headers (POSIX.1-2017, pax, "ustar Interchange Format" and "pax Header Block").
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

_BLOCK: Final = 512

_FILES: Final = frozenset({b"0", b"\0"})
_FOLDER: Final = b"5"
_EXTENDED: Final = b"x"
_FOR_ALL: Final = b"g"
_LONG_NAME: Final = b"L"

_NUMBER: Final = re.compile(rb" *([0-7]{1,11})[ \0]*", re.ASCII)
_DECIMAL: Final = re.compile(rb"[0-9]{1,12}", re.ASCII)
_LONGEST_LENGTH: Final = 12

# What would change where a file lies, or what is in it.
_OTHER_MEANING: Final = (b"GNU.sparse.", b"SCHILY.realsize", b"hdrcharset")


def read_members(archive: bytes) -> Iterator[tuple[str, bytes | None]]:
    """Yield path and content of each file; None is the content of a folder.

    Raises:
        ValueError: if it is no archive of files and folders.
    """
    at = 0
    name: bytes | None = None
    extended: dict[bytes, bytes] = {}
    while any(header := archive[at : at + _BLOCK]):
        kind, size = _checked(header)
        is_first = at == 0
        if b"size" in extended:
            size = _decimal(extended[b"size"])
        at += _BLOCK
        content = archive[at : at + size]
        at += -(-size // _BLOCK) * _BLOCK
        if at > len(archive):
            raise ValueError("it is cut off")
        if kind == _LONG_NAME and name is None:
            name = content.rstrip(b"\0")
        elif kind == _EXTENDED and not extended:
            extended = _records(content)
        elif kind == _FOR_ALL and is_first:
            # What git writes: which commit it is.
            if not _records(content).keys().isdisjoint({b"path", b"size"}):
                raise ValueError("it has a path or size for all of its files")
        elif kind in _FILES or kind == _FOLDER:
            path = extended.get(b"path", _name(header) if name is None else name)
            is_folder = kind == _FOLDER or (kind == b"\0" and path.endswith(b"/"))
            yield path.decode("utf-8"), None if is_folder else content
            name, extended = None, {}
        else:
            raise ValueError(f"{_name(header)[:80]!r} is neither file nor folder")
    if (
        archive[at:].strip(b"\0")
        or len(archive) < at + _BLOCK
        or extended
        or name is not None
    ):
        raise ValueError("it does not end, or something follows its end")


def _checked(header: bytes) -> tuple[bytes, int]:
    """Return the kind of a member, and its size in bytes."""
    if len(header) < _BLOCK:
        raise ValueError("it is cut off")
    # The sum is that of the header with spaces in the place of the sum.
    if _octal(header[148:156]) != sum(header) - sum(header[148:156]) + 8 * 0x20:
        raise ValueError("it has a broken header")
    return header[156:157], _octal(header[124:136])


def _name(header: bytes) -> bytes:
    name = header[:100].partition(b"\0")[0]
    # Other forms have something else where ustar has the beginning of a long path.
    if header[257:263] == b"ustar\0":
        prefix = header[345:500].partition(b"\0")[0]
        return prefix + b"/" + name if prefix else name
    return name


def _octal(field: bytes) -> int:
    # GNU's other form is for files of 8 GiB and more.
    found = _NUMBER.fullmatch(field)
    if found is None:
        raise ValueError("it has a broken header")
    return int(found[1], 8)


def _decimal(text: bytes) -> int:
    if _DECIMAL.fullmatch(text) is None:
        raise ValueError("it has a broken header")
    return int(text)


def _records(content: bytes) -> dict[bytes, bytes]:
    """Return what an extended header says: ``LENGTH KEY=VALUE`` on each line."""
    found: dict[bytes, bytes] = {}
    at = 0
    while at < len(content):
        space = content.find(b" ", at, at + _LONGEST_LENGTH + 1)
        end = at + _decimal(content[at : max(at, space)])
        key, equals, value = content[space + 1 : end - 1].partition(b"=")
        if end <= space or content[end - 1 : end] != b"\n" or not equals:
            raise ValueError("it has a broken header")
        if key in found or key.startswith(_OTHER_MEANING):
            raise ValueError(f"it has a header {key[:40]!r}, which is not read")
        found[key] = value
        at = end
    return found
