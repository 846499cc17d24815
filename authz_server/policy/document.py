"""Reads the access policy from YAML, strictly, and reports every problem at once.

What comes out is whole: each name refers to something, each pattern can match, each
grant gives something. The module knows what a policy may say, not what anyone may do.
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import json
from dataclasses import dataclass, field
from itertools import starmap
from typing import TYPE_CHECKING, Final

from authz_server.errors import SpiffeIdError
from authz_server.identity.spiffe_id import TrustDomain
from authz_server.policy.grants import GrantReader
from authz_server.policy.invariants import InvariantReader
from authz_server.policy.json_nodes import nodes_of
from authz_server.policy.model import AccessPolicy, Grant, Group
from authz_server.policy.nested_groups import flatten
from authz_server.policy.nodes import (
    Map,
    Node,
    PolicyDocumentError,
    Problem,
    Problems,
    Scalar,
)
from authz_server.policy.parts import unite
from authz_server.policy.proof import counterexamples
from authz_server.policy.readings import Readings
from authz_server.policy.roles import RoleReader
from authz_server.policy.sections import SectionReader, read_name, read_named
from authz_server.policy.vocabulary import VocabularyError
from authz_server.policy.yaml_nodes import compose

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

__all__ = [
    "PolicyDocumentError",
    "PolicyReader",
    "Problem",
    "load_policy",
    "parse_policy",
    "policy_files",
]

API_VERSION: Final = "authz.edge/v1"
KIND: Final = "AccessPolicy"
_SUFFIXES: Final = (".yaml", ".yml")


def policy_files(path: Path) -> list[Path]:
    """Return the files of the policy at `path`, a file or a folder of its parts."""
    if not path.is_dir():
        return [path]
    return sorted(
        file
        for file in path.iterdir()
        if file.suffix in _SUFFIXES and not file.name.startswith(".")
    )


def load_policy(path: Path) -> AccessPolicy:
    """Return the access policy in the file at `path`, or in the folder of its parts.

    Raises:
        PolicyDocumentError: if a file cannot be read, or they hold anything but a valid
            access policy.
    """
    return load_with_nodes(path)[0]


def load_with_nodes(path: Path) -> tuple[AccessPolicy, Node]:
    """Return what `load_policy` returns, and the nodes that it was read from.

    Raises:
        PolicyDocumentError: as `load_policy`.
    """
    return PolicyReader().load_with_nodes(path)


@dataclass(frozen=True, slots=True)
class _Readings:
    groups: Readings[Group] = field(default_factory=Readings)
    grants: Readings[Grant] = field(default_factory=Readings)

    def end(self) -> None:
        self.groups.end()
        self.grants.end()


@dataclass(frozen=True, slots=True)
class _Part:
    """One of the documents that a policy is in.

    Attributes:
        content: equal for parts that say the same.
        compose: returns its nodes; what is amiss is in the problems.
    """

    source: str
    content: bytes = field(repr=False)
    compose: Callable[[Problems], Node | None] = field(repr=False)

    @classmethod
    def of_file(cls, path: Path) -> _Part:
        """Return what is in a YAML file."""
        source, content = str(path), _content(path)

        def compose_yaml(problems: Problems) -> Node | None:
            return compose(_decoded(content, source), source, problems)

        return cls(source, content, compose_yaml)

    @classmethod
    def of_json(cls, source: str, value: object) -> _Part:
        """Return what JSON says that was parsed."""

        def compose_json(problems: Problems) -> Node | None:
            return nodes_of(value, source, problems)

        return cls(source, json.dumps(value).encode(), compose_json)


@dataclass(frozen=True, slots=True)
class _Known:
    """The nodes of a part's content, by its digest."""

    digest: bytes
    root: Node


class PolicyReader:
    """Reads a policy again and again, and of it only the parts that have changed.

    What it says is what `load_policy` would say. It keeps, of each part, the nodes and
    what was read of them. Members of groups are in them as the policy itself has them,
    so this is small beside the policy. Not for several threads at a time.
    """

    def __init__(self) -> None:
        self._known: dict[str, _Known] = {}
        self._readings = _Readings()

    def load(self, path: Path) -> AccessPolicy:
        """Return the access policy at `path`, a file or the folder of its parts.

        Raises:
            PolicyDocumentError: as `load_policy`.
        """
        return self.load_with_nodes(path)[0]

    def load_with_nodes(self, path: Path) -> tuple[AccessPolicy, Node]:
        """Return what `load` returns, and the nodes that it was read from.

        Raises:
            PolicyDocumentError: as `load_policy`.
        """
        return self._read(map(_Part.of_file, _files(path)))

    def read_json(self, parts: Iterable[tuple[str, object]]) -> AccessPolicy:
        """Return the access policy that `parts` are, JSON that was parsed.

        Args:
            parts: each behind its source, which names it in problems.

        Raises:
            PolicyDocumentError: as `load_policy`.
        """
        return self._read(starmap(_Part.of_json, parts))[0]

    def _read(self, parts: Iterable[_Part]) -> tuple[AccessPolicy, Node]:
        with no_collection():
            problems = Problems()
            roots = self._compose(parts, problems)
            try:
                return _read(problems, roots, self._readings)
            finally:
                self._readings.end()

    def _compose(self, parts: Iterable[_Part], problems: Problems) -> list[Node | None]:
        """Return the roots of all parts, and keep those that nothing is wrong with."""
        roots: list[Node | None] = []
        known: dict[str, _Known] = {}
        for part in parts:
            # Not when it was written: two writes can have the same time.
            digest = hashlib.sha256(part.content).digest()
            before = self._known.get(part.source)
            if before is None or before.digest != digest:
                found = len(problems.found)
                root = part.compose(problems)
                roots.append(root)
                if root is None or len(problems.found) > found:
                    continue
                before = _Known(digest, root)
            else:
                roots.append(before.root)
            known[part.source] = before
        self._known = known
        return roots


def _files(path: Path) -> list[Path]:
    try:
        files = policy_files(path)
    except OSError as error:
        raise _unreadable(path, error) from error
    if not files:
        problem = Problem(
            str(path), 1, 1, "the folder has no part of a policy", "add NAME.yaml"
        )
        raise PolicyDocumentError([problem])
    return files


def read_text(path: Path) -> str:
    """Return what is in the file of a policy, or of what belongs to one.

    Raises:
        PolicyDocumentError: if it cannot be read.
    """
    return _decoded(_content(path), str(path))


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise _unreadable(path, error) from error


def _decoded(content: bytes, source: str) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        column = error.start - error.object.rfind(b"\n", 0, error.start)
        problem = Problem(source, line, column, "not UTF-8", "save the file as UTF-8")
        raise PolicyDocumentError([problem]) from error


def _unreadable(path: Path, error: OSError) -> PolicyDocumentError:
    problem = Problem(
        str(path),
        1,
        1,
        f"cannot read: {error.strerror}",
        "check path and permissions",
    )
    return PolicyDocumentError([problem])


def parse_policy(text: str, source: str) -> AccessPolicy:
    """Return the access policy that `text` spells; `source` names it in problems.

    Raises:
        PolicyDocumentError: if `text` is anything but a valid access policy.
    """
    with no_collection():
        problems = Problems()
        root = compose(text, source, problems)
        return _read(problems, [root], _Readings())[0]


@contextlib.contextmanager
def no_collection() -> Iterator[None]:
    """Keep the garbage collector from walking a large policy again and again.

    Nothing of it is garbage while it is read, or emitted, and that took a third of the
    time.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _read(
    problems: Problems, roots: list[Node | None], readings: _Readings
) -> tuple[AccessPolicy, Node]:
    whole = [root for root in roots if root is not None]
    if len(whole) == len(roots):
        root = unite(problems, whole)
        policy = _read_policy(problems, root, readings)
        if policy is not None and not problems.found:
            return policy, root
    raise PolicyDocumentError(problems.found)


def _read_policy(
    problems: Problems, root: Node, readings: _Readings
) -> AccessPolicy | None:
    """Return the policy; None, with a problem noted, where it has no basis to stand on.

    Raises nothing: what is wrong is in `problems`.
    """
    top = problems.fields(
        root, "the policy", ("apiVersion", "kind", "metadata", "spec"), ()
    )
    read_constant(problems, top.get("apiVersion"), "apiVersion", API_VERSION)
    read_constant(problems, top.get("kind"), "kind", KIND)
    name = ""
    if "metadata" in top:
        metadata = problems.fields(top["metadata"], "metadata", ("name",), ())
        scalar = problems.string(metadata.get("name"), "metadata.name")
        name = read_name(problems, scalar, "metadata.name")
    if "spec" not in top:
        return None
    spec = problems.fields(
        top["spec"],
        "spec",
        ("trustDomain", "upstreams", "groups", "roles", "grants"),
        ("federatesWith", "denials", "admins", "invariants"),
    )
    trust_domain = _trust_domain(
        problems, problems.string(spec.get("trustDomain"), "trustDomain")
    )
    federates_with = _federates_with(problems, spec.get("federatesWith"), trust_domain)
    known = () if trust_domain is None else (trust_domain, *federates_with)
    readings.groups.begin((trust_domain, known))
    readings.grants.begin()
    reader = SectionReader(problems, trust_domain, known, readings.groups)
    upstreams = read_named(
        problems, spec.get("upstreams"), "upstreams", reader.upstream
    )
    if isinstance(spec.get("upstreams"), Map) and not upstreams:
        problems.add(spec["upstreams"], "upstreams are empty", "name at least one")
    datasets = {name for upstream in upstreams.values() for name in upstream.datasets}
    groups = read_named(problems, spec.get("groups"), "groups", reader.group)
    groups = flatten(problems, spec.get("groups"), groups)
    role_reader = RoleReader(problems, datasets, upstreams)
    roles = read_named(problems, spec.get("roles"), "roles", role_reader.role)
    grant_reader = GrantReader(problems, groups, roles, upstreams, readings.grants)
    grants = grant_reader.grants(spec.get("grants"), "grants")
    denials = grant_reader.grants(spec.get("denials"), "denials")
    admins = grant_reader.admins(spec.get("admins"))
    grant_reader.check_use()
    invariants = InvariantReader(
        problems, groups, upstreams, datasets, known
    ).invariants(spec.get("invariants"))
    if trust_domain is None:
        return None
    policy = AccessPolicy(
        name=name,
        trust_domain=trust_domain,
        federates_with=federates_with,
        upstreams=upstreams,
        groups=groups,
        roles=roles,
        grants=grants,
        denials=denials,
        admins=admins,
        invariants=invariants,
    )
    if not problems.found:
        _prove(problems, policy, spec.get("invariants"))
    return policy


def _prove(problems: Problems, policy: AccessPolicy, node: Node | None) -> None:
    """Note each invariant that does not hold."""
    try:
        broken = {found.invariant: found for found in counterexamples(policy)}
    except VocabularyError as error:
        if node is not None:
            problems.add(node, "the invariants cannot be proved", str(error))
        return
    items = problems.items(node, "invariants")
    for item, invariant in zip(items, policy.invariants, strict=True):
        if invariant in broken:
            problems.add(
                item,
                f"invariant {invariant.name!r} does not hold: {broken[invariant].text}",
                "change what gives it, or the invariant",
            )


def read_constant(
    problems: Problems, node: Node | None, what: str, expected: str
) -> None:
    """Note a problem if `node` is there and not `expected`."""
    scalar = problems.string(node, what)
    if scalar is not None and scalar.text != expected:
        problems.add(scalar, f"{what} is {scalar.text!r}", f"write {expected}")


def _trust_domain(problems: Problems, scalar: Scalar | None) -> TrustDomain | None:
    if scalar is None:
        return None
    try:
        return TrustDomain(scalar.text)
    except SpiffeIdError as error:
        problems.add(scalar, str(error), "write e.g. factory.example")
        return None


def _federates_with(
    problems: Problems, node: Node | None, own: TrustDomain | None
) -> tuple[TrustDomain, ...]:
    federated = []
    for scalar in problems.strings(node, "federatesWith"):
        trust_domain = _trust_domain(problems, scalar)
        if trust_domain is None:
            continue
        if trust_domain == own:
            problems.add(scalar, "this is the trustDomain itself", "take it out")
        federated.append(trust_domain)
    return tuple(federated)
