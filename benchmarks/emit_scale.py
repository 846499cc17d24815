"""What emitting costs as a plant grows: seconds, memory, and whether both are linear.

A plant of N namespaces has in each of them ten workloads, each with labels and an
account of its own, a group of these, two models and a role for them; for every 25
namespaces a Triton, which all of their groups reach, and for every ten a box without
Kubernetes. Every group also reads one archive of datasets, one group has a workload of
each namespace, another has users, and another is a supplier's. With a thousand
namespaces that are 10,000 workloads and 2,000 models.

Each target is emitted for each size in a process of its own. First what it emits is
held against what the policy means, object by object; then the time is taken: the
processor's, of the best of some rounds. Memory is the most that the process had, with
policy and Python. Objects are what a file holds of Kubernetes objects, or of OpenZiti's
calls; else the file is one. An object of Istio's grows with the callers that it lists,
so what must be the same at all sizes is the time of a kilobyte: where the last column
is about 1 or less, emitting is linear.

The server's own objects carry the policy, of which a ConfigMap holds no more than
1 MiB. Here they are given a text of one line instead.

These figures depend on the machine and on who else uses it: compare the rows of one run
with each other, never with those of another.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final

from machine import machine
from plant import BOX_WORKLOADS, WORKLOADS, boxes, plant_policy, plant_site, tritons

from authz_server.emit import TARGET_NAMES
from authz_server.emit.manifest import Manifest
from authz_server.emit.targets import Source, emit
from authz_server.policy.document import parse_policy
from authz_server.site.document import parse_site


@dataclass(frozen=True, slots=True)
class Row:
    """One target at one size."""

    counts: Counter[str]
    megabytes: float
    seconds: float
    peak_mb: float

    @property
    def objects(self) -> int:
        """How many things were emitted."""
        return self.counts.total()


def packet_filters(namespaces: int) -> int:
    """Return how many NetworkPolicies the policy means."""
    # Default deny, names and istiod, also where the server is.
    everywhere = 3 * (namespaces + 1)
    # Into an upstream for each group, and out of each of its workloads.
    lines = 2 * namespaces * (1 + WORKLOADS)
    gateways = 1 + namespaces
    # Upstreams to the server and its own, and the same for who reads metrics.
    around = 2 * (tritons(namespaces) + 2 + 1)
    spire_server = 3
    return everywhere + lines + gateways + around + spire_server


def at_a_box(namespaces: int) -> int:
    """Return how many entries SPIRE has for boxes."""
    # Its own, its Envoy's, its server's.
    return boxes(namespaces) * (3 + BOX_WORKLOADS)


EXPECTED: Final[Mapping[str, Callable[[int], dict[str, int]]]] = {
    "kubernetes": lambda size: {
        "NetworkPolicy": packet_filters(size),
        "Deployment": 1,
    },
    "istio": lambda size: {
        # One that asks the server for each upstream, one that lists its callers, except
        # of the one that is open to users; and one around the server.
        "AuthorizationPolicy": 2 * (tritons(size) + 2) - 1 + 1,
        "EnvoyFilter": tritons(size) + 2,
        "PeerAuthentication": tritons(size) + 1,
    },
    "spire": lambda size: {
        "ClusterSPIFFEID": size * WORKLOADS + tritons(size) + 2 + 1,
        "ClusterStaticEntry": at_a_box(size),
        "ClusterFederatedTrustDomain": 1,
    },
    "controller": lambda _: {"Deployment": 1, "CustomResourceDefinition": 1},
    "cilium": lambda size: {"CiliumNetworkPolicy": packet_filters(size)},
    "envoy": lambda size: {
        "envoy.yaml": boxes(size),
        "authz-server.service": boxes(size),
    },
    "openziti": lambda size: {
        "identities": size * WORKLOADS + tritons(size) + 2,
        "services": tritons(size) + 2,
        # One to host each upstream, and one for each group that reaches it.
        "service-policies": tritons(size) + 2 + 2 * size + 3,
    },
    "helm": lambda _: {"values.yaml": 1, "deployment-authz-server.yaml": 1},
}
"""What a plant of so many namespaces must come to: a part of it, by kind or file."""


def count(name: str, manifest: Manifest) -> Counter[str]:
    """Return how many there are of what, in one file."""
    if manifest.objects:
        return Counter(str(item["kind"]) for item in manifest.objects)
    if name == "openziti/rest.json":
        calls = json.loads(manifest.text)["calls"]
        return Counter(PurePosixPath(call["post"]).name for call in calls)
    return Counter([PurePosixPath(name).name])


def measure(target: str, namespaces: int, rounds: int) -> Row:
    """Return what it costs. Runs in a process of its own."""
    policy = parse_policy(plant_policy(namespaces), "policy")
    site_text = plant_site(namespaces)
    site = parse_site(site_text, "site", policy)
    source = Source(policy, site, {"plant.yaml": "# Elsewhere.\n"}, site_text)

    counts: Counter[str] = Counter()
    size = 0
    for name, manifest in emit(source, [target]).items():
        counts += count(name, manifest)
        size += len(manifest.text.encode())
    for kind, number in EXPECTED[target](namespaces).items():
        if counts[kind] != number:
            raise ValueError(  # a SystemExit would not come out of the process
                f"{target}, {namespaces} namespaces: the policy means {number} of "
                f"{kind}, but there are {counts[kind]}"
            )
    times = []
    for _ in range(rounds):
        begin = time.process_time()
        files = emit(source, [target])
        times.append(time.process_time() - begin)
        if sum(len(item.text.encode()) for item in files.values()) != size:
            raise ValueError(f"{target}: what is emitted changes from time to time")
        del files
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    return Row(counts, size / 1e6, min(times), peak)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--namespaces", type=int, nargs="+", default=[10, 100, 333, 1000]
    )
    parser.add_argument(
        "--targets", nargs="+", choices=TARGET_NAMES, default=TARGET_NAMES
    )
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    unknown = sorted(set(TARGET_NAMES) - EXPECTED.keys())
    if unknown:
        raise SystemExit(f"say in EXPECTED what must come of {', '.join(unknown)}")
    print(machine())
    print(
        f"{'target':<12}{'namespaces':>11}{'workloads':>10}{'objects':>9}{'MB':>8}"
        f"{'seconds':>9}{'peak MB':>9}{'us/object':>11}{'us/kB':>8}{'x of first':>12}"
    )
    spawn = multiprocessing.get_context("spawn")
    for target in args.targets:
        first = 0.0
        for namespaces in args.namespaces:
            with spawn.Pool(1) as pool:
                row = pool.apply(measure, (target, namespaces, args.rounds))
            each = row.seconds / row.megabytes * 1e3
            first = first or each
            print(
                f"{target:<12}{namespaces:>11}{namespaces * WORKLOADS:>10}"
                f"{row.objects:>9}{row.megabytes:>8.2f}{row.seconds:>9.3f}"
                f"{row.peak_mb:>9.0f}{row.seconds / row.objects * 1e6:>11.1f}"
                f"{each:>8.0f}{each / first:>12.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
