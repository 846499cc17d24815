import contextlib
import importlib
import os
import resource
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final, cast

import pytest

from authz_server._native.choice import is_pure
from authz_server.audit import FileSink
from authz_server.audit.file import AuditFile
from authz_server.errors import AuditError, ConfigError, Reason

CORE: Final = "authz_server._native._core"


def test_events_are_appended_in_order(tmp_path: Path) -> None:
    file = tmp_path / "audit.jsonl"
    file.write_bytes(b"before\n")
    sink = FileSink(str(file))
    sink.write(b"one\n")
    sink.write(b"two\n")
    sink.close()
    assert file.read_bytes() == b"before\none\ntwo\n"


def test_a_new_file_is_closed_to_strangers(tmp_path: Path) -> None:
    file = tmp_path / "audit.jsonl"
    FileSink(str(file)).close()
    assert file.stat().st_mode & 0o007 == 0


def test_standard_output_is_written_to_and_left_open(
    capfd: pytest.CaptureFixture[str],
) -> None:
    sink = FileSink("-")
    sink.write(b"one\n")
    sink.close()
    os.write(1, b"still open\n")
    assert capfd.readouterr().out == "one\nstill open\n"


def test_a_file_that_was_renamed_away_is_made_anew(tmp_path: Path) -> None:
    file = tmp_path / "audit.jsonl"
    sink = FileSink(str(file))
    sink.write(b"one\n")
    file.rename(tmp_path / "audit.jsonl.1")
    sink.write(b"two\n")
    sink.close()
    assert (tmp_path / "audit.jsonl.1").read_bytes() == b"one\n"
    assert file.read_bytes() == b"two\n"


def test_a_file_that_cannot_be_opened_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"audit\.file"):
        FileSink(str(tmp_path / "missing" / "audit.jsonl"))


def test_a_full_disk_is_an_error_and_not_a_silent_loss() -> None:
    sink = FileSink("/dev/full")
    with pytest.raises(AuditError) as caught:
        sink.write(b"one\n")
    assert caught.value.reason is Reason.AUDIT_UNAVAILABLE
    sink.close()


@pytest.fixture(params=["core", "twin"])
def kind(request: pytest.FixtureRequest) -> type[AuditFile]:
    """Return the class of a file, of the core and of its twin."""
    if request.param == "twin" or is_pure():
        return AuditFile
    return cast("type[AuditFile]", importlib.import_module(CORE).AuditFile)


@contextlib.contextmanager
def room_for(size: int) -> Iterator[None]:
    """Let no file grow beyond `size` bytes: what is longer is written in part."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_torn_line_does_not_swallow_the_next_event(
    tmp_path: Path, kind: type[AuditFile]
) -> None:
    path = tmp_path / "audit.jsonl"
    file = kind(str(path))
    with room_for(5), pytest.raises(OSError, match="File too large"):
        file.write(b'{"a":1}\n')
    # The line is ended, and nothing more: no empty line is left either.
    with room_for(6), pytest.raises(OSError, match="File too large"):
        file.write(b'{"b":0}\n')
    file.write(b'{"b":2}\n')
    file.write(b'{"c":3}\n{"d":4}\n')
    file.close()
    assert path.read_bytes() == b'{"a":\n{"b":2}\n{"c":3}\n{"d":4}\n'


def test_a_write_that_ends_with_a_line_leaves_none_torn(
    tmp_path: Path, kind: type[AuditFile]
) -> None:
    path = tmp_path / "audit.jsonl"
    file = kind(str(path))
    with room_for(8), pytest.raises(OSError, match="File too large"):
        file.write(b'{"a":1}\n{"b":2}\n')
    file.write(b'{"c":3}\n')
    file.close()
    assert path.read_bytes() == b'{"a":1}\n{"c":3}\n'


def test_both_files_follow_a_rename_and_end_at_the_close(
    tmp_path: Path, kind: type[AuditFile]
) -> None:
    path = tmp_path / "audit.jsonl"
    file = kind(str(path))
    file.write(b"one\n")
    path.rename(tmp_path / "audit.jsonl.1")
    file.write(b"two\n")
    path.unlink()
    file.write(b"three\n")
    file.close()
    file.close()
    path.rename(tmp_path / "audit.jsonl.2")
    with pytest.raises(OSError, match="Bad file descriptor"):
        file.write(b"late\n")
    assert not path.exists()
    assert (tmp_path / "audit.jsonl.1").read_bytes() == b"one\n"
    assert (tmp_path / "audit.jsonl.2").read_bytes() == b"three\n"


def test_lines_of_many_threads_stay_whole(
    tmp_path: Path, kind: type[AuditFile]
) -> None:
    path = tmp_path / "audit.jsonl"
    file = kind(str(path))

    def write(number: int) -> None:
        for _ in range(200):
            file.write(b"%d" % number * 50 + b"\n" + b"%d" % number * 70 + b"\n")

    threads = [threading.Thread(target=write, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    file.close()
    lines = path.read_bytes().splitlines()
    assert len(lines) == 8 * 200 * 2
    for short, long in zip(lines[::2], lines[1::2], strict=True):
        assert (len(short), len(long), set(short)) == (50, 70, set(long))


def test_after_closing_nothing_is_written(tmp_path: Path) -> None:
    file = tmp_path / "audit.jsonl"
    sink = FileSink(str(file))
    sink.close()
    sink.close()
    with pytest.raises(AuditError):
        sink.write(b"late\n")
    assert file.read_bytes() == b""
