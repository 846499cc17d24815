from __future__ import annotations

import io

import pytest

from authz_server.cli.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("kind", [io.StringIO, Terminal])
def test_what_is_done_within_a_second_says_nothing(kind: type[io.StringIO]) -> None:
    stream = kind()
    progress = Progress("objects", stream, lambda: 7.0)

    progress(1, 2)
    progress.close()

    assert not stream.getvalue()


def test_on_a_terminal_one_line_is_kept_up_to_date() -> None:
    stream, times = Terminal(), iter([0.0, 1.0, 1.5, 2.0])
    progress = Progress("objects", stream, lambda: next(times))

    for done in (1, 2, 3):
        progress(done, 3)
    progress.close()
    progress.close()

    assert stream.getvalue() == "\r1 of 3 objects\r3 of 3 objects\n"


def test_in_a_log_lines_are_few() -> None:
    stream, times = io.StringIO(), iter([0.0, 1.0, 5.0, 11.0])
    progress = Progress("objects", stream, lambda: next(times))

    for done in (1, 2, 3):
        progress(done, 3)
    progress.close()

    assert stream.getvalue() == "1 of 3 objects\n3 of 3 objects\n"
