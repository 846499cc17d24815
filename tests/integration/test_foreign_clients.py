"""Judges and clients that others wrote, against the native listener."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import subprocess
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

import pytest
from checks import check_request, frame, is_allowed
from parts import (
    RecordSink,
    example_config,
    loaded_policies,
    new_server,
    running_server,
    trail,
)
from raw_http2 import CHECK

from authz_server._native.choice import is_pure
from authz_server.address import Address
from authz_server.assembly import build_pipeline
from authz_server.config import Limits
from authz_server.folders import cache_folder
from authz_server.identity.sources import IdentitySources

pytestmark = pytest.mark.skipif(
    is_pure(), reason="the native listener is what is turned off"
)

ROOT = Path(__file__).parents[2]
CONFIG = example_config(limits=Limits(deadline_s=5.0))
ALLOWED = bytes(check_request())
LOOPBACK = Address(host="127.0.0.1")

_NO_BODY = "an error of gRPC has no body, and h2spec asks by GET, which is one"
_ANSWERED = (
    "h2spec asks by GET, which is refused as soon as its headers are there: the stream "
    "is over before the fault in what follows, and what follows is skipped"
)
_SKIPPED = (
    "libnghttp2 skips frames of streams that are closed, which it need not remember; "
    "RFC 9113 5.1 asks for that after our own RST_STREAM and allows more"
)

EXPECTED = {
    _NO_BODY: """
        generic/2: Sends a WINDOW_UPDATE frame on half-closed (remote) stream
        generic/2: Sends a PRIORITY frame on half-closed (remote) stream
    """,
    _ANSWERED: """
        http2/5.1: half closed (remote): Sends a DATA frame
        http2/5.1: half closed (remote): Sends a HEADERS frame
        http2/5.1.2: Sends HEADERS frames that causes their advertised concurrent \
stream limit to be exceeded
        http2/6.1: Sends a DATA frame on the stream that is not in "open" or \
"half-closed (local)" state
        http2/6.9: Sends a WINDOW_UPDATE frame with a flow control window increment \
of 0 on a stream
        http2/6.9.1: Sends multiple WINDOW_UPDATE frames increasing the flow control \
window to above 2^31-1 on a stream
        http2/8.1: Sends a second HEADERS frame without the END_STREAM flag
        http2/8.1.2.1: Sends a HEADERS frame that contains a pseudo-header field as \
trailers
        http2/8.1.2.6: Sends a HEADERS frame with the "content-length" header field \
which does not equal the DATA frame payload length
        http2/8.1.2.6: Sends a HEADERS frame with the "content-length" header field \
which does not equal the sum of the multiple DATA frames payload length
    """,
    _SKIPPED: """
        http2/5.1: closed: Sends a DATA frame after sending RST_STREAM frame
        http2/5.1: closed: Sends a HEADERS frame after sending RST_STREAM frame
        http2/5.1: closed: Sends a DATA frame
        http2/5.1: closed: Sends a HEADERS frame
        http2/5.1.1: Sends stream identifier that is numerically smaller than previous
    """,
}
"""What h2spec finds, and why it is no fault."""


@pytest.fixture(params=["tcp", "unix"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Address:
    return LOOPBACK if request.param == "tcp" else Address(path=str(tmp_path / "s"))


@contextlib.contextmanager
def native(folder: Path, address: Address) -> Iterator[str]:
    """Yield the target of a native listener."""
    with (
        loaded_policies(CONFIG) as policies,
        contextlib.closing(RecordSink(folder)) as sink,
    ):
        pipeline = build_pipeline(CONFIG, policies, sink, IdentitySources())
        with running_server(new_server("native", pipeline, sink), address) as target:
            yield target


def version_of(name: str) -> str:
    version = re.search(
        rf"^{name}_VERSION := (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE
    )
    assert version is not None
    return version[1]


def faults_by_h2spec(target: str, report: Path) -> set[str]:
    program = cache_folder(os.environ) / f"h2spec-{version_of('H2SPEC')}" / "h2spec"
    subprocess.run(
        [
            *(program, "--host", "127.0.0.1", "--port", target.rpartition(":")[2]),
            *("--path", CHECK, "--timeout", "1", "--junit-report", report),
            *("generic", "http2", "hpack"),
        ],
        capture_output=True,
        timeout=100,
        check=False,
    )
    # It writes what it received as it is, which not every parser of XML takes.
    text = re.sub(r"[^\t\n\x20-\x7e]", "?", report.read_text("utf-8", "replace"))
    cases = ET.fromstring(text.partition("?>")[2]).findall(".//testcase")
    assert len(cases) > 140
    return {
        f"{case.attrib['package']}: {case.attrib['classname']}"
        for case in cases
        if case.find("error") is not None or case.find("failure") is not None
    }


@pytest.mark.go
def test_h2spec_finds_no_fault_that_is_one(tmp_path: Path) -> None:
    known = set(map(str.strip, "\n".join(EXPECTED.values()).splitlines()))
    with native(tmp_path, LOOPBACK) as target:
        found = faults_by_h2spec(target, tmp_path / "report.xml") - known
        # Whether a stream is over before its fault is a race; a fault is no race.
        for _ in range(3):
            if found:
                found &= faults_by_h2spec(target, tmp_path / "report.xml")
    assert found == set()


@pytest.mark.go
def test_grpc_go_sees_answers_statuses_and_trailers(
    tmp_path: Path, place: Address
) -> None:
    program = cache_folder(os.environ) / "grpc-client" / "grpc_client"
    with native(tmp_path, place) as target:
        output = subprocess.run(
            [program, target if target.startswith("unix") else f"passthrough:{target}"],
            input=ALLOWED,
            capture_output=True,
            timeout=30,
            check=True,
        ).stdout
    said = {line["name"]: line for line in map(json.loads, output.splitlines())}
    assert {name: line["code"] for name, line in said.items()} == {
        "miss": "OK",
        "hit": "OK",
        "unknown": "Unimplemented",
        "compressed": "Unimplemented",
        "long": "ResourceExhausted",
        "health": "OK",
        "health of nothing": "NotFound",
        "watch": "Canceled",
        "watch of nothing": "Canceled",
    }
    for name in ("miss", "hit"):
        assert is_allowed(base64.b64decode(said[name]["answer"]))
        assert said[name]["headers"] == {"content-type": ["application/grpc"]}
        assert not said[name]["trailers"]
    assert said["unknown"]["message"] == "no such method"
    assert said["long"]["message"] == "the message is too long"
    assert said["health"]["statuses"] == said["watch"]["statuses"] == ["SERVING"]
    assert said["watch of nothing"]["statuses"] == ["SERVICE_UNKNOWN"]


def test_h2load_gets_an_answer_to_every_check(tmp_path: Path) -> None:
    request = tmp_path / "request"
    request.write_bytes(frame(ALLOWED))
    with native(tmp_path, LOOPBACK) as target:
        output = subprocess.run(
            [
                *("h2load", "-n", "20000", "-c", "4", "-m", "50", "-d", request),
                *("-H", "content-type: application/grpc", "-H", "te: trailers"),
                f"http://{target}{CHECK}",
            ],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        ).stdout
    assert "20000 succeeded, 0 failed, 0 errored, 0 timeout" in output
    assert len(trail(tmp_path / "audit.jsonl")) == 20000
