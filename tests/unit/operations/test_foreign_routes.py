"""Other frontends' routes: refused on a Triton upstream, and called by their names."""

import logging
from collections.abc import Iterator

import pytest
from checks import check_request, is_allowed, reason_of
from hypothesis import given
from hypothesis import strategies as st
from parts import MemorySink, example_pipeline

from authz_server.errors import Reason
from authz_server.operations.foreign_routes import (
    _FOREIGN,
    REDIRECT,
    refuse_foreign,
)
from authz_server.operations.operation import OperationError
from authz_server.pipeline import Pipeline


@pytest.fixture(scope="module")
def pipeline() -> Iterator[Pipeline]:
    with example_pipeline(MemorySink()) as running:
        yield running


KSERVE = "KServe v1"
SAGEMAKER = "SageMaker"
VERTEX = "Vertex AI"
OPENAI = "the OpenAI-compatible frontend"

FOREIGN = [
    (KSERVE, "/v1/models"),
    (KSERVE, "/v1/models/defect-detection"),
    (KSERVE, "/v1/models/defect-detection:predict"),
    (KSERVE, "/v1/models/defect-detection:explain"),
    (SAGEMAKER, "/ping"),
    (SAGEMAKER, "/invocations"),
    (SAGEMAKER, "/models"),
    (SAGEMAKER, "/models/"),
    (SAGEMAKER, "/models/defect-detection"),
    (SAGEMAKER, "/modelsdefect-detection"),
    (SAGEMAKER, "/models/defect-detection/invoke"),
    (VERTEX, "/v1/endpoints/7"),
    (VERTEX, "/v1/endpoints/7:predict"),
    (VERTEX, "/v1/endpoints/7/deployedModels/8"),
    (VERTEX, "/v1/endpoints/7/deployedModels/8:predict"),
    (VERTEX, "/v1/models/m/versions/1"),
    (VERTEX, "/v1/models/m/versions/1:predict"),
    (OPENAI, "/v1/chat/completions"),
    (OPENAI, "/v1/completions"),
    (OPENAI, "/v1/embeddings"),
]


@pytest.mark.parametrize(("frontend", "path"), FOREIGN)
def test_a_route_of_another_frontend_is_refused_by_its_name(
    frontend: str, path: str
) -> None:
    with pytest.raises(OperationError, match=f"^a route of {frontend}, ") as caught:
        refuse_foreign(path, ())
    assert caught.value.reason is Reason.OPERATION_UNKNOWN


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
@pytest.mark.parametrize(("frontend", "path"), FOREIGN)
def test_no_method_of_a_foreign_route_is_allowed_and_the_log_says_why(
    pipeline: Pipeline,
    frontend: str,
    path: str,
    method: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, "authz_server.pipeline")
    answer = pipeline.check(bytes(check_request(method=method, path=path)))
    assert reason_of(answer) == Reason.OPERATION_UNKNOWN
    assert frontend in caplog.text


@pytest.mark.parametrize("value", ["v2/models/demand-forecast/infer", ""])
def test_a_header_that_sends_a_call_elsewhere_is_refused_on_any_route(
    pipeline: Pipeline, value: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "authz_server.pipeline")
    assert is_allowed(pipeline.check(bytes(check_request())))
    answer = pipeline.check(bytes(check_request(headers={REDIRECT: value})))
    assert reason_of(answer) == Reason.OPERATION_UNKNOWN
    assert VERTEX in caplog.text


@pytest.mark.parametrize(
    "path",
    ["/v2/models/m/infer", "/v2", "/metrics", "/v2/models/models", "/pings", "/v1"],
)
def test_tritons_own_and_unknown_routes_are_no_foreign_ones(path: str) -> None:
    refuse_foreign(path, ())


@given(
    st.lists(
        st.sampled_from(
            [
                *("/ping", "/invocations", "/models", "/v1", "/v2", "/m", "invoke"),
                *("/", ":", "predict", "explain", "/endpoints", "/versions"),
                "/chat/completions",
            ]
        ),
        max_size=5,
    ).map("".join)
)
def test_what_begins_like_no_foreign_route_is_none(path: str) -> None:
    is_foreign = any(route.fullmatch(path) for _, route in _FOREIGN)
    if is_foreign:
        with pytest.raises(OperationError):
            refuse_foreign(path, ())
    else:
        refuse_foreign(path, ())
