"""Signed bundles with the real OPA as judge: what one makes, the other believes."""

from __future__ import annotations

import hashlib
import json
import random
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from parts import EXAMPLE
from token_forge import Forge, key_of_kind, kind_for

from authz_server.cli import main
from authz_server.errors import PolicyError
from authz_server.policy.building import find_opa
from authz_server.policy.bundles.archive import read_archive, write_archive
from authz_server.policy.bundles.bundle import read_bundle
from authz_server.policy.bundles.signature import SIGNATURES, Signers

pytestmark = pytest.mark.go

LIMIT = 1 << 24
DOCUMENTS = 200

NUMBERS = (
    *("0", "-0", "1", "1.0", "1.50", "-1.0", "1e5", "1E5", "1e+5", "1E-5", "0.1"),
    *("10000000000000000000001", "1.7976931348623157e308", "5e-324", "0e0", "-0.0"),
    *("123456789.123456789012345678901234567890", "9007199254740993"),
)
CHARACTERS = (
    *"ab/~<>&'.-_ éß😀\u2028\u2029\u007f\u0085\u200b\ufeff\ufffd\uffff\U0010ffff",
    *(r"\"", r"\\", r"\/", r"\b", r"\f", r"\n", r"\r", r"\t", r"\u0000", r"\u001f"),
    *(r"\u003c", r"\u2028", r"\ud83d\ude00", r"\u00E9", r"\ufffd", r"\u007f"),
)


@dataclass
class Judge:
    """The real OPA, and the keys that both know."""

    folder: Path
    opa: Path

    def run(self, *arguments: str | Path, where: str = ".") -> tuple[int, str]:
        """Return how OPA ended, and what it said."""
        done = subprocess.run(
            [self.opa, *arguments],
            cwd=self.folder / where,
            check=False,
            capture_output=True,
            text=True,
            timeout=60,
        )
        return done.returncode, done.stdout + done.stderr

    def sign(self, algorithm: str, claims: Mapping[str, str]) -> bytes:
        """Return the signature of what is in the folder ``bundle``."""
        options = self.signs(algorithm, claims)
        code, said = self.run("sign", "-b", ".", *options, where="bundle")
        assert code == 0, said
        file = self.folder / "bundle" / SIGNATURES
        text = file.read_bytes()
        file.unlink()
        return text

    def new_keys(self, algorithm: str) -> None:
        key = key_of_kind(kind_for(algorithm))
        (self.folder / "private.pem").write_bytes(
            key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        )
        (self.folder / "public.pem").write_bytes(
            key.public_key().public_bytes(
                Encoding.PEM, PublicFormat.SubjectPublicKeyInfo
            )
        )

    def signers(self, scope: str = "", key_id: str = "k") -> Signers:
        return Signers({key_id: self.folder / "public.pem"}, scope)

    def signs(self, algorithm: str, claims: Mapping[str, str]) -> list[str]:
        """Return the options by which OPA signs."""
        (self.folder / "claims.json").write_text(json.dumps(claims))
        return [
            *("--signing-key", str(self.folder / "private.pem")),
            *("--signing-alg", algorithm),
            *("--claims-file", str(self.folder / "claims.json")),
        ]

    def believes(self, raw: bytes, algorithm: str, scope: str = "") -> str:
        """Return why OPA does not believe a bundle; empty if it does."""
        (self.folder / "tried.tar.gz").write_bytes(raw)
        code, said = self.run(
            *("build", "-b", "tried.tar.gz", "-o", "out.tar.gz"),
            *("--verification-key", "public.pem", "--verification-key-id", "k"),
            *("--signing-alg", algorithm, "--scope", scope),
        )
        return said or "?" if code else ""


@pytest.fixture
def judge(tmp_path: Path) -> Judge:
    return Judge(tmp_path, find_opa())


def random_text(chance: random.Random) -> str:
    return '"' + "".join(chance.choices(CHARACTERS, k=chance.randrange(6))) + '"'


def random_json(chance: random.Random, depth: int = 0) -> str:
    """Return JSON as somebody odd would write it, without a name twice."""
    kind = chance.randrange(7 if depth < 4 else 4)
    space = chance.choice(["", " ", "\n\t"])
    if kind == 0:
        return chance.choice(NUMBERS)
    if kind == 1:
        return chance.choice(["true", "false", "null"])
    if kind in {2, 3}:
        return random_text(chance)
    inner = [random_json(chance, depth + 1) for _ in range(chance.randrange(5))]
    if kind == 4:
        return "[" + space + ("," + space).join(inner) + "]"
    members = {}
    for value in inner:
        key = random_text(chance)
        members[json.loads(key)] = key + space + ":" + space + value
    return "{" + space + ("," + space).join(members.values()) + space + "}"


def write_documents(folder: Path) -> dict[str, bytes]:
    """Write a bundle's folder of many documents; return its files."""
    chance = random.Random(20_261_126)
    files: dict[str, bytes] = {
        ".manifest": b'{ "revision" : "r1", "metadata": {"b": 1.50, "a": "<\\u2028>"}}',
    }
    for number in range(DOCUMENTS):
        text = '{ "é" : ' + random_json(chance) + "}"
        files[f"d{number}/data.json"] = text.encode()
    for path, content in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    return files


@pytest.mark.parametrize(
    ("algorithm", "claims", "scope"),
    [
        ("RS256", {"keyid": "k", "scope": "read"}, "read"),
        ("ES256", {"keyid": "k", "scope": "read"}, "read"),
        ("ES384", {"keyid": "k"}, ""),
        ("PS256", {"keyid": "k"}, ""),
    ],
)
def test_what_opa_signs_is_believed_here(
    algorithm: str, claims: dict[str, str], scope: str, judge: Judge
) -> None:
    judge.new_keys(algorithm)
    folder = judge.folder / "bundle"
    files = write_documents(folder)
    files[SIGNATURES] = judge.sign(algorithm, claims)
    bundle = read_bundle(write_archive(files), LIMIT, judge.signers(scope))
    assert len(bundle.data) == DOCUMENTS
    assert bundle.manifest.revision == "r1"
    with pytest.raises(PolicyError, match="another scope"):
        judge.signers("other").verify(files)


@pytest.mark.parametrize("algorithm", ["RS256", "ES256"])
def test_what_opa_builds_and_signs_is_believed_here(
    algorithm: str, judge: Judge
) -> None:
    judge.new_keys(algorithm)
    files = write_documents(judge.folder / "bundle")
    claims = {"keyid": "k", "scope": "read"}
    (judge.folder / "bundle" / "x.rego").write_text("package x\n\np := data.d0\n")
    options = ["build", "-b", "bundle", "-o", "made.tar.gz"]
    code, said = judge.run(*options, *judge.signs(algorithm, claims))
    assert code == 0, said
    raw = (judge.folder / "made.tar.gz").read_bytes()
    bundle = read_bundle(raw, LIMIT, judge.signers("read"))
    assert bundle.data["d7"] == json.loads(files["d7/data.json"])
    assert judge.believes(raw, algorithm, "read") == ""


@pytest.mark.parametrize("kind", ["RS256", "ES256"])
@pytest.mark.parametrize("scope", ["", "read"])
def test_what_is_packed_here_is_believed_by_opa(
    kind: str, scope: str, judge: Judge
) -> None:
    judge.new_keys(kind)
    out = judge.folder / "ours.tar.gz"
    command = ["policy", "bundle", str(EXAMPLE), "-o", str(out), "--key-id", "k"]
    command += ["--signing-key", str(judge.folder / "private.pem"), "--scope", scope]
    assert main(command) == 0
    assert judge.believes(out.read_bytes(), kind, scope) == ""
    assert "scope" in judge.believes(out.read_bytes(), kind, "other")
    read_bundle(out.read_bytes(), LIMIT, judge.signers(scope))


Files = dict[str, bytes]
BASE: Files = {
    ".manifest": b'{"revision":"r1"}',
    "a/data.json": b'{"n":1,"t":"<\\u2028>"}',
    "x.rego": b"package x\n",
}


def with_data(text: bytes) -> Callable[[Files], Files]:
    return lambda files: {**files, "a/data.json": text}


MUTATIONS: dict[str, Callable[[Files], Files]] = {
    "nothing": lambda files: files,
    "white space": with_data(b' {"t" : "<\\u2028>" , "n":1 }\n'),
    "escapes": with_data('{"n":1,"t":"\\u003c\u2028\\u003E"}'.encode()),
    "spelling of a number": with_data(b'{"n":1.0,"t":"<\\u2028>"}'),
    "value": with_data(b'{"n":2,"t":"<\\u2028>"}'),
    "trailing data": with_data(b'{"n":1,"t":"<\\u2028>"}{}'),
    "rego": lambda files: {**files, "x.rego": b"package x \n"},
    "manifest": lambda files: {**files, ".manifest": b'{"revision":"r2"}'},
    "added": lambda files: {**files, "b/data.json": b"{}"},
    "added text": lambda files: {**files, "README": b""},
    "added patch": lambda files: {
        **files,
        "patch.json": b'{"data":[{"op":"upsert","path":"z","value":1}]}',
    },
    "removed": lambda files: {
        path: content for path, content in files.items() if path != "x.rego"
    },
    "renamed": lambda files: {
        path.replace("a/", "b/"): content for path, content in files.items()
    },
    "signature gone": lambda files: {
        path: content for path, content in files.items() if path != SIGNATURES
    },
    "signature moved": lambda files: {
        path.replace(SIGNATURES, "b/" + SIGNATURES): content
        for path, content in files.items()
    },
    "signature twice": lambda files: {**files, "b/" + SIGNATURES: files[SIGNATURES]},
}


def test_what_opa_does_not_believe_is_not_believed_here(judge: Judge) -> None:
    judge.new_keys("ES256")
    for path, content in BASE.items():
        (judge.folder / "bundle" / path).parent.mkdir(parents=True, exist_ok=True)
        (judge.folder / "bundle" / path).write_bytes(content)
    good = {**BASE, SIGNATURES: judge.sign("ES256", {"keyid": "k"})}
    believed = set()
    for name, change in MUTATIONS.items():
        raw = write_archive(change(good))
        refused = judge.believes(raw, "ES256")
        try:
            read_bundle(raw, LIMIT, judge.signers())
        except PolicyError:
            continue
        assert refused == "", name
        believed.add(name)
    assert believed == {"nothing", "white space", "escapes"}


def test_what_opa_does_not_find_signed_is_not_found_signed_here(judge: Judge) -> None:
    judge.new_keys("ES256")
    forge = Forge("maker", "k", "ES256", key_of_kind("P-256"))
    content = b"package x\n"
    digest = hashlib.sha256(content).hexdigest()
    good = {"name": "x.rego", "hash": digest, "algorithm": "SHA-256"}
    believed = []
    for entries in (
        [good],
        [{**good, "hash": digest.upper()}],
        [{**good, "name": "/x.rego"}],
        [{**good, "name": "./x.rego"}],
        [{**good, "name": "X.rego"}],
        [{**good, "hash": digest[:-2]}],
        [{**good, "algorithm": "SHA-512"}],
        [{**good, "algorithm": ""}],
        [good, {**good, "name": "y.rego"}],
        [],
    ):
        token = forge.token({"files": entries, "keyid": "k"}).decode()
        signatures = json.dumps({"signatures": [token]}).encode()
        raw = write_archive({"x.rego": content, SIGNATURES: signatures})
        try:
            read_bundle(raw, LIMIT, judge.signers())
        except PolicyError:
            continue
        assert judge.believes(raw, "ES256") == "", entries
        believed.append(entries)
    assert len(believed) == 2


def test_an_archive_of_opas_is_read_as_it_is(judge: Judge) -> None:
    folder = judge.folder / "bundle"
    deep = "/".join(["folder"] * 30)
    (folder / deep).mkdir(parents=True)
    (folder / deep / "data.json").write_text('{"é": 1}')
    (folder / "ünïcode.rego").write_text("package x\n")
    code, said = judge.run("build", "-b", "bundle", "-o", "made.tar.gz")
    assert code == 0, said
    files = read_archive((judge.folder / "made.tar.gz").read_bytes(), LIMIT)
    assert "bundle/ünïcode.rego" in files or "ünïcode.rego" in files
