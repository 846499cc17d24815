"""``authz-server serve`` as an operator runs it: a process, its files, its signals."""

import contextlib
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
from checks import INFER, check_request, is_allowed, reason_of
from envoy_data_plane.envoy.service.auth import v3 as auth
from parts import (
    EXAMPLE,
    FACTORY_CA,
    camera_connection,
    camera_status,
    edge_envoy,
    eventually,
    last_event,
    serve_process,
    trail,
    write_edge_files,
)

from authz_server._native.choice import is_pure
from authz_server.cli import main
from authz_server.demo.pki import DevelopmentCa, write_svid
from authz_server.demo.process import free_ports
from authz_server.demo.scenario import EDGE_ID
from authz_server.errors import Reason

METHOD = "/envoy.service.auth.v3.Authorization/Check"
ALLOWED = bytes(check_request())


@dataclass
class Running:
    """A server process and its files."""

    folder: Path
    process: subprocess.Popen[bytes]

    @property
    def config(self) -> Path:
        return self.folder / "config.yaml"

    @property
    def policy(self) -> Path:
        return self.folder / "access.yaml"

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()

    @property
    def events(self) -> list[dict[str, object]]:
        return list(map(json.loads, trail(self.folder / "audit.jsonl")))

    def ask(self, raw: bytes = ALLOWED) -> bytes:
        with grpc.insecure_channel(f"unix:{self.folder}/s") as channel:
            return bytes(channel.unary_unary(METHOD)(raw, timeout=10))

    def health(self, *options: str) -> int:
        return main(["health", "--config", str(self.config), *options])


@contextlib.contextmanager
def serving(
    folder: Path,
    policy: str,
    more: str = "",
    *,
    identity: str = "",
    program: Sequence[str] = ("-m", "authz_server"),
) -> Iterator[Running]:
    (folder / "access.yaml").write_text(policy)
    (folder / "config.yaml").write_text(
        f"listen: {{address: 'unix://{folder}/s'}}\n"
        f"policy: {{file: '{folder}/access.yaml', reload_interval_s: 0.05{more}}}\n"
        f"identity: {{chain: proxy, require_certificate: false{identity}}}\n"
        "limits: {deadline_s: 5}\n"
        f"audit: {{file: '{folder}/audit.jsonl'}}\n"
    )
    with serve_process(folder, program) as process:
        running = Running(folder, process)
        assert eventually(
            lambda: "listening on" in running.log or process.poll() is not None
        )
        assert process.poll() is None, running.log
        yield running
    assert process.returncode == 0, running.log


def test_a_server_answers_records_and_stops_cleanly(tmp_path: Path) -> None:
    with serving(tmp_path, EXAMPLE.read_text()) as server:
        assert is_allowed(server.ask())
        assert server.health() == 0
        assert server.health("--policy") == 0
    assert server.events[0]["decision"] == "allow"
    assert server.health("--timeout", "0.5") == 1


def test_a_policy_that_stops_parsing_changes_nothing_but_log_and_health(
    tmp_path: Path,
) -> None:
    good = EXAMPLE.read_text()
    with serving(tmp_path, good) as server:
        assert is_allowed(server.ask())
        server.policy.write_text(good.replace("role: inspector", "role: inspektor"))
        assert eventually(lambda: server.health("--policy") == 1)
        assert "inspektor" in server.log
        assert "access.yaml:" in server.log
        assert server.health() == 0
        assert is_allowed(server.ask())
        denied = bytes(check_request(path="/v2/models/demand-forecast/infer"))
        assert reason_of(server.ask(denied)) == Reason.NOT_GRANTED

        # The mend: a policy that takes the camera's grant away is in force at once,
        # remembered decisions included.
        changed = good.replace("to: [factory-floor]", "to: [planning]")
        server.policy.write_text(changed)
        assert eventually(lambda: server.health("--policy") == 0)
        assert eventually(lambda: not is_allowed(server.ask()))
        assert reason_of(server.ask()) == Reason.NOT_GRANTED


def test_a_server_without_a_policy_starts_denies_and_recovers(tmp_path: Path) -> None:
    with serving(tmp_path, "nonsense") as server:
        assert server.health() == 1
        assert reason_of(server.ask()) == Reason.POLICY_UNAVAILABLE
        server.policy.write_text(EXAMPLE.read_text())
        assert eventually(lambda: server.health() == 0)
        assert eventually(lambda: is_allowed(server.ask()))


NEVER_SAID_AGAIN = """
import sys
from authz_server.cli import main
from authz_server.transport import native_server
native_server._PUBLISH_S = native_server._LEASE_S = 3600.0
sys.exit(main())
"""


@pytest.mark.skipif(is_pure(), reason="the twins have no listener in C")
def test_a_revocation_and_a_policy_end_what_is_remembered_at_once(
    tmp_path: Path,
) -> None:
    revoked = tmp_path / "revoked"
    revoked.write_text("")
    policy = EXAMPLE.read_text()
    with serving(
        tmp_path,
        policy,
        identity=f", revocations: {revoked}",
        program=("-c", NEVER_SAID_AGAIN),
    ) as server:
        assert eventually(lambda: is_allowed(server.ask()))
        assert is_allowed(server.ask())
        assert server.events[-1]["cache_hit"]
        revoked.write_text("trust-domain factory.example\n")
        assert eventually(lambda: not is_allowed(server.ask()))
        revoked.write_text("")
        assert eventually(lambda: is_allowed(server.ask()))
        server.policy.write_text(
            policy.replace("to: [factory-floor]", "to: [planning]")
        )
        assert eventually(lambda: not is_allowed(server.ask()))


def cpu_s(process: subprocess.Popen[bytes]) -> float:
    """Return the processor time of a process, of all its threads (proc(5))."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_a_server_that_nobody_asks_waits(tmp_path: Path) -> None:
    """What woke a thread once does not wake it on and on: that would be a core."""
    with serving(tmp_path, EXAMPLE.read_text()) as server:
        for _ in range(20):
            assert is_allowed(server.ask())
        time.sleep(1.5)  # each of its clocks has gone off
        before_s, began_s = cpu_s(server.process), time.monotonic()
        time.sleep(1.5)
        used_s = cpu_s(server.process) - before_s
        assert used_s < (time.monotonic() - began_s) / 4


def test_a_candidate_is_asked_beside_and_changes_no_answer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    candidate, report = tmp_path / "candidate.yaml", tmp_path / "shadow.jsonl"
    good = EXAMPLE.read_text()
    candidate.write_text(good)
    more = f", shadow: '{candidate}', shadow_report: '{report}'"
    denied = bytes(check_request(path="/v2/models/demand-forecast/infer"))
    with serving(tmp_path, good, more) as server:
        assert reason_of(server.ask(denied)) == Reason.NOT_GRANTED
        candidate.write_text(
            good.replace("to: [planning], on: [tri", "to: [factory-floor], on: [tri")
        )
        # Until the candidate has been read again, there is no difference.
        assert eventually(
            lambda: (server.ask(raw_of(denied)), report.stat().st_size)[1] > 0
        )
        assert reason_of(server.ask(raw_of(denied))) == Reason.NOT_GRANTED
    assert main(["policy", "shadow", "report", str(report)]) == 1
    assert "widens" in capsys.readouterr().out


_NUMBERS = itertools.count()


def raw_of(denied: bytes) -> bytes:
    """Return a check like `denied` that no cache has seen."""
    request = auth.CheckRequest.parse(denied)
    assert request.attributes is not None
    assert request.attributes.request is not None
    assert request.attributes.request.http is not None
    request.attributes.request.http.path += f"?n={next(_NUMBERS)}"
    return bytes(request)


def test_health_of_a_mutual_tls_listener_is_asked_with_its_own_certificate(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command itself, without a server: what it needs is named."""
    ca = DevelopmentCa("factory.example")
    svid = ca.issue("spiffe://factory.example/ns/authz/sa/authz")
    for name, data in (
        ("crt", svid.certificate_pem),
        ("key", svid.key_pem),
        ("ca", ca.bundle_pem),
    ):
        (tmp_path / name).write_bytes(data)
    config = tmp_path / "config.yaml"
    config.write_text(
        "listen:\n"
        "  address: 'tcp://127.0.0.1:1'\n"
        f"  tls: {{certificate: '{tmp_path}/crt', key: '{tmp_path}/key', "
        f"client_ca: '{tmp_path}/ca', proxies: ['spiffe://factory.example/a']}}\n"
        "policy: {file: p}\n"
        "identity: {chain: proxy}\n"
    )
    assert main(["health", "--config", str(config)]) == 1
    assert "has no DNS name" in capsys.readouterr().err
    named = ca.issue("spiffe://factory.example/a", dns_names=["authz.example"])
    (tmp_path / "crt").write_bytes(named.certificate_pem)
    (tmp_path / "key").write_bytes(named.key_pem)
    assert main(["health", "--config", str(config), "--timeout", "0.5"]) == 1
    assert "no answer" in capsys.readouterr().out


def test_two_servers_do_not_share_a_socket(tmp_path: Path) -> None:
    with serving(tmp_path, EXAMPLE.read_text()) as server:
        second = subprocess.run(
            [
                sys.executable,
                "-m",
                "authz_server",
                "serve",
                "--config",
                str(server.config),
            ],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert second.returncode == 1
        assert "another server is listening there" in second.stderr
        assert is_allowed(server.ask())


@pytest.mark.envoy
def test_a_central_server_answers_an_envoy_over_mutual_tls(tmp_path: Path) -> None:
    write_edge_files(tmp_path)
    (port,) = free_ports(1)
    write_svid(
        tmp_path,
        "authz",
        FACTORY_CA.issue(
            "spiffe://factory.example/ns/authz/sa/authz-server", ["authz.example"]
        ),
    )
    config = tmp_path / "config.yaml"
    config.write_text(
        "listen:\n"
        f"  address: 'tcp://0.0.0.0:{port}'\n"
        f"  tls: {{certificate: '{tmp_path}/authz.crt', key: '{tmp_path}/authz.key', "
        f"client_ca: '{tmp_path}/factory.example.pem', proxies: ['{EDGE_ID}']}}\n"
        f"policy: {{file: '{EXAMPLE}'}}\n"
        "identity: {bundles: {factory.example: "
        f"'{tmp_path}/factory.example.pem'}}}}\n"
        f"audit: {{file: '{tmp_path}/audit.jsonl'}}\n"
    )
    with (
        serve_process(tmp_path),
        edge_envoy(tmp_path, "edge-mtls", authz_port=port) as edge,
    ):
        assert eventually(lambda: main(["health", "--config", str(config)]) == 0)
        assert main(["health", "--trust", "--config", str(config)]) == 0
        assert eventually(lambda: camera_status(tmp_path, edge, INFER) == 200)
        denied = "/v2/models/demand-forecast/infer"
        with contextlib.closing(camera_connection(tmp_path, edge)) as connection:
            connection.request("POST", denied)
            answer = connection.getresponse()
        assert answer.status == 403
        assert answer.headers["x-authz-reason"] == "not_granted"
        # What the caller can quote is what the auditor finds.
        quoted = answer.headers["x-request-id"]
    event = last_event(tmp_path / "audit.jsonl")
    assert event["request_id"] == quoted
    assert event["reason"] == "not_granted"
    assert '"cache_hit":false' in (tmp_path / "audit.jsonl").read_text()
