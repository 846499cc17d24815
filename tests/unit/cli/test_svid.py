"""The command `svid inspect`, on files and on standard input."""

import argparse
import base64
import io
import json
import re
import time
from pathlib import Path
from typing import Any

import pytest
from checks import CAMERA, envoy_certificate
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from parts import EXAMPLE

from authz_server.cli import svid as command
from authz_server.demo.pki import DevelopmentCa
from authz_server.errors import PolicyError, SetupError, SvidError
from authz_server.identity.certificate import MAX_CERTIFICATE_BYTES
from authz_server.identity.revocation import certificate_entry

CA = DevelopmentCa("factory.example")
INTERMEDIATE = DevelopmentCa("factory.example", CA)
SVID = CA.issue(CAMERA)


def inspect(file: Path | str, *options: str) -> int:
    parser = argparse.ArgumentParser()
    command.add_parser(parser.add_subparsers())
    args = parser.parse_args(["svid", "inspect", str(file), *options])
    return int(args.run(args))


@pytest.fixture
def leaf(tmp_path: Path) -> Path:
    return written(tmp_path, SVID.certificate_pem)


def written(folder: Path, data: bytes) -> Path:
    file = folder / "svid"
    file.write_bytes(data)
    return file


def server(folder: Path, *authorities: DevelopmentCa, **settings: object) -> list[str]:
    """Return the options of a server that believes `authorities`."""
    bundle = folder / "bundle.pem"
    bundle.write_bytes(b"".join(ca.bundle_pem for ca in authorities or (CA,)))
    identity: dict[str, object] = {"bundles": {"factory.example": str(bundle)}}
    config = {"policy": {"file": str(EXAMPLE)}, "identity": identity | settings}
    file = folder / "config.yaml"
    file.write_text(json.dumps(config))  # JSON is YAML
    return ["--config", str(file), "--output", "json"]


class Answer:
    """What was printed as JSON."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        printed: dict[str, Any] = json.loads(capsys.readouterr().out)
        self.kind, self.facts = printed["kind"], printed["facts"]
        self.rules = {
            rule["name"]: (rule["verdict"], rule["detail"]) for rule in printed["rules"]
        }
        self.broken = [
            name for name, (verdict, _) in self.rules.items() if verdict == "broken"
        ]


def test_a_leaf_is_shown_with_every_rule_that_it_keeps(
    leaf: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert inspect(leaf) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "X509-SVID"
    assert f"  URI names             {CAMERA}" in lines
    assert "  DNS names             none" in lines
    assert (
        "  kept         name: the only URI name is a workload's SPIFFE ID "
        "(X509-SVID §2)" in lines
    )
    assert (
        "  not checked  chain: a CA of its trust domain vouches for it (X509-SVID §5)"
        in lines
    )
    assert lines[-1].strip() == "needs --config"


def test_a_fact_of_many_lines_has_its_name_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    svid = CA.issue(CAMERA, ["a.test", "b.test"])
    inspect(written(tmp_path, svid.certificate_pem))
    out = capsys.readouterr().out
    assert "  DNS names             a.test\n                        b.test\n" in out


@pytest.mark.parametrize(
    "data",
    [
        SVID.certificate_pem,
        b"\n" + SVID.certificate_pem + CA.bundle_pem,
        envoy_certificate(SVID.certificate_pem).encode() + b"\n",
    ],
    ids=["PEM", "a chain", "percent-encoded PEM"],
)
def test_what_is_in_the_file_is_found_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], data: bytes
) -> None:
    assert inspect(written(tmp_path, data), "--output", "json") == 0
    answer = Answer(capsys)
    assert answer.kind == "X509-SVID"
    assert answer.facts["URI names"] == [CAMERA]


def test_an_svid_may_come_from_standard_input(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stdin = io.TextIOWrapper(io.BytesIO(SVID.certificate_pem))
    monkeypatch.setattr("sys.stdin", stdin)
    assert inspect("-", "--output", "json") == 0
    assert Answer(capsys).facts["URI names"] == [CAMERA]


def test_a_broken_rule_is_exit_code_1_and_said_with_its_section(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expired = CA.issue_expired(CAMERA)
    assert inspect(written(tmp_path, expired.certificate_pem)) == 1
    out = capsys.readouterr().out
    assert "  broken       dates: it is valid now (RFC 5280 §4.1.2.5)\n" in out
    assert re.search(r"^ {15}it expired 0:0\d:\d\d ago$", out, re.MULTILINE)


def test_what_could_drive_a_terminal_is_escaped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    svid = CA.issue("spiffe://factory.example/\x1b[2J\n")
    assert inspect(written(tmp_path, svid.certificate_pem)) == 1
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert r"spiffe://factory.example/\x1b[2J\n" in out


def test_a_server_accepts_what_its_bundle_vouches_for(
    tmp_path: Path, leaf: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert inspect(leaf, *server(tmp_path)) == 0
    answer = Answer(capsys)
    for name in ("trust domain", "revocation", "chain"):
        assert answer.rules[name] == ("kept", "")


def test_the_groups_of_the_policy_are_named(
    tmp_path: Path, leaf: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    inspect(leaf, *server(tmp_path))
    assert Answer(capsys).facts["groups of the policy"] == ["factory-floor"]


def test_a_workload_in_no_group_may_still_be_who_it_says(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    svid = CA.issue("spiffe://factory.example/nobody")
    file = written(tmp_path, svid.certificate_pem)
    assert inspect(file, *server(tmp_path)) == 0
    assert Answer(capsys).facts["groups of the policy"] == []


def test_a_server_refuses_what_another_ca_signed(
    tmp_path: Path, leaf: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert inspect(leaf, *server(tmp_path, DevelopmentCa("factory.example"))) == 1
    answer = Answer(capsys)
    assert answer.broken == ["chain"]
    assert "no chain" in answer.rules["chain"][1]


@pytest.mark.parametrize(("xfcc", "code"), [("none", 1), ("proxy", 0)])
def test_intermediates_count_only_where_the_server_sees_them(
    tmp_path: Path, xfcc: str, code: int
) -> None:
    svid = INTERMEDIATE.issue(CAMERA)
    file = written(tmp_path, svid.certificate_pem + INTERMEDIATE.bundle_pem)
    assert inspect(file, *server(tmp_path, xfcc=xfcc)) == code


def test_a_server_that_relies_on_envoy_leaves_the_chain_to_it(
    tmp_path: Path, leaf: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = server(tmp_path, chain="proxy", bundles={})
    assert inspect(leaf, *options) == 0
    answer = Answer(capsys)
    assert answer.rules["chain"] == (
        "not checked",
        "identity.chain: proxy leaves that to Envoy",
    )
    assert answer.rules["trust domain"] == ("kept", "")


def test_a_trust_domain_that_the_policy_does_not_name_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    svid = DevelopmentCa("other.example").issue("spiffe://other.example/a")
    file = written(tmp_path, svid.certificate_pem)
    assert inspect(file, *server(tmp_path)) == 1
    answer = Answer(capsys)
    assert answer.broken == ["trust domain", "chain"]
    assert "federatesWith" in answer.rules["trust domain"][1]


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        (f"spiffe-id {CAMERA}", f"{CAMERA} is revoked"),
        (certificate_entry(SVID.certificate), "the certificate is revoked"),
    ],
)
def test_what_is_revoked_is_refused(
    tmp_path: Path, leaf: Path, capsys: pytest.CaptureFixture[str], entry: str, why: str
) -> None:
    revoked = tmp_path / "revoked"
    revoked.write_text(entry)
    assert inspect(leaf, *server(tmp_path, revocations=str(revoked))) == 1
    assert Answer(capsys).rules["revocation"] == ("broken", why)


def test_without_the_configured_revocation_list_nobody_is_believed(
    tmp_path: Path, leaf: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = server(tmp_path, revocations=str(tmp_path / "gone"))
    assert inspect(leaf, *options) == 1
    assert "cannot be read" in Answer(capsys).rules["revocation"][1]


def test_a_server_is_not_asked_about_what_breaks_a_rule_of_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    svid = CA.issue(CAMERA, more_uris=[CAMERA])
    file = written(tmp_path, svid.certificate_pem)
    assert inspect(file, *server(tmp_path)) == 1
    answer = Answer(capsys)
    assert answer.broken == ["name"]
    assert answer.rules["chain"] == (
        "not checked",
        "not before the rules above are kept",
    )
    assert answer.facts["groups of the policy"] == []


def test_a_setting_alone_is_a_configuration_too(
    leaf: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--policy-file", str(EXAMPLE), "--identity-chain", "proxy"]
    assert inspect(leaf, *options, "--output", "json") == 0
    assert Answer(capsys).rules["trust domain"] == ("kept", "")


def test_a_policy_that_cannot_be_read_is_an_error(tmp_path: Path, leaf: Path) -> None:
    options = [*server(tmp_path), "--policy-file", str(tmp_path / "gone.yaml")]
    with pytest.raises(PolicyError, match=r"gone\.yaml"):
        inspect(leaf, *options)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "expected PEM"),
        (b"x", "expected PEM"),
        (SVID.key_pem, "nothing beside"),
        (
            SVID.certificate_pem + b"x" * MAX_CERTIFICATE_BYTES,
            "too large",
        ),
        (b"-----BEGIN%20" + b"x" * MAX_CERTIFICATE_BYTES, "too large"),
    ],
    ids=["nothing", "anything", "a private key", "too much", "too much, encoded"],
)
def test_what_is_no_svid_is_an_error(tmp_path: Path, data: bytes, why: str) -> None:
    with pytest.raises(SvidError, match=why):
        inspect(written(tmp_path, data))


def test_a_private_key_is_never_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = written(tmp_path, SVID.certificate_pem + SVID.key_pem)
    with pytest.raises(SvidError) as caught:
        inspect(file)
    said = str(caught.value) + "".join(capsys.readouterr())
    assert SVID.key_pem.splitlines()[1].decode() not in said


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="gone: cannot be read"):
        inspect(tmp_path / "gone")


@pytest.mark.parametrize("arguments", [[], ["inspect"], ["nonsense"]])
def test_wrong_use_is_exit_code_2(
    capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    parser = argparse.ArgumentParser()
    command.add_parser(parser.add_subparsers())
    with pytest.raises(SystemExit) as caught:
        parser.parse_args(["svid", *arguments])
    assert caught.value.code == 2
    assert "usage:" in capsys.readouterr().err


# Tokens

KEY = ec.generate_private_key(ec.SECP256R1())
US = "spiffe://factory.example/ns/edge/sa/authz"


def encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def token(key: ec.EllipticCurvePrivateKey = KEY, **claims: object) -> bytes:
    """Return a JWT-SVID of the camera that is good for an hour."""
    claims = {"sub": CAMERA, "aud": [US], "exp": time.time() + 3_600, **claims}
    header = {"alg": "ES256", "kid": "k1"}
    parts = [encode(json.dumps(part).encode()) for part in (header, claims)]
    signing_input = ".".join(parts).encode()
    der = key.sign(signing_input, ec.ECDSA(hashes.SHA256()))
    r, s = decode_dss_signature(der)
    return signing_input + b"." + encode(r.to_bytes(32) + s.to_bytes(32)).encode()


def token_server(folder: Path, **settings: object) -> list[str]:
    """Return the options of a server whose bundle has the key of `token`."""
    options = server(folder, **{"jwt_svid": {"audience": [US]}, **settings})
    numbers = KEY.public_key().public_numbers()
    point = {name: encode(getattr(numbers, name).to_bytes(32)) for name in "xy"}
    jwk = {"use": "jwt-svid", "kid": "k1", "kty": "EC", "crv": "P-256", **point}
    (folder / "bundle.pem").write_text(json.dumps({"keys": [jwk]}))
    return options


def test_a_token_is_shown_without_its_signature(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = token()
    assert inspect(written(tmp_path, text)) == 0
    out = capsys.readouterr().out
    assert out.startswith("JWT-SVID\n")
    assert f"  sub                   {CAMERA}\n" in out
    assert "  not checked  signature" in out
    assert text.rpartition(b".")[2].decode() not in out


def test_a_server_accepts_a_token_that_its_bundle_vouches_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert inspect(written(tmp_path, token()), *token_server(tmp_path)) == 0
    answer = Answer(capsys)
    for name in ("trust domain", "revocation", "signature", "lifetime"):
        assert answer.rules[name] == ("kept", "")
    assert answer.facts["groups of the policy"] == ["factory-floor"]


@pytest.mark.parametrize(
    ("text", "broken", "why"),
    [
        (
            token(ec.generate_private_key(ec.SECP256R1())),
            "signature",
            "the signature is wrong",
        ),
        (token(aud=["others"]), "signature", "token is for somebody else"),
        (token(exp=time.time() + 1e6), "lifetime", "good for longer than"),
    ],
    ids=["another key", "another audience", "too long"],
)
def test_a_server_refuses_a_token_that_is_not_for_it(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    text: bytes,
    broken: str,
    why: str,
) -> None:
    assert inspect(written(tmp_path, text), *token_server(tmp_path)) == 1
    answer = Answer(capsys)
    assert answer.broken == [broken]
    assert why in answer.rules[broken][1]


def test_a_server_without_an_audience_takes_no_token(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = token_server(tmp_path, jwt_svid={})
    assert inspect(written(tmp_path, token()), *options) == 1
    assert "identity.jwt_svid.audience" in Answer(capsys).rules["signature"][1]


def test_a_revoked_token_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    revoked = tmp_path / "revoked"
    revoked.write_text("jwt-id seven")
    options = token_server(tmp_path, revocations=str(revoked))
    assert inspect(written(tmp_path, token(jti="seven")), *options) == 1
    assert Answer(capsys).rules["revocation"] == ("broken", "the token is revoked")
