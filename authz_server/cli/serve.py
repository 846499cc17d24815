"""``authz-server serve``: answer Envoy until told to stop."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import functools
import logging
import os
import signal
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from authz_server import __version__
from authz_server.config import Config, load_config, settings

if TYPE_CHECKING:
    from authz_server.audit import FileSink
    from authz_server.identity.sources import IdentitySources
    from authz_server.identity.spiffe_id import SpiffeId
    from authz_server.pipeline import Pipeline
    from authz_server.policy.bundles.status import Status
    from authz_server.policy.bundles.store import BundleStore
    from authz_server.policy.in_force import AnyPolicy
    from authz_server.policy.shadow import Shadow
    from authz_server.policy.store import PolicyStore
    from authz_server.second_lock import SecondLock
    from authz_server.transport.grpc_server import GrpcServer
    from authz_server.transport.health import Health
    from authz_server.transport.metrics import Metrics
    from authz_server.transport.native_server import NativeServer
    from authz_server.transport.tls import SvidTls, TlsFiles, TlsSource

_log: Final = logging.getLogger("authz_server.serve")


def add_parser(subparsers: Any) -> None:  # noqa: ANN401 - argparse's private class
    """Add the command to the command line."""
    parser = subparsers.add_parser("serve", help="answer Envoy's ext_authz checks")
    add_config_arguments(parser)
    parser.set_defaults(run=run)


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """Add ``--config`` and one flag for every setting."""
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="YAML configuration"
    )
    group = parser.add_argument_group(
        "settings",
        "each overrides the file and AUTHZ_SERVER_…; see docs/configuration.md",
    )
    for name, _ in settings():
        group.add_argument(
            "--" + name.replace(".", "-").replace("_", "-"),
            dest=f"setting:{name}",
            metavar="VALUE",
            default=None,
        )


def config_from(args: argparse.Namespace) -> Config:
    """Return the effective configuration of a command with those arguments."""
    flags = {
        name: text
        for name, _ in settings()
        if (text := getattr(args, f"setting:{name}")) is not None
    }
    return load_config(args.config, os.environ, flags)


def run(args: argparse.Namespace) -> int:
    """Serve until SIGTERM or SIGINT; 0 after a clean stop."""
    config = config_from(args)
    logging.basicConfig(
        level=config.log_level.upper(),
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    asyncio.run(_serve(config))
    return 0


class _Changes:
    """Tells whoever is to be told that something else is in force."""

    def __init__(self) -> None:
        self.told: list[Callable[[], None]] = []

    def __call__(self) -> None:
        for tell in self.told:
            tell()


async def _serve(config: Config) -> None:
    from authz_server.address import Address
    from authz_server.assembly import (
        build_pipeline,
        open_identities,
        open_policies,
        open_reporter,
        open_second_lock,
        open_shadow,
        show,
    )
    from authz_server.audit import FileSink

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)

    on_change = _Changes()

    def on_policy(loaded: AnyPolicy) -> None:
        on_change()
        _warn_of_gaps(loaded, config)

    reporter = open_reporter(config)
    labels = {"id": str(uuid.uuid4()), "version": __version__}
    labels |= config.distribution.labels

    def tell(status: Status) -> None:
        if reporter is not None:
            reporter.offer(status.report(labels))

    policies = open_policies(config, on_policy, tell)
    identities = open_identities(config, on_change)
    second_lock = open_second_lock(config, on_change)
    tls = _open_tls(config, identities)
    audit = FileSink(config.audit.file)
    with contextlib.ExitStack() as running:
        running.callback(audit.close)
        if reporter is not None:
            reporter.start()
            running.callback(reporter.stop)
        shadow = running.enter_context(open_shadow(config))
        candidates = None if shadow is None else shadow[0]
        metrics = _open_metrics(config, policies, identities, running, shadow, labels)
        pipeline = build_pipeline(
            config,
            policies,
            audit,
            identities,
            metrics.observe if metrics is not None else None,
            second_lock,
            onlooker=show(shadow[1]) if shadow is not None else None,
        )
        policies.rehearse_with(pipeline.rehearse)

        health_of = functools.partial(_health, policies, second_lock, identities, tls)
        server = _open_server(config, pipeline, audit, health_of, identities, tls)
        on_change.told.append(server.publish)
        if metrics is not None:
            metrics.add(server.counts)
        # What cannot be loaded is in log and health, and every answer is a denial; the
        # server starts all the same, so that mending the file is enough.
        for source in (policies, identities, second_lock, tls, candidates):
            if source is not None:
                await asyncio.to_thread(source.reload)
                source.start_watching(config.policy.reload_interval_s)
                running.callback(source.stop)
        await server.run(
            Address.parse(config.listen.address),
            socket_mode=int(config.listen.socket_mode, 8),
            stop=stop,
            drain_s=config.limits.drain_s,
            on_listening=lambda address: _log.info("listening on %s", address),
        )


def _health(
    policies: PolicyStore | BundleStore,
    second_lock: SecondLock,
    identities: IdentitySources,
    tls: TlsSource | None,
) -> Health:
    from authz_server.transport.health import Health

    return Health(
        can_answer=policies.current is not None and second_lock.error is None,
        is_current=policies.error is None,
        is_trusting=identities.error is None and (tls is None or tls.error is None),
    )


def _warn_of_gaps(loaded: AnyPolicy, config: Config) -> None:
    from authz_server.assembly import find_gaps
    from authz_server.policy.in_force import LoadedPolicy

    if isinstance(loaded, LoadedPolicy):
        for gap in find_gaps(loaded.policy, config):
            _log.warning("%s", gap)


def _proxies(config: Config) -> list[SpiffeId]:
    from authz_server.identity.spiffe_id import SpiffeId

    return list(map(SpiffeId.parse_workload, config.listen.tls.proxies))


def _open_tls(config: Config, identities: IdentitySources) -> TlsFiles | SvidTls | None:
    """Return where the listener's certificate comes from; None for no TLS."""
    tls, workload_api = config.listen.tls, identities.workload_api
    if not tls.is_set:
        return None
    from authz_server.clock import system_clock
    from authz_server.transport.tls import SvidTls, TlsFiles  # loads gRPC

    if tls.has_files or workload_api is None:
        return TlsFiles(Path(tls.certificate), Path(tls.key), Path(tls.client_ca))
    return SvidTls(
        lambda: workload_api.svid,
        lambda: identities.current.trust,
        [proxy.trust_domain for proxy in _proxies(config)],
        system_clock,
    )


def _open_server(
    config: Config,
    pipeline: Pipeline,
    audit: FileSink,
    health_of: Callable[[], Health],
    identities: IdentitySources,
    tls: TlsSource | None,
) -> NativeServer | GrpcServer:
    """Return the configured transport."""
    from authz_server._native.choice import is_pure
    from authz_server.assembly import proxy_verifier
    from authz_server.clock import system_clock
    from authz_server.transport.peers import PeerList
    from authz_server.transport.proxies import ProxyList

    listen = config.listen
    peers = None
    if listen.peer_uids or listen.peer_gids:
        # Our own user could open the socket anyway, and probes run as it.
        uids = frozenset({*listen.peer_uids, os.geteuid()})
        peers = PeerList(uids, frozenset(listen.peer_gids))
    limits = config.limits
    chosen = listen.transport
    if chosen == "native" or (chosen == "auto" and tls is None and not is_pure()):
        from authz_server.transport.native_server import NativeServer

        return NativeServer(
            pipeline,
            health_of=health_of,
            audit=audit,
            max_pending=limits.max_pending,
            workers=limits.workers,
            threads=listen.threads,
            max_message_bytes=limits.max_message_bytes,
            peers=peers,
        )
    from authz_server.transport.grpc_server import GrpcServer

    return GrpcServer(
        pipeline,
        health_of=health_of,
        max_pending=limits.max_pending,
        workers=limits.workers,
        max_message_bytes=limits.max_message_bytes,
        tls=tls,
        proxies=ProxyList(
            _proxies(config), system_clock, proxy_verifier(config, identities)
        )
        if tls is not None
        else None,
        peers=peers,
    )


def _open_metrics(
    config: Config,
    policies: PolicyStore | BundleStore,
    identities: IdentitySources,
    running: contextlib.ExitStack,
    shadow: tuple[PolicyStore, Shadow] | None,
    labels: Mapping[str, str],
) -> Metrics | None:
    """Return what counts decisions, and serve the counts; None if they are not wanted.

    Raises:
        ConfigError: if their address cannot be listened on.
    """
    if not config.listen.metrics:
        return None
    from authz_server.address import Address
    from authz_server.policy.bundles.store import BundleStore
    from authz_server.transport.metrics import Metrics, serve_metrics

    store = identities.store
    metrics = Metrics(
        is_current=lambda: policies.current is not None and policies.error is None,
        standings=lambda: store.standings() if store is not None else {},
        shadow=None if shadow is None else lambda: shadow[1].counts,
    )
    address = running.enter_context(
        serve_metrics(
            Address.parse(config.listen.metrics),
            metrics,
            (lambda: policies.status.report(labels))
            if isinstance(policies, BundleStore)
            else None,
        )
    )
    _log.info("metrics at %s", address)
    return metrics
