"""Upstreams of kind `openai` in the access policy, from the file to the decision."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from checks import CAMERA, check_request, is_allowed, reason_of
from envoy_data_plane.envoy.service.auth import v3 as auth
from parts import MemorySink, example_config, loaded_policies

from authz_server.assembly import build_pipeline
from authz_server.config import Policy
from authz_server.errors import Reason
from authz_server.identity.sources import IdentitySources
from authz_server.pipeline import Pipeline
from authz_server.policy.compiler import compile_policy
from authz_server.policy.document import PolicyDocumentError, parse_policy
from authz_server.policy.model import UpstreamKind
from authz_server.policy.upstream_index import index_upstreams
from authz_server.second_lock import SecondLock

POLICY = """
apiVersion: authz.edge/v1
kind: AccessPolicy
metadata: {name: test}
spec:
  trustDomain: factory.example
  upstreams:
    chat: {kind: openai, hosts: [chat.example], loraSeparator: ":"}
    triton: {kind: triton}
    data: {kind: dataset, hosts: [data.example], datasets: {images: /images}}
  groups: {cameras: {spiffe: ["spiffe://factory.example/ns/line1/sa/camera"]}}
  roles:
    talker: [{actions: [inference, metadata, health], models: [llama]}]
    analyst: [{actions: [inference], models: [qwen], adapters: [sql]}]
    reader: [{actions: [dataset-read], datasets: [images]}]
  grants:
    - {role: talker, to: [cameras], on: [chat]}
    - {role: analyst, to: [cameras], on: [chat]}
    - {role: reader, to: [cameras], on: [data]}
"""


def problem(text: str) -> str:
    with pytest.raises(PolicyDocumentError) as caught:
        parse_policy(text, "p")
    return str(caught.value)


def test_an_openai_upstream_is_read_and_indexed() -> None:
    policy = parse_policy(POLICY, "p")
    upstream = policy.upstreams["chat"]
    assert (upstream.kind, upstream.lora_separator) == (UpstreamKind.OPENAI, ":")
    index = index_upstreams(policy)
    assert index.openai == {"chat": ":"}
    assert index.by_host == {"chat.example": "chat", "data.example": "data"}
    assert index.triton == {"triton"}


def test_without_a_separator_there_is_none() -> None:
    policy = parse_policy(POLICY.replace(', loraSeparator: ":"', ""), "p")
    assert index_upstreams(policy).openai == {"chat": ""}


def test_another_separator_is_another_revision() -> None:
    texts = [POLICY, POLICY.replace('":"', '"::"'), POLICY.replace('":"', '"|"')]
    revisions = {compile_policy(parse_policy(text, "p")).revision for text in texts}
    assert len(revisions) == 3


@pytest.mark.parametrize("bad", ["-", "_", ".", "a", "/", "%", " ", ":-", ":" * 9])
def test_a_separator_that_could_be_in_a_name_or_escape_a_path_is_refused(
    bad: str,
) -> None:
    text = problem(POLICY.replace('":"', f'"{bad}"'))
    assert "could be part of a model's name" in text


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        (
            "{kind: triton}",
            '{kind: triton, loraSeparator: ":"}',
            "is of kind triton, which has no loraSeparator",
        ),
        (
            "datasets: {images: /images}",
            'datasets: {images: /images}, loraSeparator: ":"',
            "is of kind dataset, which has no loraSeparator",
        ),
        (
            "hosts: [chat.example]",
            "datasets: {images: /other}",
            "is of kind openai, which has no datasets",
        ),
    ],
)
def test_a_key_of_another_kind_is_refused(
    before: str, after: str, message: str
) -> None:
    assert message in problem(POLICY.replace(before, after))


@pytest.mark.parametrize(
    "permission",
    [
        '{actions: [inference], models: [llama], versions: ["1"]}',
        "{actions: [statistics], models: [llama]}",
        "{actions: [model-load-override], models: [llama]}",
        "{actions: [dataset-read], datasets: [images]}",
    ],
)
def test_a_role_that_gives_nothing_there_is_told(permission: str) -> None:
    text = problem(
        POLICY.replace(
            "{actions: [inference, metadata, health], models: [llama]}", permission
        )
    )
    assert "role 'talker' gives nothing on upstream 'chat'" in text


@pytest.mark.parametrize(
    "permission",
    [
        "{actions: [health]}",
        '{actions: [health], models: [llama], versions: ["1"]}',
        '{actions: [metrics], models: ["*"]}',
        "{actions: [model-repository, statistics], models: [llama]}",
    ],
)
def test_a_role_that_gives_something_there_is_fine(permission: str) -> None:
    parse_policy(
        POLICY.replace(
            "{actions: [inference, metadata, health], models: [llama]}", permission
        ),
        "p",
    )


@pytest.mark.parametrize(
    ("permission", "message"),
    [
        ("{actions: [metadata], adapters: [sql]}", "has adapters of no model"),
        (
            '{actions: [inference], models: [llama], adapters: [sql], versions: ["1"]}',
            "no call names both",
        ),
        (
            "{actions: [inference], models: [llama], adapters: [a/b]}",
            "not an adapter's name",
        ),
        (
            '{actions: [logging], models: ["*"], adapters: [sql]}',
            "concerns every model",
        ),
    ],
)
def test_adapters_where_they_mean_nothing_are_refused(
    permission: str, message: str
) -> None:
    before = "{actions: [inference, metadata, health], models: [llama]}"
    assert message in problem(POLICY.replace(before, permission))


def test_adapters_give_nothing_on_a_triton_upstream() -> None:
    text = POLICY.replace(
        "role: analyst, to: [cameras], on: [chat]",
        "role: analyst, to: [cameras], on: [triton]",
    )
    assert "role 'analyst' gives nothing on upstream 'triton'" in problem(text)


@pytest.fixture(scope="module")
def sink() -> MemorySink:
    return MemorySink()


@pytest.fixture(scope="module")
def pipeline(
    tmp_path_factory: pytest.TempPathFactory, sink: MemorySink
) -> Iterator[Pipeline]:
    folder = tmp_path_factory.mktemp("p")
    file, secret = folder / "access.yaml", folder / "secret"
    file.write_text(POLICY)
    secret.write_text("0123456789")
    lock = SecondLock(secret, principal_header="x-authz-principal")
    lock.reload()
    config = example_config(policy=Policy(file=str(file)))
    with loaded_policies(config) as policies:
        yield build_pipeline(
            config, policies, sink, IdentitySources(), second_lock=lock
        )


def ask(body: bytes, path: str = "/v1/chat/completions") -> bytes:
    return bytes(
        check_request(path=path, raw_body=body, extensions={"upstream": "chat"})
    )


@pytest.mark.parametrize("name", ["llama", "llama:sql"])
def test_a_granted_model_may_be_used_with_and_without_an_adapter(
    pipeline: Pipeline, name: str
) -> None:
    assert is_allowed(pipeline.check(ask(f'{{"model":"{name}"}}'.encode())))


def test_a_grant_with_adapters_covers_these_alone(
    pipeline: Pipeline, sink: MemorySink
) -> None:
    for name, expected in (
        ("qwen:sql", True),
        ("qwen", False),
        ("qwen:law", False),
        ("mistral:sql", False),
    ):
        answer = pipeline.check(ask(f'{{"model":"{name}"}}'.encode()))
        assert is_allowed(answer) is expected
        event = json.loads(sink.events[-1])
        named = event["model"], event["adapter"]
        assert named == (name.partition(":")[0], name.partition(":")[2])


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b'{"model":"qwen"}', Reason.NOT_GRANTED),
        (b'{"model":"qwen:llama"}', Reason.NOT_GRANTED),
        (b'{"model":"llama","model":"qwen"}', Reason.BODY_MALFORMED),
        (b"", Reason.BODY_MISSING),
    ],
)
def test_another_model_may_not_however_it_is_named(
    pipeline: Pipeline, body: bytes, reason: Reason
) -> None:
    assert is_allowed(pipeline.check(ask(b'{"model":"llama"}')))
    assert reason_of(pipeline.check(ask(body))) == reason


def test_the_second_lock_is_opened_over_http(pipeline: Pipeline) -> None:
    answer = auth.CheckResponse.parse(pipeline.check(ask(b'{"model":"llama"}')))
    assert answer.ok_response is not None
    found = {
        option.header.key: option.header.value
        for option in answer.ok_response.headers
        if option.header is not None
    }
    assert found == {
        "triton-access-token": "0123456789",
        "x-authz-principal": CAMERA,
    }


def test_a_dataset_upstream_never_gets_tritons_secret(pipeline: Pipeline) -> None:
    request = check_request(
        method="GET",
        path="/images/a.png",
        host="data.example",
        extensions={"upstream": "data"},
    )
    answer = pipeline.check(bytes(request))
    assert is_allowed(answer)
    assert auth.CheckResponse.parse(answer).ok_response == auth.OkHttpResponse()


def test_a_policy_that_only_has_another_separator_comes_into_force(
    tmp_path: Path,
) -> None:
    file = tmp_path / "access.yaml"
    file.write_text(POLICY)
    config = example_config(policy=Policy(file=str(file)))
    with loaded_policies(config) as policies:
        pipeline = build_pipeline(config, policies, MemorySink(), IdentitySources())
        asked = ask(b'{"model":"llama:sql"}')
        assert is_allowed(pipeline.check(asked))
        file.write_text(POLICY.replace('":"', '"|"'))
        assert policies.reload()
        assert reason_of(pipeline.check(asked)) == Reason.MODEL_NAME_INVALID
