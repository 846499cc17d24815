"""The targets by name: each a pure function from a policy and a site to files."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from authz_server.emit.cilium import emit_cilium
from authz_server.emit.controller import emit_controller
from authz_server.emit.helm import emit_helm
from authz_server.emit.istio import emit_istio
from authz_server.emit.kubernetes import emit_kubernetes
from authz_server.emit.manifest import Manifest
from authz_server.emit.openziti import emit_openziti
from authz_server.emit.spire import emit_spire
from authz_server.policy.document import no_collection
from authz_server.policy.model import AccessPolicy
from authz_server.site.model import Site


@dataclass(frozen=True, slots=True)
class Source:
    """What manifests are made of.

    Attributes:
        parts: the policy's own files by name, as they are.
        site_text: the site file as it is; empty for a site of defaults.
    """

    policy: AccessPolicy
    site: Site
    parts: Mapping[str, str]
    site_text: str = ""


def _emit_envoy(source: Source) -> tuple[Manifest, ...]:
    # Envoy's messages take half a second to import, which nobody else needs.
    from authz_server.emit.envoy import emit_envoy  # noqa: PLC0415

    return emit_envoy(source.policy, source.site)


Emitter = Callable[[Source], tuple[Manifest, ...]]

TARGETS: Final[Mapping[str, Emitter]] = MappingProxyType(
    {
        "kubernetes": lambda source: emit_kubernetes(
            source.policy, source.site, source.parts
        ),
        "istio": lambda source: emit_istio(source.policy, source.site),
        "spire": lambda source: emit_spire(source.policy, source.site),
        "envoy": _emit_envoy,
        "cilium": lambda source: emit_cilium(source.policy, source.site),
        "openziti": lambda source: emit_openziti(source.policy, source.site),
        "controller": lambda source: emit_controller(
            source.policy, source.site, source.site_text
        ),
        "helm": lambda source: emit_helm(source.policy, source.site, source.parts),
    }
)
"""By the names of `TARGET_NAMES`, and in their order."""


def emit(source: Source, targets: Collection[str]) -> dict[str, Manifest]:
    """Return the files of `targets` by ``TARGET/FILE``.

    Raises:
        PolicyError: if one of them can't express the policy.
    """
    with no_collection():
        return {
            f"{name}/{manifest.name}": manifest
            for name, emitter in TARGETS.items()
            if name in targets
            for manifest in emitter(source)
        }
