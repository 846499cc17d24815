"""Who asks over a unix socket, by the kernel's word (SO_PEERCRED, unix(7))."""

from __future__ import annotations

import logging
import socket
import struct
import time
from dataclasses import dataclass
from typing import Final, NamedTuple

_log: Final = logging.getLogger("authz_server.transport")

_UCRED: Final = struct.Struct("iII")  # struct ucred: pid, uid, gid
_LOG_INTERVAL_S: Final = 1.0


class Peer(NamedTuple):
    """The process at the other end, as it was when it connected."""

    pid: int
    uid: int
    gid: int


@dataclass(frozen=True, slots=True)
class PeerList:
    """The users and groups whose processes may ask.

    Attributes:
        uids: effective user IDs.
        gids: effective primary group IDs. The kernel tells no supplementary groups, so
            a process that has a listed group only among those is not admitted by it.
    """

    uids: frozenset[int] = frozenset()
    gids: frozenset[int] = frozenset()

    def admits(self, peer: Peer) -> bool:
        """Return whether `peer` may ask, by its user or by its group.

        Not checked: the process behind the IDs. It may pass its connection on, and a
        user or group outside of our user namespace looks like the overflow ID (65534).
        """
        return peer.uid in self.uids or peer.gid in self.gids


def peer_of(connection: socket.socket) -> Peer:
    """Return who connected to a unix socket."""
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    return Peer(*_UCRED.unpack(raw))


class Refusals:
    """Logs refused peers, one a second at most."""

    def __init__(self) -> None:
        self._next_s = 0.0
        self._untold = 0

    def add(self, peer: Peer, count: int = 1) -> None:
        """Log `peer`, the last of `count`, or count them for the next line."""
        now_s = time.monotonic()
        self._untold += count - 1
        if now_s < self._next_s:
            self._untold += 1
            return
        more = f" (and {self._untold} before it)" if self._untold else ""
        _log.warning(
            "refused a process that is no listed peer: uid %d, gid %d, pid %d%s; "
            "if it is a proxy of yours, add it to listen.peer_uids or listen.peer_gids",
            peer.uid,
            peer.gid,
            peer.pid,
            more,
        )
        self._next_s = now_s + _LOG_INTERVAL_S
        self._untold = 0
