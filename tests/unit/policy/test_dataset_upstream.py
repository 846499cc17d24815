"""Upstreams of kind `dataset` in the access policy, from the file to the decision."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from checks import check_request, is_allowed, reason_of
from parts import MemorySink, example_config, loaded_policies

from authz_server.assembly import build_pipeline
from authz_server.config import Policy
from authz_server.errors import Reason
from authz_server.identity.sources import IdentitySources

POLICY = """
apiVersion: authz.edge/v1
kind: AccessPolicy
metadata: {name: test}
spec:
  trustDomain: factory.example
  upstreams:
    data:
      kind: dataset
      hosts: [data.example]
      datasets: {images: /images, labels: /labels, raw: /raw}
  groups: {cameras: {spiffe: ["spiffe://factory.example/ns/line1/sa/camera"]}}
  roles:
    writer: [{actions: [dataset-write], datasets: [images]}]
    reader: [{actions: [dataset-read], datasets: [labels]}]
  grants:
    - {role: writer, to: [cameras], on: [data]}
    - {role: reader, to: [cameras], on: [data]}
"""


@pytest.fixture
def sink() -> MemorySink:
    return MemorySink()


@pytest.fixture
def ask(tmp_path: Path, sink: MemorySink) -> Iterator[Any]:
    """Return what answers a PUT below a path, which copies from `source`."""
    file = tmp_path / "access.yaml"
    file.write_text(POLICY)
    config = example_config(policy=Policy(file=str(file)))
    with loaded_policies(config) as policies:
        pipeline = build_pipeline(config, policies, sink, IdentitySources())

        def put(path: str, source: str = "") -> bytes:
            request = check_request(
                method="PUT",
                path=path,
                host="data.example",
                headers={"x-amz-copy-source": source} if source else {},
                extensions={"upstream": "data"},
            )
            return pipeline.check(bytes(request))

        yield put


def test_a_copy_needs_a_grant_on_its_target_and_one_on_its_source(
    ask: Any, sink: MemorySink
) -> None:
    assert is_allowed(ask("/images/a"))
    assert is_allowed(ask("/images/a", "labels/a"))
    for target, source in (
        ("/images/a", "raw/a"),  # it may not read the source
        ("/images/a", "images/b"),  # nor read what it may write
        ("/labels/a", "labels/b"),  # nor write what it may read
    ):
        # Twice: what is remembered says the same.
        for _ in range(2):
            assert reason_of(ask(target, source)) == Reason.NOT_GRANTED
    # And a remembered copy opens no other one.
    assert is_allowed(ask("/images/a", "labels/a"))
    events = [json.loads(event) for event in sink.events]
    assert [event["also"] for event in events[:3]] == [
        "",
        "dataset-read labels",
        "dataset-read raw",
    ]
    assert {event["action"] for event in events} == {"dataset-write"}
    assert [event["dataset"] for event in events[-3:]] == ["labels", "labels", "images"]
