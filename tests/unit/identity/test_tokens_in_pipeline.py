"""Tokens on the whole way of a request: what is remembered, and what is told."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from callers import (
    CA,
    CAMERA_SVID,
    IDP,
    IDP_FORGE,
    NOW_S,
    SPIRE,
    bearer,
    spiffe_bundle,
)
from checks import (
    CAMERA,
    DEPLOYER,
    check_request,
    envoy_certificate,
    is_allowed,
    reason_of,
)
from parts import MemorySink, example_config, loaded_policies
from token_forge import Forge, key_set

from authz_server.assembly import build_pipeline, open_identities
from authz_server.config import Identity, Policy
from authz_server.config.sections import JwtSvids, Users
from authz_server.errors import Reason
from authz_server.pipeline import Pipeline

HEADERS = ("authorization", "x-user-token")

POLICY = f"""
apiVersion: authz.edge/v1
kind: AccessPolicy
metadata: {{name: users}}
spec:
  trustDomain: factory.example
  upstreams:
    triton:
      kind: triton
      namespace: inference
      podSelector: {{app: triton}}
      serviceAccount: triton
      hosts: [triton.factory.example]
  groups:
    ml-engineers:
      users: [{{issuer: "{IDP}", claim: groups, value: ml}}]
  roles:
    inspector: [{{actions: [inference], models: [defect-detection]}}]
  grants:
    - {{role: inspector, to: [ml-engineers], on: [triton]}}
"""


class Plant:
    """A whole pipeline that reads both kinds of token, each from its own header."""

    def __init__(self, pipeline: Pipeline, sink: MemorySink) -> None:
        self.pipeline = pipeline
        self.sink = sink

    def ask(
        self,
        user: bytes | None = None,
        svid: bytes | None = None,
        *,
        certificate: bool = True,
    ) -> bytes:
        """Return the answer to an inference, which is granted to users alone."""
        headers = [
            (name, value)
            for name, value in zip(
                HEADERS, (bearer(svid) if svid else None, user), strict=True
            )
            if value is not None
        ]
        request = check_request(
            principal=CAMERA if certificate else "",
            certificate=envoy_certificate(CAMERA_SVID.certificate_pem)
            if certificate
            else "",
            raw_headers=headers,
        )
        return self.pipeline.check(bytes(request))

    @property
    def event(self) -> dict[str, object]:
        event: dict[str, object] = json.loads(self.sink.events[-1])
        return event


@pytest.fixture
def plant(tmp_path: Path) -> Iterator[Plant]:
    bundle, keys = tmp_path / "factory.json", tmp_path / "idp.json"
    policy = tmp_path / "policy.yaml"
    policy.write_text(POLICY)
    bundle.write_bytes(spiffe_bundle(CA, SPIRE))
    keys.write_bytes(key_set(IDP_FORGE.jwk()))
    config = example_config(
        policy=Policy(file=str(policy)),
        identity=Identity(
            bundles={"factory.example": str(bundle)},
            jwt_svid=JwtSvids(audience=("authz",), without_certificate=True),
            users=Users(
                issuers={IDP: str(keys)},
                audience=("authz",),
                claims=("groups",),
                header="x-user-token",
            ),
        ),
    )
    identities = open_identities(config)
    identities.reload()
    assert identities.error is None
    sink = MemorySink()
    with loaded_policies(config) as policies:
        yield Plant(build_pipeline(config, policies, sink, identities), sink)


END_S = int(NOW_S) + 3600
ADA = IDP_FORGE.user("ada", groups=["ml"], exp=END_S)
BOB = IDP_FORGE.user("bob", groups=["ops"], exp=END_S)


def test_a_user_is_allowed_what_the_workload_alone_is_not(plant: Plant) -> None:
    assert reason_of(plant.ask()) == Reason.PRINCIPAL_UNKNOWN
    assert is_allowed(plant.ask(ADA))
    assert plant.event["user"] == "ada"
    assert plant.event["principal"] == CAMERA


def test_requests_that_differ_in_the_token_only_share_no_decision(
    plant: Plant,
) -> None:
    assert is_allowed(plant.ask(ADA))
    assert not plant.event["cache_hit"]
    forged = Forge(IDP, "idp-1").user("ada", groups=["ml"])
    other = IDP_FORGE.user("eve", groups=["ml"])
    for token in (None, BOB, forged, ADA[:-1], ADA + b"A"):
        assert not is_allowed(plant.ask(token))
        assert not plant.event["cache_hit"]
    assert is_allowed(plant.ask(other))
    assert not plant.event["cache_hit"]
    assert plant.event["user"] == "eve"
    for token, user in ((ADA, "ada"), (other, "eve")):
        assert is_allowed(plant.ask(token))
        assert plant.event["cache_hit"]
        assert plant.event["user"] == user
    assert not is_allowed(plant.ask(BOB))
    assert plant.event["cache_hit"]
    assert plant.event["user"] == "bob"


def test_workloads_that_differ_in_the_jwt_svid_only_share_no_decision(
    plant: Plant,
) -> None:
    camera, deployer = SPIRE.svid(CAMERA), SPIRE.svid(DEPLOYER)
    for _ in range(2):
        for token, name in ((camera, CAMERA), (deployer, DEPLOYER)):
            plant.ask(ADA, token, certificate=False)
            assert plant.event["principal"] == name
    assert reason_of(plant.ask(ADA, certificate=False)) == Reason.PRINCIPAL_MISSING
    assert reason_of(plant.ask(ADA, deployer)) == Reason.TOKEN_MISMATCH


def test_an_error_is_not_remembered(plant: Plant) -> None:
    forged = Forge(IDP, "idp-1").user("ada", groups=["ml"])
    for _ in range(2):
        assert reason_of(plant.ask(forged)) == Reason.TOKEN_UNTRUSTED
        assert not plant.event["cache_hit"]


def test_no_part_of_a_token_is_recorded_logged_or_answered(
    plant: Plant, caplog: pytest.LogCaptureFixture
) -> None:
    hush = {"jti": "hush", "email": "hush@example.com", "groups": ["ml", "hush"]}
    users = [
        IDP_FORGE.user("ada", **hush),
        IDP_FORGE.user("hush", **{**hush, "aud": "hush"}),
        IDP_FORGE.user("hush", **{**hush, "exp": 1}),
        IDP_FORGE.user("hush", **{**hush, "exp": "hush"}),
        IDP_FORGE.user("hush", **{**hush, "iss": "https://hush.example"}),
        IDP_FORGE.token(IDP_FORGE.user_claims("hush"), IDP_FORGE.header(hush=1)),
        Forge(IDP, "hush").user("hush", **hush),
        Forge(IDP, "idp-1").user("hush", **hush),
        b"hush." + ADA,
        ADA + b",hush",
        b'hush"\n',
    ]
    svids = [
        SPIRE.svid(CAMERA, **hush),
        SPIRE.svid("spiffe://hush.example/hush", **hush),
        SPIRE.svid("hush", **hush),
        SPIRE.svid(CAMERA, **{**hush, "exp": 1}),
        Forge("factory.example", "jwt-1").svid(CAMERA, **hush),
        SPIRE.svid(CAMERA, **hush) + b",Bearer " + SPIRE.svid(CAMERA, **hush),
    ]
    with caplog.at_level(logging.DEBUG):
        answers = [plant.ask(user=token) for token in users for _ in range(2)]
        answers += [
            plant.ask(svid=token, certificate=has_one)
            for token in svids
            for has_one in (True, False)
        ]
    records = "\n".join(map(repr, map(vars, caplog.records))).encode()
    told = b"\n".join((*answers, *plant.sink.events, records, caplog.text.encode()))
    assert len(plant.sink.events) == len(answers)
    assert b"token_" in records
    assert b"hush" not in told
    for token in (*users, *svids):
        for part in token.split(b"."):
            for start in range(max(0, len(part) - 15)):
                assert part[start : start + 16] not in told
