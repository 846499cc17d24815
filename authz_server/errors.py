"""Every error the program raises on purpose, and the reason codes of its denials.

A `Reason` is public and stable: the same string is in the response header, the
audit event and the documentation. Nothing here imports anything of ours.
"""

from __future__ import annotations

import enum
from typing import ClassVar


class Reason(enum.StrEnum):
    """Why a request was allowed or denied. Codes are never reused or renamed."""

    GRANTED = "granted"

    # The question itself (stage 1, extract).
    REQUEST_MALFORMED = "request_malformed"
    """The CheckRequest is not what Envoy sends; nothing in it is believed."""
    REQUEST_NOT_HTTP = "request_not_http"
    """A CheckRequest of the TCP filter: it names no operation that could be judged."""
    HEADER_DUPLICATE = "header_duplicate"
    """A header that a decision depends on came more than once."""

    # Who asks (stage 3, identify).
    PRINCIPAL_MISSING = "principal_missing"
    PRINCIPAL_INVALID = "principal_invalid"
    """The peer's name is not a workload's SPIFFE ID."""
    TRUST_DOMAIN_UNKNOWN = "trust_domain_unknown"
    CERTIFICATE_MISSING = "certificate_missing"
    CERTIFICATE_INVALID = "certificate_invalid"
    CERTIFICATE_MISMATCH = "certificate_mismatch"
    """The leaf's URI SAN and the principal that Envoy reports differ."""
    CERTIFICATE_EXPIRED = "certificate_expired"
    CERTIFICATE_NOT_YET_VALID = "certificate_not_yet_valid"
    CERTIFICATE_UNTRUSTED = "certificate_untrusted"
    """No chain leads from the leaf to the bundle of its trust domain."""
    CERTIFICATE_REVOKED = "certificate_revoked"
    PRINCIPAL_REVOKED = "principal_revoked"
    """The workload, what is above it, or its trust domain is on the revocation list."""
    REVOCATIONS_UNAVAILABLE = "revocations_unavailable"
    """A revocation list is configured and could not be read yet."""
    TRUST_BUNDLE_UNAVAILABLE = "trust_bundle_unavailable"
    """The trust domain has no bundle, an empty one, or one that is too old."""
    FORWARDED_INVALID = "forwarded_invalid"
    """What a trusted hop says of its caller (XFCC) is not exactly one clear element."""
    TOKEN_MALFORMED = "token_malformed"  # noqa: S105 - a reason code, no password
    """The header holds no single token, or the token breaks a rule of its form."""
    TOKEN_UNTRUSTED = "token_untrusted"  # noqa: S105
    """No key of its trust domain or issuer signed the token."""
    TOKEN_AUDIENCE = "token_audience"  # noqa: S105
    """The token is meant for somebody else."""
    TOKEN_EXPIRED = "token_expired"  # noqa: S105
    TOKEN_NOT_YET_VALID = "token_not_yet_valid"  # noqa: S105
    TOKEN_REVOKED = "token_revoked"  # noqa: S105
    TOKEN_MISMATCH = "token_mismatch"  # noqa: S105
    """Token and certificate name different workloads."""
    TOKEN_KEYS_UNAVAILABLE = "token_keys_unavailable"  # noqa: S105
    """The keys of the token's issuer could not be had, or are too old."""

    # What is asked (stage 4, classify).
    PATH_INVALID = "path_invalid"
    OPERATION_UNKNOWN = "operation_unknown"
    UPSTREAM_UNKNOWN = "upstream_unknown"
    MODEL_NAME_INVALID = "model_name_invalid"
    MODEL_VERSION_INVALID = "model_version_invalid"
    BODY_MISSING = "body_missing"
    """A gRPC call names its model in a body that Envoy did not send along."""
    BODY_PARTIAL = "body_partial"
    BODY_COMPRESSED = "body_compressed"
    BODY_MALFORMED = "body_malformed"

    GATE_FACTS_MISSING = "gate_facts_missing"
    """The gate got no facts of the call from the check before it."""
    LISTING_UNREADABLE = "listing_unreadable"
    """An answer that discloses models is not in a form that can be filtered."""

    # The policy's answer (stage 5, decide).
    PRINCIPAL_UNKNOWN = "principal_unknown"
    """The policy puts this caller in no group."""
    NOT_GRANTED = "not_granted"
    EXPLICITLY_DENIED = "explicitly_denied"
    """A role gives it, and a denial of the policy takes it."""
    POLICY_UNAVAILABLE = "policy_unavailable"
    """No policy has been loaded yet."""
    POLICY_STALE = "policy_stale"
    """The policy was not confirmed to be the newest for longer than allowed."""
    POLICY_ERROR = "policy_error"
    POLICY_UNDEFINED = "policy_undefined"
    POLICY_RESULT_INVALID = "policy_result_invalid"
    ACCESS_SECRET_UNAVAILABLE = "access_secret_unavailable"  # noqa: S105
    """The secret that Triton wants to see (the second lock) cannot be had."""

    # The server's own state.
    DEADLINE_EXCEEDED = "deadline_exceeded"
    OVERLOADED = "overloaded"
    AUDIT_UNAVAILABLE = "audit_unavailable"
    """The decision could not be recorded, so it is not given."""
    INTERNAL_ERROR = "internal_error"


class AuthzError(Exception):
    """Base of all errors of this package.

    A server answers any of them with a denial that carries `reason`. The message is
    for operators: it goes to the log, never to the caller, and never holds a secret.

    Attributes:
        reason: the code of the denial that this error turns into.
    """

    default_reason: ClassVar[Reason] = Reason.INTERNAL_ERROR

    def __init__(self, message: str, reason: Reason | None = None) -> None:
        super().__init__(message)
        self.reason = reason if reason is not None else self.default_reason


class RequestError(AuthzError):
    """The CheckRequest, or the call that it describes, cannot be judged."""

    default_reason = Reason.REQUEST_MALFORMED


class SpiffeIdError(AuthzError):
    """A string is not a SPIFFE ID, trust domain or SPIFFE pattern."""

    default_reason = Reason.PRINCIPAL_INVALID


class SvidError(AuthzError):
    """A certificate is not an acceptable X.509-SVID."""

    default_reason = Reason.CERTIFICATE_INVALID


class BundleError(AuthzError):
    """Bytes are not a trust bundle, or there is none to rely on."""

    default_reason = Reason.TRUST_BUNDLE_UNAVAILABLE


class TokenError(AuthzError):
    """A token is not acceptable. The message never quotes any of it."""

    default_reason = Reason.TOKEN_MALFORMED


class ForwardedError(AuthzError):
    """What a proxy forwards about its peer (XFCC) cannot be relied on."""

    default_reason = Reason.FORWARDED_INVALID


class FetchError(AuthzError):
    """Something could not be fetched: a bundle, a key set."""


class PolicyError(AuthzError):
    """A policy cannot be loaded, or did not give a usable answer."""

    default_reason = Reason.POLICY_ERROR


class AccessSecretError(AuthzError):
    """There is no usable secret for Triton's own lock. Quotes nothing of it."""

    default_reason = Reason.ACCESS_SECRET_UNAVAILABLE


class AuditError(AuthzError):
    """An audit event could not be written, or read."""

    default_reason = Reason.AUDIT_UNAVAILABLE


class ConfigError(AuthzError):
    """The configuration is unusable; holds every problem found, not just the first.

    Attributes:
        problems: one sentence each, naming the place and the mend.
    """

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


class SetupError(AuthzError):
    """Something this command needs from the machine is missing; says how to get it."""
