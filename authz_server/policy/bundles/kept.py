"""The last good bundle on disk, for a start without the link.

Two files in one folder: the bundle, exactly as it was verified, and what is known of
it. Each is replaced at once or not at all, the bundle first, so a stop at any moment
leaves a whole bundle. It may then go with what was known of the one before, which says
no more than is true: that one was confirmed earlier.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from authz_server.errors import PolicyError

_BUNDLE: Final = "bundle.tar.gz"
_STANDING: Final = "bundle.json"
_PARTIAL: Final = ".partial"


@dataclass(frozen=True, slots=True)
class Kept:
    """A bundle as it lies on disk. It is to be verified like any other.

    Attributes:
        etag: names it to the source; empty if that is not certain.
        confirmed_s: wall-clock second at which the source last said that it is the
            newest; 0 if that is not known.
    """

    raw: bytes = field(repr=False)
    etag: str = ""
    confirmed_s: float = 0.0


class KeptBundle:
    """The folder. Nobody else may write there.

    Args:
        folder: is made if it is not there.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def load(self, max_bytes: int) -> Kept | None:
        """Return what is kept; None if nothing is.

        Raises:
            PolicyError: if it cannot be read.
        """
        try:
            with (self._folder / _BUNDLE).open("rb") as file:
                raw = file.read(max_bytes + 1)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise PolicyError(
                f"{self._folder}: the bundle kept there cannot be read: "
                f"{error.strerror}"
            ) from error
        etag, confirmed_s, digest = self._standing()
        return Kept(raw, etag if digest == _digest(raw) else "", confirmed_s)

    def save(self, kept: Kept) -> None:
        """Keep a bundle in the place of the one before.

        Raises:
            PolicyError: if it cannot be written; what was there is there still.
        """
        self._write(_BUNDLE, kept.raw)
        self.confirm(kept)

    def confirm(self, kept: Kept) -> None:
        """Note anew what is known of the bundle that is kept.

        Raises:
            PolicyError: if it cannot be written.
        """
        standing = {
            "etag": kept.etag,
            "confirmed_s": kept.confirmed_s,
            "sha256": _digest(kept.raw),
        }
        self._write(_STANDING, json.dumps(standing).encode())

    def _standing(self) -> tuple[str, float, str]:
        # Whatever a damaged disk makes of it.
        with contextlib.suppress(
            OSError, ValueError, TypeError, OverflowError, RecursionError
        ):
            found = json.loads((self._folder / _STANDING).read_bytes())
            if isinstance(found, dict):
                return (
                    str(found.get("etag", "")),
                    float(found.get("confirmed_s", 0.0)),
                    str(found.get("sha256", "")),
                )
        return "", 0.0, ""

    def _write(self, name: str, content: bytes) -> None:
        partial = self._folder / (name + _PARTIAL)
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with partial.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(self._folder / name)
            self._flush_folder()
        except OSError as error:
            raise PolicyError(
                f"{self._folder}: the bundle cannot be kept there: {error.strerror}"
            ) from error

    def _flush_folder(self) -> None:
        """Let the new name outlive a loss of power."""
        folder = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _digest(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()
