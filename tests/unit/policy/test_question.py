import json

import pytest
from checks import CAMERA, check_request

from authz_server.errors import Reason, RequestError
from authz_server.facts import Facts, Plan, extract
from authz_server.identity.identify import Identity
from authz_server.identity.spiffe_id import SpiffeId
from authz_server.operations.actions import Action
from authz_server.operations.operation import Call, Operation, Scope
from authz_server.policy.question import build_question

OPERATION = Operation(Call(Action.INFERENCE, Scope.MODEL, "m", "1"), "triton")


def question(headers: list[tuple[str, bytes]]) -> dict[str, object]:
    raw = bytes(check_request(raw_headers=headers, path="/v2/x?token=1"))
    facts = Facts.decode(extract(raw, Plan(headers=("x-line", "x-role")))[0])
    identity = Identity(SpiffeId.parse(CAMERA))
    document: dict[str, object] = json.loads(build_question(identity, OPERATION, facts))
    return document


def test_a_policy_may_ask_about_these_things_and_no_others() -> None:
    assert question([("x-role", "inspect\u00f6r".encode()), ("cookie", b"c")]) == {
        "principal": {
            "id": CAMERA,
            "trust_domain": "factory.example",
            "path": ["ns", "line1", "sa", "camera"],
        },
        "user": None,
        "operation": {
            "action": "inference",
            "scope": "model",
            "model": "m",
            "version": "1",
            "adapter": "",
            "upstream": "triton",
            "dataset": "",
        },
        "http": {
            "method": "POST",
            "path": "/v2/x",
            "host": "triton.factory.example",
            "headers": {"x-role": "inspect\u00f6r"},
        },
        "time": {"open": []},
    }


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        ([("x-role", b"user"), ("x-role", b"admin")], Reason.HEADER_DUPLICATE),
        ([("x-role", b"same"), ("x-role", b"same")], Reason.HEADER_DUPLICATE),
        ([("x-role", b"\xff")], Reason.REQUEST_MALFORMED),
    ],
)
def test_a_header_that_can_be_read_in_two_ways_is_refused(
    headers: list[tuple[str, bytes]], reason: Reason
) -> None:
    with pytest.raises(RequestError) as caught:
        question(headers)
    assert caught.value.reason is reason
