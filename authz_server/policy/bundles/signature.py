"""Who made a bundle: its signature, as OPA writes and checks it.

`.signatures.json` holds one signed token, which lists the digest of every other file
(https://www.openpolicyagent.org/docs/latest/management-bundles/#signing). Only public
keys are believed: with a shared secret each box that can check a bundle, and that
nobody guards, could make one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from authz_server.errors import PolicyError, TokenError
from authz_server.identity.jwk import (
    MAX_RSA_BITS,
    MIN_RSA_BITS,
    KeySet,
    VerificationKey,
)
from authz_server.identity.jws import check_signature, parse_token
from authz_server.policy.bundles.manifest import MANIFEST
from authz_server.strict_json import parse_json_object

SIGNATURES: Final = ".signatures.json"

MAX_SIGNATURE_BYTES: Final = 2 * 1024 * 1024
"""It grows with the number of files."""

_HASHES: Final = {
    "SHA-224": "sha224",
    "SHA-256": "sha256",
    "SHA-384": "sha384",
    "SHA-512": "sha512",
    "SHA-512-224": "sha512_224",
    "SHA-512-256": "sha512_256",
}
"""OPA's, less MD5 and SHA-1, for which two files of one digest can be made."""

_PLUGINS: Final = ("", "_default")
"""Who signed, as `opa sign` and `opa build` write it."""

_STRUCTURED: Final = frozenset({"data.json", MANIFEST})


@dataclass(frozen=True, slots=True)
class Signers:
    """Whose bundles are believed.

    Attributes:
        key_files: PEM file of a public key, or of a certificate, by key ID. They are
            read anew for every bundle, so keys are rotated by changing files.
        scope: what a signature has to be for; empty if it may say nothing of it.
    """

    key_files: Mapping[str, Path]
    scope: str = ""

    def verify(self, files: Mapping[str, bytes]) -> None:
        """Return if one of the keys has signed exactly these files.

        Args:
            files: all of the bundle.

        Raises:
            PolicyError: if it has not; says which file differs.
        """
        try:
            claims = self._claims(files.get(SIGNATURES))
        except TokenError as error:
            raise PolicyError(f"the bundle's signature: {error}") from error
        if claims.get("scope", "") != self.scope:
            raise PolicyError(
                "the bundle was signed for another scope than "
                + (repr(self.scope) if self.scope else "none")
            )
        signed = _listed(claims)
        for path in sorted((files.keys() | signed.keys()) - {SIGNATURES}):
            if path not in signed:
                raise PolicyError(f"the bundle's {path!r} is not signed")
            if path not in files:
                raise PolicyError(f"the bundle lacks {path!r}, which is signed")
            algorithm, digest = signed[path]
            if digest_of(path, files[path], algorithm) != digest:
                raise PolicyError(f"the bundle's {path!r} is not what was signed")

    def _claims(self, text: bytes | None) -> Mapping[str, Any]:
        if text is None:
            raise PolicyError("the bundle is not signed")
        try:
            document = parse_json_object(text)
        except ValueError as error:
            raise PolicyError(f"the bundle's {SIGNATURES}: {error}") from error
        tokens = document.get("signatures")
        if (
            document.get("plugin", "") not in _PLUGINS
            or not isinstance(tokens, list)
            or len(tokens) != 1
            or not isinstance(tokens[0], str)
        ):
            raise PolicyError(f"the bundle's {SIGNATURES} does not hold one token")
        token = parse_token(
            tokens[0].encode("ascii", "replace"),
            max_bytes=MAX_SIGNATURE_BYTES,
            # Where the maker gave claims of his own, OPA names the key among them.
            key_claim="keyid",
        )
        # The other keys' files may be gone by now.
        file = self.key_files.get(token.key_id)
        keys: KeySet = {}
        if file is not None:
            keys = {token.key_id: _read_key(token.key_id, file)}
        check_signature(token, keys)
        return token.claims


def digest_of(path: str, content: bytes, algorithm: str) -> str:
    """Return a file's digest as a signature lists it, in hexadecimal digits.

    Of data and of the manifest it is that of what they say, in a fixed form, so it does
    not depend on white space and the order of keys.

    Raises:
        PolicyError: if `algorithm` is not offered, or the file is no JSON.
    """
    name = _HASHES.get(algorithm)
    if name is None:
        raise PolicyError(
            f"the bundle's {path!r} is signed by {algorithm!r}, which is none of "
            + ", ".join(_HASHES)
        )
    if path.rpartition("/")[2] in _STRUCTURED:
        try:
            content = _fixed_form(_parse(content)).encode("utf-8")
        except (ValueError, RecursionError) as error:
            # Not all of it: the error may hold the document.
            why = str(error)[:80]
            raise PolicyError(f"the bundle's {path!r} is no JSON: {why}") from error
    return hashlib.new(name, content).hexdigest()


def _listed(claims: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """Return algorithm and digest by path."""
    entries = claims.get("files")
    listed: dict[str, tuple[str, str]] = {}
    for entry in entries if isinstance(entries, list) else ():
        named = [
            entry.get(key) if isinstance(entry, dict) else None
            for key in ("name", "algorithm", "hash")
        ]
        path, algorithm, digest = (
            value if isinstance(value, str) else "" for value in named
        )
        if not path or path in listed:
            raise PolicyError("the bundle's signature lists a file twice, or none")
        listed[path] = (algorithm, digest.lower())
    return listed


class _Number(str):
    """A number as it was spelled: a digest is of the digits that came."""

    __slots__ = ()


def _parse(content: bytes) -> object:
    return json.loads(content, parse_int=_Number, parse_float=_Number)


def _fixed_form(value: object) -> str:
    """Return JSON as OPA hashes it: keys sorted, no spaces, Go's way with text."""
    if isinstance(value, _Number):
        return value
    if isinstance(value, str):
        return _quoted(value)
    if isinstance(value, dict):
        return (
            "{"
            + ",".join(
                f"{_quoted(key)}:{_fixed_form(value[key])}"
                # By bytes, as Go compares.
                for key in sorted(value, key=lambda key: key.encode("utf-8", "replace"))
            )
            + "}"
        )
    if isinstance(value, list):
        return "[" + ",".join(map(_fixed_form, value)) + "]"
    return json.dumps(value)


def _quoted(text: str) -> str:
    # Go leaves text as it is but for what JSON wants escaped and these two, which
    # JavaScript takes for the end of a line.
    return (
        json.dumps(text, ensure_ascii=False)
        .replace("\u2028", "\\u2028")
        .replace("\u2029", "\\u2029")
    )


def _read_key(key_id: str, file: Path) -> VerificationKey:
    try:
        pem = file.read_bytes()
        key = (
            x509.load_pem_x509_certificate(pem).public_key()
            if b"BEGIN CERTIFICATE" in pem
            else load_pem_public_key(pem)
        )
    except OSError as error:
        raise PolicyError(f"{file}: cannot be read: {error.strerror}") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise PolicyError(f"{file}: holds no public key in PEM") from error
    if isinstance(key, rsa.RSAPublicKey):
        if MIN_RSA_BITS <= key.key_size <= MAX_RSA_BITS:
            return VerificationKey(key_id, key)
    elif isinstance(key, ec.EllipticCurvePublicKey):
        return VerificationKey(key_id, key)
    raise PolicyError(
        f"{file}: is neither an EC key nor an RSA key of {MIN_RSA_BITS} to "
        f"{MAX_RSA_BITS} bits"
    )
