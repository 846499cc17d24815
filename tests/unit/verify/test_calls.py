"""How calls look is held against what the server makes of such calls."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from authz_server.facts import Body, BodyState
from authz_server.facts.json_body import VALUE
from authz_server.operations.actions import Action
from authz_server.operations.openai import classify_openai
from authz_server.operations.operation import Call, Operation, Scope
from authz_server.operations.triton_grpc import OUTLINES, STREAM, classify_grpc
from authz_server.operations.triton_http import classify_http
from authz_server.policy.document import parse_policy
from authz_server.policy.model import AccessPolicy
from authz_server.policy.vocabulary import Vocabulary
from authz_server.site.model import Mesh, Site
from authz_server.verify.calls import WireCall, call_ports, ports_of, wire_calls

POLICY = {
    "apiVersion": "authz.edge/v1",
    "kind": "AccessPolicy",
    "metadata": {"name": "p"},
    "spec": {
        "trustDomain": "one.example",
        "upstreams": {
            "t": {"kind": "triton", "hosts": ["t.example"]},
            "o": {"kind": "openai", "loraSeparator": ":"},
            "d": {"kind": "dataset", "datasets": {"lines": "/data/lines"}},
        },
        "groups": {"g": {"spiffe": ["spiffe://one.example/ns/a/sa/b"]}},
        "roles": {
            "r": [{"actions": ["inference"], "models": ["m"], "versions": ["1"]}],
            "a": [{"actions": ["inference"], "models": ["m"], "adapters": ["x"]}],
        },
        "grants": [
            {"role": "r", "to": ["g"], "on": ["t"]},
            {"role": "a", "to": ["g"], "on": ["o"]},
        ],
    },
}
SITE = Site(mesh=Mesh.SIDECAR)


@pytest.fixture(scope="module")
def policy() -> AccessPolicy:
    return parse_policy(json.dumps(POLICY), "p")


def calls(policy: AccessPolicy, name: str) -> dict[Operation, tuple[WireCall, ...]]:
    upstream = policy.upstreams[name]
    return {
        operation: wire_calls(operation, upstream, SITE)
        for operation in Vocabulary((policy,)).operations(name)
    }


def test_triton_makes_of_http_calls_what_they_stand_for(policy: AccessPolicy) -> None:
    seen = set()
    for operation, found in calls(policy, "t").items():
        for call in found:
            if call.port != SITE.ports.triton_grpc:
                assert classify_http(call.method, call.path) == operation.call
                assert call.host == "t.example"
                seen.add(operation.call.action)
    # A stream is gRPC alone; an unload over HTTP concerns every model.
    assert seen == set(Action) - {
        Action.DATASET_READ,
        Action.DATASET_WRITE,
        Action.INFERENCE_STREAM,
        Action.MODEL_REPOSITORY,
    }


def test_triton_has_the_methods_of_grpc_calls(policy: AccessPolicy) -> None:
    for operation, found in calls(policy, "t").items():
        for call in found:
            if call.port != SITE.ports.triton_grpc:
                continue
            if call.path.encode() in OUTLINES or call.path == STREAM:
                continue  # Its message names the model.
            judged = classify_grpc("POST", call.path, Body(BodyState.UNREAD))
            assert judged == operation.call


def test_every_operation_has_a_call_but_those_that_are_part_of_others(
    policy: AccessPolicy,
) -> None:
    without = {
        (operation.call.action, operation.call.scope)
        for operation, found in calls(policy, "t").items()
        if not found
    }
    # Metrics of one model, and its name in a list, are read with all others.
    assert without == {
        (Action.METRICS, Scope.MODEL),
        (Action.MODEL_LIST, Scope.MODEL),
    }


def test_the_openai_frontend_makes_of_calls_what_they_stand_for(
    policy: AccessPolicy,
) -> None:
    for operation, found in calls(policy, "o").items():
        wanted = operation.call
        for call in found:
            assert call.port == SITE.ports.openai
            name = ":".join(filter(None, (wanted.model, wanted.adapter)))
            body = Body(BodyState.COMPLETE, ((VALUE, name.encode()),))
            if wanted.action is Action.METADATA and wanted.adapter:
                continue  # The frontend takes what has two parts apart.
            judged = classify_openai(call.method, call.path, body, ":")
            assert judged == wanted


def test_a_dataset_has_its_own_paths(policy: AccessPolicy) -> None:
    upstream = policy.upstreams["d"]
    for operation, found in calls(policy, "d").items():
        [call] = found
        assert call.port == SITE.ports.dataset
        assert call.path == "/data/lines/object"
        assert call.method == (
            "GET" if operation.call.action is Action.DATASET_READ else "PUT"
        )
    unknown = Operation(Call(Action.DATASET_READ, Scope.DATASET), "d", "other")
    assert wire_calls(unknown, upstream, SITE) == ()


def test_without_a_sidecar_everything_comes_in_by_envoys_port(
    policy: AccessPolicy,
) -> None:
    site = replace(SITE, mesh=Mesh.NONE)
    for upstream in policy.upstreams.values():
        assert call_ports(upstream, site) == {8443}
        assert ports_of(Action.METRICS, upstream, site) == {8443}
        for operation in Vocabulary((policy,)).operations(upstream.name):
            assert {call.port for call in wire_calls(operation, upstream, site)} <= {
                8443
            }


def test_a_sidecar_keeps_the_ports_apart(policy: AccessPolicy) -> None:
    triton, frontend = policy.upstreams["t"], policy.upstreams["o"]
    assert call_ports(triton, SITE) == {8000, 8001, 8002}
    assert ports_of(Action.METRICS, triton, SITE) == {8002}
    assert ports_of(Action.INFERENCE, triton, SITE) == {8000, 8001}
    assert ports_of(Action.METRICS, frontend, SITE) == {9000}
    assert call_ports(policy.upstreams["d"], SITE) == {9000}
