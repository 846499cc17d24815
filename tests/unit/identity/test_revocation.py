import datetime as dt
from pathlib import Path

import pytest
from checks import (
    CAMERA,
    FORECASTER,
    check_request,
    envoy_certificate,
    is_allowed,
    reason_of,
)
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st
from parts import MemorySink, eventually, example_config, loaded_policies

from authz_server.assembly import build_pipeline, open_identities
from authz_server.cli import main
from authz_server.config import Identity
from authz_server.demo.pki import DevelopmentCa, Svid
from authz_server.errors import Reason
from authz_server.identity.certificate import parse_leaf
from authz_server.identity.revocation import (
    MAX_LIST_BYTES,
    RevocationFile,
    Revocations,
    RevokedError,
    certificate_entry,
    name_certificate,
    parse_revocations,
    token_entry,
)
from authz_server.identity.sources import REVOCATION_INTERVAL_S
from authz_server.identity.spiffe_id import SpiffeId

CA = DevelopmentCa("factory.example")


def revoked(text: str) -> Revocations:
    revocations, problems = parse_revocations(text)
    assert problems == []
    return revocations


def is_revoked(text: str, spiffe_id: str = CAMERA) -> bool:
    try:
        revoked(text).check_id(SpiffeId.parse(spiffe_id))
    except RevokedError as error:
        return error.reason is Reason.PRINCIPAL_REVOKED
    return False


@pytest.mark.parametrize(
    "line",
    [
        f"spiffe-id {CAMERA}",
        f"  spiffe-id   {CAMERA}   # stolen on Tuesday",
        f"subtree {CAMERA}",
        "subtree spiffe://factory.example/ns/line1",
        "subtree spiffe://factory.example",
        "trust-domain factory.example",
        f"# a comment\n\nspiffe-id {FORECASTER}\nspiffe-id {CAMERA}",
    ],
)
def test_whom_the_list_names_is_revoked(line: str) -> None:
    assert is_revoked(line)


@pytest.mark.parametrize(
    "line",
    [
        "",
        f"# spiffe-id {CAMERA}",
        f"spiffe-id {FORECASTER}",
        f"spiffe-id {CAMERA}2",
        "subtree spiffe://factory.example/ns/line",
        f"subtree {CAMERA}/more",
        "subtree spiffe://factory.example.evil",
        "trust-domain factory",
    ],
)
def test_nobody_else_is(line: str) -> None:
    assert not is_revoked(line)


def test_a_certificate_is_revoked_by_serial_and_issuer() -> None:
    svid = CA.issue(CAMERA)
    leaf = parse_leaf(envoy_certificate(svid.certificate_pem).encode())
    serial, issuer = name_certificate(svid.certificate)
    with pytest.raises(RevokedError) as caught:
        revoked(certificate_entry(svid.certificate)).check_certificate(leaf)
    assert caught.value.reason is Reason.CERTIFICATE_REVOKED
    revoked(f"certificate {serial + 1:x} {issuer}").check_certificate(leaf)
    revoked(f"certificate {serial:x} CN=another").check_certificate(leaf)
    revoked("").check_certificate(leaf)


def test_an_issuer_with_odd_characters_is_revoked_all_the_same() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    organization = "A #1 100% \n, Inc."
    name = x509.Name([x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, organization)])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(0xABC)
        .not_valid_before(now)
        .not_valid_after(now + dt.timedelta(hours=1))
        .sign(key, hashes.SHA256())
    )
    entry = certificate_entry(certificate)
    assert "\n" not in entry
    assert revoked(f"{entry}  # why").certificates == {name_certificate(certificate)}


@pytest.mark.parametrize(
    "line",
    [
        "spiffe-id",
        "spiffe-id spiffe://factory.example",
        "spiffe-id spiffe://factory.example/a b",
        "subtree /ns/line1",
        "trust-domain FACTORY",
        "trust-domain",
        "certificate 5f",
        "certificate xyz O=SPIRE",
        "certificate 0x5f O=SPIRE",
        "certificate -1 O=SPIRE",
        f"SPIFFE-ID {CAMERA}",
        CAMERA,
    ],
)
def test_a_line_that_is_no_entry_is_named(line: str) -> None:
    revocations, problems = parse_revocations(f"trust-domain a\n{line}\n")
    assert len(problems) == 1
    assert problems[0].startswith("line 2: ")
    assert len(revocations.trust_domains) == 1


def test_a_slip_of_the_pen_lets_nobody_back_in() -> None:
    before = revoked(f"spiffe-id {CAMERA}\ncertificate 5f O=SPIRE")
    after, problems = parse_revocations(f"spiffe-id {FORECASTER}\nnonsense", before)
    assert problems
    assert {str(item) for item in after.ids} == {CAMERA, FORECASTER}
    assert after.certificates == before.certificates


@given(st.text(max_size=200))
def test_any_text_gives_a_list_and_names_its_problems(text: str) -> None:
    revocations, problems = parse_revocations(text)
    assert all(problem.startswith("line ") for problem in problems)
    assert parse_revocations(text)[0] == revocations


def test_the_revision_changes_with_the_entries_and_not_with_their_order() -> None:
    one = revoked("trust-domain a\ntrust-domain b")
    assert one.revision == revoked("# x\ntrust-domain b\ntrust-domain a").revision
    assert one.revision != revoked("trust-domain a").revision


# The file


def test_until_the_file_was_read_there_is_no_list(tmp_path: Path) -> None:
    path = tmp_path / "revoked"
    source = RevocationFile(path)
    assert source.current is None
    source.reload()
    assert source.current is None
    assert "cannot be read" in str(source.error)
    path.write_text("")
    source.reload()
    assert source.current == revoked("")
    assert source.error is None


def test_a_file_that_vanishes_or_grows_too_large_leaves_the_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "revoked"
    path.write_text(f"spiffe-id {CAMERA}")
    source = RevocationFile(path)
    source.reload()
    before = source.current
    path.unlink()
    source.reload()
    assert source.current == before
    assert source.error is not None
    monkeypatch.setattr("authz_server.identity.revocation.MAX_LIST_BYTES", 10)
    path.write_text("#" * 11)
    source.reload()
    assert source.current == before
    assert "too large" in str(source.error)
    assert MAX_LIST_BYTES > 10


# In force


class Revoking:
    """A pipeline whose revocation list a test appends to by the command."""

    def __init__(self, folder: Path) -> None:
        self.list = folder / "revoked"
        self.bundle = folder / "f.pem"
        self.bundle.write_bytes(CA.bundle_pem)
        self.config = example_config(
            identity=Identity(
                bundles={"factory.example": str(self.bundle)},
                revocations=str(self.list),
            )
        )
        self.sink = MemorySink()

    def revoke(self, *arguments: str) -> int:
        return main(["revoke", "--file", str(self.list), *arguments])


def request_of(svid: Svid) -> bytes:
    return bytes(check_request(certificate=envoy_certificate(svid.certificate_pem)))


def test_the_list_is_looked_at_often_enough_for_a_second() -> None:
    assert REVOCATION_INTERVAL_S <= 0.5


def test_a_revocation_is_in_force_for_remembered_decisions_too(
    tmp_path: Path,
) -> None:
    revoking = Revoking(tmp_path)
    svid, other = CA.issue(CAMERA), CA.issue(CAMERA)
    pem = tmp_path / "camera.crt"
    pem.write_bytes(svid.certificate_pem)
    identities = open_identities(revoking.config)
    with loaded_policies(revoking.config) as policies:
        pipeline = build_pipeline(revoking.config, policies, revoking.sink, identities)
        identities.reload()
        answer = pipeline.check(request_of(svid))
        assert reason_of(answer) == Reason.REVOCATIONS_UNAVAILABLE
        revoking.list.write_text("")
        identities.reload()
        identities.start_watching(1.0)
        try:
            for _ in range(2):
                assert is_allowed(pipeline.check(request_of(svid)))
            assert b'"cache_hit":true' in revoking.sink.events[-1]

            assert revoking.revoke("--certificate", str(pem), "--note", "stolen") == 0
            assert eventually(lambda: not is_allowed(pipeline.check(request_of(svid))))
            answer = pipeline.check(request_of(svid))
            assert reason_of(answer) == Reason.CERTIFICATE_REVOKED
            assert is_allowed(pipeline.check(request_of(other)))

            assert revoking.revoke("--spiffe-id", CAMERA) == 0
            assert eventually(lambda: not is_allowed(pipeline.check(request_of(other))))
            answer = pipeline.check(request_of(other))
            assert reason_of(answer) == Reason.PRINCIPAL_REVOKED
        finally:
            identities.stop()


# The command


def test_entries_are_appended_and_an_open_line_is_ended_first(tmp_path: Path) -> None:
    revoking = Revoking(tmp_path)
    revoking.list.write_text("trust-domain a")
    assert revoking.revoke("--subtree", "spiffe://b", "--note", "two\nlines") == 0
    assert revoking.revoke("--trust-domain", "c") == 0
    assert revoking.list.read_text() == (
        "trust-domain a\nsubtree spiffe://b  # two lines\ntrust-domain c\n"
    )
    assert len(revoked(revoking.list.read_text()).trust_domains) == 2


def test_the_configured_list_is_the_one_appended_to(tmp_path: Path) -> None:
    path = tmp_path / "revoked"
    options = ["--policy-file", "p", "--identity-chain", "proxy"]
    entry = ["revoke", "--spiffe-id", CAMERA, *options]
    assert main([*entry, "--identity-revocations", str(path)]) == 0
    assert path.read_text() == f"spiffe-id {CAMERA}\n"
    assert main(entry) == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["--spiffe-id", "nonsense"],
        ["--trust-domain", "a # b"],
        ["--trust-domain", "a\ntrust-domain b"],
        ["--certificate", "gone.pem"],
        ["--certificate", __file__],
    ],
)
def test_what_is_no_entry_is_not_appended(
    tmp_path: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    revoking = Revoking(tmp_path)
    assert revoking.revoke(*arguments) == 1
    assert capsys.readouterr().err != ""
    assert not revoking.list.exists()


def test_a_list_that_cannot_be_written_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["revoke", "--file", str(tmp_path / "no" / "list")]
    assert main([*arguments, "--trust-domain", "a"]) == 1
    assert "cannot be written" in capsys.readouterr().err


@pytest.mark.parametrize(
    "token_id",
    ["0b7c1a4e", " spaces ", "100%#1", "two\nlines", "caf\u00e9", "\u2028", "a\x0bb"],
)
def test_a_token_is_revoked_by_its_id_whatever_that_holds(token_id: str) -> None:
    revocations, problems = parse_revocations(token_entry(token_id))
    assert not problems
    assert revocations.token_ids == {token_id}
    with pytest.raises(RevokedError) as caught:
        revocations.check_token(token_id)
    assert caught.value.reason is Reason.TOKEN_REVOKED
    revocations.check_token("another")
    revocations.check_token("")


def test_a_token_is_revoked_from_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "revoked"
    assert main(["revoke", "--file", str(path), "--jwt-id", "a b#c"]) == 0
    revocations, problems = parse_revocations(path.read_text())
    assert not problems
    assert revocations.token_ids == {"a b#c"}
    assert "revoked: jwt-id a%20b%23c" in capsys.readouterr().out


def test_an_empty_token_id_revokes_nothing_and_is_told() -> None:
    _, problems = parse_revocations("jwt-id")
    assert problems == ["line 1: expected the ID of a token"]


def test_a_bad_line_keeps_revoked_tokens_revoked() -> None:
    before, _ = parse_revocations("jwt-id a")
    after, problems = parse_revocations("jwt-di a", before)
    assert problems
    assert after.token_ids == {"a"}
