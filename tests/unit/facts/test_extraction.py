import pytest
from checks import MODEL_INFER, check_request, frame, grpc_check_request, len_field
from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.envoy.service.auth import v3 as auth

from authz_server.errors import Reason, RequestError
from authz_server.facts import BodyState, Facts, Keep, Plan, extract

PLAN = Plan(
    headers=("x-role", "x-line"),
    outlines={MODEL_INFER.encode(): {1: Keep.VALUE, 2: Keep.VALUE}},
)


def facts_of(request: auth.CheckRequest, plan: Plan = PLAN) -> Facts:
    key, _ = extract(bytes(request), plan)
    return Facts.decode(key)


def test_every_input_of_a_decision_is_taken_from_the_request() -> None:
    facts = facts_of(
        check_request(
            principal="spiffe://td/a",
            certificate="cert",
            destination="spiffe://td/triton",
            method="PUT",
            path="/v2/x?y",
            host="Host:8443",
            headers={"x-role": "r", "x-unplanned": "u", "content-type": "text/plain"},
            extensions={"upstream": "triton", "other": "o"},
        )
    )
    assert facts.principal == b"spiffe://td/a"
    assert facts.certificate == b"cert"
    assert facts.destination == b"spiffe://td/triton"
    assert facts.method == b"PUT"
    assert facts.path == b"/v2/x?y"
    assert facts.host == b"Host:8443"
    assert facts.upstream == b"triton"
    assert facts.headers == (("x-role", (b"r",)),)
    assert facts.is_grpc is False
    assert facts.body.state is BodyState.UNREAD


def test_audit_gets_request_id_and_peer_address() -> None:
    _, annotations = extract(bytes(check_request(request_id="abc")), PLAN)
    assert annotations.request_id == "abc"
    assert annotations.source == "10.1.2.3:40123"


@pytest.mark.parametrize(
    ("headers", "request_id"),
    [
        ([("x-request-id", b"quoted")], "quoted"),
        ([("x-request-id", b"a"), ("x-request-id", b"b")], "req-1"),
        ([("other", b"a")], "req-1"),
        ([("x-request-id", b"q" * 200)], "q" * 128),
    ],
)
def test_the_request_id_is_the_one_that_the_caller_can_quote(
    headers: list[tuple[str, bytes]], request_id: str
) -> None:
    key, annotations = extract(bytes(check_request(raw_headers=headers)), PLAN)
    assert annotations.request_id == request_id
    assert Facts.decode(key).headers == ()


def test_what_only_the_audit_wants_is_no_fact() -> None:
    one = extract(bytes(check_request(request_id="a")), PLAN)[0]
    other = extract(bytes(check_request(request_id="b")), PLAN)[0]
    assert one == other


@pytest.mark.parametrize(
    ("address", "text"),
    [
        (core.Address(pipe=core.Pipe(path="/x")), ""),
        (core.Address(), ""),
        (
            core.Address(
                socket_address=core.SocketAddress(address="::1", port_value=7)
            ),
            "[::1]:7",
        ),
    ],
)
def test_a_peer_address_is_written_as_usual(address: core.Address, text: str) -> None:
    request = check_request()
    assert request.attributes is not None
    assert request.attributes.source is not None
    request.attributes.source.address = address
    assert extract(bytes(request), PLAN)[1].source == text


def test_raw_headers_keep_each_value_and_any_byte() -> None:
    facts = facts_of(
        check_request(
            raw_headers=[
                ("x-role", b"user"),
                ("x-line", b"\xff"),
                ("x-role", b"admin"),
                ("other", b"x"),
                ("content-type", b"application/grpc"),
            ]
        )
    )
    assert facts.headers == (("x-role", (b"user", b"admin")), ("x-line", (b"\xff",)))
    assert facts.is_grpc


@pytest.mark.parametrize(
    ("content_type", "is_grpc"),
    [
        ("application/grpc", True),
        ("application/grpc+proto", True),
        ("application/grpc; charset=utf-8", True),
        ("application/grpc-web", False),
        ("application/json", False),
        ("", False),
    ],
)
def test_grpc_is_told_by_the_rule_that_envoy_has(
    content_type: str, is_grpc: bool
) -> None:
    facts = facts_of(check_request(headers={"content-type": content_type}))
    assert facts.is_grpc is is_grpc


def test_a_complete_grpc_body_gives_its_outline() -> None:
    message = len_field(1, b"echo") + len_field(5, b"tensor") + len_field(2, b"1")
    facts = facts_of(grpc_check_request(MODEL_INFER, message))
    assert facts.body.state is BodyState.COMPLETE
    assert facts.body.fields == ((1, b"echo"), (2, b"1"))


def test_tensors_and_ids_do_not_tell_two_requests_apart() -> None:
    one = grpc_check_request(MODEL_INFER, len_field(1, b"m") + len_field(3, b"id-1"))
    other = grpc_check_request(MODEL_INFER, len_field(1, b"m") + len_field(7, b"t"))
    assert facts_of(one) == facts_of(other)


@pytest.mark.parametrize(
    "changes",
    [
        {"headers": {"x-envoy-auth-partial-body": "true"}},
        {"headers": {"x-envoy-auth-partial-body": "odd"}},
        {"size": 4096},
    ],
)
def test_a_body_that_envoy_cut_is_partial(changes: dict[str, object]) -> None:
    request = grpc_check_request(MODEL_INFER, len_field(1, b"echo"), **changes)
    assert facts_of(request).body.state is BodyState.PARTIAL


@pytest.mark.parametrize(
    "changes", [{"headers": {"x-envoy-auth-partial-body": "false"}}, {"size": -1}]
)
def test_a_body_of_unknown_length_that_is_not_marked_is_whole(
    changes: dict[str, object],
) -> None:
    request = grpc_check_request(MODEL_INFER, len_field(1, b"echo"), **changes)
    assert facts_of(request).body.state is BodyState.COMPLETE


def test_a_body_sent_as_text_counts_as_absent() -> None:
    request = check_request(path=MODEL_INFER, body="anything", size=8)
    assert facts_of(request).body.state is BodyState.ABSENT


def test_a_request_of_the_tcp_filter_is_refused_by_its_own_reason() -> None:
    request = check_request()
    assert request.attributes is not None
    request.attributes.request = None
    with pytest.raises(RequestError) as caught:
        extract(bytes(request), PLAN)
    assert caught.value.reason is Reason.REQUEST_NOT_HTTP


WHOLE = bytes(check_request())
ATTRIBUTES = len_field(1, b"")
PEER = len_field(4, b"spiffe://td/a")
HTTP = len_field(2, b"GET")


@pytest.mark.parametrize(
    "raw",
    [
        b"\xff",
        WHOLE[:-1],
        WHOLE + WHOLE,
        b"\x08\x01",
        len_field(1, len_field(1, PEER) + len_field(1, PEER)),
        len_field(1, len_field(1, PEER + PEER)),
        len_field(1, len_field(4, len_field(2, HTTP) + len_field(2, HTTP))),
        len_field(1, len_field(4, len_field(2, HTTP + HTTP))),
        len_field(1, len_field(4, len_field(2, b"\x10\x01"))),
        len_field(1, len_field(4, len_field(2, b"\x48\x01\x48\x02"))),
        len_field(1, len_field(4, len_field(2, len_field(9, b"x")))),
        len_field(1, len_field(10, len_field(1, b"upstream") + len_field(2, b"a")) * 2),
        len_field(1, len_field(10, len_field(1, b"a") * 2)),
        len_field(
            1,
            len_field(
                4,
                len_field(
                    2,
                    len_field(
                        13,
                        len_field(
                            1,
                            len_field(1, b"x-role")
                            + len_field(2, b"a")
                            + len_field(3, b"b"),
                        ),
                    ),
                ),
            ),
        ),
    ],
    ids=[
        "not protobuf",
        "cut off",
        "two requests in one",
        "attributes of another wire type",
        "two sources",
        "two principals",
        "two HTTP requests",
        "two methods",
        "method of another wire type",
        "two sizes",
        "size of another wire type",
        "two upstreams",
        "map entry with two keys",
        "header with two kinds of value",
    ],
)
def test_what_envoy_never_writes_is_malformed(raw: bytes) -> None:
    with pytest.raises(RequestError) as caught:
        extract(raw, PLAN)
    assert caught.value.reason is Reason.REQUEST_MALFORMED


def test_a_body_frame_is_read_for_listed_paths_only() -> None:
    request = check_request(path="/other", raw_body=frame(len_field(1, b"a")))
    assert facts_of(request).body.state is BodyState.UNREAD


@pytest.mark.parametrize("headers", [("X-Role",), ("a b",), ("",), ("a", "a")])
def test_a_plan_takes_lower_case_header_names_once_each(headers: tuple[str]) -> None:
    with pytest.raises(ValueError, match="header"):
        Plan(headers=headers)
