"""Signs a bundle, as `opa sign` does, for `Signers` and for OPA."""

from __future__ import annotations

import json
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from authz_server.errors import SetupError
from authz_server.identity.jwk import MAX_RSA_BITS, MIN_RSA_BITS
from authz_server.policy.bundles.signature import SIGNATURES, digest_of

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey

_DIGEST: Final = "SHA-256"
_P256_BYTES: Final = 32


def read_private_key(file: Path) -> PrivateKey:
    """Return the private key in a PEM file: of the curve P-256, or RSA.

    Raises:
        SetupError: if there is none, or it is encrypted.
    """
    try:
        key = load_pem_private_key(file.read_bytes(), password=None)
    except OSError as error:
        raise SetupError(f"{file}: cannot be read: {error.strerror}") from error
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise SetupError(f"{file}: holds no private key in plain PEM") from error
    if (
        isinstance(key, rsa.RSAPrivateKey)
        and MIN_RSA_BITS <= key.key_size <= MAX_RSA_BITS
    ) or (
        isinstance(key, ec.EllipticCurvePrivateKey)
        and isinstance(key.curve, ec.SECP256R1)
    ):
        return key
    raise SetupError(
        f"{file}: is neither of the curve P-256 nor an RSA key of {MIN_RSA_BITS} to "
        f"{MAX_RSA_BITS} bits"
    )


def sign_files(
    files: Mapping[str, bytes], key: PrivateKey, key_id: str, scope: str = ""
) -> dict[str, bytes]:
    """Return the files of a bundle with the one that signs them.

    Args:
        key_id: the name under which the servers know the public key.
        scope: what the signature is for; empty to say nothing of it.
    """
    claims: dict[str, Any] = {
        "files": [
            {
                "name": path,
                "hash": digest_of(path, files[path], _DIGEST),
                "algorithm": _DIGEST,
            }
            for path in sorted(files)
        ],
        "keyid": key_id,
    }
    if scope:
        claims["scope"] = scope
    algorithm = "RS256" if isinstance(key, rsa.RSAPrivateKey) else "ES256"
    header = {"alg": algorithm, "kid": key_id, "typ": "JWT"}
    signed = (
        f"{_encode(json.dumps(header).encode())}.{_encode(json.dumps(claims).encode())}"
    )
    token = f"{signed}.{_encode(_signature(key, signed.encode('ascii')))}"
    return {**files, SIGNATURES: json.dumps({"signatures": [token]}).encode()}


def _signature(key: PrivateKey, signed: bytes) -> bytes:
    if isinstance(key, rsa.RSAPrivateKey):
        return key.sign(signed, padding.PKCS1v15(), hashes.SHA256())
    r, s = decode_dss_signature(key.sign(signed, ec.ECDSA(hashes.SHA256())))
    # RFC 7518 §3.4: both numbers in the full length of the curve.
    return r.to_bytes(_P256_BYTES) + s.to_bytes(_P256_BYTES)


def _encode(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode("ascii")
