"""A bundle's manifest: which revision it is, and which part of the data is its own."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Self

from authz_server.errors import PolicyError
from authz_server.strict_json import parse_json_object

MANIFEST: Final = ".manifest"
_MAX_REVISION: Final = 256

Path = tuple[str, ...]
"""Where something is in the data document."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a bundle says of itself.

    Attributes:
        revision: whatever its maker calls it.
        roots: the paths of the data document that it owns, none below another; the
            empty path owns all of it.
        modules: paths of Wasm modules by entrypoint.
        metadata: its maker's own; only what `authz-server policy build` leaves there
            has a meaning here.
    """

    revision: str = ""
    roots: tuple[Path, ...] = ((),)
    modules: Mapping[str, str] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: bytes) -> Self:
        """Return the manifest in `text`.

        Raises:
            PolicyError: if it is none. What it holds beside is not looked at: OPA adds
                to its manifests.
        """
        try:
            document = parse_json_object(text)
        except ValueError as error:
            raise PolicyError(f"the bundle's {MANIFEST} is no JSON: {error}") from error
        revision = document.get("revision", "")
        if (
            not isinstance(revision, str)
            or len(revision) > _MAX_REVISION
            or not revision.isprintable()
        ):
            raise _wrong("revision", f"text of at most {_MAX_REVISION} characters")
        metadata = document.get("metadata", {})
        if not isinstance(metadata, dict):
            raise _wrong("metadata", "an object")
        return cls(revision, _roots(document), dict(_modules(document)), metadata)

    def owns(self, path: Path) -> bool:
        """Return whether `path` is at or below one of the roots."""
        return any(path[: len(root)] == root for root in self.roots)

    def check_data(self, data: Mapping[str, Any]) -> None:
        """Return if `data` lies below the roots.

        Raises:
            PolicyError: if some of it does not; names the first such path.
        """
        for path in _outside(data, (), self):
            raise PolicyError(
                f"the bundle has data at /{'/'.join(path)}, outside of its roots"
            )

    def as_json(self) -> dict[str, Any]:
        """Return what `parse` reads."""
        return {
            "revision": self.revision,
            "roots": ["/".join(root) for root in self.roots],
            **(
                {
                    "wasm": [
                        {"entrypoint": entrypoint, "module": f"/{module}"}
                        for entrypoint, module in sorted(self.modules.items())
                    ]
                }
                if self.modules
                else {}
            ),
            **({"metadata": dict(self.metadata)} if self.metadata else {}),
        }


def _roots(document: Mapping[str, Any]) -> tuple[Path, ...]:
    roots = document.get("roots", [""])
    if not isinstance(roots, list) or not all(isinstance(root, str) for root in roots):
        raise _wrong("roots", "a list of paths")
    paths = sorted(
        tuple(part for part in root.strip("/").split("/") if part) for root in roots
    )
    for one, other in itertools.pairwise(paths):
        # Sorted, so that what is below another comes right behind it.
        if other[: len(one)] == one:
            raise PolicyError(
                f"the bundle's roots {'/'.join(one)!r} and {'/'.join(other)!r} overlap"
            )
    return tuple(paths)


def _modules(document: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    resolvers = document.get("wasm", [])
    if not isinstance(resolvers, list):
        raise _wrong("wasm", "a list")
    for resolver in resolvers:
        entry = resolver if isinstance(resolver, dict) else {}
        entrypoint, module = entry.get("entrypoint"), entry.get("module")
        if not isinstance(entrypoint, str) or not isinstance(module, str):
            raise _wrong("wasm", "a list of entrypoints with their modules")
        yield entrypoint, module.removeprefix("/")


def _outside(data: Mapping[str, Any], path: Path, manifest: Manifest) -> Iterable[Path]:
    for key, value in data.items():
        place = (*path, key)
        if manifest.owns(place):
            continue
        if isinstance(value, dict) and any(
            root[: len(place)] == place for root in manifest.roots
        ):
            yield from _outside(value, place, manifest)
        else:
            yield place


def _wrong(what: str, expected: str) -> PolicyError:
    return PolicyError(f"the bundle's {MANIFEST}: {what} is not {expected}")
