import json
import re

import pytest
from checks import is_allowed, reason_of
from envoy_data_plane.envoy.service.auth import v3 as auth
from parts import REPOSITORY

from authz_server.errors import Reason
from authz_server.response import RequestChanges, allow, deny, prepare


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
