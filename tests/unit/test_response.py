import json
import re

import pytest
from checks import is_allowed, reason_of
from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.envoy.service.auth import v3 as auth
from parts import REPOSITORY

from authz_server.errors import Reason
from authz_server.response import (
    Passage,
    Refusal,
    RequestChanges,
    allow,
    allow_as,
    deny,
    deny_as,
    prepare,
)


def denied(reason: Reason, *, is_grpc: bool) -> auth.DeniedHttpResponse:
    response = auth.CheckResponse.parse(deny(reason, is_grpc=is_grpc))
    assert response.denied_response is not None
    return response.denied_response


def test_allow_sets_a_status_and_changes_nothing_of_the_request() -> None:
    response = auth.CheckResponse.parse(allow())
    assert response.status is not None
    assert response.ok_response == auth.OkHttpResponse()
    assert is_allowed(allow())
    assert allow() != b""


def test_allow_can_overwrite_and_remove_headers_of_the_request() -> None:
    answer = allow(RequestChanges((("x-a", "1"), ("x-b", "2")), ("x-c",)))
    assert is_allowed(answer)
    response = auth.CheckResponse.parse(answer).ok_response
    assert response is not None
    found = [
        (option.header.key, option.header.value, option.append_action.name)
        for option in response.headers
        if option.header is not None
    ]
    overwrites = "OVERWRITE_IF_EXISTS_OR_ADD"
    assert found == [("x-a", "1", overwrites), ("x-b", "2", overwrites)]
    assert response.headers_to_remove == ["x-c"]


@pytest.mark.parametrize("is_grpc", [False, True])
@pytest.mark.parametrize("reason", list(Reason))
def test_every_denial_denies_and_says_why(reason: Reason, is_grpc: bool) -> None:
    response = deny(reason, is_grpc=is_grpc)
    assert not is_allowed(response)
    assert reason_of(response) == reason
    parsed = auth.CheckResponse.parse(response)
    assert parsed.ok_response is None
    assert parsed.denied_response is not None
    assert parsed.denied_response.status is not None
    assert 400 <= int(parsed.denied_response.status.code) <= 599


@pytest.mark.parametrize(
    ("reason", "status", "code"),
    [
        (Reason.NOT_GRANTED, 403, 7),
        (Reason.OPERATION_UNKNOWN, 403, 7),
        (Reason.PRINCIPAL_MISSING, 401, 16),
        (Reason.CERTIFICATE_EXPIRED, 401, 16),
        (Reason.OVERLOADED, 503, 7),
        (Reason.INTERNAL_ERROR, 503, 7),
    ],
)
def test_the_status_tells_whose_trouble_it_is(
    reason: Reason, status: int, code: int
) -> None:
    response = auth.CheckResponse.parse(deny(reason))
    assert response.status is not None
    assert response.status.code == code
    assert response.denied_response is not None
    assert response.denied_response.status is not None
    assert int(response.denied_response.status.code) == status


def test_over_http_the_body_is_an_error_as_triton_writes_it() -> None:
    body = denied(Reason.NOT_GRANTED, is_grpc=False).body
    assert json.loads(body) == {"error": "access denied (not_granted)"}


def test_over_grpc_the_body_is_the_message_of_the_status() -> None:
    body = denied(Reason.NOT_GRANTED, is_grpc=True).body
    assert body == "access denied (not_granted)"


def test_preparing_builds_each_response_once() -> None:
    prepare()
    assert deny(Reason.NOT_GRANTED) is deny(Reason.NOT_GRANTED)


def test_reason_codes_are_what_the_documentation_lists() -> None:
    text = (REPOSITORY / "docs" / "reasons.md").read_text(encoding="utf-8")
    assert [reason for reason in Reason if f"`{reason}`" not in text] == []


def test_reason_codes_are_spelt_like_their_names() -> None:
    assert all(reason.value == reason.name.lower() for reason in Reason)


STATUSES = {"Who asks": 401, "What is asked": 403, "The server": 503}


@pytest.mark.parametrize("section", STATUSES)
def test_each_sections_reasons_have_its_status(section: str) -> None:
    text = (REPOSITORY / "docs" / "reasons.md").read_text("utf-8")
    _, _, rest = text.partition(f"| **{section}** | | |\n")
    rows, _, _ = rest.partition("| **")
    codes = [
        code
        for row in rows.splitlines()
        for code in re.findall(r"`([a-z_]+)`", row.split("|")[1])
    ]
    assert codes
    for code in codes:
        status = denied(Reason(code), is_grpc=False).status
        assert status is not None
        # What the server itself lacks is its own trouble, wherever it shows.
        expected = 503 if code.endswith("_unavailable") else STATUSES[section]
        assert int(status.code) == expected, code


def headers_of(options: list[core.HeaderValueOption]) -> list[tuple[str, str, str]]:
    return [
        (option.header.key, option.header.value, option.append_action.name)
        for option in options
        if option.header is not None
    ]


OVERWRITES, ADDS = "OVERWRITE_IF_EXISTS_OR_ADD", "APPEND_IF_EXISTS_OR_ADD"


def test_a_policy_can_let_a_request_through_with_changes() -> None:
    answer = allow_as(
        Passage(
            headers=(("x-user", "ann"),),
            remove=("authorization",),
            response_headers=(("set-cookie", "a"), ("set-cookie", "b")),
            query_set=(("q", "1"),),
            query_remove=("token",),
            metadata='{"a":[1,null,{"b":true}],"c":"x"}',
        )
    )
    assert is_allowed(answer)
    response = auth.CheckResponse.parse(answer)
    assert response.denied_response is None
    passed = response.ok_response
    assert passed is not None
    assert headers_of(passed.headers) == [("x-user", "ann", OVERWRITES)]
    assert passed.headers_to_remove == ["authorization"]
    assert headers_of(passed.response_headers_to_add) == [
        ("set-cookie", "a", ADDS),
        ("set-cookie", "b", ADDS),
    ]
    assert [(each.key, each.value) for each in passed.query_parameters_to_set] == [
        ("q", "1")
    ]
    assert passed.query_parameters_to_remove == ["token"]
    assert response.dynamic_metadata is not None
    assert response.dynamic_metadata.to_dict() == {
        "a": [1, None, {"b": True}],
        "c": "x",
    }


def test_what_a_policy_wants_nothing_of_is_a_plain_allow() -> None:
    assert allow_as(Passage()) == allow()


@pytest.mark.parametrize(("status", "code"), [(403, 7), (401, 16), (302, 7), (503, 7)])
def test_a_policy_can_refuse_a_request_in_its_own_words(status: int, code: int) -> None:
    answer = deny_as(
        Refusal(status, (("location", "/login"),), "go away", '{"a":1}'),
        Reason.NOT_GRANTED,
    )
    assert not is_allowed(answer)
    assert reason_of(answer) == Reason.NOT_GRANTED
    response = auth.CheckResponse.parse(answer)
    assert response.status is not None
    assert response.status.code == code
    refused = response.denied_response
    assert refused is not None
    assert refused.status is not None
    assert int(refused.status.code) == status
    assert refused.body == "go away"
    assert ("location", "/login", ADDS) in headers_of(refused.headers)
    assert response.dynamic_metadata is not None
    assert response.dynamic_metadata.to_dict() == {"a": 1}


def test_no_refusal_says_that_all_is_well() -> None:
    for status in range(-1, 700):
        if 300 <= status < 600:
            continue
        with pytest.raises(ValueError, match="no HTTP status for a denial"):
            Refusal(status)
