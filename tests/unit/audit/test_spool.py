"""What a killed server leaves is in the file after the next start, once."""

from __future__ import annotations

import fcntl
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
def test_what_cannot_be_relied_on_is_kept_aside(
    audit: Path, left: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    leave(audit, left)
    FileSink(str(audit)).close()
    assert audit.read_bytes() == b""
    assert audit.with_name(".audit.jsonl.spool.old").read_bytes() == left
    assert "is of another boot, or no spool" in caplog.text


def test_another_servers_spool_is_left_alone(audit: Path) -> None:
    left = leave(audit, spool_of(LINES))
    with left.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        sink = FileSink(str(audit))
        sink.write(b"one\n")
        sink.close()
    assert audit.read_bytes() == b"one\n"
    assert left.read_bytes() == spool_of(LINES)


def test_a_link_is_no_spool(audit: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_bytes(spool_of(LINES))
    audit.with_name(".audit.jsonl.spool").symlink_to(target)
    FileSink(str(audit)).close()
    assert audit.read_bytes() == b""
    assert target.read_bytes() == spool_of(LINES)


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
