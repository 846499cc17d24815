"""Runs a program under what a systemd unit says of system calls, with the kernel's own
filters: ``python unit_sandbox.py UNIT PROGRAM ARGUMENT…``.

For where systemd does not run. Of the unit SystemCallFilter, RestrictAddressFamilies,
MemoryDenyWriteExecute and NoNewPrivileges take effect, built by libseccomp as systemd
builds them; SystemCallErrorNumber is taken to be EPERM.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

_ALLOW = 0x7FFF0000
_EPERM = 0x00050000 | errno.EPERM
_NO_FAMILY = 0x00050000 | errno.EAFNOSUPPORT
_MASKED_EQUAL, _EQUAL, _GREATER = 7, 4, 6
_WRITE, _EXECUTE = 2, 4
_LAST_FAMILY = 45
_PR_SET_NO_NEW_PRIVS = 38


class _Condition(ctypes.Structure):
    _fields_ = (
        ("arg", ctypes.c_uint),
        ("op", ctypes.c_int),
        ("a", ctypes.c_uint64),
        ("b", ctypes.c_uint64),
    )


class _Filter:
    """A filter of the kernel's: what no rule names ends as `default`."""

    def __init__(self, default: int) -> None:
        self._lib = ctypes.CDLL("libseccomp.so.2", use_errno=True)
        self._lib.seccomp_init.restype = ctypes.c_void_p
        self._context = ctypes.c_void_p(self._lib.seccomp_init(default))

    def add(self, action: int, call: str, *conditions: _Condition) -> None:
        number = self._lib.seccomp_syscall_resolve_name(call.encode())
        if number < 0:
            return  # not one of this architecture's
        array = (_Condition * len(conditions))(*conditions)
        code = self._lib.seccomp_rule_add_array(
            self._context, ctypes.c_uint32(action), number, len(conditions), array
        )
        if code:
            raise OSError(-code, f"no rule for {call}")

    def load(self) -> None:
        code = self._lib.seccomp_load(self._context)
        if code:
            raise OSError(-code, "the filter was not taken")


def values(unit: str, key: str) -> list[str]:
    """Return the words of all lines of `key`, a line each."""
    return [
        line.partition("=")[2]
        for line in unit.splitlines()
        if line.partition("=")[0] == key
    ]


def _calls(names: Iterable[str]) -> set[str]:
    """Return the system calls that `names` and their groups stand for."""
    found = set()
    for name in names:
        if not name.startswith("@"):
            found.add(name)
            continue
        lines = subprocess.run(
            ["systemd-analyze", "syscall-filter", "--no-pager", name],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.splitlines()
        found |= _calls(
            line.strip() for line in lines[1:] if line.strip() and "#" not in line
        )
    return found


def _of_calls(unit: str) -> _Filter | None:
    lines = values(unit, "SystemCallFilter")
    allowed: set[str] = set()
    for line in lines:
        if line.startswith("~"):
            allowed -= _calls(line[1:].split())
        else:
            allowed |= _calls(line.split())
    if not lines:
        return None
    found = _Filter(_EPERM)
    for call in sorted(allowed):
        found.add(_ALLOW, call)
    return found


def _of_families(unit: str) -> _Filter | None:
    lines = values(unit, "RestrictAddressFamilies")
    if not lines:
        return None
    allowed = {int(getattr(socket, name)) for line in lines for name in line.split()}
    found = _Filter(_ALLOW)
    for family in range(_LAST_FAMILY + 1):
        if family not in allowed:
            found.add(_NO_FAMILY, "socket", _Condition(0, _EQUAL, family, 0))
    found.add(_NO_FAMILY, "socket", _Condition(0, _GREATER, _LAST_FAMILY, 0))
    return found


def _of_memory(unit: str) -> _Filter | None:
    if values(unit, "MemoryDenyWriteExecute") != ["yes"]:
        return None
    both = _WRITE | _EXECUTE
    found = _Filter(_ALLOW)
    found.add(_EPERM, "mmap", _Condition(2, _MASKED_EQUAL, both, both))
    for call in ("mprotect", "pkey_mprotect"):
        found.add(_EPERM, call, _Condition(2, _MASKED_EQUAL, _EXECUTE, _EXECUTE))
    return found


def main(unit_file: str, *command: str) -> None:
    unit = Path(unit_file).read_text()
    filters = [of(unit) for of in (_of_memory, _of_families, _of_calls)]
    if ctypes.CDLL(None).prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise OSError("no_new_privs was not taken")
    # The one of all calls last: it forbids a further one.
    for item in filters:
        if item is not None:
            item.load()
    os.execv(command[0], command)


if __name__ == "__main__":
    main(*sys.argv[1:])
