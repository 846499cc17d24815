"""A policy to emit, built of the model's own values."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import pytest

from authz_server.emit.manifest import Manifest
from authz_server.identity.spiffe_id import TrustDomain
from authz_server.identity.spiffe_pattern import SpiffePattern
from authz_server.operations.actions import DATASET_ACTIONS, Action
from authz_server.policy.model import (
    AccessPolicy,
    Grant,
    Group,
    Permission,
    Role,
    Upstream,
    UpstreamKind,
    UserClaim,
    Workload,
)
from authz_server.site.model import Mesh, Site

Objects: TypeAlias = list[Mapping[str, Any]]


def make_group(
    name: str,
    spiffe: Sequence[str] = (),
    workloads: Sequence[tuple[Any, ...]] = (),
    *,
    has_users: bool = False,
) -> Group:
    user = UserClaim("https://idp.factory.example", "groups", "ml")
    return Group(
        name,
        tuple(SpiffePattern.parse(item) for item in spiffe),
        tuple(Workload(*item) for item in workloads),
        (user,) if has_users else (),
    )


def make_role(name: str, *actions: Action) -> Role:
    datasets = ("line",) if DATASET_ACTIONS.intersection(actions) else ()
    return Role(name, (Permission(actions, ("*",), (), (), datasets),))


@pytest.fixture
def group() -> Callable[..., Group]:
    return make_group


@pytest.fixture
def role() -> Callable[..., Role]:
    return make_role


@pytest.fixture
def policy() -> AccessPolicy:
    groups = [
        make_group(
            "cameras",
            ["spiffe://factory.example/ns/line1/sa/camera"],
            [("line1", {"app": "camera"}, "camera")],
        ),
        make_group("users", has_users=True),
        make_group("boxes", ["spiffe://factory.example/box/7"]),
        make_group(
            "idle",
            ["spiffe://factory.example/ns/spare/sa/idle"],
            [("spare", {"app": "idle"}, "idle")],
        ),
    ]
    upstreams = [
        Upstream(
            "triton",
            UpstreamKind.TRITON,
            "inference",
            {"app": "triton"},
            "triton",
            ("triton.factory.example",),
            {},
        ),
        Upstream(
            "images",
            UpstreamKind.DATASET,
            "data",
            {"app": "minio"},
            "minio",
            ("data.factory.example",),
            {"line": "/datasets/line"},
        ),
    ]
    roles = [
        make_role("inspector", Action.INFERENCE),
        make_role("reader", Action.DATASET_READ),
        make_role("scraper", Action.METRICS),
    ]
    return AccessPolicy(
        "plant",
        TrustDomain("factory.example"),
        (TrustDomain("supplier.example"),),
        {item.name: item for item in upstreams},
        {item.name: item for item in groups},
        {item.name: item for item in roles},
        (
            Grant("inspector", ("cameras",), ("triton",)),
            Grant("reader", ("users",), ("images",)),
        ),
    )


@pytest.fixture
def with_groups(policy: AccessPolicy) -> Callable[..., AccessPolicy]:
    """The policy with `groups` as the only ones, all of them inspectors on triton."""

    def build(*groups: Group) -> AccessPolicy:
        return replace(
            policy,
            groups={item.name: item for item in groups},
            grants=(
                Grant("inspector", tuple(item.name for item in groups), ("triton",)),
            ),
        )

    return build


@pytest.fixture
def plain() -> Site:
    return Site()


@pytest.fixture
def mesh(plain: Site) -> Site:
    return replace(plain, mesh=Mesh.SIDECAR)


@pytest.fixture
def applied() -> Callable[[Sequence[Manifest]], Objects]:
    def collect(manifests: Sequence[Manifest]) -> Objects:
        return [item for m in manifests for item in m.objects]

    return collect


@pytest.fixture
def comment() -> Callable[[Sequence[Manifest], str], str]:
    """The leading comment of a file, as running text."""

    def read(manifests: Sequence[Manifest], name: str) -> str:
        [manifest] = [item for item in manifests if item.name == name]
        lines = [
            line.removeprefix("#").strip()
            for line in manifest.text.splitlines()
            if line.startswith("#")
        ]
        return " ".join(lines)

    return read
