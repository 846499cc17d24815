"""Draws bars on a logarithmic scale as SVG, readable on light and on dark pages."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

WIDTH: Final = 720
NAMES: Final = 130
"""Pixels for the names on the left."""
VALUES: Final = 70
"""Pixels for the last bar's value on the right."""
ROW: Final = 22
BAR: Final = 14
HEAD: Final = 30
GAP: Final = 16

STYLE: Final = """\
  text { font: 12px sans-serif; fill: #24292f; }
  .title { font-weight: bold; }
  .about { font-size: 10px; fill: #57606a; }
  .bar { fill: #8c959f; }
  .ours { fill: #0969da; }
  .grid { stroke: #d0d7de; }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3; } .about { fill: #8d96a0; }
    .bar { fill: #6e7681; } .ours { fill: #2f81f7; } .grid { stroke: #30363d; }
  }
"""
OURS: Final = ("hit", "miss")
"""How the names of authz-server's own bars begin."""


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar; its value is above 0."""

    name: str
    value: float


def bar_chart(
    title: str, groups: Sequence[tuple[str, Sequence[Bar]]], about: str
) -> str:
    """Return an SVG with a block of bars for each of `groups`, all on one scale."""
    values = [bar.value for _, bars in groups for bar in bars]
    low = 10 ** math.floor(math.log10(min(values)))
    high = 10 ** math.ceil(math.log10(max(values) * 1.0001))
    decades = math.log10(high / low)

    def x(value: float) -> float:
        share = math.log10(value / low) / decades
        return NAMES + share * (WIDTH - NAMES - VALUES)

    body: list[str] = [_text(8, 20, title, "title")]
    y = HEAD
    for heading, bars in groups:
        bottom = y + ROW + len(bars) * ROW
        for step in range(round(decades) + 1):
            at = x(low * 10**step)
            body.append(
                f'<line class="grid" x1="{at:.1f}" x2="{at:.1f}" '
                f'y1="{y + ROW - 2}" y2="{bottom}"/>'
            )
            body.append(_text(at, bottom + 12, _number(low * 10**step), "about"))
        body.append(_text(8, y + 15, heading, "title"))
        for number, bar in enumerate(bars):
            top = y + ROW + number * ROW
            kind = "bar ours" if bar.name.startswith(OURS) else "bar"
            body.append(_text(8, top + 12, bar.name))
            body.append(
                f'<rect class="{kind}" x="{NAMES}" y="{top + 1}" '
                f'width="{max(x(bar.value) - NAMES, 1):.1f}" height="{BAR}"/>'
            )
            body.append(_text(x(bar.value) + 5, top + 12, _number(bar.value)))
        y = bottom + GAP + 4
    body.append(_text(8, y + 10, about, "about"))
    lines = "\n".join(f"  {line}" for line in body)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{y + 20}" '
        f'viewBox="0 0 {WIDTH} {y + 20}" role="img" aria-label="{escape(title)}">\n'
        f"<style>\n{STYLE}</style>\n{lines}\n</svg>\n"
    )


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _text(x: float, y: float, text: str, kind: str = "") -> str:
    named = f' class="{kind}"' if kind else ""
    return f'<text{named} x="{x:.1f}" y="{y}">{escape(text)}</text>'
