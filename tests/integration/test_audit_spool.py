"""Whatever a server has answered is on record, also when it is killed at its work."""

from __future__ import annotations

import contextlib
import json
import random
import signal
import statistics
import threading
import time
from functools import partial
from pathlib import Path

import pytest
from checks import CAMERA, check_request, envoy_certificate, frame
from parts import EXAMPLE, FACTORY_CA, eventually, serve_process
from raw_http2 import (
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    WINDOW_UPDATE,
    RawHttp2,
    pack,
    u32,
)

from authz_server._native.choice import is_pure

AT_A_TIME = 8
CALLERS = 2
KILLS = 4
ID = "{:02}-{:07}"
CERTIFICATE = envoy_certificate(FACTORY_CA.issue(CAMERA).certificate_pem)


def ask(socket: Path, caller: int, answered: list[str]) -> None:
    """Ask until there is nobody, and note the ids of all requests with an answer.

    Faster than a gRPC library: each request comes for itself, and at once.
    """
    placeholder = ID.format(0, 0).encode()
    request = check_request(certificate=CERTIFICATE, request_id=placeholder.decode())
    message = frame(bytes(request))
    connection = RawHttp2(f"unix:{socket}")
    block = connection.plain_block()

    def send(stream: int) -> None:
        body = message.replace(placeholder, ID.format(caller, stream).encode())
        connection.send(
            pack(HEADERS, END_HEADERS, stream, block)
            + pack(DATA, END_STREAM, stream, body)
        )

    received = b""
    try:
        connection.send(pack(WINDOW_UPDATE, 0, 0, u32(2**31 - 2**16)))
        for number in range(AT_A_TIME):
            send(2 * number + 1)
        following = 2 * AT_A_TIME + 1
        while data := connection.socket.recv(65536):
            received += data
            while len(received) >= 9 + (length := int.from_bytes(received[:3], "big")):
                kind, flags = received[3:5]
                stream = int.from_bytes(received[5:9], "big")
                received = received[9 + length :]
                if kind == HEADERS and flags & END_STREAM:
                    answered.append(ID.format(caller, stream))
                    send(following)
                    following += 2
    except ConnectionError:
        pass
    finally:
        connection.close()


def write_configuration(folder: Path) -> None:
    (folder / "config.yaml").write_text(
        f"listen: {{address: 'unix://{folder}/s'}}\n"
        f"policy: {{file: '{EXAMPLE}'}}\n"
        "identity: {chain: proxy}\n"
        f"audit: {{file: '{folder}/audit.jsonl'}}\n"
    )


def has_lines(trail: Path, count: int) -> bool:
    return trail.read_bytes().count(b"\n") == count


def is_served(socket: Path) -> bool:
    try:
        RawHttp2(f"unix:{socket}").close()
    except OSError:
        return False
    return True


@pytest.mark.long
@pytest.mark.skipif(is_pure(), reason="only the core has a spool")
def test_no_answer_is_without_its_event(tmp_path: Path) -> None:
    socket, trail = tmp_path / "s", tmp_path / "audit.jsonl"
    spool = tmp_path / ".audit.jsonl.spool"
    write_configuration(tmp_path)
    answered: list[str] = []
    recovered = 0
    for kill in range(KILLS):
        with serve_process(tmp_path) as server:
            assert eventually(lambda: is_served(socket))
            callers = [
                threading.Thread(
                    target=ask, args=(socket, CALLERS * kill + number, answered)
                )
                for number in range(1, CALLERS + 1)
            ]
            for caller in callers:
                caller.start()
            time.sleep(random.uniform(0.5, 0.8))
            server.send_signal(signal.SIGKILL)
            server.wait(timeout=20)
            for caller in callers:
                caller.join()
        before = trail.stat().st_size
        assert spool.exists()
        with serve_process(tmp_path):
            assert eventually(lambda: is_served(socket))
            recovered += trail.stat().st_size > before
        assert not spool.exists()

    ids = [json.loads(line)["request_id"] for line in trail.read_text().splitlines()]
    assert len(ids) == len(set(ids))
    assert set(answered) <= set(ids)
    # Otherwise the spool was not seen at work.
    assert recovered, len(answered)


@pytest.mark.skipif(is_pure(), reason="only the core has a spool")
def test_what_is_spooled_is_in_the_file_a_moment_later(tmp_path: Path) -> None:
    """Also if nothing follows: not at the loops' next look, which is once a second."""
    trail, waited_s = tmp_path / "audit.jsonl", []
    write_configuration(tmp_path)
    raw = bytes(check_request(certificate=CERTIFICATE))
    with serve_process(tmp_path):
        assert eventually(lambda: is_served(tmp_path / "s"))
        with contextlib.closing(RawHttp2(f"unix:{tmp_path}/s")) as connection:
            for number in range(1, 10):
                for _ in range(100):
                    connection.ask(raw)
                began_s = time.monotonic()
                assert eventually(partial(has_lines, trail, number * 100))
                waited_s.append(time.monotonic() - began_s)
    assert statistics.median(waited_s) < 0.25, waited_s
