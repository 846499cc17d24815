"""Takes long lists out of YAML, so that its parser need not see every item.

A policy for many workloads is for the most part lists of SPIFFE IDs, one to a line.
Behind such a line the parser is in the state that it was in behind the line before: the
item is whole, and the next line begins one more of the same list. So lines between the
first and the last of a run can be left out of the text without it noticing, and be put
back where it found the first one to be an item of a list.

That last condition is for the reader of the shortened text to check. A run may also be
a part of a text over several lines, and then nothing of this is true.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

# A URI of characters that mean nothing to YAML in the middle of a word, bare or in
# quotes. Nothing that looks like one is a number, a date, true, false or nothing.
_URI: Final = r"[a-z]++://[a-zA-Z0-9._/*-]++"
_RUN: Final = re.compile(
    rf"^( *)- ([\"']?)({_URI})\2\n(?:\1- \2{_URI}\2\n){{2,}}+", re.MULTILINE
)
# What ends a line to YAML 1.1, or does not, is then no longer the same everywhere.
_OTHER_LINE_ENDS: Final = re.compile("[\r\x85\u2028\u2029]")


@dataclass(frozen=True, slots=True)
class ItemLines:
    """Items of a list that are strings, on lines that follow one another.

    Attributes:
        line: of the first one, from 1.
        column: of each, from 1, where its text or its quote begins.
    """

    line: int
    column: int
    texts: list[str]


class ShortenedText:
    """YAML without the items of each of `runs` but the first.

    Args:
        runs: in the order of their lines.
    """

    def __init__(self, text: str, runs: Sequence[ItemLines] = ()) -> None:
        self.text = text
        self.runs = runs
        # The lines of what is left of the runs, and how much is missing before each.
        self._lines: list[int] = []
        self._missing = [0]
        for run in runs:
            self._lines.append(run.line - self._missing[-1])
            self._missing.append(self._missing[-1] + len(run.texts) - 1)

    def original_line(self, line: int) -> int:
        """Return which line of the whole text is `line` of the shortened one."""
        return line + self._missing[bisect_left(self._lines, line)]


def shorten(text: str) -> ShortenedText:
    """Return `text` without what is between the first and the last line of each run."""
    kept: list[str] = []
    runs: list[ItemLines] = []
    end = 0
    line = 1
    for run in _RUN.finditer(text):
        line += text.count("\n", end, run.start())
        indent, quote, first = run.groups()
        head = f"{indent}- {quote}"
        tail = f"{quote}\n"
        *texts, last = run[0][len(head) : -len(tail)].split(tail + head)
        kept += [text[end : run.start()], head, first, tail, head, last, tail]
        runs.append(ItemLines(line, len(indent) + 3, texts))
        end = run.end()
        line += len(texts) + 1
    kept.append(text[end:])
    shortened = "".join(kept)
    if _OTHER_LINE_ENDS.search(shortened):
        return ShortenedText(text)
    return ShortenedText(shortened, runs)
