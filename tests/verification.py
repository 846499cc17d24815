"""What tests of `verify` share: random plants, and what is emitted for them."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from random_policies import make_document

from authz_server.emit.cilium import emit_cilium
from authz_server.emit.istio import emit_istio
from authz_server.emit.kubernetes import emit_kubernetes
from authz_server.emit.manifest import Manifest
from authz_server.emit.openziti import emit_openziti
from authz_server.emit.spire import emit_spire
from authz_server.policy.document import parse_policy
from authz_server.policy.model import AccessPolicy
from authz_server.site.model import Federation, Mesh, Pods, Server, Shape, Site, Spire
from authz_server.verify.agreement import disagreements
from authz_server.verify.difference import Difference, Layer
from authz_server.verify.objects import Document, Found, sorted_out

NAMESPACES = ("a", "b", "line1")
ACCOUNTS = ("a", "b", "cam")
LABELS = ({"app": "x"}, {"app": "y"}, {"app": "x", "tier": "t"}, {})


def make_plant(rng: random.Random) -> tuple[AccessPolicy, Site]:
    """A random policy, smaller than others', whose groups have pods, and a site."""
    document = make_document(rng)
    spec = document["spec"]
    spec["upstreams"]["t1"]["podSelector"] = {"app": "t1"}
    spec["upstreams"]["s1"] |= {
        "namespace": "data",
        "serviceAccount": "s1",
        "podSelector": {"app": "s1"},
        "hosts": ["s1.example"],
    }
    for permissions in spec["roles"].values():
        for permission in permissions:
            # Fewer names to tell apart: as many answers, and a tenth of the questions.
            permission.pop("versions", None)
            permission.pop("adapters", None)
    for name, group in spec["groups"].items():
        if name not in {"people", "both"}:
            group["workloads"] = _workloads(rng)
            if rng.random() < 0.7:
                group["spiffe"] = _istio_patterns(rng)
            group["spiffe"] = sorted(
                {
                    *group["spiffe"],
                    *(
                        f"spiffe://one.example/ns/{item['namespace']}"
                        f"/sa/{item['serviceAccount']}"
                        for item in group["workloads"]
                    ),
                }
            )
            if rng.random() < 0.7:
                group.pop("users", None)
    spec["upstreams"]["o1"] = {
        "kind": "openai",
        "namespace": "llm",
        "serviceAccount": "o1",
        "podSelector": {"app": "o1"},
        "hosts": ["o1.example"],
    }
    spec["grants"] += [
        {"role": name, "to": [rng.choice(("g1", "g2", "g3"))], "on": ["o1"]}
        for name, permissions in spec["roles"].items()
        if rng.random() < 0.5
        and any(
            "inference" in permission["actions"]
            and "o1" in permission.get("upstreams", ["o1"])
            for permission in permissions
        )
    ]
    policy = parse_policy(json.dumps(document), "generated")
    mesh = rng.choice(tuple(Mesh))
    shape = Shape.DEPLOYMENT if mesh is Mesh.SIDECAR else rng.choice(tuple(Shape))
    base = Site(mesh=mesh)
    site = replace(
        base,
        server=Server(shape=shape),
        cluster=replace(
            base.cluster,
            nodes=("10.1.0.0/16",),
            api_server=rng.choice(((), ("10.1.0.5/32", "10.96.0.1/32"))),
            dns_addresses=rng.choice(((), ("169.254.20.10/32",))),
        ),
        monitoring=rng.choice(
            (
                None,
                Pods("monitoring", {"app": "prometheus"}),
                Pods("line1", {"app": "prometheus"}),
            )
        ),
        spire=Spire(server=rng.choice((None, Pods("spire-server", {"app": "spire"})))),
        federation=(Federation(policy.federates_with[0], "https://two.example:8443"),),
    )
    return policy, site


def _workloads(rng: random.Random) -> list[dict[str, Any]]:
    found = {}
    for _ in range(rng.randint(1, 2)):
        namespace = rng.choice(NAMESPACES)
        account = rng.choice(ACCOUNTS)
        # One set of labels an account: SPIRE refuses those that overlap.
        labels = LABELS[ACCOUNTS.index(account)]
        found[namespace, account] = {
            "namespace": namespace,
            "podSelector": labels,
            "serviceAccount": account,
            **({"hostNetwork": True} if rng.random() < 0.15 else {}),
        }
    return list(found.values())


def _istio_patterns(rng: random.Random) -> list[str]:
    return sorted(
        {
            f"spiffe://{rng.choice(('one', 'one', 'two'))}.example/ns/"
            f"{rng.choice(NAMESPACES)}/sa/{rng.choice((*ACCOUNTS, '*'))}"
            for _ in range(rng.randint(1, 3))
        }
    )


def emitted(policy: AccessPolicy, site: Site) -> dict[Layer, tuple[Manifest, ...]]:
    """What every target writes for a plant."""
    files = {
        Layer.KUBERNETES: emit_kubernetes(policy, site, {"policy.yaml": "{}"}),
        Layer.CILIUM: emit_cilium(policy, site),
        Layer.OPENZITI: emit_openziti(policy, site),
    }
    if site.spire is not None:
        files[Layer.SPIRE] = emit_spire(policy, site)
    if site.mesh is not Mesh.NONE:
        files[Layer.ISTIO] = emit_istio(policy, site)
    return files


def found_in(manifests: Iterable[Manifest]) -> Found:
    """Manifests as if they had been read from files."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return sorted_out(
        Document(manifest.name, body, f"{manifest.name}:{number}")
        for manifest in manifests
        if manifest.name.endswith((".yaml", ".json"))
        and not manifest.name.endswith("kustomization.yaml")
        for number, body in enumerate(yaml.load_all(manifest.text, loader), 1)
        if isinstance(body, dict)
    )


class Edit:
    """A copy of what was read, to be changed: objects by kind and name, and files."""

    def __init__(self, found: Found) -> None:
        self.objects = [copy.deepcopy(dict(item.body)) for item in found.objects]
        self.files = {
            item.file: copy.deepcopy(dict(item.body)) for item in found.documents
        }

    def spec(self, kind: str, name: str, namespace: str = "") -> dict[str, Any]:
        return self._one(kind, name, namespace)["spec"]

    def drop(self, kind: str, name: str, namespace: str = "") -> None:
        self.objects.remove(self._one(kind, name, namespace))

    def add(
        self, api: str, kind: str, name: str, namespace: str, spec: dict[str, Any]
    ) -> None:
        self.objects.append(
            {
                "apiVersion": api,
                "kind": kind,
                "metadata": {"name": name, "namespace": namespace},
                "spec": spec,
            }
        )

    def named(self, file: str, section: str, name: str) -> dict[str, Any]:
        [item] = [it for it in self.files[file][section] if it["name"] == name]
        return item

    def found(self) -> Found:
        bodies = [("objects.yaml", body) for body in self.objects]
        bodies += list(self.files.items())
        return sorted_out(
            Document(file, body, f"{file}:{number}")
            for number, (file, body) in enumerate(bodies, 1)
        )

    def _one(self, kind: str, name: str, namespace: str) -> dict[str, Any]:
        [item] = [
            body
            for body in self.objects
            if body["kind"] == kind
            and body["metadata"]["name"].startswith(name)
            and namespace in ("", body["metadata"].get("namespace"))
        ]
        return item


def compared(
    policy: AccessPolicy, site: Site, found: Found, layers: Sequence[Layer]
) -> tuple[list[Difference], list[Difference]]:
    """The differences, and the known limits."""
    everything = disagreements(policy, site, found, layers)
    return (
        [item for item in everything if not item.is_known_limit],
        [item for item in everything if item.is_known_limit],
    )


def write(manifests: Iterable[Manifest], folder: Path) -> None:
    """Write manifests as ``emit --out`` does."""
    for manifest in manifests:
        path = folder / manifest.name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(manifest.text, encoding="utf-8")
