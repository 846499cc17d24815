"""The access policy as frozen values.

Built only by `authz_server.policy.document`, which has already checked that every name
refers to something; emitters and the compiler read it. No file positions, no YAML.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from authz_server.identity.spiffe_id import SpiffeId, TrustDomain
from authz_server.identity.spiffe_pattern import SpiffePattern
from authz_server.operations.actions import Action
from authz_server.policy.time_limit import TimeLimit


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
    """Pods that hold a group's SPIFFE IDs; what packet filters can select.

    Attributes:
        host_network: whether they have their node's address, and no selector of a
            NetworkPolicy matches them.
    """

    namespace: str
    pod_selector: Mapping[str, str]
    service_account: str
    host_network: bool = False


@dataclass(frozen=True, slots=True)
class UserClaim:
    """Users whose token of `issuer` has `value` in `claim`."""

    issuer: str
    claim: str
    value: str


@dataclass(frozen=True, slots=True)
class Group:
    """A named set of callers: union of all its members.

    Attributes:
        spiffe, workloads, users: those of nested groups among them.
        groups: names of the groups that were nested in it.
    """

    name: str
    spiffe: tuple[SpiffePattern, ...]
    workloads: tuple[Workload, ...]
    users: tuple[UserClaim, ...]
    groups: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Permission:
    """One line of a role: these actions on these models or datasets.

    Attributes:
        models: names, prefixes that end in ``*``, or ``*`` for every model.
        versions: version numbers; empty means every version, also the unnamed latest.
        adapters: names; empty means every adapter, and the model without one. A
            permission with versions has none.
        upstreams: where it holds; empty means wherever its role is granted.
    """

    actions: tuple[Action, ...]
    models: tuple[str, ...]
    versions: tuple[str, ...]
    adapters: tuple[str, ...]
    datasets: tuple[str, ...]
    upstreams: tuple[str, ...] = ()

    def holds_on(self, upstream: str) -> bool:
        """Return whether it says anything of `upstream`."""
        return not self.upstreams or upstream in self.upstreams


@dataclass(frozen=True, slots=True)
class Role:
    """A named set of permissions."""

    name: str
    permissions: tuple[Permission, ...]


@dataclass(frozen=True, slots=True)
class Condition:
    """What must be true of a call beside who calls; nothing, if all is left out.

    Attributes:
        users: groups; the call must be for a user of one of them.
        namespaces: of Kubernetes, in the policy's own trust domain; the caller's ID
            must be one of a service account there.
        upstreams: the caller must itself be what runs behind one of them.
        time: when it holds.
    """

    users: tuple[str, ...] = ()
    namespaces: tuple[str, ...] = ()
    upstreams: tuple[str, ...] = ()
    time: TimeLimit | None = None


ALWAYS: Final = Condition()


@dataclass(frozen=True, slots=True)
class Grant:
    """Gives `role` to the groups `to` on the upstreams `on`; or, as a denial, takes it.

    Attributes:
        when: what must be true for it to count.
    """

    role: str
    to: tuple[str, ...]
    on: tuple[str, ...]
    when: Condition = ALWAYS


@dataclass(frozen=True, slots=True)
class Deeds:
    """A set of operations: those that could touch what is named.

    Attributes:
        actions, models, versions, datasets, on: as in a permission and a grant; empty
            for any. With models or datasets, only operations on such.
    """

    actions: tuple[Action, ...] = ()
    models: tuple[str, ...] = ()
    versions: tuple[str, ...] = ()
    datasets: tuple[str, ...] = ()
    on: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Invariant:
    """Something that must never be so, whatever else the policy says.

    Attributes:
        never: one set of operations that nobody concerned may do any of; or two, of
            which nobody concerned may do something of both.
        outside: groups; who is in one of them is not concerned.
        by: only who matches one of them is concerned; empty for everybody.
    """

    name: str
    never: tuple[Deeds, ...]
    outside: tuple[str, ...] = ()
    by: tuple[SpiffePattern, ...] = ()


class Section(enum.StrEnum):
    """A part of the policy file, as far as who may change it goes."""

    TRUST = "trust"
    """Its name, its trust domain, and those it federates with."""
    UPSTREAMS = "upstreams"
    GROUPS = "groups"
    ROLES = "roles"
    GRANTS = "grants"
    DENIALS = "denials"
    INVARIANTS = "invariants"
    ADMINS = "admins"


@dataclass(frozen=True, slots=True)
class Admin:
    """Lets the groups `to` change sections of the policy.

    Attributes:
        groups, roles, upstreams: the change may name no others; empty for any.
    """

    to: tuple[str, ...]
    change: tuple[Section, ...]
    groups: tuple[str, ...] = ()
    roles: tuple[str, ...] = ()
    upstreams: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class AccessPolicy:
    """Who may do what to which model where.

    Attributes:
        denials: what nobody gets whom they name, whatever the grants say.
        admins: who may change what in it.
        invariants: what holds of it, as has been proved.
    """

    name: str
    trust_domain: TrustDomain
    federates_with: tuple[TrustDomain, ...]
    upstreams: Mapping[str, Upstream]
    groups: Mapping[str, Group]
    roles: Mapping[str, Role]
    grants: tuple[Grant, ...]
    denials: tuple[Grant, ...] = ()
    admins: tuple[Admin, ...] = ()
    invariants: tuple[Invariant, ...] = ()

    @property
    def trust_domains(self) -> frozenset[TrustDomain]:
        """Every trust domain whose workloads may appear as callers."""
        return frozenset((self.trust_domain, *self.federates_with))

    @property
    def time_limits(self) -> frozenset[TimeLimit]:
        """Everything in it that depends on the time."""
        return frozenset(
            grant.when.time
            for grant in (*self.grants, *self.denials)
            if grant.when.time is not None
        )

    def workload_id(self, upstream: Upstream) -> str:
        """Return the SPIFFE ID of `upstream` in Istio's form; empty if it has none."""
        if not upstream.namespace or not upstream.service_account:
            return ""
        path = ("ns", upstream.namespace, "sa", upstream.service_account)
        return str(SpiffeId(self.trust_domain, path))
