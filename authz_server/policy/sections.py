"""Reads the upstreams and groups of an access policy; roles are next door.

Each reader takes nodes, notes every problem, and returns what it could read. A value
is used only if no problem was found anywhere, so what is returned beside a problem
needs no care. References between sections are `authz_server.policy.document`'s.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, TypeVar

from authz_server.errors import SpiffeIdError
from authz_server.identity.spiffe_id import MAX_ID_BYTES, SpiffeId, TrustDomain
from authz_server.identity.spiffe_pattern import ANY_SEGMENT, SpiffePattern
from authz_server.policy.model import (
    Group,
    Upstream,
    UpstreamKind,
    UserClaim,
    Workload,
)
from authz_server.policy.nodes import Node, Problems, Scalar, Sequence, suggest
from authz_server.policy.readings import Readings

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

_MAX_LABEL: Final = 63
_MAX_HOST: Final = 253

# These names end up in Kubernetes names: a DNS label (RFC 1123 §2.1).
_NAME: Final = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", re.ASCII)
_HOST: Final = re.compile(
    r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*", re.ASCII
)
# Kubernetes documentation, "Labels and Selectors", syntax and character set.
_LABEL: Final = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?", re.ASCII)
_PATH: Final = re.compile(r"(/[A-Za-z0-9._~-]+)+", re.ASCII)
# OpenID Connect Core §2: an https URL without query and fragment.
_ISSUER: Final = re.compile(r"https://[!-~]+", re.ASCII)

# Nothing that may stand in a model's name, or that `parse_path` refuses: so one text
# names one model and one adapter.
_SEPARATOR: Final = re.compile(r"[!$&'()*+,:=@^|~]{1,8}", re.ASCII)

_KEYS_OF_ONE_KIND: Final = {
    "datasets": UpstreamKind.DATASET,
    "loraSeparator": UpstreamKind.OPENAI,
}

_NAME_MEND: Final = f"use a-z, 0-9 and '-' inside, at most {_MAX_LABEL} characters"

_Value = TypeVar("_Value")


def read_name(problems: Problems, scalar: Scalar | None, what: str) -> str:
    """Return a name that Kubernetes would take."""
    if scalar is None:
        return ""
    if len(scalar.text) > _MAX_LABEL or _NAME.fullmatch(scalar.text) is None:
        problems.add(scalar, f"{what} {scalar.text!r} is not a name", _NAME_MEND)
    return scalar.text


def read_named(
    problems: Problems,
    node: Node | None,
    what: str,
    read: Callable[[str, Node], _Value],
) -> dict[str, _Value]:
    """Return a mapping from names of the author's to what `read` makes of the rest."""
    values = {}
    for key, value in problems.entries(node, what):
        name = read_name(problems, key, f"the key in {what}")
        values[name] = read(name, value)
    return values


def read_labels(problems: Problems, node: Node | None) -> dict[str, str]:
    """Return a pod selector: labels that Kubernetes would take."""
    if node is None:
        return {}
    labels: dict[str, str] = {}
    entries = problems.entries(node, "podSelector")
    if not entries:
        problems.add(node, "podSelector is empty", "leave the key out")
    for key, value in entries:
        label = problems.string(value, f"label {key.text!r}")
        prefix, slash, name = key.text.rpartition("/")
        if not _is_label(name) or (slash and _HOST.fullmatch(prefix) is None):
            problems.add(key, f"{key.text!r} is not a label key", "write e.g. app")
        if label is None:
            continue
        if not _is_label(label.text):
            problems.add(
                label, f"{label.text!r} is not a label value", "write e.g. triton"
            )
        labels[key.text] = label.text
    return labels


class SectionReader:
    """Reads upstreams and groups of a policy with these trust domains.

    Args:
        trust_domain: the policy's own; None if it is unreadable itself.
        trust_domains: every one whose workloads may be named; empty to check none.
        readings: of groups with these trust domains.
    """

    def __init__(
        self,
        problems: Problems,
        trust_domain: TrustDomain | None,
        trust_domains: Collection[TrustDomain],
        readings: Readings[Group],
    ) -> None:
        self._problems = problems
        self._trust_domain = trust_domain
        self._trust_domains = trust_domains
        self._readings = readings

    # Upstreams.

    def upstream(self, name: str, node: Node) -> Upstream:
        """Return one upstream."""
        what = f"upstream {name!r}"
        fields = self._problems.fields(
            node,
            what,
            ("kind",),
            (
                *("namespace", "podSelector", "serviceAccount", "hosts"),
                *("datasets", "loraSeparator"),
            ),
        )
        kind = self._kind(fields.get("kind"), what)
        datasets = self._datasets(fields.get("datasets"), what)
        if kind is UpstreamKind.DATASET and "datasets" not in fields:
            self._problems.add(
                node, f"{what} is of kind dataset and has no 'datasets'", "add them"
            )
        for key, owner in _KEYS_OF_ONE_KIND.items():
            if kind not in {owner, None} and key in fields:
                self._problems.add(
                    fields[key],
                    f"{what} is of kind {kind}, which has no {key}",
                    f"move it to an upstream of kind {owner}",
                )
        for key in ("podSelector", "serviceAccount"):
            if key in fields and "namespace" not in fields:
                self._problems.add(
                    fields[key], f"{what} has a {key} in no namespace", "add namespace"
                )
        return Upstream(
            name=name,
            kind=kind or UpstreamKind.TRITON,
            namespace=self._optional_name(fields.get("namespace"), "namespace"),
            pod_selector=read_labels(self._problems, fields.get("podSelector")),
            service_account=self._optional_name(
                fields.get("serviceAccount"), "serviceAccount"
            ),
            hosts=self._hosts(
                fields.get("hosts"), what, may_hold_buckets=kind is UpstreamKind.DATASET
            ),
            datasets=datasets,
            lora_separator=self._separator(fields.get("loraSeparator")),
        )

    def _separator(self, node: Node | None) -> str:
        separator = self._problems.string(node, "loraSeparator")
        if separator is None:
            return ""
        if _SEPARATOR.fullmatch(separator.text) is None:
            self._problems.add(
                separator,
                f"{separator.text!r} could be part of a model's name or of a path",
                'write ":", here and in --lora-separator',
            )
        return separator.text

    def _kind(self, node: Node | None, what: str) -> UpstreamKind | None:
        scalar = self._problems.string(node, f"kind of {what}")
        if scalar is None:
            return None
        try:
            return UpstreamKind(scalar.text)
        except ValueError:
            self._problems.add(
                scalar,
                f"unknown kind {scalar.text!r} of {what}",
                suggest(scalar.text, UpstreamKind),
            )
            return None

    def _optional_name(self, node: Node | None, what: str) -> str:
        return read_name(self._problems, self._problems.string(node, what), what)

    def _hosts(
        self, node: Node | None, what: str, *, may_hold_buckets: bool
    ) -> tuple[str, ...]:
        """Read host names; of a store of buckets also ``*.HOST``."""
        hosts = self._problems.strings(node, f"hosts of {what}")
        for host in hosts:
            name = host.text.removeprefix("*.") if may_hold_buckets else host.text
            if len(host.text) > _MAX_HOST or _HOST.fullmatch(name) is None:
                self._problems.add(
                    host,
                    f"{host.text!r} is not a host",
                    "write it in lower case, without scheme, port and final dot",
                )
        return tuple(host.text for host in hosts)

    def _datasets(self, node: Node | None, what: str) -> dict[str, str]:
        if node is None:
            return {}
        datasets: dict[str, str] = {}
        entries = self._problems.entries(node, f"datasets of {what}")
        if not entries:
            self._problems.add(node, f"datasets of {what} are empty", "name one")
        for key, value in entries:
            name = read_name(self._problems, key, f"the key in datasets of {what}")
            path = self._problems.string(value, f"path of dataset {name!r}")
            if path is None:
                continue
            self._path(path, datasets)
            datasets[name] = path.text
        return datasets

    def _path(self, path: Scalar, others: dict[str, str]) -> None:
        segments = path.text.split("/")
        if _PATH.fullmatch(path.text) is None or {".", ".."} & set(segments):
            self._problems.add(
                path,
                f"{path.text!r} is not a dataset's path",
                "write e.g. /datasets/images: from the root, no '/' at the end, "
                "no '.' or '..', nothing that a URL would escape",
            )
        for other, other_path in others.items():
            if (path.text + "/").startswith(other_path + "/") or (
                other_path + "/"
            ).startswith(path.text + "/"):
                self._problems.add(
                    path,
                    f"path {path.text!r} and that of dataset {other!r} overlap",
                    "a path belongs to one dataset; choose another",
                )

    # Groups.

    def group(self, name: str, node: Node) -> Group:
        """Return one group, without the members of those that are nested in it."""
        group = self._readings.recall(node)
        if group is None:
            found = len(self._problems.found)
            group = self._new_group(name, node)
            if len(self._problems.found) > found:
                return group
        self._readings.keep(node, group)
        return group

    def _new_group(self, name: str, node: Node) -> Group:
        what = f"group {name!r}"
        fields = self._problems.fields(
            node, what, (), ("spiffe", "workloads", "users", "groups")
        )
        if not {"spiffe", "users", "groups"} & fields.keys():
            self._problems.add(
                node, f"{what} has no members", "add 'spiffe:', 'users:' or 'groups:'"
            )
        spiffe = self._patterns(fields.get("spiffe"), what)
        if "workloads" in fields and "spiffe" not in fields:
            self._problems.add(
                fields["workloads"],
                f"{what} has workloads but no SPIFFE IDs",
                "add 'spiffe:'",
            )
        return Group(
            name=name,
            spiffe=spiffe,
            workloads=tuple(
                self._workload(item, what, spiffe)
                for item in self._problems.items(
                    fields.get("workloads"), f"workloads of {what}"
                )
            ),
            users=tuple(
                self._user(item, what)
                for item in self._problems.items(
                    fields.get("users"), f"users of {what}"
                )
            ),
            groups=tuple(
                scalar.text
                for scalar in self._problems.strings(
                    fields.get("groups"), f"groups of {what}"
                )
            ),
        )

    def _patterns(self, node: Node | None, what: str) -> tuple[SpiffePattern, ...]:
        known = {trust_domain.name for trust_domain in self._trust_domains}
        return _faultless(node, known) or self._checked_patterns(node, what)

    def _checked_patterns(
        self, node: Node | None, what: str
    ) -> tuple[SpiffePattern, ...]:
        patterns = []
        for scalar in self._problems.strings(node, f"spiffe of {what}"):
            try:
                pattern = SpiffePattern.parse(scalar.text)
            except SpiffeIdError as error:
                self._problems.add(
                    scalar,
                    f"{scalar.text!r}: {error}",
                    "write e.g. spiffe://factory.example/ns/line1/sa/*",
                )
                continue
            if len(scalar.text) > MAX_ID_BYTES:
                self._problems.add(
                    scalar, "the pattern is longer than any SPIFFE ID", "shorten it"
                )
            if self._trust_domains and pattern.trust_domain not in self._trust_domains:
                self._problems.add(
                    scalar,
                    f"trust domain {pattern.trust_domain} is neither trustDomain nor "
                    "in federatesWith",
                    suggest(
                        pattern.trust_domain.name,
                        [trust_domain.name for trust_domain in self._trust_domains],
                    ),
                )
            patterns.append(pattern)
        return tuple(patterns)

    def _workload(
        self, node: Node, what: str, patterns: tuple[SpiffePattern, ...]
    ) -> Workload:
        fields = self._problems.fields(
            node,
            f"a workload of {what}",
            ("namespace",),
            ("podSelector", "serviceAccount", "hostNetwork"),
        )
        workload = Workload(
            namespace=self._optional_name(fields.get("namespace"), "namespace"),
            pod_selector=read_labels(self._problems, fields.get("podSelector")),
            service_account=self._optional_name(
                fields.get("serviceAccount"), "serviceAccount"
            ),
            host_network=self._problems.boolean(
                fields.get("hostNetwork"), "hostNetwork"
            ),
        )
        spiffe_id = self._istio_id(workload, patterns)
        if spiffe_id is not None and not any(
            pattern.matches(spiffe_id) for pattern in patterns
        ):
            self._problems.add(
                node,
                f"the workload's ID would be {spiffe_id}, which no pattern of {what} "
                "matches",
                "correct serviceAccount or namespace, or add the ID to 'spiffe:'",
            )
        return workload

    def _istio_id(
        self, workload: Workload, patterns: tuple[SpiffePattern, ...]
    ) -> SpiffeId | None:
        """Return the ID that Istio and SPIRE's defaults give `workload`.

        None where the group's patterns follow another scheme: then it says nothing.
        """
        own = [
            pattern
            for pattern in patterns
            if pattern.trust_domain == self._trust_domain
        ]
        if (
            self._trust_domain is None
            or not own
            or _NAME.fullmatch(workload.service_account) is None
            or not all(_is_istio_shaped(pattern) for pattern in own)
        ):
            return None
        try:
            return SpiffeId(
                self._trust_domain,
                ("ns", workload.namespace, "sa", workload.service_account),
            )
        except SpiffeIdError:
            return None  # The name is bad, and noted as that.

    def _user(self, node: Node, what: str) -> UserClaim:
        fields = self._problems.fields(
            node, f"a user of {what}", ("issuer", "claim", "value"), ()
        )
        issuer = self._problems.string(fields.get("issuer"), "issuer")
        if issuer is not None and (
            _ISSUER.fullmatch(issuer.text) is None or {"?", "#"} & set(issuer.text)
        ):
            self._problems.add(
                issuer,
                f"issuer {issuer.text!r} is not an https URL",
                "write the token's 'iss' as it is",
            )
        claim = self._problems.string(fields.get("claim"), "claim")
        value = self._problems.string(fields.get("value"), "value")
        return UserClaim(_text(issuer), _text(claim), _text(value))


def _faultless(
    node: Node | None, trust_domains: Collection[str]
) -> tuple[SpiffePattern, ...]:
    """Return the patterns in a list that nothing is wrong with; else nothing.

    It tells whether something is wrong, not what and where, at a fraction of the cost.
    """
    texts = node.texts() if isinstance(node, Sequence) else None
    if (
        not texts
        or len(set(texts)) < len(texts)
        or len(max(texts, key=len)) > MAX_ID_BYTES
    ):
        return ()
    try:
        patterns = tuple(map(SpiffePattern.parse, texts))
    except SpiffeIdError:
        return ()
    named = {pattern.trust_domain.name for pattern in patterns}
    return patterns if not trust_domains or named <= set(trust_domains) else ()


def _is_label(text: str) -> bool:
    return len(text) <= _MAX_LABEL and _LABEL.fullmatch(text) is not None


def _is_istio_shaped(pattern: SpiffePattern) -> bool:
    """Whether `pattern` is over IDs like ``/ns/NAMESPACE/sa/ACCOUNT``."""
    expected = ("ns", ANY_SEGMENT, "sa", ANY_SEGMENT)
    count = len(pattern.segments)
    return (count < len(expected) if pattern.has_rest else count == len(expected)) and (
        all(
            want in {ANY_SEGMENT, segment}
            for want, segment in zip(expected, pattern.segments, strict=False)
        )
    )


def _text(scalar: Scalar | None) -> str:
    return "" if scalar is None else scalar.text
