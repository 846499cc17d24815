"""``authz-server serve``: answer Envoy until told to stop."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
from pathlib import Path
from typing import Any

from authz_server.config import Config, load_config, settings


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


async def _serve(config: Config) -> None:
    from authz_server.address import Address
    from authz_server.assembly import build_pipeline, open_identities, open_policies
    from authz_server.audit import FileSink
    from authz_server.clock import system_clock
    from authz_server.identity.spiffe_id import SpiffeId
    from authz_server.transport.grpc_server import GrpcServer, Health, TlsFiles
    from authz_server.transport.proxies import ProxyList

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)

    log = logging.getLogger("authz_server.serve")
    tls = config.listen.tls
    policies = open_policies(config)
    identities = open_identities(config)
    audit = FileSink(config.audit.file)
    server = GrpcServer(
        build_pipeline(config, policies, audit, identities),
        health_of=lambda: Health(
            can_answer=policies.current is not None,
            is_current=policies.error is None,
            is_trusting=identities.error is None,
        ),
        max_pending=config.limits.max_pending,
        workers=config.limits.workers,
        max_message_bytes=config.limits.max_message_bytes,
        tls=TlsFiles(Path(tls.certificate), Path(tls.key), Path(tls.client_ca))
        if tls.is_set
        else None,
        proxies=ProxyList(map(SpiffeId.parse_workload, tls.proxies), system_clock)
        if tls.is_set
        else None,
    )
    # A policy that cannot be loaded is in log and health, and every answer is a denial;
    # the server starts all the same, so that mending the file is enough.
    await asyncio.to_thread(policies.reload)
    policies.start_watching(config.policy.reload_interval_s)
    await asyncio.to_thread(identities.reload)
    identities.start_watching(config.policy.reload_interval_s)
    try:
        await server.run(
            Address.parse(config.listen.address),
            socket_mode=int(config.listen.socket_mode, 8),
            stop=stop,
            drain_s=config.limits.drain_s,
            on_listening=lambda address: log.info("listening on %s", address),
        )
    finally:
        policies.stop()
        identities.stop()
        audit.close()
