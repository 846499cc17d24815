"""What the patches make of istiod's filter and route, as the real Envoy reads them."""

from __future__ import annotations

import copy
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from authz_server.demo.envoy import envoy_binary
from authz_server.emit.envoy_filters import (
    HTTP_INFERENCE_PATH,
    check_config,
    envoy_filter,
)
from authz_server.emit.istio import emit_istio
from authz_server.policy.model import AccessPolicy
from authz_server.site.model import Site

EXT_AUTHZ = "envoy.filters.http.ext_authz"
EXT_PROC = "envoy.filters.http.ext_proc"
TYPES = "type.googleapis.com/envoy.extensions.filters."


def patches(
    policy: AccessPolicy, options: Site, upstream: str = "triton"
) -> list[dict[str, Any]]:
    made = envoy_filter(policy, policy.upstreams[upstream], options)
    found: list[dict[str, Any]] = copy.deepcopy(made["spec"]["configPatches"])
    return found


def bootstrap(policy: AccessPolicy, options: Site) -> dict[str, Any]:
    """An inbound chain as istiod writes it, with the patches applied."""
    merge, gate, *inserts = [
        item["patch"]["value"] for item in patches(policy, options)
    ]
    generated = {
        "@type": TYPES + "http.ext_authz.v3.ExtAuthz",
        "transport_api_version": "V3",
        "grpc_service": {"envoy_grpc": {"cluster_name": "authz"}, "timeout": "0.5s"},
        "status_on_error": {"code": "Forbidden"},
    }
    proxy = gate["typed_config"]["grpc_service"]["envoy_grpc"]["cluster_name"]
    clusters = {insert["route"]["cluster"] for insert in inserts} | {"authz", proxy}
    catch_all = {
        "name": "default",
        "match": {"prefix": "/"},
        "route": {"cluster": "inbound|8001||", "timeout": "0s"},
    }
    manager = {
        "@type": TYPES + "network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "inbound",
        "http_filters": [
            {"name": EXT_AUTHZ, "typed_config": generated | merge["typed_config"]},
            gate,
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": TYPES + "http.router.v3.Router"},
            },
        ],
        "route_config": {
            "name": "inbound|8001||",
            "virtual_hosts": [
                {
                    "name": "inbound|http|8001",
                    "domains": ["*"],
                    "routes": [*inserts, catch_all],
                }
            ],
        },
    }
    return {
        "static_resources": {
            "listeners": [
                {
                    "name": "inbound",
                    "address": {
                        "socket_address": {"address": "127.0.0.1", "port_value": 0}
                    },
                    "filter_chains": [
                        {
                            "filters": [
                                {
                                    "name": "hcm",
                                    "typed_config": manager,
                                }
                            ]
                        }
                    ],
                }
            ],
            "clusters": [
                {"name": name, "type": "STATIC", "connect_timeout": "1s"}
                for name in sorted(clusters)
            ],
        }
    }


def validate(
    config: dict[str, Any], directory: Path
) -> subprocess.CompletedProcess[str]:
    path = directory / "bootstrap.json"
    path.write_text(json.dumps(config))
    return subprocess.run(
        [str(envoy_binary()), "--mode", "validate", "-c", str(path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.envoy
def test_envoy_accepts_the_patched_chain(
    policy: AccessPolicy, mesh: Site, tmp_path: Path
) -> None:
    result = validate(bootstrap(policy, mesh), tmp_path)

    assert result.returncode == 0, result.stderr


@pytest.mark.envoy
@pytest.mark.parametrize("part", ["filter", "gate", "route"])
def test_envoy_would_refuse_a_misspelt_field_in_a_patch(
    policy: AccessPolicy, mesh: Site, tmp_path: Path, part: str
) -> None:
    config = bootstrap(policy, mesh)
    [listener] = config["static_resources"]["listeners"]
    manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
    if part == "filter":
        target = manager["http_filters"][0]["typed_config"]
    elif part == "gate":
        target = manager["http_filters"][1]["typed_config"]
    else:
        [host] = manager["route_config"]["virtual_hosts"]
        target = host["routes"][0]["typed_per_filter_config"][EXT_AUTHZ]
    target["include_peer_certificat"] = True

    result = validate(config, tmp_path)

    assert result.returncode != 0
    assert "include_peer_certificat" in result.stderr


def test_triton_is_asked_with_certificate_raw_headers_and_the_whole_body(
    policy: AccessPolicy,
) -> None:
    assert check_config(policy.upstreams["triton"]) == {
        "@type": TYPES + "http.ext_authz.v3.ExtAuthz",
        "include_peer_certificate": True,
        "encode_raw_headers": True,
        "validate_mutations": True,
        "with_request_body": {
            "max_request_bytes": 4194304,
            "allow_partial_message": False,
            "pack_as_bytes": True,
        },
    }


def test_a_dataset_is_asked_without_body(policy: AccessPolicy, mesh: Site) -> None:
    [merge] = patches(policy, mesh, "images")

    assert merge["applyTo"] == "HTTP_FILTER"
    assert "with_request_body" not in merge["patch"]["value"]["typed_config"]


def test_patches_touch_inbound_traffic_only(policy: AccessPolicy, mesh: Site) -> None:
    contexts = {item["match"]["context"] for item in patches(policy, mesh)}

    assert contexts == {"SIDECAR_INBOUND"}


def routes(policy: AccessPolicy, site: Site) -> dict[str, dict[str, Any]]:
    return {
        item["patch"]["value"]["name"]: item["patch"]["value"]
        for item in patches(policy, site)
        if item["applyTo"] == "HTTP_ROUTE"
    }


def test_a_stream_is_asked_about_before_its_end_and_passes_the_gate(
    policy: AccessPolicy, mesh: Site
) -> None:
    route = routes(policy, mesh)["authz-server-stream"]

    assert route["match"] == {
        "path": "/inference.GRPCInferenceService/ModelStreamInfer"
    }
    settings = route["typed_per_filter_config"]
    assert settings[EXT_AUTHZ]["check_settings"] == {
        "context_extensions": {"gate": "ext_proc"},
        "disable_request_body_buffering": True,
    }
    modes = settings[EXT_PROC]["overrides"]["processing_mode"]
    assert modes["request_body_mode"] == "STREAMED"
    assert modes["response_trailer_mode"] == "SEND"


def test_lists_of_models_pass_the_gate_with_their_answers(
    policy: AccessPolicy, mesh: Site
) -> None:
    lists = {
        route["match"]["path"]: route["typed_per_filter_config"]
        for name, route in routes(policy, mesh).items()
        if "-list-" in name
    }

    assert lists.keys() == {
        "/inference.GRPCInferenceService/RepositoryIndex",
        "/inference.GRPCInferenceService/ModelStatistics",
        "/v2/repository/index",
        "/v2/models/stats",
    }
    for settings in lists.values():
        # The message may name a model, so the check has it.
        assert settings[EXT_AUTHZ]["check_settings"] == {
            "context_extensions": {"gate": "ext_proc"}
        }
        modes = settings[EXT_PROC]["overrides"]["processing_mode"]
        assert modes["response_body_mode"] == "BUFFERED"


def test_where_the_check_tells_of_the_gate_the_gate_is(
    policy: AccessPolicy, mesh: Site
) -> None:
    for route in routes(policy, mesh).values():
        settings = route["typed_per_filter_config"]
        told = "context_extensions" in settings[EXT_AUTHZ]["check_settings"]
        assert told == (EXT_PROC in settings)


def test_the_gate_stands_behind_every_check_and_is_off_by_itself(
    policy: AccessPolicy, mesh: Site
) -> None:
    [_, gate, *_] = patches(policy, mesh)

    where = gate["match"]["listener"]["filterChain"]["filter"]["subFilter"]
    assert where == {"name": "envoy.filters.http.router"}
    assert gate["patch"]["operation"] == "INSERT_BEFORE"
    value = gate["patch"]["value"]
    assert value["disabled"] is True
    assert value["typed_config"]["failure_mode_allow"] is False
    assert value["typed_config"]["grpc_service"]["envoy_grpc"] == {
        "cluster_name": "outbound|9191||authz-server.authz-system.svc.cluster.local",
        "authority": "authz-server.authz-system.svc.cluster.local",
    }
    # Without it the gate would know of no caller.
    assert value["typed_config"]["metadata_options"] == {
        "forwarding_namespaces": {"untyped": [EXT_AUTHZ]}
    }


def test_an_inserted_route_leads_where_the_ports_own_route_leads(
    policy: AccessPolicy, mesh: Site
) -> None:
    _, _, *inserted = patches(policy, mesh)

    found = [
        (
            item["match"]["routeConfiguration"]["name"],
            item["patch"]["value"]["route"]["cluster"],
        )
        for item in inserted
    ]
    assert {item["patch"]["operation"] for item in inserted} == {"INSERT_FIRST"}
    assert found == [
        *[("inbound|8001||",) * 2] * 3,
        *[("inbound|8000||",) * 2] * 3,
    ]


def test_no_inserted_route_switches_the_check_off(
    policy: AccessPolicy, mesh: Site
) -> None:
    for route in routes(policy, mesh).values():
        override = route["typed_per_filter_config"][EXT_AUTHZ]
        assert override.keys() == {"@type", "check_settings"}


@pytest.mark.parametrize(
    "path",
    [
        "/v2/models/m/infer",
        "/v2/models/m/versions/1/infer",
        "/v2/models/m/generate",
        "/v2/models/m/generate_stream",
    ],
)
def test_http_inference_is_not_held_back_for_its_body(path: str) -> None:
    assert re.fullmatch(HTTP_INFERENCE_PATH, path)


@pytest.mark.parametrize(
    "path",
    [
        "/v2/repository/models/m/load",
        "/v2/models/m/config",
        "/v2/models/m/trace/setting",
        "/v2/models/a/b/infer",
        "/v2/repository/models/infer",
    ],
)
def test_other_http_calls_are_checked_with_their_body(path: str) -> None:
    assert not re.fullmatch(HTTP_INFERENCE_PATH, path)


def test_the_comment_says_what_the_limit_means(
    policy: AccessPolicy, mesh: Site
) -> None:
    [manifest] = [
        item for item in emit_istio(policy, mesh) if item.name == "envoy-filters.yaml"
    ]

    assert "413" in manifest.text.partition("apiVersion")[0]
