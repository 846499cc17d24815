"""A bundle: data, Wasm and what they are called; whole, or as a change to one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from authz_server.errors import PolicyError
from authz_server.policy.bundles.archive import read_archive, write_archive
from authz_server.policy.bundles.manifest import MANIFEST, Manifest
from authz_server.policy.bundles.patch import PATCH, Change, apply_patch, parse_patch
from authz_server.policy.bundles.signature import Signers
from authz_server.strict_json import parse_json_object

MAX_UNPACKED: Final = 16
"""Times of what a bundle may have packed, that it may have unpacked."""

_DATA: Final = "data.json"
_OTHER_DATA: Final = frozenset({"data.yaml", "data.yml"})
_OTHER_MANIFEST: Final = ".manifest.pb"
_WASM: Final = ".wasm"


@dataclass(frozen=True, slots=True)
class Bundle:
    """What a bundle holds that matters here.

    Rego and plans are not kept: this server runs Wasm.

    Attributes:
        data: the data document.
        modules: Wasm by its path in the bundle.
        patch: what a delta bundle changes; None for a whole bundle.
    """

    manifest: Manifest = field(default_factory=Manifest)
    data: Mapping[str, Any] = field(default_factory=dict)
    modules: Mapping[str, bytes] = field(default_factory=dict)
    patch: tuple[Change, ...] | None = None

    def __post_init__(self) -> None:
        self.manifest.check_data(self.data)
        for entrypoint, path in self.manifest.modules.items():
            if path not in self.modules:
                raise PolicyError(
                    f"the bundle has no {path!r}, where its Wasm is to be"
                )
            if not self.manifest.owns(tuple(entrypoint.split("/"))):
                raise PolicyError(
                    f"the bundle's entrypoint {entrypoint!r} is outside of its roots"
                )
        for change in self.patch or ():
            if not self.manifest.owns(change.path):
                raise PolicyError(
                    f"the bundle changes /{'/'.join(change.path)}, outside of its roots"
                )
        if self.patch is not None and (self.data or self.modules):
            raise PolicyError(f"the bundle has more than {PATCH}, which is a delta")

    @property
    def wasm(self) -> bytes | None:
        """Its one Wasm module; None if it has none.

        Raises:
            PolicyError: if it has several.
        """
        if len(self.modules) > 1:
            raise PolicyError(
                "the bundle has several Wasm modules: "
                + ", ".join(sorted(self.modules))
            )
        return next(iter(self.modules.values()), None)

    def changed_by(self, delta: Bundle) -> Bundle:
        """Return this bundle after a delta bundle.

        Raises:
            PolicyError: if `delta` is none, or does not fit.
        """
        if delta.patch is None:
            raise PolicyError("it is no delta bundle")
        manifest = Manifest(
            revision=delta.manifest.revision,
            roots=self.manifest.roots,
            modules=self.manifest.modules,
            metadata=self.manifest.metadata,
        )
        return Bundle(manifest, apply_patch(self.data, delta.patch), self.modules)


def read_bundle(raw: bytes, max_bytes: int, signers: Signers | None) -> Bundle:
    """Return the bundle in `raw`.

    Args:
        raw: a gzipped tar archive.
        max_bytes: that it may have; unpacked it may have `MAX_UNPACKED` times as many.
        signers: who may have made it; None for anybody.

    Raises:
        PolicyError: if it is no bundle, or not signed by one of them.
    """
    if len(raw) > max_bytes:
        raise PolicyError(f"the bundle has more than {max_bytes} bytes")
    files = read_archive(raw, MAX_UNPACKED * max_bytes)
    if signers is not None:
        # Before anything in it is read.
        signers.verify(files)
    data: dict[str, Any] = {}
    modules: dict[str, bytes] = {}
    for path, content in files.items():
        folder, _, name = path.rpartition("/")
        if name == _DATA:
            _insert(data, folder, content)
        elif name.endswith(_WASM):
            modules[path] = content
        elif name in _OTHER_DATA or name == _OTHER_MANIFEST:
            raise PolicyError(
                f"the bundle's {path!r} is in a form that is not read; `opa build` "
                "makes JSON of it"
            )
    return Bundle(
        manifest=Manifest.parse(files[MANIFEST]) if MANIFEST in files else Manifest(),
        data=data,
        modules=modules,
        patch=parse_patch(files[PATCH]) if PATCH in files else None,
    )


def bundle_files(bundle: Bundle) -> dict[str, bytes]:
    """Return the files of a whole bundle by path, for `write_archive`."""
    return {
        MANIFEST: _json(bundle.manifest.as_json()),
        _DATA: _json(bundle.data),
        **bundle.modules,
    }


def write_bundle(bundle: Bundle) -> bytes:
    """Return the archive of a whole bundle, not signed; equal ones give equal bytes."""
    return write_archive(bundle_files(bundle))


def _json(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()


def _insert(data: dict[str, Any], folder: str, content: bytes) -> None:
    """Put what a data file says where its folder is in the data document."""
    try:
        document = parse_json_object(content)
    except ValueError as error:
        where = f"{folder}/{_DATA}".lstrip("/")
        raise PolicyError(f"the bundle's {where!r} is no JSON: {error}") from error
    for step in reversed(folder.split("/") if folder else ()):
        document = {step: document}
    _merge(data, document, ())


def _merge(
    data: dict[str, Any], other: Mapping[str, Any], path: tuple[str, ...]
) -> None:
    for key, value in other.items():
        if key not in data:
            data[key] = value
        elif isinstance(data[key], dict) and isinstance(value, dict):
            _merge(data[key], value, (*path, key))
        else:
            raise PolicyError(
                f"the bundle says twice what /{'/'.join((*path, key))} is"
            )
