"""Policies written for opa-envoy-plugin, behind a real Envoy."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from parts import eventually, serve_process

from authz_server.demo.envoy import Envoy
from authz_server.demo.process import free_ports

POLICIES = Path(__file__).parents[1] / "opa_envoy_policies"
ACTIONS = "type.googleapis.com/envoy.extensions.filters.http"


def configuration(port: int, upstream: int, socket: Path) -> dict[str, Any]:
    """Return an Envoy that asks, and a second listener that tells what it was sent."""

    def listener(number: int, filters: list[Any], route: dict[str, Any]) -> Any:
        return {
            "address": {
                "socket_address": {"address": "127.0.0.1", "port_value": number}
            },
            "filter_chains": [
                {
                    "filters": [
                        {
                            "name": "envoy.filters.network.http_connection_manager",
                            "typed_config": {
                                "@type": "type.googleapis.com/envoy.extensions.filters."
                                "network.http_connection_manager.v3."
                                "HttpConnectionManager",
                                "stat_prefix": f"p{number}",
                                "http_filters": [
                                    *filters,
                                    {
                                        "name": "envoy.filters.http.router",
                                        "typed_config": {
                                            "@type": f"{ACTIONS}.router.v3.Router"
                                        },
                                    },
                                ],
                                "route_config": {
                                    "virtual_hosts": [
                                        {
                                            "name": "all",
                                            "domains": ["*"],
                                            "routes": [
                                                {"match": {"prefix": "/"}, **route}
                                            ],
                                        }
                                    ]
                                },
                            },
                        }
                    ]
                }
            ],
        }

    def cluster(name: str, address: dict[str, Any], **more: Any) -> dict[str, Any]:
        return {
            "name": name,
            "type": "STATIC",
            "load_assignment": {
                "cluster_name": name,
                "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}],
            },
            **more,
        }

    check = {
        "name": "envoy.filters.http.ext_authz",
        "typed_config": {
            "@type": f"{ACTIONS}.ext_authz.v3.ExtAuthz",
            "transport_api_version": "V3",
            "grpc_service": {
                "envoy_grpc": {"cluster_name": "authz"},
                "timeout": "5s",
            },
        },
    }
    told = {
        name: f"%REQ({name})%"
        for name in ("x-tenant-id", "x-plan-checked", "x-internal", ":path")
    }
    return {
        "static_resources": {
            "listeners": [
                listener(port, [check], {"route": {"cluster": "upstream"}}),
                listener(
                    upstream,
                    [],
                    {
                        "direct_response": {"status": 200},
                        "response_headers_to_add": [
                            {
                                "header": {"key": f"got-{name.strip(':')}", "value": v},
                                "keep_empty_value": True,
                            }
                            for name, v in told.items()
                        ],
                    },
                ),
            ],
            "clusters": [
                cluster(
                    "authz",
                    {"pipe": {"path": str(socket)}},
                    typed_extension_protocol_options={
                        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                            "@type": "type.googleapis.com/envoy.extensions.upstreams."
                            "http.v3.HttpProtocolOptions",
                            "explicit_http_config": {"http2_protocol_options": {}},
                        }
                    },
                ),
                cluster(
                    "upstream",
                    {
                        "socket_address": {
                            "address": "127.0.0.1",
                            "port_value": upstream,
                        }
                    },
                ),
            ],
        }
    }


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    folder = tmp_path_factory.mktemp("opa-envoy")
    config = {
        "listen": {"address": f"unix://{folder}/s"},
        "policy": {"form": "opa-envoy"},
        "distribution": {"url": str(POLICIES / "detailed_answer.tar.gz")},
        "identity": {"chain": "proxy", "require_certificate": False},
        "limits": {"deadline_s": 5},
        "audit": {"file": f"{folder}/audit.jsonl"},
    }
    (folder / "config.yaml").write_text(json.dumps(config))
    port, upstream = free_ports(2)
    with (
        serve_process(folder) as server,
        Envoy(folder, configuration(port, upstream, folder / "s"), port) as envoy,
    ):
        envoy.wait()
        log = folder / "log"
        assert eventually(lambda: "is in force" in log.read_text()), log.read_text()
        assert server.poll() is None
        yield port


def get(port: int, path: str, **headers: str) -> http.client.HTTPResponse:
    line = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    line.request("GET", path, headers=names)
    answer = line.getresponse()
    answer.body = answer.read()  # type: ignore[attr-defined]
    line.close()
    return answer


def test_an_allowed_request_is_changed_as_the_policy_wants(port: int) -> None:
    answer = get(
        port,
        "/things?debug=1&q=2",
        x_plan="gold",
        x_tenant="a b",
        x_tenant_id="forged",
        x_internal="secret",
    )
    assert answer.status == 200
    assert answer.headers["got-x-tenant-id"] == "a b"
    assert answer.headers["got-x-plan-checked"] == "true"
    assert answer.headers["got-x-internal"] in {None, "", "-"}
    path, _, query = answer.headers["got-path"].partition("?")
    assert path == "/things"
    assert {"q=2", "tenant=a+b"} <= set(query.split("&"))
    assert "debug" not in query
    assert answer.headers.get_all("x-answered-by") == ["rego", "opa"]


def test_a_denied_request_gets_the_policys_own_answer(port: int) -> None:
    answer = get(port, "/", x_plan="free")
    assert answer.status == 402
    assert answer.headers["retry-after"] == "60"
    assert answer.headers["x-authz-reason"] == "not_granted"
    assert answer.body == b"free costs more"  # type: ignore[attr-defined]
    assert get(port, "/").status == 401
