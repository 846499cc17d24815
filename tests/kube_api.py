"""A real kube-apiserver on a real etcd, for tests that ask it what it takes.

It starts within seconds and is alone: no controller runs, so pods stay Pending, a
namespace has no default service account, and a deleted namespace stays Terminating.
"""

from __future__ import annotations

import base64
import contextlib
import csv
import datetime as dt
import json
import secrets
import ssl
import subprocess
import tempfile
import urllib.error
import urllib.request
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import yaml
from judges import Object, program
from kube_processes import PATH, etcd, kube_apiserver
from kubernetes.client import ApiClient, Configuration

from authz_server.demo.pki import DevelopmentCa, write_svid
from authz_server.demo.process import Process, free_ports

READY_S = 60.0
LIFETIME = dt.timedelta(hours=12)
ADMINISTRATOR = "administrator"
MANAGER = "tests"

Manifest: TypeAlias = str | Path | Object
"""YAML, a file or folder (one with a kustomization.yaml is built), or one object."""


@dataclass(frozen=True, slots=True)
class KubeApi:
    """A running API server, as one of its users sees it.

    Attributes:
        server: its URL.
        ca: the file that its certificate is checked by.
        token: what this user is known by.
        kubeconfig: the file with the three of them.
        tokens: of those users that were asked for at the start.
    """

    server: str
    ca: Path
    token: str
    kubeconfig: Path
    tokens: Mapping[str, str]

    def as_user(self, name: str) -> KubeApi:
        """Return the same server as seen by a user that was asked for at the start."""
        return self._with_token(self.tokens[name])

    def as_service_account(self, namespace: str, name: str) -> KubeApi:
        """Return the same server as seen by a pod of an account, which must exist."""
        said = self.kubectl("create", "token", f"--namespace={namespace}", name)
        return self._with_token(_accepted(said).strip())

    def _with_token(self, token: str) -> KubeApi:
        file = self.kubeconfig.with_name(f"{secrets.token_hex(8)}.kubeconfig")
        _write_kubeconfig(file, self.server, self.ca, token)
        return replace(self, token=token, kubeconfig=file)

    def kubectl(
        self,
        *arguments: str | Path,
        input: str | None = None,  # noqa: A002 - as run's
    ) -> subprocess.CompletedProcess[str]:
        """Return what kubectl said, whatever that was."""
        folder = self.kubeconfig.parent
        return subprocess.run(
            [program("KUBERNETES").with_name("kubectl"), *arguments],
            input=input,
            stdin=subprocess.DEVNULL if input is None else None,
            env={**PATH, "HOME": str(folder), "KUBECONFIG": str(self.kubeconfig)},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def apply(self, *manifests: Manifest, manager: str = MANAGER) -> list[str]:
        """Have all of it accepted, by server-side apply with strict validation.

        Returns:
            what the server warns of.
        """
        warnings: list[str] = []
        for manifest in manifests:
            said = self._apply(manifest, f"--field-manager={manager}")
            _accepted(said)
            warnings += said.stderr.splitlines()
        return warnings

    def refusal(self, manifest: Manifest) -> str:
        """Return why the server takes not all of it; nothing is left of the rest."""
        said = self._apply(manifest, f"--field-manager={MANAGER}", "--dry-run=server")
        assert said.returncode != 0, said.stdout
        return said.stderr

    def _apply(
        self, manifest: Manifest, *options: str
    ) -> subprocess.CompletedProcess[str]:
        source, text = _source(manifest)
        how = ("--server-side", "--validate=strict", *options)
        return self.kubectl("apply", *how, *source, input=text)

    def diff(self, *manifests: Manifest, manager: str = MANAGER) -> str:
        """Return what `apply` would change; nothing if that is empty."""
        found = []
        for manifest in manifests:
            source, text = _source(manifest)
            how = ("--server-side", f"--field-manager={manager}")
            said = self.kubectl("diff", *how, *source, input=text)
            # 1 says that there is a difference, more that it could not be told.
            assert said.returncode == bool(said.stdout), said.stderr
            found.append(said.stdout)
        return "".join(found)

    def objects(self, manifest: Manifest) -> list[Object]:
        """Return the objects named there, as the server has them now."""
        source, text = _source(manifest)
        said = _accepted(
            self.kubectl(
                "get", "--output=json", "--show-managed-fields", *source, input=text
            )
        )
        answer: dict[str, Any] = json.loads(said)
        items: list[Object] = answer["items"] if answer["kind"] == "List" else [answer]
        return items

    def apply_crds(self, *names: str) -> None:
        """Have the CRDs of istio, spire or cilium served when this returns."""
        files = [f"--filename={program('CRDS').with_name(name)}" for name in names]
        if self.kubectl("get", *files).returncode == 0:
            return
        _accepted(self.kubectl("apply", "--server-side", *files))
        limit = f"--timeout={READY_S:g}s"
        _accepted(self.kubectl("wait", "--for=condition=Established", limit, *files))

    def namespaces(self, *names: str) -> None:
        """Have these namespaces; those that there are stay as they are."""
        objects = [
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
            for name in names
        ]
        self.apply(yaml.safe_dump_all(objects))

    def client(self) -> ApiClient:
        """Return a client of the Python package, to be used in a with block."""
        configuration = Configuration(
            host=self.server, api_key={"authorization": f"Bearer {self.token}"}
        )
        configuration.ssl_ca_cert = str(self.ca)
        configuration.proxy = None
        return ApiClient(configuration)


def _source(manifest: Manifest) -> tuple[tuple[str, ...], str | None]:
    """Return the options and the standard input that hand a manifest to kubectl."""
    match manifest:
        case Path() if (manifest / "kustomization.yaml").exists():
            return (f"--kustomize={manifest}",), None
        case Path():
            return (f"--filename={manifest}",), None
        case str():
            return ("--filename=-",), manifest
    return ("--filename=-",), json.dumps(manifest)


def _accepted(said: subprocess.CompletedProcess[str]) -> str:
    assert said.returncode == 0, said.stderr or said.stdout
    return said.stdout


@contextlib.contextmanager
def running_kube_api(
    folder: Path, users: Mapping[str, Collection[str]] | None = None
) -> Iterator[KubeApi]:
    """Yield an empty API server, as its administrator sees it.

    Args:
        folder: where its files are put; they are gone when this ends.
        users: further users by name, with their groups. They may do what RBAC says, at
            first nearly nothing.
    """
    with tempfile.TemporaryDirectory(prefix="kube-", dir=folder) as name:
        place = Path(name)
        tokens = {user: secrets.token_hex() for user in (ADMINISTRATOR, *(users or {}))}
        _write_users(place / "tokens.csv", tokens, users or {})
        ca = DevelopmentCa("kubernetes.test")
        (place / "ca.pem").write_bytes(ca.bundle_pem)
        end = dt.datetime.now(dt.UTC) + LIFETIME
        svid = ca.issue(
            "spiffe://kubernetes.test/api",
            ip_addresses=["127.0.0.1"],
            not_after=end,
        )
        (port,) = free_ports(1)
        server = f"https://127.0.0.1:{port}"
        kubeconfig = place / "administrator.kubeconfig"
        token = tokens[ADMINISTRATOR]
        _write_kubeconfig(kubeconfig, server, place / "ca.pem", token)
        api = KubeApi(server, place / "ca.pem", token, kubeconfig, tokens)
        files = write_svid(place, "server", svid)
        with (
            Process(etcd(place)) as storage,
            Process(kube_apiserver(place, port, files)) as apiserver,
        ):
            storage.wait_until((place / "etcd.sock").exists, READY_S)
            apiserver.wait_until(lambda: _is_ready(api), READY_S)
            yield api


def _write_users(
    file: Path, tokens: Mapping[str, str], users: Mapping[str, Collection[str]]
) -> None:
    groups = {**users, ADMINISTRATOR: ["system:masters"]}
    with file.open("w", newline="") as text:
        rows = csv.writer(text)
        for user, token in tokens.items():
            rows.writerow([token, user, user, ",".join(sorted(groups[user]))])


def _write_kubeconfig(file: Path, server: str, ca: Path, token: str) -> None:
    authority = base64.b64encode(ca.read_bytes()).decode()
    named = {
        "clusters": {"server": server, "certificate-authority-data": authority},
        "users": {"token": token},
        "contexts": {"cluster": "test", "user": "test"},
    }
    config: Object = {"apiVersion": "v1", "kind": "Config", "current-context": "test"}
    for key, value in named.items():
        config[key] = [{"name": "test", key.removesuffix("s"): value}]
    file.write_text(yaml.safe_dump(config), "utf-8")
    file.chmod(0o600)  # Helm warns of one that others may read.


def _is_ready(api: KubeApi) -> bool:
    context = ssl.create_default_context(cafile=api.ca)
    asked = urllib.request.Request(
        f"{api.server}/readyz", headers={"Authorization": f"Bearer {api.token}"}
    )
    handler = urllib.request.HTTPSHandler(context=context)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), handler)
    try:
        with opener.open(asked, timeout=5) as answer:
            return bool(answer.status == 200)
    except urllib.error.HTTPError as error:
        error.close()
        return False
    except OSError:
        return False
