import pytest
from checks import MODEL_INFER, check_request, grpc_check_request, len_field
from envoy_data_plane.envoy.service.auth import v3 as auth

from authz_server.errors import Reason, RequestError
from authz_server.facts import Facts, Plan, extract
from authz_server.operations.actions import Action
from authz_server.operations.classify import classify
from authz_server.operations.operation import Operation, Scope
from authz_server.operations.triton_grpc import OUTLINES
from authz_server.operations.upstreams import (
    DatasetUpstream,
    UpstreamIndex,
    normalize_host,
)

INDEX = UpstreamIndex(
    triton=frozenset({"triton", "second"}),
    dataset={
        "data": DatasetUpstream(
            {"/whole": "images"},
            frozenset({"data.factory.example"}),
            frozenset({"data.factory.example"}),
        )
    },
    by_principal={"spiffe://td/ns/inference/sa/triton": "second"},
    by_host={
        "triton.factory.example": "triton",
        "data.factory.example": "data",
        "*.data.factory.example": "data",
    },
)


def facts_of(request: auth.CheckRequest) -> Facts:
    return Facts.decode(extract(bytes(request), Plan(outlines=OUTLINES))[0])


def operation_of(request: auth.CheckRequest, *, trust_host: bool = False) -> Operation:
    return classify(facts_of(request), INDEX, trust_host=trust_host)


def http(method: str, path: str) -> tuple[Action, Scope, str, str]:
    call = operation_of(check_request(method=method, path=path)).call
    return call.action, call.scope, call.model, call.version


def grpc(name: str, message: bytes = b"") -> tuple[Action, Scope, str, str]:
    path = "/inference.GRPCInferenceService/" + name
    call = operation_of(grpc_check_request(path, message)).call
    return call.action, call.scope, call.model, call.version


def refusal(request: auth.CheckRequest) -> Reason:
    with pytest.raises(RequestError) as caught:
        operation_of(request)
    return caught.value.reason


MODEL = Scope.MODEL
EVERY = Scope.EVERY_MODEL
SERVER = Scope.SERVER

HTTP_ROUTES = [
    ("POST", "/v2/models/m/infer", Action.INFERENCE, MODEL, "m", ""),
    ("POST", "/v2/models/m/versions/3/infer", Action.INFERENCE, MODEL, "m", "3"),
    ("POST", "/v2/models/m/generate", Action.INFERENCE, MODEL, "m", ""),
    ("POST", "/v2/models/m/generate_stream", Action.INFERENCE, MODEL, "m", ""),
    ("GET", "/v2/models/m", Action.METADATA, MODEL, "m", ""),
    ("GET", "/v2/models/m/versions/2", Action.METADATA, MODEL, "m", "2"),
    ("GET", "/v2/models/m/config", Action.MODEL_CONFIG, MODEL, "m", ""),
    ("GET", "/v2/models/m/stats", Action.STATISTICS, MODEL, "m", ""),
    ("GET", "/v2/models/m/ready", Action.HEALTH, MODEL, "m", ""),
    ("GET", "/v2/models/m/trace/setting", Action.TRACE, MODEL, "m", ""),
    ("POST", "/v2/models/m/trace/setting", Action.TRACE, MODEL, "m", ""),
    ("GET", "/v2/models/stats", Action.STATISTICS, EVERY, "", ""),
    ("POST", "/v2/models/stats/infer", Action.INFERENCE, MODEL, "stats", ""),
    ("GET", "/v2", Action.METADATA, SERVER, "", ""),
    ("GET", "/v2/health/live", Action.HEALTH, SERVER, "", ""),
    ("GET", "/v2/health/ready", Action.HEALTH, SERVER, "", ""),
    ("GET", "/v2/logging", Action.LOGGING, EVERY, "", ""),
    ("POST", "/v2/logging", Action.LOGGING, EVERY, "", ""),
    ("GET", "/v2/trace/setting", Action.TRACE, EVERY, "", ""),
    ("POST", "/v2/trace/setting", Action.TRACE, EVERY, "", ""),
    ("GET", "/v2/systemsharedmemory/status", Action.SHARED_MEMORY, EVERY, "", ""),
    (
        "GET",
        "/v2/cudasharedmemory/region/r/status",
        Action.SHARED_MEMORY,
        EVERY,
        "",
        "",
    ),
    (
        "POST",
        "/v2/systemsharedmemory/region/r/register",
        Action.SHARED_MEMORY,
        EVERY,
        "",
        "",
    ),
    ("POST", "/v2/systemsharedmemory/unregister", Action.SHARED_MEMORY, EVERY, "", ""),
    ("POST", "/v2/repository/index", Action.MODEL_LIST, EVERY, "", ""),
    ("POST", "/v2/repository/x/index", Action.MODEL_LIST, EVERY, "", ""),
    (
        "POST",
        "/v2/repository/models/m/load",
        Action.MODEL_LOAD_OVERRIDE,
        MODEL,
        "m",
        "",
    ),
    ("POST", "/v2/repository/models/m/unload", Action.MODEL_REPOSITORY, EVERY, "", ""),
    ("GET", "/metrics", Action.METRICS, EVERY, "", ""),
    ("GET", "/metrics/", Action.METRICS, EVERY, "", ""),
    ("POST", "/v2/models/m/infer?a=b", Action.INFERENCE, MODEL, "m", ""),
]


@pytest.mark.parametrize(
    ("method", "path", "action", "scope", "model", "version"), HTTP_ROUTES
)
def test_each_http_route_of_triton_is_known(
    method: str, path: str, action: Action, scope: Scope, model: str, version: str
) -> None:
    assert http(method, path) == (action, scope, model, version)


UNKNOWN = [
    ("GET", "/v2/models/m/infer"),
    ("HEAD", "/v2/models/m"),
    ("post", "/v2/models/m/infer"),
    ("POST", "/v2/models/stats"),
    ("DELETE", "/v2/logging"),
    ("POST", "/v2"),
    ("GET", "/v2/"),
    ("GET", "/v2/health"),
    ("GET", "/v2/models"),
    ("GET", "/v2/models/"),
    ("POST", "/v2/models/m/infer/"),
    ("POST", "/V2/models/m/infer"),
    ("POST", "/v2/models/m/Infer"),
    ("POST", "/v2/models/m/versions/a/infer"),
    ("POST", "/v2/models/m/versions//infer"),
    ("GET", "/v2/models/m/versions/1/trace/setting"),
    ("GET", "/v2/repository/index"),
    ("POST", "/v2/repository/x/models/m/load"),
    ("POST", "/v2/systemsharedmemory/status"),
    ("GET", "/v2/systemsharedmemory/region/r/register"),
    ("POST", "/v1/models/m:predict"),
    ("GET", "/"),
    ("GET", "/healthXYZ"),
    ("POST", "/invocations"),
    ("GET", "/docs"),
]


@pytest.mark.parametrize(("method", "path"), UNKNOWN)
def test_whatever_triton_has_no_route_for_is_unknown(method: str, path: str) -> None:
    reason = refusal(check_request(method=method, path=path))
    assert reason in {Reason.OPERATION_UNKNOWN, Reason.PATH_INVALID}


ODD_PATHS = [
    "", "v2", "?x", "*", "http://other/v2", "//v2//models", "/v2//models/m",
    "/v2/../admin", "/v2/./models", "/v2/%2e%2e/admin", "/v2/models/m/..",
    "/v2/models/%65cho/infer", "/v2/models/a%2fb/infer", "/a%00b", "/%2561dmin", "/a%",
    "/a%zz", "/a%0d%0ab", "/v2/models/m;p=1/infer", "/a/..;/b", "/a\\b", "/a#f",
    "/v2/models/m infer", "/v2/models/m\tx", "/v2/models/m\n", "/v2/models/\u00e9",
    "/v2/models/m\x7f", "/v2/models/m\x00/infer", "/v2?a#b", "/v2?a b", "/v2?\u00e9",
]  # fmt: skip


@pytest.mark.parametrize("path", ODD_PATHS)
def test_a_path_that_can_be_read_in_two_ways_is_refused(path: str) -> None:
    assert refusal(check_request(method="GET", path=path)) is Reason.PATH_INVALID


@pytest.mark.parametrize("model", ["-m", ".m", "m*", "a:b", "m" * 256, "@", 'm"x'])
def test_a_model_name_that_no_policy_could_name_is_refused(model: str) -> None:
    request = check_request(path=f"/v2/models/{model}/infer")
    assert refusal(request) is Reason.MODEL_NAME_INVALID


@pytest.mark.parametrize("version", ["0", "01", "1234567890123456789"])
def test_a_version_has_one_spelling_over_http(version: str) -> None:
    request = check_request(path=f"/v2/models/m/versions/{version}/infer")
    assert refusal(request) is Reason.MODEL_VERSION_INVALID


M1 = len_field(1, b"m")
M2 = len_field(2, b"m")
V2 = len_field(2, b"7")
NO_DEPENDENTS = len_field(
    3, len_field(1, b"unload_dependents") + len_field(2, b"\x08\x00")
)
WITH_DEPENDENTS = len_field(
    3, len_field(1, b"unload_dependents") + len_field(2, b"\x08\x01")
)

BOTH_DEPENDENTS = NO_DEPENDENTS + WITH_DEPENDENTS
LOAD, UNLOAD = "RepositoryModelLoad", "RepositoryModelUnload"
REPOSITORY = Action.MODEL_REPOSITORY

GRPC_METHODS = [
    ("ModelInfer", M1 + V2, Action.INFERENCE, MODEL, "m", "7"),
    ("ModelInfer", M1, Action.INFERENCE, MODEL, "m", ""),
    ("ModelReady", M1 + V2, Action.HEALTH, MODEL, "m", "7"),
    ("ModelMetadata", M1, Action.METADATA, MODEL, "m", ""),
    ("ModelConfig", M1, Action.MODEL_CONFIG, MODEL, "m", ""),
    ("ModelStatistics", M1, Action.STATISTICS, MODEL, "m", ""),
    ("ModelStatistics", b"", Action.STATISTICS, EVERY, "", ""),
    ("RepositoryIndex", b"", Action.MODEL_LIST, EVERY, "", ""),
    (LOAD, M2, REPOSITORY, MODEL, "m", ""),
    (LOAD, M2 + len_field(3, b""), Action.MODEL_LOAD_OVERRIDE, MODEL, "m", ""),
    (UNLOAD, M2, REPOSITORY, MODEL, "m", ""),
    (UNLOAD, M2 + NO_DEPENDENTS, REPOSITORY, MODEL, "m", ""),
    (UNLOAD, M2 + WITH_DEPENDENTS, REPOSITORY, EVERY, "", ""),
    (UNLOAD, M2 + BOTH_DEPENDENTS, REPOSITORY, EVERY, "", ""),
    ("TraceSetting", M2, Action.TRACE, MODEL, "m", ""),
    ("TraceSetting", len_field(1, b"x"), Action.TRACE, EVERY, "", ""),
    ("LogSettings", b"", Action.LOGGING, EVERY, "", ""),
    ("ServerLive", b"", Action.HEALTH, SERVER, "", ""),
    ("ServerReady", b"", Action.HEALTH, SERVER, "", ""),
    ("ServerMetadata", b"", Action.METADATA, SERVER, "", ""),
    ("ModelStreamInfer", b"", Action.INFERENCE_STREAM, EVERY, "", ""),
    ("SystemSharedMemoryStatus", b"", Action.SHARED_MEMORY, EVERY, "", ""),
    ("CudaSharedMemoryRegister", b"", Action.SHARED_MEMORY, EVERY, "", ""),
    ("SystemSharedMemoryUnregister", b"", Action.SHARED_MEMORY, EVERY, "", ""),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "message", "action", "scope", "model", "version"), GRPC_METHODS
)
def test_each_grpc_method_of_triton_is_known(
    name: str, message: bytes, action: Action, scope: Scope, model: str, version: str
) -> None:
    assert grpc(name, message) == (action, scope, model, version)


def test_the_standard_health_check_is_known() -> None:
    call = operation_of(grpc_check_request("/grpc.health.v1.Health/Check", b"")).call
    assert (call.action, call.scope) == (Action.HEALTH, Scope.SERVER)


@pytest.mark.parametrize(
    "path",
    [
        "/grpc.health.v1.Health/Watch",
        "/inference.GRPCInferenceService/modelInfer",
        "/inference.GRPCInferenceService/ModelInfer/",
        "/inference.GRPCInferenceService/",
        "/inference.grpcinferenceservice/ModelInfer",
        "/inference.GRPCInferenceService",
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    ],
)
def test_a_grpc_method_that_triton_does_not_have_is_unknown(path: str) -> None:
    assert refusal(grpc_check_request(path, M1)) is Reason.OPERATION_UNKNOWN


def test_a_grpc_path_has_no_query() -> None:
    assert refusal(grpc_check_request(MODEL_INFER + "?x", M1)) is Reason.PATH_INVALID


def test_a_grpc_call_is_a_post() -> None:
    request = grpc_check_request(MODEL_INFER, M1, method="GET")
    assert refusal(request) is Reason.OPERATION_UNKNOWN


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"raw_body": b""}, Reason.BODY_MISSING),
        ({"size": 10_000}, Reason.BODY_PARTIAL),
        ({"raw_body": b"\x01\x00\x00\x00\x01x"}, Reason.BODY_COMPRESSED),
        ({"raw_body": b"\x00\x00\x00\x00\x01\xff"}, Reason.BODY_MALFORMED),
        ({"raw_body": b"\x00\x00"}, Reason.BODY_MALFORMED),
    ],
)
def test_a_call_that_names_a_model_needs_its_whole_body(
    changes: dict[str, object], reason: Reason
) -> None:
    assert refusal(grpc_check_request(MODEL_INFER, M1, **changes)) is reason


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (b"", Reason.MODEL_NAME_INVALID),
        (len_field(1, b""), Reason.MODEL_NAME_INVALID),
        (len_field(1, b"echo\x00public"), Reason.MODEL_NAME_INVALID),
        (len_field(1, b"\xff"), Reason.MODEL_NAME_INVALID),
        (len_field(1, b"a/b"), Reason.MODEL_NAME_INVALID),
        (M1 + len_field(2, b" 1"), Reason.MODEL_VERSION_INVALID),
        (M1 + len_field(2, b"+1"), Reason.MODEL_VERSION_INVALID),
        (M1 + len_field(2, b"01"), Reason.MODEL_VERSION_INVALID),
        (M1 + len_field(2, b"1abc"), Reason.MODEL_VERSION_INVALID),
        (M1 + len_field(2, b"-1"), Reason.MODEL_VERSION_INVALID),
        (M1 + M1, Reason.BODY_MALFORMED),
        (M1 + len_field(1, b"other"), Reason.BODY_MALFORMED),
    ],
)
def test_a_name_or_version_that_triton_reads_otherwise_is_refused(
    message: bytes, reason: Reason
) -> None:
    assert refusal(grpc_check_request(MODEL_INFER, message)) is reason


def test_a_named_repository_is_unknown() -> None:
    path = "/inference.GRPCInferenceService/RepositoryModelLoad"
    message = len_field(1, b"repo") + M2
    assert refusal(grpc_check_request(path, message)) is Reason.OPERATION_UNKNOWN


def test_the_route_names_the_upstream() -> None:
    request = check_request(
        extensions={"upstream": "second"}, host="triton.factory.example"
    )
    assert operation_of(request, trust_host=True).upstream == "second"


def test_a_route_that_names_an_unknown_upstream_is_not_guessed_around() -> None:
    request = check_request(
        extensions={"upstream": "gone"},
        destination="spiffe://td/ns/inference/sa/triton",
    )
    assert refusal(request) is Reason.UPSTREAM_UNKNOWN


def test_the_workload_beside_the_proxy_names_the_upstream() -> None:
    request = check_request(
        extensions={}, destination="spiffe://td/ns/inference/sa/triton"
    )
    assert operation_of(request).upstream == "second"


def test_the_host_names_the_upstream_only_where_it_is_trusted() -> None:
    request = check_request(extensions={}, host="TRITON.factory.example.:8443")
    assert operation_of(request, trust_host=True).upstream == "triton"
    assert refusal(request) is Reason.UPSTREAM_UNKNOWN


@pytest.mark.parametrize(
    ("host", "name"),
    [
        (b"A.Test", "a.test"),
        (b"a.test:443", "a.test"),
        (b"a.test.", "a.test"),
        (b"a.test.:80", "a.test"),
        (b"[::1]:80", "[::1]"),
        (b"a,b", "a,b"),
        (b"", ""),
    ],
)
def test_a_host_is_compared_without_case_port_and_final_dot(
    host: bytes, name: str
) -> None:
    assert normalize_host(host) == name


@pytest.mark.parametrize(
    ("host", "path"),
    [("data.factory.example", "/whole/a"), ("whole.data.factory.example:9000", "/a")],
)
def test_a_request_for_a_dataset_is_judged_by_its_own_rules(
    host: str, path: str
) -> None:
    request = check_request(method="GET", extensions={}, host=host, path=path)
    got = operation_of(request, trust_host=True)
    assert (got.call.action, got.dataset) == (Action.DATASET_READ, "images")


def test_only_one_label_in_front_of_a_host_may_be_anything() -> None:
    request = check_request(extensions={}, host="a.whole.data.factory.example")
    with pytest.raises(RequestError) as caught:
        operation_of(request, trust_host=True)
    assert caught.value.reason is Reason.UPSTREAM_UNKNOWN


def test_a_method_beyond_ascii_is_unknown() -> None:
    request = bytes(check_request(method="PUT")).replace(b"PUT", b"P\xffT")
    facts = Facts.decode(extract(request, Plan())[0])
    with pytest.raises(RequestError):
        classify(facts, INDEX, trust_host=False)
