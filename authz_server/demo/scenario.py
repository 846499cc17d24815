"""Who tries what in the demo, and how it must end under ``examples/plant-7.yaml``."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from authz_server.demo.calls import (
    DEFECTS,
    FORECAST,
    Caller,
    Edge,
    Outcome,
    Protocol,
    Verdict,
)
from authz_server.errors import Reason

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from authz_server.demo.pki import DevelopmentCa, Svid, SvidFiles

FACTORY: Final = "factory.example"
SUPPLIER: Final = "supplier.example"

EDGE_ID: Final = f"spiffe://{FACTORY}/ns/inference/sa/triton"
CAMERA_ID: Final = f"spiffe://{FACTORY}/ns/line1/sa/camera"
FORECASTER_ID: Final = f"spiffe://{FACTORY}/ns/planning/sa/forecaster"
DEPLOYER_ID: Final = f"spiffe://{FACTORY}/ns/release/sa/deployer"
ROBOT_ID: Final = f"spiffe://{SUPPLIER}/ns/parts/sa/robot"

CAMERA: Final = "camera"
FORECASTER: Final = "forecaster"
DEPLOYER: Final = "deployer"
ROGUE: Final = "rogue"
EXPIRED: Final = "expired camera"
IMPOSTOR: Final = "impostor"
NOBODY: Final = "no certificate"

HTTP: Final = Protocol.HTTP
GRPC: Final = Protocol.GRPC


@dataclass(frozen=True, slots=True)
class Expectation:
    """How a call must end; `reason` only for a denial."""

    verdict: Verdict
    reason: Reason | None = None

    def is_met_by(self, outcome: Outcome, protocol: Protocol) -> bool:
        """Return whether verdict, status and reason are the expected ones."""
        if outcome.verdict is not self.verdict:
            return False
        if self.reason is None:
            return True
        status = "403" if protocol is HTTP else "PERMISSION_DENIED"
        return (outcome.status, outcome.reason) == (status, self.reason)


ALLOWED: Final = Expectation(Verdict.ALLOWED)
NOT_GRANTED: Final = Expectation(Verdict.DENIED, Reason.NOT_GRANTED)
UNKNOWN: Final = Expectation(Verdict.DENIED, Reason.PRINCIPAL_UNKNOWN)
REFUSED: Final = Expectation(Verdict.REFUSED)


@dataclass(frozen=True, slots=True)
class Attempt:
    """One row of the table before it is tried."""

    who: str
    what: str
    protocol: Protocol
    expected: Expectation
    call: Callable[[Caller], bool]


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the table: an attempt and its outcome."""

    attempt: Attempt
    outcome: Outcome

    @property
    def is_right(self) -> bool:
        """Whether it ended as expected."""
        return self.attempt.expected.is_met_by(self.outcome, self.attempt.protocol)


def issue_all(factory: DevelopmentCa, supplier: DevelopmentCa) -> dict[str, Svid]:
    """Return an SVID for each caller that has one."""
    return {
        CAMERA: factory.issue(CAMERA_ID),
        FORECASTER: factory.issue(FORECASTER_ID),
        DEPLOYER: factory.issue(DEPLOYER_ID),
        # TLS lets its federated trust domain in; the policy knows nobody there.
        ROGUE: supplier.issue(ROBOT_ID),
        EXPIRED: factory.issue_expired(CAMERA_ID),
        # The supplier's CA signs a name of the factory.
        IMPOSTOR: supplier.issue(CAMERA_ID),
    }


def attempts() -> Iterator[Attempt]:
    """Yield what is tried, in an order in which each finds its model loaded."""
    yield from _defects(CAMERA, "1", ALLOWED)
    yield from _defects(CAMERA, "2", ALLOWED)
    # Its grant names versions, and the newest of the moment is not one of them.
    yield from _defects(CAMERA, "", NOT_GRANTED)
    yield from _forecast(CAMERA, NOT_GRANTED)
    yield Attempt(
        CAMERA,
        f"stream infer {DEFECTS} v1",
        GRPC,
        NOT_GRANTED,
        lambda caller: caller.stream_defects("1"),
    )
    yield from _forecast(FORECASTER, ALLOWED)
    yield from _defects(FORECASTER, "1", NOT_GRANTED)
    yield from _defects(DEPLOYER, "1", NOT_GRANTED)
    yield Attempt(
        DEPLOYER,
        f"unload {FORECAST}",
        GRPC,
        ALLOWED,
        lambda caller: caller.unload(FORECAST),
    )
    # Over HTTP the body, which may bring a configuration and files, is not looked at:
    # so that is the graver action, which it was not granted.
    yield _load(DEPLOYER, HTTP, NOT_GRANTED)
    yield _load(DEPLOYER, GRPC, ALLOWED)
    yield from _defects(ROGUE, "1", UNKNOWN)
    for who in (EXPIRED, IMPOSTOR, NOBODY):
        yield from _defects(who, "1", REFUSED)


def attempts_of(identities: Mapping[str, SvidFiles]) -> Iterator[Attempt]:
    """Yield the attempts of those who have an identity, and of who has none."""
    for attempt in attempts():
        if attempt.who in identities or attempt.who == NOBODY:
            yield attempt


def play(
    edge: Edge,
    identities: Mapping[str, SvidFiles],
    attempts_: Iterable[Attempt] | None = None,
) -> Iterator[Row]:
    """Try one after the other, and yield each row as it is known.

    Connections are kept, as real callers keep them: the first row of a caller and
    protocol includes its TLS handshake.
    """
    callers: dict[tuple[str, Protocol], Caller] = {}
    with contextlib.ExitStack() as stack:
        for attempt in attempts() if attempts_ is None else attempts_:
            key = attempt.who, attempt.protocol
            if key not in callers:
                identity = identities.get(attempt.who)
                caller = Caller(edge, attempt.protocol, identity)
                callers[key] = stack.enter_context(caller)
            yield Row(attempt, callers[key].attempt(attempt.call))


def _defects(who: str, version: str, expected: Expectation) -> Iterator[Attempt]:
    what = f"infer {DEFECTS} v{version}" if version else f"infer {DEFECTS} (any)"
    for over in Protocol:
        yield Attempt(who, what, over, expected, lambda c: c.find_defects(version))


def _forecast(who: str, expected: Expectation) -> Iterator[Attempt]:
    for over in Protocol:
        yield Attempt(who, f"infer {FORECAST}", over, expected, Caller.forecast)


def _load(who: str, over: Protocol, expected: Expectation) -> Attempt:
    return Attempt(who, f"load {FORECAST}", over, expected, lambda c: c.load(FORECAST))
