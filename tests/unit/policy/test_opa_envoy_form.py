"""Policies written for opa-envoy-plugin, through the whole pipeline.

Two of them are checked in as `authz-server policy build --form opa-envoy` made them; a
test that has OPA makes them again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from checks import CAMERA, check_request, is_allowed, reason_of
from envoy_data_plane.envoy.service.auth import v3 as auth
from parts import EXAMPLE, FACTORY_CA, MemorySink

from authz_server.assembly import (
    build_pipeline,
    load_now,
    open_identities,
    open_policies,
)
from authz_server.config import Config, Distribution, Identity, Inputs, Policy, Triton
from authz_server.config.policy_contradictions import find_policy_contradictions
from authz_server.demo.pki import write_bundle
from authz_server.errors import Reason
from authz_server.pipeline import Pipeline
from authz_server.policy.bundles.bundle import read_bundle
from authz_server.policy.bundles.bundle import write_bundle as pack

POLICIES = Path(__file__).parents[2] / "opa_envoy_policies"
DETAILED = POLICIES / "detailed_answer.tar.gz"
HOURS = POLICIES / "opening_hours.tar.gz"

UNVERIFIED = Identity(chain="proxy", require_certificate=False)


def config_of(bundle: Path, **sections: Any) -> Config:
    arguments: dict[str, Any] = {
        "policy": Policy(form="opa-envoy"),
        "distribution": Distribution(url=str(bundle)),
        "identity": UNVERIFIED,
        **sections,
    }
    config = Config(**arguments)
    assert list(find_policy_contradictions(config)) == []
    return config


@contextlib.contextmanager
def pipeline_of(config: Config, sink: MemorySink) -> Iterator[Pipeline]:
    with contextlib.closing(open_policies(config)) as policies:
        assert load_now(policies), policies.error
        identities = open_identities(config)
        identities.reload()
        yield build_pipeline(config, policies, sink, identities)


@pytest.fixture
def sink() -> MemorySink:
    return MemorySink()


def hits(sink: MemorySink) -> list[bool]:
    return [json.loads(event)["cache_hit"] for event in sink.events]


def asking(**changes: Any) -> bytes:
    headers = changes.pop("headers", {})
    return bytes(
        check_request(**{"principal": "", "method": "GET", **changes}, headers=headers)
    )


def without_metadata(folder: Path) -> Path:
    """Return a bundle as somebody else's `opa build` makes it."""
    bundle = read_bundle(DETAILED.read_bytes(), 10**7, None)
    manifest = dataclasses.replace(bundle.manifest, metadata={})
    bare = folder / "bare.tar.gz"
    bare.write_bytes(pack(dataclasses.replace(bundle, manifest=manifest)))
    return bare


def test_what_the_policy_says_is_done(sink: MemorySink) -> None:
    gold = asking(headers={"x-plan": "gold", "x-tenant": "t"})
    with pipeline_of(config_of(DETAILED), sink) as pipeline:
        allowed = auth.CheckResponse.parse(pipeline.check(gold))
        denied = auth.CheckResponse.parse(
            pipeline.check(asking(headers={"x-plan": "free"}))
        )
    assert allowed.ok_response is not None
    assert [
        (option.header.key, option.header.value)
        for option in allowed.ok_response.headers
        if option.header
    ] == [("x-plan-checked", "true"), ("x-tenant-id", "t")]
    assert denied.denied_response is not None
    assert denied.denied_response.body == "free costs more"
    assert [json.loads(event)["reason"] for event in sink.events] == [
        "granted",
        "not_granted",
    ]


def test_an_answer_is_remembered_by_what_the_policy_reads(sink: MemorySink) -> None:
    same = {"x-plan": "gold", "x-tenant": "t"}
    with pipeline_of(config_of(DETAILED), sink) as pipeline:
        answers = [
            pipeline.check(asking(headers={**same, "x-other": other}, request_id=other))
            for other in ("1", "2")
        ]
        assert answers[0] == answers[1]
        other = pipeline.check(asking(headers={**same, "x-tenant": "u"}))
        assert other != answers[0]
    assert hits(sink) == [False, True, False]


def test_nothing_is_remembered_where_it_is_not_known_what_is_read(
    sink: MemorySink, tmp_path: Path
) -> None:
    raw = asking(headers={"x-plan": "gold", "x-tenant": "t"})
    with pipeline_of(config_of(without_metadata(tmp_path)), sink) as pipeline:
        assert is_allowed(pipeline.check(raw))
        assert is_allowed(pipeline.check(raw))
    assert hits(sink) == [False, False]


def test_what_is_declared_is_all_that_the_policy_sees(
    sink: MemorySink, tmp_path: Path
) -> None:
    path = 'attributes.request.http.headers["x-tenant"]'
    declared = Policy(form="opa-envoy", reads=(path,))
    raw = asking(headers={"x-plan": "gold", "x-tenant": "t"})
    config = config_of(without_metadata(tmp_path), policy=declared)
    with pipeline_of(config, sink) as pipeline:
        assert reason_of(pipeline.check(raw)) == Reason.NOT_GRANTED
    # What was worked out when it was built counts before a declaration.
    with pipeline_of(config_of(DETAILED, policy=declared), sink) as pipeline:
        assert is_allowed(pipeline.check(raw))


def test_an_answer_of_the_clock_is_not_remembered(sink: MemorySink) -> None:
    with pipeline_of(config_of(HOURS), sink) as pipeline:
        for _ in range(2):
            pipeline.check(asking())
        on_call = asking(headers={"x-on-call": "true"})
        for _ in range(2):
            assert is_allowed(pipeline.check(on_call))
    assert not any(hits(sink))


def test_a_caller_that_shows_an_identity_has_to_prove_it(
    sink: MemorySink, tmp_path: Path
) -> None:
    write_bundle(tmp_path, FACTORY_CA)
    (bundle,) = tmp_path.glob("*.pem")
    identity = Identity(bundles={"factory.example": str(bundle)})
    headers = {"x-plan": "gold", "x-tenant": "t"}
    with pipeline_of(config_of(DETAILED, identity=identity), sink) as pipeline:
        assert is_allowed(pipeline.check(asking(headers=headers)))
        claimed = asking(headers=headers, principal=CAMERA)
        assert reason_of(pipeline.check(claimed)) == Reason.CERTIFICATE_MISSING
        odd = asking(headers=headers, principal="CN=camera")
        assert reason_of(pipeline.check(odd)) == Reason.PRINCIPAL_INVALID


def test_a_message_of_a_stream_gets_no_answer(sink: MemorySink) -> None:
    headers = {"x-plan": "gold", "x-tenant": "t"}
    raw = asking(headers=headers, extensions={"gate": "ext_proc"})
    with pipeline_of(config_of(DETAILED), sink) as pipeline:
        answer = auth.CheckResponse.parse(pipeline.check(raw))
    # The gate gets no facts from it, and denies what it has no facts of.
    assert answer.dynamic_metadata is not None
    assert "authz_server_facts" not in answer.dynamic_metadata.fields


def test_an_access_policy_is_no_policy_of_this_form(tmp_path: Path) -> None:
    empty = tmp_path / "bundle.tar.gz"
    empty.write_bytes(pack(read_bundle(DETAILED.read_bytes(), 10**7, None)))
    config = config_of(empty)
    config = dataclasses.replace(config, policy=Policy(form="access"))
    with contextlib.closing(open_policies(config)) as policies:
        assert not load_now(policies)
        assert "no data.access_policy" in str(policies.error)


@pytest.mark.parametrize(
    ("sections", "problem"),
    [
        ({"policy": Policy(form="opa")}, "policy.form: expected access or opa-envoy"),
        ({"distribution": Distribution()}, "distribution.url: missing"),
        ({"policy": Policy(form="opa-envoy", file=str(EXAMPLE))}, "policy.file"),
        ({"policy": Policy(form="opa-envoy", reads=("a..b",))}, "policy.reads: input"),
        ({"policy": Policy(reads=("a",))}, "policy.reads: is for policy.form"),
        ({"inputs": Inputs(headers=("x-a",))}, "inputs.headers"),
        ({"triton": Triton(access_secret="/x")}, "triton.access_secret"),
    ],
)
def test_what_does_not_go_with_the_form_is_refused(
    sections: dict[str, Any], problem: str
) -> None:
    arguments: dict[str, Any] = {
        "policy": Policy(form="opa-envoy"),
        "distribution": Distribution(url=str(DETAILED)),
        "identity": UNVERIFIED,
        **sections,
    }
    found = "\n".join(find_policy_contradictions(Config(**arguments)))
    assert problem in found
