"""Target ``spire``: who gets which identity, in a cluster and on boxes without one."""

from __future__ import annotations

from authz_server.emit import spire_notes
from authz_server.emit.manifest import (
    Manifest,
    Object,
    check_unique,
    dns_name,
    kustomization,
    metadata,
    objects_file,
)
from authz_server.emit.spire_agents import agent_file, server_file
from authz_server.emit.spire_entries import box_entries, registered, static_entry
from authz_server.emit.spire_entries_json import entries_json
from authz_server.emit.spire_identities import (
    API_VERSION,
    class_name,
    cluster_spiffe_id,
    identities,
)
from authz_server.errors import PolicyError
from authz_server.policy.model import AccessPolicy
from authz_server.site.model import Federation, Site, Spire


def emit_spire(policy: AccessPolicy, site: Site) -> tuple[Manifest, ...]:
    """Return the files for SPIRE, its controller manager and its agents on boxes.

    Raises:
        PolicyError: if SPIRE issues nothing at this site, or could give one process an
            ID by two of its rules.
    """
    spire = site.spire
    if spire is None:
        raise PolicyError(
            "spec.spire of the site is missing, so SPIRE issues nothing there: add it, "
            "or leave the target spire out"
        )
    pods = identities(policy, site)
    boxes = registered(site)
    entries = box_entries(policy, site, spire)
    manifests = [
        objects_file(
            "cluster-spiffe-ids.yaml",
            spire_notes.of_identities(policy, site, pods, entries),
            tuple(cluster_spiffe_id(policy, spire, item) for item in pods),
        )
    ]
    if boxes:
        manifests += [
            objects_file(
                "static-entries.yaml",
                spire_notes.of_entries(policy, site, boxes, entries),
                tuple(static_entry(policy, spire, entry) for entry in entries),
            ),
            Manifest("entries.json", entries_json(entries)),
            *(agent_file(policy, spire, box) for box in boxes),
        ]
    if site.federation:
        manifests.append(
            objects_file(
                "federation.yaml",
                spire_notes.of_federation(policy, site),
                tuple(
                    _federated(policy, spire, item)
                    for item in sorted(
                        site.federation, key=lambda one: one.trust_domain
                    )
                ),
            )
        )
    plugins = server_file(spire, boxes)
    if plugins is not None:
        manifests.append(plugins)
    emitted = tuple(manifests)
    check_unique(tuple(item for manifest in emitted for item in manifest.objects))
    return (*emitted, kustomization(emitted))


def _federated(policy: AccessPolicy, spire: Spire, item: Federation) -> Object:
    profile = (
        {"type": "https_web"}
        if item.endpoint_id is None
        else {"type": "https_spiffe", "endpointSPIFFEID": str(item.endpoint_id)}
    )
    return {
        "apiVersion": API_VERSION,
        "kind": "ClusterFederatedTrustDomain",
        "metadata": metadata(
            policy, f"{policy.name}.{dns_name(item.trust_domain.name)}"
        ),
        "spec": {
            "trustDomain": item.trust_domain.name,
            "bundleEndpointURL": item.endpoint,
            "bundleEndpointProfile": profile,
            **class_name(spire),
        },
    }
