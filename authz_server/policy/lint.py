"""Looks for what an access policy may say and hardly means.

What is wrong, the reader refuses. What is found here is valid: names that nothing
uses, grants that give nothing, conditions that never hold, rights that are wider than
anyone should have. Each rule is one function and has a code that stays the same.

Pure: it takes the policy and the nodes that it was read from, which know the places.
A policy can have 100,000 SPIFFE IDs, so no rule compares patterns pair by pair.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Final, NamedTuple

from authz_server.identity.spiffe_pattern import ANY_SEGMENT, SpiffePattern
from authz_server.operations.actions import DATASET_ACTIONS, OPENAI_ACTIONS, Action
from authz_server.policy.model import (
    ALWAYS,
    AccessPolicy,
    Grant,
    Group,
    Permission,
    Upstream,
    UpstreamKind,
    UserClaim,
    Workload,
)
from authz_server.policy.nodes import Map, Node, Place, Problem, Scalar, Sequence
from authz_server.policy.roles import ANY_MODEL, EVERY_MODEL_ACTIONS, SERVER_ACTIONS

_READ_HERE: Final = frozenset(
    {
        *("trustDomain", "federatesWith", "upstreams", "groups", "roles"),
        *("grants", "denials"),
    }
)
"""Sections of `spec` whose names the rules know; in others any name counts as used."""

_DANGEROUS: Final = frozenset(
    {
        Action.DATASET_WRITE,
        Action.LOGGING,
        Action.MODEL_LOAD_OVERRIDE,
        Action.MODEL_REPOSITORY,
        Action.SHARED_MEMORY,
        Action.TRACE,
    }
)
"""Actions that change what the server does for others, or where it writes."""

_SHOWN: Final = 3
"""Of the places or names that one finding is about."""

# A service account's ID, in Istio's form.
_ISTIO: Final = ("ns", ANY_SEGMENT, "sa", ANY_SEGMENT)


@dataclass(frozen=True, slots=True)
class Finding:
    """Something in a policy that is valid and hardly meant.

    Attributes:
        code: names the rule; it stays the same when the words change.
    """

    code: str
    problem: Problem

    def __str__(self) -> str:
        return f"{self.problem} [{self.code}]"


def lint(
    policy: AccessPolicy, root: Node, now_s: float | None = None
) -> tuple[Finding, ...]:
    """Return what is found in `policy`, in the order of the file.

    Args:
        root: what `policy` was read from.
        now_s: seconds since the epoch, to tell what is over; None to leave that out.
    """
    case = _Case(policy, root, now_s)
    found = [finding for rule in _RULES for finding in rule(case)]
    return tuple(sorted(found, key=_order))


def _order(finding: Finding) -> tuple[str, int, int, str, str]:
    problem = finding.problem
    place = (problem.source, problem.line, problem.column)
    return (*place, problem.message, finding.code)


def _finding(code: str, where: Node, message: str, mend: str) -> Finding:
    place = where.place
    return Finding(code, Problem(place.source, place.line, place.column, message, mend))


# Nodes. The reader has accepted them, so what is looked for has its form.


def _get(node: Node | None, key: str) -> Node | None:
    for name, value in node.entries if isinstance(node, Map) else ():
        if name.text == key:
            return value
    return None


def _entries(node: Node | None) -> list[tuple[Scalar, Node]]:
    return node.entries if isinstance(node, Map) else []


def _items(node: Node | None) -> list[Node]:
    return node.items if isinstance(node, Sequence) else []


def _scalars(node: Node | None) -> list[Scalar]:
    return [item for item in _items(node) if isinstance(item, Scalar)]


def _text(node: Node | None) -> str:
    return node.text if isinstance(node, Scalar) else ""


def _words(node: Node) -> Iterator[str]:
    """Yield the text of every value in `node`."""
    stack = [node]
    while stack:
        inner = stack.pop()
        if isinstance(inner, Scalar):
            yield inner.text
        elif isinstance(inner, Sequence):
            stack += inner.items
        else:
            stack += [value for _, value in inner.entries]


def _beside(place: Place, other: Place) -> str:
    """Return how to name `other` in a message about `place`."""
    return f"line {other.line}" if other.source == place.source else str(other)


# Which patterns cover which.


class _Shape(NamedTuple):
    """What patterns have in common that differ in their literal segments alone."""

    domain: str
    length: int
    has_rest: bool
    literals: tuple[int, ...]


class _Cover:
    """Finds the owners of patterns that hold every ID which another pattern holds.

    Patterns of one shape are one lookup, so the cost grows with the shapes only.
    """

    def __init__(self) -> None:
        self._exact: dict[tuple[str, tuple[str, ...]], tuple[str, ...]] = {}
        self._shapes: dict[_Shape, dict[tuple[str, ...], tuple[str, ...]]] = {}

    def add(self, pattern: SpiffePattern, owner: str) -> None:
        """Note that `owner` has `pattern`."""
        name, segments = pattern.trust_domain.name, pattern.segments
        if pattern.is_exact:
            exact = (name, segments)
            self._exact[exact] = (*self._exact.get(exact, ()), owner)
            return
        literals = [at for at, segment in enumerate(segments) if segment != ANY_SEGMENT]
        shape = _Shape(name, len(segments), pattern.has_rest, tuple(literals))
        owners = self._shapes.setdefault(shape, {})
        key = tuple([segments[at] for at in literals])
        owners[key] = (*owners.get(key, ()), owner)

    def owners(self, pattern: SpiffePattern) -> Iterator[str]:
        """Yield the owner of each pattern that covers `pattern`."""
        name, segments, has_rest = (
            pattern.trust_domain.name,
            pattern.segments,
            pattern.has_rest,
        )
        count = len(segments)
        if not has_rest:
            yield from self._exact.get((name, segments), ())
        for shape, owners in self._shapes.items():
            if shape.domain != name or (
                count + has_rest <= shape.length
                if shape.has_rest
                else has_rest or count != shape.length
            ):
                continue
            # A wildcard is no literal, so where one stands nothing is found.
            key = tuple([segments[at] for at in shape.literals])
            yield from owners.get(key, ())


# What a grant gives, in the smallest parts.


class _Part(NamedTuple):
    """One action on one model, prefix or dataset; on the server itself if `on` is "".

    Attributes:
        limit: a version or an adapter; empty for every one.
    """

    action: Action
    on: str
    limit: str = ""


def _parts(
    permission: Permission, upstream: Upstream, *, takes: bool = False
) -> Iterator[_Part]:
    """Yield what `permission` gives on `upstream`, or as a denial takes."""
    limits = (
        *(f"version {version}" for version in permission.versions),
        *(f"adapter {adapter}" for adapter in permission.adapters),
    )
    # A denial on some models leaves the server's own health and metadata.
    with_server = not (takes and permission.models and _is_limited(permission))
    for action in _actions(permission, upstream):
        if action in DATASET_ACTIONS:
            for name in permission.datasets:
                if name in upstream.datasets:
                    yield _Part(action, name)
            continue
        if action in SERVER_ACTIONS and with_server:
            yield _Part(action, "")
        for model in permission.models:
            for limit in limits or ("",):
                yield _Part(action, model, limit)


def _actions(permission: Permission, upstream: Upstream) -> list[Action]:
    """Return those actions of `permission` that there are on `upstream`."""
    if not permission.holds_on(upstream.name):
        return []
    is_dataset = upstream.kind is UpstreamKind.DATASET
    return [
        action
        for action in permission.actions
        if (action in DATASET_ACTIONS) is is_dataset
        and (upstream.kind is not UpstreamKind.OPENAI or action in OPENAI_ACTIONS)
    ]


def _is_limited(permission: Permission) -> bool:
    return (
        ANY_MODEL not in permission.models
        or bool(permission.versions)
        or bool(permission.adapters)
    )


@dataclass(frozen=True, slots=True)
class _Entry:
    """A grant or a denial, and where it is."""

    node: Node
    grant: Grant
    noun: str

    def named(self, key: str) -> list[Scalar]:
        """Return the names in one of its lists."""
        return _scalars(_get(self.node, key))

    def condition(self, key: str) -> Node | None:
        """Return one part of its condition."""
        return _get(_get(self.node, "when"), key)


class _Case:
    """A policy with its places, and what more than one rule needs to know of it."""

    def __init__(self, policy: AccessPolicy, root: Node, now_s: float | None) -> None:
        self.policy = policy
        self.now_s = now_s
        self.spec = _get(root, "spec")
        self.upstreams = _entries(_get(self.spec, "upstreams"))
        self.groups = _entries(_get(self.spec, "groups"))
        self.roles = _entries(_get(self.spec, "roles"))
        self.grants = self._read("grants", policy.grants)
        self.denials = self._read("denials", policy.denials)
        self._group_nodes = {key.text: node for key, node in self.groups}
        self._namespaces: dict[str, frozenset[str] | None] = {}
        self._supersets: dict[str, tuple[str, ...]] = {}

    def _read(self, key: str, grants: tuple[Grant, ...]) -> list[_Entry]:
        nodes = _items(_get(self.spec, key))
        return [
            _Entry(node, grant, key[:-1])
            for node, grant in zip(nodes, grants, strict=True)
        ]

    @cached_property
    def elsewhere(self) -> frozenset[str]:
        """Every word in the sections that the rules don't know."""
        return frozenset(
            word
            for key, node in _entries(self.spec)
            if key.text not in _READ_HERE
            for word in _words(node)
        )

    # Groups.

    def patterns(self, group: str) -> list[tuple[Scalar, SpiffePattern]]:
        """Return the patterns of `group` that are not those of a group in it."""
        own = _scalars(_get(self._group_nodes[group], "spiffe"))
        # Its own come first.
        return list(zip(own, self.policy.groups[group].spiffe, strict=False))

    def nested(self, group: str) -> list[Scalar]:
        """Return the names of the groups in `group`."""
        return _scalars(_get(self._group_nodes[group], "groups"))

    def has_members_of_its_own(self, group: str) -> bool:
        """Whether `group` is more than the groups in it."""
        node = self._group_nodes[group]
        return _get(node, "spiffe") is not None or _get(node, "users") is not None

    def own_users(self, group: str) -> list[UserClaim]:
        """Return the users of `group` that are not those of a group in it."""
        return [
            UserClaim(*(_text(_get(item, key)) for key in ("issuer", "claim", "value")))
            for item in _items(_get(self._group_nodes[group], "users"))
        ]

    def own_workloads(self, group: str) -> list[Workload]:
        """Return the workloads of `group` that are not those of a group in it."""
        return [
            Workload(
                namespace=_text(_get(item, "namespace")),
                pod_selector={
                    key.text: _text(value)
                    for key, value in _entries(_get(item, "podSelector"))
                },
                service_account=_text(_get(item, "serviceAccount")),
            )
            for item in _items(_get(self._group_nodes[group], "workloads"))
        ]

    @cached_property
    def idle(self) -> Mapping[str, frozenset[str]]:
        """The groups in each group that add nothing to it."""
        return {
            name: _idle(self, name)
            for name, group in self.policy.groups.items()
            if group.groups
        }

    def namespaces(self, group: str) -> frozenset[str] | None:
        """Return the namespaces that the IDs of `group` can be of; None for any."""
        if group not in self._namespaces:
            self._namespaces[group] = _namespaces(self.policy, group)
        return self._namespaces[group]

    @cached_property
    def cover(self) -> _Cover:
        """The patterns of all groups; a group owns those of the groups in it too."""
        cover = _Cover()
        for name, group in self.policy.groups.items():
            for pattern in group.spiffe:
                cover.add(pattern, name)
        return cover

    @cached_property
    def users(self) -> Mapping[UserClaim, frozenset[str]]:
        """The names of the groups that have each user."""
        names: dict[UserClaim, set[str]] = {}
        for name, group in self.policy.groups.items():
            for user in group.users:
                names.setdefault(user, set()).add(name)
        return {user: frozenset(found) for user, found in names.items()}

    def supersets(self, group: str) -> tuple[str, ...]:
        """Return the groups that every member of `group` is in, itself among them."""
        if group not in self._supersets:
            found = frozenset(self.policy.groups)
            for owners in self._owners(group):
                found &= owners
                if len(found) == 1:
                    break  # Itself. A large group is seldom looked at to its end.
            self._supersets[group] = tuple(sorted(found))
        return self._supersets[group]

    def _owners(self, group: str) -> Iterator[frozenset[str]]:
        """Yield, for each member of `group`, the groups that it is in."""
        for user in self.policy.groups[group].users:
            yield self.users[user]
        for pattern in self.policy.groups[group].spiffe:
            yield frozenset(self.cover.owners(pattern))

    # Grants.

    @cached_property
    def granted(self) -> Mapping[str, frozenset[str]]:
        """The upstreams on which each role is granted."""
        found: dict[str, set[str]] = {}
        for entry in self.grants:
            found.setdefault(entry.grant.role, set()).update(entry.grant.on)
        return {role: frozenset(names) for role, names in found.items()}

    def permissions(self, *actions: Action) -> Iterator[tuple[str, Node, Permission]]:
        """Yield each permission that gives anyone one of `actions`, and its role."""
        for key, node in self.roles:
            permissions = self.policy.roles[key.text].permissions
            for item, permission in zip(_items(node), permissions, strict=True):
                if any(
                    not set(actions).isdisjoint(
                        _actions(permission, self.policy.upstreams[name])
                    )
                    for name in self.granted.get(key.text, ())
                ):
                    yield key.text, item, permission

    def dangerous(self, grant: Grant) -> list[Action]:
        """Return the dangerous actions that `grant` gives."""
        found = {
            action
            for permission in self.policy.roles[grant.role].permissions
            for name in grant.on
            for action in _actions(permission, self.policy.upstreams[name])
        }
        return sorted(found & _DANGEROUS)


def _idle(case: _Case, name: str) -> frozenset[str]:
    groups = case.policy.groups
    cover = _Cover()
    others: dict[object, list[str]] = {}
    for _, pattern in case.patterns(name):
        cover.add(pattern, "")
    for member in (
        *case.own_users(name),
        *map(_hashable, case.own_workloads(name)),
    ):
        others.setdefault(member, []).append("")
    for nested in groups[name].groups:
        for pattern in groups[nested].spiffe:
            cover.add(pattern, nested)
        for member in _others(groups[nested]):
            others.setdefault(member, []).append(nested)
    idle: set[str] = set()
    # From behind: of two that have the same members the first one stays.
    for nested in reversed(groups[name].groups):
        without = idle | {nested}
        if all(
            any(owner not in without for owner in cover.owners(pattern))
            for pattern in groups[nested].spiffe
        ) and all(
            any(owner not in without for owner in others[member])
            for member in _others(groups[nested])
        ):
            idle.add(nested)
    return frozenset(idle)


def _others(group: Group) -> Iterator[object]:
    """Yield what is in `group` beside SPIFFE IDs."""
    yield from group.users
    yield from map(_hashable, group.workloads)


def _hashable(workload: Workload) -> object:
    labels = frozenset(workload.pod_selector.items())
    return workload.namespace, labels, workload.service_account


def _namespaces(policy: AccessPolicy, group: str) -> frozenset[str] | None:
    found = set()
    for pattern in policy.groups[group].spiffe:
        if (
            pattern.trust_domain != policy.trust_domain
            or not _has_istio_length(pattern)
            or not all(
                ANY_SEGMENT in {segment, istio} or segment == istio
                for segment, istio in zip(pattern.segments, _ISTIO, strict=False)
            )
        ):
            continue
        if pattern.segments[1:2] in {(), (ANY_SEGMENT,)}:
            return None
        found.add(pattern.segments[1])
    return frozenset(found)


def _has_istio_length(pattern: SpiffePattern) -> bool:
    """Whether it holds IDs with as many segments as those of Istio's form have."""
    count = len(pattern.segments)
    return count < len(_ISTIO) if pattern.has_rest else count == len(_ISTIO)


class _Supply:
    """Tells which grants give what a grant gives, or which denials take it."""

    def __init__(self, case: _Case, entries: list[_Entry], *, takes: bool) -> None:
        self._case = case
        self._takes = takes
        self._entries = entries
        self._parts: dict[tuple[str, str, bool], frozenset[_Part]] = {}
        self._conditions = {ALWAYS: 0}
        self._index: dict[tuple[int, str, str, _Part], set[int]] = {}
        for number in range(len(entries)):
            for key in self._keys(number):
                self._index.setdefault(key, set()).add(number)
        self._prefix_lengths = sorted(
            {
                len(model) - 1
                for role in case.policy.roles.values()
                for permission in role.permissions
                for model in permission.models
                if model.endswith("*")
            }
        )

    def _keys(self, number: int) -> Iterator[tuple[int, str, str, _Part]]:
        grant = self._entries[number].grant
        when = self._conditions.setdefault(grant.when, len(self._conditions))
        for upstream in grant.on:
            for part in self._said(grant.role, upstream, takes=self._takes):
                for group in grant.to:
                    yield when, group, upstream, part

    def _said(self, role: str, upstream: str, *, takes: bool) -> frozenset[_Part]:
        key = (role, upstream, takes)
        if key not in self._parts:
            self._parts[key] = frozenset(
                part
                for permission in self._case.policy.roles[role].permissions
                for part in _parts(
                    permission, self._case.policy.upstreams[upstream], takes=takes
                )
            )
        return self._parts[key]

    def take_out(self, number: int) -> None:
        """Count no longer on the entry with this number."""
        for key in self._keys(number):
            self._index[key].discard(number)

    def of_all(self, grant: Grant, but: int = -1) -> list[Place]:
        """Return where all that `grant` gives is said too; nowhere if a part is not.

        What is said on the same condition counts as well as what is said on none.

        Args:
            but: the number of an entry that does not count.
        """
        found: set[int] = set()
        for upstream in grant.on:
            for part in sorted(self._said(grant.role, upstream, takes=False)):
                keys = [
                    (when, upstream, wide)
                    for when in {0, self._conditions.get(grant.when, 0)}
                    for wide in self._wider(part)
                ]
                for group in grant.to:
                    numbers = self._of_part(group, keys, but)
                    if not numbers:
                        return []
                    found |= numbers
        return [self._entries[number].node.place for number in sorted(found)]

    def _of_part(
        self, group: str, keys: list[tuple[int, str, _Part]], but: int
    ) -> set[int]:
        found: set[int] = set()
        stack, seen = [group], {group}
        while stack:
            name = stack.pop()
            numbers = (
                number
                for one in self._case.supersets(name)
                for when, upstream, part in keys
                for number in self._index.get((when, one, upstream, part), ())
                if number != but
            )
            number = next(numbers, None)
            if number is not None:
                found.add(number)
                continue
            # A group that is only others put together has what each of them has.
            nested = self._case.policy.groups[name].groups
            if not nested or self._case.has_members_of_its_own(name):
                return set()
            stack += [inner for inner in nested if inner not in seen]
            seen.update(nested)
        return found

    def _wider(self, part: _Part) -> Iterator[_Part]:
        """Yield each part that includes `part` and may occur."""
        ons = {part.on}
        if part.on and part.action not in DATASET_ACTIONS:
            start = part.on.removesuffix("*")
            ons |= {
                f"{start[:length]}*"
                for length in self._prefix_lengths
                if length <= len(start)
            }
        for on in sorted(ons):
            for limit in sorted({part.limit, ""}):
                yield _Part(part.action, on, limit)


# The rules. What nothing uses:


def _unused_groups(case: _Case) -> Iterator[Finding]:
    used = set(case.elsewhere)
    for entry in (*case.grants, *case.denials):
        used.update(entry.grant.to, entry.grant.when.users)
    for group in case.policy.groups.values():
        used.update(group.groups)
    for key, _ in case.groups:
        if key.text not in used:
            yield _finding(
                "unused-group",
                key,
                f"nothing refers to group {key.text!r}",
                "grant it something, or take it out",
            )


def _unused_roles(case: _Case) -> Iterator[Finding]:
    used = set(case.elsewhere)
    used.update(entry.grant.role for entry in (*case.grants, *case.denials))
    for key, _ in case.roles:
        if key.text not in used:
            yield _finding(
                "unused-role",
                key,
                f"no grant and no denial uses role {key.text!r}",
                "grant it, or take it out",
            )


def _unused_upstreams(case: _Case) -> Iterator[Finding]:
    used = set(case.elsewhere)
    for entry in case.grants:
        used.update(entry.grant.on, entry.grant.when.upstreams)
    for key, _ in case.upstreams:
        if key.text not in used:
            yield _finding(
                "unused-upstream",
                key,
                f"no grant names upstream {key.text!r}, so nobody may call it",
                "grant something on it, or take it out",
            )


def _unused_datasets(case: _Case) -> Iterator[Finding]:
    permissions = [
        permission
        for role in case.policy.roles.values()
        for permission in role.permissions
        if permission.datasets
    ]
    for upstream, node in case.upstreams:
        used = {
            name
            for permission in permissions
            if permission.holds_on(upstream.text)
            for name in permission.datasets
        }
        for key, _ in _entries(_get(node, "datasets")):
            if key.text not in used and key.text not in case.elsewhere:
                yield _finding(
                    "unused-dataset",
                    key,
                    f"no permission names dataset {key.text!r}",
                    "name it in a role, or take it out",
                )


# What changes nothing:


def _redundant_patterns(case: _Case) -> Iterator[Finding]:
    for name, group in case.policy.groups.items():
        own = case.patterns(name)
        # Workloads need a pattern beside them, so it stays with them.
        is_free = not case.own_workloads(name)
        others = [
            (nested, pattern)
            for nested in group.groups
            if is_free and nested not in case.idle[name]
            for pattern in case.policy.groups[nested].spiffe
        ]
        wide = [(scalar, each) for scalar, each in own if not each.is_exact]
        if not wide and not others:
            continue
        cover = _Cover()
        for scalar, pattern in wide:
            cover.add(pattern, scalar.text)
        for nested, pattern in others:
            cover.add(pattern, f"group {nested}")
        for scalar, pattern in own:
            for owner in cover.owners(pattern):
                if owner != scalar.text:
                    yield _finding(
                        "redundant-pattern",
                        scalar,
                        f"{scalar.text} is in {owner} already",
                        "take it out",
                    )
                    break


def _idle_nested(case: _Case) -> Iterator[Finding]:
    for name, idle in case.idle.items():
        for scalar in case.nested(name):
            if scalar.text in idle:
                yield _finding(
                    "idle-nested-group",
                    scalar,
                    f"group {scalar.text!r} adds nothing to group {name!r}",
                    "take it out",
                )


def _redundant_grants(case: _Case) -> Iterator[Finding]:
    supply = _Supply(case, case.grants, takes=False)
    # From behind: of two that say the same the first one stays.
    for number, entry in reversed(list(enumerate(case.grants))):
        places = supply.of_all(entry.grant, but=number)
        if places:
            supply.take_out(number)
            yield _finding(
                "redundant-grant",
                entry.node,
                f"all that this grant of {entry.grant.role!r} gives is given already, "
                f"at {_list(entry.node.place, places)}",
                "take it out",
            )


def _denied_grants(case: _Case) -> Iterator[Finding]:
    supply = _Supply(case, case.denials, takes=True)
    for entry in case.grants if case.denials else ():
        places = supply.of_all(entry.grant)
        if places:
            yield _finding(
                "denied-grant",
                entry.node,
                f"all that this grant of {entry.grant.role!r} gives is taken away, "
                f"at {_list(entry.node.place, places)}",
                "take out the grant, or the denial",
            )


def _list(place: Place, others: list[Place]) -> str:
    """Return the first of `others` in words."""
    shown = [_beside(place, other) for other in others[:_SHOWN]]
    return ", ".join((*shown, "...")[: len(others)])


def _dead_conditions(case: _Case) -> Iterator[Finding]:
    for entry in (*case.grants, *case.denials):
        # A user may come with any workload.
        if not any(case.policy.groups[name].users for name in entry.grant.to):
            yield from _dead_namespaces(case, entry)
            yield from _dead_callers(case, entry)


def _dead_namespaces(case: _Case, entry: _Entry) -> Iterator[Finding]:
    node = entry.condition("namespaces")
    if node is None:
        return
    sets = [case.namespaces(name) for name in entry.grant.to]
    known = [found for found in sets if found is not None]
    if len(known) < len(sets):
        return
    yield from _dead(
        entry,
        node,
        [
            scalar
            for scalar in _scalars(node)
            if not any(scalar.text in found for found in known)
        ],
        "has an ID of namespace {!r}",
    )


def _dead_callers(case: _Case, entry: _Entry) -> Iterator[Finding]:
    policy, when = case.policy, entry.grant.when
    dead = []
    node = entry.condition("upstreams")
    for scalar in _scalars(node):
        upstream = policy.upstreams[scalar.text]
        pattern = SpiffePattern.parse(policy.workload_id(upstream))
        if set(entry.grant.to).isdisjoint(case.cover.owners(pattern)) or (
            when.namespaces and upstream.namespace not in when.namespaces
        ):
            dead.append(scalar)
    yield from _dead(entry, node, dead, "can be upstream {!r}")


def _dead(
    entry: _Entry, node: Node | None, dead: list[Scalar], words: str
) -> Iterator[Finding]:
    """Yield findings for these items of a list in a condition, or for the whole."""
    if node is not None and dead and len(dead) == len(_items(node)):
        names = ", ".join(repr(scalar.text) for scalar in dead[:_SHOWN])
        yield _finding(
            "never-holds",
            node,
            f"the {entry.noun} of {entry.grant.role!r} never holds: no caller in 'to' "
            + words.replace("{!r}", names),
            "correct the condition, or 'to'",
        )
        return
    for scalar in dead:
        yield _finding(
            "dead-condition",
            scalar,
            f"no caller in 'to' {words.format(scalar.text)}",
            "correct it, or take it out",
        )


def _expired(case: _Case) -> Iterator[Finding]:
    for entry in (*case.grants, *case.denials):
        time = entry.grant.when.time
        until = entry.condition("until")
        if (
            time is not None
            and time.until_s is not None
            and until is not None
            and case.now_s is not None
            and time.until_s <= case.now_s
        ):
            yield _finding(
                "expired",
                until,
                f"the {entry.noun} of {entry.grant.role!r} ended then",
                f"take out the {entry.noun}, or give it another date",
            )


# What gives more than it may seem:


def _wildcards(case: _Case) -> Iterator[Finding]:
    # Loading with an override has a rule of its own.
    watched = _DANGEROUS - {Action.MODEL_LOAD_OVERRIDE} - DATASET_ACTIONS
    for role, node, permission in case.permissions(*watched):
        found = sorted(watched.intersection(permission.actions))
        for scalar in _scalars(_get(node, "models")):
            if scalar.text == ANY_MODEL:
                yield _finding(
                    "dangerous-wildcard",
                    scalar,
                    f"role {role!r} gives {', '.join(found)} on every model",
                    "there is no less of it: grant it to few"
                    if EVERY_MODEL_ACTIONS.issuperset(found)
                    else "name the models",
                )


def _load_overrides(case: _Case) -> Iterator[Finding]:
    for role, node, permission in case.permissions(Action.MODEL_LOAD_OVERRIDE):
        if any(model.endswith("*") for model in permission.models):
            for scalar in _scalars(_get(node, "actions")):
                if scalar.text == Action.MODEL_LOAD_OVERRIDE:
                    yield _finding(
                        "load-override",
                        scalar,
                        f"whoever has role {role!r} runs code of their own in Triton, "
                        "as more models than are named",
                        "name each model, or give model-repository instead",
                    )


def _wide_groups(case: _Case) -> Iterator[Finding]:
    @cache
    def domains(group: str) -> list[str]:
        patterns = case.policy.groups[group].spiffe
        return sorted(
            {each.trust_domain.name for each in patterns if _is_whole_domain(each)}
        )

    for entry in case.grants:
        when = entry.grant.when
        found = case.dangerous(entry.grant)
        # Each of these leaves less than the whole.
        if not found or when.users or when.namespaces or when.upstreams:
            continue
        for scalar in entry.named("to"):
            if domains(scalar.text):
                yield _finding(
                    "dangerous-group",
                    scalar,
                    f"group {scalar.text!r} is every workload of "
                    f"{', '.join(domains(scalar.text))}, and gets {', '.join(found)}",
                    "name the workloads that need it",
                )


def _is_whole_domain(pattern: SpiffePattern) -> bool:
    """Whether it leaves out nobody whose ID has Istio's form."""
    return _has_istio_length(pattern) and all(
        segment in {ANY_SEGMENT, istio}
        for segment, istio in zip(pattern.segments, _ISTIO, strict=False)
    )


def _foreign_callers(case: _Case) -> Iterator[Finding]:
    @cache
    def domains(group: str) -> list[str]:
        patterns = case.policy.groups[group].spiffe
        own = case.policy.trust_domain.name
        return sorted({each.trust_domain.name for each in patterns} - {own})

    for entry in case.grants:
        found = case.dangerous(entry.grant)
        for scalar in entry.named("to") if found else ():
            if domains(scalar.text):
                yield _finding(
                    "dangerous-federation",
                    scalar,
                    f"group {scalar.text!r} has callers of "
                    f"{', '.join(domains(scalar.text))}, and gets {', '.join(found)}",
                    "keep it to your own trust domain",
                )


def _ungated_streams(case: _Case) -> Iterator[Finding]:
    for role, node, permission in case.permissions(Action.INFERENCE_STREAM):
        if _is_limited(permission):
            for scalar in _scalars(_get(node, "actions")):
                if scalar.text == Action.INFERENCE_STREAM:
                    yield _finding(
                        "stream-needs-gate",
                        scalar,
                        f"inference-stream of role {role!r} on some models means "
                        "nothing on a route without the gate: no stream begins there",
                        'set up the gate (docs/gate.md), or give it on models: ["*"]',
                    )


_RULES: Final[tuple[Callable[[_Case], Iterator[Finding]], ...]] = (
    _unused_groups,
    _unused_roles,
    _unused_upstreams,
    _unused_datasets,
    _redundant_patterns,
    _idle_nested,
    _redundant_grants,
    _denied_grants,
    _dead_conditions,
    _expired,
    _wildcards,
    _load_overrides,
    _wide_groups,
    _foreign_callers,
    _ungated_streams,
)
