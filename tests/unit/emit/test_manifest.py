from __future__ import annotations

import re
from dataclasses import replace

import pytest
import yaml

from authz_server.emit.manifest import (
    check_unique,
    deployed,
    dns_name,
    kustomization,
    metadata,
    objects_file,
    settings_file,
)
from authz_server.errors import PolicyError
from authz_server.policy.model import AccessPolicy

LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")


def test_a_name_that_fits_is_the_joined_parts() -> None:
    assert dns_name("triton", "from", "cameras") == "triton-from-cameras"


@pytest.mark.parametrize(
    "parts",
    [("a" * 80,), ("Camera_1",), ("-",), ("a-",), ("é", "b"), ("a" * 53 + ".b",)],
)
def test_every_name_is_a_dns_label(parts: tuple[str, ...]) -> None:
    name = dns_name(*parts)

    assert LABEL.fullmatch(name)
    assert len(name) <= 63


def test_names_that_are_cut_to_the_same_text_stay_apart() -> None:
    assert dns_name("a" * 80) != dns_name("a" * 81)


def test_every_object_says_who_made_it_of_what(policy: AccessPolicy) -> None:
    assert metadata(policy, "n", "ns") == {
        "name": "n",
        "namespace": "ns",
        "labels": {
            "app.kubernetes.io/managed-by": "authz-server",
            "app.kubernetes.io/part-of": "plant",
        },
    }


def test_an_upstream_outside_kubernetes_is_not_deployed(policy: AccessPolicy) -> None:
    images = replace(policy.upstreams["images"], namespace="", service_account="")
    changed = replace(policy, upstreams={**policy.upstreams, "images": images})

    assert [item.name for item in deployed(changed)] == ["triton"]


def test_an_upstream_without_service_account_is_refused(policy: AccessPolicy) -> None:
    images = replace(policy.upstreams["images"], service_account="")
    changed = replace(policy, upstreams={**policy.upstreams, "images": images})

    with pytest.raises(PolicyError, match=r"spec\.upstreams\.images: serviceAccount"):
        deployed(changed)


def test_two_objects_of_one_name_are_refused() -> None:
    item = {"kind": "Service", "metadata": {"name": "a", "namespace": "n"}}

    with pytest.raises(PolicyError, match="Service objects would be called n/a"):
        check_unique((item, item))


def test_one_name_in_two_namespaces_is_fine() -> None:
    check_unique(
        tuple(
            {"kind": "Service", "metadata": {"name": "a", "namespace": namespace}}
            for namespace in ("n", "m")
        )
    )


def test_the_kustomization_lists_what_kubectl_can_apply() -> None:
    files = (
        objects_file("a.yaml", ("x",), ({"kind": "A"},)),
        settings_file("mesh.yaml", ("x",), {"b": 1}),
    )

    content = yaml.safe_load(kustomization(files).text)

    assert content["resources"] == ["a.yaml"]
