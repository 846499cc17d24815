"""authz-server itself, as a process of its own, under the example policy."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import grpc
import yaml
from grpc_health.v1 import health_pb2, health_pb2_grpc

from authz_server.demo.process import Command, Process
from authz_server.errors import SetupError

READY_S: Final = 20.0

POLICY: Final = Path(__file__).parents[2] / "examples" / "plant-7.yaml"


class AuthzServer(Process):
    """A context manager: authz-server runs, with its policy in force after `wait`.

    Attributes:
        socket: the unix socket that Envoy asks at.
        audit: the file that gets an event for every decision.
    """

    def __init__(
        self, folder: Path, identity: Mapping[str, object], policy: Path = POLICY
    ) -> None:
        """Write the configuration into `folder`, which is the caller's to remove.

        Args:
            identity: its settings of that name.

        Raises:
            SetupError: if the policy is missing.
        """
        if not policy.is_file():
            raise SetupError(
                f"{policy} is missing: the demo enforces the example policy of the "
                "source tree, so run it from a clone"
            )
        self.socket = folder / "check.sock"
        self.audit = folder / "audit.jsonl"
        configuration = folder / "authz-server.yaml"
        settings = {
            "listen": {"address": f"unix://{self.socket}", "socket_mode": "0600"},
            "policy": {"file": str(policy)},
            "identity": dict(identity),
            "audit": {"file": str(self.audit)},
        }
        configuration.write_text(yaml.safe_dump(settings), "utf-8")
        super().__init__(
            Command(
                name="authz-server",
                argv=[
                    *(sys.executable, "-m", "authz_server"),
                    *("serve", "--config", str(configuration)),
                ],
                log=folder / "authz-server.log",
                # Settings of the shell would win over the file, and some of ours, as
                # where Triton is, are none of the server's.
                env={
                    name: value
                    for name, value in os.environ.items()
                    if not name.startswith(("AUTHZ_SERVER_", "SPIFFE_"))
                },
                # `-m` puts the working directory first in the module path.
                cwd=Path(__file__).parents[2],
            )
        )

    def wait(self) -> None:
        """Return once the server says that it can answer.

        Raises:
            SetupError: if it ends or takes too long.
        """
        # gRPC backs off for a second and more after a failed connection.
        self.wait_until(self.socket.exists, READY_S)
        with grpc.insecure_channel(f"unix:{self.socket}") as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            self.wait_until(lambda: _is_serving(stub), READY_S)


def _is_serving(stub: health_pb2_grpc.HealthStub) -> bool:
    try:
        answer = stub.Check(health_pb2.HealthCheckRequest(service=""), timeout=2)
    except grpc.RpcError:
        return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)
