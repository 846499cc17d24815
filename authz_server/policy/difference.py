"""Whose answer changes from one policy to another: for everybody, and everything.

Both policies are asked for every kind of caller, user and time, and for every
operation, that either can tell apart (`vocabulary`). So what is not listed does not
change, for anyone.
"""

from __future__ import annotations

from dataclasses import dataclass

from authz_server.operations.operation import Operation
from authz_server.policy.model import AccessPolicy
from authz_server.policy.standing import Allowances, Standings
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
    before, after = Standings(old), Standings(new)
    was, becomes = Allowances(before, vocabulary), Allowances(after, vocabulary)
    # By direction, upstream and operations: who they change for.
    found: dict[tuple[bool, str, frozenset[Operation]], list[Asker]] = {}
    compared: dict[tuple[int, int], tuple[frozenset[Operation], ...]] = {}
    known: dict[tuple[object, ...], list[tuple[Asker, frozenset[Operation]]]] = {}
    for asker in vocabulary.askers():
        old_ones, new_ones = was.of(asker), becomes.of(asker)
        for upstream in vocabulary.upstreams:
            first, second = old_ones.get(upstream, ()), new_ones.get(upstream, ())
            # Allowances gives the same tuple for the same standing, and keeps it.
            pair = (id(first), id(second))
            if pair not in compared:
                compared[pair] = (
                    frozenset(first).difference(second),
                    frozenset(second).difference(first),
                )
            for widens, operations in zip((False, True), compared[pair], strict=True):
                if not operations:
                    continue
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


def _order(operation: Operation) -> tuple[str, ...]:
    call = operation.call
    return (call.action, call.scope, call.model, call.version, call.adapter)
