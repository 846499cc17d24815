"""What SPIRE adds to the demo: certificates that rotate, and an identity taken away."""

from __future__ import annotations

import contextlib
import http.client
import ssl
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from authz_server.demo.calls import Edge
from authz_server.demo.pki import SvidFiles
from authz_server.demo.plant import Plant
from authz_server.demo.scenario import CAMERA_ID
from authz_server.demo.spire import Workload
from authz_server.demo.spire_issuance import TTL_S, SpireIssuance
from authz_server.errors import Reason

READY: Final = "/v2/models/defect-detection/versions/1/ready"

ROTATION_S: Final = 14.0
"""SPIRE renews at half of a certificate's time, so this sees at least one."""

_PAUSE_S: Final = 0.02


@dataclass(frozen=True, slots=True)
class Rotation:
    """What came of calling while certificates rotated.

    Attributes:
        failures: how each call that was not allowed ended.
        edge_certificates: how many different ones Envoy showed.
        caller_certificates: how many different ones the caller showed.
    """

    calls: int
    failures: tuple[str, ...]
    edge_certificates: int
    caller_certificates: int


@dataclass(frozen=True, slots=True)
class Ending:
    """How the calls of a workload ended whose entry was deleted.

    Attributes:
        allowed: calls that were still allowed, while its SVID held.
        after_s: seconds from the deletion to the first denial.
        status, reason: of that denial.
    """

    allowed: int
    after_s: float
    status: int
    reason: str


def call_through_rotation(edge: Edge, workload: Workload, seconds: float) -> Rotation:
    """Call with an SVID that is fetched anew every second, over new connections.

    Half of the calls go over a connection that stays open until the next SVID.
    """
    calls, failures = 0, []
    shown: set[bytes | None] = set()
    own: set[bytes] = set()
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        svid = workload.fetch_x509()
        own.add(svid.certificate.read_bytes())
        with connection(edge, svid) as lasting:
            renew = time.monotonic() + 1.0
            while time.monotonic() < min(renew, end):
                with connection(edge, svid) as fresh:
                    for line in (lasting, fresh):
                        status, reason = ask(line)
                        calls += 1
                        if status != http.client.OK:
                            failures.append(f"{status} {reason}")
                    shown.add(fresh.sock.getpeercert(binary_form=True))
                time.sleep(_PAUSE_S)
    return Rotation(calls, tuple(failures), len(shown), len(own))


def call_to_the_end(
    edge: Edge, svid: SvidFiles, delete: Callable[[], None], limit_s: float
) -> Ending:
    """Delete a caller's entry, and call over an open connection until it is denied."""
    with connection(edge, svid) as line:
        ask(line)
        delete()
        start = time.monotonic()
        allowed = 0
        while True:
            status, reason = ask(line)
            after_s = time.monotonic() - start
            if status != http.client.OK or after_s > limit_s:
                return Ending(allowed, after_s, status, reason)
            allowed += 1
            time.sleep(_PAUSE_S)


def tell(issuance: SpireIssuance, plant: Plant, say: Callable[[str], None]) -> bool:
    """Show what SPIRE adds, step by step; return whether it went as it must."""
    say(f"\nnow {ROTATION_S:.0f} s of calls, while certificates of {TTL_S} s rotate")
    rotation = call_through_rotation(plant.edge, issuance.camera, ROTATION_S)
    say(
        f"{rotation.calls} calls, {len(rotation.failures)} failed; Envoy showed "
        f"{rotation.edge_certificates} certificates, the camera "
        f"{rotation.caller_certificates}"
    )
    say("the camera's entry is deleted; it goes on calling over an open connection")
    ending = call_to_the_end(
        plant.edge,
        issuance.camera.fetch_x509(),
        lambda: issuance.factory.deregister(CAMERA_ID),
        limit_s=2 * TTL_S,
    )
    say(
        f"its SVID ended: after {ending.after_s:.0f} s and {ending.allowed} calls "
        f"{ending.status} {ending.reason}"
    )
    return (
        not rotation.failures
        and rotation.edge_certificates > 1
        and rotation.caller_certificates > 1
        and ending.reason == Reason.CERTIFICATE_EXPIRED
    )


@contextlib.contextmanager
def connection(edge: Edge, svid: SvidFiles) -> Iterator[http.client.HTTPSConnection]:
    """Yield a caller's connection to Envoy."""
    tls = ssl.create_default_context(cafile=str(edge.bundle))
    tls.load_cert_chain(svid.certificate, svid.key)
    line = http.client.HTTPSConnection("localhost", edge.port, timeout=10, context=tls)
    with contextlib.closing(line):
        line.connect()
        yield line


def ask(
    line: http.client.HTTPSConnection, path: str = READY, **headers: str
) -> tuple[int, str]:
    """Return the status of one call, and the reason code of a denial."""
    line.request("GET", path, headers=headers)
    answer = line.getresponse()
    answer.read()
    return answer.status, answer.headers.get("x-authz-reason", "")
