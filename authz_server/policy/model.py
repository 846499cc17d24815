"""The access policy as frozen values.

Built only by `authz_server.policy.document`, which has already checked that every name
refers to something; emitters and the compiler read it. No file positions, no YAML.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass

from authz_server.identity.spiffe_id import TrustDomain
from authz_server.identity.spiffe_pattern import SpiffePattern
from authz_server.operations.actions import Action


class UpstreamKind(enum.StrEnum):
    """What stands behind the proxy."""

    TRITON = "triton"
    DATASET = "dataset"
    OPENAI = "openai"
    """Triton's OpenAI-compatible frontend."""


@dataclass(frozen=True, slots=True)
class Upstream:
    """A server that callers reach through Envoy.

    Attributes:
        namespace, pod_selector, service_account: where it runs in Kubernetes; empty
            on a box without it.
        hosts: authorities under which callers reach it, lower case, without port.
        datasets: name of each dataset and its absolute path prefix (kind dataset).
        lora_separator: what stands between a model and an adapter; empty for no
            adapters (kind openai).
    """

    name: str
    kind: UpstreamKind
    namespace: str
    pod_selector: Mapping[str, str]
    service_account: str
    hosts: tuple[str, ...]
    datasets: Mapping[str, str]
    lora_separator: str = ""


@dataclass(frozen=True, slots=True)
class Workload:
    """Pods that hold a group's SPIFFE IDs; what packet filters can select."""

    namespace: str
    pod_selector: Mapping[str, str]
    service_account: str


@dataclass(frozen=True, slots=True)
class UserClaim:
    """Users whose token of `issuer` has `value` in `claim`."""

    issuer: str
    claim: str
    value: str


@dataclass(frozen=True, slots=True)
class Group:
    """A named set of callers: union of all its members."""

    name: str
    spiffe: tuple[SpiffePattern, ...]
    workloads: tuple[Workload, ...]
    users: tuple[UserClaim, ...]


@dataclass(frozen=True, slots=True)
class Permission:
    """One line of a role: these actions on these models or datasets.

    Attributes:
        models: names, prefixes that end in ``*``, or ``*`` for every model.
        versions: version numbers; empty means every version, also the unnamed latest.
        adapters: names; empty means every adapter, and the model without one. A
            permission with versions has none.
    """

    actions: tuple[Action, ...]
    models: tuple[str, ...]
    versions: tuple[str, ...]
    adapters: tuple[str, ...]
    datasets: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Role:
    """A named set of permissions."""

    name: str
    permissions: tuple[Permission, ...]


@dataclass(frozen=True, slots=True)
class Grant:
    """Gives `role` to the groups `to` on the upstreams `on`."""

    role: str
    to: tuple[str, ...]
    on: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AccessPolicy:
    """Who may do what to which model where."""

    name: str
    trust_domain: TrustDomain
    federates_with: tuple[TrustDomain, ...]
    upstreams: Mapping[str, Upstream]
    groups: Mapping[str, Group]
    roles: Mapping[str, Role]
    grants: tuple[Grant, ...]

    @property
    def trust_domains(self) -> frozenset[TrustDomain]:
        """Every trust domain whose workloads may appear as callers."""
        return frozenset((self.trust_domain, *self.federates_with))
