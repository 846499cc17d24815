"""A day in short: many callers, many models, and a policy that changes under them.

Callers with certificates of their own ask for inference through the real Envoy, which
model each time by Zipf's law, so that few questions are asked often and many rarely.
Meanwhile one percent of the policy, one of its hundred parts, is replaced every few
seconds. Each change makes another policy, which ends all decisions that were
remembered, though the answers stay the same: every call is allowed, before and after,
or nothing is printed.

The time around each change falls into

    before    a second before the file is replaced
    reload    until the first decision by the new policy: the file is noticed, read,
              compiled and loaded beside the one in force
    refill    half a second from then: what the server did not decide anew beforehand,
              which it does with the newest of what it remembers, is decided now
    during    reload and refill together: what is compared with `before`

Which call fell into what is told by the client's clock; hits and misses by the audit
trail, whose time is that of the check. Latencies are those of the client.

These figures depend on the machine and on who else uses it: compare the rows of one run
with each other, never with those of another.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Final

from edge import Identities, issue_identities, running_envoy, status_of
from load_client import Load, Round, run_load
from machine import machine
from policy_scale import COMMON, HEAD, quantile, subject, write_policy
from rival_servers import has_transport, start_authz_server

BEFORE_S: Final = 1.0
REFILL_S: Final = 0.5
LOOK_S: Final = 0.2
"""Seconds between two looks at the policy; a change counts once it stayed for two."""
READY_S: Final = 20.0
WANTED: Final = 2.0
"""p99 during, at most so many times that before."""

ROLE: Final = '  roles: {use: [{actions: [inference], models: ["model-*"]}]}\n'


@dataclass(frozen=True, slots=True)
class Event:
    """What the audit trail says of one check."""

    at_s: float
    is_hit: bool
    policy: str


@dataclass
class Phase:
    """All times of one kind, added up."""

    name: str
    took_us: list[float] = field(default_factory=list)
    hits: int = 0
    misses: int = 0
    seconds: float = 0.0

    def add(
        self, begin_s: float, end_s: float, done: Round, events: Sequence[Event]
    ) -> None:
        """Add what happened from `begin_s` to `end_s`, by the monotonic clock."""
        self.seconds += end_s - begin_s
        self.took_us += [
            took / 1e3
            for ended, took in zip(done.ended_ns, done.took_ns, strict=True)
            if begin_s <= ended / 1e9 < end_s
        ]
        for event in events:
            if begin_s <= event.at_s < end_s:
                self.hits += event.is_hit
                self.misses += not event.is_hit


def model_path(number: int) -> str:
    """Return the path of a call to one of the models."""
    return f"/v2/models/model-{number}/infer"


def read_events(audit: Path) -> list[Event]:
    """Return the events of the audit trail, their time by the monotonic clock."""
    offset = time.time() - time.monotonic()
    events = []
    for line in audit.read_bytes().splitlines():
        told = json.loads(line)
        if "cache_hit" in told:
            at_s = datetime.fromisoformat(told["time"]).timestamp() - offset
            events.append(Event(at_s, told["cache_hit"], told["policy_revision"]))
    return events


def replace_part(policy: Path, original: str, number: int, beside: Path) -> None:
    """Let one part of the policy say something that no other change said."""
    role = f"spare-{number}"
    beside.write_text(
        f"{original}"
        f"    - {{role: {role}, to: [line-0], on: [triton]}}\n"
        f"  roles: {{{role}: [{{actions: [metadata], models: [spare-{number}]}}]}}\n"
    )
    beside.replace(policy / "part-0.yaml")


def first_by_another(events: Sequence[Event], replaced_s: float) -> float | None:
    """Return when the first check was decided by another policy than until then."""
    old = None
    for event in events:
        if event.at_s < replaced_s:
            old = event.policy
        elif event.policy != old:
            return event.at_s
    return None


def phases(
    done: Round, events: Sequence[Event], replaced: Sequence[float]
) -> tuple[list[Phase], list[float]]:
    """Return the phases of all changes, and how long each took to come into force."""
    before, reload = Phase("before"), Phase("reload")
    refill, during, whole = Phase("refill"), Phase("during"), Phase("whole run")
    whole.add(done.ended_ns[0] / 1e9, done.ended_ns[-1] / 1e9, done, events)
    taken = []
    for at_s in replaced:
        in_force = first_by_another(events, at_s)
        if in_force is None:
            raise SystemExit("a change did not come into force: not shown")
        taken.append(in_force - at_s)
        before.add(at_s - BEFORE_S, at_s, done, events)
        reload.add(at_s, in_force, done, events)
        refill.add(in_force, in_force + REFILL_S, done, events)
        during.add(at_s, in_force + REFILL_S, done, events)
    return [whole, before, reload, refill, during], taken


def show(transport: str, shown: Sequence[Phase], taken: Sequence[float]) -> None:
    """Print one run."""
    print(
        f"\n{transport}: {len(taken)} changes, in force after "
        f"{min(taken):.2f} to {max(taken):.2f} s"
    )
    print(
        f"{'':10}{'calls':>9}{'calls/s':>9}{'hits %':>8}{'p50 us':>9}{'p99 us':>9}"
        f"{'p99.9 us':>10}{'max ms':>9}"
    )
    for phase in shown:
        took, checks = phase.took_us, phase.hits + phase.misses
        if not took or not checks:
            print(f"{phase.name:10}{len(took):9}")
            continue
        print(
            f"{phase.name:10}{len(took):9}{len(took) / phase.seconds:9.0f}"
            f"{100 * phase.hits / checks:8.1f}{quantile(took, 0.5):9.0f}"
            f"{quantile(took, 0.99):9.0f}{quantile(took, 0.999):10.0f}"
            f"{max(took) / 1e3:9.1f}"
        )
    by_name = {phase.name: phase.took_us for phase in shown}
    if by_name["before"] and by_name["during"]:
        ratio = quantile(by_name["during"], 0.99) / quantile(by_name["before"], 0.99)
        print(
            f"{'yes' if ratio <= WANTED else 'NO'}: p99 during a change is "
            f"{ratio:.2f} of that before (wanted: at most {WANTED:g})"
        )


def run(args: argparse.Namespace, transport: str, folder: Path) -> None:
    """Run the load on one transport, and print it."""
    identities: Identities = issue_identities(folder)
    policy = folder / "policy"
    policy.mkdir()
    write_policy(policy, args.subjects)
    (policy / "common.yaml").write_text(HEAD + COMMON + ROLE)
    original = (policy / "part-0.yaml").read_text()
    step = max(args.subjects // args.callers, 1)
    callers = [
        identities.issue(f"caller-{number}", f"spiffe://{subject(number * step)}")
        for number in range(args.callers)
    ]
    own = folder / "server"
    own.mkdir()
    settings = {"file": str(policy), "reload_interval_s": LOOK_S}
    with contextlib.ExitStack() as stack:
        started = stack.enter_context(
            start_authz_server(own, identities, transport, settings)
        )
        _, (port,) = stack.enter_context(running_envoy(folder, [started.peer]))
        end = time.monotonic() + READY_S
        while status_of(identities, callers[0], port, model_path(0)) != 200:
            if time.monotonic() > end:
                raise SystemExit("an allowed call is denied: not timed")
            time.sleep(0.1)
        if status_of(identities, callers[0], port, "/v2/models/other/infer") != 403:
            raise SystemExit("a call that is not granted is allowed: not timed")
        load = Load(
            port=port,
            ca=identities.ca,
            callers=callers,
            paths=[model_path(number) for number in range(args.models)],
            zipf=args.zipf,
        )
        pool = stack.enter_context(ThreadPoolExecutor(1))
        running = pool.submit(
            run_load,
            load,
            folder,
            connections=args.connections,
            timed_s=args.changes * args.every,
            warm_s=args.warm,
        )
        time.sleep(args.warm + BEFORE_S)
        replaced = []
        for number in range(args.changes):
            begin = time.monotonic()
            replaced.append(begin)
            replace_part(policy, original, number, folder / "part")
            if number + 1 < args.changes:
                time.sleep(max(begin + args.every - time.monotonic(), 0))
        done = running.result()
        if started.audit is None or done.refused:
            raise SystemExit(f"{done.refused} calls were refused: not shown")
        show(transport, *phases(done, read_events(started.audit), replaced))


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--subjects", type=int, default=10_000, help="in the policy")
    parser.add_argument("--callers", type=int, default=32, help="of them, who call")
    parser.add_argument("--models", type=int, default=1000)
    parser.add_argument("--zipf", type=float, default=1.1, help="the law's exponent")
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--changes", type=int, default=5)
    parser.add_argument("--every", type=float, default=4.0, help="seconds")
    parser.add_argument("--warm", type=float, default=3.0, help="seconds")
    parser.add_argument(
        "--quick", action="store_true", help="that it works, not what it costs"
    )
    args = parser.parse_args()
    if args.quick:
        args.subjects, args.models, args.callers = 1000, 20, 4
        args.connections, args.changes, args.every, args.warm = 4, 1, 3.0, 0.3
    if args.every < BEFORE_S + 5 * LOOK_S + REFILL_S:
        parser.error("changes follow each other too closely")
    print(machine())
    print(
        f"{args.subjects:,} subjects, {args.callers} callers, {args.models} models, "
        f"Zipf {args.zipf}, {args.connections} connections"
    )
    for transport in ("native", "grpc") if has_transport() else ("grpc",):
        with tempfile.TemporaryDirectory() as name:
            run(args, transport, Path(name))
    return 0


if __name__ == "__main__":
    sys.exit(main())
