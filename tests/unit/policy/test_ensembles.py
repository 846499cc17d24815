"""What a grant on an ensemble means: the one model that a call names, and no other."""

from collections.abc import Iterator

import pytest
from checks import (
    MODEL_INFER,
    check_request,
    grpc_check_request,
    is_allowed,
    len_field,
    reason_of,
)
from parts import MemorySink, example_config, loaded_policies

from authz_server.assembly import build_pipeline
from authz_server.config import Policy
from authz_server.errors import Reason
from authz_server.identity.sources import IdentitySources
from authz_server.pipeline import Pipeline

# Triton runs `cut` and `judge` for `line`. The policy knows nothing of that.
POLICY = """
apiVersion: authz.edge/v1
kind: AccessPolicy
metadata: {name: test}
spec:
  trustDomain: factory.example
  upstreams: {triton: {kind: triton}}
  groups: {cameras: {spiffe: ["spiffe://factory.example/ns/line1/sa/camera"]}}
  roles: {inspector: [{actions: [inference, metadata], models: [line]}]}
  grants: [{role: inspector, to: [cameras], on: [triton]}]
"""


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipeline]:
    file = tmp_path_factory.mktemp("e") / "access.yaml"
    file.write_text(POLICY)
    config = example_config(policy=Policy(file=str(file)))
    with loaded_policies(config) as policies:
        yield build_pipeline(config, policies, MemorySink(), IdentitySources())


def asks_for(model: str) -> list[bytes]:
    message = len_field(1, model.encode())
    return [
        bytes(check_request(path=f"/v2/models/{model}/infer")),
        bytes(check_request(path=f"/v2/models/{model}", method="GET")),
        bytes(grpc_check_request(MODEL_INFER, message)),
    ]


def test_a_grant_on_an_ensemble_lets_it_be_used(pipeline: Pipeline) -> None:
    assert all(is_allowed(pipeline.check(raw)) for raw in asks_for("line"))


@pytest.mark.parametrize("member", ["cut", "judge"])
def test_it_gives_nothing_on_its_members_called_directly(
    pipeline: Pipeline, member: str
) -> None:
    reasons = {reason_of(pipeline.check(raw)) for raw in asks_for(member)}
    assert reasons == {Reason.NOT_GRANTED}
