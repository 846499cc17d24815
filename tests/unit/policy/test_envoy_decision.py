"""What counts as a decision of a policy written for opa-envoy-plugin."""

from __future__ import annotations

import json
from typing import Any

import pytest

from authz_server.errors import PolicyError, Reason
from authz_server.policy.envoy_decision import read_decision
from authz_server.response import Passage, Refusal


def test_true_and_false_are_decisions() -> None:
    assert read_decision(True) == Passage()  # noqa: FBT003 - a decision
    assert read_decision(False) == Refusal()  # noqa: FBT003


def test_an_allow_says_what_is_done_to_the_request_and_its_response() -> None:
    ruling = read_decision(
        {
            "allowed": True,
            "headers": {"X-User": "ann", "x-roles": ["b", "a"]},
            "request_headers_to_remove": ["Authorization"],
            "response_headers_to_add": [{"X-A": "1"}, {"x-a": "2"}],
            "query_parameters_to_set": {"q": ["1", "2"], "p": "3"},
            "query_parameters_to_remove": ["token"],
            "dynamic_metadata": {"b": [1, None, {"c": True}], "a": "x"},
        }
    )
    assert ruling == Passage(
        headers=(("x-user", "ann"), ("x-roles", "b"), ("x-roles", "a")),
        remove=("authorization",),
        response_headers=(("x-a", "1"), ("x-a", "2")),
        query_set=(("p", "3"), ("q", "1"), ("q", "2")),
        query_remove=("token",),
        metadata='{"a":"x","b":[1,null,{"c":true}]}',
    )


def test_a_denial_says_what_the_caller_gets() -> None:
    ruling = read_decision(
        {
            "allowed": False,
            "headers": {"Location": "https://login.example/"},
            "http_status": 302,
            "body": "go there",
            "dynamic_metadata": {},
        }
    )
    assert ruling == Refusal(
        302, (("location", "https://login.example/"),), "go there", "{}"
    )


def test_a_denial_is_forbidden_by_default() -> None:
    assert read_decision({"allowed": False}) == Refusal(403)


def test_keys_that_do_not_count_for_the_answer_are_not_read() -> None:
    # As in the plugin: its own documentation sets http_status beside an allow.
    assert (
        read_decision({"allowed": True, "http_status": "200", "body": 1, "reasons": []})
        == Passage()
    )
    assert (
        read_decision(
            {
                "allowed": False,
                "request_headers_to_remove": 1,
                "query_parameters_to_set": 2,
            }
        )
        == Refusal()
    )


@pytest.mark.parametrize(
    "result",
    [
        None,
        "true",
        1,
        [],
        [True],
        {},
        {"allow": True},
        {"allowed": "true"},
        {"allowed": 1},
        {"allowed": None},
        object(),
    ],
)
def test_what_is_no_decision_is_refused(result: object) -> None:
    assert_invalid(result)


@pytest.mark.parametrize(
    "headers",
    [
        None,
        "x: 1",
        [["x", "1"]],
        [{"x": "1"}, 1],
        {"x": 1},
        {"x": None},
        {"x": ["1", 2]},
        {"x": {"y": "1"}},
        {"": "1"},
        {"x y": "1"},
        {"x:": "1"},
        {"ü": "1"},
        {"x": "1\r\ny: 2"},
        {"x": "1\n"},
        {"x": "\x00"},
        {"x": "\ud800"},
        {":path": "/"},
        {":authority": "other"},
        {"Host": "other"},
        {"content-length": "0"},
        {"Transfer-Encoding": "chunked"},
        {"connection": "x-user"},
    ],
)
def test_an_answer_with_a_bad_header_is_refused(headers: Any) -> None:
    assert_invalid({"allowed": True, "headers": headers})
    assert_invalid({"allowed": False, "headers": headers})
    assert_invalid({"allowed": True, "response_headers_to_add": headers})


@pytest.mark.parametrize(
    "changes",
    [
        {"request_headers_to_remove": "x"},
        {"request_headers_to_remove": [1]},
        {"request_headers_to_remove": {"x": "y"}},
        {"request_headers_to_remove": ["host"]},
        {"request_headers_to_remove": [":path"]},
        {"query_parameters_to_remove": "q"},
        {"query_parameters_to_remove": [None]},
        {"query_parameters_to_remove": [""]},
        {"query_parameters_to_set": [{"q": "1"}]},
        {"query_parameters_to_set": {"q": 1}},
        {"query_parameters_to_set": {"q": [["1"]]}},
        {"query_parameters_to_set": {"q": "1&admin=1"}},
        {"query_parameters_to_set": {"q": "a b"}},
        {"query_parameters_to_set": {"q": "#"}},
        {"query_parameters_to_set": {"q": "%zz"}},
        {"query_parameters_to_set": {"q=r": "1"}},
        {"query_parameters_to_set": {"": "1"}},
        {"dynamic_metadata": []},
        {"dynamic_metadata": None},
        {"dynamic_metadata": {"x": float("nan")}},
        {"dynamic_metadata": {"x": 10**400}},
        {"dynamic_metadata": {"x": "\ud800"}},
        {"dynamic_metadata": {"authz_server_facts": "x"}},
    ],
)
def test_an_allow_with_a_change_that_cannot_be_made_is_refused(
    changes: dict[str, Any],
) -> None:
    assert_invalid({"allowed": True, **changes})


@pytest.mark.parametrize(
    "changes",
    [
        {"http_status": "403"},
        {"http_status": 403.0},
        {"http_status": True},
        {"http_status": None},
        {"http_status": 0},
        {"http_status": 100},
        {"http_status": 200},
        {"http_status": 204},
        {"http_status": 299},
        {"http_status": 418},
        {"http_status": 999},
        {"http_status": -403},
        {"body": 1},
        {"body": None},
        {"body": "\ud800"},
        {"headers": {"X-Authz-Reason": "granted"}},
        {"dynamic_metadata": "x"},
        {"dynamic_metadata": {"authz_server_facts": "x"}},
    ],
)
def test_a_denial_that_cannot_be_given_is_refused(changes: dict[str, Any]) -> None:
    assert_invalid({"allowed": False, **changes})


@pytest.mark.parametrize("bracket", ["[", '{"x":'])
@pytest.mark.parametrize("depth", [20, 900])
def test_metadata_is_not_nested_without_end(bracket: str, depth: int) -> None:
    end = "]" if bracket == "[" else "}"
    nested = json.loads(bracket * depth + "0" + end * depth)
    assert_invalid({"allowed": True, "dynamic_metadata": {"x": nested}})


def assert_invalid(result: object) -> None:
    with pytest.raises(PolicyError) as caught:
        read_decision(result)
    assert caught.value.reason is Reason.POLICY_RESULT_INVALID
