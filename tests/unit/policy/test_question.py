import dataclasses
import json
import math

import pytest
from checks import CAMERA, check_request
from hypothesis import given
from hypothesis import strategies as st

from authz_server.errors import PolicyError, Reason, RequestError
from authz_server.facts import Facts, Plan, extract
from authz_server.identity.identify import Identity
from authz_server.identity.spiffe_id import SpiffeId
from authz_server.identity.user_token import User
from authz_server.operations.actions import Action
from authz_server.operations.operation import Call, Operation, Scope
from authz_server.operations.upstreams import normalize_host
from authz_server.policy.building import shipped_wasm
from authz_server.policy.engine import Engine, JsonObject
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


TEXT = st.text(st.characters() | st.sampled_from('"\\\x00\x1f\x7f\ud800\udc00/<'))
NAMES = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,9}", fullmatch=True)
CLAIMS = st.dictionaries(TEXT, st.none() | TEXT | st.floats() | st.lists(TEXT))
USERS = st.builds(User, TEXT, TEXT, CLAIMS, st.just(0.0), st.just(1.0), TEXT)
OPERATIONS = st.builds(
    Operation,
    st.builds(
        Call, st.sampled_from(Action), st.just(Scope.MODEL), NAMES, st.just("1"), NAMES
    ),
    TEXT,
    TEXT,
)


@given(
    user=st.none() | USERS,
    operation=OPERATIONS,
    path=st.text(st.characters(max_codepoint=127)),
    host=st.binary(),
    headers=st.dictionaries(TEXT, st.text()),
    open_times=st.lists(TEXT),
)
def test_a_question_is_what_json_makes_of_it(
    user: User | None,
    operation: Operation,
    path: str,
    host: bytes,
    headers: dict[str, str],
    open_times: list[str],
) -> None:
    identity = Identity(SpiffeId.parse(CAMERA), user)
    facts = dataclasses.replace(
        Facts.decode(extract(bytes(check_request()), Plan())[0]),
        path=path.encode() + b"?token=1",
        host=host,
        headers=tuple((name, (text.encode(),)) for name, text in headers.items()),
    )
    call = operation.call
    expected = json.dumps(
        {
            "principal": {
                "id": CAMERA,
                "trust_domain": "factory.example",
                "path": ["ns", "line1", "sa", "camera"],
            },
            "user": user
            and {
                "issuer": user.issuer,
                "subject": user.subject,
                "claims": dict(user.claims),
            },
            "operation": {
                "action": call.action,
                "scope": call.scope,
                "model": call.model,
                "version": call.version,
                "adapter": call.adapter,
                "upstream": operation.upstream,
                "dataset": operation.dataset,
            },
            "http": {
                "method": "POST",
                "path": path.partition("?")[0],
                "host": normalize_host(host),
                "headers": headers,
            },
            "time": {"open": open_times},
        },
        separators=(",", ":"),
    )
    question = build_question(identity, operation, facts, open_times)
    assert question == expected.encode("ascii")
    # The engine reads again what somebody else has a hand in.
    assert isinstance(question, JsonObject) is (user is None)


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_a_claim_that_opa_could_not_read_is_no_question(number: float) -> None:
    user = User("https://idp.example", "s", {"level": number}, 0.0, 1.0, "")
    facts = Facts.decode(extract(bytes(check_request()), Plan())[0])
    identity = Identity(SpiffeId.parse(CAMERA), user)
    question = build_question(identity, OPERATION, facts)
    engine = Engine(shipped_wasm(), b"{}", timeout_s=5.0, instances=1)
    try:
        with pytest.raises(PolicyError) as caught:
            engine.evaluate(question)
    finally:
        engine.close()
    assert caught.value.reason is Reason.POLICY_ERROR
