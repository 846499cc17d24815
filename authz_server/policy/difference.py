"""Whose answer changes from one policy to another: for everybody, and everything.

Both policies are asked for every kind of caller, user and time, and for every
operation, that either can tell apart (`vocabulary`). So what is not listed does not
change, for anyone.
"""

from __future__ import annotations

from dataclasses import dataclass

from authz_server.operations.operation import Operation
from authz_server.policy.model import AccessPolicy
from authz_server.policy.standing import Standing, Standings
from authz_server.policy.vocabulary import Asker, Vocabulary


@dataclass(frozen=True, slots=True)
class Difference:
    """Operations on one upstream whose answer changes for some kinds of caller.

    Attributes:
        widens: whether the new policy allows them; else it denies them.
        askers: a witness of each kind, with as few claims and times as it takes.
        groups: those of both policies that the first of them is in.
        operations: witnesses of them.
        words: the same for people, an action a line.
    """

    widens: bool
    askers: tuple[Asker, ...]
    groups: tuple[str, ...]
    upstream: str
    operations: tuple[Operation, ...]
    words: tuple[str, ...]


def differences(old: AccessPolicy, new: AccessPolicy) -> tuple[Difference, ...]:
    """Return every change from `old` to `new`; nothing if all answers stay."""
    vocabulary = Vocabulary((old, new))
    comparison = _Comparison(vocabulary)
    before, after = Standings(old), Standings(new)
    # By direction, upstream and operations: who they change for.
    found: dict[tuple[bool, str, frozenset[Operation]], list[Asker]] = {}
    known: dict[tuple[object, ...], list[tuple[Asker, frozenset[Operation]]]] = {}
    for asker in vocabulary.askers():
        was, becomes = before.of(asker), after.of(asker)
        for upstream in vocabulary.upstreams:
            gone, come = comparison.changes(
                was.get(upstream, Standing(None)),
                becomes.get(upstream, Standing(None)),
                upstream,
            )
            for widens, operations in ((False, gone), (True, come)):
                simpler = known.setdefault((asker.spiffe_id, upstream, widens), [])
                # What is so with fewer claims and times has been said.
                fresh = operations.difference(
                    *(
                        done
                        for other, done in simpler
                        if other.claims <= asker.claims and other.times <= asker.times
                    )
                )
                if fresh:
                    simpler.append((asker, fresh))
                    found.setdefault((widens, upstream, fresh), []).append(asker)
    return tuple(
        Difference(
            widens,
            tuple(askers),
            tuple(sorted(before.groups(askers[0]) | after.groups(askers[0]))),
            upstream,
            tuple(sorted(operations, key=_order)),
            tuple(vocabulary.describe(sorted(operations, key=_order))),
        )
        for (widens, upstream, operations), askers in found.items()
    )


class _Comparison:
    """Compares standings, each pair of them once."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._allowed: dict[tuple[object, ...], frozenset[Operation]] = {}
        self._operations: dict[str, tuple[Operation, ...]] = {}

    def changes(
        self, old: Standing, new: Standing, upstream: str
    ) -> tuple[frozenset[Operation], frozenset[Operation]]:
        """Return which operations are allowed no more, and which are now."""
        was = self._of(old, upstream, is_new=False)
        becomes = self._of(new, upstream, is_new=True)
        return was - becomes, becomes - was

    def _of(
        self, standing: Standing, upstream: str, *, is_new: bool
    ) -> frozenset[Operation]:
        key = (is_new, upstream, standing.given, standing.taken)
        if key not in self._allowed:
            if upstream not in self._operations:
                self._operations[upstream] = self._vocabulary.operations(upstream)
            self._allowed[key] = frozenset(
                operation
                for operation in self._operations[upstream]
                if standing.allows(operation)
            )
        return self._allowed[key]


def _order(operation: Operation) -> tuple[str, ...]:
    call = operation.call
    return (call.action, call.scope, call.model, call.version, call.adapter)
