"""Signed bundles against whoever would have another one believed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import dsa, ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from hypothesis import given
from hypothesis import strategies as st
from token_forge import ALGORITHMS, Forge, PrivateKey, key_of_kind, kind_for

from authz_server.demo.pki import DevelopmentCa
from authz_server.errors import PolicyError, SetupError
from authz_server.policy.bundles.archive import write_archive
from authz_server.policy.bundles.bundle import read_bundle
from authz_server.policy.bundles.signature import (
    MAX_SIGNATURE_BYTES,
    SIGNATURES,
    Signers,
    digest_of,
)
from authz_server.policy.bundles.signing import read_private_key, sign_files

FILES = {
    ".manifest": b'{"revision":"r1","roots":["a","x"]}',
    "a/data.json": b'{"k":[1,2.50,true,null,"t"],"b":{}}',
    "policy.wasm": b"\0asm",
    "x/main.rego": b"package x\n",
}


def pem(key: PrivateKey) -> bytes:
    return key.public_key().public_bytes(
        Encoding.PEM, PublicFormat.SubjectPublicKeyInfo
    )


def listing(files: Mapping[str, bytes], algorithm: str = "SHA-256") -> list[Any]:
    return [
        {
            "name": path,
            "hash": digest_of(path, content, algorithm),
            "algorithm": algorithm,
        }
        for path, content in files.items()
    ]


class Maker:
    """Somebody who signs bundles, and a server that may believe it."""

    def __init__(self, folder: Path, algorithm: str = "ES256", scope: str = "") -> None:
        key = key_of_kind(kind_for(algorithm))
        self.forge = Forge("maker", "key-1", algorithm, key)
        self.folder = folder
        self.file = folder / "key-1.pem"
        self.file.write_bytes(pem(key))
        self.signers = Signers({"key-1": self.file}, scope)

    def sign(
        self,
        files: Mapping[str, bytes] = FILES,
        header: Mapping[str, Any] | None = None,
        **claims: Any,
    ) -> dict[str, bytes]:
        token = self.forge.token({"files": listing(files), **claims}, header)
        return {**files, SIGNATURES: envelope(token)}

    def verify(self, files: Mapping[str, bytes]) -> None:
        self.signers.verify(files)


def envelope(*tokens: bytes, **members: Any) -> bytes:
    return json.dumps(
        {"signatures": [token.decode() for token in tokens], **members}
    ).encode()


@pytest.fixture
def maker(tmp_path: Path) -> Maker:
    return Maker(tmp_path)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_bundle_is_believed_by_every_algorithm(
    algorithm: str, tmp_path: Path
) -> None:
    maker = Maker(tmp_path, algorithm)
    maker.verify(maker.sign())


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_bundle_of_another_key_is_not_believed(
    algorithm: str, tmp_path: Path
) -> None:
    maker = Maker(tmp_path, algorithm)
    maker.forge.key = key_of_kind(kind_for(algorithm), 2)
    with pytest.raises(PolicyError, match="signature is wrong"):
        maker.verify(maker.sign())


def test_a_bundle_is_believed_by_a_certificate(maker: Maker) -> None:
    svid = DevelopmentCa("a.example").issue("spiffe://a.example/maker")
    maker.file.write_bytes(svid.certificate.public_bytes(Encoding.PEM))
    key = load_pem_private_key(svid.key_pem, None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    maker.forge.key = key
    maker.verify(maker.sign())


def test_a_bundle_of_an_unknown_key_is_not_believed(maker: Maker) -> None:
    with pytest.raises(PolicyError, match="no key of the token's key ID"):
        maker.verify(maker.sign(header=maker.forge.header(kid="key-2")))


def test_the_key_may_be_named_by_a_claim(maker: Maker) -> None:
    maker.verify(maker.sign(header=maker.forge.header(kid=...), keyid="key-1"))


@pytest.mark.parametrize("kid", ["key-2", "", None, 1])
def test_the_header_counts_before_the_claim(kid: object, maker: Maker) -> None:
    with pytest.raises(PolicyError):
        maker.verify(maker.sign(header=maker.forge.header(kid=kid), keyid="key-1"))


@pytest.mark.parametrize("keyid", ["", None, 1, ["key-1"]])
def test_a_token_that_names_no_key_is_not_believed(keyid: object, maker: Maker) -> None:
    with pytest.raises(PolicyError, match="names no key"):
        maker.verify(maker.sign(header=maker.forge.header(kid=...), keyid=keyid))


@pytest.mark.parametrize(
    ("wanted", "claims"),
    [
        ("read", {}),
        ("read", {"scope": ""}),
        ("read", {"scope": "write"}),
        ("read", {"scope": "READ"}),
        ("read", {"scope": ["read"]}),
        ("read", {"scope": None}),
        ("", {"scope": "read"}),
        ("", {"scope": None}),
        ("", {"scope": 0}),
    ],
)
def test_a_bundle_for_another_scope_is_not_believed(
    wanted: str, claims: dict[str, Any], tmp_path: Path
) -> None:
    maker = Maker(tmp_path, scope=wanted)
    with pytest.raises(PolicyError, match="another scope"):
        maker.verify(maker.sign(**claims))


def test_a_bundle_for_the_right_scope_is_believed(tmp_path: Path) -> None:
    Maker(tmp_path, scope="read").verify(Maker(tmp_path).sign(scope="read"))


Change = Callable[[dict[str, bytes]], object]


@pytest.mark.parametrize("path", FILES)
def test_a_file_that_was_changed_is_not_what_was_signed(
    path: str, maker: Maker
) -> None:
    files = maker.sign()
    files[path] = files[path].replace(b"1", b"2").replace(b"x", b"y") + b" "
    if path == "policy.wasm":
        files[path] = b"\0asn"
    with pytest.raises(PolicyError, match=f"'{path}' is not what was signed"):
        maker.verify(files)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda files: files.pop("policy.wasm"), "lacks 'policy.wasm'"),
        (lambda files: files.pop(".manifest"), "lacks '.manifest'"),
        (lambda files: files.update({"data.json": b"{}"}), "'data.json' is not signed"),
        (
            lambda files: files.update({"x/.signatures.json": b"{}"}),
            "'x/.signatures.json' is not signed",
        ),
        (
            lambda files: files.update({"b/data.json": files.pop("a/data.json")}),
            "lacks 'a/data.json'",
        ),
        (lambda files: files.pop(SIGNATURES), "the bundle is not signed"),
    ],
)
def test_files_that_come_or_go_are_noticed(
    change: Change, message: str, maker: Maker
) -> None:
    files = maker.sign()
    change(files)
    with pytest.raises(PolicyError, match=message):
        maker.verify(files)


def test_a_file_that_is_listed_twice_is_refused(maker: Maker) -> None:
    other = {"name": "policy.wasm", "hash": "00", "algorithm": "SHA-256"}
    twice = [*listing(FILES), other]
    for entries in (twice, twice[::-1]):
        with pytest.raises(PolicyError, match="lists a file twice"):
            maker.verify({**FILES, **forged(maker, entries)})


def test_a_digest_counts_in_all_of_its_digits_of_either_case(maker: Maker) -> None:
    (entry,) = listing({"x.rego": b"x"})
    files, digest = {"x.rego": b"x"}, entry["hash"]
    maker.verify({**files, **forged(maker, [{**entry, "hash": digest.upper()}])})
    last = "0" if digest[-1] != "0" else "1"
    for wrong in (digest[:-1] + last, last + digest[1:], digest[:-2], "", None):
        with pytest.raises(PolicyError, match="not what was signed"):
            maker.verify({**files, **forged(maker, [{**entry, "hash": wrong}])})


@pytest.mark.parametrize("name", ["/policy.wasm", "./policy.wasm", "POLICY.wasm"])
def test_a_file_is_listed_by_its_one_name(name: str, maker: Maker) -> None:
    entry = {**listing(FILES)[2], "name": name}
    with pytest.raises(PolicyError, match="which is signed"):
        maker.verify({**FILES, **forged(maker, [*listing(FILES), entry])})


def forged(maker: Maker, entries: object) -> dict[str, bytes]:
    return {SIGNATURES: envelope(maker.forge.token({"files": entries}))}


@pytest.mark.parametrize(
    "entries",
    [None, {}, [], "policy.wasm", [None], [[]], [{}], [{"name": 1}], [{"name": ""}]],
)
def test_a_signature_that_lists_nothing_covers_nothing(
    entries: object, maker: Maker
) -> None:
    with pytest.raises(PolicyError, match=r"is not signed|lists a file twice, or none"):
        maker.verify({**FILES, **forged(maker, entries)})


@pytest.mark.parametrize(
    "algorithm", ["SHA-224", "SHA-256", "SHA-384", "SHA-512", "SHA-512-256"]
)
def test_digests_of_every_good_kind_are_taken(algorithm: str, maker: Maker) -> None:
    maker.verify({**FILES, **forged(maker, listing(FILES, algorithm))})


@pytest.mark.parametrize(
    "algorithm", ["MD5", "SHA-1", "sha-256", "SHA256", "", None, "none", 256]
)
def test_other_digests_are_refused(algorithm: object, maker: Maker) -> None:
    content = FILES["policy.wasm"]
    for name in ("md5", "sha1", "sha256"):
        digest = hashlib.new(name, content).hexdigest()
        entry = {"name": "policy.wasm", "hash": digest, "algorithm": algorithm}
        with pytest.raises(PolicyError, match="which is none of SHA-224"):
            maker.verify({"policy.wasm": content, **forged(maker, [entry])})


SAME = [
    (b'{"a":1,"b":[1,2]}', b' {\n\t"b" : [ 1 , 2 ],\r\n"a":1} '),
    (b'{"a":"/<>&"}', b'{"a":"\\/\\u003c\\u003e\\u0026"}'),
    ('{"a":"\u2028é"}'.encode(), b'{"a":"\\u2028\\u00e9"}'),
    ('{"a":"😀"}'.encode(), b'{"a":"\\ud83d\\ude00"}'),
    (b'{"a\\u007f":"\\b\\f\\u001f"}', b'{"a\x7f":"\\u0008\\u000c\\u001F"}'),
]
DIFFERENT = [
    (b'{"a":1}', b'{"a":1.0}'),
    (b'{"a":1}', b'{"a":1e0}'),
    (b'{"a":1e5}', b'{"a":1E5}'),
    (b'{"a":0}', b'{"a":-0}'),
    (b'{"a":1}', b'{"a":"1"}'),
    (b'{"a":[1,2]}', b'{"a":[2,1]}'),
    (b'{"a":null}', b"{}"),
    (b'{"a":"\\u2028"}', b'{"a":"\\\\u2028"}'),
    (b'{"a":true}', b'{"a":"true"}'),
    (b'{"a":"x"}', b'{"A":"x"}'),
    ('{"a":"é"}'.encode(), '{"a":"e\u0301"}'.encode()),
]


@pytest.mark.parametrize(("one", "other"), SAME)
def test_data_that_says_the_same_has_the_same_digest(one: bytes, other: bytes) -> None:
    for path in ("data.json", "a/b/data.json", ".manifest"):
        assert digest_of(path, one, "SHA-256") == digest_of(path, other, "SHA-256")
    assert digest_of("x.json", one, "SHA-256") != digest_of("x.json", other, "SHA-256")


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_data_that_says_something_else_has_another_digest(
    one: bytes, other: bytes
) -> None:
    one, other = (
        digest_of("data.json", text, "SHA-256").encode() for text in (one, other)
    )
    assert one != other


def test_the_digest_is_that_of_go() -> None:
    text = '{"b": 1.50, "a": "<\u2028\x7f\\u0001>", "": [], "é": {}}'.encode()
    fixed = '{"":[],"a":"<\\u2028\x7f\\u0001>","b":1.50,"é":{}}'.encode()
    assert digest_of("data.json", text, "SHA-256") == hashlib.sha256(fixed).hexdigest()


HOSTILE = [
    b'{"a":1,"a":2}',
    b'{"a":{"b":1,"b":1}}',
    b'{"a":NaN}',
    b'{"a":1e999}',
    b'{"a":"\\ud800"}',
    b'{"\\udc00":1}',
    b'{"a":"\xed\xa0\x80"}',
    b'{"a":"\xff"}',
    b"\xef\xbb\xbf{}",
    '{"a":1}'.encode("utf-16"),
    '{"a":1}'.encode("utf-32-le"),
    b'{"a":' * 5000 + b"1" + b"}" * 5000,
    b"[" + b'{"a":' * 480 + b"1" + b"}" * 480 + b"x",
    b'{"a":1' + b"0" * 5000 + b"}",
    b"",
    b"[]",
]


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: repr(text[:20]))
def test_what_two_readers_could_read_differently_is_never_believed(
    text: bytes, maker: Maker
) -> None:
    files = {"data.json": text}
    try:
        files |= forged(maker, listing(files))
    except PolicyError:
        files |= forged(maker, listing({"data.json": b"{}"}))
    with pytest.raises(PolicyError):
        read_bundle(write_archive(files), 1 << 20, maker.signers)


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: repr(text[:20]))
def test_whatever_takes_the_place_of_signed_data_only_the_own_error_comes_out(
    text: bytes, maker: Maker
) -> None:
    for path in ("a/data.json", ".manifest"):
        with pytest.raises(PolicyError):
            maker.verify({**maker.sign(), path: text})


@pytest.mark.parametrize("depth", [10, 300, 480, 700, 990])
def test_how_deep_signed_data_is_nested_does_not_matter(
    depth: int, maker: Maker
) -> None:
    text = b'{"a":' * depth + b"1" + b"}" * depth
    with pytest.raises(PolicyError):
        maker.verify({**maker.sign(), "a/data.json": text})


def test_a_public_key_is_no_shared_secret(maker: Maker) -> None:
    secret = maker.file.read_bytes()
    for algorithm in ("HS256", "HS384", "HS512"):
        token = maker.forge.token(
            {"files": listing(FILES)}, maker.forge.header(alg=algorithm), key=secret
        )
        with pytest.raises(PolicyError, match="alg is not accepted"):
            maker.verify({**FILES, SIGNATURES: envelope(token)})


@pytest.mark.parametrize("algorithm", ["none", "NONE", "", "RS1", "EdDSA", None, 1])
def test_other_algorithms_are_refused(algorithm: object, maker: Maker) -> None:
    token = maker.forge.token(
        {"files": listing(FILES)}, maker.forge.header(alg=algorithm), signature=b"x"
    )
    for tried in (token, token.rpartition(b".")[0] + b"."):
        with pytest.raises(PolicyError):
            maker.verify({**FILES, SIGNATURES: envelope(tried)})


@pytest.mark.parametrize("algorithm", ["ES384", "ES512", "RS256", "PS256"])
def test_an_algorithm_of_another_kind_of_key_is_refused(
    algorithm: str, maker: Maker
) -> None:
    with pytest.raises(PolicyError, match=r"another kind|signature is wrong"):
        maker.verify(maker.sign(header=maker.forge.header(alg=algorithm)))


@pytest.mark.parametrize("name", ["jwk", "jku", "x5c", "crit", "b64"])
def test_a_token_cannot_bring_its_own_key(name: str, maker: Maker) -> None:
    header = maker.forge.header(**{name: ["x"]})
    with pytest.raises(PolicyError, match="header parameters beside"):
        maker.verify(maker.sign(header=header))


def good_token(maker: Maker) -> bytes:
    return maker.forge.token({"files": listing(FILES)})


@pytest.mark.parametrize(
    "text",
    [
        '{"signatures":[]}',
        '{"signatures":["TOKEN","TOKEN"]}',
        '{"signatures":["TOKEN","x"]}',
        '{"signatures":["TOKEN"],"plugin":"other"}',
        '{"signatures":["TOKEN"],"plugin":null}',
        '{"signatures":["TOKEN"],"plugin":["_default"]}',
        '{"signatures":"TOKEN"}',
        '{"signatures":[1]}',
        '{"Signatures":["TOKEN"]}',
        '["TOKEN"]',
        '"TOKEN"',
        "TOKEN",
        '{"signatures":["TOKEN"]',
        '{"signatures":["TOKEN"]}{}',
        '{"signatures":["TOKEN"],"signatures":["TOKEN"]}',
        '{"signatures":["TOKEN\\n"]}',
        '{"signatures":["TOKEN="]}',
        '{"signatures":["TOKENé"]}',
        "",
    ],
)
def test_only_one_token_in_the_right_form_is_a_signature(
    text: str, maker: Maker
) -> None:
    token = good_token(maker).decode()
    maker.verify({**FILES, SIGNATURES: envelope(token.encode())})
    with pytest.raises(PolicyError):
        maker.verify({**FILES, SIGNATURES: text.replace("TOKEN", token).encode()})


@pytest.mark.parametrize("plugin", ["", "_default"])
def test_a_signature_may_name_the_way_in_which_opa_signs(
    plugin: str, maker: Maker
) -> None:
    token = good_token(maker)
    maker.verify({**FILES, SIGNATURES: envelope(token, plugin=plugin)})


def test_a_token_that_is_too_long_is_refused(maker: Maker) -> None:
    with pytest.raises(PolicyError, match="too long"):
        maker.verify(maker.sign(more="x" * MAX_SIGNATURE_BYTES))


@given(at=st.integers(min_value=0), change=st.integers(1, 255))
def test_no_byte_of_a_signature_can_be_another(
    at: int, change: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    maker = Maker(tmp_path_factory.mktemp("keys"))
    token = bytearray(good_token(maker))
    at %= len(token)
    token[at] ^= change
    try:
        maker.verify({**FILES, SIGNATURES: envelope(bytes(token))})
    except (PolicyError, UnicodeDecodeError):
        return
    raise AssertionError((at, change))


def test_a_key_that_comes_is_believed_and_one_that_goes_is_not(tmp_path: Path) -> None:
    first, second = Maker(tmp_path), Maker(tmp_path)
    second.forge = Forge("maker", "key-2", "ES256", key_of_kind("P-256", 2))
    file = tmp_path / "key-2.pem"
    signers = Signers({"key-1": first.file, "key-2": file})
    signers.verify(first.sign())
    with pytest.raises(PolicyError, match=r"key-2\.pem: cannot be read"):
        signers.verify(second.sign())
    file.write_bytes(pem(second.forge.key))
    signers.verify(second.sign())
    first.file.unlink()
    # What is gone takes nothing else with it.
    signers.verify(second.sign())
    with pytest.raises(PolicyError, match=r"key-1\.pem: cannot be read"):
        signers.verify(first.sign())


def test_a_key_that_is_replaced_is_no_longer_believed(maker: Maker) -> None:
    files = maker.sign()
    maker.verify(files)
    maker.file.write_bytes(pem(key_of_kind("P-256", 2)))
    with pytest.raises(PolicyError, match="signature is wrong"):
        maker.verify(files)


def private_pem(key: Any, password: bytes | None = None) -> bytes:
    protection = BestAvailableEncryption(password) if password else NoEncryption()
    pem: bytes = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, protection)
    return pem


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no public key in PEM"),
        (b"secret text", "no public key in PEM"),
        (
            b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
            "no public",
        ),
        (private_pem(key_of_kind("P-256")), "no public key in PEM"),
        (pem(key_of_kind("Ed25519")), "neither an EC key nor an RSA key"),
        (pem(key_of_kind("RSA-1024")), "neither an EC key nor an RSA key"),
        (
            dsa.generate_private_key(1024)
            .public_key()
            .public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
            "neither an EC key nor an RSA key",
        ),
        (pem(key_of_kind("secp256k1")), "another kind"),
    ],
)
def test_a_file_without_a_key_to_verify_by_is_told(
    content: bytes, message: str, maker: Maker
) -> None:
    maker.file.write_bytes(content)
    with pytest.raises(PolicyError, match=message) as caught:
        maker.verify(maker.sign())
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("kind", ["P-256", "RSA-2048"])
@pytest.mark.parametrize("scope", ["", "read"])
def test_what_is_signed_here_is_believed_here(
    kind: str, scope: str, tmp_path: Path
) -> None:
    key = key_of_kind(kind)
    (tmp_path / "private.pem").write_bytes(private_pem(key))
    (tmp_path / "public.pem").write_bytes(pem(key))
    private = read_private_key(tmp_path / "private.pem")
    signed = sign_files(FILES, private, "key-1", scope)
    assert signed.items() > FILES.items()
    Signers({"key-1": tmp_path / "public.pem"}, scope).verify(signed)
    with pytest.raises(PolicyError, match="another scope"):
        Signers({"key-1": tmp_path / "public.pem"}, "other").verify(signed)


@pytest.mark.parametrize(
    "content",
    [
        None,
        b"",
        pem(key_of_kind("P-256")),
        private_pem(key_of_kind("P-384")),
        private_pem(key_of_kind("Ed25519")),
        private_pem(key_of_kind("RSA-1024")),
        private_pem(key_of_kind("P-256"), b"secret"),
    ],
)
def test_only_a_key_whose_signatures_are_believed_signs(
    content: bytes | None, tmp_path: Path
) -> None:
    file = tmp_path / "private.pem"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(SetupError, match=r"private\.pem: "):
        read_private_key(file)
