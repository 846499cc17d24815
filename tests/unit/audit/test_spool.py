"""What a killed server leaves is in the file after the next start, once."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authz_server.audit import FileSink, spool
from authz_server.audit.spool import HEAD, MAGIC, boot_id, missing_of, pending_of
from authz_server.errors import ConfigError

LINES = b'{"n":1}\n{"n":2}\n{"n":3}\n'


def spool_of(text: bytes, start: int = 0, boot: str = "") -> bytes:
    name = (boot or boot_id()).encode("ascii")
    return HEAD.pack(MAGIC, name, len(text), start) + text + b"\0" * 100


@pytest.fixture
def audit(tmp_path: Path) -> Path:
    return tmp_path / "audit.jsonl"


def leave(audit: Path, spool: bytes) -> Path:
    """Leave `spool` behind as a server would."""
    path = audit.with_name(".audit.jsonl.spool")
    path.write_bytes(spool)
    path.chmod(0o600)
    return path


def test_what_is_missing_is_appended_before_anything_else(audit: Path) -> None:
    audit.write_bytes(b'{"n":0}\n')
    left = leave(audit, spool_of(LINES))
    sink = FileSink(str(audit))
    sink.write(b'{"n":4}\n')
    sink.close()
    assert audit.read_bytes() == b'{"n":0}\n' + LINES + b'{"n":4}\n'
    assert not left.exists()


def test_a_file_that_was_rotated_away_meanwhile_is_made(audit: Path) -> None:
    leave(audit, spool_of(LINES, start=8))
    FileSink(str(audit)).close()
    assert audit.read_bytes() == LINES[8:]
    assert audit.stat().st_mode & 0o007 == 0


@pytest.mark.parametrize(
    "left",
    [b"", b"\0" * 1000, spool_of(b""), spool_of(LINES, start=len(LINES))],
)
def test_a_spool_without_anything_pending_adds_nothing(
    audit: Path, left: bytes
) -> None:
    audit.write_bytes(b'{"n":0}\n')
    leave(audit, left)
    FileSink(str(audit)).close()
    assert audit.read_bytes() == b'{"n":0}\n'
    assert list(audit.parent.iterdir()) == [audit]


@pytest.mark.parametrize("left", [spool_of(LINES, boot="x" * 36), b"text\n" * 100])
def test_what_cannot_be_relied_on_is_kept_aside_and_never_overwritten(
    audit: Path, left: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):
        leave(audit, left)
        FileSink(str(audit)).close()
    assert audit.read_bytes() == b""
    for number in (1, 2):
        kept = audit.with_name(f".audit.jsonl.spool.{number}")
        assert kept.read_bytes() == left
        assert f"{kept}: what it may hold is not in the trail" in caplog.text


def test_of_another_boot_without_anything_pending_nothing_is_kept(audit: Path) -> None:
    leave(audit, spool_of(LINES, start=len(LINES), boot="x" * 36))
    FileSink(str(audit)).close()
    assert list(audit.parent.iterdir()) == [audit]


def written_by_all(path: Path) -> None:
    path.chmod(0o602)


def linked(path: Path) -> None:
    path.with_name("link").hardlink_to(path)


@pytest.mark.parametrize("open_", [written_by_all, linked])
def test_a_spool_that_is_not_ours_alone_is_neither_believed_nor_used(
    audit: Path, open_: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever could write it could forge events, or end the server by truncating it."""
    left = leave(audit, spool_of(LINES, start=8))
    open_(left)
    sink = FileSink(str(audit))
    sink.write(b"one\n")
    sink.close()
    assert audit.read_bytes() == b"one\n"
    assert left.read_bytes() == spool_of(LINES, start=8)
    assert "not in the trail: others can write it" in caplog.text


def test_a_volume_whose_files_our_group_may_write_changes_nothing(audit: Path) -> None:
    leave(audit, spool_of(LINES)).chmod(0o660)
    FileSink(str(audit)).close()
    assert audit.read_bytes() == LINES


def test_a_spool_of_somebody_else_is_not_believed(
    audit: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    left = leave(audit, spool_of(LINES))
    monkeypatch.setattr(spool.os, "geteuid", lambda: os.getuid() + 1)
    FileSink(str(audit)).close()
    assert audit.read_bytes() == b""
    assert left.read_bytes() == spool_of(LINES)
    assert "others can write it" in caplog.text


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_is_no_file_holds_up_no_start(
    audit: Path, make: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    make(audit.with_name(".audit.jsonl.spool"))
    sink = FileSink(str(audit))
    sink.write(b"one\n")
    sink.close()
    assert audit.read_bytes() == b"one\n"
    assert "it is no file" in caplog.text


def test_another_servers_spool_is_left_alone(
    audit: Path, caplog: pytest.LogCaptureFixture
) -> None:
    left = leave(audit, spool_of(LINES))
    with left.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        sink = FileSink(str(audit))
        sink.write(b"one\n")
        sink.close()
    assert audit.read_bytes() == b"one\n"
    assert left.read_bytes() == spool_of(LINES)
    assert "is another process using it?" in caplog.text


def test_a_link_is_no_spool(
    audit: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    target = tmp_path / "target"
    target.write_bytes(spool_of(LINES))
    audit.with_name(".audit.jsonl.spool").symlink_to(target)
    FileSink(str(audit)).close()
    assert audit.read_bytes() == b""
    assert target.read_bytes() == spool_of(LINES)
    assert "it cannot be opened" in caplog.text


def test_a_spool_that_cannot_be_added_stays(audit: Path) -> None:
    audit.mkdir()
    left = leave(audit, spool_of(LINES))
    with pytest.raises(ConfigError, match="cannot append"):
        FileSink(str(audit))
    assert left.read_bytes() == spool_of(LINES)


def test_devices_and_links_have_no_spool(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "file")
    for path in ("/dev/null", str(link)):
        sink = FileSink(path)
        sink.write(b"one\n")
        assert not spool.spool_of(Path(path)).exists()
        sink.close()


line = st.integers(0, 3).map(lambda number: b'{"n":%d}\n' % number)
lines = st.lists(line, max_size=5).map(b"".join)


@given(lines, lines.filter(bool), st.integers(0, 50))
def test_wherever_it_was_killed_the_file_ends_up_the_same(
    before: bytes, pending: bytes, written: int
) -> None:
    """Lines of a trail differ; these repeat, so one that is written may be taken
    for another that is: then it is the same text still."""
    file = before + pending[:written]
    tail = file[-len(pending) - 1 :]

    missing = missing_of(pending, tail, is_whole=len(tail) == len(file))

    after = file + missing
    assert after.startswith(before)
    assert after.endswith(pending)
    assert len(after) <= len(before) + len(pending)
    numbered = before + pending
    if len(set(numbered.splitlines())) == len(numbered.splitlines()):
        assert after == numbered


def test_a_line_torn_before_does_not_swallow_what_is_added() -> None:
    assert missing_of(LINES, b'{"torn', is_whole=True) == b"\n" + LINES
    assert missing_of(LINES, b'{"n":1}\n{"n":2', is_whole=True) == LINES[14:]


def test_only_what_is_of_this_boot_is_pending() -> None:
    boot = boot_id()
    assert len(boot) == 36
    assert pending_of(spool_of(LINES, start=8), boot) == LINES[8:]
    assert pending_of(spool_of(LINES), "other") is None


def test_without_the_name_of_the_boot_no_spool_is_relied_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(spool, "_BOOT_ID", tmp_path / "hidden")
    assert boot_id() == ""
    nameless = HEAD.pack(MAGIC, b"", len(LINES), 0) + LINES
    assert pending_of(nameless, boot_id()) is None
