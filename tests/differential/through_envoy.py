"""The same cases through the real Envoy, which asks about each and lets all through."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import cast

import grpc
from demo_parts import CAMERA, lay_out
from differential.case import Case
from differential.comparison import Exchange, Exchanged
from differential.ours import PLAN, Judgement, judge_facts
from differential.wires import Http1, Http2, to_tls_port

from authz_server.clock import system_clock
from authz_server.demo.envoy import Envoy, Places, read_configuration, render
from authz_server.demo.pki import write_svid
from authz_server.demo.process import free_ports
from authz_server.demo.triton import Triton
from authz_server.errors import Reason, RequestError
from authz_server.facts import Annotations, Facts, extract
from authz_server.pipeline import Check, Pipeline
from authz_server.response import allow, with_gate
from authz_server.transport.decider import Decider
from authz_server.transport.ext_proc import Gate


class _Authority:
    """Lets everything through, and writes down what it would say.

    It stands where the gate has pipeline and decider.
    """

    def __init__(self) -> None:
        self.questions: list[bytes] = []
        self.gated: list[Judgement] = []
        self._gate = Gate(cast("Pipeline", self), cast("Decider", self))

    def check(self, raw: bytes, _: object) -> bytes:
        """Answer a check; with its facts, if there is a gate."""
        self.questions.append(raw)
        with contextlib.suppress(RequestError):
            key = extract(raw, PLAN)[0]
            if Facts.decode(key).is_gated:
                return with_gate(allow(), key)
        return allow()

    def process(self, requests: Iterator[bytes], _: object) -> Iterator[bytes]:
        """Run the real gate for one call."""

        async def received() -> AsyncIterator[bytes]:
            for raw in requests:
                yield raw

        answers = self._gate.process(received())

        async def following() -> bytes | None:
            return await anext(answers, None)

        with asyncio.Runner() as runner:
            while (answer := runner.run(following())) is not None:
                yield answer

    def resume(
        self, key: bytes, annotations: Annotations, *, is_recorded: bool
    ) -> Check:
        """Judge facts, as the pipeline does, and grant them."""
        if is_recorded:
            self.gated.append(judge_facts(key))
        return Check(system_clock(), annotations, key, reason=Reason.GRANTED)

    async def answer(self, check: Check) -> None:
        """Leave `check` as it is, since it is answered."""


@contextlib.contextmanager
def _serving(authority: _Authority, address: str) -> Iterator[None]:
    methods = {
        "envoy.service.auth.v3.Authorization": {
            "Check": grpc.unary_unary_rpc_method_handler(authority.check)
        },
        "envoy.service.ext_proc.v3.ExternalProcessor": {
            "Process": grpc.stream_stream_rpc_method_handler(authority.process)
        },
    }
    with ThreadPoolExecutor(16) as pool:
        server = grpc.server(pool)
        server.add_generic_rpc_handlers(
            tuple(
                grpc.method_handlers_generic_handler(service, handlers)
                for service, handlers in methods.items()
            )
        )
        server.add_insecure_port(address)
        server.start()
        try:
            yield
        finally:
            server.stop(None).wait()


@contextlib.contextmanager
def through_envoy(triton: Triton) -> Iterator[Exchange]:
    """Run Envoy before `triton`, and an authority that keeps what it is asked."""
    authority = _Authority()
    with contextlib.ExitStack() as stack:
        folder = Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="authz-server-"))
        )
        factory, _ = lay_out(folder)
        (port,) = free_ports(1)
        places = Places(
            tls=folder,
            check_socket=folder / "check.sock",
            listener_port=port,
            triton_http_port=triton.http_port,
            triton_grpc_port=triton.grpc_port,
        )
        stack.enter_context(_serving(authority, f"unix:{places.check_socket}"))
        configuration = render(read_configuration("edge-unix-socket"), places)
        envoy = stack.enter_context(Envoy(folder, configuration, port))
        envoy.wait()
        bundle = folder / "factory.example.pem"
        svid = write_svid(folder, "client", factory.issue(CAMERA))
        http1 = Http1(to_tls_port(port, bundle, svid, "http/1.1"))
        http2 = Http2(to_tls_port(port, bundle, svid, "h2"), b"https")
        stack.callback(http1.close)
        stack.callback(http2.close)

        def exchange(case: Case) -> Exchanged:
            authority.questions, authority.gated = [], []
            answer = (http2 if case.is_grpc != case.is_crossed else http1).send(case)
            if len(case.labels) > 1:
                http1.close()
            return Exchanged(answer, authority.questions, authority.gated)

        yield exchange
