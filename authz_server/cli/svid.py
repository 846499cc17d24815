"""``authz-server svid``: what an SVID says, and which rules it keeps."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from authz_server.cli.serve import add_config_arguments, config_from
from authz_server.errors import AuthzError, SetupError, SvidError, TokenError

if TYPE_CHECKING:
    from authz_server.config import Config
    from authz_server.identity.certificate_facts import Fact
    from authz_server.identity.inspection import Finding, Inspection
    from authz_server.identity.jws import Token
    from authz_server.identity.sources import IdentityState
    from authz_server.identity.spiffe_id import SpiffeId
    from authz_server.policy.model import AccessPolicy

_PEM: Final = b"-----BEGIN"
_ENCODED_PEM: Final = b"-----BEGIN%20"
_TOKEN: Final = b"ey"
"""Base64 of what any JOSE header begins with, a brace and a quote or a space."""


def add_parser(subparsers: Any) -> None:  # noqa: ANN401 - argparse's private class
    """Add the command to the command line."""
    parser = subparsers.add_parser("svid", help="look into certificates and tokens")
    commands = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    inspect = commands.add_parser(
        "inspect",
        help="say what an SVID holds, and every rule that it keeps or breaks",
        description="Reads PEM certificates (the leaf first), the percent-encoded PEM "
        "of Envoy, or a JWT-SVID. With a configuration it also says what a server with "
        "it would make of them, for which it asks every configured source once. Ends "
        "with 1 if a rule is broken.",
    )
    inspect.add_argument("file", metavar="FILE", help="- for standard input")
    inspect.add_argument(
        "--output", choices=("text", "json"), default="text", help="how to print"
    )
    add_config_arguments(inspect)
    inspect.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print what the SVID is; 0 if it breaks no rule."""
    from authz_server.identity.inspection import Verdict

    now_s = time.time()
    inspection = _inspect(_read(args.file), now_s)
    facts = dict(inspection.facts)
    if _is_configured(args):
        server = _open_server(config_from(args))
        facts["groups of the policy"] = server.groups(inspection.spiffe_id)
        more = server.findings(inspection, now_s)
    else:
        more = _not_checked(inspection.kind, "needs --config")
    findings = [*inspection.findings, *more]
    show = _print_json if args.output == "json" else _print_text
    show(inspection.kind, facts, findings)
    return int(any(item.verdict is Verdict.BROKEN for item in findings))


def _read(name: str) -> bytes:
    from authz_server.identity.certificate import MAX_CERTIFICATE_BYTES

    # One byte more than is accepted, so that what is too large is told as that.
    limit = MAX_CERTIFICATE_BYTES + 1
    if name == "-":
        return sys.stdin.buffer.read(limit)
    try:
        with open(name, "rb") as file:  # noqa: PTH123 - a name or "-"
            return file.read(limit)
    except OSError as error:
        raise SetupError(f"{name}: cannot be read: {error.strerror}") from error


def _inspect(data: bytes, now_s: float) -> Inspection:
    from authz_server.identity.certificate import decode_pem
    from authz_server.identity.inspection import inspect_certificates, inspect_token

    data = data.strip()
    if data.startswith(_ENCODED_PEM):
        return inspect_certificates(decode_pem(data), now_s)
    if data.startswith(_PEM):
        return inspect_certificates(data, now_s)
    if data.startswith(_TOKEN):
        return inspect_token(data, now_s)
    raise SvidError(
        "expected PEM certificates, Envoy's percent-encoded PEM or a JWT-SVID"
    )


# What a server would make of it


def _is_configured(args: argparse.Namespace) -> bool:
    return args.config is not None or any(
        value is not None
        for name, value in vars(args).items()
        if name.startswith("setting:")
    )


def _open_server(config: Config) -> _Server:
    from authz_server.assembly import open_identities
    from authz_server.policy.document import load_policy

    policy = load_policy(Path(config.policy.file))
    identities = open_identities(config)
    try:
        identities.reload()
        return _Server(config, policy, identities.current)
    finally:
        identities.stop()


@dataclasses.dataclass(frozen=True, slots=True)
class _Server:
    config: Config
    policy: AccessPolicy
    state: IdentityState

    def groups(self, spiffe_id: SpiffeId | None) -> tuple[str, ...]:
        """Return the groups of the policy that have the workload."""
        return tuple(
            group.name
            for group in self.policy.groups.values()
            if spiffe_id is not None
            and any(pattern.matches(spiffe_id) for pattern in group.spiffe)
        )

    def findings(self, inspection: Inspection, now_s: float) -> list[Finding]:
        """Return what is checked beyond the SVID's own rules."""
        if inspection.spiffe_id is None:
            return _not_checked(inspection.kind, "not before the rules above are kept")
        checks = self._checks(inspection, inspection.spiffe_id, now_s)
        return [
            _judged(item, checks[item.name]) if item.name in checks else item
            for item in _not_checked(
                inspection.kind, "identity.chain: proxy leaves that to Envoy"
            )
        ]

    def _checks(
        self, inspection: Inspection, spiffe_id: SpiffeId, now_s: float
    ) -> dict[str, Callable[[], object]]:
        from authz_server.identity.jws import check_dates, read_window

        checks: dict[str, Callable[[], object]] = {
            "trust domain": lambda: self._check_trust_domain(spiffe_id),
            "revocation": lambda: self._check_revocation(spiffe_id, inspection),
        }
        leaf, token = inspection.leaf, inspection.token
        if leaf is not None and self.config.identity.chain != "proxy":
            # Envoy reports the leaf alone; what comes after it comes in XFCC only.
            has_chain = self.config.identity.xfcc != "none"
            chain = inspection.intermediates if has_chain else ()
            checks["chain"] = lambda: self.state.trust.verify(leaf, now_s, chain)
        if token is not None:
            checks["signature"] = lambda: self._check_signature(token, now_s)
            checks["lifetime"] = lambda: check_dates(
                *read_window(token.claims),
                now_s,
                max_lifetime_s=self.config.identity.max_token_lifetime_s,
            )
        return checks

    def _check_trust_domain(self, spiffe_id: SpiffeId) -> None:
        if spiffe_id.trust_domain not in self.policy.trust_domains:
            raise SvidError(
                f"{spiffe_id.trust_domain} is neither trustDomain nor in federatesWith"
            )

    def _check_revocation(self, spiffe_id: SpiffeId, inspection: Inspection) -> None:
        revocations = self.state.revocations
        if revocations is None:
            raise SvidError("the revocation list cannot be read")
        revocations.check_id(spiffe_id)
        if inspection.leaf is not None:
            revocations.check_certificate(inspection.leaf)
        if inspection.token is not None:
            revocations.check_token(inspection.token.claims.get("jti", ""))

    def _check_signature(self, token: Token, now_s: float) -> None:
        from authz_server.identity.jwt_svid import read_jwt_svid

        audience = frozenset(self.config.identity.jwt_svid.audience)
        if not audience:
            raise TokenError("identity.jwt_svid.audience is empty: no JWT-SVID is read")
        read_jwt_svid(
            token,
            lambda trust_domain: self.state.trust.jwt_keys(trust_domain, now_s),
            audience,
        )


def _judged(item: Finding, check: Callable[[], object]) -> Finding:
    from authz_server.identity.inspection import Verdict

    try:
        check()
    except AuthzError as error:
        return dataclasses.replace(item, verdict=Verdict.BROKEN, detail=str(error))
    return dataclasses.replace(item, verdict=Verdict.KEPT, detail="")


def _not_checked(kind: str, detail: str) -> list[Finding]:
    """Return the rules that only a server can check."""
    from authz_server.identity.inspection import (
        JWT_SVID,
        X509_SVID,
        Finding,
        Verdict,
    )

    own = {
        JWT_SVID: (
            ("signature", "JWT-SVID §4", "its trust domain signed it for such as us"),
            ("lifetime", "identity.max_token_lifetime_s", "it ends soon enough"),
        ),
        X509_SVID: (
            ("chain", "X509-SVID §5", "a CA of its trust domain vouches for it"),
        ),
    }
    rules = (
        ("trust domain", "policy.file", "its trust domain is one of the policy's"),
        ("revocation", "identity.revocations", "nothing of it is revoked"),
        *own[kind],
    )
    return [Finding(*rule, Verdict.NOT_CHECKED, detail) for rule in rules]


# Printing


def _print_json(
    kind: str, facts: Mapping[str, Fact], findings: Sequence[Finding]
) -> None:
    rules = [dataclasses.asdict(item) for item in findings]
    print(json.dumps({"kind": kind, "facts": facts, "rules": rules}, indent=2))


def _print_text(
    kind: str, facts: Mapping[str, Fact], findings: Sequence[Finding]
) -> None:
    print(kind)
    for name, fact in facts.items():
        lines = (fact,) if isinstance(fact, str) else (fact or ("none",))
        for number, line in enumerate(lines):
            print(f"  {'' if number else name:<20}  {_printable(line)}")
    print("rules")
    for item in findings:
        print(f"  {item.verdict:<11}  {item.name}: {item.sentence} ({item.section})")
        if item.detail:
            print(f"  {'':<11}  {_printable(item.detail)}")


def _printable(text: str) -> str:
    """Return `text` without what could drive the terminal of whoever looks."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
