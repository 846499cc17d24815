"""The OpenAI-compatible frontend: which call is which, and what is refused."""

import pytest
from checks import check_request, grpc_check_request
from envoy_data_plane.envoy.service.auth import v3 as auth

from authz_server.errors import Reason, RequestError
from authz_server.facts import Facts, Plan, extract
from authz_server.operations.actions import OPENAI_ACTIONS, Action
from authz_server.operations.classify import classify
from authz_server.operations.openai import JSON_MODELS
from authz_server.operations.operation import Call, Operation, OperationError, Scope
from authz_server.operations.triton_grpc import OUTLINES
from authz_server.operations.upstreams import UpstreamIndex

INDEX = UpstreamIndex(triton=frozenset({"triton"}), openai={"chat": ":", "plain": ""})
PLAN = Plan(outlines=OUTLINES, json_models=JSON_MODELS)
INFERENCE = ["/v1/chat/completions", "/v1/completions", "/v1/embeddings"]
BODY = b'{"model":"llama","stream":true}'

MODEL, EVERY, SERVER = Scope.MODEL, Scope.EVERY_MODEL, Scope.SERVER


def operation_of(request: auth.CheckRequest) -> Operation:
    facts = Facts.decode(extract(bytes(request), PLAN)[0])
    return classify(facts, INDEX, trust_host=False)


def ask(
    method: str, path: str, body: bytes = b"", *, upstream: str = "chat"
) -> auth.CheckRequest:
    return check_request(
        method=method, path=path, raw_body=body, extensions={"upstream": upstream}
    )


def refusal(request: auth.CheckRequest) -> Reason:
    with pytest.raises(RequestError) as caught:
        operation_of(request)
    return caught.value.reason


ROUTES = [
    *(("POST", path, BODY, Action.INFERENCE, MODEL, "llama") for path in INFERENCE),
    ("POST", "/v1/completions?x=1", BODY, Action.INFERENCE, MODEL, "llama"),
    ("GET", "/v1/models", b"", Action.MODEL_LIST, EVERY, ""),
    ("GET", "/v1/models/llama", b"", Action.METADATA, MODEL, "llama"),
    ("POST", "/v1/models/llama/load", b"", Action.MODEL_REPOSITORY, MODEL, "llama"),
    ("POST", "/v1/models/llama/unload", b"", Action.MODEL_REPOSITORY, MODEL, "llama"),
    ("GET", "/metrics", b"", Action.METRICS, EVERY, ""),
    ("GET", "/health/ready", b"", Action.HEALTH, SERVER, ""),
]


@pytest.mark.parametrize(("method", "path", "body", "action", "scope", "model"), ROUTES)
def test_each_route_of_the_frontend_is_known(
    method: str, path: str, body: bytes, action: Action, scope: Scope, model: str
) -> None:
    operation = operation_of(ask(method, path, body))
    call = operation.call
    assert (call.action, call.scope, call.model) == (action, scope, model)
    assert call.version == ""
    assert operation.upstream == "chat"


def test_the_actions_of_the_frontend_are_those_of_its_routes() -> None:
    assert {action for _, _, _, action, _, _ in ROUTES} == OPENAI_ACTIONS


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/chat/completions"),
        ("PUT", "/v1/completions"),
        ("post", "/v1/completions"),
        ("OPTIONS", "/v1/embeddings"),
        ("POST", "/v1/chat/completions/"),
        ("POST", "/v1/Completions"),
        ("POST", "/v1/models"),
        ("HEAD", "/v1/models"),
        ("DELETE", "/v1/models/llama"),
        ("GET", "/v1/models/"),
        ("GET", "/v1/models/llama/load"),
        ("POST", "/v1/models/llama"),
        ("POST", "/v1/models/llama/load/"),
        ("POST", "/v1/models/llama/config"),
        ("GET", "/metrics/"),
        ("POST", "/metrics"),
        ("GET", "/health"),
        ("GET", "/"),
        # Triton's own frontend may listen beside it, but is no part of this upstream.
        ("POST", "/v2/models/llama/infer"),
        ("POST", "/inference.GRPCInferenceService/ModelInfer"),
    ],
)
def test_whatever_the_frontend_has_no_route_for_is_unknown(
    method: str, path: str
) -> None:
    assert refusal(ask(method, path, BODY)) is Reason.OPERATION_UNKNOWN


@pytest.mark.parametrize(
    "path", ["/docs", "/docs/oauth2-redirect", "/redoc", "/openapi.json"]
)
def test_the_pages_that_describe_the_frontend_are_refused_by_name(path: str) -> None:
    with pytest.raises(OperationError, match="FastAPI's documentation") as caught:
        operation_of(ask("GET", path))
    assert caught.value.reason is Reason.OPERATION_UNKNOWN


@pytest.mark.parametrize(
    "path",
    [
        "/v1/models/ll%61ma",
        "/v1/models/llama%2Fload",
        "/v1/models/%6C%6C",
        "/v1/chat%2Fcompletions",
        "/v1/%63ompletions",
        "/v1//completions",
        "/v1/models/../completions",
    ],
)
def test_a_path_that_fastapi_would_decode_is_refused(path: str) -> None:
    assert refusal(ask("POST", path, BODY)) is Reason.PATH_INVALID


@pytest.mark.parametrize("path", INFERENCE)
@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"raw_body": b""}, Reason.BODY_MISSING),
        ({"raw_body": b"", "body": BODY.decode()}, Reason.BODY_MISSING),
        ({"size": 10_000}, Reason.BODY_PARTIAL),
        ({"headers": {"content-encoding": "gzip"}}, Reason.BODY_COMPRESSED),
        ({"raw_body": b'{"model":"a","model":"b"}'}, Reason.BODY_MALFORMED),
        ({"raw_body": b'{"prompt":"x"}'}, Reason.BODY_MALFORMED),
        ({"raw_body": '{"model":"a"}'.encode("utf-16")}, Reason.BODY_MALFORMED),
        (
            {"raw_body": b"", "extensions": {"upstream": "chat", "gate": "ext_proc"}},
            Reason.BODY_MISSING,
        ),
    ],
)
def test_a_call_that_names_its_model_in_the_body_needs_all_of_it(
    path: str, changes: dict[str, object], reason: Reason
) -> None:
    arguments = {"path": path, "raw_body": BODY, "extensions": {"upstream": "chat"}}
    request = check_request(**{**arguments, **changes})  # type: ignore[arg-type]
    assert refusal(request) is reason


@pytest.mark.parametrize(
    "name", ["", "a/b", "../a", " a", "a ", "a\\u0000b", "\\u00e9", "a*", "-a", "a,b"]
)
def test_a_model_that_no_policy_could_name_is_refused(name: str) -> None:
    body = f'{{"model":"{name}"}}'.encode()
    assert refusal(ask("POST", "/v1/completions", body)) is Reason.MODEL_NAME_INVALID


def completion(name: str, upstream: str = "chat") -> Call:
    body = f'{{"model":"{name}"}}'.encode()
    return operation_of(ask("POST", "/v1/completions", body, upstream=upstream)).call


def test_a_call_with_an_adapter_is_one_on_the_model_with_it() -> None:
    adapted = Call(Action.INFERENCE, Scope.MODEL, "llama", adapter="sql")
    assert completion("llama:sql") == adapted
    described = Call(Action.METADATA, Scope.MODEL, "llama", adapter="sql")
    assert operation_of(ask("GET", "/v1/models/llama:sql")).call == described


@pytest.mark.parametrize(
    "name", ["llama:", ":sql", ":", "llama:s:l", "llama:s/l", "llama:sql:", "llama::l"]
)
def test_what_is_not_exactly_a_model_and_an_adapter_is_refused(name: str) -> None:
    with pytest.raises(OperationError) as caught:
        completion(name)
    assert caught.value.reason is Reason.MODEL_NAME_INVALID


def test_without_a_separator_there_are_no_adapters() -> None:
    assert completion("llama", "plain") == Call(Action.INFERENCE, Scope.MODEL, "llama")
    with pytest.raises(OperationError):
        completion("llama:sql", "plain")


@pytest.mark.parametrize("verb", ["load", "unload"])
def test_an_adapter_is_neither_loaded_nor_unloaded(verb: str) -> None:
    request = ask("POST", f"/v1/models/llama:sql/{verb}")
    assert refusal(request) is Reason.MODEL_NAME_INVALID


def test_the_frontends_routes_are_none_of_a_triton_upstream() -> None:
    request = ask("POST", "/v1/completions", BODY, upstream="triton")
    assert refusal(request) is Reason.OPERATION_UNKNOWN


def test_a_grpc_content_type_does_not_change_what_is_read() -> None:
    request = grpc_check_request(
        "/v1/completions", b"", raw_body=BODY, extensions={"upstream": "chat"}
    )
    assert operation_of(request).call.model == "llama"
