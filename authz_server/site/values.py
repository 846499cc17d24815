"""Reads the values of a site: each notes what is wrong, and returns what is usable.

What is returned beside a problem is not used, so it needs no care.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable
from typing import Final, TypeVar

from authz_server.errors import SpiffeIdError
from authz_server.identity.spiffe_id import SpiffeId, TrustDomain
from authz_server.policy.nodes import Node, Problems, Scalar, suggest
from authz_server.policy.sections import read_labels, read_name
from authz_server.site.model import Attestor, Mesh, Pods, Shape

# SPIRE joins a selector's type and value by the first colon.
_SELECTOR: Final = re.compile(r"[a-z0-9_]+:[!-~]+( [!-~]+)*", re.ASCII)

_Value = TypeVar("_Value")
_Choice = TypeVar("_Choice", Mesh, Shape, Attestor)


class Values:
    """Reads values, and notes in `problems` what is wrong with them."""

    def __init__(self, problems: Problems) -> None:
        self.problems = problems

    def fields(
        self, node: Node | None, what: str, optional: Iterable[str]
    ) -> dict[str, Node]:
        """Return the known keys of a mapping that may be left out."""
        if node is None:
            return {}
        return self.problems.fields(node, what, (), optional)

    def optional(
        self, node: Node | None, read: Callable[[Node], _Value]
    ) -> _Value | None:
        """Return what `read` makes of a node; None without one."""
        return None if node is None else read(node)

    def text(self, node: Node | None, what: str, default: str) -> str:
        """Return a string."""
        scalar = self.problems.string(node, what)
        return default if scalar is None else scalar.text

    def name(self, node: Node | None, what: str, default: str) -> str:
        """Return a name that Kubernetes would take."""
        scalar = self.problems.string(node, what)
        return read_name(self.problems, scalar, what) or default

    def matching(
        self,
        node: Node | None,
        what: str,
        form: re.Pattern[str],
        default: str,
        example: str,
    ) -> str:
        """Return a string of this form."""
        scalar = self.problems.string(node, what)
        if scalar is None:
            return default
        if form.fullmatch(scalar.text) is None:
            self.problems.add(
                scalar, f"{scalar.text!r} is no {what}", f"write e.g. {example}"
            )
        return scalar.text

    def integer(self, node: Node | None, what: str, most: int, default: int = 1) -> int:
        """Return a whole number from 1 to `most`."""
        if node is None:
            return default
        is_number = isinstance(node, Scalar) and node.kind == "integer"
        text = node.text if isinstance(node, Scalar) else ""
        if not is_number or not text.isdecimal() or not 1 <= int(text) <= most:
            self.problems.add(
                node,
                f"{what} must be a whole number from 1 to {most}",
                f"write e.g. {default}",
            )
            return default
        return int(text)

    def choice(
        self, node: Node | None, what: str, kinds: type[_Choice], default: _Choice
    ) -> _Choice:
        """Return one of `kinds`."""
        scalar = self.problems.string(node, what)
        if scalar is None:
            return default
        try:
            return kinds(scalar.text)
        except ValueError:
            self.problems.add(
                scalar, f"unknown {what} {scalar.text!r}", suggest(scalar.text, kinds)
            )
            return default

    def pods(self, fields: dict[str, Node], default: Pods) -> Pods:
        """Return pods by the keys ``namespace`` and ``podSelector``."""
        labels = default.labels
        if "podSelector" in fields:
            labels = read_labels(self.problems, fields["podSelector"])
        return Pods(
            self.name(fields.get("namespace"), "namespace", default.namespace), labels
        )

    def cidrs(self, node: Node | None, what: str) -> tuple[str, ...]:
        """Return networks, sorted."""
        cidrs = self.problems.strings(node, what)
        for cidr in cidrs:
            try:
                # Strict: bits behind the prefix are refused, as the API server does.
                is_whole = str(ipaddress.ip_network(cidr.text)) == cidr.text
            except ValueError:
                is_whole = False
            if not is_whole:
                self.problems.add(
                    cidr, f"{cidr.text!r} is no network", "write e.g. 10.20.0.0/24"
                )
        return tuple(sorted(cidr.text for cidr in cidrs))

    def selectors(self, node: Node | None, what: str) -> tuple[str, ...]:
        """Return selectors of SPIRE, sorted."""
        selectors = self.problems.strings(node, what)
        for selector in selectors:
            if _SELECTOR.fullmatch(selector.text) is None:
                self.problems.add(
                    selector,
                    f"{selector.text!r} is no selector",
                    "write TYPE:VALUE, e.g. unix:uid:1001",
                )
        return tuple(sorted(selector.text for selector in selectors))

    def spiffe_id(
        self, node: Node, what: str, trust_domain: TrustDomain | None
    ) -> SpiffeId | None:
        """Return an ID of `trust_domain`; None, with a problem noted, if it is none."""
        scalar = self.problems.string(node, what)
        if scalar is None:
            return None
        try:
            spiffe_id = SpiffeId.parse(scalar.text)
        except SpiffeIdError as error:
            self.problems.add(
                scalar, f"{what}: {error}", "write e.g. spiffe://factory.example/box/7"
            )
            return None
        if spiffe_id.trust_domain != trust_domain:
            self.problems.add(
                scalar,
                f"{what} {scalar.text} is not in trust domain {trust_domain}",
                "correct it",
            )
        return spiffe_id
