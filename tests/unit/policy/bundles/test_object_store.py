"""Requests to an object store, signed, without the store."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from authz_server.errors import ConfigError, FetchError
from authz_server.policy.bundles.object_store import object_url, signing_headers

URL = "https://b.s3.eu-west-1.amazonaws.com/k"


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """Nothing of this machine's own credentials, nor of its role's."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    return monkeypatch


@pytest.mark.parametrize(
    ("location", "endpoint", "url"),
    [
        ("s3://b/k", "", URL),
        ("s3://b/f/k.tar.gz", "", f"{URL[:-1]}f/k.tar.gz"),
        ("s3://b/k", "http://127.0.0.1:9000", "http://127.0.0.1:9000/b/k"),
        ("s3://b/k", "https://store/", "https://store/b/k"),
        (
            "s3://b/a b?c#d%é~",
            "https://store",
            "https://store/b/a%20b%3Fc%23d%25%C3%A9~",
        ),
    ],
)
def test_an_object_has_a_url(location: str, endpoint: str, url: str) -> None:
    assert object_url(location, endpoint, "eu-west-1") == url


@pytest.mark.parametrize("location", ["s3://", "s3://b", "s3://b/", "s3:///k"])
def test_what_names_no_object_has_none(location: str) -> None:
    with pytest.raises(ValueError, match="expected s3://bucket/key"):
        object_url(location, "", "eu-west-1")


def test_a_request_is_signed_and_does_not_tell_the_secret(
    environment: pytest.MonkeyPatch,
) -> None:
    environment.setenv("AWS_ACCESS_KEY_ID", "ID")
    environment.setenv("AWS_SECRET_ACCESS_KEY", "of-nobody-else")
    headers = signing_headers(URL, "eu-west-1")()
    assert headers["Authorization"].startswith("AWS4-HMAC-SHA256 Credential=ID/")
    assert "/eu-west-1/s3/aws4_request" in headers["Authorization"]
    assert "of-nobody-else" not in str(headers)


def test_without_credentials_one_is_told_what_to_set(
    environment: pytest.MonkeyPatch,
) -> None:
    del environment
    with pytest.raises(FetchError, match="set AWS_ACCESS_KEY_ID"):
        signing_headers(URL, "eu-west-1")()


PROGRAM = """
import json, pathlib, sys
seen = pathlib.Path(sys.argv[1])
if seen.exists():
    sys.exit("no more")
seen.touch()
print(json.dumps({
    "Version": 1, "AccessKeyId": "ID", "SecretAccessKey": "S", "SessionToken": "T",
    "Expiration": "2001-01-01T00:00:00Z",
}))
"""


def test_credentials_that_expire_and_do_not_come_again_are_an_error_of_the_fetch(
    environment: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    (tmp_path / "config").write_text(
        "[profile p]\n"
        f"credential_process = {sys.executable} {program} {tmp_path / 'seen'}\n"
    )
    environment.setenv("AWS_PROFILE", "p")
    headers = signing_headers(URL, "eu-west-1")
    with pytest.raises(FetchError, match="no credentials for the object store"):
        headers()


def test_a_profile_that_is_not_there_is_an_error_of_the_fetch(
    environment: pytest.MonkeyPatch,
) -> None:
    environment.setenv("AWS_PROFILE", "none")
    with pytest.raises(FetchError, match="no credentials for the object store"):
        signing_headers(URL, "eu-west-1")()


def test_without_the_library_one_is_told_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "botocore.auth", None)
    with pytest.raises(ConfigError, match=r"authz-server\[s3\]"):
        signing_headers(URL, "eu-west-1")
