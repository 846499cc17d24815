"""What the response room writes by hand, beside Envoy's typed messages."""

import base64
import json
import math
from typing import Any

import pytest
from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.envoy.service.auth import v3 as auth
from envoy_data_plane.envoy.service.ext_proc import v3 as ext_proc
from envoy_data_plane.envoy.type import v3 as envoy_type
from envoy_data_plane.google import protobuf, rpc
from hypothesis import given
from hypothesis import strategies as st

from authz_server.errors import Reason
from authz_server.response import (
    GATE_FACTS,
    Passage,
    Refusal,
    RequestChanges,
    allow,
    allow_as,
    deny,
    deny_as,
    end,
    end_answer,
    proceed,
    replace_body,
    replace_chunk,
    with_gate,
)
from authz_server.response.messages import STATUSES
from authz_server.response.status import (
    denial_headers,
    denial_message,
    grpc_status,
    http_status,
)

Append = core.HeaderValueOptionHeaderAppendAction
REPLACES = Append.OVERWRITE_IF_EXISTS_OR_ADD
REASONS = st.sampled_from(list(Reason))

names = st.text("abc-_0", min_size=1).map(lambda text: "x-" + text)
# Long enough now and then for a length of two bytes and of three.
values = st.text("aé€ ", max_size=50) | st.sampled_from(["b" * 128, "c" * 20_000])
headers = st.lists(st.tuples(names, values), max_size=3).map(tuple)
parameters = st.lists(
    st.tuples(st.sampled_from(["a", "b"]), st.sampled_from(["", "1"])), max_size=3
).map(tuple)
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False, allow_infinity=False)
    | values,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(values, inner, max_size=3)
    ),
    max_leaves=8,
)
metadata = st.none() | st.dictionaries(values, json_values, max_size=3)


def option(
    name: str, value: str, action: Append = Append.APPEND_IF_EXISTS_OR_ADD
) -> core.HeaderValueOption:
    return core.HeaderValueOption(
        header=core.HeaderValue(key=name, value=value), append_action=action
    )


def raw_option(
    name: str, value: str, action: Append = Append.APPEND_IF_EXISTS_OR_ADD
) -> core.HeaderValueOption:
    return core.HeaderValueOption(
        header=core.HeaderValue(key=name, raw_value=value.encode()),
        append_action=action,
    )


def struct(found: dict[str, Any] | None) -> protobuf.Struct | None:
    if found is None:
        return None
    return protobuf.Struct(fields={key: struct_value(it) for key, it in found.items()})


def struct_value(value: Any) -> protobuf.Value:
    match value:
        case bool():
            return protobuf.Value(bool_value=value)
        case int() | float():
            return protobuf.Value(number_value=float(value))
        case str():
            return protobuf.Value(string_value=value)
        case dict():
            return protobuf.Value(struct_value=struct(value))
        case list():
            found = [struct_value(it) for it in value]
            return protobuf.Value(list_value=protobuf.ListValue(values=found))
        case _:
            return protobuf.Value(null_value=protobuf.NullValue.NULL_VALUE)


def test_the_statuses_are_those_that_envoy_knows() -> None:
    assert {int(code) for code in envoy_type.StatusCode} - {0} == STATUSES


@given(overwrite=headers, remove=st.lists(names, max_size=3).map(tuple))
def test_an_allow_is_the_typed_message(
    overwrite: tuple[tuple[str, str], ...], remove: tuple[str, ...]
) -> None:
    expected = auth.CheckResponse(
        status=rpc.Status(code=0),
        ok_response=auth.OkHttpResponse(
            headers=[option(*pair, REPLACES) for pair in overwrite],
            headers_to_remove=list(remove),
        ),
    )
    assert allow(RequestChanges(overwrite, remove)) == bytes(expected)


@given(facts=st.binary(max_size=300))
def test_what_is_handed_on_to_the_gate_is_the_typed_message(facts: bytes) -> None:
    text = base64.b64encode(facts).decode()
    expected = auth.CheckResponse.parse(allow())
    expected.dynamic_metadata = struct({GATE_FACTS: text})
    assert with_gate(allow(), facts) == bytes(expected)


@pytest.mark.parametrize("is_grpc", [False, True])
@pytest.mark.parametrize("reason", list(Reason))
def test_a_denial_is_the_typed_message(reason: Reason, is_grpc: bool) -> None:
    status = http_status(reason)
    expected = auth.CheckResponse(
        status=rpc.Status(code=16 if status == 401 else 7),
        denied_response=auth.DeniedHttpResponse(
            status=envoy_type.HttpStatus(code=envoy_type.StatusCode(status)),
            headers=[
                option(*pair)
                for pair in denial_headers(reason, is_grpc=is_grpc).items()
            ],
            body=denial_message(reason, is_grpc=is_grpc),
        ),
    )
    assert deny(reason, is_grpc=is_grpc) == bytes(expected)


@given(
    wanted=headers,
    remove=st.lists(names, max_size=2).map(tuple),
    added=headers,
    query_set=parameters,
    query_remove=st.lists(st.sampled_from(["a", "b"]), max_size=2).map(tuple),
    handed_on=metadata,
)
def test_what_a_policy_lets_through_is_the_typed_message(
    wanted: tuple[tuple[str, str], ...],
    remove: tuple[str, ...],
    added: tuple[tuple[str, str], ...],
    query_set: tuple[tuple[str, str], ...],
    query_remove: tuple[str, ...],
    handed_on: dict[str, Any] | None,
) -> None:
    text = "" if handed_on is None else json.dumps(handed_on)
    expected = auth.CheckResponse(
        status=rpc.Status(code=0),
        ok_response=auth.OkHttpResponse(
            headers=[option(*pair, REPLACES) for pair in wanted],
            headers_to_remove=list(remove),
            response_headers_to_add=[option(*pair) for pair in added],
            query_parameters_to_set=[
                core.QueryParameter(key=name, value=value) for name, value in query_set
            ],
            query_parameters_to_remove=list(query_remove),
        ),
        dynamic_metadata=struct(handed_on),
    )
    passage = Passage(wanted, remove, added, query_set, query_remove, text)
    assert allow_as(passage) == bytes(expected)


@given(
    status=st.sampled_from([301, 401, 403, 429, 503]),
    told=headers,
    body=values,
    handed_on=metadata,
    reason=REASONS,
)
def test_what_a_policy_refuses_is_the_typed_message(
    status: int,
    told: tuple[tuple[str, str], ...],
    body: str,
    handed_on: dict[str, Any] | None,
    reason: Reason,
) -> None:
    text = "" if handed_on is None else json.dumps(handed_on)
    expected = auth.CheckResponse(
        status=rpc.Status(code=16 if status == 401 else 7),
        denied_response=auth.DeniedHttpResponse(
            status=envoy_type.HttpStatus(code=envoy_type.StatusCode(status)),
            headers=[
                option("x-authz-reason", reason.value),
                *(option(*pair) for pair in told),
            ],
            body=body,
        ),
        dynamic_metadata=struct(handed_on),
    )
    assert deny_as(Refusal(status, told, body, text), reason) == bytes(expected)


@pytest.mark.parametrize(
    "text",
    [
        '{"a":' * 18 + "1" + "}" * 18,
        '{"a":' + "[" * 18 + "]" * 18 + "}",
        '{"a":1' + "0" * 400 + "}",
        '{"authz_server_facts":"x"}',
    ],
)
def test_metadata_that_protobuf_or_the_gate_cannot_take_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="metadata"):
        Passage(metadata=text)
    with pytest.raises(ValueError, match="metadata"):
        Refusal(metadata=text)


def test_doubles_are_written_as_they_are() -> None:
    numbers = [0.0, -0.0, 0.1, 1e300, 5e-324]
    response = auth.CheckResponse.parse(
        allow_as(Passage(metadata=json.dumps({"a": numbers})))
    )
    assert response.dynamic_metadata is not None
    listed = response.dynamic_metadata.fields["a"].list_value
    assert listed is not None
    found = [it.number_value for it in listed.values]
    assert found == numbers
    assert found[1] is not None
    assert math.copysign(1, found[1]) == -1


PROCEED = {
    "request_headers": ext_proc.HeadersResponse(),
    "response_headers": ext_proc.HeadersResponse(),
    "request_body": ext_proc.BodyResponse(),
    "response_body": ext_proc.BodyResponse(),
    "request_trailers": ext_proc.TrailersResponse(),
    "response_trailers": ext_proc.TrailersResponse(),
}


@pytest.mark.parametrize("part", PROCEED)
def test_letting_a_part_flow_on_is_the_typed_message(part: str) -> None:
    expected = ext_proc.ProcessingResponse(**{part: PROCEED[part]})  # type: ignore[arg-type] # by name
    assert proceed(part) == bytes(expected)


@given(body=st.binary(max_size=300))
def test_a_replaced_body_is_the_typed_message(body: bytes) -> None:
    length = option("content-length", "", Append.OVERWRITE_IF_EXISTS)
    length.header = core.HeaderValue(
        key="content-length", raw_value=str(len(body)).encode()
    )
    expected = ext_proc.ProcessingResponse(
        response_body=ext_proc.BodyResponse(
            response=ext_proc.CommonResponse(
                header_mutation=ext_proc.HeaderMutation(set_headers=[length]),
                body_mutation=ext_proc.BodyMutation(body=body),
            )
        )
    )
    assert replace_body(body) == bytes(expected)


@given(data=st.binary(max_size=300))
def test_a_replaced_chunk_is_the_typed_message(data: bytes) -> None:
    mutation = (
        ext_proc.BodyMutation(body=data)
        if data
        else ext_proc.BodyMutation(clear_body=True)
    )
    expected = ext_proc.ProcessingResponse(
        request_body=ext_proc.BodyResponse(
            response=ext_proc.CommonResponse(body_mutation=mutation)
        )
    )
    assert replace_chunk(data) == bytes(expected)


@pytest.mark.parametrize("reason", list(Reason))
def test_the_end_of_an_answer_is_the_typed_message(reason: Reason) -> None:
    trailers = {
        "grpc-status": str(grpc_status(http_status(reason))),
        "grpc-message": denial_message(reason, is_grpc=True),
        **denial_headers(reason, is_grpc=True),
    }
    expected = ext_proc.ProcessingResponse(
        response_trailers=ext_proc.TrailersResponse(
            header_mutation=ext_proc.HeaderMutation(
                set_headers=[raw_option(*pair, REPLACES) for pair in trailers.items()]
            )
        )
    )
    assert end_answer(reason) == bytes(expected)


@pytest.mark.parametrize("is_grpc", [False, True])
@pytest.mark.parametrize("reason", list(Reason))
def test_the_end_of_a_call_is_the_typed_message(reason: Reason, is_grpc: bool) -> None:
    status = http_status(reason)
    told = denial_headers(reason, is_grpc=is_grpc)
    expected = ext_proc.ProcessingResponse(
        immediate_response=ext_proc.ImmediateResponse(
            status=envoy_type.HttpStatus(code=envoy_type.StatusCode(status)),
            headers=ext_proc.HeaderMutation(
                set_headers=[raw_option(*pair) for pair in told.items()]
            ),
            body=denial_message(reason, is_grpc=is_grpc).encode(),
            grpc_status=ext_proc.GrpcStatus(status=grpc_status(status))
            if is_grpc
            else None,
            details="authz_server",
        )
    )
    assert end(reason, is_grpc=is_grpc) == bytes(expected)
