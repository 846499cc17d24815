"""What a layer can't tell, declared: a difference that one of these explains is known.

The codes are stable; docs/verify.md has the same table.
"""

from __future__ import annotations

import enum
from typing import Final


class Limit(enum.StrEnum):
    """Why a layer differs from the policy by nature."""

    COARSE = "coarse"
    CONDITION = "condition"
    LABELS = "labels"
    UNLISTED = "unlisted"
    USERS = "users"
    NO_MIRROR = "no-mirror"
    PREFIX = "prefix"
    ALIASES = "aliases"
    NO_IDENTITY = "no-identity"
    NODES = "nodes"


MEANING: Final[dict[Limit, str]] = {
    Limit.COARSE: "the layer tells callers and ports, and not action, model, version "
    "or dataset (of gRPC no path names the model); the server does",
    Limit.CONDITION: "the caller has a grant, and a condition or a denial of the "
    "policy keeps it from counting; the layer knows neither",
    Limit.LABELS: "a packet filter goes by labels: the pods of a group stand for it, "
    "whatever ID they have",
    Limit.UNLISTED: "the policy allows the ID, and lists no pods of it under the "
    "workloads of a group with the grant",
    Limit.USERS: "users are told by their token; the layer knows workloads alone",
    Limit.NO_MIRROR: "Istio's principals can't cover all that the server allows, so "
    "the upstream has no ALLOW; the server is asked all the same",
    Limit.PREFIX: "Istio matches a wildcard by its beginning, so a longer ID passes; "
    "the server tells them apart",
    Limit.ALIASES: "with trustDomainAliases a principal holds in each of these trust "
    "domains; the server tells callers apart, though not, behind a sidecar, "
    "who asks it",
    Limit.NO_IDENTITY: "an OpenZiti identity is one ID of the own trust domain: "
    "wildcards and federated callers have none",
    Limit.NODES: "the layer tells a node by its address: whatever has it passes, pods "
    "on the host's network, the API server and DNS on the node too",
}
