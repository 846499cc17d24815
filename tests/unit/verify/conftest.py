"""The example plant, and all that is emitted for it."""

from __future__ import annotations

from pathlib import Path

import pytest
from verification import emitted, found_in

from authz_server.policy.document import load_policy
from authz_server.policy.model import AccessPolicy
from authz_server.site.document import load_site
from authz_server.site.model import Site
from authz_server.verify.difference import Layer
from authz_server.verify.objects import Found

EXAMPLES = Path(__file__).parents[3] / "examples"


@pytest.fixture(scope="session")
def plant() -> tuple[AccessPolicy, Site]:
    policy = load_policy(EXAMPLES / "plant-7.yaml")
    return policy, load_site(EXAMPLES / "plant-7-site.yaml", policy)


@pytest.fixture(scope="session")
def found(plant: tuple[AccessPolicy, Site]) -> dict[Layer, Found]:
    return {layer: found_in(manifests) for layer, manifests in emitted(*plant).items()}
