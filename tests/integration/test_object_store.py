"""Policies from an object store that checks signatures: the real MinIO."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from botocore.session import Session
from parts import EXAMPLE, eventually

from authz_server.assembly import load_now, open_policies
from authz_server.cli import main
from authz_server.config import Config, Distribution
from authz_server.demo.process import free_ports
from authz_server.folders import cache_folder

pytestmark = pytest.mark.go

VERSION = "v0.0.0-20260212201848-7aac2a2c5b7c"
REGION = "us-east-1"
SECRET = "minio-of-a-test"


@contextlib.contextmanager
def minio(folder: Path) -> Iterator[str]:
    """Yield the URL of an object store."""
    program = cache_folder(os.environ) / f"minio-{VERSION}" / "minio"
    api, console = free_ports(2)
    process = subprocess.Popen(
        [
            *(str(program), "server", str(folder), "--quiet"),
            *("--address", f"127.0.0.1:{api}"),
            *("--console-address", f"127.0.0.1:{console}"),
        ],
        env={
            "HOME": str(folder),
            "MINIO_ROOT_USER": "operator",
            "MINIO_ROOT_PASSWORD": SECRET,
            "MINIO_BROWSER": "off",
        },
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )

    def is_up() -> bool:
        with (
            contextlib.suppress(OSError),
            socket.create_connection(("127.0.0.1", api), timeout=1),
        ):
            return True
        return False

    try:
        assert eventually(is_up)
        yield f"http://127.0.0.1:{api}"
    finally:
        process.terminate()
        process.wait(timeout=20)


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "operator")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))


def test_a_policy_comes_from_a_bucket_and_only_with_the_right_credentials(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = tmp_path / "plant 7.tar.gz"
    assert main(["policy", "bundle", str(EXAMPLE), "-o", str(bundle)]) == 0
    with minio(tmp_path / "store") as url:
        client = Session().create_client("s3", REGION, endpoint_url=url)

        def is_ready() -> bool:
            try:
                client.create_bucket(Bucket="policies")
            except client.exceptions.ClientError:
                return False
            return True

        assert eventually(is_ready)
        key = "sites/plant 7.tar.gz"
        client.put_object(Bucket="policies", Key=key, Body=bundle.read_bytes())
        config = Config(
            distribution=Distribution(
                url=f"s3://policies/{key}",
                unsigned=True,
                s3_endpoint=url,
                s3_region=REGION,
            )
        )
        with contextlib.closing(open_policies(config)) as policies:
            assert load_now(policies), policies.error
            # The same again: answered by its ETag.
            assert load_now(policies), policies.error
            assert policies.current is not None
            assert policies.current.policy.name == "plant-7"

        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "somebody-else")
        with contextlib.closing(open_policies(config)) as policies:
            assert not load_now(policies)
            assert "status 403" in str(policies.error)
            assert "somebody-else" not in str(policies.error)

        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
        with contextlib.closing(open_policies(config)) as policies:
            assert not load_now(policies)
            assert "no credentials for the object store" in str(policies.error)
