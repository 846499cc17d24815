"""Entries as ``spire-server entry create -data`` reads them, and strictly back.

SPIRE drops a key that it does not know without a word, so a misspelt lifetime or
trust domain is one that never was. Here it is an error.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, Final, cast

from authz_server.emit.spire_entries import Entry
from authz_server.errors import PolicyError, SpiffeIdError
from authz_server.identity.spiffe_id import SCHEME, SpiffeId, TrustDomain

_KEYS: Final[Mapping[str, type]] = {
    "entry_id": str,
    "parent_id": str,
    "spiffe_id": str,
    "selectors": list,
    "x509_svid_ttl": int,
    "jwt_svid_ttl": int,
    "federates_with": list,
    "dns_names": list,
}
"""What is written. SPIRE has more keys; in none of its entries here are they used."""

_REQUIRED: Final = ("entry_id", "parent_id", "spiffe_id", "selectors")


def entries_json(entries: Iterable[Entry]) -> str:
    """Return `entries` as the text of a file for ``-data``."""
    listed = [_written(entry) for entry in entries]
    return json.dumps({"entries": listed}, indent=2) + "\n"


def _written(entry: Entry) -> dict[str, Any]:
    return {
        "entry_id": entry.name,
        "parent_id": str(entry.parent_id),
        "spiffe_id": str(entry.spiffe_id),
        "selectors": [
            # SPIRE splits at the first colon as well.
            dict(zip(("type", "value"), selector.split(":", 1), strict=True))
            for selector in entry.selectors
        ],
        "x509_svid_ttl": entry.x509_ttl_s,
        "jwt_svid_ttl": entry.jwt_ttl_s,
        "federates_with": [f"{SCHEME}{name}" for name in sorted(entry.federates_with)],
        "dns_names": list(entry.dns_names),
    }


def parse_entries(text: str, source: str) -> tuple[Entry, ...]:
    """Return the entries that `text` spells; `source` names it in errors.

    Raises:
        PolicyError: if it is anything but a file that `entries_json` could have
            written, be it by a key that SPIRE would ignore.
    """
    try:
        document = json.loads(text)
    except ValueError as exc:
        raise PolicyError(f"{source} is no JSON: {exc}") from exc
    listed = _typed(document, {"entries": list}, ("entries",), source)["entries"]
    return tuple(
        _read(item, f"{source}: entry {number}")
        for number, item in enumerate(cast("list[object]", listed), 1)
    )


def _read(item: object, where: str) -> Entry:
    fields = _typed(item, _KEYS, _REQUIRED, where)
    form = {"type": str, "value": str}
    selectors = (
        _typed(one, form, tuple(form), f"{where}, selectors")
        for one in fields["selectors"]
    )
    try:
        return Entry(
            fields["entry_id"],
            SpiffeId.parse(fields["spiffe_id"]),
            SpiffeId.parse(fields["parent_id"]),
            tuple(sorted(f"{one['type']}:{one['value']}" for one in selectors)),
            fields.get("x509_svid_ttl", 0),
            fields.get("jwt_svid_ttl", 0),
            frozenset(map(_trust_domain, fields.get("federates_with", ()))),
            tuple(map(str, fields.get("dns_names", ()))),
        )
    except (SpiffeIdError, PolicyError) as exc:
        raise PolicyError(f"{where}: {exc}") from exc


def _trust_domain(text: object) -> str:
    if not isinstance(text, str) or not text.startswith(SCHEME):
        raise SpiffeIdError(
            f"{text!r} in federates_with is no trust domain; write e.g. "
            f"{SCHEME}supplier.example"
        )
    return TrustDomain(text.removeprefix(SCHEME)).name


def _typed(
    value: object, keys: Mapping[str, type], required: Iterable[str], where: str
) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise PolicyError(f"{where} is no object; write {{…}}")
    for key, item in value.items():
        if key not in keys:
            raise PolicyError(
                f"{where}: SPIRE would ignore {key!r}; take it out, or write one of "
                f"{', '.join(sorted(keys))}"
            )
        if type(item) is not keys[key]:  # a bool is an int, but no lifetime
            raise PolicyError(f"{where}: {key} is no {_TYPES[keys[key]]}; correct it")
    for key in required:
        if key not in value:
            raise PolicyError(f"{where} has no {key!r}; add it")
    return value


_TYPES: Final = {str: "string", int: "whole number", list: "list"}
