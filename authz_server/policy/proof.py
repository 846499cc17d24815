"""Whether the invariants of a policy hold: for everybody, and everything.

Every kind of caller, user and time that the policy or an invariant can tell apart is
held against it (`vocabulary`), so an invariant that no counterexample breaks holds. It
is proved of the access policy; Rego of one's own may allow more, and is only tested.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain

from authz_server.operations.operation import Operation, Scope
from authz_server.policy.model import AccessPolicy, Deeds, Invariant
from authz_server.policy.standing import Allowances, Standings
from authz_server.policy.vocabulary import Asker, Vocabulary


@dataclass(frozen=True, slots=True)
class Counterexample:
    """A caller that may do what nobody may.

    Attributes:
        operations: what it may do, one of each set that the invariant names.
        text: a sentence for people.
    """

    invariant: Invariant
    asker: Asker
    operations: tuple[Operation, ...]
    text: str


def counterexamples(policy: AccessPolicy) -> tuple[Counterexample, ...]:
    """Return one for each invariant of `policy` that does not hold."""
    invariants = policy.invariants
    if not invariants:
        return ()
    deeds = list(chain.from_iterable(invariant.never for invariant in invariants))
    vocabulary = Vocabulary(
        (policy,),
        patterns=chain.from_iterable(invariant.by for invariant in invariants),
        models=chain.from_iterable(item.models for item in deeds),
        versions=chain.from_iterable(item.versions for item in deeds),
        grants=max(len(invariant.never) for invariant in invariants),
    )
    prover = _Prover(policy, vocabulary)
    return tuple(
        found
        for invariant in invariants
        if (found := prover.counterexample(invariant)) is not None
    )


class _Prover:
    def __init__(self, policy: AccessPolicy, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._standings = Standings(policy)
        self._allowances = Allowances(self._standings, vocabulary)

    def counterexample(self, invariant: Invariant) -> Counterexample | None:
        for asker in self._vocabulary.askers():
            if not self._is_concerned(invariant, asker):
                continue
            operations = self._broken_by(invariant, asker)
            if operations:
                return Counterexample(
                    invariant, asker, operations, self._text(asker, operations)
                )
        return None

    def _is_concerned(self, invariant: Invariant, asker: Asker) -> bool:
        if invariant.by and not any(
            pattern.matches(asker.spiffe_id) for pattern in invariant.by
        ):
            return False
        return self._standings.groups(asker).isdisjoint(invariant.outside)

    def _broken_by(self, invariant: Invariant, asker: Asker) -> tuple[Operation, ...]:
        """Return an operation of each set of the invariant; nothing if one is not."""
        allowed = self._allowed(asker)
        if len(invariant.never) > 1:
            # What one caller does at different times, for its user or without, it does
            # all the same.
            for times in self._vocabulary.time_sets:
                for claims in {asker.claims, frozenset()}:
                    allowed |= self._allowed(Asker(asker.spiffe_id, claims, times))
        found = []
        for deeds in invariant.never:
            touching = next((item for item in allowed if touches(deeds, item)), None)
            if touching is None:
                return ()
            found.append(touching)
        return tuple(found)

    def _allowed(self, asker: Asker) -> dict[Operation, None]:
        # In an order, so that the same counterexample is found each time.
        return dict.fromkeys(chain.from_iterable(self._allowances.of(asker).values()))

    def _text(self, asker: Asker, operations: Iterable[Operation]) -> str:
        what = " and ".join(
            f"{line} at {operation.upstream}"
            for operation in operations
            for line in self._vocabulary.describe([operation])
        )
        user = "".join(
            f", for a user with {claim.claim}={claim.value} of {claim.issuer}"
            for claim in sorted(asker.claims, key=str)
        )
        when = "".join(f", while it is {time}" for time in sorted(asker.times))
        return f"{asker.spiffe_id} may do {what}{user}{when}"


def touches(deeds: Deeds, operation: Operation) -> bool:
    """Return whether `operation` could touch what `deeds` name."""
    call = operation.call
    if deeds.on and operation.upstream not in deeds.on:
        return False
    if deeds.actions and call.action not in deeds.actions:
        return False
    if not deeds.models and not deeds.datasets:
        return True
    if call.scope is Scope.DATASET:
        return operation.dataset in deeds.datasets
    if call.scope is Scope.EVERY_MODEL:
        return bool(deeds.models)
    # A call that names no version could run each.
    is_spared = deeds.versions and call.version and call.version not in deeds.versions
    return (
        call.scope is Scope.MODEL
        and not is_spared
        and any(
            call.model.startswith(pattern[:-1])
            if pattern.endswith("*")
            else call.model == pattern
            for pattern in deeds.models
        )
    )
