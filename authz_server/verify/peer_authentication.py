"""PeerAuthentication as Istio documents it: whether plain text gets in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from authz_server.verify.authorization import selected
from authz_server.verify.fields import Fields, UnreadableError
from authz_server.verify.objects import ClusterObject


@dataclass(frozen=True, slots=True, eq=False)
class PeerAuthentication:
    """One object: how peers prove who they are.

    Attributes:
        mode: empty to leave it to the next wider object.
        port_modes: of single ports.
    """

    origin: ClusterObject
    labels: Mapping[str, str]
    mode: str
    port_modes: Mapping[int, str]


def read_peer_authentication(item: ClusterObject) -> PeerAuthentication:
    """Return what `item` says.

    Raises:
        UnreadableError: if it holds what nothing is known about.
    """
    spec = Fields(item.spec, "spec")
    spec.only("selector", "mtls", "portLevelMtls")
    labels = selected(spec)
    ports = spec.child("portLevelMtls")
    if ports is not None and not labels:
        raise UnreadableError("Istio ignores portLevelMtls without a selector")
    modes = {}
    for port, value in ports.items() if ports is not None else ():
        # YAML may read the key as a number; JSON has none but strings.
        text = str(port)
        if not text.isdecimal():
            raise UnreadableError(f"spec.portLevelMtls has {port!r}")
        modes[int(text)] = _mode(Fields(value, f"spec.portLevelMtls.{text}"))
    return PeerAuthentication(
        item, labels, _mode(spec.child("mtls") or Fields({}, "spec.mtls")), modes
    )


def _mode(fields: Fields) -> str:
    fields.only("mode")
    mode = fields.text("mode", "UNSET")
    if mode not in {"UNSET", "DISABLE", "PERMISSIVE", "STRICT"}:
        raise UnreadableError(f"the mode {mode!r} is not known")
    return "" if mode == "UNSET" else mode


def peer_mode(
    found: Iterable[PeerAuthentication],
    namespace: str,
    labels: Mapping[str, str],
    port: int,
    root: str,
) -> tuple[str, str]:
    """Return the mode of a pod's port, and what says so.

    The narrowest object that says anything counts: of the port, the pod, its
    namespace, the mesh. Not checked: which of two equally narrow ones is the older.
    """
    wide = "Istio's default"
    ranked: list[tuple[int, str, str]] = [(0, "PERMISSIVE", wide)]
    for item in found:
        is_here = item.origin.namespace == namespace
        if not is_here and (item.origin.namespace != root or item.labels):
            continue
        if not all(labels.get(key) == value for key, value in item.labels.items()):
            continue
        rank = 1 if not is_here else 3 if item.labels else 2
        if item.mode:
            ranked.append((rank, item.mode, str(item.origin)))
        if item.port_modes.get(port):
            ranked.append((rank + 1, item.port_modes[port], str(item.origin)))
    # Of equals the most open one, since the older is not known from a file.
    order = ("DISABLE", "PERMISSIVE", "STRICT")
    top = max(rank for rank, _, _ in ranked)
    return min(
        ((mode, origin) for rank, mode, origin in ranked if rank == top),
        key=lambda pair: (order.index(pair[0]), pair[1]),
    )
