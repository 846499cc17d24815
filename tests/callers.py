"""Callers with certificates, tokens and proxies in front, and who asks about them."""

from __future__ import annotations

import dataclasses
import datetime as dt
import hashlib
import json
import math
import time
from base64 import b64encode
from collections.abc import Mapping, Sequence
from typing import Any, Final

import pytest
from checks import CAMERA, check_request, envoy_certificate
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from token_forge import Forge, jwk

from authz_server.clock import Instant
from authz_server.demo.pki import DevelopmentCa, Svid
from authz_server.errors import AuthzError, Reason
from authz_server.facts import Facts, Plan, extract
from authz_server.identity.identify import Identifier, Identity
from authz_server.identity.issuers import HeldKeys, IssuerKeys
from authz_server.identity.jwk import digest
from authz_server.identity.revocation import parse_revocations
from authz_server.identity.rules import XFCC, Rules
from authz_server.identity.sources import IdentitySources, IdentityState
from authz_server.identity.spiffe_id import TrustDomain
from authz_server.identity.trust import TrustStore
from authz_server.identity.trust_bundle import parse_spiffe_bundle

FACTORY, SUPPLIER = TrustDomain("factory.example"), TrustDomain("supplier.example")
ROBOT = "spiffe://supplier.example/ns/parts/sa/robot"
GATEWAY = "spiffe://factory.example/ns/edge/sa/gateway"
INNER = "spiffe://factory.example/ns/inference/sa/envoy"
IDP, SSO = "https://idp.factory.example", "https://sso.factory.example"

CA, SUPPLIER_CA = DevelopmentCa(FACTORY.name), DevelopmentCa(SUPPLIER.name)
INTERMEDIATE = DevelopmentCa(FACTORY.name, CA)

SPIRE = Forge(FACTORY.name, "jwt-1")
SUPPLIER_SPIRE = Forge(SUPPLIER.name, "jwt-1")
IDP_FORGE, SSO_FORGE = Forge(IDP, "idp-1"), Forge(SSO, "sso-1")

NOW_S: Final = time.time()
"""When all this happens: a CA here is of the real time, and everything else of it."""


def issue(
    ca: DevelopmentCa, spiffe_id: str, begin_s: float = -10, end_s: float = 3600
) -> Svid:
    """Return an SVID that is good from when until when, in seconds from `NOW_S`."""
    return ca.issue(spiffe_id, not_before=moment(begin_s), not_after=moment(end_s))


def moment(after_s: float) -> dt.datetime:
    """Return the whole second that is so many seconds after `NOW_S`."""
    return dt.datetime.fromtimestamp(int(NOW_S) + after_s, tz=dt.UTC)


CAMERA_SVID, OTHER_SVID = issue(CA, CAMERA), issue(CA, CAMERA)
GATEWAY_SVID, ROBOT_SVID = issue(CA, GATEWAY), issue(SUPPLIER_CA, ROBOT)
NESTED_SVID = issue(INTERMEDIATE, CAMERA)


def spiffe_bundle(ca: DevelopmentCa, *forges: Forge) -> bytes:
    """Return a SPIFFE bundle of a CA and of JWT authorities."""
    der = ca.certificate.public_bytes(Encoding.DER)
    keys: list[dict[str, Any]] = [forge.jwk(use="jwt-svid") for forge in forges]
    authority = jwk(ca._key, kid=..., use="x509-svid", x5c=[b64encode(der).decode()])
    return json.dumps({"keys": [authority, *keys]}).encode()


def xfcc(
    svid: Svid,
    *,
    chain: Sequence[x509.Certificate] | None = None,
    cert: bool = True,
    uri: str | None = None,
    **pairs: str,
) -> bytes:
    """Return what Envoy writes of a peer with `svid`, in Envoy's own order."""
    pem = svid.certificate_pem
    der = svid.certificate.public_bytes(Encoding.DER)
    found = [f"By={INNER}", f"Hash={hashlib.sha256(der).hexdigest()}"]
    if cert:
        found.append(f'Cert="{envoy_certificate(pem)}"')
    if chain is not None:
        pem += b"".join(item.public_bytes(Encoding.PEM) for item in chain)
        found.append(f'Chain="{envoy_certificate(pem)}"')
    found += ['Subject="O=authz-server demo"', f"URI={uri or svid.spiffe_id}"]
    found += [f"{key}={value}" for key, value in pairs.items()]
    return ";".join(found).encode("latin-1")


def bearer(token: bytes) -> bytes:
    """Return an authorization header."""
    return b"Bearer " + token


class Desk:
    """Asks who calls, under rules, bundles, keys and revocations that a test sets.

    Attributes:
        now_s: the time of the next request.
        keys: of each issuer; None for such as could not be had.
    """

    def __init__(
        self,
        rules: Rules,
        *,
        sources: IdentitySources | None = None,
        max_bundle_age_s: float = math.inf,
        key_age_s: float = math.inf,
    ) -> None:
        self.rules = rules
        self.now_s = NOW_S
        self.identifier = Identifier(rules, sources or IdentitySources())
        self.store = TrustStore(
            max_age_s=max_bundle_age_s, clock=lambda: Instant(self.now_s, 0.0)
        )
        self.put(FACTORY, spiffe_bundle(CA, SPIRE))
        self.put(SUPPLIER, spiffe_bundle(SUPPLIER_CA, SUPPLIER_SPIRE))
        self.trust_domains = frozenset({FACTORY, SUPPLIER})
        end_s = NOW_S + key_age_s
        self.keys: dict[str, HeldKeys | None] = {IDP: HeldKeys(IDP_FORGE.keys, end_s)}
        self.revoked: str | None = ""

    def put(self, trust_domain: TrustDomain, bundle: bytes) -> None:
        """Put a bundle in force that is from now."""
        self.store.put(parse_spiffe_bundle(bundle, trust_domain), self.now_s, "test")

    @property
    def state(self) -> IdentityState:
        """What is in force."""
        revision = repr(
            [(name, held and digest(held.keys)) for name, held in self.keys.items()]
        )
        return IdentityState(
            self.store.current,
            IssuerKeys(self.keys, revision),
            None if self.revoked is None else parse_revocations(self.revoked)[0],
        )

    def facts(
        self,
        svid: Svid | None = CAMERA_SVID,
        *,
        principal: str | None = None,
        certificate: str | None = None,
        claims: Mapping[str, Any] | None = None,
        headers: Sequence[tuple[str, bytes]] = (),
        **header: bytes,
    ) -> Facts:
        """Return the facts of a request, extracted from a real CheckRequest.

        Args:
            svid: of the peer; None for a peer without a certificate.
            claims: what Envoy's jwt_authn has verified.
            header: by name, with ``_`` for ``-``; ``xfcc`` for the long one.
        """
        if svid is not None:
            principal = svid.spiffe_id if principal is None else principal
            if certificate is None:
                certificate = envoy_certificate(svid.certificate_pem)
        named = [
            (XFCC if name == "xfcc" else name.replace("_", "-"), value)
            for name, value in header.items()
        ]
        request = check_request(
            principal=principal or "",
            certificate=certificate or "",
            raw_headers=[*headers, *named],
        )
        key, _ = extract(bytes(request), Plan(credentials=self.rules.credentials))
        encoded = b"" if claims is None else json.dumps(claims, sort_keys=True).encode()
        return dataclasses.replace(Facts.decode(key), claims=encoded)

    def identify(self, *arguments: Any, **options: Any) -> Identity:
        """Return who calls with `facts` of these arguments."""
        return self.identifier.identify(
            self.facts(*arguments, **options),
            self.trust_domains,
            Instant(self.now_s, 0.0),
            self.state,
        )

    def name(self, *arguments: Any, **options: Any) -> str:
        """Return the name of who calls."""
        return str(self.identify(*arguments, **options).spiffe_id)

    def user(self, *arguments: Any, **options: Any) -> str | None:
        """Return for which user; None for none."""
        user = self.identify(*arguments, **options).user
        return user.subject if user else None

    def refusal(self, *arguments: Any, **options: Any) -> Reason:
        """Return why who calls is not believed."""
        with pytest.raises(AuthzError) as caught:
            self.identify(*arguments, **options)
        return caught.value.reason
