"""Policies written for opa-envoy-plugin, through the whole pipeline.

Two of them are checked in as `authz-server policy build --form opa-envoy` made them; a
test that has OPA makes them again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from checks import CAMERA, check_request, is_allowed, reason_of
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
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
from authz_server.policy.builtins.table import HOST_FUNCTIONS
from authz_server.policy.bundles.bundle import read_bundle
from authz_server.policy.bundles.bundle import write_bundle as pack
from authz_server.policy.in_force import AnyPolicy, OpaEnvoyPolicy
from authz_server.policy.wasm import Instance, Module

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


def test_keys_in_the_configuration_are_asked_for(tmp_path: Path) -> None:
    """Of both forms: what nobody signed is not taken."""
    key = tmp_path / "key.pub"
    key.write_bytes(
        ec.generate_private_key(ec.SECP256R1())
        .public_key()
        .public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    )
    signed = Distribution(url=str(DETAILED), keys={"release": str(key)})
    for form in ("opa-envoy", "access"):
        config = config_of(DETAILED, policy=Policy(form=form), distribution=signed)
        with contextlib.closing(open_policies(config)) as policies:
            assert not load_now(policies)
            assert policies.current is None
            assert "the bundle is not signed" in str(policies.error)


def test_other_inputs_are_another_policy(tmp_path: Path) -> None:
    """A bundle that differs in them alone takes effect, under a revision of its own."""
    file = tmp_path / "bundle.tar.gz"
    file.write_bytes(DETAILED.read_bytes())
    with contextlib.closing(open_policies(config_of(file))) as policies:
        assert load_now(policies), policies.error
        before = policies.current
        file.write_bytes(without_metadata(tmp_path).read_bytes())
        assert load_now(policies), policies.error
        after = policies.current
    assert isinstance(before, OpaEnvoyPolicy)
    assert isinstance(after, OpaEnvoyPolicy)
    assert before.reads != after.reads
    assert before.revision != after.revision


def test_what_was_asked_before_is_not_rehearsed(tmp_path: Path) -> None:
    """It was cut down for another policy."""
    file = tmp_path / "bundle.tar.gz"
    file.write_bytes(DETAILED.read_bytes())
    rehearsed: list[object] = []

    def rehearse(loaded: object) -> Callable[[], None]:
        rehearsed.append(loaded)
        return lambda: None

    with contextlib.closing(open_policies(config_of(file))) as policies:
        policies.rehearse_with(rehearse)
        for bundle in (DETAILED, HOURS):
            file.write_bytes(bundle.read_bytes())
            assert load_now(policies), policies.error
    assert rehearsed == []


def test_each_evaluation_asks_for_the_time_anew() -> None:
    bundle = read_bundle(HOURS.read_bytes(), 10**7, None)
    assert bundle.wasm is not None
    module = Module(bundle.wasm, HOST_FUNCTIONS)
    noon_ns = 1_764_158_400 * 10**9  # a Wednesday
    times = iter((noon_ns, noon_ns + 12 * 3600 * 10**9))
    instance = Instance(module, b"{}", max_pages=1000, clock_ns=lambda: next(times))
    try:
        answers = [
            instance.evaluate(b"{}", 0, timeout_s=5.0, max_bytes=1000) for _ in range(2)
        ]
    finally:
        instance.close()
    assert answers == [b'[{"result":true}]', b'[{"result":false}]']


class Turning:
    """A source whose policy changes each time that somebody asks."""

    missing = Reason.POLICY_UNAVAILABLE

    def __init__(self, *policies: AnyPolicy) -> None:
        self._policies = itertools.cycle(policies)

    @property
    def current(self) -> AnyPolicy:
        return next(self._policies)


def test_a_request_is_cut_down_for_the_policy_that_judges_it(sink: MemorySink) -> None:
    """Cut down for another one, it would lack what this one denies by."""
    with contextlib.ExitStack() as stack:
        loaded = []
        for bundle in (HOURS, DETAILED):
            policies = stack.enter_context(
                contextlib.closing(open_policies(config_of(bundle)))
            )
            assert load_now(policies), policies.error
            assert policies.current is not None
            loaded.append(policies.current)
        identities = open_identities(config_of(HOURS))
        identities.reload()
        raw = asking(headers={"x-on-call": "true", "x-plan": "gold", "x-tenant": "t"})
        for first in (loaded, loaded[::-1]):
            pipeline = build_pipeline(
                config_of(HOURS), Turning(*first), sink, identities
            )
            assert is_allowed(pipeline.check(raw))


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
