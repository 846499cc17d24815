"""Reads the invariants of an access policy: what must never be so."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final

from authz_server.errors import SpiffeIdError
from authz_server.identity.spiffe_id import TrustDomain
from authz_server.identity.spiffe_pattern import SpiffePattern
from authz_server.operations.actions import DATASET_ACTIONS, Action
from authz_server.policy.model import Deeds, Invariant
from authz_server.policy.nodes import Map, Node, Problems, suggest
from authz_server.policy.references import check_references, read_references
from authz_server.policy.roles import read_models, read_versions
from authz_server.policy.sections import read_name

_BOTH: Final = 2
_ACTIONS: Final = frozenset(action.value for action in Action)


class InvariantReader:
    """Reads invariants, which may name these groups, upstreams and so on."""

    def __init__(
        self,
        problems: Problems,
        groups: Collection[str],
        upstreams: Collection[str],
        datasets: Collection[str],
        trust_domains: Collection[TrustDomain],
    ) -> None:
        self._problems = problems
        self._trust_domains = trust_domains
        self._groups = groups
        self._upstreams = upstreams
        self._datasets = datasets

    def invariants(self, node: Node | None) -> tuple[Invariant, ...]:
        """Return the list of invariants."""
        items = self._problems.items(node, "invariants")
        found = [self._invariant(item) for item in items]
        names: set[str] = set()
        for item, invariant in zip(items, found, strict=True):
            if invariant.name in names:
                self._problems.add(
                    item,
                    f"invariant {invariant.name!r} is there twice",
                    "rename one",
                )
            names.add(invariant.name)
        return tuple(found)

    def _invariant(self, node: Node) -> Invariant:
        fields = self._problems.fields(
            node, "an invariant", ("name",), ("never", "neverBoth", "outside", "by")
        )
        name = read_name(
            self._problems,
            self._problems.string(fields.get("name"), "name of an invariant"),
            "name of an invariant",
        )
        what = f"invariant {name!r}"
        if len({"never", "neverBoth"} & fields.keys()) != 1 and isinstance(node, Map):
            self._problems.add(
                node,
                f"{what} needs one of 'never' and 'neverBoth'",
                "say what must never be",
            )
        return Invariant(
            name=name,
            never=self._never(fields, what),
            outside=self._names(fields.get("outside"), what, "group", self._groups),
            by=self._patterns(fields.get("by"), what),
        )

    def _never(self, fields: Mapping[str, Node], what: str) -> tuple[Deeds, ...]:
        if "never" in fields:
            return (self._deeds(fields["never"], f"'never' of {what}"),)
        if "neverBoth" not in fields:
            return ()
        items = self._problems.items(fields["neverBoth"], f"'neverBoth' of {what}")
        if items and len(items) != _BOTH:
            self._problems.add(
                fields["neverBoth"],
                f"'neverBoth' of {what} has {len(items)} entries",
                "write two",
            )
        return tuple(self._deeds(item, f"'neverBoth' of {what}") for item in items)

    def _deeds(self, node: Node, what: str) -> Deeds:
        fields = self._problems.fields(
            node, what, (), ("actions", "models", "versions", "datasets", "on")
        )
        if isinstance(node, Map) and not node.entries:
            self._problems.add(node, f"{what} is empty", "name an action, or more")
        actions = self._problems.strings(fields.get("actions"), f"actions of {what}")
        check_references(self._problems, actions, "action", _ACTIONS)
        models = read_models(self._problems, fields.get("models"), what)
        versions = read_versions(self._problems, fields.get("versions"), what)
        if versions and not models:
            self._problems.add(
                fields["versions"], f"{what} has versions of no model", "add 'models:'"
            )
        known = [scalar.text for scalar in actions if scalar.text in _ACTIONS]
        on_datasets = DATASET_ACTIONS.intersection(map(Action, known))
        for key, fitting, noun in (
            ("models", set(known) - on_datasets, "model"),
            ("datasets", on_datasets, "dataset"),
        ):
            if key in fields and known and not fitting:
                self._problems.add(
                    fields[key],
                    f"{what} has {key} but no {noun} action, so it is about nothing",
                    f"take {key} out, or name another action",
                )
        return Deeds(
            actions=tuple(map(Action, known)),
            models=models,
            versions=versions,
            datasets=self._names(
                fields.get("datasets"), what, "dataset", self._datasets
            ),
            on=self._names(fields.get("on"), what, "upstream", self._upstreams),
        )

    def _patterns(self, node: Node | None, what: str) -> tuple[SpiffePattern, ...]:
        patterns = []
        for scalar in self._problems.strings(node, f"'by' of {what}"):
            try:
                pattern = SpiffePattern.parse(scalar.text)
            except SpiffeIdError as error:
                self._problems.add(
                    scalar, f"{scalar.text!r}: {error}", "write e.g. spiffe://td/**"
                )
                continue
            patterns.append(pattern)
            if self._trust_domains and pattern.trust_domain not in self._trust_domains:
                self._problems.add(
                    scalar,
                    f"no caller of {pattern.trust_domain} gets in, so {what} is about "
                    "nobody",
                    suggest(pattern.trust_domain.name, map(str, self._trust_domains)),
                )
        return tuple(patterns)

    def _names(
        self, node: Node | None, what: str, section: str, known: Collection[str]
    ) -> tuple[str, ...]:
        return read_references(
            self._problems, node, f"{section}s of {what}", section, known
        )
