from __future__ import annotations

from pathlib import Path

from authz_server.controller.pods import Pod, findings
from authz_server.policy.document import load_policy, parse_policy

EXAMPLE = Path(__file__).parents[3] / "examples" / "plant-7.yaml"
POLICY = load_policy(EXAMPLE)


def pod(
    namespace: str,
    account: str,
    host_network: bool = False,  # noqa: FBT002
    **labels: str,
) -> Pod:
    return Pod(namespace, f"{account}-0", labels, account, host_network)


PODS = (
    pod("inference", "triton", app="triton", version="3"),
    pod("data", "minio", app="minio"),
    pod("line1", "camera", app="camera"),
    pod("line2", "vision", tier="vision"),
    pod("planning", "forecaster", app="forecaster"),
    pod("release", "deployer", app="deployer"),
)


def test_nothing_is_amiss_where_each_selector_has_its_pods() -> None:
    assert findings(POLICY, PODS) == ()


def test_a_selector_that_matches_no_pod_is_named() -> None:
    elsewhere = pod("line2", "camera", app="camera")

    (found,) = findings(
        POLICY, [item for item in PODS if item is not PODS[2]] + [elsewhere]
    )

    assert found == "group factory-floor: in namespace line1 no pod matches app=camera"


def test_a_pod_on_the_hosts_network_is_named() -> None:
    loose = pod("inference", "triton", True, app="triton")  # noqa: FBT003

    (found,) = findings(POLICY, (*PODS[1:], loose))

    assert "pod triton-0 is on the host's network" in found


def test_a_pod_that_the_policy_knows_to_be_there_is_not() -> None:
    text = EXAMPLE.read_text().replace(
        "serviceAccount: camera}", "serviceAccount: camera, hostNetwork: true}"
    )
    loose = pod("line1", "camera", True, app="camera")  # noqa: FBT003
    pods = [item for item in PODS if item is not PODS[2]]

    assert findings(parse_policy(text, "p.yaml"), [*pods, loose]) == ()


def test_a_pod_of_another_account_is_named() -> None:
    borrowed = Pod("line1", "x", {"app": "camera"}, "default", host_network=False)

    (found,) = findings(POLICY, (*PODS, borrowed))

    assert found.endswith("pod x runs as default, not as camera")


def test_what_matters_of_a_pod_is_read_with_kubernetes_own_defaults() -> None:
    bare = {"metadata": {"namespace": "n", "name": "p"}}

    assert Pod.of(bare) == Pod("n", "p", {}, "default", host_network=False)
