"""A child process that is awaited within a time limit and always ended."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

from authz_server.errors import SetupError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path
    from types import TracebackType

POLL_S: Final = 0.05
LOG_LINES_IN_ERROR: Final = 12


@dataclass(frozen=True, slots=True)
class Command:
    """What to run.

    Attributes:
        name: as in messages, e.g. ``Envoy``.
        argv: the program by absolute path, and its arguments.
        log: the file that gets its output.
        env: its whole environment.
        cwd: where it runs.
        stop_with: the signal that ends it in good order.
        grace_s: how long after that it is killed.
    """

    name: str
    argv: Sequence[str]
    log: Path
    env: Mapping[str, str]
    cwd: Path
    stop_with: signal.Signals = signal.SIGTERM
    grace_s: float = 5.0


class Process:
    """A context manager: the command runs from entering to leaving.

    It gets a session of its own, so that a Ctrl-C in the terminal reaches this process
    alone, which then ends its children in order.
    """

    def __init__(self, command: Command) -> None:
        self.command = command
        self._popen: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        command = self.command
        with command.log.open("ab") as log:
            try:
                self._popen = subprocess.Popen(
                    command.argv,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=dict(command.env),
                    cwd=command.cwd,
                    start_new_session=True,
                )
            except OSError as error:
                raise SetupError(
                    f"{command.name} cannot be started: {error}"
                ) from error
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """The process id."""
        return self._running().pid

    def stop(self) -> None:
        """End the process and all that it started; it is gone when this returns."""
        process = self._running()
        if process.poll() is None:
            process.send_signal(self.command.stop_with)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(self.command.grace_s)
        # Its own children (Triton's model processes) are in its session's group, and
        # would outlive it if it crashed.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def wait_until(self, ready: Callable[[], bool], timeout_s: float) -> None:
        """Return once `ready` is true.

        Raises:
            SetupError: if the process ends first or the time is over; the message has
                the end of its log.
        """
        end = time.monotonic() + timeout_s
        while not ready():
            code = self._running().poll()
            if code is not None:
                raise SetupError(self._failure(f"ended with code {code}"))
            if time.monotonic() > end:
                raise SetupError(self._failure(f"was not ready after {timeout_s:g} s"))
            time.sleep(POLL_S)

    def _running(self) -> subprocess.Popen[bytes]:
        if self._popen is None:
            raise RuntimeError("used outside its with block")
        return self._popen

    def _failure(self, what: str) -> str:
        log = self.command.log.read_text("utf-8", "replace").splitlines()
        tail = "\n".join(f"  | {line}" for line in log[-LOG_LINES_IN_ERROR:])
        return f"{self.command.name} {what}; the end of its log:\n{tail}"


def free_ports(count: int) -> list[int]:
    """Return ports that nothing listens on at 127.0.0.1 now; nothing reserves them."""
    with contextlib.ExitStack() as stack:
        ports = []
        for _ in range(count):
            sock = stack.enter_context(socket.socket())
            sock.bind(("127.0.0.1", 0))
            ports.append(int(sock.getsockname()[1]))
        return ports


def accepts(port: int) -> bool:
    """Return whether something accepts connections at this port of 127.0.0.1."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
    except OSError:
        return False
