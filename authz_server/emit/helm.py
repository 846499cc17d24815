"""Target ``helm``: a chart of the server's own objects.

Its templates are the objects of the target ``kubernetes`` with a template's expression
where a value belongs, so the two can't drift apart.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from authz_server import __version__
from authz_server.emit import notes, yaml_text
from authz_server.emit.manifest import (
    MANAGED_BY,
    Manifest,
    Object,
    dns_name,
    settings_file,
)
from authz_server.emit.server_config import config_text
from authz_server.emit.server_objects import server_objects
from authz_server.emit.server_pod import POLICY_CONFIG_MAP, RESOURCES
from authz_server.errors import PolicyError
from authz_server.policy.model import AccessPolicy
from authz_server.site.model import SERVER, Shape, Site

# What stands in the objects where the chart has an expression; then that expression.
# No value of a site or policy could be one of them.
_EXPRESSIONS: Final[Mapping[str, str]] = {
    '"{{image}}"': "{{ .Values.image | quote }}",
    '"{{replicas}}"': "{{ .Values.replicas }}",
    '"{{namespace}}"': "{{ .Release.Namespace }}",
    '"{{manager}}"': "{{ .Release.Service }}",
    '"{{config}}"': "{{ toYaml .Values.config | nindent 4 }}",
    '"{{policy}}"': "{{ toYaml .Values.policy | nindent 2 }}",
    '"{{resources}}"': "{{ toYaml .Values.resources | nindent 10 }}",
    '"{{checksum}}"': (
        '{{ printf "%s%s" (toYaml .Values.config) (toYaml .Values.policy) '
        "| sha256sum }}"
    ),
}


def emit_helm(
    policy: AccessPolicy, site: Site, parts: Mapping[str, str]
) -> tuple[Manifest, ...]:
    """Return the chart, in a folder of its name.

    Args:
        parts: the policy's own files by name.

    Raises:
        PolicyError: as `emit_kubernetes`; or if the server runs in upstreams' pods,
            which a chart of its own can't reach.
    """
    if site.server.shape is Shape.SIDECAR:
        raise PolicyError(
            "spec.server.shape of the site is sidecar, and a chart can't reach into "
            "the upstreams' pods: use the component of the target kubernetes, or "
            "another shape"
        )
    config = config_text(policy, site)
    values = {
        "image": site.server.image,
        **(
            {"replicas": site.server.replicas}
            if site.server.shape is Shape.DEPLOYMENT
            else {}
        ),
        "resources": RESOURCES,
        "config": config,
        "policy": dict(sorted(parts.items())),
    }
    chart = {
        "apiVersion": "v2",
        "name": SERVER,
        "description": f"authz-server with the access policy {policy.name}",
        "type": "application",
        "version": __version__,
        "appVersion": __version__,
    }
    return (
        settings_file(f"{SERVER}/Chart.yaml", (notes.GENERATED,), chart),
        settings_file(f"{SERVER}/values.yaml", notes.CHART_VALUES, values),
        Manifest(f"{SERVER}/values.schema.json", _schema(site)),
        *(
            Manifest(f"{SERVER}/templates/{_file_name(item)}.yaml", _template(item))
            for item in _objects(policy, site, parts)
        ),
    )


def _objects(
    policy: AccessPolicy, site: Site, parts: Mapping[str, str]
) -> tuple[Object, ...]:
    objects = server_objects(
        policy, replace(site, server=replace(site.server, image="{{image}}")), parts
    )
    # Helm makes the namespace that it is told to install into.
    return tuple(_marked(item, site) for item in objects if item["kind"] != "Namespace")


def _marked(item: Object, site: Site) -> Object:
    """Return `item` with a mark for each of the chart's values."""
    marked: dict[str, Any] = json.loads(json.dumps(item))
    assert marked["metadata"]["namespace"] == site.server.namespace  # noqa: S101
    marked["metadata"]["namespace"] = "{{namespace}}"
    # Or `apply --prune` would take a release's objects for its own.
    marked["metadata"]["labels"][MANAGED_BY] = "{{manager}}"
    match marked:
        case {"kind": "ConfigMap", "metadata": {"name": name}}:
            is_policy = name == POLICY_CONFIG_MAP
            marked["data"] = (
                "{{policy}}" if is_policy else {"config.yaml": "{{config}}"}
            )
        case {"kind": "Deployment" | "DaemonSet", "spec": spec}:
            if "replicas" in spec:
                spec["replicas"] = "{{replicas}}"
            template = spec["template"]
            template["metadata"]["annotations"]["checksum/config"] = "{{checksum}}"
            for container in template["spec"]["containers"]:
                container["resources"] = "{{resources}}"
    return marked


def _template(item: Object) -> str:
    text = yaml_text.document(item)
    for mark, expression in _EXPRESSIONS.items():
        text = text.replace(mark, expression)
    return text


def _file_name(item: Object) -> str:
    return dns_name(str(item["kind"]).lower(), str(item["metadata"]["name"]))


def _schema(site: Site) -> str:
    texts = {
        "type": "object",
        "minProperties": 1,
        "additionalProperties": {"type": "string", "minLength": 1},
    }
    properties: dict[str, Any] = {
        "image": {
            "description": "The server's container image.",
            "type": "string",
            "minLength": 1,
        },
        "replicas": {
            "description": "How many servers run.",
            "type": "integer",
            "minimum": 1,
        },
        "resources": {
            "description": "What a server's container asks for, and may use.",
            "type": "object",
        },
        "config": {
            "description": "The server's configuration file.",
            "type": "string",
            "minLength": 1,
        },
        "policy": {
            "description": "The access policy: its files by name.",
            **texts,
        },
        "global": {"type": "object"},
    }
    if site.server.shape is not Shape.DEPLOYMENT:
        del properties["replicas"]
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"Values of the chart {SERVER}",
        "type": "object",
        "required": sorted(properties.keys() - {"global"}),
        "additionalProperties": False,
        "properties": properties,
    }
    return json.dumps(schema, indent=2) + "\n"
