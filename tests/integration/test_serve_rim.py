"""``authz-server serve`` at its rim: who may ask, what is scraped, what rotates."""

import contextlib
import os
import resource
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from checks import check_request, is_allowed
from parts import EXAMPLE, FACTORY_CA, SUPPLIER_CA, eventually, serve_process
from raw_http2 import SETTINGS
from workload_agent import (
    JWT_BUNDLES,
    X509_BUNDLES,
    X509_SVID,
    authorities,
    jwks,
    jwt_bundles,
    workload_agent,
    x509_bundles,
    x509_svid,
    x509_svids,
)

from authz_server._native.choice import is_pure
from authz_server.cli import main
from authz_server.demo.pki import Svid
from authz_server.demo.process import free_ports
from authz_server.demo.scenario import EDGE_ID

METHOD = "/envoy.service.auth.v3.Authorization/Check"
ALLOWED = bytes(check_request())
OURS = "spiffe://factory.example/ns/authz/sa/authz-server"


@contextlib.contextmanager
def serving(
    folder: Path,
    listen: str,
    identity: str = "{chain: proxy, require_certificate: false}",
) -> Iterator[subprocess.Popen[bytes]]:
    (folder / "config.yaml").write_text(
        f"listen: {listen}\n"
        f"policy: {{file: '{EXAMPLE}', reload_interval_s: 0.05}}\n"
        f"identity: {identity}\n"
        "limits: {deadline_s: 5}\n"
        f"audit: {{file: '{folder}/audit.jsonl'}}\n"
    )
    with serve_process(folder) as process:
        assert eventually(
            lambda: "listening on" in log_of(folder) or process.poll() is not None
        )
        assert process.poll() is None, log_of(folder)
        yield process
    assert process.returncode == 0, log_of(folder)


def log_of(folder: Path) -> str:
    return (folder / "log").read_text()


def ask(target: str) -> bytes:
    with grpc.insecure_channel(target) as channel:
        return bytes(channel.unary_unary(METHOD)(ALLOWED, timeout=5))


def ask_as(svid: Svid, port: int) -> str:
    """Return what a proxy with that SVID gets on a new connection."""
    credentials = grpc.ssl_channel_credentials(
        FACTORY_CA.bundle_pem, svid.key_pem, svid.certificate_pem
    )
    options = (
        ("grpc.ssl_target_name_override", "authz.example"),
        ("grpc.use_local_subchannel_pool", 1),
    )
    with grpc.secure_channel(f"127.0.0.1:{port}", credentials, options) as channel:
        try:
            answer = channel.unary_unary(METHOD)(ALLOWED, timeout=5)
        except grpc.RpcError as error:
            return str(error.code().name)
    return "allowed" if is_allowed(answer) else "denied"


def test_decisions_and_policy_are_scraped(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    listen = f"{{address: 'unix://{tmp_path}/s', metrics: 'tcp://127.0.0.1:{port}'}}"
    with serving(tmp_path, listen):
        for _ in range(3):
            assert is_allowed(ask(f"unix:{tmp_path}/s"))
        with urllib.request.urlopen(
            f"http://127.0.0.1:{port}/metrics", timeout=5
        ) as answer:
            text = answer.read().decode()
    line = 'authz_server_checks_total{cached="%s",decision="allow",reason="granted"} %s'
    assert line % ("false", "1.0") in text
    assert line % ("true", "2.0") in text
    assert "authz_server_policy_current 1.0" in text


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another user")
def test_a_process_of_a_user_that_is_not_listed_is_cut_off() -> None:
    # Where another user can get to the socket: not in a folder of pytest's.
    with tempfile.TemporaryDirectory(prefix="az-") as name:
        folder = Path(name)
        folder.chmod(0o711)
        listen = f"{{address: 'unix://{folder}/s', socket_mode: '0660', peer_uids: 1}}"
        with serving(folder, listen):
            connect = (
                "import os, socket, sys; os.setuid(12345); s = socket.socket(1);"
                "s.connect(sys.argv[1]); s.settimeout(5); print(s.recv(1))"
            )
            client = subprocess.run(
                [sys.executable, "-I", "-c", connect, f"{folder}/s"],
                capture_output=True,
                text=True,
                timeout=20,
                check=False,
            )
            assert client.stdout.strip() == "b''", client.stderr
            told = "no listed peer: uid 12345"
            assert eventually(lambda: told in log_of(folder))


@pytest.mark.skipif(is_pure(), reason="grpcio accepts connections in its own way")
def test_out_of_descriptors_new_connections_wait_and_old_ones_are_served(
    tmp_path: Path,
) -> None:
    listen = f"{{address: 'unix://{tmp_path}/s'}}"
    with (
        serving(tmp_path, listen) as process,
        grpc.insecure_channel(f"unix:{tmp_path}/s") as channel,
        contextlib.ExitStack() as opened,
    ):
        check = channel.unary_unary(METHOD)
        assert is_allowed(check(ALLOWED, timeout=5))
        used = len(list(Path(f"/proc/{process.pid}/fd").iterdir()))
        limits = resource.prlimit(process.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (used, limits[1]))
        waiting = opened.enter_context(socket.socket(socket.AF_UNIX))
        waiting.connect(f"{tmp_path}/s")
        began = cpu_seconds(process.pid)
        time.sleep(1)
        # It does not try again and again.
        assert cpu_seconds(process.pid) - began < 0.5
        assert is_allowed(check(ALLOWED, timeout=5))
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, limits)
        waiting.settimeout(5)
        assert waiting.recv(9)[3] == SETTINGS  # RFC 9113 3.4: the server's preface


def cpu_seconds(pid: int) -> float:
    return time.clock_gettime((~pid << 3) | 2)  # the process's own clock, as in Linux


def test_the_servers_own_user_may_ask_whoever_is_listed(tmp_path: Path) -> None:
    listen = f"{{address: 'unix://{tmp_path}/s', peer_uids: [{os.geteuid() + 1}]}}"
    with serving(tmp_path, listen):
        assert is_allowed(ask(f"unix:{tmp_path}/s"))
        assert main(["health", "--config", str(tmp_path / "config.yaml")]) == 0


def test_what_the_policy_names_in_vain_is_warned_of(tmp_path: Path) -> None:
    with serving(tmp_path, f"{{address: 'unix://{tmp_path}/s'}}"):
        pass
    assert "WARNING authz_server.serve: group " in log_of(tmp_path)
    assert "identity.users.issuers" in log_of(tmp_path)


def test_tls_files_may_come_late_and_change_and_health_tells(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    bundle = tmp_path / "ca"
    bundle.write_bytes(FACTORY_CA.bundle_pem)
    listen = (
        f"{{address: 'tcp://127.0.0.1:{port}', tls: {{certificate: '{tmp_path}/crt', "
        f"key: '{tmp_path}/key', client_ca: '{bundle}', proxies: ['{EDGE_ID}']}}}}"
    )
    proxy = FACTORY_CA.issue(EDGE_ID)
    with serving(
        tmp_path,
        listen,
        f"{{chain: proxy, bundles: {{factory.example: '{bundle}'}}, "
        "require_certificate: false}",
    ):
        assert ask_as(proxy, port) == "UNAVAILABLE"
        assert f"{tmp_path}/crt: cannot be read" in log_of(tmp_path)
        for _ in range(2):
            ours = FACTORY_CA.issue(OURS, dns_names=["authz.example"])
            (tmp_path / "crt").write_bytes(ours.certificate_pem)
            (tmp_path / "key").write_bytes(ours.key_pem)
            assert eventually(lambda: ask_as(proxy, port) == "allowed", 5)
        assert ask_as(FACTORY_CA.issue(OURS), port) == "UNAUTHENTICATED"


def test_an_svid_of_the_workload_api_serves_and_rotates(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    guest = "spiffe://supplier.example/proxy"
    listen = (
        f"{{address: 'tcp://127.0.0.1:{port}', tls: {{proxies: ['{EDGE_ID}', "
        f"'{guest}']}}}}"
    )
    proxy = FACTORY_CA.issue(EDGE_ID)
    both = {
        "spiffe://factory.example": authorities(FACTORY_CA),
        "spiffe://supplier.example": authorities(SUPPLIER_CA),
    }
    with workload_agent(tmp_path / "agent.sock") as agent:
        agent.push(X509_BUNDLES, x509_bundles(both))
        agent.push(JWT_BUNDLES, jwt_bundles(dict.fromkeys(both, jwks())))
        identity = (
            f"{{chain: proxy, require_certificate: false, "
            f"workload_api: '{agent.address}'}}"
        )
        with serving(tmp_path, listen, identity):
            assert ask_as(proxy, port) == "UNAVAILABLE"  # no SVID of our own yet
            for _ in range(2):
                ours = FACTORY_CA.issue(OURS, dns_names=["authz.example"])
                agent.push(X509_SVID, x509_svids(x509_svid(ours)))
                assert eventually(lambda: ask_as(proxy, port) == "allowed", 5)
            assert ask_as(SUPPLIER_CA.issue(guest), port) == "allowed"
            # In the pool of client CAs, but of another trust domain.
            assert ask_as(SUPPLIER_CA.issue(EDGE_ID), port) == "UNAUTHENTICATED"
            del both["spiffe://supplier.example"]
            agent.push(X509_BUNDLES, x509_bundles(both))
            assert eventually(
                lambda: ask_as(SUPPLIER_CA.issue(guest), port) == "UNAVAILABLE", 5
            )
