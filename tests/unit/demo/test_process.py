"""A child process is awaited within limits and ended with all that it started."""

from __future__ import annotations

import os
import socket
import sys
import time
from pathlib import Path

import pytest

from authz_server.demo.process import Command, Process, accepts, free_ports
from authz_server.errors import SetupError


def command(folder: Path, program: str, grace_s: float = 5.0) -> Command:
    return Command(
        name="Part",
        argv=[sys.executable, "-c", program],
        log=folder / "part.log",
        env=os.environ,
        cwd=folder,
        grace_s=grace_s,
    )


def is_gone(pid: int) -> bool:
    """A process is gone, or is a zombie that some other parent has yet to collect."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return True
    return state == "Z"


def test_a_process_is_gone_after_its_block(tmp_path: Path) -> None:
    with Process(command(tmp_path, "import time; time.sleep(60)")) as process:
        pid = process.pid
        assert not is_gone(pid)
    assert is_gone(pid)


def test_a_process_that_ignores_the_signal_is_killed_after_the_grace(
    tmp_path: Path,
) -> None:
    program = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        "print('deaf', flush=True); time.sleep(60)"
    )
    with Process(command(tmp_path, program, grace_s=0.2)) as process:
        process.wait_until(lambda: "deaf" in (tmp_path / "part.log").read_text(), 10)
        pid = process.pid
    assert is_gone(pid)


def test_a_process_gets_the_time_to_end_in_order(tmp_path: Path) -> None:
    program = (
        "import signal, sys, time\n"
        "def end(*_): print('in order', flush=True); sys.exit()\n"
        "signal.signal(signal.SIGTERM, end); print('up', flush=True); time.sleep(60)"
    )
    log = tmp_path / "part.log"
    with Process(command(tmp_path, program)) as process:
        process.wait_until(lambda: "up" in log.read_text(), 10)
    assert log.read_text() == "up\nin order\n"


def test_what_a_crashed_process_had_started_is_ended_too(tmp_path: Path) -> None:
    program = (
        "import os, signal, subprocess, sys\n"
        "sleep = 'import time; time.sleep(60)'\n"
        "child = subprocess.Popen([sys.executable, '-c', sleep])\n"
        "print(child.pid, flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    log = tmp_path / "part.log"
    with Process(command(tmp_path, program)) as process:
        process.wait_until(lambda: log.read_text().endswith("\n"), 10)
        child = int(log.read_text())
    deadline = time.monotonic() + 5
    while not is_gone(child):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_process_that_ends_early_is_an_error_with_the_end_of_its_log(
    tmp_path: Path,
) -> None:
    program = "import sys; print('port taken'); sys.exit(3)"
    with (
        Process(command(tmp_path, program)) as process,
        pytest.raises(SetupError, match=r"(?s)Part ended with code 3.*port taken"),
    ):
        process.wait_until(lambda: False, 10)


def test_a_process_that_is_never_ready_is_an_error(tmp_path: Path) -> None:
    with (
        Process(command(tmp_path, "import time; time.sleep(60)")) as process,
        pytest.raises(SetupError, match=r"not ready after 0\.1 s"),
    ):
        process.wait_until(lambda: False, 0.1)


def test_a_missing_program_is_an_error(tmp_path: Path) -> None:
    missing = Command("Part", ["/nowhere/part"], tmp_path / "log", {}, tmp_path)
    with pytest.raises(SetupError, match="Part cannot be started"):
        Process(missing).__enter__()


def test_a_process_cannot_be_used_outside_its_block(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError):
        _ = Process(command(tmp_path, "")).pid


def test_a_ctrl_c_in_the_terminal_does_not_reach_a_process(tmp_path: Path) -> None:
    # The terminal signals a whole process group.
    with Process(command(tmp_path, "import time; time.sleep(60)")) as process:
        assert os.getpgid(process.pid) == process.pid != os.getpgrp()


def test_free_ports_differ_and_nothing_listens_there() -> None:
    ports = free_ports(5)
    assert len(set(ports)) == 5
    assert not any(accepts(port) for port in ports)


def test_a_listening_port_accepts() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert accepts(server.getsockname()[1])
