"""The mesh's own configuration: its trust domains, and whom CUSTOM asks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from authz_server.errors import SpiffeIdError
from authz_server.identity.spiffe_id import TrustDomain
from authz_server.policy.model import AccessPolicy
from authz_server.site.model import SERVER, Site
from authz_server.verify.authorization import LOCAL, MeshDomains
from authz_server.verify.difference import Difference, Kind, Layer
from authz_server.verify.fields import Fields, UnreadableError
from authz_server.verify.objects import Found


def unclear(target: str, why: str) -> Difference:
    """Return that what Istio does can't be told."""
    return Difference(Layer.ISTIO, Kind.UNCLEAR, (), target, "calls", "", why)


@dataclass(frozen=True, slots=True)
class MeshConfig:
    """What of the mesh's configuration decides about calls.

    Attributes:
        providers: by name; None if they are not known.
    """

    domains: MeshDomains
    providers: Mapping[str, Fields] | None
    place: str


def mesh_config(
    policy: AccessPolicy, site: Site, found: Found, problems: list[Difference]
) -> MeshConfig:
    """Return what the mesh's configuration says.

    Args:
        problems: where what is the matter with it is added.
    """
    why = "the mesh's configuration is not among the objects"
    for body, place in _mesh_documents(site, found):
        try:
            fields = Fields(body, "the mesh's configuration")
            names = (
                fields.text("trustDomain", LOCAL),
                *fields.texts("trustDomainAliases"),
            )
            for name in names:
                _check_domain(name)
            providers = {
                item.text("name"): item
                for item in fields.children("extensionProviders")
            }
            return MeshConfig(MeshDomains(names), providers, place)
        except UnreadableError as error:
            why = f"{place}: {error}"
    problems.append(unclear("mesh", why))
    own = str(policy.trust_domain)
    return MeshConfig(MeshDomains((own,)), None, "no mesh configuration")


def _check_domain(name: str) -> None:
    try:
        TrustDomain(name)
    except SpiffeIdError as error:
        raise UnreadableError(str(error)) from error


def _mesh_documents(site: Site, found: Found) -> Iterator[tuple[Any, str]]:
    for document in found.documents:
        if "extensionProviders" in document.body or "trustDomain" in document.body:
            yield document.body, document.place
    for item in found.of("", "ConfigMap"):
        data = item.body.get("data")
        if item.namespace == site.istio.istiod.namespace and isinstance(data, Mapping):
            text = data.get("mesh")
            if isinstance(text, str):
                try:
                    yield yaml.safe_load(text), str(item)
                except yaml.YAMLError:
                    yield None, str(item)


def provider_differences(site: Site, mesh: MeshConfig) -> Iterator[Difference]:
    """Yield what is wrong with the provider that CUSTOM asks, as far as it is known."""
    if mesh.providers is None:
        return
    name = site.istio.provider
    fields = mesh.providers.get(name)
    if fields is None:
        yield _of_provider(
            mesh,
            Kind.MISSING,
            f"provider {name!r} is not in it, so Istio denies all",
        )
        return
    try:
        grpc = fields.child("envoyExtAuthzGrpc")
        service = grpc.text("service").rpartition("/")[2] if grpc is not None else ""
        port = grpc.number_or_text("port") if grpc is not None else None
        is_open = grpc is not None and grpc.boolean("failOpen")
    except UnreadableError as error:
        yield _of_provider(mesh, Kind.UNCLEAR, str(error))
        return
    host = f"{SERVER}.{site.server.namespace}.svc.{site.cluster.domain}"
    if (service, port) != (host, site.server.port):
        yield _of_provider(
            mesh,
            Kind.EXTRA,
            f"provider {name!r} asks {service or 'nobody by gRPC'}:{port}, not "
            f"{host}:{site.server.port}",
        )
    if is_open:
        yield _of_provider(
            mesh,
            Kind.EXTRA,
            f"provider {name!r} fails open: without an answer it allows",
        )


def _of_provider(mesh: MeshConfig, kind: Kind, why: str) -> Difference:
    return Difference(
        Layer.ISTIO,
        kind,
        ("every caller",),
        "every upstream",
        "every call",
        "the server decides",
        f"{mesh.place}: {why}",
    )
