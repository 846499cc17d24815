"""A plant with the real Triton, Envoy and authz-server, under a policy of a test."""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from checks import len_field
from parts import trail

from authz_server.demo.envoy import Envoy, Places, read_configuration, render
from authz_server.demo.issuance import by_development_cas
from authz_server.demo.pki import SvidFiles
from authz_server.demo.process import free_ports
from authz_server.demo.scenario import CAMERA
from authz_server.demo.server import AuthzServer
from authz_server.demo.triton import MODELS, Triton

STATISTICS = "/inference.GRPCInferenceService/ModelStatistics"

OWN_MODELS = Path(__file__).parent / "models"


@dataclass
class Plant:
    folder: Path
    server: AuthzServer
    triton: Triton
    port: int
    bundle: Path
    identities: dict[str, SvidFiles]

    @property
    def events(self) -> list[dict[str, Any]]:
        return list(map(json.loads, trail(self.server.audit)))

    def channel(self, who: str = CAMERA) -> grpc.Channel:
        svid = self.identities[who]
        credentials = grpc.ssl_channel_credentials(
            self.bundle.read_bytes(),
            svid.key.read_bytes(),
            svid.certificate.read_bytes(),
        )
        options = (
            ("grpc.max_receive_message_length", -1),
            ("grpc.max_send_message_length", -1),
        )
        return grpc.secure_channel(f"localhost:{self.port}", credentials, options)

    def executions(self, model: str) -> int:
        """Return how often Triton itself says that it was asked to run `model`."""
        with grpc.insecure_channel(f"127.0.0.1:{self.triton.grpc_port}") as channel:
            answer = channel.unary_unary(STATISTICS)(len_field(1, model.encode()))
        import tritonclient.grpc.service_pb2 as pb

        statistics = pb.ModelStatisticsResponse.FromString(answer).model_stats
        return sum(
            item.inference_stats.success.count + item.inference_stats.fail.count
            for item in statistics
        )


def unchanged(configuration: dict[str, Any]) -> dict[str, Any]:
    return configuration


@contextlib.contextmanager
def running(
    policy: str,
    change: Callable[[dict[str, Any]], dict[str, Any]] = unchanged,
    *,
    models: Sequence[Path] = (MODELS,),
    arguments: Sequence[str] = (),
) -> Iterator[Plant]:
    """Yield a plant under `policy`.

    Args:
        change: what is made of Envoy's configuration.
        models: folders whose models Triton gets.
        arguments: further ones of Triton's command line.
    """
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="az-")))
        (folder / "t").mkdir()
        for models_folder in models:
            shutil.copytree(models_folder, folder / "m", dirs_exist_ok=True)
        triton = stack.enter_context(Triton(folder / "t", folder / "m", arguments))
        issued = by_development_cas(folder, stack.enter_context, lambda _: None)
        (folder / "access.yaml").write_text(policy)
        (folder / "revoked").touch()
        settings = {**issued.settings, "revocations": str(folder / "revoked")}
        server = stack.enter_context(
            AuthzServer(folder, settings, folder / "access.yaml")
        )
        (port,) = free_ports(1)
        places = Places(folder, server.socket, port, triton.http_port, triton.grpc_port)
        configuration = render(read_configuration("edge-unix-socket"), places)
        envoy = stack.enter_context(Envoy(folder, change(configuration), port))
        for part in (server, envoy, triton):
            part.wait()
        yield Plant(
            folder, server, triton, port, issued.bundle, dict(issued.identities)
        )
