import os
from pathlib import Path

import pytest

from authz_server.audit import FileSink
from authz_server.errors import AuditError, ConfigError, Reason


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


def test_a_torn_line_does_not_swallow_the_next_event(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "audit.jsonl"
    sink = FileSink(str(file))
    write = os.write
    budget = [5]

    def disk_with_room_for_five_bytes(descriptor: int, data: bytes) -> int:
        if budget[0] == 0:
            raise OSError(28, "No space left on device")
        written = write(descriptor, data[: budget[0]])
        budget[0] -= written
        return written

    monkeypatch.setattr(os, "write", disk_with_room_for_five_bytes)
    with pytest.raises(AuditError):
        sink.write(b'{"a":1}\n')
    budget[0] = 1000
    sink.write(b'{"b":2}\n')
    sink.close()
    assert file.read_bytes() == b'{"a":\n{"b":2}\n'


def test_a_short_write_is_continued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "audit.jsonl"
    sink = FileSink(str(file))
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[:3]))
    sink.write(b"12345678\n")
    assert file.read_bytes() == b"12345678\n"
    sink.close()


def test_after_closing_nothing_is_written(tmp_path: Path) -> None:
    file = tmp_path / "audit.jsonl"
    sink = FileSink(str(file))
    sink.close()
    sink.close()
    with pytest.raises(AuditError):
        sink.write(b"late\n")
    assert file.read_bytes() == b""
