"""How agents on boxes, and the server, are to attest nodes and processes."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from authz_server.emit.spire_agents import agent_file, server_file
from authz_server.errors import PolicyError
from authz_server.identity.spiffe_id import SpiffeId, TrustDomain
from authz_server.policy.model import AccessPolicy
from authz_server.site.model import Attestor, Box, BoxWorkload, Pods, Spire

SPIRE = Spire(
    address="spire.factory.example:8081",
    azure_tenant="factory.onmicrosoft.com",
    gcp_projects=("factory-edge",),
)
CLOUDS = {
    Attestor.JOIN_TOKEN: "{}",
    Attestor.AWS_IID: "{}",
    Attestor.GCP_IIT: "{}",
    Attestor.AZURE_IMDS: '{ tenant_domain = "factory.onmicrosoft.com" }',
    Attestor.X509POP: (
        '{ private_key_path = "/etc/spire/node.key" '
        'certificate_path = "/etc/spire/node.crt" }'
    ),
    Attestor.TPM_DEVID: (
        '{ devid_cert_path = "/etc/spire/devid.crt" '
        'devid_priv_path = "/etc/spire/devid.priv" '
        'devid_pub_path = "/etc/spire/devid.pub" }'
    ),
}


def box(attestor: Attestor, *selectors: str, workload: str = "unix:uid:7") -> Box:
    spiffe_id = SpiffeId(TrustDomain("factory.example"), ("camera",))
    return Box(
        "gate", attestor, selectors, workloads=(BoxWorkload(spiffe_id, (workload,)),)
    )


def on_one_line(text: str) -> str:
    return " ".join(line.strip() for line in text.splitlines() if line[0] != "#")


def comment(text: str) -> str:
    return " ".join(
        line.removeprefix("# ") for line in text.splitlines() if line[0] == "#"
    )


def agent(policy: AccessPolicy, spire: Spire, one: Box) -> str:
    return on_one_line(agent_file(policy, spire, one).text)


def server(spire: Spire, *boxes: Box) -> str:
    manifest = server_file(spire, boxes)
    assert manifest is not None
    return on_one_line(manifest.text)


def test_an_agent_knows_its_server_and_its_socket(policy: AccessPolicy) -> None:
    manifest = agent_file(policy, SPIRE, box(Attestor.JOIN_TOKEN))

    assert manifest.name == "agents/gate.conf"
    assert on_one_line(manifest.text) == (
        'agent { trust_domain = "factory.example" '
        'server_address = "spire.factory.example" server_port = 8081 '
        'socket_path = "/run/spire/agent/api.sock" '
        'data_dir = "/var/lib/spire/agent" '
        'trust_bundle_path = "/etc/spire/bootstrap.pem" '
        'join_token_file = "/etc/spire/join-token" } '
        "plugins { "
        'KeyManager "disk" { plugin_data { directory = "/var/lib/spire/agent" } } '
        'NodeAttestor "join_token" { plugin_data {} } '
        'WorkloadAttestor "unix" { plugin_data {} } }'
    )
    said = comment(manifest.text)
    assert "/etc/spire/bootstrap.pem, /etc/spire/join-token; the agent may run" in said


def test_the_address_may_be_ipv6(policy: AccessPolicy) -> None:
    text = agent(policy, replace(SPIRE, address="[fd00::1]:81"), box(Attestor.AWS_IID))

    assert 'server_address = "fd00::1" server_port = 81 ' in text


@pytest.mark.parametrize("attestor", Attestor)
def test_each_kind_of_node_has_its_plugin(
    policy: AccessPolicy, attestor: Attestor
) -> None:
    text = agent(policy, SPIRE, box(attestor, f"{attestor}:a:b"))

    expected = f'NodeAttestor "{attestor}" {{ plugin_data {CLOUDS[attestor]} }}'
    assert expected in text
    assert ("join_token_file" in text) is (attestor is Attestor.JOIN_TOKEN)


@pytest.mark.parametrize("selector", ["unix:path:/opt/camera", "unix:sha256:ab"])
def test_programs_are_looked_at_where_a_workload_is_told_by_its_own(
    policy: AccessPolicy, selector: str
) -> None:
    manifest = agent_file(policy, SPIRE, box(Attestor.AWS_IID, workload=selector))

    assert (
        'WorkloadAttestor "unix" { plugin_data { discover_workload_path = true } }'
    ) in on_one_line(manifest.text)
    assert "has to run as root" in comment(manifest.text)


def test_containers_and_units_have_attestors_of_their_own(policy: AccessPolicy) -> None:
    text = agent(policy, SPIRE, box(Attestor.AWS_IID, workload="docker:label:a:b"))

    assert re.findall(r'WorkloadAttestor "(\w+)"', text) == ["docker", "unix"]


def test_selectors_that_nothing_on_a_box_finds_are_refused(
    policy: AccessPolicy,
) -> None:
    with pytest.raises(PolicyError, match=r"spec\.boxes\.gate\.workloads.* type 'k8s'"):
        agent(policy, SPIRE, box(Attestor.AWS_IID, workload="k8s:ns:line1"))


@pytest.mark.parametrize(
    ("attestor", "spire", "problem"),
    [
        (Attestor.AWS_IID, replace(SPIRE, address=""), "has no address"),
        (Attestor.AZURE_IMDS, replace(SPIRE, azure_tenant=""), "has no azureTenant"),
    ],
)
def test_an_agent_without_what_it_needs_is_refused(
    policy: AccessPolicy, attestor: Attestor, spire: Spire, problem: str
) -> None:
    with pytest.raises(PolicyError, match=problem):
        agent(policy, spire, box(attestor))


def test_a_cloud_project_must_be_known() -> None:
    with pytest.raises(PolicyError, match="has no gcpProjects"):
        server(replace(SPIRE, gcp_projects=()), box(Attestor.GCP_IIT))


@pytest.mark.parametrize(
    ("one", "plugin"),
    [
        (box(Attestor.JOIN_TOKEN), "{}"),
        (box(Attestor.AWS_IID, "aws_iid:tag:a:b"), "{}"),
        (
            box(Attestor.X509POP, "x509pop:a:b"),
            '{ ca_bundle_path = "/etc/spire/server/nodes-ca.pem" }',
        ),
        (
            box(Attestor.TPM_DEVID, "tpm_devid:a:b"),
            (
                '{ devid_ca_path = "/etc/spire/server/devid-ca.pem" '
                'endorsement_ca_path = "/etc/spire/server/endorsement-ca.pem" }'
            ),
        ),
        (
            box(Attestor.AZURE_IMDS, "azure_imds:vm-name:a"),
            '{ tenants = { "factory.onmicrosoft.com" = {} } }',
        ),
        (
            box(Attestor.AZURE_IMDS, "azure_imds:vm-tag:line:1"),
            (
                '{ tenants = { "factory.onmicrosoft.com" = '
                '{ allowed_vm_tags = ["line"] } } }'
            ),
        ),
        (
            box(Attestor.GCP_IIT, "gcp_iit:zone:a"),
            '{ projectid_allow_list = ["factory-edge"] }',
        ),
        (
            box(Attestor.GCP_IIT, "gcp_iit:tag:a"),
            '{ projectid_allow_list = ["factory-edge"] use_instance_metadata = true }',
        ),
        (
            box(Attestor.GCP_IIT, "gcp_iit:label:a:b", "gcp_iit:metadata:c:d"),
            (
                '{ projectid_allow_list = ["factory-edge"] '
                "use_instance_metadata = true "
                'allowed_label_keys = ["a"] allowed_metadata_keys = ["c"] }'
            ),
        ),
    ],
)
def test_the_server_attests_each_kind_of_node(one: Box, plugin: str) -> None:
    assert server(SPIRE, one) == (
        f'plugins {{ NodeAttestor "{one.attestor}" {{ plugin_data {plugin} }} }}'
    )


def test_a_server_in_the_cluster_attests_its_agents_by_their_account() -> None:
    spire = replace(
        SPIRE, cluster_name="c7", server=Pods("spire"), agent_namespace="agents"
    )

    assert server(spire) == (
        'plugins { NodeAttestor "k8s_psat" { plugin_data { clusters = { "c7" = { '
        'service_account_allow_list = ["agents:spire-agent"] } } } } }'
    )


def test_a_server_elsewhere_needs_the_way_to_the_cluster() -> None:
    text = server(replace(SPIRE, cluster_name="c7"))

    assert 'kube_config_file = "/etc/spire/server/c7.kubeconfig"' in text


def test_without_nodes_there_is_nothing_to_attest() -> None:
    assert server_file(SPIRE, ()) is None
