"""Our side of mutual TLS, which changes while the listener goes on.

gRPC asks for certificates before every handshake, so new ones serve new connections and
no call is dropped for them.
"""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

import grpc
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from authz_server.clock import Clock
from authz_server.identity.spiffe_id import TrustDomain
from authz_server.identity.trust import Trust
from authz_server.identity.workload_messages import OwnSvid
from authz_server.watch import Fingerprint, Watch, fingerprint

_log: Final = logging.getLogger("authz_server.transport")


@dataclass(frozen=True, slots=True)
class TlsMaterial:
    """What one handshake needs.

    Attributes:
        certificate_chain: PEM of our certificate, followed by its intermediates.
        private_key: PEM, not encrypted.
        client_ca: PEM of the CAs that clients' certificates must chain to.
    """

    certificate_chain: bytes
    private_key: bytes = field(repr=False)
    client_ca: bytes


class TlsSource(Protocol):
    """Where the material of the next handshake comes from."""

    @property
    def current(self) -> TlsMaterial | None:
        """The newest good material; None while nobody can be let in."""

    @property
    def error(self) -> str | None:
        """What is wrong with the newest; None if nothing is."""


class TlsFiles:
    """Material from PEM files, read again whenever one of them has changed.

    Files that do not belong together, as while they are being replaced, change nothing:
    the last good ones stay. Whether certificates are valid at this time, and what they
    say, is not checked: that is the client's to judge.
    """

    def __init__(self, certificate: Path, key: Path, client_ca: Path) -> None:
        self._files = (certificate, key, client_ca)
        self._seen: list[Fingerprint | None] = []
        self._current: TlsMaterial | None = None
        self._error: str | None = None
        self._watch = Watch(self._look, "tls-watch")

    @property
    def current(self) -> TlsMaterial | None:
        """The newest good material; None before there was any."""
        return self._current

    @property
    def error(self) -> str | None:
        """Why the material in force may not be the newest; None if it is."""
        if self._watch.has_died:
            return "the TLS files are no longer watched; restart the server"
        return self._error

    def reload(self) -> None:
        """Read the files again; `error` tells if that was in vain."""
        # Before reading: a change while they are read is then seen as one more change.
        self._seen = self._fingerprints()
        certificate, key, client_ca = self._files
        problem: str | None = None
        try:
            self._current = _checked(
                TlsMaterial(
                    certificate.read_bytes(), key.read_bytes(), client_ca.read_bytes()
                )
            )
        except OSError as error:
            problem = f"{error.filename}: cannot be read: {error.strerror}"
        except ValueError as error:
            problem = f"{', '.join(map(str, self._files))}: {error}"
        if problem is not None and problem != self._error:
            _log.error("TLS files were not loaded: %s", problem)
        self._error = problem

    def start_watching(self, interval_s: float) -> None:
        """Reload from now on whenever a file has changed."""
        self._watch.start(interval_s)

    def stop(self) -> None:
        """End the watching; the current material stays."""
        self._watch.stop()

    def _look(self) -> None:
        if self._fingerprints() != self._seen:
            self.reload()

    def _fingerprints(self) -> list[Fingerprint | None]:
        return [fingerprint(file) for file in self._files]


def _checked(material: TlsMaterial) -> TlsMaterial:
    """Return `material` if its parts belong together.

    Raises:
        ValueError: saying what is wrong; it never quotes a key.
    """
    leaf = _certificates(material.certificate_chain, "the certificate")[0]
    _certificates(material.client_ca, "the file of client CAs")
    try:
        key = serialization.load_pem_private_key(material.private_key, password=None)
        belongs = key.public_key() == leaf.public_key()
    except (ValueError, TypeError, UnsupportedAlgorithm):
        # Not chained: the error may hold a part of the key.
        raise ValueError(
            "the private key cannot be read; it must be PEM, without a password"
        ) from None
    if not belongs:
        raise ValueError("the private key is not that of the certificate")
    return material


def _certificates(pem: bytes, what: str) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError as error:
        raise ValueError(f"{what} is not PEM certificates") from error


class SvidTls:
    """Material from our own X.509-SVID and the trust bundles, both of which rotate.

    gRPC takes the client CAs for one pool. So whoever is let in by it must still be
    verified against the bundle of its own trust domain: see `ProxyList`.

    Args:
        svid: returns our own SVID; None while there is none.
        trust: returns the bundles in force.
        trust_domains: those of the clients that are to be let in.
    """

    def __init__(
        self,
        svid: Callable[[], OwnSvid | None],
        trust: Callable[[], Trust],
        trust_domains: Collection[TrustDomain],
        clock: Clock,
    ) -> None:
        self._svid = svid
        self._trust = trust
        self._trust_domains = sorted(set(trust_domains))
        self._clock = clock

    @property
    def current(self) -> TlsMaterial | None:
        """The newest material; None without an SVID or a bundle that is still good."""
        svid, client_ca = self._svid(), self._client_ca()
        if svid is None or not client_ca:
            return None
        return TlsMaterial(svid.certificate_chain_pem, svid.private_key_pem, client_ca)

    @property
    def error(self) -> str | None:
        """What is missing; None if nothing is."""
        if self._svid() is None:
            return "there is no SVID of our own, so the listener lets nobody in"
        if not self._client_ca():
            return "no trust domain of a listed proxy has a bundle to let it in by"
        return None

    def reload(self) -> None:
        """Do nothing: SVID and bundles are kept by their own sources."""

    def start_watching(self, interval_s: float) -> None:
        """Do nothing, for the same reason."""

    def stop(self) -> None:
        """Do nothing, for the same reason."""

    def _client_ca(self) -> bytes:
        trust, now_s = self._trust(), self._clock().wall_s
        anchors = [
            anchor
            for name in self._trust_domains
            if (anchor := trust.anchors.get(name)) and now_s <= anchor.good_until_s
        ]
        return b"".join(
            authority.public_bytes(serialization.Encoding.PEM)
            for anchor in anchors
            for authority in anchor.bundle.x509_authorities
        )


def server_credentials(source: TlsSource) -> grpc.ServerCredentials:
    """Return credentials that take the newest material of `source` at each handshake.

    While there is none every handshake fails; plaintext is never spoken. Connections
    that stand are not checked again: a CA that is gone from the material stops new ones
    only.
    """
    rotation = Rotation(source)
    return grpc.dynamic_ssl_server_credentials(
        rotation.first, rotation.fetch, require_client_authentication=True
    )


class Rotation:
    """Tells gRPC of new material, before each handshake.

    Attributes:
        first: what gRPC begins with, which lets nobody in.
    """

    def __init__(self, source: TlsSource) -> None:
        self._source = source
        self._sealed = self._in_use = _sealed_material()
        self.first = _configuration(self._sealed)

    def fetch(self) -> grpc.ServerCertificateConfiguration | None:
        """Return the newest material if it is not in use yet; None for no change.

        gRPC calls this for one handshake at a time, under a lock of its own.
        """
        newest = self._source.current or self._sealed
        if newest == self._in_use:
            return None
        self._in_use = newest
        return _configuration(newest)


def _configuration(material: TlsMaterial) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration(
        [(material.private_key, material.certificate_chain)],
        root_certificates=material.client_ca,
    )


def _sealed_material() -> TlsMaterial:
    """Return material that lets nobody in: the one client of its CA is lost at once.

    gRPC must be given some to begin with, and goes on with the last where it is given
    none: only this makes it turn everybody away.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "not ready")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(now)  # nor is it good for anything
        .sign(key, hashes.SHA256())
        .public_bytes(serialization.Encoding.PEM)
    )
    return TlsMaterial(
        certificate,
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
        certificate,
    )
