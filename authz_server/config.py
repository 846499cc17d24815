"""The configuration: one frozen value, from file, environment and flags.

Later sources win: default, file, ``AUTHZ_SERVER_…``, flag. The names of the variables
and flags follow from the fields (``listen.socket_mode`` is
``AUTHZ_SERVER_LISTEN_SOCKET_MODE`` and ``--listen-socket-mode``). Nothing else of the
server reads the environment. Every problem is reported, not just the first.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml

from authz_server.address import Address
from authz_server.errors import ConfigError, SpiffeIdError
from authz_server.facts import Plan
from authz_server.identity.spiffe_id import SpiffeId, TrustDomain

ENVIRONMENT_PREFIX: Final = "AUTHZ_SERVER_"


@dataclass(frozen=True, slots=True)
class Tls:
    """Mutual TLS of the listener. All four are needed together."""

    certificate: str = ""
    """PEM file: our certificate, followed by its intermediates."""
    key: str = ""
    """PEM file: the private key."""
    client_ca: str = ""
    """PEM file: CAs that proxies' certificates must chain to."""
    proxies: tuple[str, ...] = ()
    """SPIFFE IDs of the proxies that may ask. Nobody else gets an answer."""

    @property
    def is_set(self) -> bool:
        """Whether TLS is configured."""
        return bool(self.certificate or self.key or self.client_ca or self.proxies)


@dataclass(frozen=True, slots=True)
class Listen:
    """Where proxies ask."""

    address: str = "unix:///run/authz-server/check.sock"
    """``unix:///absolute/path`` or ``tcp://host:port``; plain TCP on loopback only."""
    socket_mode: str = "0660"
    """Octal permissions of the unix socket: who may ask at all."""
    tls: Tls = field(default_factory=Tls)


@dataclass(frozen=True, slots=True)
class Policy:
    """What is allowed."""

    file: str = ""
    """The AccessPolicy. Watched: a good change is in force within seconds."""
    bundle: str = ""
    """An own policy from ``authz-server policy build``; empty for the shipped one."""
    reload_interval_s: float = 1.0
    """Seconds between looks at the file."""
    instances: int = 2
    """Instances of the Wasm module, hence evaluations at the same time."""


@dataclass(frozen=True, slots=True)
class Inputs:
    """What a decision may depend on, beside what always counts."""

    headers: tuple[str, ...] = ()
    """Lower-case names of request headers that an own policy reads."""
    trust_host: bool = False
    """Let the Host header name the upstream. Only where Envoy routes by it too."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a caller is believed to be."""

    chain: str = "bundle"
    """``bundle`` verifies each caller's certificate again, by our own bundles;
    ``proxy`` relies on Envoy's verification and checks the leaf alone."""
    bundles: dict[str, str] = field(default_factory=dict)
    """Trust domain to file: PEM certificates or a SPIFFE bundle. Watched."""
    max_bundle_age_s: float = 0.0
    """Seconds since a bundle's file was written until it is too old; 0 for never."""
    revocations: str = ""
    """File of what is revoked; empty for none. Watched."""
    require_certificate: bool = True
    """Deny when Envoy sends no peer certificate (``include_peer_certificate``)."""


@dataclass(frozen=True, slots=True)
class Cache:
    """The decision cache."""

    max_entries: int = 100_000
    """Entries at most; 0 turns it off."""
    max_bytes: int = 128 * 1024 * 1024
    """Bytes at most."""
    ttl_s: float = 60.0
    """Seconds for which a decision is remembered at most."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one client cannot take from the others."""

    deadline_s: float = 0.25
    """Seconds a decision may take; keep it below the timeout in Envoy."""
    max_pending: int = 256
    """Decisions that may wait or be in the making; further ones are denied at once."""
    workers: int = 2
    """Threads that decide."""
    max_message_bytes: int = 8 * 1024 * 1024
    """Largest CheckRequest; keep it above Envoy's ``max_request_bytes``."""
    drain_s: float = 5.0
    """Seconds that open calls get to finish after SIGTERM."""


@dataclass(frozen=True, slots=True)
class Audit:
    """The audit trail."""

    file: str = "-"
    """File to append events to; ``-`` is standard output."""


@dataclass(frozen=True, slots=True)
class Config:
    """All settings of ``authz-server serve``."""

    listen: Listen = field(default_factory=Listen)
    policy: Policy = field(default_factory=Policy)
    identity: Identity = field(default_factory=Identity)
    inputs: Inputs = field(default_factory=Inputs)
    cache: Cache = field(default_factory=Cache)
    limits: Limits = field(default_factory=Limits)
    audit: Audit = field(default_factory=Audit)
    log_level: str = "info"
    """debug, info, warning or error."""


Setting = tuple[str, Any]
"""(dotted name, type) of one setting."""


def settings() -> Iterator[Setting]:
    """Yield every single setting."""
    yield from _settings_of(Config, "")


def _settings_of(section: type[Any], prefix: str) -> Iterator[Setting]:
    hints = typing.get_type_hints(section)
    for item in dataclasses.fields(section):
        name, hint = prefix + item.name, hints[item.name]
        if dataclasses.is_dataclass(hint):
            yield from _settings_of(typing.cast("type[Any]", hint), name + ".")
        else:
            yield name, hint


def environment_name(setting: str) -> str:
    """Return the variable for a dotted setting name."""
    return ENVIRONMENT_PREFIX + setting.replace(".", "_").upper()


def load_config(
    path: Path | None, environment: Mapping[str, str], flags: Mapping[str, str]
) -> Config:
    """Return the effective configuration.

    Args:
        path: YAML file, or None for none.
        environment: usually `os.environ`; only ``AUTHZ_SERVER_…`` is looked at.
        flags: dotted setting name to text.

    Raises:
        ConfigError: with every problem found.
    """
    problems: list[str] = []
    values: dict[str, object] = {}
    kinds = dict(settings())
    if path is not None:
        _flatten(_read(path), "", kinds, values, problems, source=str(path))
    for name in kinds:
        variable = environment_name(name)
        if variable in environment:
            values[name] = _Text(environment[variable], variable)
    for name, text in flags.items():
        values[name] = _Text(text, "--" + name.replace(".", "-").replace("_", "-"))
    config: Config = _build(Config, "", values, problems)
    problems += _contradictions(config) if not problems else []
    if problems:
        raise ConfigError(problems)
    return config


@dataclass(frozen=True, slots=True)
class _Text:
    """A value that came as text, from where."""

    text: str
    source: str


class _StrictLoader(yaml.SafeLoader):
    """Refuses a key that comes twice, of which YAML would silently take the last."""

    def construct_mapping(
        self,
        node: yaml.MappingNode,
        deep: bool = False,  # noqa: FBT001, FBT002 - theirs
    ) -> dict[Hashable, Any]:
        mapping = super().construct_mapping(node, deep)
        if len(mapping) != len(node.value):
            raise yaml.constructor.ConstructorError(
                None, None, "a key comes twice in this mapping", node.start_mark
            )
        return mapping


def _read(path: Path) -> object:
    try:
        document = yaml.load(path.read_text(encoding="utf-8"), _StrictLoader)  # noqa: S506 - a SafeLoader
    except OSError as error:
        raise ConfigError([f"{path}: cannot be read: {error.strerror}"]) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError([f"{path}: not YAML: {error}"]) from error
    return {} if document is None else document


def _flatten(
    node: object,
    prefix: str,
    kinds: Mapping[str, object],
    values: dict[str, object],
    problems: list[str],
    *,
    source: str,
) -> None:
    if not isinstance(node, dict):
        problems.append(f"{source}: {prefix.rstrip('.') or 'file'}: expected a mapping")
        return
    for key, value in node.items():
        name = f"{prefix}{key}"
        if name in kinds:
            values[name] = value
        elif any(known.startswith(name + ".") for known in kinds):
            _flatten(value, name + ".", kinds, values, problems, source=source)
        else:
            known = ", ".join(
                sorted(
                    {
                        other.removeprefix(prefix).split(".")[0]
                        for other in kinds
                        if other.startswith(prefix)
                    }
                )
            )
            problems.append(f"{source}: {name}: unknown setting; known here: {known}")


def _build(
    section: type[Any], prefix: str, values: Mapping[str, object], problems: list[str]
) -> Any:  # noqa: ANN401 - an instance of `section`
    hints = typing.get_type_hints(section)
    arguments: dict[str, object] = {}
    for item in dataclasses.fields(section):
        name, hint = prefix + item.name, hints[item.name]
        if dataclasses.is_dataclass(hint):
            arguments[item.name] = _build(
                typing.cast("type[Any]", hint), name + ".", values, problems
            )
        elif name in values:
            try:
                arguments[item.name] = _convert(values[name], hint)
            except ValueError as error:
                problems.append(f"{name}: {error}")
    return section(**arguments)


def _convert(value: object, kind: object) -> object:
    """Return `value` as `kind`.

    Raises:
        ValueError: if it cannot be one.
    """
    source = ""
    if isinstance(value, _Text):
        source = f" (from {value.source})"
        value = value.text if kind is str else yaml.safe_load(value.text)
    if kind is float and type(value) is int:
        value = float(value)
    if kind == dict[str, str]:
        if isinstance(value, dict) and all(
            isinstance(item, str) for pair in value.items() for item in pair
        ):
            return dict(value)
        raise ValueError(f"expected a mapping of strings, got {value!r}{source}")
    if isinstance(kind, types.GenericAlias):
        if isinstance(value, str):
            value = [value]
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            return tuple(value)
        raise ValueError(f"expected a list of strings, got {value!r}{source}")
    if type(value) is kind:
        return value
    expected = {str: "a string", bool: "true or false", int: "a whole number"}.get(
        typing.cast("type", kind), "a number"
    )
    mend = "; put it in quotes" if kind is str and value is not None else ""
    raise ValueError(f"expected {expected}, got {value!r}{source}{mend}")


_CHAINS: Final = ("bundle", "proxy")
_LOG_LEVELS: Final = ("debug", "info", "warning", "error")


def _contradictions(config: Config) -> list[str]:
    problems: list[str] = []
    if not config.policy.file:
        problems.append("policy.file: missing; name the AccessPolicy file")
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
            ("identity.max_bundle_age_s", config.identity.max_bundle_age_s),
        )
        if not value >= 0
    ]
    try:
        Plan(headers=config.inputs.headers)
    except ValueError as error:
        problems.append(f"inputs.headers: {error}")
    problems += _identity_problems(config.identity)
    problems += _listen_problems(config.listen)
    return problems


def _identity_problems(identity: Identity) -> list[str]:
    if identity.chain not in _CHAINS:
        return [f"identity.chain: expected one of {', '.join(_CHAINS)}"]
    problems: list[str] = []
    if identity.chain == "bundle":
        if not identity.bundles:
            problems.append(
                "identity.bundles: missing; name a bundle file for each trust domain, "
                "or set identity.chain: proxy to rely on Envoy's verification alone"
            )
        if not identity.require_certificate:
            problems.append(
                "identity.require_certificate: without a certificate there is no chain "
                "to verify; this needs identity.chain: proxy"
            )
    for name in identity.bundles:
        try:
            TrustDomain(name)
        except SpiffeIdError as error:
            problems.append(f"identity.bundles: {error}")
    return problems


def _listen_problems(listen: Listen) -> list[str]:
    problems: list[str] = []
    try:
        mode = int(listen.socket_mode, 8)
    except ValueError:
        mode = -1
    if not 0 <= mode <= 0o777:  # noqa: PLR2004 - permission bits
        problems.append('listen.socket_mode: expected octal digits such as "0660"')
    elif mode & 0o002:
        problems.append("listen.socket_mode: lets everybody on this machine ask")
    try:
        address = Address.parse(listen.address)
    except ValueError as error:
        return [*problems, f"listen.address: {error}"]
    tls = listen.tls
    if tls.is_set:
        problems += [
            f"listen.tls.{name}: missing; all four settings are needed together"
            for name in ("certificate", "key", "client_ca", "proxies")
            if not getattr(tls, name)
        ]
        if address.is_unix:
            problems.append("listen.tls: is for TCP; a unix socket has permissions")
        for proxy in tls.proxies:
            try:
                SpiffeId.parse_workload(proxy)
            except SpiffeIdError as error:
                problems.append(f"listen.tls.proxies: {proxy!r}: {error}")
    elif not address.is_unix and not address.is_loopback:
        problems.append(
            "listen.address: plaintext beyond loopback lets anybody ask; "
            "set listen.tls, or listen on 127.0.0.1, [::1] or a unix socket"
        )
    return problems
