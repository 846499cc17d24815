"""Do all layers agree with the policy? Compares one after the other."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Final

from authz_server.errors import SetupError
from authz_server.policy.building import shipped_wasm
from authz_server.policy.compiler import compile_policy
from authz_server.policy.engine import Engine
from authz_server.policy.model import AccessPolicy
from authz_server.site.model import Mesh, Site
from authz_server.verify.difference import Difference, Layer, merged
from authz_server.verify.endpoints import deployed
from authz_server.verify.istio import istio_differences
from authz_server.verify.network import cilium_differences, kubernetes_differences
from authz_server.verify.objects import Found
from authz_server.verify.openziti import openziti_differences
from authz_server.verify.spire import spire_differences
from authz_server.verify.truth import Truth

Judge = Callable[[Truth, Site, Found], Iterator[Difference]]

Progress = Callable[[int, int], None]

_JUDGES: Final[Mapping[Layer, Judge]] = {
    Layer.KUBERNETES: kubernetes_differences,
    Layer.CILIUM: cilium_differences,
    Layer.ISTIO: istio_differences,
    Layer.SPIRE: spire_differences,
    Layer.OPENZITI: openziti_differences,
}
_TIMEOUT_S: Final = 10.0


def layers_of(policy: AccessPolicy, site: Site, found: Found) -> tuple[Layer, ...]:
    """Return the layers that are to enforce `policy`, by policy, site and objects.

    One of the two packet filters: NetworkPolicies, unless there are Cilium's alone.
    """
    layers: list[Layer] = []
    if deployed(policy):
        has_plain = bool(found.of("networking.k8s.io", "NetworkPolicy"))
        has_cilium = bool(found.of("cilium.io", "CiliumNetworkPolicy"))
        layers += [Layer.KUBERNETES] if has_plain or not has_cilium else []
        layers += [Layer.CILIUM] if has_cilium else []
        layers += [Layer.ISTIO] if site.mesh is not Mesh.NONE else []
    layers += [Layer.SPIRE] if site.spire is not None else []
    if any("servicePolicies" in item.body for item in found.documents):
        layers.append(Layer.OPENZITI)
    return tuple(layers)


def passed_over(found: Found, layers: Collection[Layer]) -> tuple[Layer, ...]:
    """Return the layers that there are objects for, but that are not compared."""
    there = {
        Layer.KUBERNETES: found.of("networking.k8s.io", "NetworkPolicy"),
        Layer.CILIUM: found.of("cilium.io", "CiliumNetworkPolicy"),
        Layer.ISTIO: found.of("security.istio.io", "AuthorizationPolicy"),
        Layer.SPIRE: found.of("spire.spiffe.io", "ClusterSPIFFEID"),
    }
    return tuple(
        layer for layer, items in there.items() if items and layer not in layers
    )


def check_layers(site: Site, layers: Collection[Layer]) -> None:
    """Raise `SetupError` if one of `layers` enforces nothing at `site`."""
    if Layer.ISTIO in layers and site.mesh is Mesh.NONE:
        raise SetupError(
            "istio: spec.mesh of the site is none, so Istio enforces nothing: write "
            "sidecar or ambient, or leave istio out"
        )
    if Layer.SPIRE in layers and site.spire is None:
        raise SetupError(
            "spire: spec.spire of the site is missing, so SPIRE issues nothing there: "
            "add it, or leave spire out"
        )


def disagreements(
    policy: AccessPolicy,
    site: Site,
    found: Found,
    layers: Collection[Layer],
    wasm: bytes | None = None,
    progress: Progress = lambda _done, _total: None,
) -> tuple[Difference, ...]:
    """Return how `layers` differ from `policy`; what no limit explains comes first.

    Args:
        found: the objects and files to be verified.
        wasm: the Rego that serves; None for the shipped one.
        progress: is told how many of how many layers are compared.

    Raises:
        PolicyError: if Rego fails, or the policy tells too many kinds of caller apart.
    """
    engine = Engine(
        shipped_wasm() if wasm is None else wasm,
        compile_policy(policy).data,
        timeout_s=_TIMEOUT_S,
        instances=1,
    )
    with contextlib.closing(engine):
        truth = Truth(policy, engine)
        differences: list[Difference] = []
        for done, layer in enumerate(item for item in Layer if item in layers):
            progress(done, len(layers))
            differences += _JUDGES[layer](truth, site, found)
        return merged(differences)
