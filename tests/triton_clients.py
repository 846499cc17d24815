"""tritonclient's clients for several callers at once, and what is asked of them."""

from __future__ import annotations

import contextlib
import queue
import ssl
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import ModuleType, TracebackType
from typing import Any, Self

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.grpc.aio
import tritonclient.http
import tritonclient.http.aio
from triton_plant import OWN_MODELS, Plant, running
from tritonclient.utils import InferenceServerException

from authz_server.demo.calls import Caller, Edge, Protocol, end
from authz_server.demo.scenario import CAMERA, DEPLOYER, FORECASTER
from authz_server.demo.triton import MODELS

DENIAL = "access denied (not_granted)"
LIMIT_S = 20.0

WORDS = ["weld", "Schweißnaht", "溶接", ""]
NUMBERS = [0.5, -1.25, 1024.0]
ECHO = (WORDS, NUMBERS)

_KINDS = {"BYTES": np.object_, "FP32": np.float32, "INT32": np.int32}

# tritonclient has no types.
Client = Any
Result = Any


# The camera works with three models, the deployer may do everything that Triton's
# interface has, and the forecaster is known but may do nothing.
POLICY = """
apiVersion: authz.edge/v1
kind: AccessPolicy
metadata: {name: tritonclient}
spec:
  trustDomain: factory.example
  upstreams:
    triton: {kind: triton, hosts: [triton.factory.example]}
  groups:
    workers: {spiffe: ["spiffe://factory.example/ns/line1/sa/camera"]}
    operators: {spiffe: ["spiffe://factory.example/ns/release/sa/deployer"]}
    outsiders: {spiffe: ["spiffe://factory.example/ns/planning/sa/forecaster"]}
  roles:
    worker:
      - actions:
          - inference
          - inference-stream
          - metadata
          - health
          - model-config
          - statistics
        models: [echo, counter, repeat]
    operator:
      - actions:
          - health
          - metadata
          - inference
          - inference-stream
          - shared-memory
          - model-config
          - model-repository
          - statistics
          - trace
          - logging
          - model-list
          - model-load-override
        models: ["*"]
  grants:
    - {role: worker, to: [workers], on: [triton]}
    - {role: operator, to: [operators], on: [triton]}
"""


@dataclass(frozen=True)
class Clients:
    """One of tritonclient's modules, and its client for each who may call.

    Attributes:
        denial: status and message of the exception for who may not.
        direct: goes past Envoy.
        worker: the camera's.
        operator: the deployer's.
        outsider: the forecaster's.
        json: what makes dicts of answers.
    """

    module: ModuleType
    denial: tuple[str, str]
    direct: Client
    worker: Client
    operator: Client
    outsider: Client
    json: dict[str, bool]

    def agreed(
        self,
        call: Callable[[Client], Any],
        *,
        by: Client = None,
        but_not: Sequence[Client] = (),
    ) -> Any:
        """Return what `by` gets: what a direct call gets, while others are denied it.

        Args:
            by: the worker, unless given.
            but_not: who is denied it beside the outsider.
        """
        direct = call(self.direct)
        assert call(by or self.worker) == direct
        assert self.is_denied(call, *but_not, self.outsider)
        return direct

    def is_denied(self, call: Callable[[Client], object], *clients: Client) -> bool:
        """Return whether each of `clients` is told in so many words that it may not."""
        for client in clients:
            with pytest.raises(InferenceServerException) as caught:
                call(client)
            if not self.is_denial(caught.value):
                raise caught.value
        return True

    def is_denial(self, error: InferenceServerException) -> bool:
        return (error.status(), error.message()) == self.denial

    def tensor(self, name: str, values: list[Any], kind: str = "INT32") -> Any:
        return tensor(self.module, name, values, kind)

    def echo(self, client: Client, **how: Any) -> tuple[list[str], list[float]]:
        """Let Triton say WORDS and NUMBERS again."""
        return echoed(client.infer("echo", echo_inputs(self.module), **how))


@contextlib.contextmanager
def plant_for_clients() -> Iterator[Plant]:
    """Yield a plant under POLICY, with the demo's models and the tests' own."""
    with running(
        POLICY,
        models=(MODELS, OWN_MODELS),
        # So that a model can tell which headers reached Triton.
        arguments=(
            "--http-header-forward-pattern=x-line.*",
            "--grpc-header-forward-pattern=x-line.*",
        ),
    ) as made:
        yield made


@contextlib.contextmanager
def clients_of(plant: Plant, protocol: Protocol) -> Iterator[Clients]:
    """Yield the clients of one protocol."""
    over_http = protocol is Protocol.HTTP
    module = tritonclient.http if over_http else tritonclient.grpc
    port = plant.triton.http_port if over_http else plant.triton.grpc_port
    edge = Edge(plant.port, plant.bundle)
    with contextlib.ExitStack() as stack:
        direct = module.InferenceServerClient(f"127.0.0.1:{port}")
        stack.callback(end, direct)
        worker, operator, outsider = (
            stack.enter_context(Caller(edge, protocol, plant.identities[who]))._client
            for who in (CAMERA, DEPLOYER, FORECASTER)
        )
        yield Clients(
            module=module,
            denial=("403" if over_http else "StatusCode.PERMISSION_DENIED", DENIAL),
            direct=direct,
            worker=worker,
            operator=operator,
            outsider=outsider,
            json={} if over_http else {"as_json": True},
        )


def tensor(
    module: ModuleType,
    name: str,
    values: list[Any],
    kind: str = "INT32",
    **how: bool,
) -> Any:
    """Return a flat input tensor."""
    made = module.InferInput(name, [len(values)], kind)
    made.set_data_from_numpy(np.array(values, _KINDS[kind]), **how)
    return made


def echo_inputs(module: ModuleType, **how: bool) -> list[Any]:
    return [
        tensor(module, "WORDS", WORDS, "BYTES", **how),
        tensor(module, "NUMBERS", NUMBERS, "FP32", **how),
    ]


def echoed(result: Result) -> tuple[list[str], list[float]]:
    return texts(result), result.as_numpy("NUMBERS").tolist()


def texts(result: Result, name: str = "WORDS") -> list[str]:
    # Texts that came as JSON are texts already.
    return [
        item.decode() if isinstance(item, bytes) else item
        for item in result.as_numpy(name)
    ]


def aio_client(plant: Plant, module: ModuleType, who: str | None) -> Any:
    """Return a client of `who`, or without one a client that goes past Envoy."""
    over_http = module is tritonclient.http.aio
    triton = plant.triton
    if who is None:
        port = triton.http_port if over_http else triton.grpc_port
        return module.InferenceServerClient(f"127.0.0.1:{port}")
    svid = plant.identities[who]
    settings: dict[str, Any]
    if over_http:
        context = ssl.create_default_context(cafile=plant.bundle)
        context.load_cert_chain(svid.certificate, svid.key)
        settings = {"ssl_context": context}
    else:
        settings = {
            "root_certificates": str(plant.bundle),
            "private_key": str(svid.key),
            "certificate_chain": str(svid.certificate),
        }
    return module.InferenceServerClient(f"localhost:{plant.port}", ssl=True, **settings)


def total(result: Result) -> int:
    """Return the answer of `counter`."""
    return int(result.as_numpy("SUM")[0])


class Stream:
    """A context manager: tritonclient's stream, written and read in turn."""

    def __init__(self, client: Client, **how: Any) -> None:
        self._client = client
        self._how = how
        self._heard: queue.SimpleQueue[Result] = queue.SimpleQueue()

    def __enter__(self) -> Self:
        self._client.start_stream(
            lambda result, error: self._heard.put(error or result),
            stream_timeout=LIMIT_S,
            **self._how,
        )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._client.stop_stream(cancel_requests=error is not None)

    def say(self, model: str, inputs: list[Any], **how: Any) -> None:
        self._client.async_stream_infer(model, inputs, **how)

    def hear(self) -> Result:
        """Return the next that the callback gets: a result, or the exception."""
        return self._heard.get(timeout=LIMIT_S)

    def rest(self) -> list[Result]:
        """Return what else the callback gets until Triton has ended the stream."""
        self._client.stop_stream()
        heard = []
        with contextlib.suppress(queue.Empty):
            while True:
                heard.append(self._heard.get_nowait())
        return heard
