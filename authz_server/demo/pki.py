"""Development certificate authorities and short-lived X.509-SVIDs, in memory.

For the demo and the tests only: keys are made on the spot, lie unencrypted in a
temporary folder and are gone with it. The shapes follow what SPIRE issues: P-256, a
chain of one, the SPIFFE ID as the only URI SAN, key usage critical. Nothing here
verifies anything.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self, TypeAlias

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

ORGANIZATION: Final = "authz-server demo"

LIFETIME: Final = dt.timedelta(hours=1)
"""SPIRE's default for an X.509-SVID."""

BACKDATED: Final = dt.timedelta(seconds=10)
"""SPIRE sets notBefore this much back, for clocks that are behind."""

CA_LIFETIME: Final = dt.timedelta(hours=24)

ExtensionAny: TypeAlias = x509.Extension[x509.ExtensionType]
PrivateKey: TypeAlias = (
    ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey
)
PublicKey: TypeAlias = (
    ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey | rsa.RSAPublicKey
)


@dataclass(frozen=True, slots=True)
class Svid:
    """An X.509-SVID with its private key.

    Attributes:
        spiffe_id: the ID it was asked for; odd ones may carry others besides.
        certificate: the leaf.
        certificate_pem: the leaf as PEM; there is no intermediate.
        key_pem: the private key, PKCS #8, unencrypted.
    """

    spiffe_id: str
    certificate: x509.Certificate
    certificate_pem: bytes
    key_pem: bytes

    def __repr__(self) -> str:
        # The generated one would print the key.
        return f"Svid({self.spiffe_id!r})"


@dataclass(frozen=True, slots=True)
class SvidFiles:
    """Where an SVID lies on disk."""

    certificate: Path
    key: Path


class DevelopmentCa:
    """A certificate authority of one trust domain.

    Attributes:
        trust_domain: its name, as in the CA certificate's URI SAN.
        certificate: the CA certificate.
    """

    def __init__(self, trust_domain: str, issuer: DevelopmentCa | None = None) -> None:
        """Make a CA, self-signed or an intermediate one under `issuer`."""
        self.trust_domain = trust_domain
        self._key = ec.generate_private_key(ec.SECP256R1())
        name = _subject()
        signer = issuer._key if issuer is not None else self._key  # noqa: SLF001 - kin
        now = _now()
        public = self._key.public_key()
        self.certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            # Older than any leaf a test may ask for, so that "expired" is about the
            # leaf alone.
            .not_valid_before(now - CA_LIFETIME)
            .not_valid_after(now + CA_LIFETIME)
            .add_extension(
                x509.BasicConstraints(ca=True, path_length=1 if issuer is None else 0),
                critical=True,
            )
            .add_extension(_key_usage(ca=True), critical=True)
            .add_extension(
                x509.SubjectKeyIdentifier.from_public_key(public), critical=False
            )
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()),
                critical=False,
            )
            .add_extension(
                x509.SubjectAlternativeName(
                    [x509.UniformResourceIdentifier(f"spiffe://{trust_domain}")]
                ),
                critical=False,
            )
            .sign(signer, hashes.SHA256())
        )

    @classmethod
    def adopt(
        cls,
        trust_domain: str,
        certificate: x509.Certificate,
        key: ec.EllipticCurvePrivateKey,
    ) -> Self:
        """Return somebody else's CA: whoever has its key can issue what they like."""
        adopted = cls.__new__(cls)
        adopted.trust_domain = trust_domain
        adopted.certificate = certificate
        adopted._key = key  # noqa: SLF001 - our own kind
        return adopted

    @property
    def bundle_pem(self) -> bytes:
        """The trust bundle: the CA certificate as PEM."""
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    def issue(  # noqa: PLR0913 - a test asks for one oddity at a time
        self,
        spiffe_id: str,
        dns_names: Sequence[str] = (),
        *,
        not_before: dt.datetime | None = None,
        not_after: dt.datetime | None = None,
        more_uris: Sequence[str] = (),
        ip_addresses: Sequence[str] = (),
        replace: Sequence[ExtensionAny] = (),
        omit: Sequence[x509.ObjectIdentifier] = (),
        key: PrivateKey | None = None,
    ) -> Svid:
        """Return a new SVID signed by this CA, whatever was asked for.

        Neither the ID's syntax nor its trust domain is checked: tests need leaves that
        break the X509-SVID rules, and the demo needs an impostor's.

        Args:
            spiffe_id: the first URI SAN.
            dns_names: DNS SANs, for servers that clients check by name.
            not_before: 10 s ago unless given.
            not_after: an hour after `not_before` unless given.
            more_uris: further URI SANs; the specification allows exactly one.
            ip_addresses: IP SANs.
            replace: extensions to use instead of, or beside, the usual ones.
            omit: usual extensions to leave out.
            key: the leaf's own key; a new one on P-256 unless given.
        """
        key = ec.generate_private_key(ec.SECP256R1()) if key is None else key
        start = not_before if not_before is not None else _now() - BACKDATED
        end = not_after if not_after is not None else start + LIFETIME
        builder = (
            x509.CertificateBuilder()
            .subject_name(_subject())
            .issuer_name(self.certificate.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(start)
            .not_valid_after(end)
        )
        names: list[x509.GeneralName] = [
            x509.UniformResourceIdentifier(uri) for uri in (spiffe_id, *more_uris)
        ]
        names += [x509.DNSName(name) for name in dns_names]
        names += [x509.IPAddress(ipaddress.ip_address(a)) for a in ip_addresses]
        extensions = {
            extension.oid: extension
            for extension in (
                *self._usual_extensions(key.public_key(), names),
                *replace,
            )
        }
        for oid, extension in extensions.items():
            if oid not in omit:
                builder = builder.add_extension(extension.value, extension.critical)
        certificate = builder.sign(self._key, hashes.SHA256())
        return Svid(
            spiffe_id=spiffe_id,
            certificate=certificate,
            certificate_pem=certificate.public_bytes(serialization.Encoding.PEM),
            key_pem=key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            ),
        )

    def issue_expired(self, spiffe_id: str) -> Svid:
        """Return an SVID of the usual shape whose hour ended a minute ago."""
        end = _now() - dt.timedelta(minutes=1)
        return self.issue(spiffe_id, not_before=end - LIFETIME, not_after=end)

    def _usual_extensions(
        self, public_key: PublicKey, names: list[x509.GeneralName]
    ) -> list[ExtensionAny]:
        """Return the extensions of an X.509-SVID (X509-SVID §4) as SPIRE sets them."""
        both = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        return [
            extension(x509.BasicConstraints(ca=False, path_length=None), critical=True),
            extension(_key_usage(ca=False), critical=True),
            extension(x509.ExtendedKeyUsage(both), critical=False),
            extension(
                x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False
            ),
            extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(
                    self._key.public_key()
                ),
                critical=False,
            ),
            extension(x509.SubjectAlternativeName(names), critical=False),
        ]


def extension(value: x509.ExtensionType, *, critical: bool) -> ExtensionAny:
    """Return `value` as an extension for `DevelopmentCa.issue`."""
    return x509.Extension(value.oid, critical, value)


def write_svid(folder: Path, name: str, svid: Svid) -> SvidFiles:
    """Write ``name.crt`` and ``name.key`` (mode 0600) into `folder`, and say where."""
    files = SvidFiles(folder / f"{name}.crt", folder / f"{name}.key")
    write_private(files.key, svid.key_pem)
    files.certificate.write_bytes(svid.certificate_pem)
    return files


def write_bundle(folder: Path, ca: DevelopmentCa) -> Path:
    """Write the trust bundle as ``<trust domain>.pem`` into `folder`, and say where."""
    path = folder / f"{ca.trust_domain}.pem"
    path.write_bytes(ca.bundle_pem)
    return path


def write_private(path: Path, content: bytes) -> None:
    """Create `path` with mode 0600 from its first moment; refuse an existing file."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)


def _now() -> dt.datetime:
    # X.509 times have whole seconds.
    return dt.datetime.now(dt.UTC).replace(microsecond=0)


def _subject() -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, ORGANIZATION)])


def _key_usage(*, ca: bool) -> x509.KeyUsage:
    """Return what SPIRE sets: signing certificates for a CA, else signatures only."""
    return x509.KeyUsage(
        digital_signature=not ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=ca,
        crl_sign=ca,
        encipher_only=False,
        decipher_only=False,
    )
