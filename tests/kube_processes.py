"""How etcd and kube-apiserver are started, with all that they have in one folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from judges import program

from authz_server.demo.pki import SvidFiles
from authz_server.demo.process import Command

PATH = {"PATH": "/usr/bin:/bin"}
"""For ``kubectl diff``, which calls diff."""


def etcd(place: Path) -> Command:
    socket = f"unix://{place}/etcd.sock"
    arguments = {
        "data-dir": place / "etcd",
        "listen-client-urls": socket,
        # Nobody asks for it, but a unix socket is not taken.
        "advertise-client-urls": "http://127.0.0.1:1",
        "listen-peer-urls": f"unix://{place}/peer.sock",
        "log-level": "warn",
        # What survives a crash of this machine is of no interest.
        "unsafe-no-fsync": "true",
    }
    return _command("etcd", place, arguments)


def kube_apiserver(place: Path, port: int, files: SvidFiles) -> Command:
    arguments = {
        "etcd-servers": f"unix://{place}/etcd.sock",
        "bind-address": "127.0.0.1",
        "secure-port": port,
        "advertise-address": "127.0.0.1",
        # It refuses to announce a loopback address in the service "kubernetes".
        "endpoint-reconciler-type": "none",
        "tls-cert-file": files.certificate,
        "tls-private-key-file": files.key,
        "token-auth-file": place / "tokens.csv",
        "authorization-mode": "RBAC",
        "service-account-issuer": "https://kubernetes.test",
        # The certificate: a private key is not taken here in PKCS #8.
        "service-account-key-file": files.certificate,
        "service-account-signing-key-file": files.key,
        "service-cluster-ip-range": "10.0.0.0/24",
        # It would wait for the default service account, which a controller makes.
        "disable-admission-plugins": "ServiceAccount",
    }
    return _command("kube-apiserver", place, arguments)


def _command(name: str, place: Path, arguments: Mapping[str, object]) -> Command:
    return Command(
        name=name,
        argv=[
            str(program("KUBERNETES").with_name(name)),
            *(f"--{key}={value}" for key, value in arguments.items()),
        ],
        log=place / f"{name}.log",
        env=PATH,
        cwd=place,
    )
