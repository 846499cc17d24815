"""The configurations of `envoy/`: every safe option is set, and does what it says."""

from __future__ import annotations

import json
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import demo_parts
import grpc
import pytest
import yaml
from demo_parts import CAMERA, METHOD, ROBOT, STREAM, Edge, edge_at
from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.envoy.service.auth import v3 as auth
from envoy_data_plane.google import rpc

from authz_server.demo.envoy import Places, envoy_binary, read_configuration, render
from authz_server.demo.pki import DevelopmentCa
from authz_server.errors import Reason
from authz_server.response import RequestChanges, allow, deny

CONFIGURATIONS = ("edge-unix-socket", "edge-mtls")

UNSET = object()

Yaml = Any

# Where an option lies (from the listener, the connection manager or the filter) and
# what it must be. A lost option falls back to Envoy's default: mostly an unsafe one.
TLS_OPTIONS: list[tuple[str, object]] = [
    ("require_client_certificate", True),
    ("disable_stateless_session_resumption", True),
    ("disable_stateful_session_resumption", True),
    ("common_tls_context.alpn_protocols", ["h2", "http/1.1"]),
    ("common_tls_context.tls_params.tls_minimum_protocol_version", "TLSv1_2"),
    ("common_tls_context.tls_params.tls_maximum_protocol_version", "TLSv1_3"),
    ("common_tls_context.validation_context.trusted_ca", UNSET),
    (
        "common_tls_context.validation_context.custom_validator_config.name",
        "envoy.tls.cert_validator.spiffe",
    ),
]
MANAGER_OPTIONS: list[tuple[str, object]] = [
    ("normalize_path", True),
    ("merge_slashes", True),
    ("path_with_escaped_slashes_action", "REJECT_REQUEST"),
    (
        "common_http_protocol_options.headers_with_underscores_action",
        "REJECT_REQUEST",
    ),
    ("common_http_protocol_options.max_connection_duration", "1800s"),
    ("common_http_protocol_options.max_headers_count", 64),
    ("strip_any_host_port", True),
    ("strip_trailing_host_dot", True),
    ("use_remote_address", True),
    (
        "internal_address_config",
        {
            "unix_sockets": False,
            "cidr_ranges": [{"address_prefix": "255.255.255.255", "prefix_len": 32}],
        },
    ),
    ("forward_client_cert_details", "SANITIZE"),
    ("upgrade_configs", UNSET),
    ("generate_request_id", True),
    ("preserve_external_request_id", False),
    ("always_set_request_id_in_response", True),
    ("stream_idle_timeout", "60s"),
    ("request_headers_timeout", "10s"),
    ("http2_protocol_options.max_concurrent_streams", 100),
    ("http2_protocol_options.allow_connect", UNSET),
]
FILTER_OPTIONS: list[tuple[str, object]] = [
    ("failure_mode_allow", False),
    ("transport_api_version", "V3"),
    ("grpc_service.timeout", "0.5s"),
    ("include_peer_certificate", True),
    ("encode_raw_headers", True),
    (
        "allowed_headers.patterns",
        [
            {"exact": "content-type"},
            {"exact": "grpc-encoding"},
            {"exact": "x-request-id"},
            {"exact": "x-vertex-ai-triton-redirect"},
            {"prefix": "x-amz-"},
        ],
    ),
    ("disallowed_headers.patterns", [{"exact": "x-amz-security-token"}]),
    ("with_request_body.allow_partial_message", False),
    ("with_request_body.pack_as_bytes", True),
    ("with_request_body.max_request_bytes", 4194304),
    ("clear_route_cache", False),
    ("validate_mutations", True),
    ("decoder_header_mutation_rules.disallow_all", True),
    ("decoder_header_mutation_rules.disallow_is_error", True),
    (
        "decoder_header_mutation_rules.allow_expression.regex",
        "^(x-authz-[a-z0-9-]+|(triton-grpc-protocol-)?triton-access-token)$",
    ),
    ("filter_enabled", UNSET),
    ("filter_enabled_metadata", UNSET),
    ("deny_at_disable.default_value", True),
    ("status_on_error.code", "Forbidden"),
    ("stat_prefix", "authz"),
]


def option(node: Yaml, dotted: str) -> object:
    for key in dotted.split("."):
        if not isinstance(node, dict) or key not in node:
            return UNSET
        node = node[key]
    return node


GATE = "envoy.filters.http.ext_proc"
SERVICE = "/inference.GRPCInferenceService/"


def listener_of(configuration: dict[str, Any]) -> Yaml:
    (listener,) = configuration["static_resources"]["listeners"]
    return listener


def manager_of(configuration: dict[str, Any]) -> Yaml:
    (chain,) = listener_of(configuration)["filter_chains"]
    (manager,) = chain["filters"]
    return manager["typed_config"]


def routes_of(configuration: dict[str, Any]) -> list[Any]:
    (host,) = manager_of(configuration)["route_config"]["virtual_hosts"]
    return list(host["routes"])


def check_settings(route: dict[str, Any]) -> Yaml:
    return route["typed_per_filter_config"]["envoy.filters.http.ext_authz"]


@pytest.fixture(params=CONFIGURATIONS)
def configuration(request: pytest.FixtureRequest) -> dict[str, Any]:
    return read_configuration(request.param)


@pytest.mark.parametrize(("dotted", "safe"), TLS_OPTIONS)
def test_a_tls_option_is_safe(
    configuration: dict[str, Any], dotted: str, safe: object
) -> None:
    (chain,) = listener_of(configuration)["filter_chains"]
    assert option(chain["transport_socket"]["typed_config"], dotted) == safe


@pytest.mark.parametrize(("dotted", "safe"), MANAGER_OPTIONS)
def test_an_option_of_the_connection_manager_is_safe(
    configuration: dict[str, Any], dotted: str, safe: object
) -> None:
    assert option(manager_of(configuration), dotted) == safe


@pytest.mark.parametrize(("dotted", "safe"), FILTER_OPTIONS)
def test_an_option_of_the_ext_authz_filter_is_safe(
    configuration: dict[str, Any], dotted: str, safe: object
) -> None:
    ext_authz, gate, router = manager_of(configuration)["http_filters"]
    assert gate["name"] == GATE
    assert router["name"] == "envoy.filters.http.router"
    assert option(ext_authz["typed_config"], dotted) == safe


@pytest.mark.parametrize(
    ("dotted", "safe"),
    [
        ("failure_mode_allow", False),
        ("message_timeout", "0.5s"),
        ("processing_mode.request_header_mode", "SEND"),
        ("processing_mode.request_body_mode", "STREAMED"),
        ("processing_mode.response_header_mode", "SKIP"),
        ("processing_mode.response_body_mode", "NONE"),
        (
            "metadata_options.forwarding_namespaces.untyped",
            ["envoy.filters.http.ext_authz"],
        ),
        ("mutation_rules.disallow_all", True),
        (
            "mutation_rules.allow_expression.regex",
            "^(x-authz-[a-z0-9-]+|grpc-(status|message)|content-length)$",
        ),
        ("disable_immediate_response", UNSET),
        ("observability_mode", UNSET),
    ],
)
def test_an_option_of_the_gate_is_safe(
    configuration: dict[str, Any], dotted: str, safe: object
) -> None:
    _, gate, _ = manager_of(configuration)["http_filters"]
    assert option(gate["typed_config"], dotted) == safe


def test_each_trust_domain_has_a_bundle_of_its_own(
    configuration: dict[str, Any],
) -> None:
    (chain,) = listener_of(configuration)["filter_chains"]
    context = chain["transport_socket"]["typed_config"]["common_tls_context"]
    validator = context["validation_context"]["custom_validator_config"]
    bundles = {
        domain["name"]: domain["trust_bundle"]["filename"]
        for domain in validator["typed_config"]["trust_domains"]
    }
    assert bundles == {
        name: f"/etc/authz-server/tls/{name}.pem"
        for name in ("factory.example", "supplier.example")
    }


def test_every_route_is_checked_and_names_its_upstream(
    configuration: dict[str, Any],
) -> None:
    for route in routes_of(configuration):
        per_route = check_settings(route)
        assert "disabled" not in per_route
        extensions = dict(per_route["check_settings"]["context_extensions"])
        # A route is gated exactly if its extensions say so.
        gate = route["typed_per_filter_config"].get(GATE, {})
        is_gated = extensions.pop("gate", None) == "ext_proc"
        assert is_gated is not gate.get("disabled", False)
        assert extensions == {"upstream": "triton"}


def test_the_routes_are_in_the_order_that_gives_each_call_its_own_body_rule(
    configuration: dict[str, Any],
) -> None:
    found = [
        (
            route["match"],
            route["route"]["cluster"],
            option(
                check_settings(route), "check_settings.disable_request_body_buffering"
            ),
        )
        for route in routes_of(configuration)
    ]
    assert found == [
        ({"path": STREAM}, "triton_grpc", True),
        ({"path": SERVICE + "RepositoryIndex"}, "triton_grpc", UNSET),
        ({"path": SERVICE + "ModelStatistics"}, "triton_grpc", UNSET),
        ({"path": "/v2/repository/index"}, "triton_http", UNSET),
        ({"path": "/v2/models/stats"}, "triton_http", UNSET),
        ({"prefix": "/inference.GRPCInferenceService/"}, "triton_grpc", UNSET),
        ({"prefix": "/grpc.health.v1.Health/"}, "triton_grpc", UNSET),
        ({"prefix": "/"}, "triton_http", True),
    ]


def test_there_is_no_admin_interface(configuration: dict[str, Any]) -> None:
    assert "admin" not in configuration


def test_a_connections_buffer_is_bounded(configuration: dict[str, Any]) -> None:
    assert listener_of(configuration)["per_connection_buffer_limit_bytes"] == 65536


def test_the_configurations_differ_in_how_authz_server_is_reached_alone() -> None:
    first, second = (read_configuration(name) for name in CONFIGURATIONS)
    assert first["static_resources"]["clusters"].pop()["name"] == "authz_server"
    assert second["static_resources"]["clusters"].pop()["name"] == "authz_server"
    assert first == second


@pytest.mark.envoy
@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_envoy_accepts_the_configuration(name: str, tmp_path: Path) -> None:
    demo_parts.lay_out(tmp_path)
    places = Places(
        tls=tmp_path,
        check_socket=tmp_path / "check.sock",
        listener_port=8443,
        triton_http_port=8000,
        triton_grpc_port=8001,
    )
    file = tmp_path / "envoy.yaml"
    file.write_text(yaml.safe_dump(render(read_configuration(name), places)))
    result = subprocess.run(
        [envoy_binary(), "--mode", "validate", "-c", file, "-l", "warning"],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""


@pytest.fixture(scope="module")
def running_edge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Edge]:
    with edge_at(tmp_path_factory.mktemp("e"), "edge-unix-socket") as edge:
        yield edge


@pytest.fixture
def edge(running_edge: Edge) -> Edge:
    running_edge.authority.answer = allow()
    running_edge.authority.questions.clear()
    running_edge.upstream.seen.clear()
    return running_edge


@pytest.mark.envoy
def test_a_client_cannot_choose_its_request_id(edge: Edge) -> None:
    chosen = "11111111-1111-4111-8111-111111111111"
    _, headers, _ = edge.call("GET", "/v2", {"x-request-id": chosen})
    assert headers["x-request-id"] not in {"", chosen}


@pytest.mark.envoy
def test_the_caller_gets_the_request_id_that_the_check_had(edge: Edge) -> None:
    edge.authority.answer = deny(Reason.NOT_GRANTED)
    status, headers, _ = edge.call("GET", "/v2")
    assert status == 403
    assert (
        edge.authority.last_headers["x-request-id"].decode()
        == (headers["x-request-id"])
    )


@pytest.mark.envoy
def test_the_check_gets_no_header_that_nothing_reads(edge: Edge) -> None:
    secrets = {"authorization": "Bearer s", "cookie": "s=1", "x-other": "1"}
    edge.call("GET", "/v2/models/m?x=1", {**secrets, "content-type": "text/plain"})
    assert set(edge.authority.last_headers) == {"content-type", "x-request-id"}
    assert edge.upstream.seen[-1][1]["authorization"] == "Bearer s"


@pytest.mark.envoy
def test_the_check_gets_method_path_host_upstream_and_certificate(edge: Edge) -> None:
    svid = edge.factory.issue(CAMERA)
    edge.call("GET", "/v2/models/m?x=1", svid=svid)
    asked = edge.authority.last
    assert (asked.method, asked.path, asked.host) == (
        "GET",
        "/v2/models/m?x=1",
        "localhost",
    )
    assert edge.authority.last_extensions == {"upstream": "triton"}
    assert unquote(edge.authority.last_certificate) == svid.certificate_pem.decode()
    assert edge.authority.questions[-1].attributes.source.principal == CAMERA  # type: ignore[union-attr]


@pytest.mark.envoy
def test_the_whole_grpc_message_is_in_the_check(edge: Edge) -> None:
    message = bytes(3 << 20)
    with edge.channel() as channel:
        assert channel.unary_unary(METHOD)(message, timeout=10) == message
    asked = edge.authority.last
    assert asked.raw_body == b"\0" + len(message).to_bytes(4, "big") + message
    assert asked.size == len(message) + 5
    assert edge.authority.last_headers["content-type"] == b"application/grpc"


@pytest.mark.envoy
def test_a_grpc_message_over_the_limit_is_refused_without_a_check(edge: Edge) -> None:
    with edge.channel() as channel, pytest.raises(grpc.RpcError) as failure:
        channel.unary_unary(METHOD)(bytes(5 << 20), timeout=10)
    assert failure.value.details() == "Payload Too Large"
    assert edge.authority.questions == []


@pytest.mark.envoy
def test_a_grpc_message_barely_over_the_limit_is_marked_as_partial(edge: Edge) -> None:
    # allow_partial_message is false, yet Envoy asks when the last frame alone is over.
    with edge.channel() as channel:
        channel.unary_unary(METHOD)(bytes(4 << 20), timeout=10)
    assert edge.authority.last_headers["x-envoy-auth-partial-body"] == b"true"
    assert len(edge.authority.last.raw_body) < edge.authority.last.size


class Conversation:
    """Messages of a client that waits for an answer before it sends its second."""

    def __init__(self) -> None:
        self._told = threading.Event()

    def go_on(self) -> None:
        self._told.set()

    def messages(self) -> Iterator[bytes]:
        yield b"first"
        self._told.wait(10)
        yield b"second"


@pytest.mark.envoy
def test_a_stream_is_checked_at_its_start_and_does_not_pass_without_a_gate(
    edge: Edge,
) -> None:
    with edge.channel() as channel:
        client = Conversation()
        answers = channel.stream_stream(STREAM)(client.messages(), timeout=10)
        # Nobody serves ext_proc here: no answer is a no.
        with pytest.raises(grpc.RpcError):
            next(answers)
        client.go_on()
    assert edge.authority.last.raw_body == b""
    assert edge.authority.last_extensions == {"upstream": "triton", "gate": "ext_proc"}


@pytest.mark.envoy
def test_an_http_body_of_any_size_passes_unread(edge: Edge) -> None:
    size = 6 << 20
    status, _, _ = edge.call("POST", "/v2/models/m/infer", body=bytes(size))
    assert status == 200
    assert edge.authority.last.raw_body == b""
    assert edge.upstream.seen[-1][2] == size


@pytest.mark.envoy
@pytest.mark.parametrize(
    "path", ["/v2/x/../models/m", "/v2//models/m", "/v2/%6dodels/m", "/v2\\models/m"]
)
def test_the_path_that_is_checked_is_the_path_that_triton_gets(
    edge: Edge, path: str
) -> None:
    edge.call("GET", path)
    assert edge.authority.last.path == edge.upstream.seen[-1][0] == "/v2/models/m"


@pytest.mark.envoy
@pytest.mark.parametrize(
    ("path", "headers"),
    [("/v2/models%2Fm", {}), ("/v2/models%5Cm", {}), ("/v2", {"x_authz_user": "a"})],
)
def test_an_ambiguous_request_is_refused_without_a_check(
    edge: Edge, path: str, headers: dict[str, str]
) -> None:
    status, _, _ = edge.call("GET", path, headers)
    assert status == 400
    assert edge.authority.questions == []


@pytest.mark.envoy
def test_a_forged_certificate_header_never_reaches_triton(edge: Edge) -> None:
    forged = "URI=spiffe://factory.example/ns/release/sa/deployer"
    edge.call("GET", "/v2", {"x-forwarded-client-cert": forged})
    assert "x-forwarded-client-cert" not in edge.upstream.seen[-1][1]


@pytest.mark.envoy
def test_a_client_cannot_set_envoys_own_headers(edge: Edge) -> None:
    edge.call("GET", "/v2", {"x-envoy-downstream-service-cluster": "trusted"})
    headers = {name.lower() for name in edge.upstream.seen[-1][1]}
    assert "x-envoy-downstream-service-cluster" not in headers


@pytest.mark.envoy
def test_an_answer_cannot_rewrite_the_path(edge: Edge) -> None:
    rewrite = core.HeaderValueOption(
        header=core.HeaderValue(key=":path", value="/v2/models/other")
    )
    edge.authority.answer = bytes(
        auth.CheckResponse(
            status=rpc.Status(), ok_response=auth.OkHttpResponse(headers=[rewrite])
        )
    )
    assert edge.call("GET", "/v2/models/m")[0] == 500
    assert edge.upstream.seen == []


@pytest.mark.envoy
@pytest.mark.parametrize(
    "changes", [RequestChanges((("x-user", "a"),)), RequestChanges(remove=("x-user",))]
)
def test_a_change_that_is_not_allowed_is_no_way_past_for_a_callers_own_header(
    edge: Edge, changes: RequestChanges
) -> None:
    edge.authority.answer = allow(changes)
    assert edge.call("GET", "/v2", {"x-user": "forged"})[0] == 500
    assert edge.upstream.seen == []


@pytest.mark.envoy
def test_no_session_is_resumed(edge: Edge) -> None:
    context = edge.tls(edge.factory.issue(CAMERA))
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    sessions: list[Any] = [None]
    for _ in range(2):
        with (
            socket.create_connection(("127.0.0.1", edge.port), timeout=10) as plain,
            context.wrap_socket(
                plain, server_hostname="localhost", session=sessions[-1]
            ) as connection,
        ):
            sessions.append(connection.session)
            assert not connection.session_reused
            assert not sessions[-1].has_ticket


@pytest.mark.envoy
def test_tls_before_1_2_is_refused(edge: Edge) -> None:
    context = edge.tls(edge.factory.issue(CAMERA))
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.minimum_version = ssl.TLSVersion.TLSv1_1
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    with (
        socket.create_connection(("127.0.0.1", edge.port), timeout=10) as plain,
        pytest.raises(ssl.SSLError, match=r"(?i)version"),
    ):
        context.wrap_socket(plain, server_hostname="localhost")


def refused(edge: Edge, context: ssl.SSLContext) -> bool:
    connection = edge.connect(context)
    try:
        connection.request("GET", "/v2")
        connection.getresponse()
    except (ssl.SSLError, ConnectionError):
        return True
    finally:
        connection.close()
    return False


@pytest.mark.envoy
def test_both_trust_domains_come_in(edge: Edge) -> None:
    assert edge.call("GET", "/v2")[0] == 200
    assert edge.call("GET", "/v2", svid=edge.supplier.issue(ROBOT))[0] == 200


@pytest.mark.envoy
def test_one_trust_domain_cannot_sign_for_another(edge: Edge) -> None:
    assert refused(edge, edge.tls(edge.supplier.issue(CAMERA)))
    assert refused(edge, edge.tls(edge.factory.issue(ROBOT)))


@pytest.mark.envoy
def test_callers_that_cannot_prove_who_they_are_are_refused(edge: Edge) -> None:
    stranger = DevelopmentCa("factory.example")
    assert refused(edge, edge.tls(None))
    assert refused(edge, edge.tls(edge.factory.issue_expired(CAMERA)))
    assert refused(edge, edge.tls(stranger.issue(CAMERA)))
    assert edge.authority.questions == []


@pytest.mark.envoy
def test_without_an_answer_the_answer_is_no(edge: Edge) -> None:
    edge.authority.answer = b"\xff"
    assert edge.call("GET", "/v2")[0] == 403
    assert edge.upstream.seen == []


@pytest.mark.envoy
def test_the_access_log_has_the_request_id_and_the_caller_but_no_query(
    edge: Edge,
) -> None:
    _, headers, _ = edge.call("GET", "/v2?token=hidden")
    log = edge.folder / "envoy.log"
    deadline = time.monotonic() + 10
    while headers["x-request-id"] not in log.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    (line,) = (x for x in log.read_text().splitlines() if headers["x-request-id"] in x)
    entry = json.loads(line)
    assert (entry["peer"], entry["path"], entry["status"]) == (CAMERA, "/v2", 200)
    assert "hidden" not in log.read_text()


@pytest.mark.envoy
def test_over_mtls_the_right_authz_server_is_asked(tmp_path: Path) -> None:
    with edge_at(tmp_path, "edge-mtls", demo_parts.AUTHZ) as edge:
        edge.authority.answer = deny(Reason.NOT_GRANTED)
        status, headers, _ = edge.call("GET", "/v2")
    assert (status, headers["x-authz-reason"]) == (403, "not_granted")


@pytest.mark.envoy
def test_over_mtls_another_workload_cannot_pose_as_authz_server(tmp_path: Path) -> None:
    with edge_at(tmp_path, "edge-mtls", CAMERA) as edge:
        assert edge.call("GET", "/v2")[0] == 403
        assert edge.authority.questions == []
