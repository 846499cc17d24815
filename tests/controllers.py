"""A controller in this process, on an API server that is none."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from api_stand_in import POLICIES, StandIn
from parts import eventually

from authz_server.cluster.client import connect
from authz_server.controller import election, running, watching
from authz_server.controller.reconciling import Reconciler
from authz_server.controller.running import Controller
from authz_server.site.model import Site

OWN = "authz-system"
LEASE = f"/apis/coordination.k8s.io/v1/namespaces/{OWN}/leases/authz-server-controller"
POLICY = f"{POLICIES.format(OWN)}/plant"
FENCES = "/apis/networking.k8s.io/v1/namespaces/{}/networkpolicies/{}"
CAMERAS = "/api/v1/namespaces/line1/pods/camera-0"


def access_policy(
    generation: int = 1, uid: str = "u1", *, upstreams: tuple[str, ...] = ("triton",)
) -> dict[str, Any]:
    """Return a small policy, as the API server keeps it."""
    return {
        "apiVersion": "authz.edge/v1",
        "kind": "AccessPolicy",
        "metadata": {
            "name": "plant",
            "namespace": OWN,
            "uid": uid,
            "generation": generation,
        },
        "spec": {
            "trustDomain": "factory.example",
            "upstreams": {
                name: {
                    "kind": "triton",
                    "namespace": "inference",
                    "podSelector": {"app": name},
                    "serviceAccount": "triton",
                    "hosts": [f"{name}.factory.example"],
                }
                for name in upstreams
            },
            "groups": {
                "floor": {
                    "spiffe": ["spiffe://factory.example/ns/line1/sa/camera"],
                    "workloads": [
                        {"namespace": "line1", "podSelector": {"app": "camera"}}
                    ],
                }
            },
            "roles": {"reader": [{"actions": ["inference"], "models": ["*"]}]},
            "grants": [{"role": "reader", "to": ["floor"], "on": [*upstreams]}],
        },
    }


def pod(
    name: str, namespace: str, account: str = "default", **labels: str
) -> dict[str, Any]:
    return {
        "metadata": {"name": name, "namespace": namespace, "labels": labels},
        "spec": {"serviceAccountName": account},
    }


@dataclass
class Running:
    """A controller in a thread.

    Attributes:
        error: what it ended with.
    """

    controller: Controller
    stand_in: StandIn
    error: list[BaseException] = field(default_factory=list)

    def run(self) -> None:
        try:
            self.controller.run()
        except Exception as error:  # noqa: BLE001 - asserted by tests
            self.error.append(error)

    def condition(self, name: str = "Ready") -> dict[str, Any]:
        """Return a condition of the policy's status; empty if there is none yet."""
        item = self.stand_in.objects.get(POLICY, {})
        found = item.get("status", {}).get("conditions", ())
        return next((entry for entry in found if entry["type"] == name), {})

    def becomes(self, reason: str, generation: int = 1, name: str = "Ready") -> bool:
        def is_so() -> bool:
            found = self.condition(name)
            return (found.get("reason"), found.get("observedGeneration")) == (
                reason,
                generation,
            )

        return eventually(is_so)

    def events(self) -> list[str]:
        """Return the reasons of all events, in their order."""
        kinds = [entry["object"] for entry in self.stand_in.events]
        return [item["reason"] for item in kinds if item.get("kind") == "Event"]

    @property
    def holder(self) -> str:
        lease = self.stand_in.objects.get(LEASE, {"spec": {}})
        return str(lease["spec"].get("holderIdentity", ""))


Start = Callable[..., contextlib.AbstractContextManager[Running]]


def starter(
    stand_in: StandIn, kubeconfig: Path, monkeypatch: pytest.MonkeyPatch
) -> Start:
    """Return what starts controllers that wait for nothing longer than a test may."""
    monkeypatch.setattr(election, "RETRY_S", 0.05)
    monkeypatch.setattr(running, "RETRY_S", 0.3)
    monkeypatch.setattr(running, "_SETTLE_S", 0.05)
    monkeypatch.setattr(watching, "_RETRY_S", 0.1)
    stand_in.watch_s = 0.3
    stand_in.namespaces(OWN, "inference", "line1")

    @contextlib.contextmanager
    def begin(identity: str = "first", resync_s: float = 300.0) -> Iterator[Running]:
        with connect(None, kubeconfig) as cluster:
            controller = Controller(
                cluster,
                OWN,
                identity,
                lambda may_act: Reconciler(
                    cluster, lambda _: Site(), ("kubernetes",), may_act
                ),
                resync_s,
            )
            started = Running(controller, stand_in)
            before = set(threading.enumerate())
            thread = threading.Thread(target=started.run)
            thread.start()
            try:
                yield started
            finally:
                controller.stop()
                thread.join()
                # What still watches ends with its watch.
                assert eventually(lambda: not _watching(before))

    return begin


def _watching(before: set[threading.Thread]) -> list[threading.Thread]:
    others = set(threading.enumerate()) - before
    return [thread for thread in others if "(_run)" in thread.name]
