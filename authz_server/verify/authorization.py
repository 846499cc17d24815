"""AuthorizationPolicy as Istio documents it.

What a proxy can't know from a call's peer, port, method, path and host is not read:
an object with such a condition means nothing certain here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from authz_server.verify.calls import WireCall
from authz_server.verify.fields import Fields, UnreadableError
from authz_server.verify.objects import ClusterObject

LOCAL: Final = "cluster.local"
"""In a principal of five parts, the mesh's own trust domain."""

_SPIFFE: Final = "spiffe://"
_PARTS: Final = 5  # TD/ns/NS/sa/SA


@dataclass(frozen=True, slots=True)
class MeshDomains:
    """The mesh's own trust domain, then its aliases."""

    names: tuple[str, ...]

    def variants(self, principal: str) -> tuple[str, ...]:
        """Return what istiod makes of a principal: it, or one for each domain."""
        domain, _, rest = principal.partition("/")
        if len(principal.split("/")) != _PARTS or domain == "*":
            return (principal,)
        if domain not in self.names and domain != LOCAL:
            return (principal,)
        return tuple(f"{name}/{rest}" for name in self.names)


def matches_text(pattern: str, text: str) -> bool:
    """Return whether Istio's exact, prefix, suffix or presence match holds."""
    if pattern == "*":
        return bool(text)
    if pattern.startswith("*"):
        return text.endswith(pattern[1:])
    if pattern.endswith("*"):
        return text.startswith(pattern[:-1])
    return pattern == text


def _matches_path(pattern: str, path: str) -> bool:
    if "{" not in pattern:
        return matches_text(pattern, path)
    parts = re.split(r"(\{\*\*?\})", pattern)
    words = {"{*}": "[^/]+", "{**}": ".*"}
    expression = "".join(words.get(part) or re.escape(part) for part in parts)
    return re.fullmatch(expression, path) is not None


class Principals:
    """A list of principals, as istiod makes matchers of them.

    Args:
        patterns: without scheme. Istio puts it in front, behind a leading wildcard
            too; one that is there already becomes a second one.
    """

    def __init__(self, patterns: Iterable[str], domains: MeshDomains) -> None:
        self._exact: set[str] = set()
        self._others: list[str] = []
        for pattern in patterns:
            for item in domains.variants(pattern):
                if pattern == "*" or item.startswith("*"):
                    self._others.append(item)
                elif item.endswith("*"):
                    self._others.append(_SPIFFE + item)
                else:
                    self._exact.add(_SPIFFE + item)

    def match(self, principal: str) -> bool:
        """Return whether one of them is `principal`, without scheme; empty for none."""
        if not principal:
            return False
        name = _SPIFFE + principal
        return name in self._exact or any(
            matches_text(item, name) for item in self._others
        )


def _matches_namespace(pattern: str, principal: str) -> bool:
    found = re.search(r"/ns/([^/]+)/", principal)
    return found is not None and matches_text(pattern, found[1])


def _matches_account(pattern: str, principal: str) -> bool:
    namespace, _, account = pattern.partition("/")
    return principal.endswith(f"/ns/{namespace}/sa/{account}")


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """Callers; each field that is there must match, and each ``not`` one must not."""

    fields: tuple[tuple[str, tuple[str, ...]], ...]
    _known: dict[tuple[str, MeshDomains], Principals] = field(default_factory=dict)

    def matches(self, principal: str, domains: MeshDomains) -> bool:
        """Return whether `principal`, without scheme, is one; empty for none."""
        return all(
            self._has(name, values, principal, domains) is not name.startswith("not")
            for name, values in self.fields
        )

    def _has(
        self, name: str, values: tuple[str, ...], principal: str, domains: MeshDomains
    ) -> bool:
        if "rincipals" in name:
            # Lists of them are long, and asked about many callers.
            key = (name, domains)
            if key not in self._known:
                self._known[key] = Principals(values, domains)
            return self._known[key].match(principal)
        matches = _matches_namespace if "amespaces" in name else _matches_account
        return any(matches(value, principal) for value in values)


@dataclass(frozen=True, slots=True)
class Target:
    """Calls, in the same way."""

    fields: tuple[tuple[str, tuple[str, ...]], ...]

    @property
    def has_l7(self) -> bool:
        """Whether it looks at more than the port."""
        return any("orts" not in name for name, _ in self.fields)

    def matches(self, call: WireCall) -> bool:
        """Return whether `call` is one."""
        return all(
            any(_matches_call(name, value, call) for value in values)
            is not name.startswith("not")
            for name, values in self.fields
        )


def _matches_call(name: str, value: str, call: WireCall) -> bool:
    match name.removeprefix("not").lower():
        case "ports":
            return value == str(call.port)
        case "methods":
            return matches_text(value, call.method)
        case "paths":
            return _matches_path(value, call.path)
        case _:
            return matches_text(value.lower(), call.host.lower())


@dataclass(frozen=True, slots=True, eq=False)
class AuthorizationRule:
    """`sources` may, or may not, do `targets`; none of either for all."""

    sources: tuple[Source, ...]
    targets: tuple[Target, ...]

    def has_source(self, principal: str, domains: MeshDomains) -> bool:
        """Return whether the caller is one of its sources."""
        return not self.sources or any(
            item.matches(principal, domains) for item in self.sources
        )

    def has_target(self, call: WireCall, *, is_l4: bool) -> bool:
        """Return whether the call is one of its targets.

        Args:
            is_l4: ztunnel judges it, to which a target with more than ports is none.
        """
        return not self.targets or any(
            item.matches(call) for item in self.targets if not (is_l4 and item.has_l7)
        )


@dataclass(frozen=True, slots=True, eq=False)
class AuthorizationPolicy:
    """One object.

    Attributes:
        action: ``ALLOW``, ``DENY`` or ``CUSTOM``.
        provider: whom CUSTOM asks.
    """

    origin: ClusterObject
    labels: Mapping[str, str]
    action: str
    provider: str
    rules: tuple[AuthorizationRule, ...]

    def applies(self, namespace: str, labels: Mapping[str, str], root: str) -> bool:
        """Return whether it holds for pods with `labels`."""
        return self.origin.namespace in {namespace, root} and all(
            labels.get(key) == value for key, value in self.labels.items()
        )


_SOURCE_FIELDS: Final = (
    *("principals", "notPrincipals", "namespaces", "notNamespaces"),
    *("serviceAccounts", "notServiceAccounts"),
)
_TARGET_FIELDS: Final = (
    *("ports", "notPorts", "methods", "notMethods", "paths", "notPaths"),
    *("hosts", "notHosts"),
)


def read_authorization(item: ClusterObject) -> AuthorizationPolicy | None:
    """Return what `item` says; None if it only writes a log.

    Raises:
        UnreadableError: if it holds what nothing is known about, or Istio refuses it.
    """
    spec = Fields(item.spec, "spec")
    spec.only("selector", "action", "provider", "rules")
    action = spec.text("action", "ALLOW")
    if action == "AUDIT":
        return None
    if action not in {"ALLOW", "DENY", "CUSTOM"}:
        raise UnreadableError(f"spec.action {action!r} is not known")
    provider = spec.child("provider")
    if (provider is not None) is not (action == "CUSTOM"):
        raise UnreadableError("a provider goes with the action CUSTOM, and only there")
    rules = tuple(_rule(rule, item) for rule in spec.children("rules"))
    if action == "CUSTOM" and any(rule.sources for rule in rules):
        raise UnreadableError(
            "Istio refuses CUSTOM with sources: it has to ask before it knows them"
        )
    return AuthorizationPolicy(
        item,
        selected(spec),
        action,
        provider.text("name") if provider is not None else "",
        rules,
    )


def selected(spec: Fields) -> dict[str, str]:
    """Return the labels of an object's selector; without one, none."""
    selector = spec.child("selector")
    if selector is None:
        return {}
    selector.only("matchLabels")
    return selector.labels("matchLabels")


def _rule(fields: Fields, item: ClusterObject) -> AuthorizationRule:
    fields.only("from", "to")
    sources = []
    for part in fields.children("from"):
        part.only("source")
        source = part.child("source") or Fields({}, "source")
        source.only(*_SOURCE_FIELDS)
        sources.append(Source(_lists(source, _SOURCE_FIELDS, item.namespace)))
    targets = []
    for part in fields.children("to"):
        part.only("operation")
        operation = part.child("operation") or Fields({}, "operation")
        operation.only(*_TARGET_FIELDS)
        targets.append(Target(_lists(operation, _TARGET_FIELDS)))
    return AuthorizationRule(tuple(sources), tuple(targets))


def _lists(
    fields: Fields, names: Iterable[str], namespace: str = ""
) -> tuple[tuple[str, tuple[str, ...]], ...]:
    found = []
    for name in names:
        values = fields.texts(name)
        if "ccounts" in name:
            # A name alone is an account of the object's own namespace.
            values = tuple(v if "/" in v else f"{namespace}/{v}" for v in values)
        if values:
            found.append((name, values))
    return tuple(found)
