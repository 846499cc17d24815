"""The controller: watches, reconciles what changed, and everything now and then."""

from __future__ import annotations

import datetime as dt
import logging
import math
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Final

from authz_server.cluster.client import Cluster
from authz_server.cluster.kinds import Key
from authz_server.controller.election import Election
from authz_server.controller.pods import Pod
from authz_server.controller.reconciling import Reconciler, StoppedError
from authz_server.controller.status import (
    Outcome,
    State,
    event,
    has_changed,
    new_status,
)
from authz_server.controller.watching import Copy
from authz_server.emit.crd import GROUP, KIND, VERSION
from authz_server.emit.manifest import Object
from authz_server.errors import SetupError
from authz_server.site.model import SERVER

_log = logging.getLogger(__name__)

LEASE_NAME: Final = f"{SERVER}-controller"
API_VERSION: Final = f"{GROUP}/{VERSION}"

RETRY_S: Final = 15.0
"""When to try again what the API server refused, which may be for a while only."""

_SETTLE_S: Final = 0.5
"""Changes come in swarms: a rollout changes every pod."""

Name = tuple[str, str]


@dataclass(frozen=True, slots=True)
class _Kept:
    """An AccessPolicy as it was last seen: another one only if somebody changed it.

    Attributes:
        item: not compared, since our own status changes it.
    """

    uid: str
    generation: int
    item: Object = field(compare=False)

    @classmethod
    def of(cls, item: Object) -> _Kept:
        meta = item["metadata"]
        return cls(meta["uid"], meta["generation"], item)


class Controller:
    """Reconciles the AccessPolicies of one namespace.

    Args:
        namespace: theirs, and that of the Lease.
        identity: of this process alone.
        make_reconciler: is given what says whether this controller may act.
        resync_s: how often everything is looked at again, changed or not.
    """

    def __init__(
        self,
        cluster: Cluster,
        namespace: str,
        identity: str,
        make_reconciler: Callable[[Callable[[], bool]], Reconciler],
        resync_s: float,
    ) -> None:
        self._cluster = cluster
        self._resync_s = resync_s
        self._stop = threading.Event()
        self._wake = threading.Event()
        self._due: set[Name] = set()
        self._is_all_due = threading.Event()
        self._is_told = threading.Lock()
        self._outcomes: dict[Name, Outcome] = {}
        self._retry_s = math.inf
        self._election = Election(
            cluster, namespace, LEASE_NAME, identity, self._everything_is_due
        )
        self._reconciler = make_reconciler(lambda: self._may_act)
        self._policies: Copy[_Kept] = Copy(
            cluster, (API_VERSION, KIND), namespace, _Kept.of, self._is_due
        )
        self._pods: Copy[Pod] = Copy(
            cluster, ("v1", "Pod"), "", Pod.of, lambda *_: self._wake.set()
        )

    def run(self) -> None:
        """Watch and reconcile until `stop` is called.

        Raises:
            SetupError: if a thread has died, without which nothing new would be seen.
        """
        ended = threading.Event()
        election = threading.Thread(target=self._run, args=(self._election.run, ended))
        # A watch ends when the server ends it, which may be half a minute from now.
        watches = [
            threading.Thread(target=self._run, args=(copy.run, ended), daemon=True)
            for copy in (self._policies, self._pods)
        ]
        threads = (election, *watches)
        for thread in threads:
            thread.start()
        try:
            self._loop(threads)
        finally:
            # Not before nothing is done any more: the lease is given back at once.
            ended.set()
            election.join()

    def stop(self) -> None:
        """Let `run` end after the step that it is at."""
        self._stop.set()
        self._wake.set()

    @property
    def _may_act(self) -> bool:
        return self._election.is_leading and not self._stop.is_set()

    def _run(
        self, target: Callable[[threading.Event], None], ended: threading.Event
    ) -> None:
        try:
            target(ended)
        finally:
            self._wake.set()  # for `_loop` to see

    def _loop(self, threads: Iterable[threading.Thread]) -> None:
        all_due_s = time.monotonic()
        while not self._stop.is_set():
            due_s = min(all_due_s, self._retry_s)
            self._wake.wait(max(0.0, due_s - time.monotonic()))
            self._stop.wait(_SETTLE_S)
            if not all(thread.is_alive() for thread in threads):
                raise SetupError("a thread died of the error above; start again")
            is_ready = self._policies.is_complete.is_set() and (
                self._pods.is_complete.is_set()
            )
            if not (is_ready and self._may_act):
                continue  # What woke it is still to be looked at.
            self._wake.clear()
            if time.monotonic() >= all_due_s:
                self._everything_is_due()
                all_due_s = time.monotonic() + self._resync_s
            if time.monotonic() >= self._retry_s:
                self._refused_are_due()
            self._look()

    def _is_due(self, namespace: str, name: str) -> None:
        with self._is_told:
            self._due.add((namespace, name))
        self._wake.set()

    def _everything_is_due(self) -> None:
        self._is_all_due.set()
        self._wake.set()

    def _refused_are_due(self) -> None:
        self._retry_s = math.inf
        for name, outcome in self._outcomes.items():
            if outcome.state is State.REFUSED:
                self._is_due(*name)

    def _look(self) -> None:
        """Reconcile what is due; for the rest, only look at its pods again."""
        # What is due before what there is: a change in between is due again.
        with self._is_told:
            due, self._due = self._due, set()
        is_all_due = self._is_all_due.is_set()
        self._is_all_due.clear()
        policies, pods = self._policies.snapshot(), self._pods.snapshot()
        if is_all_due:
            due |= policies.keys()
        for name in sorted(due - policies.keys()):
            self._outcomes.pop(name, None)
            _log.warning("AccessPolicy %s is gone; what it gave stays", "/".join(name))
        for name, kept in sorted(policies.items()):
            before = self._outcomes.get(name)
            try:
                if name in due or before is None:
                    outcome = self._reconciler.reconcile(kept.item, pods.values())
                else:
                    found = self._reconciler.findings(kept.item, pods.values())
                    outcome = replace(before, findings=found, changed=0)
            except StoppedError as error:
                _log.warning("stopped: %s", error)
                self._everything_is_due()  # should it lead again
                return
            if name in due or before is None or before.findings != outcome.findings:
                self._tell(name, kept.item, outcome)
            if outcome.state is State.REFUSED and name in due:
                self._retry_soon()

    def _retry_soon(self) -> None:
        self._retry_s = min(self._retry_s, time.monotonic() + RETRY_S)

    def _tell(self, name: Name, item: Object, outcome: Outcome) -> None:
        """Write status and event, if there is anything new to say."""
        before = self._outcomes.get(name)
        self._outcomes[name] = outcome
        at = dt.datetime.now(dt.UTC)
        is_news = before is None or (
            (before.state, before.message, before.findings)
            != (outcome.state, outcome.message, outcome.findings)
        )
        if is_news or outcome.changed:
            _log.info(
                "AccessPolicy %s: %s: %s (%d changed)",
                "/".join(name),
                outcome.state.reason,
                outcome.message,
                outcome.changed,
            )
        try:
            current = self._cluster.find(Key.of(item))
            # Of a newer one there is nothing to say yet: it is due by itself.
            if current is None or _Kept.of(current) != _Kept.of(item):
                return
            status = new_status(current, outcome, at)
            if has_changed(current, status):
                self._cluster.apply_status(current, status)
            if is_news or outcome.changed:
                self._cluster.create(event(current, outcome, at))
        except SetupError as error:
            _log.warning("the status of %s can't be written: %s", "/".join(name), error)
            # Not known to anybody yet, so it is looked at, and told, again.
            del self._outcomes[name]
            self._retry_soon()
