"""``authz-server doctor``: tries every link of a set-up, and names what to mend."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from authz_server.cli.health import ask
from authz_server.cli.serve import add_config_arguments, config_from
from authz_server.errors import ConfigError

if TYPE_CHECKING:
    from authz_server.config import Config
    from authz_server.diagnosis import Probe


def add_parser(subparsers: Any) -> None:  # noqa: ANN401 - argparse's private class
    """Add the command to the command line."""
    parser = subparsers.add_parser(
        "doctor",
        help="try every link from the SPIFFE agent to a decision",
        description="Tries, in the order in which a request depends on them: policy, "
        "SPIFFE agent, own SVID, trust bundles, the running server, the TLS handshake "
        "with the proxy, and a decision through it. Names the first broken link and "
        "its mend.",
    )
    parser.add_argument(
        "--proxy", metavar="HOST:PORT", help="the proxy's listener, to call through it"
    )
    parser.add_argument(
        "--path",
        default="/v2/health/live",
        help="what to ask for (default: %(default)s)",
    )
    parser.add_argument(
        "--certificate",
        type=Path,
        metavar="PEM",
        help="call with this SVID, instead of the one from the Workload API",
    )
    parser.add_argument("--key", type=Path, metavar="PEM", help="its private key")
    parser.add_argument("--timeout", type=float, default=5.0, metavar="SECONDS")
    parser.add_argument("--output", choices=("text", "json"), default="text")
    add_config_arguments(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print every link; 0 if none is broken."""
    from authz_server.diagnosis import State, examine

    config = config_from(args)

    def ask_health(config: Config) -> str:
        for service in ("", "authz_server.policy", "authz_server.trust"):
            status = ask(config, service, args.timeout)
            if status != "SERVING":
                return f"{service or 'health'} is {status}"
        return ""

    links = []
    for link in examine(
        config, _probe(args), timeout_s=args.timeout, ask_health=ask_health
    ):
        links.append(link)
        if args.output == "text":
            print(f"{link.state:<9}  {link.name:<25} {link.says}".rstrip(), flush=True)
            if link.mend:
                print(f"{'':<9}  mend: {link.mend}")
    if args.output == "json":
        print(
            json.dumps(
                [
                    {
                        "link": link.name,
                        "state": link.state,
                        "says": link.says,
                        "mend": link.mend,
                    }
                    for link in links
                ],
                indent=2,
            )
        )
    return 1 if any(link.state is State.BROKEN for link in links) else 0


def _probe(args: argparse.Namespace) -> Probe:
    from authz_server.diagnosis import Probe, Svid

    svid = None
    if args.certificate or args.key:
        if not (args.certificate and args.key):
            raise ConfigError(["--certificate and --key: give both"])
        svid = Svid(args.certificate, args.key)
    if not args.proxy:
        return Probe(path=args.path, svid=svid)
    host, _, port = args.proxy.rpartition(":")
    if not host or not port.isdigit():
        raise ConfigError([f"--proxy: {args.proxy!r} is not HOST:PORT"])
    return Probe(host.strip("[]"), int(port), args.path, svid)
