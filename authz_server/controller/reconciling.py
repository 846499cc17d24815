"""Makes the cluster as one AccessPolicy says."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from authz_server.cluster.applying import apply_plan, conflict_text
from authz_server.cluster.client import Cluster
from authz_server.cluster.kinds import Key
from authz_server.cluster.planning import EVERYWHERE, Scope, make_plan
from authz_server.cluster.steps import Step
from authz_server.controller.pods import Pod, findings
from authz_server.controller.status import Outcome, State
from authz_server.emit.crd import GROUP, KIND, VERSION
from authz_server.emit.kinds import TARGET_KINDS, Place
from authz_server.emit.manifest import Object
from authz_server.emit.targets import Source, emit
from authz_server.emit.yaml_text import document
from authz_server.errors import PolicyError, SetupError
from authz_server.policy.document import PolicyReader
from authz_server.policy.model import AccessPolicy
from authz_server.site.model import Site


class StoppedError(SetupError):
    """This controller may not act any more: another does, or it is to end."""


@dataclass(frozen=True, slots=True)
class Reconciler:
    """Reconciles AccessPolicies of one site.

    Attributes:
        read_site: returns the site, for a policy that may name other upstreams.
        targets: which emitted objects the cluster is to hold.
        may_act: whether it may still change anything.
    """

    cluster: Cluster
    read_site: Callable[[AccessPolicy], Site]
    targets: Sequence[str]
    may_act: Callable[[], bool]

    def reconcile(self, item: Object, pods: Iterable[Pod]) -> Outcome:
        """Apply what `item`, an AccessPolicy, gives, and delete what it gave before.

        Nothing is changed unless all of it is valid, and everything that it gives is
        accepted by the API server in a dry run.

        Raises:
            StoppedError: if it may not act any more; between two steps, of which the
                next `reconcile` does what is left.
        """
        try:
            policy, objects = self._emitted(item)
        except PolicyError as error:
            return Outcome(State.INVALID, str(error))
        amiss = findings(policy, pods)
        wanted = [Key.of(one) for one in objects]
        try:
            plan = make_plan(
                self.cluster,
                objects,
                wanted,
                progress=_ignore,
                scope=_scope(self.targets, wanted),
            )
            if plan.conflicts:
                return Outcome(
                    State.CONFLICT, conflict_text(plan), len(objects), findings=amiss
                )
            done: list[Step] = []
            self._check_may_act()
            apply_plan(
                self.cluster,
                plan,
                prune=True,
                force=False,
                dry_run=False,
                done=lambda step: self._note(done, step),
            )
        except StoppedError:
            raise
        except SetupError as error:
            return Outcome(State.REFUSED, str(error), len(objects), findings=amiss)
        return Outcome(
            State.APPLIED,
            f"{len(objects)} objects are as the policy says",
            len(objects),
            changed=len(done),
            findings=amiss,
        )

    def findings(self, item: Object, pods: Iterable[Pod]) -> tuple[str, ...]:
        """Return what is amiss with the pods of `item`, which changes nothing."""
        try:
            return findings(_policy(item), pods)
        except PolicyError:
            return ()  # Its outcome says so.

    def _note(self, done: list[Step], step: Step) -> None:
        done.append(step)
        self._check_may_act()

    def _check_may_act(self) -> None:
        if not self.may_act():
            raise StoppedError("another controller leads, or this one is to end")

    def _emitted(self, item: Object) -> tuple[AccessPolicy, list[Object]]:
        policy = _policy(item)
        parts = {f"{policy.name}.yaml": document(_spelled(item))}
        source = Source(policy, self.read_site(policy), parts)
        files = emit(source, self.targets)
        return policy, [one for file in files.values() for one in file.objects]


def _scope(targets: Iterable[str], wanted: Iterable[Key]) -> Scope:
    """Return where to look for what is left over: where the controller may look."""
    kinds = [kind for target in targets for kind in TARGET_KINDS[target]]
    beside = {kind.kind for kind in kinds if kind.place is Place.BESIDE_SERVER}
    servers = {key.namespace for key in wanted if key.kind in beside}
    return {
        (kind.api_version, kind.kind): (
            sorted(servers) if kind.place is Place.BESIDE_SERVER else EVERYWHERE
        )
        for kind in kinds
    }


def _policy(item: Object) -> AccessPolicy:
    name = item["metadata"]["name"]
    return PolicyReader().read_json([(f"{KIND} {name}", _spelled(item))])


def _spelled(item: Object) -> Object:
    """Return `item` as a policy file has it, without what the API server adds."""
    return {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": KIND,
        "metadata": {"name": item["metadata"]["name"]},
        "spec": item["spec"],
    }


def _ignore(*_: Any) -> None:  # noqa: ANN401 - progress that nobody watches
    """Nobody watches."""
