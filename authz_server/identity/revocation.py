"""Who is no longer believed, whatever their certificate says.

The list is a text file that can be appended to: one entry a line, ``#`` begins a
comment.

    spiffe-id spiffe://factory.example/ns/line1/sa/camera
    subtree spiffe://factory.example/ns/line2          (the ID itself and all below it)
    trust-domain supplier.example
    certificate 5f3a…c1 O=SPIRE,C=US      (serial in hex, issuer as RFC 4514 text, in
                                           which '%' and '#' are percent-encoded)
    jwt-id 0b7c1a4e                       (the claim jti, encoded in the same way)
"""

from __future__ import annotations

import hashlib
import logging
import re
import string
import threading
import urllib.parse
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

from cryptography import x509

from authz_server.errors import AuthzError, Reason, SpiffeIdError
from authz_server.identity.certificate import Leaf
from authz_server.identity.spiffe_id import SpiffeId, TrustDomain
from authz_server.watch import Fingerprint, Watch, fingerprint

_log: Final = logging.getLogger("authz_server.revocation")

MAX_LIST_BYTES: Final = 64 * 1024 * 1024

_PLAIN: Final = string.punctuation.replace("%", "").replace("#", "")
_SERIAL: Final = re.compile(r"[0-9a-f]{1,40}", re.ASCII)  # RFC 5280 §4.1.2.2: 20 octets


class RevokedError(AuthzError):
    """The caller, or the certificate that it shows, has been revoked."""

    default_reason = Reason.PRINCIPAL_REVOKED


@dataclass(frozen=True, slots=True)
class Revocations:
    """Everything that is revoked at one moment.

    Attributes:
        ids: single workloads.
        subtrees: IDs of which every descendant is revoked too.
        certificates: (serial number, issuer as RFC 4514 text).
        token_ids: claims `jti`, of whatever issuer.
        revision: changes whenever an entry does.
    """

    ids: frozenset[SpiffeId] = frozenset()
    subtrees: frozenset[SpiffeId] = frozenset()
    trust_domains: frozenset[TrustDomain] = frozenset()
    certificates: frozenset[tuple[int, str]] = frozenset()
    token_ids: frozenset[str] = frozenset()
    revision: str = ""

    def check_id(self, spiffe_id: SpiffeId) -> None:
        """Raise `RevokedError` if the workload is revoked, alone or with others."""
        if spiffe_id.trust_domain in self.trust_domains:
            raise RevokedError(f"trust domain {spiffe_id.trust_domain} is revoked")
        if spiffe_id in self.ids:
            raise RevokedError(f"{spiffe_id} is revoked")
        if self.subtrees:
            for count in range(len(spiffe_id.path) + 1):
                above = SpiffeId(spiffe_id.trust_domain, spiffe_id.path[:count])
                if above in self.subtrees:
                    raise RevokedError(f"everything below {above} is revoked")

    def check_certificate(self, leaf: Leaf) -> None:
        """Raise `RevokedError` if this one certificate is revoked."""
        if self.certificates and name_certificate(leaf.certificate) in (
            self.certificates
        ):
            raise RevokedError("the certificate is revoked", Reason.CERTIFICATE_REVOKED)

    def check_token(self, token_id: str) -> None:
        """Raise `RevokedError` if the token of this ID is revoked."""
        if token_id in self.token_ids:
            raise RevokedError("the token is revoked", Reason.TOKEN_REVOKED)


def name_certificate(certificate: x509.Certificate) -> tuple[int, str]:
    """Return serial number and issuer, which name a certificate (RFC 5280 §4.1.2.2)."""
    return certificate.serial_number, certificate.issuer.rfc4514_string()


def certificate_entry(certificate: x509.Certificate) -> str:
    """Return the line that revokes `certificate`."""
    serial, issuer = name_certificate(certificate)
    return f"certificate {serial:x} {_encode(issuer, _PLAIN + ' ')}"


def token_entry(token_id: str) -> str:
    """Return the line that revokes the token whose `jti` is `token_id`."""
    return f"jwt-id {_encode(token_id)}"


def _encode(text: str, safe: str = _PLAIN) -> str:
    """Return `text` percent-encoded where it would end a line or begin a comment."""
    return urllib.parse.quote(text, safe=safe)


@dataclass(slots=True)
class _Entries:
    """A list on its way to be `Revocations`."""

    ids: set[SpiffeId] = field(default_factory=set)
    subtrees: set[SpiffeId] = field(default_factory=set)
    trust_domains: set[TrustDomain] = field(default_factory=set)
    certificates: set[tuple[int, str]] = field(default_factory=set)
    token_ids: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, revocations: Revocations) -> Self:
        """Return the entries of a list that is in force."""
        return cls(
            set(revocations.ids),
            set(revocations.subtrees),
            set(revocations.trust_domains),
            set(revocations.certificates),
            set(revocations.token_ids),
        )

    def add(self, line: str) -> None:
        """Add what `line` says.

        Raises:
            ValueError: if it is no entry.
        """
        kind, _, value = line.partition(" ")
        value = value.strip()
        try:
            match kind:
                case "spiffe-id":
                    self.ids.add(SpiffeId.parse_workload(value))
                case "subtree":
                    self.subtrees.add(SpiffeId.parse(value))
                case "trust-domain":
                    self.trust_domains.add(TrustDomain(value))
                case "certificate":
                    serial, _, issuer = value.partition(" ")
                    if _SERIAL.fullmatch(serial) is None or not issuer:
                        raise ValueError("expected a serial in hex and an issuer")
                    name = urllib.parse.unquote(issuer.strip())
                    self.certificates.add((int(serial, 16), name))
                case "jwt-id":
                    if not value:
                        raise ValueError("expected the ID of a token")
                    self.token_ids.add(urllib.parse.unquote(value))
                case _:
                    raise ValueError(
                        f"{kind!r} is none of spiffe-id, subtree, trust-domain, "
                        "certificate, jwt-id"
                    )
        except SpiffeIdError as error:
            raise ValueError(str(error)) from error

    def freeze(self) -> Revocations:
        """Return the finished list."""
        kinds = (
            self.ids,
            self.subtrees,
            self.trust_domains,
            self.certificates,
            self.token_ids,
        )
        parts = [sorted(map(str, kind)) for kind in kinds]
        return Revocations(
            frozenset(self.ids),
            frozenset(self.subtrees),
            frozenset(self.trust_domains),
            frozenset(self.certificates),
            frozenset(self.token_ids),
            hashlib.sha256(repr(parts).encode()).hexdigest()[:16],
        )


def parse_revocations(
    text: str, before: Revocations | None = None
) -> tuple[Revocations, list[str]]:
    """Return the list that `text` spells, and what is wrong with which line.

    A list with a bad line revokes what its good lines say *and* what was revoked
    `before`: a slip of the pen must never let anybody back in.
    """
    entries, problems = _Entries(), []
    for number, line in enumerate(text.splitlines(), 1):
        entry = line.partition("#")[0].strip()
        if entry:
            try:
                entries.add(entry)
            except ValueError as error:
                problems.append(f"line {number}: {error}")
    if problems and before is not None:
        kept = _Entries.of(before)
        entries.ids |= kept.ids
        entries.subtrees |= kept.subtrees
        entries.trust_domains |= kept.trust_domains
        entries.certificates |= kept.certificates
        entries.token_ids |= kept.token_ids
    return entries.freeze(), problems


class RevocationFile:
    """The revocation list in a file.

    Until the file could be read once there is no list, and nobody is believed.

    Args:
        on_change: called whenever another list is in force, from any thread.
    """

    def __init__(
        self, path: Path, on_change: Callable[[], None] = lambda: None
    ) -> None:
        self._path = path
        self._on_change = on_change
        self._lock = threading.Lock()
        self._seen: Fingerprint | None = None
        self._current: Revocations | None = None
        self._error: str | None = "not read yet"
        self._watch = Watch(self._look, "revocation-watch")

    @property
    def current(self) -> Revocations | None:
        """The list in force; None while there is none to rely on."""
        return self._current

    @property
    def error(self) -> str | None:
        """What is wrong with the list; None if nothing is."""
        if self._watch.has_died:
            return "the revocation list is no longer watched; restart the server"
        return self._error

    def reload(self) -> None:
        """Read the file again."""
        with self._lock:
            self._read()

    def start_watching(self, interval_s: float) -> None:
        """Read the file again from now on whenever it has changed."""
        self._watch.start(interval_s)

    def stop(self) -> None:
        """End the watching; the list stays."""
        self._watch.stop()

    def _look(self) -> None:
        with self._lock:
            if fingerprint(self._path) != self._seen:
                self._read()

    def _read(self) -> None:
        # Before reading: a change while it is read is then seen as one more change.
        self._seen = fingerprint(self._path)
        before = self._current
        problems: list[str] = []
        try:
            with self._path.open("rb") as file:
                data = file.read(MAX_LIST_BYTES + 1)
            if len(data) > MAX_LIST_BYTES:
                problems = ["too large"]
            else:
                self._current, problems = parse_revocations(
                    data.decode("utf-8", "replace"), self._current
                )
        except OSError as error:
            problems = [f"cannot be read: {error.strerror}"]
        self._error = f"{self._path}: {'; '.join(problems)}" if problems else None
        if problems:
            _log.error("%s", self._error)
        if self._current is not before:
            self._on_change()
