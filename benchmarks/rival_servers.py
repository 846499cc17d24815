"""The ext_authz servers that are compared, each with what it must answer.

Of each, this says how it is started, where it listens, which process's time counts, and
which of the policy's questions it answers. A rival whose program is not on this machine
says so, and is left out.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import yaml
from c_programs import built
from edge import NOBODY, Identities, Peer

from authz_server import response
from authz_server.config import Listen
from authz_server.demo.process import Command, Process, accepts, free_ports
from authz_server.folders import cache_folder
from authz_server.policy.compiler import compile_policy
from authz_server.policy.document import load_policy

ROOT: Final = Path(__file__).parents[1]
POLICY: Final = ROOT / "examples" / "plant-7.yaml"
READY_S: Final = 20.0

CACHE: Final = cache_folder(os.environ)
OPA_GO: Final = CACHE / "opa-go-1.22.2" / "opa-go"
ISTIO: Final = CACHE / "extauthz-v0.0.0-20260827124520-eed52ebb66ad" / "extauthz"
"""Where `make rivals` puts what is built from Go."""


@dataclass(frozen=True, slots=True)
class Question:
    """What somebody asks, and whether the policy of the benchmark allows it."""

    who: str
    path: str
    is_allowed: bool


ASKED: Final = Question(
    "camera", "/v2/models/defect-detection/versions/1/infer", is_allowed=True
)
"""The one that is timed."""

QUESTIONS: Final = (
    ASKED,
    Question(
        "camera", "/v2/models/defect-detection/versions/3/infer", is_allowed=False
    ),
    Question("camera", "/v2/models/demand-forecast/infer", is_allowed=False),
    Question("forecaster", "/v2/models/demand-forecast/infer", is_allowed=True),
    Question("forecaster", ASKED.path, is_allowed=False),
    Question("deployer", ASKED.path, is_allowed=False),
)


def by_policy(question: Question) -> bool:
    """Return what the policy says."""
    return question.is_allowed


def always(_: Question) -> bool:
    """Return what somebody says who looks at nothing."""
    return True


def by_camera(question: Question) -> bool:
    """Return what Istio's sample says, which knows one service account."""
    return question.who == "camera"


@dataclass(frozen=True, slots=True)
class Started:
    """A rival that runs.

    Attributes:
        peer: where Envoy asks it.
        pid: the process whose time counts; None for nobody.
        audit: its audit trail, if it writes one.
    """

    peer: Peer
    pid: int | None
    audit: Path | None = None


Start = Callable[[Path, Identities], contextlib.AbstractContextManager[Started]]


@dataclass(frozen=True, slots=True)
class Rival:
    """One ext_authz server, or none.

    Attributes:
        name: as in tables.
        start: runs it, with its files in a folder of its own.
        missing: why it cannot run here; empty if it can.
        allows: what it must answer.
        is_miss: whether every call is a new question.
    """

    name: str
    start: Start
    missing: str = ""
    allows: Callable[[Question], bool] = by_policy
    is_miss: bool = False


def all_rivals() -> tuple[Rival, ...]:
    """Return all, in the order of the table."""
    native = "" if has_transport() else "listen.transport does not exist yet"
    return (
        Rival("Envoy alone", start_nobody, allows=always),
        Rival("floor", start_floor, allows=always),
        Rival("hit, native", authz_server("native"), native),
        Rival("hit, grpcio", authz_server("grpc")),
        Rival("miss, native", authz_server("native"), native, is_miss=True),
        Rival("miss, grpcio", authz_server("grpc"), is_miss=True),
        Rival("opa-go", start_opa_go, _absent(OPA_GO)),
        Rival("Istio sample", start_istio, _absent(ISTIO), by_camera),
    )


def has_transport() -> bool:
    """Return whether authz-server can be told by what to listen."""
    return "transport" in {field.name for field in dataclasses.fields(Listen)}


def _absent(program: Path) -> str:
    return "" if program.exists() else "not built: make rivals"


@contextlib.contextmanager
def start_nobody(_: Path, __: Identities) -> Iterator[Started]:
    """Run nothing: Envoy answers by itself."""
    yield Started(NOBODY, None)


@contextlib.contextmanager
def start_floor(folder: Path, _: Identities) -> Iterator[Started]:
    """Run the server that does nothing (rivals/floor.c)."""
    socket, answer = folder / "s", folder / "answer"
    answer.write_bytes(response.allow())
    with _running("floor", [str(built("floor")), str(socket), str(answer)], folder) as (
        process
    ):
        process.wait_until(socket.exists, READY_S)
        yield Started(Peer(socket), process.pid)


def authz_server(transport: str) -> Start:
    """Return what runs authz-server with that transport, its other settings usual."""

    @contextlib.contextmanager
    def start(folder: Path, identities: Identities) -> Iterator[Started]:
        with start_authz_server(folder, identities, transport) as started:
            yield started

    return start


@contextlib.contextmanager
def start_authz_server(
    folder: Path,
    identities: Identities,
    transport: str,
    policy: Mapping[str, object] | None = None,
) -> Iterator[Started]:
    """Run authz-server; `policy` are its settings of that name, if not the usual."""
    socket, audit = folder / "s", folder / "audit.jsonl"
    listen = {"address": f"unix://{socket}", "socket_mode": "0600"}
    if has_transport():
        listen["transport"] = transport
    settings = {
        "listen": listen,
        "policy": dict(policy or {"file": str(POLICY)}),
        "identity": {"bundles": dict(identities.bundles)},
        "audit": {"file": str(audit)},
    }
    configuration = folder / "config.yaml"
    configuration.write_text(yaml.safe_dump(settings), "utf-8")
    argv = [sys.executable, "-m", "authz_server", "serve", "--config"]
    # `-m` puts the working directory first in the module path.
    with _running(
        f"authz-server-{transport}", [*argv, str(configuration)], folder, cwd=ROOT
    ) as process:
        process.wait_until(socket.exists, READY_S)
        yield Started(Peer(socket), process.pid, audit)


@contextlib.contextmanager
def start_opa_go(folder: Path, _: Identities) -> Iterator[Started]:
    """Run OPA's engine in Go (rivals/opa_go), on the same policy's data."""
    socket, data = folder / "s", folder / "data.json"
    data.write_bytes(compile_policy(load_policy(POLICY)).data)
    with _running("opa-go", [str(OPA_GO), str(socket), str(data)], folder) as process:
        process.wait_until(socket.exists, READY_S)
        yield Started(Peer(socket), process.pid)


@contextlib.contextmanager
def start_istio(folder: Path, _: Identities) -> Iterator[Started]:
    """Run Istio's sample, which allows one service account and listens on TCP only."""
    http, port = free_ports(2)
    argv = [str(ISTIO), "-http", str(http), "-grpc", str(port)]
    argv += ["-allow_service_account", "camera"]
    with _running("extauthz", argv, folder) as process:
        process.wait_until(lambda: accepts(port), READY_S)
        yield Started(Peer(port=port, may_change_headers=True), process.pid)


def _running(
    name: str, argv: Sequence[str], folder: Path, cwd: Path | None = None
) -> Process:
    # Settings of the shell would win over the file of the benchmark.
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("AUTHZ_SERVER_", "SPIFFE_"))
    }
    return Process(
        Command(
            name=name,
            argv=argv,
            log=folder / f"{name}.log",
            env=environment,
            cwd=cwd or folder,
        )
    )
