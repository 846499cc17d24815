"""Reads grants, denials and their conditions, and who may change what."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Final
from zoneinfo import ZoneInfo

from authz_server.operations.actions import DATASET_ACTIONS, OPENAI_ACTIONS, Action
from authz_server.policy.model import (
    ALWAYS,
    Admin,
    Condition,
    Grant,
    Group,
    Role,
    Section,
    Upstream,
    UpstreamKind,
)
from authz_server.policy.nodes import Map, Node, Problems, Scalar
from authz_server.policy.readings import Readings
from authz_server.policy.references import check_references, read_references
from authz_server.policy.roles import SERVER_ACTIONS
from authz_server.policy.sections import read_name
from authz_server.policy.time_limit import DAYS, MINUTES, TimeLimit, TimeWindow

_CLOCK: Final = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])|24:00", re.ASCII)
# RFC 3339 §5.6, in years that every clock has.
_DATE: Final = re.compile(
    r"[12][0-9]{3}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}(:[0-9]{2})?"
    r"(Z|[+-][0-9]{2}:[0-9]{2})",
    re.ASCII,
)
_EVERY_DAY: Final = frozenset(range(len(DAYS)))
_SECTIONS: Final = frozenset(section.value for section in Section)
_A_DATE: Final = 'write e.g. "2027-01-31T18:00:00Z"'


class GrantReader:
    """Reads what may name these groups, roles and upstreams.

    Args:
        readings: of grants and denials.
    """

    def __init__(
        self,
        problems: Problems,
        groups: Mapping[str, Group],
        roles: Mapping[str, Role],
        upstreams: Mapping[str, Upstream],
        readings: Readings[Grant],
    ) -> None:
        self._problems = problems
        self._groups = groups
        self._roles = roles
        self._upstreams = upstreams
        self._readings = readings
        self._read: list[tuple[Node, Grant]] = []

    def grants(self, node: Node | None, key: str) -> tuple[Grant, ...]:
        """Return the list under `key`, ``grants`` or ``denials``."""
        if node is None:
            return ()
        # `grants: []` says something: nobody may do anything.
        items = self._problems.sequence(node, key)
        return tuple(self._grant(item, f"a {key[:-1]}") for item in items)

    def admins(self, node: Node | None) -> tuple[Admin, ...]:
        """Return the list of who may change what."""
        items = self._problems.items(node, "admins")
        return tuple(self._admin(item, "an admin") for item in items)

    def _admin(self, node: Node, what: str) -> Admin:
        fields = self._problems.fields(
            node, what, ("to", "change"), ("groups", "roles", "upstreams")
        )
        sections = self._problems.strings(
            fields.get("change"), f"'change' of {what}", "name a section"
        )
        check_references(self._problems, sections, "section", _SECTIONS)
        return Admin(
            to=self._names(fields.get("to"), f"'to' of {what}", "group", self._groups),
            change=tuple(
                Section(scalar.text) for scalar in sections if scalar.text in _SECTIONS
            ),
            groups=self._names(
                fields.get("groups"), f"groups of {what}", "group", self._groups
            ),
            roles=self._names(
                fields.get("roles"), f"roles of {what}", "role", self._roles
            ),
            upstreams=self._names(
                fields.get("upstreams"),
                f"upstreams of {what}",
                "upstream",
                self._upstreams,
            ),
        )

    def _grant(self, node: Node, what: str) -> Grant:
        grant = self._readings.recall(node)
        if grant is None or not self._still_stands(grant):
            found = len(self._problems.found)
            grant = self._new_grant(node, what)
            if len(self._problems.found) > found:
                return grant
        self._readings.keep(node, grant)
        self._read.append((node, grant))
        return grant

    def _still_stands(self, grant: Grant) -> bool:
        """Whether all that `grant` names is defined, as it was when it was read."""
        when = grant.when
        return (
            grant.role in self._roles
            and all(name in self._groups for name in grant.to)
            and all(name in self._upstreams for name in grant.on)
            and all(
                name in self._groups and self._groups[name].users for name in when.users
            )
            and all(
                name in self._upstreams and _has_id(self._upstreams[name])
                for name in when.upstreams
            )
        )

    def _new_grant(self, node: Node, what: str) -> Grant:
        fields = self._problems.fields(node, what, ("role", "to", "on"), ("when",))
        role = self._problems.string(fields.get("role"), f"role of {what}")
        if role is not None:
            check_references(self._problems, [role], "role", self._roles)
        return Grant(
            role="" if role is None else role.text,
            to=self._names(fields.get("to"), f"'to' of {what}", "group", self._groups),
            on=self._names(
                fields.get("on"), f"'on' of {what}", "upstream", self._upstreams
            ),
            when=self._condition(fields.get("when"), f"'when' of {what}"),
        )

    def _names(
        self, node: Node | None, what: str, section: str, known: Mapping[str, object]
    ) -> tuple[str, ...]:
        article = "an" if section[0] == "u" else "a"
        return read_references(
            self._problems, node, what, section, known, f"name {article} {section}"
        )

    def check_use(self) -> None:
        """Note where a role has nothing to give, or to take, if all else is well."""
        useless: dict[tuple[str, str], bool] = {}
        for node, grant in [] if self._problems.found else self._read:
            for name in grant.on:
                pair = (grant.role, name)
                if pair not in useless:
                    useless[pair] = not _gives_something(
                        self._roles[grant.role], self._upstreams[name]
                    )
                if useless[pair]:
                    self._problems.add(
                        node,
                        f"role {grant.role!r} gives nothing on upstream {name!r}",
                        f"take {name} out of 'on', or change the role",
                    )

    # Conditions.

    def _condition(self, node: Node | None, what: str) -> Condition:
        if node is None:
            return ALWAYS
        fields = self._problems.fields(
            node, what, (), ("users", "namespaces", "upstreams", *_TIME_KEYS)
        )
        if isinstance(node, Map) and not node.entries:
            self._problems.add(node, f"{what} is empty", "leave the key out")
        users = self._problems.strings(fields.get("users"), f"users of {what}")
        check_references(self._problems, users, "group", self._groups)
        for scalar in users:
            group = self._groups.get(scalar.text)
            if group is not None and not group.users:
                self._problems.add(
                    scalar,
                    f"group {scalar.text!r} has no users",
                    "name a group that has 'users:'",
                )
        servers = self._problems.strings(
            fields.get("upstreams"), f"upstreams of {what}"
        )
        check_references(self._problems, servers, "upstream", self._upstreams)
        for scalar in servers:
            upstream = self._upstreams.get(scalar.text)
            if upstream is not None and not _has_id(upstream):
                self._problems.add(
                    scalar,
                    f"upstream {scalar.text!r} has no SPIFFE ID to call with",
                    "give it a namespace and a serviceAccount",
                )
        return Condition(
            users=tuple(scalar.text for scalar in users),
            namespaces=tuple(
                read_name(self._problems, scalar, "namespace")
                for scalar in self._problems.strings(
                    fields.get("namespaces"), f"namespaces of {what}"
                )
            ),
            upstreams=tuple(scalar.text for scalar in servers),
            time=self._time_limit(fields, what),
        )

    def _time_limit(self, fields: Mapping[str, Node], what: str) -> TimeLimit | None:
        if not set(_TIME_KEYS) & fields.keys():
            return None
        since = self._date(fields.get("since"), f"since of {what}")
        until = self._date(fields.get("until"), f"until of {what}")
        if since is not None and until is not None and since >= until:
            self._problems.add(
                fields["until"], f"{what} ends before it begins", "correct the dates"
            )
        return TimeLimit(
            windows=tuple(
                self._window(item, f"a time of {what}")
                for item in self._problems.items(
                    fields.get("times"), f"times of {what}"
                )
            ),
            since_s=since,
            until_s=until,
        )

    def _window(self, node: Node, what: str) -> TimeWindow:
        fields = self._problems.fields(node, what, ("from", "to", "zone"), ("days",))
        days = _EVERY_DAY
        if "days" in fields:
            names = self._problems.strings(fields["days"], f"days of {what}")
            check_references(self._problems, names, "day", DAYS)
            days = frozenset(
                DAYS.index(name.text) for name in names if name.text in DAYS
            )
        start = self._clock(fields.get("from"), f"from of {what}")
        end = self._clock(fields.get("to"), f"to of {what}")
        if start == MINUTES:
            self._problems.add(
                fields["from"], "a day does not begin at 24:00", 'write "00:00"'
            )
        zone = self._problems.string(fields.get("zone"), f"zone of {what}")
        return TimeWindow(days, start % MINUTES, end, self._zone(zone))

    def _clock(self, node: Node | None, what: str) -> int:
        scalar = self._problems.string(node, what)
        if scalar is None:
            return 0
        if _CLOCK.fullmatch(scalar.text) is None:
            self._problems.add(
                scalar, f"{scalar.text!r} is no time of day", 'write e.g. "06:30"'
            )
            return 0
        hours, _, minutes = scalar.text.partition(":")
        return int(hours) * 60 + int(minutes)

    def _zone(self, scalar: Scalar | None) -> str:
        if scalar is None:
            return "UTC"
        try:
            return ZoneInfo(scalar.text).key
        except (ValueError, OSError, LookupError):
            self._problems.add(
                scalar,
                f"{scalar.text!r} is no time zone",
                'write e.g. "Europe/Berlin" or "UTC"',
            )
            return "UTC"

    def _date(self, node: Node | None, what: str) -> float | None:
        scalar = self._problems.string(node, what)
        if scalar is None:
            return None
        if _DATE.fullmatch(scalar.text) is not None:
            with contextlib.suppress(ValueError):  # say, the 30th of February
                return datetime.fromisoformat(scalar.text).timestamp()
        self._problems.add(
            scalar, f"{scalar.text!r} is no date with time and zone", _A_DATE
        )
        return None


_TIME_KEYS: Final = ("times", "since", "until")


def _has_id(upstream: Upstream) -> bool:
    return bool(upstream.namespace and upstream.service_account)


def _gives_something(role: Role, upstream: Upstream) -> bool:
    permissions = [
        permission
        for permission in role.permissions
        if permission.holds_on(upstream.name)
    ]
    if upstream.kind is UpstreamKind.DATASET:
        return any(
            not upstream.datasets.keys().isdisjoint(permission.datasets)
            for permission in permissions
        )
    if upstream.kind is UpstreamKind.OPENAI:
        # None of its calls names a version; what is not about one model needs none.
        return any(
            not OPENAI_ACTIONS.isdisjoint(permission.actions)
            and (not permission.versions or Action.HEALTH in permission.actions)
            for permission in permissions
        )
    # And none of Triton's own names an adapter.
    return any(
        not DATASET_ACTIONS.issuperset(permission.actions)
        and (
            not permission.adapters or not SERVER_ACTIONS.isdisjoint(permission.actions)
        )
        for permission in permissions
    )
