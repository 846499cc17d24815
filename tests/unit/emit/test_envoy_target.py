"""The target ``envoy``: which files it writes, and what they say."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import betterproto2
import pytest
import yaml
from emitted_box import box_site
from envoy_data_plane.envoy.config.bootstrap.v3 import Bootstrap
from parts import EXAMPLE

from authz_server.config import Config, load_config
from authz_server.demo.envoy import read_configuration
from authz_server.emit.box import METRICS_PORT, serving_boxes
from authz_server.emit.envoy import emit_envoy
from authz_server.emit.envoy_bootstrap import build_bootstrap
from authz_server.emit.envoy_yaml import settings
from authz_server.errors import PolicyError
from authz_server.identity.spiffe_id import TrustDomain
from authz_server.operations import s3
from authz_server.policy.document import load_policy
from authz_server.policy.model import (
    AccessPolicy,
    Condition,
    Grant,
    Role,
    Upstream,
    UpstreamKind,
)
from authz_server.site.model import Attestor, Box, Ports, Site, Spire

Yaml = Any


def file_of(policy: AccessPolicy, site: Site, name: str) -> str:
    [text] = [
        item.text for item in emit_envoy(policy, site) if item.name == f"press-3/{name}"
    ]
    return text


def envoy_of(policy: AccessPolicy, site: Site) -> Yaml:
    [serving] = serving_boxes(policy, site)
    return settings(build_bootstrap(policy, serving, site.ports))


def words_of(text: str) -> str:
    """Return the leading comment as running text."""
    lines = (line for line in text.splitlines() if line.startswith("#"))
    return " ".join(line.removeprefix("#").strip() for line in lines)


def chain_of(configuration: Yaml) -> Yaml:
    [listener] = configuration["static_resources"]["listeners"]
    [chain] = listener["filter_chains"]
    return chain


def manager_of(configuration: Yaml) -> Yaml:
    return chain_of(configuration)["filters"][0]["typed_config"]


def tls_of(configuration: Yaml) -> Yaml:
    return chain_of(configuration)["transport_socket"]["typed_config"][
        "common_tls_context"
    ]


def hosts_of(configuration: Yaml) -> dict[str, Yaml]:
    hosts = manager_of(configuration)["route_config"]["virtual_hosts"]
    return {host["name"]: host for host in hosts}


def clusters_of(configuration: Yaml) -> dict[str, Yaml]:
    return {
        item["name"]: item["load_assignment"]["endpoints"][0]["lb_endpoints"][0][
            "endpoint"
        ]["address"]
        for item in configuration["static_resources"]["clusters"]
    }


@pytest.fixture
def shared(policy: AccessPolicy) -> AccessPolicy:
    """The policy with an upstream of each kind."""
    chat = Upstream(
        "chat", UpstreamKind.OPENAI, "", {}, "", ("chat.factory.example",), {}
    )
    return replace(policy, upstreams={**policy.upstreams, "chat": chat})


def test_the_file_holds_what_the_messages_say(policy: AccessPolicy) -> None:
    site = box_site("triton")
    written = yaml.safe_load(file_of(policy, site, "envoy.yaml"))
    assert written == envoy_of(policy, site)


# The same as by hand.


def meaning(configuration: Yaml) -> Yaml:
    """Return a configuration as its typed messages spell it."""
    return Bootstrap.from_dict(configuration).to_dict(casing=betterproto2.Casing.SNAKE)


def differences(one: Yaml, other: Yaml, at: str = "") -> Iterator[str]:
    if isinstance(one, dict) and isinstance(other, dict):
        for key in sorted({*one, *other}):
            yield from differences(one.get(key), other.get(key), f"{at}.{key}")
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for left, right in zip(one, other, strict=True):
            yield from differences(left, right, f"{at}[]")
    elif one != other:
        yield f"{at.rpartition('.')[2]}: {one} {other}"


def test_for_one_triton_it_says_what_the_configuration_by_hand_says() -> None:
    by_hand = meaning(read_configuration("edge-unix-socket"))
    emitted = meaning(envoy_of(load_policy(EXAMPLE), box_site("triton")))
    assert list(differences(by_hand, emitted)) == [
        # Names that nothing refers to.
        "id: triton-edge press-3",
        "name: triton upstreams",
    ]


def test_a_comparison_that_finds_nothing_would_have_found_something() -> None:
    by_hand = read_configuration("edge-unix-socket")
    weaker = read_configuration("edge-unix-socket")
    manager = manager_of(weaker)
    manager["http_filters"][0]["typed_config"]["failure_mode_allow"] = True
    del manager["route_config"]["virtual_hosts"][0]["routes"][2]
    found = list(differences(meaning(by_hand), meaning(weaker)))
    assert "failure_mode_allow: None True" in found
    assert len(found) == 2


def test_what_a_reader_looks_for_is_written_though_it_is_the_default(
    policy: AccessPolicy,
) -> None:
    manager = manager_of(envoy_of(policy, box_site("triton")))
    check, gate, _ = (item["typed_config"] for item in manager["http_filters"])
    assert check["failure_mode_allow"] is False
    assert gate["failure_mode_allow"] is False
    assert manager["forward_client_cert_details"] == "SANITIZE"
    assert manager["preserve_external_request_id"] is False


# Where certificates come from.


@pytest.mark.parametrize(
    "foreign", [(), ("supplier.example",), ("a.example", "supplier.example")]
)
def test_each_trust_domain_has_a_bundle_of_its_own(
    policy: AccessPolicy, foreign: tuple[str, ...]
) -> None:
    policy = replace(policy, federates_with=tuple(map(TrustDomain, foreign)))
    site = box_site("triton")
    context = tls_of(envoy_of(policy, site))["validation_context"]
    assert "trusted_ca" not in context
    validator = context["custom_validator_config"]
    assert validator["name"] == "envoy.tls.cert_validator.spiffe"
    bundles = {
        item["name"]: item["trust_bundle"]["filename"]
        for item in validator["typed_config"]["trust_domains"]
    }
    assert bundles == {
        name: f"/etc/authz-server/tls/{name}.pem"
        for name in ("factory.example", *foreign)
    }
    config = yaml.safe_load(file_of(policy, site, "config.yaml"))
    assert config["identity"] == {"bundles": bundles}


def test_with_spire_the_agent_hands_out_certificate_and_bundles(
    policy: AccessPolicy,
) -> None:
    site = replace(
        box_site("triton", uses_spire=True), spire=Spire(agent_socket="/run/a.sock")
    )
    configuration = envoy_of(policy, site)
    tls = tls_of(configuration)
    assert "tls_certificates" not in tls
    assert "validation_context" not in tls
    [own] = tls["tls_certificate_sds_secret_configs"]
    assert own["name"] == "spiffe://factory.example/box/press-3/envoy"
    combined = tls["combined_validation_context"]
    bundles = combined["validation_context_sds_secret_config"]
    # Not ROOTCA, which is the own trust domain's alone.
    assert bundles["name"] == "ALL"
    assert [
        (item["san_type"], item["matcher"])
        for item in combined["default_validation_context"][
            "match_typed_subject_alt_names"
        ]
    ] == [
        # The slash ends the trust domain's name.
        ("URI", {"prefix": "spiffe://factory.example/"}),
        ("URI", {"prefix": "spiffe://supplier.example/"}),
    ]
    for secret in (own, bundles):
        [service] = secret["sds_config"]["api_config_source"]["grpc_services"]
        assert service["envoy_grpc"] == {"cluster_name": "spire_agent"}
    assert clusters_of(configuration)["spire_agent"] == {
        "pipe": {"path": "/run/a.sock"}
    }
    config = yaml.safe_load(file_of(policy, site, "config.yaml"))
    assert config["identity"] == {"workload_api": "unix:///run/a.sock"}


# What stands behind Envoy.


def test_upstreams_are_told_apart_by_their_hosts(shared: AccessPolicy) -> None:
    ports = Ports(1000, 1001, 1002, 1003, 1004, 1005)
    site = box_site("triton", "images", "chat", ports=ports)
    configuration = envoy_of(shared, site)
    assert {
        name: host["domains"] for name, host in hosts_of(configuration).items()
    } == {
        "chat": ["chat.factory.example"],
        "images": ["data.factory.example"],
        "triton": ["triton.factory.example"],
        "*": ["*"],
    }
    addresses = clusters_of(configuration)
    del addresses["authz_server"]
    assert addresses == {
        name: {"socket_address": {"address": "127.0.0.1", "port_value": port}}
        for name, port in (
            *(("chat_http", 1004), ("images_http", 1003)),
            *(("triton_grpc", 1001), ("triton_http", 1000)),
        )
    }
    [listener] = configuration["static_resources"]["listeners"]
    assert listener["address"] == {
        "socket_address": {"address": "0.0.0.0", "port_value": 1005}
    }
    words = words_of(file_of(shared, site, "envoy.yaml"))
    assert "images has data.factory.example;" in words
    assert "chat on 1004; images on 1003; triton on 1000, 1001, 1002." in words


def test_every_route_is_checked_and_names_its_upstream(shared: AccessPolicy) -> None:
    site = box_site("triton", "images", "chat", ports=Ports(openai=9001))
    hosts = hosts_of(envoy_of(shared, site))
    [elsewhere] = hosts.pop("*")["routes"]
    assert elsewhere["match"] == {"prefix": "/"}
    assert elsewhere["direct_response"] == {"status": 404}
    check = elsewhere["typed_per_filter_config"]["envoy.filters.http.ext_authz"]
    assert check["check_settings"] == {"disable_request_body_buffering": True}
    for name, host in hosts.items():
        for route in host["routes"]:
            filters = route["typed_per_filter_config"]
            check = filters["envoy.filters.http.ext_authz"]
            assert "disabled" not in check
            extensions = dict(check["check_settings"]["context_extensions"])
            gate = filters["envoy.filters.http.ext_proc"]
            is_gated = extensions.pop("gate", None) == "ext_proc"
            assert is_gated is not gate.get("disabled", False)
            assert extensions == {"upstream": name}
        # Nothing falls through.
        assert host["routes"][-1]["match"] == {"prefix": "/"}


def routes(configuration: Yaml, name: str) -> list[tuple[str, bool, bool]]:
    """Return path, whether the body is in the check, and whether there is the gate."""
    found = []
    for route in hosts_of(configuration)[name]["routes"]:
        filters = route["typed_per_filter_config"]
        check = filters["envoy.filters.http.ext_authz"]["check_settings"]
        [path] = route["match"].values()
        found.append(
            (
                path,
                not check.get("disable_request_body_buffering", False),
                "gate" in check["context_extensions"],
            )
        )
    return found


def test_what_a_call_is_judged_by_depends_on_the_kind(shared: AccessPolicy) -> None:
    site = box_site("images", "chat", ports=Ports(openai=9001))
    configuration = envoy_of(shared, site)
    assert routes(configuration, "images") == [("/", False, False)]
    assert routes(configuration, "chat") == [
        ("/v1/models", True, True),
        ("/metrics", True, True),
        ("/", True, False),
    ]


def test_tritons_metrics_have_a_route_once_somebody_may_read_them(
    policy: AccessPolicy,
) -> None:
    site = box_site("triton", ports=Ports(triton_metrics=1234))
    scrape = Grant("scraper", ("cameras",), ("triton",))
    reading = replace(policy, grants=(*policy.grants, scrape))
    elsewhere = Role(
        "scraper",
        (replace(policy.roles["scraper"].permissions[0], upstreams=("images",)),),
    )
    for changed, is_there in (
        (policy, False),
        (reading, True),
        (replace(reading, roles={**policy.roles, "scraper": elsewhere}), False),
    ):
        configuration = envoy_of(changed, site)
        assert (("/metrics", True, True) in routes(configuration, "triton")) is is_there
        assert ("triton_metrics" in clusters_of(configuration)) is is_there
    address = clusters_of(envoy_of(reading, site))["triton_metrics"]
    assert address["socket_address"]["port_value"] == 1234


def test_every_header_that_changes_what_a_store_does_is_asked_about(
    shared: AccessPolicy,
) -> None:
    site = box_site("images")
    check = manager_of(envoy_of(shared, site))["http_filters"][0]["typed_config"]
    patterns = check["allowed_headers"]["patterns"]
    for name in s3.SIGNALS:
        assert any(
            name == item.get("exact") or name.startswith(item.get("prefix", "\0"))
            for item in patterns
        )


# The server.


@pytest.mark.parametrize("uses_spire", [True, False])
def test_the_servers_configuration_loads(
    policy: AccessPolicy, uses_spire: bool, tmp_path: Path
) -> None:
    text = file_of(policy, box_site("triton", uses_spire=uses_spire), "config.yaml")
    (tmp_path / "config.yaml").write_text(text)
    config: Config = load_config(tmp_path / "config.yaml", {}, {})
    assert config.listen.address == "unix:///run/authz-server/check.sock"
    assert config.listen.socket_mode == "0660"
    assert config.identity.chain == "bundle"
    assert config.identity.require_certificate
    assert not config.inputs.trust_host
    # What the check sends fits, and an answer comes before Envoy stops waiting.
    check = manager_of(envoy_of(policy, box_site("triton")))["http_filters"][0]
    limit = check["typed_config"]["with_request_body"]["max_request_bytes"]
    assert config.limits.max_message_bytes > limit
    timeout = check["typed_config"]["grpc_service"]["timeout"]
    assert config.limits.deadline_s < float(timeout.removesuffix("s"))


# What is said, and what is refused.


def test_the_comment_says_what_must_be_there(policy: AccessPolicy) -> None:
    spire, files = (
        words_of(file_of(policy, box_site("triton", uses_spire=item), "envoy.yaml"))
        for item in (True, False)
    )
    assert "/etc/authz-server/tls/server.crt" in files
    assert "SPIRE" not in files
    assert "spiffe://factory.example/box/press-3/envoy" in spire
    assert "disable_spiffe_cert_validation must be off" in spire
    for words in (spire, files):
        assert "triton on 8000, 8001, 8002." in words
        assert "Envoy 1.40.0" in words
        assert "Host header" not in words


def test_grants_to_users_are_said_to_hold_nothing_yet(policy: AccessPolicy) -> None:
    of_users = Condition(users=("users",))
    conditional = replace(
        policy, grants=(Grant("inspector", ("cameras",), ("triton",), of_users),)
    )
    for changed, serves, is_said in (
        (policy, "triton", False),
        (policy, "images", True),
        (conditional, "triton", True),
    ):
        for name in ("envoy.yaml", "config.yaml"):
            words = words_of(file_of(changed, box_site(serves), name))
            assert ("Grants to users hold nothing yet" in words) is is_said


def test_each_box_that_serves_something_has_a_folder(policy: AccessPolicy) -> None:
    boxes = tuple(
        Box(name, Attestor.JOIN_TOKEN, serves=serves, uses_spire=False)
        for name, serves in (("z", ("triton",)), ("a", ("images",)), ("gate", ()))
    )
    names = [item.name for item in emit_envoy(policy, Site(boxes=boxes))]
    files = (
        *("envoy.yaml", "config.yaml"),
        *("systemd/authz-server.service", "systemd/envoy.service"),
        *("sysusers.d/authz-server.conf", "tmpfiles.d/authz-server.conf"),
    )
    assert names == [f"{box}/{file}" for box in ("a", "z") for file in files]


def test_the_order_of_what_is_named_changes_no_byte(shared: AccessPolicy) -> None:
    ports = Ports(openai=9001)
    one = emit_envoy(shared, box_site("triton", "images", "chat", ports=ports))
    turned = replace(shared, upstreams=dict(reversed(shared.upstreams.items())))
    other = emit_envoy(turned, box_site("chat", "images", "triton", ports=ports))
    assert one == other


def refusal(policy: AccessPolicy, site: Site) -> str:
    with pytest.raises(PolicyError) as refused:
        emit_envoy(policy, site)
    return str(refused.value)


def test_a_site_without_a_box_that_serves_is_refused(policy: AccessPolicy) -> None:
    for site in (Site(), box_site()):
        assert refusal(policy, site) == (
            "spec.boxes: no box of the site serves an upstream; add one with 'serves', "
            "or emit for another target"
        )


def test_spire_that_the_site_does_not_have_is_refused(policy: AccessPolicy) -> None:
    site = replace(box_site("triton", uses_spire=True), spire=None)
    assert refusal(policy, site) == (
        "spec.boxes.press-3: its certificates come from SPIRE, which the site does not "
        "have; add spec.spire, or write certificates: files"
    )


@pytest.mark.parametrize(
    ("hosts", "said"),
    [
        ((), "spec.upstreams.images: hosts are missing; box press-3 serves more than"),
        (
            ("a.example", "triton.factory.example"),
            "spec.upstreams.triton: host triton.factory.example is also one of images",
        ),
    ],
)
def test_upstreams_that_no_host_tells_apart_are_refused(
    policy: AccessPolicy, hosts: tuple[str, ...], said: str
) -> None:
    images = replace(policy.upstreams["images"], hosts=hosts)
    changed = replace(policy, upstreams={**policy.upstreams, "images": images})
    assert refusal(changed, box_site("triton", "images")).startswith(said)
    assert emit_envoy(changed, box_site("images"))


@pytest.mark.parametrize(
    ("ports", "said"),
    [
        (Ports(), "images and chat would both listen on port 9000"),
        (Ports(openai=8443), "chat and Envoy would both listen on port 8443"),
        (Ports(openai=METRICS_PORT), "chat has port 9192, where authz-server tells"),
    ],
)
def test_two_that_would_listen_on_one_port_are_refused(
    shared: AccessPolicy, ports: Ports, said: str
) -> None:
    assert said in refusal(shared, box_site("images", "chat", ports=ports))
