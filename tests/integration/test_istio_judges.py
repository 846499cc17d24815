"""What Istio itself makes of the emitted objects: istioctl, and istiod's generators."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import kube_objects
import pytest
import yaml
from emitted_istio import (
    AUTHZ,
    MESH,
    PORTS,
    PROVIDER,
    STREAM,
    TRITON,
    applied,
    around,
    emitted,
    one,
)
from istio_sidecar import (
    EXT_AUTHZ,
    EXT_PROC,
    MANAGER,
    RBAC,
    ROUTER,
    chains,
    cluster_named,
    http_filters,
    manager,
    routes,
)
from judges import Object, istioctl_validate, istiod_config

pytestmark = pytest.mark.go


def mesh_file(folder: Path, change: Callable[[Object], None]) -> Path:
    mesh = yaml.safe_load(MESH.read_text("utf-8"))
    change(mesh)
    path = folder / "mesh.yaml"
    path.write_text(yaml.safe_dump(mesh), "utf-8")
    return path


# istioctl


def test_istioctl_accepts_every_applied_object() -> None:
    problems = istioctl_validate(*applied())
    # What it says of every EnvoyFilter, and nothing of these.
    standing = "EnvoyFilter exposes internal implementation details"
    assert [problem for problem in problems if standing not in problem] == []


def changed(name: str, **spec: object) -> Object:
    policy = copy.deepcopy(one(emitted(), "AuthorizationPolicy", name))
    policy["spec"].update(spec)
    return policy


CAMERA = "factory.example/ns/line1/sa/camera"


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (
            {"rules": [{"from": [{"source": {"principals": [CAMERA]}}]}]},
            "From.Principals is currently not supported with CUSTOM action",
        ),
        (
            {"rules": [{"when": [{"key": "source.principal", "values": [CAMERA]}]}]},
            "source.principal is currently not supported with CUSTOM action",
        ),
        ({"provider": {}}, "`provider.name` must not be empty"),
        ({"rules": []}, "it will never be triggered"),
        ({"action": "PERMIT"}, 'unknown value "\\"PERMIT\\"" for enum'),
        ({"ruels": []}, 'unknown field "ruels"'),
    ],
    ids=["principals", "when", "no provider", "no rules", "enum", "field"],
)
def test_istioctl_rejects_what_custom_cannot_be(
    spec: dict[str, object], words: str
) -> None:
    problems = istioctl_validate(changed("triton-authz-server", **spec))
    assert len(problems) >= 1
    assert any(words in problem for problem in problems), problems


def test_istioctl_accepts_a_principal_that_never_matches() -> None:
    rule = {"from": [{"source": {"principals": [f"spiffe://{CAMERA}"]}}]}
    assert istioctl_validate(changed("triton-callers", rules=[rule])) == []


# istiod


@pytest.fixture(scope="module")
def triton() -> dict[str, list[Object]]:
    return istiod_config([*around(), *applied()], MESH, TRITON)


@pytest.mark.parametrize("port", PORTS.values())
def test_each_port_asks_the_server_and_shows_the_peers_certificate(
    triton: dict[str, list[Object]], port: int
) -> None:
    (check,) = http_filters(triton, port, EXT_AUTHZ)

    assert check["grpc_service"]["envoy_grpc"]["cluster_name"] == PROVIDER
    assert check["grpc_service"]["timeout"] == "0.500s"
    assert check["include_peer_certificate"] is True
    assert check.get("failure_mode_allow", False) is False
    assert check["with_request_body"].get("allow_partial_message", False) is False


@pytest.mark.parametrize("port", PORTS.values())
def test_the_check_comes_before_the_mirror_and_nothing_passes_by(
    triton: dict[str, list[Object]], port: int
) -> None:
    names = [item["name"] for item in manager(triton, port)["http_filters"]]
    marker, mirror = http_filters(triton, port, RBAC)

    order = [name for name in names if name in {RBAC, EXT_AUTHZ, ROUTER}]
    assert order == [RBAC, EXT_AUTHZ, RBAC, ROUTER]
    # All calls are marked for the check.
    (policy,) = marker["shadow_rules"]["policies"].values()
    assert policy["permissions"] == [{"and_rules": {"rules": [{"any": True}]}}]
    assert policy["principals"] == [{"and_ids": {"ids": [{"any": True}]}}]
    assert "action" not in mirror["rules"], "ALLOW, as it is the default"
    assert CAMERA in str(mirror["rules"]["policies"])


@pytest.mark.parametrize("port", PORTS.values())
def test_only_mtls_of_the_own_trust_domain_gets_in(
    triton: dict[str, list[Object]], port: int
) -> None:
    (chain,) = chains(triton, port)
    tls = chain["transport_socket"]["typed_config"]
    context = tls["common_tls_context"]["combined_validation_context"]

    assert chain["filter_chain_match"]["transport_protocol"] == "tls"
    assert "application_protocols" not in chain["filter_chain_match"]
    assert tls["require_client_certificate"] is True
    assert context["default_validation_context"]["match_subject_alt_names"] == [
        {"prefix": "spiffe://factory.example/"}
    ]


def test_a_stream_is_not_held_back_and_a_unary_call_is(
    triton: dict[str, list[Object]],
) -> None:
    found = routes(triton, 8001)
    settings = found["authz-server-stream"]["typed_per_filter_config"]

    assert found["authz-server-stream"]["match"] == {"path": STREAM}
    assert settings[EXT_AUTHZ]["check_settings"] == {
        "context_extensions": {"gate": "ext_proc"},
        "disable_request_body_buffering": True,
    }
    assert settings[EXT_PROC]["overrides"]["processing_mode"]["request_body_mode"] == (
        "STREAMED"
    )
    assert list(found)[-1] == "default"
    assert "typed_per_filter_config" not in routes(triton, 8001)["default"]


@pytest.mark.parametrize("port", [8000, 8001])
def test_the_gate_stands_before_the_router_and_behind_every_other_check(
    triton: dict[str, list[Object]], port: int
) -> None:
    names = [item["name"] for item in manager(triton, port)["http_filters"]]
    (gate,) = http_filters(triton, port, EXT_PROC)
    before = names.index(EXT_PROC)

    assert names[before + 1] == ROUTER
    assert {EXT_AUTHZ, RBAC} <= set(names[:before])
    (item,) = (
        one for one in manager(triton, port)["http_filters"] if one["name"] == EXT_PROC
    )
    assert item["disabled"] is True
    proxy = gate["grpc_service"]["envoy_grpc"]
    assert proxy["cluster_name"] == PROVIDER
    # What istiod itself names the server by.
    (check,) = http_filters(triton, port, EXT_AUTHZ)
    assert proxy["authority"] == check["grpc_service"]["envoy_grpc"]["authority"]


def test_the_server_is_asked_by_http2_and_mtls_as_itself(
    triton: dict[str, list[Object]],
) -> None:
    cluster = cluster_named(triton, PROVIDER)
    (options,) = cluster["typed_extension_protocol_options"].values()
    (mtls,) = (
        item["transport_socket"]["typed_config"]
        for item in cluster["transport_socket_matches"]
        if item["match"] == {"tlsMode": "istio"}
    )
    context = mtls["common_tls_context"]["combined_validation_context"]

    assert "http2_protocol_options" in options["explicit_http_config"]
    assert context["default_validation_context"]["match_subject_alt_names"] == [
        {"exact": "spiffe://factory.example/ns/authz-system/sa/authz-server"}
    ]


def test_the_servers_own_sidecar_lets_in_proxies_and_hands_over_on_loopback() -> None:
    config = istiod_config([*around(), *applied()], MESH, AUTHZ)
    (rules,) = http_filters(config, 9191, RBAC)
    (endpoints,) = cluster_named(config, "inbound|9191||")["load_assignment"][
        "endpoints"
    ]

    assert http_filters(config, 9191, EXT_AUTHZ) == []
    assert "spiffe://factory.example/ns/inference/sa/triton" in str(rules)
    assert CAMERA not in str(rules)
    assert [item["endpoint"]["address"] for item in endpoints["lb_endpoints"]] == [
        {"socket_address": {"address": "127.0.0.1", "port_value": 9191}}
    ]


def test_the_store_of_datasets_asks_as_well() -> None:
    key = "data/minio-0"
    store = kube_objects.cluster({key: {"app": "minio"}}, accounts={key: "minio"})
    ports = {"http-s3": 9000}
    store.append(
        kube_objects.service("data/minio", {"app": "minio"}, ports, "10.96.0.3")
    )
    for item in store:
        if item["kind"] == "Pod":
            item["status"]["podIP"] = "10.64.1.1"

    config = istiod_config([*around(), *store, *applied()], MESH, key)

    (check,) = http_filters(config, 9000, EXT_AUTHZ)
    assert check["grpc_service"]["envoy_grpc"]["cluster_name"] == PROVIDER
    assert check["include_peer_certificate"] is True
    assert "with_request_body" not in check


# Mutated policies: what istiod does then. It warns of nothing.


def test_without_strict_mtls_plain_text_reaches_the_check() -> None:
    objects = [item for item in emitted() if item["kind"] != "PeerAuthentication"]

    config = istiod_config([*around(), *objects], MESH, TRITON)

    kinds = {
        chain["filter_chain_match"]["transport_protocol"]
        for chain in chains(config, 8001)
    }
    assert kinds == {"tls", "raw_buffer"}


def test_an_unknown_provider_denies_everything() -> None:
    objects = emitted()
    policy = one(objects, "AuthorizationPolicy", "triton-authz-server")
    policy["spec"]["provider"]["name"] = "authz-sever"

    config = istiod_config([*around(), *objects], MESH, TRITON)

    for port in PORTS.values():
        assert http_filters(config, port, EXT_AUTHZ) == []
        rules = http_filters(config, port, RBAC)[0]["rules"]
        assert rules["action"] == "DENY"
        assert any(
            "deny-due-to-bad-CUSTOM-action" in name for name in rules["policies"]
        )


def test_a_provider_whose_service_is_nowhere_denies_everything() -> None:
    without = [
        item
        for item in around()
        if (item["kind"], item["metadata"]["name"]) != ("Service", "authz-server")
    ]
    config = istiod_config([*without, *applied()], MESH, TRITON)

    assert http_filters(config, 8001, EXT_AUTHZ) == []
    assert "deny-due-to-bad-CUSTOM-action" in str(http_filters(config, 8001, RBAC))


def test_a_selector_that_matches_nothing_protects_nothing() -> None:
    objects = emitted()
    policy = one(objects, "AuthorizationPolicy", "triton-authz-server")
    policy["spec"]["selector"]["matchLabels"] = {"app": "tritonn"}

    config = istiod_config([*around(), *objects], MESH, TRITON)

    for port in PORTS.values():
        assert http_filters(config, port, EXT_AUTHZ) == []
        (mirror,) = http_filters(config, port, RBAC)
        assert "action" not in mirror["rules"], "only ALLOW is left"


def test_a_port_without_protocol_leaves_plain_spiffe_clients_without_the_check() -> (
    None
):
    ports = {**PORTS, "triton": PORTS["grpc-triton"]}
    del ports["grpc-triton"]

    config = istiod_config([*around(ports), *applied()], MESH, TRITON)

    without_alpn = [
        chain
        for chain in chains(config, 8001)
        if "application_protocols" not in chain["filter_chain_match"]
    ]
    assert len(without_alpn) > 0
    assert not any(
        item["name"] == MANAGER for chain in without_alpn for item in chain["filters"]
    )


def test_the_servers_port_without_grpc_in_its_name_is_not_asked_by_http2() -> None:
    objects = around()
    own = one(objects, "Service", "authz-server")
    own["spec"]["ports"] = [{"name": "authz", "port": 9191}]

    config = istiod_config([*objects, *applied()], MESH, TRITON)

    (options,) = cluster_named(config, PROVIDER)[
        "typed_extension_protocol_options"
    ].values()
    assert "explicit_http_config" not in options
    assert "use_downstream_protocol_config" in options


def provider(mesh: Object) -> Object:
    settings: Object = mesh["extensionProviders"][0]["envoyExtAuthzGrpc"]
    return settings


def test_istiod_opens_on_failure_if_told_and_ignores_what_is_misspelt(
    tmp_path: Path,
) -> None:
    def check(change: Callable[[Object], None]) -> Object:
        mesh = mesh_file(tmp_path, change)
        config = istiod_config([*around(), *applied()], mesh, TRITON)
        found: Object
        (found,) = http_filters(config, 8001, EXT_AUTHZ)
        return found

    opened = check(lambda mesh: provider(mesh).update(failOpen=True))
    misspelt = check(lambda mesh: provider(mesh).update(failOpenn=True))
    patient = check(lambda mesh: provider(mesh).pop("timeout"))

    assert opened["failure_mode_allow"] is True
    assert "failure_mode_allow" not in misspelt
    assert patient["grpc_service"]["timeout"] == "600s"


def test_a_mesh_of_another_trust_domain_keeps_the_callers_out(tmp_path: Path) -> None:
    mesh = mesh_file(tmp_path, lambda mesh: mesh.update(trustDomain="plant.example"))

    config = istiod_config([*around(), *applied()], mesh, TRITON)

    (chain,) = chains(config, 8001)
    assert {"prefix": "spiffe://plant.example/"} in chain["transport_socket"][
        "typed_config"
    ]["common_tls_context"]["combined_validation_context"][
        "default_validation_context"
    ]["match_subject_alt_names"]
    assert f"spiffe://{CAMERA}" in str(http_filters(config, 8001, RBAC)[1])


def test_an_alias_widens_every_principal_of_the_mirror(tmp_path: Path) -> None:
    mesh = mesh_file(
        tmp_path, lambda mesh: mesh.update(trustDomainAliases=["supplier.example"])
    )

    config = istiod_config([*around(), *applied()], mesh, TRITON)

    mirror = str(http_filters(config, 8001, RBAC)[1])
    assert "spiffe://supplier.example/ns/line1/sa/camera" in mirror
