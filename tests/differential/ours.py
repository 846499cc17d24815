"""What authz-server makes of a request: from a CheckRequest to a call or a denial."""

from __future__ import annotations

import dataclasses

from checks import CAMERA
from differential.case import Case
from differential.messages import field, number_field
from parts import example_config

from authz_server.assembly import extraction_plan
from authz_server.errors import RequestError
from authz_server.facts import Facts, Plan, extract
from authz_server.operations.classify import classify
from authz_server.operations.operation import Call
from authz_server.operations.upstreams import UpstreamIndex

PLAN = extraction_plan(example_config())
_INDEX = UpstreamIndex(triton=frozenset({"triton"}))


@dataclasses.dataclass(frozen=True, slots=True)
class Judgement:
    """A call, or the reason of a denial.

    Attributes:
        call: None for a denial.
        why: the reason and the message of the denial.
    """

    call: Call | None
    why: str = ""

    def __str__(self) -> str:
        if self.call is None:
            return self.why
        call = self.call
        return f"{call.action} {call.scope} {call.model!r} {call.version!r}"


def judge(raw: bytes) -> Judgement:
    """Return what authz-server says to the CheckRequest `raw`, policy apart."""
    try:
        key = extract(raw, PLAN)[0]
    except RequestError as error:
        return Judgement(None, f"{error.reason}: {error}")
    return judge_facts(key)


def judge_facts(key: bytes) -> Judgement:
    """Return what authz-server says to canonical facts, policy apart."""
    try:
        facts = Facts.decode(key)
        return Judgement(classify(facts, _INDEX, trust_host=False).call)
    except RequestError as error:
        return Judgement(None, f"{error.reason}: {error}")


def as_envoy_asks(case: Case) -> bytes:
    """Return the CheckRequest that Envoy would write if it let `case` pass untouched.

    HTTP bodies are not sent along, as in the configurations of ``envoy/``. Written by
    hand: the typed messages cannot hold bytes that are not UTF-8.
    """
    body = case.body if case.is_grpc else b""
    headers = b"".join(
        field(1, field(1, name.lower()) + field(3, value))
        for name, value in case.headers
    )
    http = (
        field(1, b"1")
        + field(2, case.method)
        + field(4, case.path)
        + field(5, b"localhost")
        + number_field(9, len(body))
        + field(12, body)
        + field(13, headers)
    )
    source = field(4, CAMERA.encode())
    route = field(1, b"upstream") + field(2, b"triton")
    return field(1, field(1, source) + field(4, field(2, http)) + field(10, route))


def path_in(raw: bytes) -> bytes:
    """Return the path that the CheckRequest `raw` asks about."""
    return Facts.decode(extract(raw, Plan())[0]).path
