"""What a site says of SPIRE and of how nodes are attested."""

from __future__ import annotations

from pathlib import Path

import pytest

from authz_server.policy.document import load_policy
from authz_server.policy.nodes import PolicyDocumentError
from authz_server.site.document import parse_site
from authz_server.site.model import Site, Spire

POLICY = load_policy(Path(__file__).parents[3] / "examples" / "plant-7.yaml")
HEAD = "apiVersion: authz.edge/v1\nkind: Site\nmetadata: {name: s}\nspec:\n"


def read(spec: str) -> Site:
    return parse_site(HEAD + f"  {spec}\n", "site.yaml", POLICY)


def test_agents_and_clouds_are_read() -> None:
    site = read(
        "{spire: {agentNamespace: agents, agentServiceAccount: agent, azureTenant: "
        "factory.onmicrosoft.com, gcpProjects: [factory-edge, 'old.example:edge-7']}}"
    )

    assert site.spire == Spire(
        agent_namespace="agents",
        agent_account="agent",
        azure_tenant="factory.onmicrosoft.com",
        gcp_projects=("factory-edge", "old.example:edge-7"),
    )


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        ("{spire: {azureTenant: here}}", "'here' is no azureTenant"),
        ("{spire: {gcpProjects: [Edge]}}", "'Edge' is no ID of a project"),
        ("{spire: {agentNamespace: A}}", "agentNamespace 'A' is not a name"),
        (
            "{boxes: {b: {attestor: x509pop, nodeSelectors: ['tpm_devid:a:b']}}}",
            "x509pop attests no node with 'tpm_devid:a:b'; write x509pop:KEY:VALUE",
        ),
    ],
)
def test_a_problem_is_named_with_its_place_and_mend(spec: str, problem: str) -> None:
    with pytest.raises(PolicyDocumentError) as caught:
        read(spec)

    assert "site.yaml:5:" in str(caught.value)
    assert problem in str(caught.value)
