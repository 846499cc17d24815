"""The chart says what the target kubernetes says; Helm itself judges it elsewhere."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace

import jsonschema
import pytest
import yaml
from emission import PARTS

from authz_server.emit.helm import emit_helm
from authz_server.emit.server_objects import server_objects
from authz_server.errors import PolicyError
from authz_server.policy.model import AccessPolicy
from authz_server.site.model import Server, Shape, Site


def chart(policy: AccessPolicy, site: Site) -> Mapping[str, str]:
    return {
        item.name.removeprefix("authz-server/"): item.text
        for item in emit_helm(policy, site, PARTS)
    }


@pytest.mark.parametrize("shape", [Shape.DEPLOYMENT, Shape.DAEMONSET])
def test_each_of_the_servers_objects_but_the_namespace_has_a_template(
    policy: AccessPolicy, plain: Site, shape: Shape
) -> None:
    site = replace(plain, server=Server(shape=shape))

    files = chart(policy, site)

    expected = {
        f"{item['kind']}-{item['metadata']['name']}".lower()
        for item in server_objects(policy, site, PARTS)
        if item["kind"] != "Namespace"
    }
    assert {
        name.removeprefix("templates/").removesuffix(".yaml")
        for name in files
        if name.startswith("templates/")
    } == expected


def test_every_value_is_used_and_every_used_one_is_there(
    policy: AccessPolicy, plain: Site
) -> None:
    files = chart(policy, plain)
    templates = "".join(
        text for name, text in files.items() if name.startswith("templates/")
    )

    for name in yaml.safe_load(files["values.yaml"]):
        assert f".Values.{name}" in templates
    # A mark that was not replaced would have no space behind its braces.
    assert templates.count("{{") == templates.count("{{ ")


def test_the_values_are_those_of_policy_and_site(
    policy: AccessPolicy, plain: Site
) -> None:
    site = replace(plain, server=Server(image="authz:9", replicas=3))

    values = yaml.safe_load(chart(policy, site)["values.yaml"])

    assert values["image"] == "authz:9"
    assert values["replicas"] == 3
    assert values["policy"] == PARTS
    [config] = [
        item["data"]["config.yaml"]
        for item in server_objects(policy, site, PARTS)
        if item["kind"] == "ConfigMap" and "config.yaml" in item["data"]
    ]
    assert values["config"] == config


@pytest.mark.parametrize("shape", [Shape.DEPLOYMENT, Shape.DAEMONSET])
def test_the_schema_takes_the_values_and_refuses_others(
    policy: AccessPolicy, plain: Site, shape: Shape
) -> None:
    files = chart(policy, replace(plain, server=Server(shape=shape)))
    values = yaml.safe_load(files["values.yaml"])
    schema = json.loads(files["values.schema.json"])

    jsonschema.validate(values, schema)
    for wrong in ({"imagee": "x"}, {"image": ""}, {"policy": {}}, {"config": 7}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**values, **wrong}, schema)


def test_pruning_does_not_take_a_releases_objects_for_its_own(
    policy: AccessPolicy, plain: Site
) -> None:
    for name, text in chart(policy, plain).items():
        if name.startswith("templates/"):
            assert "managed-by: {{ .Release.Service }}" in text
            assert "managed-by: authz-server" not in text


def test_a_server_in_the_upstreams_pods_has_no_chart(
    policy: AccessPolicy, plain: Site
) -> None:
    with pytest.raises(
        PolicyError, match=r"spec\.server\.shape of the site is sidecar"
    ):
        emit_helm(policy, replace(plain, server=Server(shape=Shape.SIDECAR)), PARTS)
