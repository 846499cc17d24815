"""What a certificate or a token says, and which rules it keeps, in full.

A check stops at the first broken rule; whoever mends an SVID wants to see them all.
Nothing here decides anything: the same rules do so in `leaf_profile` and `jwt_svid`.
"""

from __future__ import annotations

import datetime as dt
import enum
import functools
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from authz_server.errors import Reason, TokenError
from authz_server.identity.certificate import (
    Leaf,
    contents_of,
    load_certificates,
    read_leaf_of,
)
from authz_server.identity.certificate_facts import Fact, certificate_facts
from authz_server.identity.chain import Chain
from authz_server.identity.jwk import KeySet
from authz_server.identity.jws import (
    Token,
    check_audience,
    check_dates,
    parse_token,
    read_token_id,
    read_window,
)
from authz_server.identity.jwt_svid import read_jwt_svid
from authz_server.identity.leaf_profile import RULES
from authz_server.identity.spiffe_id import SpiffeId, TrustDomain

X509_SVID: Final = "X509-SVID"
JWT_SVID: Final = "JWT-SVID"


class Verdict(enum.StrEnum):
    """Whether a rule is kept."""

    KEPT = "kept"
    BROKEN = "broken"
    NOT_CHECKED = "not checked"


@dataclass(frozen=True, slots=True)
class Finding:
    """One rule, and what became of it.

    Attributes:
        name, section, sentence: what the rule is about, where it is written, and what
            keeps it.
        detail: how it is broken, or why it was not checked.
    """

    name: str
    section: str
    sentence: str
    verdict: Verdict
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Inspection:
    """A certificate or token, laid open.

    Attributes:
        kind: what it was judged as, `X509_SVID` or `JWT_SVID`.
        facts: what it says, believed or not.
        spiffe_id: None if it breaks a rule other than that of the dates.
        leaf, token: the one or the other, or None as `spiffe_id` is.
        intermediates: the certificates after the first.
    """

    kind: str
    facts: Mapping[str, Fact]
    findings: tuple[Finding, ...]
    spiffe_id: SpiffeId | None = None
    leaf: Leaf | None = None
    token: Token | None = None
    intermediates: Chain = ()


def inspect_certificates(pem: bytes, now_s: float) -> Inspection:
    """Return what the first certificate of `pem` says, and which rules it keeps.

    Those after it are described and not judged. Not checked: signatures, and everything
    that depends on a server's configuration.

    Raises:
        SvidError: if it cannot be parsed.
    """
    certificate, *others = load_certificates(pem)
    extensions, public_key = contents_of(certificate)
    findings = [
        _finding(
            rule.name, rule.section, rule.sentence, rule.breach(extensions, public_key)
        )
        for rule in RULES
    ]
    keeps_profile = all(item.verdict is Verdict.KEPT for item in findings)
    start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    findings.append(
        _finding(
            "dates",
            "RFC 5280 §4.1.2.5",
            "it is valid now",
            _out_of_date(start.timestamp(), end.timestamp(), now_s),
        )
    )
    leaf = read_leaf_of(certificate) if keeps_profile else None
    return Inspection(
        kind=X509_SVID,
        facts=certificate_facts(certificate, others),
        findings=tuple(findings),
        spiffe_id=leaf.spiffe_id if leaf else None,
        leaf=leaf,
        intermediates=tuple(others),
    )


def inspect_token(text: bytes, now_s: float) -> Inspection:
    """Return what the token in `text` says, and which rules of a JWT-SVID it keeps.

    The facts hold nothing of the signature, and only the names of claims that are not
    registered (RFC 7519 §4.1). Not checked: the signature, and everything that depends
    on a server's configuration.
    """
    form = ("form", "JWT-SVID §2", "it is one JWS in compact form, as SPIFFE allows it")
    try:
        token = parse_token(text)
    except TokenError as error:
        return Inspection(JWT_SVID, {}, (_finding(*form, str(error)),))
    findings = [
        _finding(*form, None),
        *(_finding(*rule[:3], _breach(rule[3], token)) for rule in _TOKEN_RULES),
    ]
    keeps_profile = all(item.verdict is Verdict.KEPT for item in findings)
    check_now = functools.partial(_check_now, now_s=now_s)
    findings.append(
        _finding("dates", "JWT-SVID §3.3", "it is valid now", _breach(check_now, token))
    )
    return Inspection(
        kind=JWT_SVID,
        facts=_token_facts(token),
        findings=tuple(findings),
        spiffe_id=SpiffeId.parse_workload(token.claims["sub"])
        if keeps_profile
        else None,
        token=token if keeps_profile else None,
    )


def _finding(name: str, section: str, sentence: str, breach: str | None) -> Finding:
    verdict = Verdict.KEPT if breach is None else Verdict.BROKEN
    return Finding(name, section, sentence, verdict, breach or "")


def _out_of_date(valid_from_s: float, valid_until_s: float, now_s: float) -> str | None:
    if now_s > valid_until_s:
        return f"it expired {_span(now_s - valid_until_s)} ago"
    if now_s < valid_from_s:
        return f"it becomes valid in {_span(valid_from_s - now_s)}"
    return None


def _span(seconds: float) -> str:
    return str(dt.timedelta(seconds=round(seconds)))


def _breach(check: Callable[[Token], object], token: Token) -> str | None:
    try:
        check(token)
    except TokenError as error:
        return str(error)
    return None


def _check_workload(token: Token) -> None:
    asked: list[TrustDomain] = []

    def no_keys(trust_domain: TrustDomain) -> KeySet:
        asked.append(trust_domain)
        return {}

    try:
        read_jwt_svid(token, no_keys, frozenset({"nobody"}))
    except TokenError:
        # What fails once keys were asked for is the signature, and no key is here.
        if not asked:
            raise


def _check_audience(token: Token) -> None:
    try:
        check_audience(token.claims, frozenset({"nobody"}))
    except TokenError as error:
        if error.reason is not Reason.TOKEN_AUDIENCE:
            raise


def _check_now(token: Token, now_s: float) -> None:
    check_dates(*read_window(token.claims), now_s, max_lifetime_s=math.inf)


_TOKEN_RULES: Final[tuple[tuple[str, str, str, Callable[[Token], object]], ...]] = (
    (
        "workload",
        "JWT-SVID §2.3, §3.1",
        "typ is none, JWT or JOSE, and the subject is a workload's SPIFFE ID",
        _check_workload,
    ),
    ("audience", "JWT-SVID §3.2", "it says whom it is for", _check_audience),
    (
        "end",
        "JWT-SVID §3.3",
        "it says when it ends, in numbers",
        lambda token: read_window(token.claims),
    ),
    (
        "token ID",
        "RFC 7519 §4.1.7",
        "jti is text, if it is there",
        lambda token: read_token_id(token.claims),
    ),
)


def _token_facts(token: Token) -> dict[str, Fact]:
    claims = token.claims
    facts: dict[str, Fact] = {
        "algorithm": token.algorithm,
        "key ID": token.key_id,
        "type": token.type or "not said",
    }
    for name in ("sub", "aud", "iss", "jti"):
        if name in claims:
            facts[name] = _value(claims[name])
    for name in ("iat", "nbf", "exp"):
        if name in claims:
            facts[name] = _date(claims[name])
    facts["further claims"] = tuple(sorted(claims.keys() - facts.keys()))
    return facts


def _value(value: Any) -> Fact:  # noqa: ANN401 - any JSON
    if isinstance(value, list):
        return tuple(map(_text, value))
    return _text(value)


def _text(value: Any) -> str:  # noqa: ANN401 - any JSON
    return value if isinstance(value, str) else json.dumps(value)


def _date(value: Any) -> str:  # noqa: ANN401 - any JSON
    try:
        return dt.datetime.fromtimestamp(value, tz=dt.UTC).isoformat()
    except (TypeError, ValueError, OverflowError, OSError):
        return _text(value)
