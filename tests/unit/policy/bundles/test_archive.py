"""Archives as strangers make them: what is read, and that nothing else ever is."""

from __future__ import annotations

import contextlib
import gzip
import io
import tarfile
import time
import tracemalloc
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authz_server.errors import PolicyError
from authz_server.policy.bundles.archive import (
    MAX_MEMBERS,
    MAX_PATH,
    read_archive,
    write_archive,
)

LIMIT = 1 << 20
END = b"\0" * 1024


def header(
    name: bytes = b"a",
    size: int | bytes = 0,
    kind: bytes = b"0",
    fields: Mapping[int, bytes] | None = None,
) -> bytes:
    """Return a header with a right sum; `fields` are written over it by offset."""
    digits = size if isinstance(size, bytes) else b"%011o" % size
    block = bytearray(512)
    for at, field in {
        0: name[:100],
        100: b"0000600",
        124: digits,
        136: b"00000000000",
        156: kind,
        257: b"ustar\x0000",
        **(fields or {}),
    }.items():
        block[at : at + len(field)] = field
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def member(name: bytes, content: bytes = b"", kind: bytes = b"0") -> bytes:
    padding = b"\0" * (-len(content) % 512)
    return header(name, len(content), kind) + content + padding


def pax(records: Mapping[bytes, bytes], kind: bytes = b"x") -> bytes:
    content = b""
    for key, value in records.items():
        record = b" " + key + b"=" + value + b"\n"
        length = len(record)
        while len(str(length)) + len(record) != length:
            length = len(str(length)) + len(record)
        content += str(length).encode() + record
    return member(b"PaxHeaders/a", content, kind)


def read(plain: bytes, max_bytes: int = LIMIT) -> dict[str, bytes]:
    return read_archive(gzip.compress(plain), max_bytes)


def negative(number: int) -> bytes:
    """Return a size as GNU writes what octal digits cannot say."""
    return b"\xff" + (number + (1 << 88)).to_bytes(11)


@pytest.mark.parametrize(
    "kind", [b"1", b"2", b"3", b"4", b"6", b"7", b"S", b"K", b"V", b"M", b"D", b"Z"]
)
def test_nothing_but_files_and_folders_is_read(kind: bytes) -> None:
    with pytest.raises(PolicyError, match="neither file nor folder"):
        read(header(kind=kind, fields={157: b"/etc/passwd"}) + END)


@pytest.mark.parametrize(
    "name",
    [
        b"..",
        b"../a",
        b"a/../b",
        b"a/..",
        b"/../a",
        b"./../a",
        b"//etc/passwd",
        b"a//b",
        b"a/./b",
        b"a/",
        b".",
        b"./",
        b"/",
        b"",
        b"a\nb",
        b"a\x7fb",
        b"a\x1b[2Jb",
        "a\u202eb".encode(),
        "a\u2028b".encode(),
        b"a\xff",
        b"\xed\xa0\x80",
    ],
)
def test_a_path_that_could_be_another_one_is_refused(name: bytes) -> None:
    with pytest.raises(PolicyError, match=r"impossible path|no tar archive"):
        read(member(name) + END)


@pytest.mark.parametrize("path", [b"a\0b", b"a\nb", b"../a", b"\xff", b""])
def test_a_path_in_an_extended_header_is_looked_at_as_well(path: bytes) -> None:
    with pytest.raises(PolicyError, match=r"impossible path|no tar archive"):
        read(pax({b"path": path}) + member(b"a") + END)


@pytest.mark.parametrize("other", [b"a", b"/a", b"./a"])
def test_a_file_that_comes_twice_is_refused_however_it_is_spelled(
    other: bytes,
) -> None:
    with pytest.raises(PolicyError, match="'a' twice"):
        read(member(b"a", b"1") + member(other, b"2") + END)


def test_the_longest_path_is_read_and_a_longer_one_is_not() -> None:
    longest = b"a" * MAX_PATH
    assert read(pax({b"path": longest}) + member(b"a") + END)
    with pytest.raises(PolicyError, match="impossible path"):
        read(pax({b"path": longest + b"a"}) + member(b"a") + END)


def test_the_most_members_are_read_and_one_more_is_not() -> None:
    most = b"".join(member(str(number).encode()) for number in range(MAX_MEMBERS))
    assert len(read(most + END, 1 << 22)) == MAX_MEMBERS
    for kind in (b"0", b"5"):
        with pytest.raises(PolicyError, match=f"more than {MAX_MEMBERS} members"):
            read(most + member(b"more", kind=kind) + END, 1 << 22)


def test_the_largest_archive_is_read_and_a_larger_one_is_not() -> None:
    plain = member(b"a", b"x" * 1000) + END
    assert read(plain, len(plain)) == {"a": b"x" * 1000}
    with pytest.raises(PolicyError, match=r"more than .* bytes unpacked"):
        read(plain, len(plain) - 1)


def test_a_bomb_is_not_unpacked() -> None:
    bomb = gzip.compress(b"\0" * (64 << 20))
    tracemalloc.start()
    try:
        with pytest.raises(PolicyError, match="more than 1048576 bytes unpacked"):
            read_archive(bomb, LIMIT)
        assert tracemalloc.get_traced_memory()[1] < 8 * LIMIT
    finally:
        tracemalloc.stop()


GNU_HOLE = header(
    kind=b"S",
    fields={257: b"ustar  \0", 386: b"0" * 11 + b"\0" + b"0" * 11, 483: b"7" * 11},
)
HOLE = {b"GNU.sparse.map": b"0,0", b"GNU.sparse.size": b"8589934592"}
OTHER_HOLE = {
    b"GNU.sparse.major": b"1",
    b"GNU.sparse.minor": b"0",
    b"GNU.sparse.realsize": b"8589934592",
}


@pytest.mark.parametrize(
    "plain",
    [
        GNU_HOLE,
        pax(HOLE) + member(b"a"),
        pax(OTHER_HOLE) + member(b"a", b"0\n" + b"\0" * 510),
    ],
)
def test_a_hole_of_gigabytes_is_not_filled(plain: bytes) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(PolicyError):
            read(plain + END)
        assert tracemalloc.get_traced_memory()[1] < 8 * LIMIT
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "size",
    [
        negative(-512),
        negative(-1024),
        b"\x80" + (1 << 80).to_bytes(11),
        b"\x80" + (1 << 62).to_bytes(11),
        b"-0000000512",
        b"9" * 11,
        b"0x1",
        b"\0" * 12,
        b"7" * 11,
    ],
)
@pytest.mark.parametrize("kind", [b"0", b"5", b"x", b"g", b"L"])
def test_an_impossible_size_is_refused(size: bytes, kind: bytes) -> None:
    with pytest.raises(PolicyError):
        read(header(b"x") + header(b"a", size, kind) + END)


@pytest.mark.parametrize("size", [b"-512", b"", b"1_0", b"1e3", b"9" * 30, b"1025"])
def test_an_impossible_size_in_an_extended_header_is_refused(size: bytes) -> None:
    with pytest.raises(PolicyError):
        read(pax({b"size": size}) + member(b"a") + END)


@pytest.mark.parametrize(
    "plain",
    [
        # Python's own reader needs a minute for the first, and holds up everybody.
        pax({b"a": b"1" * 200_000}) + member(b"a"),
        member(b"p", b"1" * 500_000, b"x"),
        pax({b"a": b"b"}) * 400 + member(b"a"),
        member(b"././@LongLink", b"abc\0", b"L") * 600 + member(b"a"),
        pax({b"a": b"b"}, b"g") * 400 + member(b"a"),
        b"".join(member(b"d/", kind=b"5") for _ in range(1000)),
    ],
)
def test_no_header_holds_up_the_reader(plain: bytes) -> None:
    began_s = time.process_time()
    with contextlib.suppress(PolicyError):
        read(plain + END, 8 * LIMIT)
    # It is milliseconds, where it was a minute.
    assert time.process_time() - began_s < 20


GOOD = gzip.compress(member(b"a", b"1") + member(b"b", b"2" * 600) + END)


def test_an_archive_that_is_cut_off_is_refused_wherever() -> None:
    assert read_archive(GOOD, LIMIT) == {"a": b"1", "b": b"2" * 600}
    for size in range(len(GOOD)):
        with pytest.raises(PolicyError):
            read_archive(GOOD[:size], LIMIT)


@pytest.mark.parametrize("behind", [b"\0", b"x", GOOD])
def test_nothing_may_follow_the_compressed_archive(behind: bytes) -> None:
    with pytest.raises(PolicyError, match="something follows it"):
        read_archive(GOOD + behind, LIMIT)


@pytest.mark.parametrize(
    "plain",
    [
        member(b"a"),
        member(b"a") + b"\0" * 511,
        member(b"a") + END + member(b"b") + END,
        member(b"a") + END + b"x",
        member(b"a") + b"x" * 512 + member(b"b") + END,
        member(b"a") + member(b"b").replace(b"0000600", b"0000601") + END,
        member(b"a", b"x" * 600)[:1000],
        pax({b"path": b"q"}) + END,
        member(b"././@LongLink", b"abc\0", b"L") + END,
        b"no tar archive at all",
        b"PK\3\4" + b"\0" * 600,
        b"",
    ],
)
def test_an_archive_that_is_broken_anywhere_is_not_read_in_part(plain: bytes) -> None:
    with pytest.raises(PolicyError, match="no tar archive"):
        read(plain)


@pytest.mark.parametrize("raw", [b"", b"x", member(b"a") + END, GOOD[:1] + GOOD[2:]])
def test_what_is_not_compressed_is_refused(raw: bytes) -> None:
    with pytest.raises(PolicyError):
        read_archive(raw, LIMIT)


@pytest.mark.parametrize(
    "content",
    [
        b"x",
        b"5 a=b",
        b"6 a=b\n6 a=c\n",
        b"6 ab\n\n",
        b"0 a=b\n",
        b"-6 a=b\n",
        b"6  a=b\n",
        b"99999999999999 a=b\n",
        b"2 \n",
        b"\xff a=b\n",
    ],
)
def test_a_broken_extended_header_is_refused(content: bytes) -> None:
    with pytest.raises(PolicyError, match="no tar archive"):
        read(member(b"p", content, b"x") + member(b"a") + END)


@pytest.mark.parametrize(
    "plain",
    [
        pax({b"a": b"b"}) + pax({b"path": b"q"}),
        member(b"x", b"q\0", b"L") + member(b"x", b"r\0", b"L"),
        member(b"b") + pax({b"comment": b"x"}, b"g"),
    ],
    ids=["extended twice", "long name twice", "for all, too late"],
)
def test_a_header_that_would_have_to_be_weighed_against_another_is_refused(
    plain: bytes,
) -> None:
    with pytest.raises(PolicyError, match="neither file nor folder"):
        read(plain + member(b"a") + END)


@pytest.mark.parametrize("key", [b"path", b"size"])
def test_nothing_is_said_of_all_files_at_once(key: bytes) -> None:
    with pytest.raises(PolicyError, match="for all of its files"):
        read(pax({key: b"1"}, b"g") + member(b"a") + END)


@pytest.mark.parametrize(
    ("form", "path"),
    [
        (form, path)
        for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)
        for path in ("a", "f/" * 60 + "a", "n" * 180, "é", "a b/c")
        # The oldest of them has no room for a long name without folders.
        if form != tarfile.USTAR_FORMAT or not path.startswith("n")
    ],
)
def test_what_tar_programs_write_is_read(form: int, path: str) -> None:
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w", format=form) as archive:
        for name, kind in (("folder", tarfile.DIRTYPE), (path, tarfile.REGTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.mtime = kind, 1.5 if form == tarfile.PAX_FORMAT else 1
            info.uname, info.size = "somebody", 3 if kind == tarfile.REGTYPE else 0
            archive.addfile(info, io.BytesIO(b"abc"))
    assert read(plain.getvalue()) == {path: b"abc"}


def test_what_git_writes_is_read() -> None:
    comment = pax({b"comment": b"0" * 40}, b"g")
    assert read(comment + member(b"a", b"1") + END) == {"a": b"1"}


def test_a_folder_of_the_oldest_form_is_a_folder() -> None:
    assert read(member(b"f/", kind=b"\0") + member(b"f/a", kind=b"\0") + END) == {
        "f/a": b""
    }


NAMES = st.text(
    st.characters(exclude_categories=["C", "Z"], exclude_characters="/."),
    min_size=1,
    max_size=60,
)
PATHS = st.lists(NAMES, min_size=1, max_size=5).map("/".join)
FILES = st.dictionaries(PATHS, st.binary(max_size=1500), max_size=6)


@given(FILES)
def test_what_is_written_is_read(files: dict[str, bytes]) -> None:
    assert read_archive(write_archive(files), LIMIT) == files


@given(FILES)
def test_equal_files_give_equal_bytes(files: dict[str, bytes]) -> None:
    turned = dict(reversed(list(files.items())))
    written = write_archive(files)
    assert written == write_archive(turned)
    # RFC 1952 §2.3.1: when it was written, which is not said.
    assert written[4:8] == bytes(4)


@given(st.binary(max_size=600), st.integers(0, 2047), st.binary(max_size=20))
def test_whatever_the_bytes_are_only_the_own_error_comes_out(
    before: bytes, at: int, change: bytes
) -> None:
    plain = member(b"a", b"1") + END
    for hostile in (before, before + plain, plain[:at] + change + plain[at:]):
        with contextlib.suppress(PolicyError):
            read(hostile)
