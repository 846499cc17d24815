"""What identity costs: a certificate seen before, and one seen for the first time.

Times `Identifier.identify` alone, in process, with the chain verified by the bundle of
the caller's trust domain. First sight parses the certificate, checks its profile and
builds the chain; after that both are remembered by the certificate's bytes and the
dates are compared. Answers are checked before anything is timed.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import tempfile
import time
import urllib.parse
from collections.abc import Callable
from functools import partial
from pathlib import Path

from authz_server.clock import system_clock
from authz_server.demo.pki import DevelopmentCa
from authz_server.facts import Body, BodyState, Facts
from authz_server.identity.bundle_files import BundleFiles
from authz_server.identity.certificate import parse_leaf
from authz_server.identity.identify import Identifier
from authz_server.identity.rules import Rules
from authz_server.identity.sources import IdentitySources, IdentityState
from authz_server.identity.spiffe_id import TrustDomain
from authz_server.identity.trust import TrustStore

CAMERA = "spiffe://factory.example/ns/line1/sa/camera"
TRUST_DOMAIN = TrustDomain("factory.example")


def facts_of(certificate_pem: bytes) -> Facts:
    """Return the facts of a camera's call with that certificate."""
    return Facts(
        principal=CAMERA.encode(),
        certificate=urllib.parse.quote(certificate_pem.decode(), safe="").encode(),
        destination=b"",
        upstream=b"triton",
        method=b"POST",
        path=b"/v2/models/defect-detection/infer",
        host=b"",
        is_grpc=False,
        headers=(),
        body=Body(BodyState.UNREAD),
    )


def microseconds(work: Callable[[Facts], object], calls: list[Facts]) -> float:
    """Return the processor time of one call."""
    begin = time.process_time()
    for facts in calls:
        work(facts)
    return (time.process_time() - begin) / len(calls) * 1e6


def read_trust(folder: Path, ca: DevelopmentCa) -> IdentityState:
    """Return the state of one bundle, which has seen no certificate yet."""
    bundle = folder / "bundle.pem"
    bundle.write_bytes(ca.bundle_pem)
    store = TrustStore(max_age_s=math.inf, clock=system_clock)
    BundleFiles(store, {TRUST_DOMAIN: bundle}).reload()
    return IdentityState(store.current)


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--certificates", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    ca = DevelopmentCa(TRUST_DOMAIN.name)
    calls = [
        facts_of(ca.issue(CAMERA).certificate_pem) for _ in range(args.certificates)
    ]
    first, again = [], []
    for _ in range(args.rounds):
        with tempfile.TemporaryDirectory() as folder:
            state = read_trust(Path(folder), ca)
        work = partial(
            Identifier(Rules(), IdentitySources()).identify,
            trust_domains=frozenset({TRUST_DOMAIN}),
            now=system_clock(),
            state=state,
        )
        if str(work(calls[0]).spiffe_id) != CAMERA:
            raise SystemExit("the camera is not identified: not timed")
        parse_leaf.cache_clear()
        first.append(microseconds(work, calls[1:]))
        again.append(microseconds(work, calls[1:]))
    print(
        f"first sight   {statistics.median(first):7.1f} us CPU, median of {args.rounds}"
    )
    print(f"seen before   {statistics.median(again):7.1f} us CPU")
    return 0


if __name__ == "__main__":
    sys.exit(main())
