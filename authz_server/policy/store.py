"""Holds the policy in force, and replaces it when its file changes.

A new policy comes into force whole or not at all: it is read, checked, loaded and
tried before it replaces the old one. When that fails the old one stays, and `error`
says why.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from authz_server.errors import PolicyError
from authz_server.policy.building import shipped_wasm
from authz_server.policy.compiler import compile_policy
from authz_server.policy.document import load_policy, no_collection, policy_files
from authz_server.policy.engine import Engine
from authz_server.policy.time_limit import Schedule
from authz_server.policy.upstream_index import index_upstreams
from authz_server.watch import Fingerprint, Watch, fingerprint

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from authz_server.operations.upstreams import UpstreamIndex
    from authz_server.policy.model import AccessPolicy

_log: Final = logging.getLogger("authz_server.policy")

_GRACE_S: Final = 1.0
_ATTEMPTS: Final = 3


@dataclass(frozen=True, slots=True)
class LoadedPolicy:
    """A policy in force.

    Attributes:
        upstreams: how requests name the policy's upstreams.
        schedule: which of its time limits hold.
        revision: changes whenever any decision could.
    """

    policy: AccessPolicy
    upstreams: UpstreamIndex
    schedule: Schedule
    engine: Engine
    revision: str


class PolicyStore:
    """The policy in force, read from a file.

    Nothing is loaded until `reload` is called for the first time.

    Args:
        policy_file: the access policy, or the folder of its parts.
        wasm: the Rego that evaluates it; None for the shipped one.
        timeout_s: of one evaluation.
        instances: evaluations that can run at the same time.
        on_change: called after each replacement, in the thread that reloaded; must not
            raise. What was decided by the old policy and not used up by then must be
            dropped there. Whoever keeps decisions has to note the revision *before*
            asking and compare it when storing: an evaluation may straddle the change.
    """

    def __init__(
        self,
        policy_file: Path,
        wasm: bytes | None = None,
        *,
        timeout_s: float,
        instances: int,
        on_change: Callable[[LoadedPolicy], None] | None = None,
    ) -> None:
        self._file = policy_file
        self._wasm = shipped_wasm() if wasm is None else wasm
        self._rego_digest = hashlib.sha256(self._wasm).digest()
        self._timeout_s = timeout_s
        self._instances = instances
        self._on_change = on_change
        self._rehearse: Callable[[LoadedPolicy], Callable[[], None]] | None = None
        self._reloading = threading.Lock()
        self._current: LoadedPolicy | None = None
        self._error: str | None = None
        self._seen: list[Fingerprint | None] | None = None
        self._changing: list[Fingerprint | None] | None = None
        self._retired: dict[Engine, threading.Timer] = {}
        self._watch = Watch(self._look, "policy-watch")

    @property
    def current(self) -> LoadedPolicy | None:
        """The policy in force; None before the first one was loaded.

        Take it once a request, and use its engine without delay.
        """
        return self._current

    @property
    def error(self) -> str | None:
        """Why the policy in force may not be the newest; None if it is."""
        if self._watch.has_died:
            return "the policy file is no longer watched; restart the server"
        return self._error

    def rehearse_with(
        self, rehearse: Callable[[LoadedPolicy], Callable[[], None]]
    ) -> None:
        """Let `rehearse` get to know each policy that is about to come into force.

        What it returns is called as soon as the policy is.
        """
        self._rehearse = rehearse

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
        with self._reloading:
            for engine, timer in list(self._retired.items()):
                timer.cancel()
                engine.close()
            self._retired.clear()

    def close(self) -> None:
        """Stop, and free the current policy too: every later decision is an error."""
        self.stop()
        with self._reloading:
            if self._current is not None:
                self._current.engine.close()

    def _reload(self) -> bool:
        with no_collection():
            return self._replace()

    def _replace(self) -> bool:
        try:
            policy = self._read()
            compiled = compile_policy(policy, self._rego_digest)
            old = self._current
            if (
                old is not None
                and old.policy == policy
                and old.revision == compiled.revision
            ):
                self._error = None
                return True
            engine = Engine(
                self._wasm,
                compiled.data,
                timeout_s=self._timeout_s,
                instances=self._instances,
            )
        except PolicyError as error:
            self._error = str(error)
            _log.error(
                "policy %s was not loaded, %s:\n%s",
                self._file,
                "the old one stays" if self._current else "all requests are denied",
                error,
            )
            return False
        loaded = LoadedPolicy(
            policy=policy,
            upstreams=index_upstreams(policy),
            schedule=Schedule(policy.time_limits),
            engine=engine,
            revision=compiled.revision,
        )
        remember = self._rehearse(loaded) if self._rehearse and old else None
        # First in force, then told: told first, a request could still ask the old
        # policy and keep its answer past the drop of old answers.
        self._current = loaded
        self._error = None
        if remember is not None:
            remember()
        _log.info("policy %r revision %s is in force", policy.name, loaded.revision)
        if self._on_change is not None:
            self._on_change(loaded)
        if old is not None:
            self._retire(old.engine)
        return True

    def _retire(self, engine: Engine) -> None:
        """Close `engine` once nobody can be about to use it.

        Closing waits for no one and spares evaluations that run. A thread that took
        `current` but has not begun yet would get an error, hence the grace.
        """
        timer = threading.Timer(_GRACE_S + 2 * self._timeout_s, self._free, [engine])
        timer.daemon = True
        self._retired[engine] = timer
        timer.start()

    def _free(self, engine: Engine) -> None:
        engine.close()
        with self._reloading:
            self._retired.pop(engine, None)

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
            policy = load_policy(self._file)
            if self._fingerprint() == self._seen:
                return policy
        raise PolicyError(f"{self._file} keeps changing while it is read")

    def _fingerprint(self) -> list[Fingerprint | None]:
        with contextlib.suppress(OSError):
            return [fingerprint(file) for file in policy_files(self._file)]
        return []
