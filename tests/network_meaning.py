"""What a policy and its site mean for packets, read off their documents.

Nothing of what emits is used here: neither its reading nor its idea of who reaches
whom. In words: a packet filter lets through

- members of a group at an upstream on which a grant gives them anything, on the ports
  of what is given; conditions and denials are not its business;
- proxies of upstreams at the server, where they ask it over the network;
- monitoring at whatever has metrics;
- everybody whom the policy names the namespace of at the resolver, and in a mesh of
  sidecars at istiod; SPIRE's server at the resolver;
- whom nothing was said about at one another. Nothing else.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

from judges import Edge, Object, Port
from network_plants import OWN_LABELS, Plant, Selector, Spec, gives, resolver, selected

TUNNEL = 15008
SERVER_METRICS = 9192
DEFAULT_PORTS = {
    "tritonHttp": 8000,
    "tritonGrpc": 8001,
    "tritonMetrics": 8002,
    "dataset": 9000,
    "openai": 9000,
    "envoy": 8443,
}
NEVER_OPENED: tuple[Port, ...] = (("TCP", 31337), ("UDP", 8443))
BOTH = ("egress", "ingress")


@dataclass(frozen=True)
class Way:
    sources: list[Selector]
    targets: list[Selector]
    ports: frozenset[Port]


def ports_of_interest(plant: Plant, policies: Iterable[Object]) -> list[Port]:
    """Return every port that is meant or emitted, and some that nothing is about.

    As far as packet filters go, these stand for all others.
    """
    emitted = {
        (port["protocol"], port["port"])
        for item in policies
        for direction in ("ingress", "egress")
        for rule in item["spec"].get(direction, ())
        for port in rule.get("ports", ())
    }
    means = {port for way in _ways(plant.policy, plant.site) for port in way.ports}
    return sorted({*emitted, *means, *NEVER_OPENED})


def meant(
    plant: Plant, asked: Sequence[Port], halves: Collection[str] = BOTH
) -> set[Edge]:
    """Return the edges among the plant's pods on the ports `asked`.

    Args:
        halves: of the two ends of a connection, those that are guarded.
    """
    ways = list(_ways(plant.policy, plant.site))
    fenced = _fenced(plant.policy, plant.site)
    # Who is what, once for each pod.
    leaves, enters, inside = {}, {}, {}
    for pod, labels in plant.pods.items():
        namespace = pod.partition("/")[0]
        here = (namespace, labels)
        leaves[pod] = {n for n, way in enumerate(ways) if _is_one(here, way.sources)}
        enters[pod] = {n for n, way in enumerate(ways) if _is_one(here, way.targets)}
        inside[pod] = _is_one(here, fenced)
    edges: set[Edge] = set()
    for source in plant.pods:
        for target in plant.pods:
            if source == target:
                continue
            is_guarded = (inside[source] and "egress" in halves) or (
                inside[target] and "ingress" in halves
            )
            found: Iterable[Port] = asked
            if is_guarded:
                found = {
                    port
                    for number in leaves[source] & enters[target]
                    for port in ways[number].ports
                    if port in asked
                }
            edges |= {(source, target, *port) for port in found}
    return edges


def namespaces(policy: Spec, site: Spec) -> set[str]:
    """Return the namespaces that are shut but for what is said."""
    members = [item for group in policy["groups"] for item in _members(policy, group)]
    named = {item["namespace"] for item in (*_upstreams(policy), *members)}
    server = site.get("server", {})
    if server.get("shape") != "sidecar":
        named.add(_server(site)[0])
    return named


def _fenced(policy: Spec, site: Spec) -> list[Selector]:
    spire = site.get("spire", {})
    return [
        *((name, {}) for name in sorted(namespaces(policy, site))),
        *([selected(spire)] if "namespace" in spire else ()),
    ]


def _ways(policy: Spec, site: Spec) -> Iterator[Way]:
    mesh = site.get("mesh", "none")
    shape = site.get("server", {}).get("shape", "deployment")
    tunnel = {TUNNEL} if mesh == "ambient" else set()
    proxies = [selected(item) for item in _upstreams(policy)]
    everybody: list[Selector] = [(name, {}) for name in namespaces(policy, site)]

    for grant in policy["grants"]:
        for name in grant["on"]:
            upstream = policy["upstreams"][name]
            actions = gives(policy["roles"][grant["role"]], name, upstream)
            if "namespace" in upstream and actions:
                yield Way(
                    [
                        selected(item)
                        for group in grant["to"]
                        for item in _members(policy, group)
                        # Such a pod has its node's address, and no pod's.
                        if not item.get("hostNetwork")
                    ],
                    [selected(upstream)],
                    _tcp(_call_ports(upstream["kind"], actions, site) | tunnel),
                )

    if shape == "deployment":
        asked = {int(site.get("server", {}).get("port", 9191))}
        yield Way(proxies, [_server(site)], _tcp(asked | tunnel))

    if "monitoring" in site:
        reader = [selected(site["monitoring"])]
        if shape == "sidecar":
            yield Way(reader, proxies, _tcp({SERVER_METRICS}))
        else:
            yield Way(reader, [_server(site)], _tcp({SERVER_METRICS}))
        if mesh == "sidecar":
            yield Way(reader, proxies, _tcp({15020, 15090}))
        else:
            tritons = [
                selected(item)
                for item in _upstreams(policy)
                if item["kind"] == "triton"
            ]
            yield Way(reader, tritons, _tcp({_ports(site)["tritonMetrics"]}))

    dns, port = resolver(site)
    yield Way(_fenced(policy, site), [dns], frozenset({("UDP", port), ("TCP", port)}))
    if mesh == "sidecar":
        yield Way(everybody, [("istio-system", {"app": "istiod"})], _tcp({15012}))


def _call_ports(kind: str, actions: Collection[str], site: Spec) -> set[int]:
    ports = _ports(site)
    if site.get("mesh", "none") != "sidecar":
        return {ports["envoy"]}
    if kind != "triton":
        return {ports[kind]}
    served = {ports["tritonHttp"], ports["tritonGrpc"]}
    metrics = {ports["tritonMetrics"]}
    return (metrics if "metrics" in actions else set()) | (
        served if set(actions) - {"metrics"} else set()
    )


def _ports(site: Spec) -> dict[str, int]:
    return {
        key: int(number)
        for key, number in {**DEFAULT_PORTS, **site.get("ports", {})}.items()
    }


def _server(site: Spec) -> Selector:
    return site.get("server", {}).get("namespace", "authz-system"), OWN_LABELS


def _upstreams(policy: Spec) -> list[Spec]:
    return [item for item in policy["upstreams"].values() if "namespace" in item]


def _members(policy: Spec, name: str) -> list[Spec]:
    group = policy["groups"][name]
    inner = [_members(policy, nested) for nested in group.get("groups", ())]
    return [*group.get("workloads", ()), *(item for items in inner for item in items)]


def _tcp(ports: Iterable[int]) -> frozenset[Port]:
    return frozenset(("TCP", port) for port in ports)


def _is_one(pod: Selector, selectors: Iterable[Selector]) -> bool:
    return any(
        pod[0] == namespace and labels.items() <= pod[1].items()
        for namespace, labels in selectors
    )
