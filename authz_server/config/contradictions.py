"""Settings that cannot be meant so, each told with its mend."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from authz_server._native.choice import VARIABLE, is_pure
from authz_server.address import Address
from authz_server.config.identity_contradictions import find_identity_contradictions
from authz_server.config.policy_contradictions import (
    find_policy_contradictions,
)
from authz_server.config.sections import (
    Config,
    Identity,
    Listen,
    Policy,
    Tls,
    Triton,
)
from authz_server.errors import SpiffeIdError
from authz_server.facts import Plan
from authz_server.identity.spiffe_id import SpiffeId

MAX_THREADS: Final = 64

_LOG_LEVELS: Final = ("debug", "info", "warning", "error")

# Headers that carry the request itself. Overwriting one would send another request on
# than the one that was judged.
_NOT_OURS_TO_SET: Final = frozenset(
    {
        *("host", "content-type", "content-length", "content-encoding"),
        *("transfer-encoding", "connection", "te", "trailer", "upgrade"),
        *("grpc-encoding", "inference-header-content-length", "authorization"),
    }
)


def find_contradictions(config: Config) -> list[str]:
    """Return every problem, one sentence each."""
    problems = list(find_policy_contradictions(config))
    if config.log_level not in _LOG_LEVELS:
        problems.append(f"log_level: expected one of {', '.join(_LOG_LEVELS)}")
    problems += [
        f"{name}: must be more than 0"
        for name, value in (
            ("policy.reload_interval_s", config.policy.reload_interval_s),
            ("policy.instances", config.policy.instances),
            ("limits.deadline_s", config.limits.deadline_s),
            ("limits.max_pending", config.limits.max_pending),
            ("limits.workers", config.limits.workers),
            ("limits.max_message_bytes", config.limits.max_message_bytes),
            ("distribution.poll_s", config.distribution.poll_s),
            ("distribution.timeout_s", config.distribution.timeout_s),
            ("distribution.max_bytes", config.distribution.max_bytes),
            (
                "identity.max_token_lifetime_s",
                config.identity.max_token_lifetime_s,
            ),
        )
        if not value > 0
    ]
    problems += [
        f"{name}: must not be negative"
        for name, value in (
            ("cache.max_entries", config.cache.max_entries),
            ("cache.max_bytes", config.cache.max_bytes),
            ("cache.ttl_s", config.cache.ttl_s),
            ("limits.drain_s", config.limits.drain_s),
            ("distribution.wait_s", config.distribution.wait_s),
            ("distribution.max_age_s", config.distribution.max_age_s),
            ("identity.max_bundle_age_s", config.identity.max_bundle_age_s),
            ("identity.users.max_key_age_s", config.identity.users.max_key_age_s),
        )
        if not value >= 0
    ]
    problems += find_identity_contradictions(config.identity, config.inputs.headers)
    problems += _listen_problems(config.listen, config.identity)
    problems += _triton_problems(config.triton)
    problems += _shadow_problems(config.policy)
    return problems


def _shadow_problems(policy: Policy) -> Iterator[str]:
    if policy.shadow and not policy.shadow_report:
        yield "policy.shadow: set policy.shadow_report, where differences go"
    if not policy.shadow and (policy.shadow_bundle or policy.shadow_report):
        yield "policy.shadow_bundle, policy.shadow_report: are for policy.shadow"


def _triton_problems(triton: Triton) -> Iterator[str]:
    for name in ("access_header", "principal_header"):
        header = getattr(triton, name)
        if not header and name == "principal_header":
            continue
        try:
            Plan(signals=(header,))
        except ValueError as error:
            yield f"triton.{name}: {error}"
        if header in _NOT_OURS_TO_SET:
            yield f"triton.{name}: {header} already means something; choose another"
    if triton.principal_header == triton.access_header:
        yield "triton.principal_header: is access_header too; choose another"


def _listen_problems(listen: Listen, identity: Identity) -> Iterator[str]:
    yield from _socket_mode_problems(listen.socket_mode)
    yield from _metrics_problems(listen.metrics)
    try:
        address = Address.parse(listen.address)
    except ValueError as error:
        yield f"listen.address: {error}"
        return
    if address.is_unix:
        if listen.tls.is_set:
            yield "listen.tls: is for TCP; a unix socket has permissions"
    elif listen.peer_uids or listen.peer_gids:
        yield (
            "listen.peer_uids, listen.peer_gids: only a unix socket tells who connects"
        )
    yield from _transport_problems(listen)
    if listen.tls.is_set:
        yield from _tls_problems(listen.tls, identity)
    elif not address.is_unix and not address.is_loopback:
        yield (
            "listen.address: plaintext beyond loopback lets anybody ask; "
            "set listen.tls, or listen on 127.0.0.1, [::1] or a unix socket"
        )


def _transport_problems(listen: Listen) -> Iterator[str]:
    if listen.transport not in ("auto", "native", "grpc"):
        yield (
            f"listen.transport: expected auto, native or grpc, not {listen.transport!r}"
        )
    elif listen.transport == "native" and listen.tls.is_set:
        yield "listen.transport: native has no TLS; take one of the two out"
    elif listen.transport == "native" and is_pure():
        yield f"listen.transport: native is what {VARIABLE}=1 turns off"
    if not 1 <= listen.threads <= MAX_THREADS:
        yield f"listen.threads: must be from 1 to {MAX_THREADS}"


def _socket_mode_problems(text: str) -> Iterator[str]:
    try:
        mode = int(text, 8)
    except ValueError:
        mode = -1
    if not 0 <= mode <= 0o777:  # noqa: PLR2004 - permission bits
        yield 'listen.socket_mode: expected octal digits such as "0660"'
    elif mode & 0o002:
        yield "listen.socket_mode: lets everybody on this machine ask"


def _metrics_problems(text: str) -> Iterator[str]:
    if not text:
        return
    try:
        address = Address.parse(text)
    except ValueError as error:
        yield f"listen.metrics: {error}"
    else:
        if address.is_unix:
            yield "listen.metrics: expected tcp://ip:port"


def _tls_problems(tls: Tls, identity: Identity) -> Iterator[str]:
    if not tls.proxies:
        yield "listen.tls.proxies: missing; list the proxies that may ask"
    if tls.has_files or not identity.workload_api:
        for name in ("certificate", "key", "client_ca"):
            if not getattr(tls, name):
                yield (
                    f"listen.tls.{name}: missing; name all three files, or none and "
                    "set identity.workload_api"
                )
    for proxy in tls.proxies:
        try:
            SpiffeId.parse_workload(proxy)
        except SpiffeIdError as error:
            yield f"listen.tls.proxies: {proxy!r}: {error}"
