import json

import pytest
from checks import frame, len_field
from hypothesis import given
from hypothesis import strategies as st

from authz_server.errors import Reason
from authz_server.facts import Body, BodyState
from authz_server.operations.actions import Action
from authz_server.operations.listings import Entry, Listing, ListingError, listing_at
from authz_server.operations.operation import Call, OperationError, Scope

SERVICE = "/inference.GRPCInferenceService/"
A, B = Entry("a", "1"), Entry("b", "2")


def model(entry: Entry, more: bytes = b"") -> bytes:
    return (
        len_field(1, entry.model.encode())
        + (len_field(2, entry.version.encode()) if entry.version else b"")
        + more
    )


def grpc(*entries: Entry) -> bytes:
    return frame(b"".join(len_field(1, model(item, b"\x18\x05")) for item in entries))


METRICS = b"""# HELP nv_inference_count Number of inferences
# TYPE nv_inference_count counter
nv_inference_count{model="a",version="1"} 3
nv_inference_count{version="2",model="b"} 4
nv_cpu_utilization 0.1
nv_gpu_memory{gpu_uuid="GPU-1"} 5
"""

CASES = {
    "index": (
        "POST",
        "/v2/repository/index",
        Action.MODEL_LIST,
        b'[{"name":"a","version":"1","state":"READY"},{"name":"b","version":"2"}]',
        b'[{"name":"a","version":"1","state":"READY"}]',
    ),
    "index of a repository": (
        "POST",
        "/v2/repository/r/index",
        Action.MODEL_LIST,
        b'[{"name":"b","version":"2"},{"name":"a","version":"1"}]',
        b'[{"name":"a","version":"1"}]',
    ),
    "statistics": (
        "GET",
        "/v2/models/stats",
        Action.STATISTICS,
        b'{"model_stats":[{"name":"a","version":"1"},{"name":"b","version":"2"}]}',
        b'{"model_stats":[{"name":"a","version":"1"}]}',
    ),
    "OpenAI models": (
        "GET",
        "/v1/models",
        Action.MODEL_LIST,
        b'{"object":"list","data":[{"id":"a","version":"1"},{"id":"b","version":"2"}]}',
        b'{"object":"list","data":[{"id":"a","version":"1"}]}',
    ),
    "metrics": (
        "GET",
        "/metrics",
        Action.METRICS,
        METRICS,
        METRICS.replace(b'nv_inference_count{version="2",model="b"} 4\n', b""),
    ),
    "gRPC index": (
        "POST",
        SERVICE + "RepositoryIndex",
        Action.MODEL_LIST,
        grpc(A, B),
        grpc(A),
    ),
    "gRPC statistics": (
        "POST",
        SERVICE + "ModelStatistics",
        Action.STATISTICS,
        grpc(B, A, B),
        grpc(A),
    ),
}


def listing(method: str, path: str) -> Listing:
    found = listing_at(method, path)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("method", "path", "action", "answer", "kept"), CASES.values(), ids=CASES.keys()
)
def test_an_answer_keeps_what_may_be_seen_and_nothing_else(
    method: str, path: str, action: Action, answer: bytes, kept: bytes
) -> None:
    found = listing(method, path)
    assert found.action is action
    assert set(found.entries(answer)) == {A, B}
    assert found.keep(answer, {A}) == kept
    assert found.keep(answer, {A, B}) == answer
    assert set(found.entries(found.keep(answer, set()))) == set()


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v2/repository/index"),
        ("POST", "/v2/models/stats"),
        ("POST", "/v2/repository/a/b/index"),
        ("GET", "/v2/models/stats/versions/1"),
        ("POST", SERVICE + "ModelInfer"),
    ],
)
def test_other_calls_are_no_listings(method: str, path: str) -> None:
    assert listing_at(method, path) is None


def test_a_listing_begins_without_a_model_and_is_then_judged_for_each() -> None:
    found = listing("POST", "/v2/repository/index")
    assert found.call(Body(BodyState.UNREAD)) == Call(Action.MODEL_LIST, Scope.SERVER)
    assert found.call(A.body) == Call(Action.MODEL_LIST, Scope.MODEL, "a", "1")
    assert found.call(Entry("a").body) == Call(Action.MODEL_LIST, Scope.MODEL, "a")
    for odd in (Entry(""), Entry("a b"), Entry("a", "01"), Entry("caf\u00e9")):
        with pytest.raises(OperationError):
            found.call(odd.body)


def test_a_listing_that_may_be_narrowed_is_judged_by_the_name_it_asks_for() -> None:
    found = listing("POST", SERVICE + "ModelStatistics")
    assert found.call(A.body) == Call(Action.STATISTICS, Scope.MODEL, "a", "1")
    for everything in (Body(BodyState.COMPLETE), Entry("").body):
        assert found.call(everything) == Call(Action.STATISTICS, Scope.SERVER)
    for state in set(BodyState) - {BodyState.COMPLETE}:
        with pytest.raises(OperationError):
            found.call(Body(state))


def index(value: object) -> bytes:
    return json.dumps(value).encode()


UNREADABLE = {
    "no JSON": ("POST", "/v2/repository/index", b"x"),
    "no UTF-8": ("POST", "/v2/repository/index", b'["\xff"]'),
    "no list": ("POST", "/v2/repository/index", index({"a": 1})),
    "no object": ("POST", "/v2/repository/index", index(["a"])),
    "no name": ("POST", "/v2/repository/index", index([{"version": "1"}])),
    "name is no text": ("POST", "/v2/repository/index", index([{"name": 1}])),
    "version is no text": (
        "POST",
        "/v2/repository/index",
        index([{"name": "a", "version": 1}]),
    ),
    "deep": ("POST", "/v2/repository/index", b"[" * 100_000),
    "a key that is not known": (
        "GET",
        "/v2/models/stats",
        index({"model_stats": [], "more": ["secret"]}),
    ),
    "statistics are a list": ("GET", "/v2/models/stats", index([])),
    "compressed frame": ("POST", SERVICE + "RepositoryIndex", frame(b"", 1)),
    "no frame": ("POST", SERVICE + "RepositoryIndex", b""),
    "two frames": ("POST", SERVICE + "RepositoryIndex", frame(b"") * 2),
    "another field": ("POST", SERVICE + "RepositoryIndex", frame(len_field(2, b""))),
    "another wire type": ("POST", SERVICE + "RepositoryIndex", frame(b"\x08\x01")),
    "no message": ("POST", SERVICE + "RepositoryIndex", frame(b"\xff")),
    "no model": ("POST", SERVICE + "RepositoryIndex", frame(len_field(1, b"\xff"))),
    "name is a number": (
        "POST",
        SERVICE + "RepositoryIndex",
        frame(len_field(1, b"\x08\x01")),
    ),
    "name is empty": (
        "POST",
        SERVICE + "ModelStatistics",
        grpc(A, Entry("")),
    ),
    "a sample that cannot be read": ("GET", "/metrics", b"x{model=secret} 1\n"),
}


@pytest.mark.parametrize(
    ("method", "path", "answer"), UNREADABLE.values(), ids=UNREADABLE.keys()
)
def test_an_answer_in_another_form_is_refused(
    method: str, path: str, answer: bytes
) -> None:
    with pytest.raises(ListingError) as caught:
        listing(method, path).entries(answer)
    assert caught.value.reason is Reason.LISTING_UNREADABLE


@given(st.sampled_from(sorted(CASES)), st.binary(max_size=60))
def test_any_bytes_are_filtered_or_refused(name: str, answer: bytes) -> None:
    method, path, *_ = CASES[name]
    found = listing(method, path)
    try:
        rest = found.keep(answer, set())
    except ListingError:
        return
    assert not found.entries(rest)
