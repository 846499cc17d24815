"""The policy in force, out of a file or the folder of its parts, and watched there."""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING, Final

from authz_server.errors import PolicyError, Reason
from authz_server.policy.building import shipped_wasm
from authz_server.policy.document import PolicyReader, policy_files
from authz_server.policy.in_force import (
    AnyPolicy,
    InForce,
    LoadedPolicy,
    Material,
)
from authz_server.watch import Fingerprint, Watch, fingerprint

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from authz_server.policy.model import AccessPolicy

_ATTEMPTS: Final = 3


class PolicyStore:
    """The policy in force, read from a file.

    Nothing is loaded until `reload` is called for the first time.

    Args:
        policy_file: the access policy, or the folder of its parts.
        wasm: the Rego that evaluates it; None for the shipped one.
        timeout_s, instances, on_change: as of `InForce`.
    """

    def __init__(
        self,
        policy_file: Path,
        wasm: bytes | None = None,
        *,
        timeout_s: float,
        instances: int,
        on_change: Callable[[AnyPolicy], None] | None = None,
    ) -> None:
        self._file = policy_file
        self._wasm = shipped_wasm() if wasm is None else wasm
        self._in_force = InForce(
            timeout_s=timeout_s, instances=instances, on_change=on_change
        )
        self._reader = PolicyReader()
        self._reloading = threading.Lock()
        self._seen: list[Fingerprint | None] | None = None
        self._changing: list[Fingerprint | None] | None = None
        self._watch = Watch(self._look, "policy-watch")

    @property
    def current(self) -> LoadedPolicy | None:
        """The policy in force; as of `InForce`."""
        current = self._in_force.current
        return current if isinstance(current, LoadedPolicy) else None

    @property
    def missing(self) -> Reason:
        """Why `current` is None, when it is."""
        return Reason.POLICY_UNAVAILABLE

    @property
    def error(self) -> str | None:
        """Why the policy in force may not be the newest; None if it is."""
        if self._watch.has_died:
            return "the policy file is no longer watched; restart the server"
        return self._in_force.error

    def rehearse_with(
        self, rehearse: Callable[[LoadedPolicy], Callable[[], None]]
    ) -> None:
        """Let `rehearse` get to know each new policy; as of `InForce`."""
        self._in_force.rehearse_with(rehearse)

    def reload(self) -> bool:
        """Read the file again; return whether what it says is now in force."""
        with self._reloading:
            return self._reload()

    def start_watching(self, interval_s: float) -> None:
        """Reload from now on whenever the file has changed, looking every interval."""
        self._watch.start(interval_s)

    def stop(self) -> None:
        """End the watching and free what replaced policies held; the current stays."""
        self._watch.stop()
        self._in_force.stop()

    def close(self) -> None:
        """Stop, and free the current policy too: every later decision is an error."""
        self._watch.stop()
        self._in_force.close()

    def _reload(self) -> bool:
        try:
            self._in_force.put(Material(self._read(), self._wasm))
        except PolicyError as error:
            self._in_force.complain(self._file, str(error))
            return False
        return True

    def _look(self) -> None:
        with self._reloading:
            found = self._fingerprint()
            # Not before it has stayed the same for a look: the beginning of a file that
            # is still being written can be a policy too, one without its denials.
            if found not in (self._seen, self._changing):
                self._changing = found
            elif found != self._seen:
                self._reload()

    def _read(self) -> AccessPolicy:
        """Return what the file says; of parts, what they say at the same time."""
        for _ in range(_ATTEMPTS):
            # Before reading: a change while it is read is then seen as one more change.
            self._seen = self._fingerprint()
            policy = self._reader.load(self._file)
            if self._fingerprint() == self._seen:
                return policy
        raise PolicyError(f"{self._file} keeps changing while it is read")

    def _fingerprint(self) -> list[Fingerprint | None]:
        with contextlib.suppress(OSError):
            return [fingerprint(file) for file in policy_files(self._file)]
        return []
