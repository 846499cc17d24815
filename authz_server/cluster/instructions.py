"""What a person or a script has to run for steps that have no API of ours."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import Any, Final

from authz_server.cluster.records import ENTRIES, Record, RecordStep

_FLAGS: Final = {
    "x509_svid_ttl": "-x509SVIDTTL",
    "jwt_svid_ttl": "-jwtSVIDTTL",
    "hint": "-hint",
    "entryExpiry": "-entryExpiry",
}
_LISTS: Final = {"federates_with": "-federatesWith", "dns_names": "-dns"}
_SWITCHES: Final = {
    "admin": "-admin",
    "downstream": "-downstream",
    "store_svid": "-storeSVID",
}

_ZITI_PATHS: Final = {
    "certificateAuthorities": "cas",
    "configs": "configs",
    "configTypes": "config-types",
    "edgeRouterPolicies": "edge-router-policies",
    "identities": "identities",
    "servicePolicies": "service-policies",
    "serviceEdgeRouterPolicies": "service-edge-router-policies",
    "services": "services",
}
"""Paths of the management API by the names that ``ziti ops import`` has for them."""

_ZITI_API: Final = "/edge/management/v1"


def instructions(step: RecordStep) -> tuple[str, ...]:
    """Return the commands, or requests, that do `step`; none where there are none."""
    if step.key.section == ENTRIES:
        return tuple(_spire(step))
    path = _ZITI_PATHS.get(step.key.section)
    if path is not None and step.old is not None:
        return tuple(_ziti(step, path))
    return ()


def _spire(step: RecordStep) -> Iterator[str]:
    if step.old is None:
        yield _command("create", _entry_flags(step.new or {}))
        return
    entry_id = step.old.get("entry_id")
    if not entry_id:
        yield _command("show", _key_flags(step.old)) + "  # tells the ID"
        entry_id = "ID"
    flags = [] if step.new is None else _entry_flags({**step.new, "entry_id": ""})
    action = "delete" if step.new is None else "update"
    yield _command(action, ["-entryID", str(entry_id), *flags])


def _command(action: str, flags: list[str]) -> str:
    return shlex.join(["spire-server", "entry", action, *flags])


def _key_flags(entry: Record) -> list[str]:
    flags = ["-spiffeID", str(entry["spiffe_id"]), "-parentID", str(entry["parent_id"])]
    for item in entry["selectors"]:
        flags += ["-selector", f"{item['type']}:{item['value']}"]
    return flags


def _entry_flags(entry: Record) -> list[str]:
    flags = ["-entryID", str(entry["entry_id"])] if entry.get("entry_id") else []
    flags += _key_flags(entry)
    for name, flag in _FLAGS.items():
        if entry.get(name):
            flags += [flag, str(entry[name])]
    for name, flag in _LISTS.items():
        for value in entry.get(name) or ():
            flags += [flag, str(value)]
    return flags + [flag for name, flag in _SWITCHES.items() if entry.get(name)]


def _ziti(step: RecordStep, path: str) -> Iterator[str]:
    # The import neither changes nor deletes what is there, and REST goes by IDs alone.
    name = _quoted(step.key.name)
    yield f"GET {_ZITI_API}/{path}?filter=name={name}  # tells the ID"
    if step.new is None:
        yield f"DELETE {_ZITI_API}/{path}/ID"
    else:
        yield f"PUT {_ZITI_API}/{path}/ID  # the new record, IDs in place of @names"


def _quoted(value: Any) -> str:  # noqa: ANN401 - a name
    text = str(value).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'
