"""``authz-server demo``: a plant on this machine, and who gets to its models."""

from __future__ import annotations

import argparse
import os
import time
from typing import Any


def add_parser(subparsers: Any) -> None:  # noqa: ANN401 - argparse's private class
    """Add the command to the command line."""
    parser = subparsers.add_parser(
        "demo",
        help="run Triton, Envoy and authz-server here, and try who gets through",
        description=(
            "Starts a real Triton, a real Envoy and authz-server on loopback, lets "
            "seven callers try calls through them, and prints how each ended. Leaves "
            "nothing behind."
        ),
    )
    parser.add_argument(
        "--keep",
        action="store_true",
        help="stay up afterwards, until Ctrl-C, and print commands to try by hand",
    )
    parser.add_argument(
        "--spire",
        action="store_true",
        help="let real SPIRE issue the identities (`make spire` builds it), and see "
        "certificates rotate and an identity taken away",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Return 0 if every call ended as it must, 1 if one did not or on an interrupt."""
    # gRPC's C core reads it when it is loaded. It would print each refused handshake,
    # and here those are what is shown.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")

    from authz_server.demo.interrupts import Interrupts
    from authz_server.demo.issuance import by_development_cas
    from authz_server.demo.plant import running_plant
    from authz_server.demo.report import by_hand, summary, table
    from authz_server.demo.scenario import attempts_of, play
    from authz_server.demo.spire_issuance import SpireIssuance
    from authz_server.demo.spire_story import tell

    start = time.monotonic()

    def say(step: str) -> None:
        print(f"{time.monotonic() - start:6.1f} s  {step}", flush=True)

    code = 1
    spire = SpireIssuance() if args.spire else None
    try:
        with (
            Interrupts() as interrupts,
            running_plant(say, interrupts, spire or by_development_cas) as plant,
        ):
            rows = list(
                play(plant.edge, plant.identities, attempts_of(plant.identities))
            )
            interrupts.check()
            say("every call is made\n")
            print(table(rows))
            decisions = len(plant.audit.read_text("utf-8").splitlines())
            print(f"\n{summary(rows, decisions)}", flush=True)
            is_right = all(row.is_right for row in rows)
            if spire is not None:
                is_right &= tell(spire, plant, say)
            code = 0 if is_right else 1
            if args.keep:
                print(f"\n{by_hand(plant)}", flush=True)
                while True:
                    # Not signal.pause(): a signal just before it would go unseen.
                    interrupts.check()
                    time.sleep(0.2)
    except KeyboardInterrupt:
        pass
    say("everything is stopped and removed")
    return code
