"""An OpenAI-compatible frontend in the manifests: its port, and its bodies."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from emission import PARTS

from authz_server.emit.envoy_filters import check_config, envoy_filter
from authz_server.emit.istio import emit_istio
from authz_server.emit.kubernetes import emit_kubernetes
from authz_server.emit.manifest import Manifest
from authz_server.emit.reach import reaches
from authz_server.operations.actions import Action
from authz_server.policy.model import (
    AccessPolicy,
    Grant,
    Permission,
    Role,
    Upstream,
    UpstreamKind,
)
from authz_server.site.model import Site

CHAT = Upstream(
    "chat", UpstreamKind.OPENAI, "inference", {"app": "chat"}, "chat", (), {}, ":"
)


@pytest.fixture
def with_chat(policy: AccessPolicy) -> AccessPolicy:
    metrics = Role("scraper", (Permission((Action.METRICS,), ("*",), (), (), ()),))
    return replace(
        policy,
        upstreams={**policy.upstreams, "chat": CHAT},
        roles={**policy.roles, "scraper": metrics},
        grants=(*policy.grants, Grant("inspector", ("cameras",), ("chat",))),
    )


def test_its_whole_body_is_sent_along(with_chat: AccessPolicy, mesh: Site) -> None:
    body = check_config(CHAT)["with_request_body"]
    assert body["allow_partial_message"] is False
    assert body["pack_as_bytes"] is True
    patches = envoy_filter(with_chat, CHAT, mesh)["spec"]["configPatches"]
    for patch in patches:
        # No route leaves the body away.
        assert "disable_request_body_buffering" not in str(patch)
    # Lists of models pass the gate.
    assert [patch["applyTo"] for patch in patches] == [
        *("HTTP_FILTER", "HTTP_FILTER", "HTTP_ROUTE", "HTTP_ROUTE")
    ]


@pytest.mark.parametrize("role", ["inspector", "scraper"])
def test_all_of_it_is_on_one_port(
    with_chat: AccessPolicy, mesh: Site, plain: Site, role: str
) -> None:
    policy = replace(with_chat, grants=(Grant(role, ("cameras",), ("chat",)),))
    assert [reach.ports for reach in reaches(policy, CHAT, mesh)] == [(9000,)]
    assert [reach.ports for reach in reaches(policy, CHAT, plain)] == [(8443,)]


def test_every_target_knows_the_kind(
    with_chat: AccessPolicy,
    mesh: Site,
    applied: Callable[[Sequence[Manifest]], list[dict[str, Any]]],
) -> None:
    objects = applied(
        [*emit_kubernetes(with_chat, mesh, PARTS), *emit_istio(with_chat, mesh)]
    )
    selecting = [item for item in objects if "'app': 'chat'" in str(item)]
    kinds = {item["kind"] for item in selecting}
    assert {"NetworkPolicy", "AuthorizationPolicy", "EnvoyFilter"} <= kinds
