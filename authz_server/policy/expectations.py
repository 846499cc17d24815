"""Tables of expected answers, by which a policy is tested.

A table is a YAML file of kind PolicyTest. Each case asks one question and says what
must come of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from authz_server.errors import Reason, SpiffeIdError
from authz_server.identity.spiffe_id import SpiffeId
from authz_server.identity.user_token import User
from authz_server.policy.document import API_VERSION, read_text
from authz_server.policy.engine import Engine
from authz_server.policy.inquiry import (
    Inquiry,
    InquiryError,
    make_operation,
    make_user,
)
from authz_server.policy.model import AccessPolicy
from authz_server.policy.nodes import (
    Node,
    PolicyDocumentError,
    Problems,
    Scalar,
    Sequence,
    suggest,
)
from authz_server.policy.yaml_nodes import compose

KIND: Final = "PolicyTest"

_DECISIONS: Final = {"allow": True, "deny": False}
_ANSWERS: Final = (
    *_DECISIONS,
    Reason.NOT_GRANTED,
    Reason.EXPLICITLY_DENIED,
    Reason.PRINCIPAL_UNKNOWN,
)

_OPERATION: Final = ("action", "model", "version", "adapter", "dataset")


@dataclass(frozen=True, slots=True)
class Case:
    """A question and the answer that is expected.

    Attributes:
        place: in the file.
        expected: ``allow``, ``deny`` or the reason of a denial.
        role: that must be named with the answer; empty for any.
    """

    name: str
    place: str
    inquiry: Inquiry
    expected: str
    role: str = ""


@dataclass(frozen=True, slots=True)
class Failure:
    """A case whose answer is another."""

    case: Case
    answer: str

    def __str__(self) -> str:
        role = f" by role {self.case.role}" if self.case.role else ""
        expected = f"{self.case.expected}{role}"
        return (
            f"{self.case.place}: {self.case.name}: expected {expected}, "
            f"got {self.answer}"
        )


def policy_of(table: Path) -> Path:
    """Return the policy that `table` is about: its key ``policy``, from its folder.

    Raises:
        PolicyDocumentError: if the table cannot be read so far.
    """
    problems = Problems()
    top = _top(table, problems)
    named = problems.string(top.get("policy"), "policy")
    if named is None or problems.found:
        raise PolicyDocumentError(problems.found)
    return table.parent / named.text


def load_cases(table: Path, policy: AccessPolicy, now_s: float) -> tuple[Case, ...]:
    """Return the cases of `table`.

    Args:
        now_s: seconds since the epoch, for cases that name no time.

    Raises:
        PolicyDocumentError: if the file cannot be read, or asks what `policy` does not
            know.
    """
    problems = Problems()
    top = _top(table, problems)
    reader = _CaseReader(problems, policy, now_s)
    items = problems.items(top.get("cases"), "cases", "write a case")
    cases = [reader.read(item) for item in items]
    if problems.found:
        raise PolicyDocumentError(problems.found)
    return tuple(case for case in cases if case is not None)


def failures(
    cases: tuple[Case, ...], policy: AccessPolicy, engine: Engine
) -> Iterator[Failure]:
    """Yield the cases that `engine`, which has `policy` loaded, answers otherwise.

    Raises:
        PolicyError: if a question has no answer.
    """
    for case in cases:
        verdict = case.inquiry.ask(policy, engine)
        is_right = (
            verdict.allow is _DECISIONS[case.expected]
            if case.expected in _DECISIONS
            else verdict.reason == case.expected
        )
        if not is_right or (case.role and verdict.role != case.role):
            role = f" by role {verdict.role}" if verdict.role else ""
            decision = "allow" if verdict.allow else "deny"
            yield Failure(case, f"{decision} ({verdict.reason}){role}")


def _top(table: Path, problems: Problems) -> dict[str, Node]:
    root = compose(read_text(table), str(table), problems)
    if root is None:
        return {}
    top = problems.fields(
        root, "the table", ("apiVersion", "kind", "policy", "cases"), ()
    )
    for key, expected in (("apiVersion", API_VERSION), ("kind", KIND)):
        scalar = problems.string(top.get(key), key)
        if scalar is not None and scalar.text != expected:
            problems.add(scalar, f"{key} is {scalar.text!r}", f"write {expected}")
    return top


class _CaseReader:
    """Reads the cases of one table."""

    def __init__(self, problems: Problems, policy: AccessPolicy, now_s: float) -> None:
        self._problems = problems
        self._policy = policy
        self._now_s = now_s

    def read(self, node: Node) -> Case | None:
        """Return one case; None, with a problem noted, if it asks nothing."""
        fields = self._problems.fields(
            node,
            "a case",
            ("name", "principal", "on", "action", "expect"),
            (*_OPERATION[1:], "user", "at", "headers", "role"),
        )
        name = self._text(fields.get("name"), "name")
        expected = self._expected(fields.get("expect"))
        role = self._text(fields.get("role"), "role")
        inquiry = self._inquiry(node, fields)
        if inquiry is None:
            return None
        place = f"{node.place.source}:{node.place.line}"
        return Case(name, place, inquiry, expected, role)

    def _inquiry(self, node: Node, fields: Mapping[str, Node]) -> Inquiry | None:
        words = {key: self._text(fields.get(key), key) for key in ("on", *_OPERATION)}
        principal = self._problems.string(fields.get("principal"), "principal")
        if principal is None or not words["on"] or not words["action"]:
            return None
        try:
            return Inquiry(
                SpiffeId.parse_workload(principal.text),
                self._user(fields.get("user")),
                make_operation(self._policy, **words),
                self._time(fields.get("at")),
                self._headers(fields.get("headers")),
            )
        except InquiryError as error:
            self._problems.add(node, str(error), "correct the case")
        except SpiffeIdError as error:
            self._problems.add(principal, str(error), "write a workload's SPIFFE ID")
        return None

    def _text(self, node: Node | None, what: str) -> str:
        scalar = self._problems.string(node, what)
        return "" if scalar is None else scalar.text

    def _expected(self, node: Node | None) -> str:
        text = self._text(node, "expect")
        if node is not None and text and text not in _ANSWERS:
            self._problems.add(
                node, f"no policy answers {text!r}", suggest(text, _ANSWERS)
            )
        return text

    def _user(self, node: Node | None) -> User | None:
        if node is None:
            return None
        fields = self._problems.fields(node, "user", ("issuer", "claims"), ())
        claims: dict[str, str | list[str]] = {}
        for key, value in self._problems.entries(fields.get("claims"), "claims"):
            if isinstance(value, Sequence):
                items = self._problems.strings(value, f"claim {key.text!r}")
                claims[key.text] = [item.text for item in items]
            else:
                claims[key.text] = self._text(value, f"claim {key.text!r}")
        return make_user(self._text(fields.get("issuer"), "issuer"), claims)

    def _time(self, node: Node | None) -> float:
        scalar = self._problems.string(node, "at")
        if scalar is None:
            return self._now_s
        try:
            return parse_time(scalar.text)
        except ValueError:
            self._problems.add(
                scalar,
                f"{scalar.text!r} is no time with a zone",
                'write e.g. "2027-01-31T18:00:00+01:00"',
            )
            return self._now_s

    def _headers(self, node: Node | None) -> dict[str, str]:
        return {
            key.text: value.text
            for key, value in self._problems.entries(node, "headers")
            if isinstance(value, Scalar)
        }


def parse_time(text: str) -> float:
    """Return the seconds since the epoch that an ISO 8601 time with a zone means.

    Raises:
        ValueError: if `text` is anything else.
    """
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError("it has no zone")
    return moment.timestamp()
