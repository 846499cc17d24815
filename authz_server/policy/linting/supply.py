"""Finds the grants or denials that together say all that one grant says."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from authz_server.operations.actions import DATASET_ACTIONS
from authz_server.policy.linting.case import Case, Entry
from authz_server.policy.linting.rights import Right, rights_of
from authz_server.policy.model import ALWAYS, Condition, Grant
from authz_server.policy.nodes import Place

# Group, upstream and right, and the numbers of the entries that say it of them.
_Key = tuple[str, str, Right]
_Numbers = dict[_Key, set[int]]


class Supply:
    """Tells which grants give what a grant gives, or which denials take it."""

    def __init__(self, case: Case, entries: list[Entry], *, takes: bool) -> None:
        self._case = case
        self._takes = takes
        self._entries = entries
        self._rights: dict[tuple[str, str, bool], frozenset[Right]] = {}
        self._said: defaultdict[Condition, _Numbers] = defaultdict(dict)
        for number, entry in enumerate(entries):
            said = self._said[entry.grant.when]
            for key in self._keys(entry.grant):
                said.setdefault(key, set()).add(number)
        self._prefix_lengths = {
            len(model) - 1
            for role in case.policy.roles.values()
            for permission in role.permissions
            for model in permission.models
            if model.endswith("*")
        }

    def _keys(self, grant: Grant) -> Iterator[_Key]:
        for upstream in grant.on:
            for right in self._rights_of(grant.role, upstream, takes=self._takes):
                for group in grant.to:
                    yield group, upstream, right

    def _rights_of(self, role: str, upstream: str, *, takes: bool) -> frozenset[Right]:
        key = (role, upstream, takes)
        if key not in self._rights:
            policy = self._case.policy
            self._rights[key] = frozenset(
                right
                for permission in policy.roles[role].permissions
                for right in rights_of(
                    permission, policy.upstreams[upstream], takes=takes
                )
            )
        return self._rights[key]

    def take_out(self, number: int) -> None:
        """Count no longer on the entry with this number."""
        grant = self._entries[number].grant
        said = self._said[grant.when]
        for key in self._keys(grant):
            said[key].discard(number)

    def of_all(self, grant: Grant, but: int | None = None) -> list[Place]:
        """Return where all that `grant` gives is said too; nowhere if a part is not.

        What is said on the same condition counts as well as what is said on none.

        Args:
            but: the number of an entry that does not count.
        """
        said = [
            self._said[when]
            for when in dict.fromkeys((ALWAYS, grant.when))
            if when in self._said
        ]
        found: set[int] = set()
        for upstream in grant.on:
            for right in self._rights_of(grant.role, upstream, takes=False):
                ways = [
                    (numbers, upstream, wider)
                    for numbers in said
                    for wider in self._wider(right)
                ]
                for group in grant.to:
                    numbers = self._of_group(group, ways, but)
                    if not numbers:
                        return []
                    found |= numbers
        return [self._entries[number].node.place for number in sorted(found)]

    def _of_group(
        self, group: str, ways: list[tuple[_Numbers, str, Right]], but: int | None
    ) -> set[int]:
        """Return entries that together reach all of `group`; none if a part is left."""
        found: set[int] = set()
        stack, seen = [group], {group}
        while stack:
            name = stack.pop()
            number = next(self._reaching(name, ways, but), None)
            if number is not None:
                found.add(number)
                continue
            # A group that is only others put together has what each of them has.
            nested = self._case.policy.groups[name].groups
            if not nested or self._case.has_callers_of_its_own(name):
                return set()
            stack += [inner for inner in nested if inner not in seen]
            seen.update(nested)
        return found

    def _reaching(
        self, group: str, ways: list[tuple[_Numbers, str, Right]], but: int | None
    ) -> Iterator[int]:
        """Yield the entries that each reach all of `group`."""
        for one in self._case.supersets(group):
            for numbers, upstream, right in ways:
                for number in numbers.get((one, upstream, right), ()):
                    if number != but:
                        yield number

    def _wider(self, right: Right) -> Iterator[Right]:
        """Yield each right that includes `right` and may occur."""
        ons = {right.on}
        if right.on and right.action not in DATASET_ACTIONS:
            start = right.on.removesuffix("*")
            ons |= {
                f"{start[:length]}*"
                for length in self._prefix_lengths
                if length <= len(start)
            }
        for on in sorted(ons):
            for limit in sorted({right.limit, ""}):
                yield Right(right.action, on, limit)
