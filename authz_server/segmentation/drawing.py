"""The segments as an SVG: callers on the left, upstreams on the right."""

from __future__ import annotations

from html import escape
from typing import Final

from authz_server.segmentation.segments import Caller, Segment, Segmentation

WIDTH: Final = 1080
_CALLER_X: Final = 24
_CALLER_WIDTH: Final = 340
_UPSTREAM_X: Final = 760
_UPSTREAM_WIDTH: Final = 296
_TOP: Final = 84
_ROW: Final = 64
_BOX: Final = 48
_MAX_TEXT: Final = 44
_LEGEND: Final = (
    "A line: the server allows something, wider for more. Dashed: for some users "
    "alone. Pale: shut by the packet filter."
)

# Told apart also by those who see no red and green (Okabe and Ito's colours).
_COLOURS: Final = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")

_STYLE: Final = """
text { font: 13px system-ui, sans-serif; fill: #1b1f24; }
.title { font-size: 18px; font-weight: 600; }
.name { font-weight: 600; }
.note { font-size: 11px; fill: #57606a; }
.box { fill: #f6f8fa; stroke: #8c959f; }
.shut { stroke-dasharray: 4 3; }
.edge { fill: none; stroke-opacity: 0.75; }
.filtered { stroke-opacity: 0.3; }
"""


def svg(segmentation: Segmentation) -> str:
    """Return the picture: one SVG document, the same for the same segments."""
    places = {
        upstream.name: _TOP + number * _ROW
        for number, (upstream, _) in enumerate(segmentation.upstreams)
    }
    rows = max(len(segmentation.callers), len(segmentation.upstreams))
    height = _TOP + rows * _ROW + 32
    parts = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
            f'width="{WIDTH}" height="{height}" role="img">'
        ),
        f"<title>Segments of {_text(segmentation.policy)}</title>",
        f"<style>{_STYLE}</style>",
        (
            f'<text class="title" x="{_CALLER_X}" y="34">'
            f"Who reaches what: {_text(segmentation.policy)}</text>"
        ),
        f'<text class="note" x="{_CALLER_X}" y="60">callers</text>',
        f'<text class="note" x="{_UPSTREAM_X}" y="60">upstreams</text>',
        f'<text class="note" x="{_CALLER_X}" y="{height - 16}">{_LEGEND}</text>',
    ]
    for number, caller in enumerate(segmentation.callers):
        top = _TOP + number * _ROW
        for place, segment in enumerate(caller.segments):
            if segment.is_open:
                colour = _COLOURS[place % len(_COLOURS)]
                parts += _edge(caller, segment, top, places[segment.upstream], colour)
        parts += _caller_box(caller, top)
    for number, (upstream, ports) in enumerate(segmentation.upstreams):
        where = upstream.namespace or "outside Kubernetes"
        listed = ", ".join(map(str, ports))
        parts += _box(
            _UPSTREAM_X,
            _TOP + number * _ROW,
            _UPSTREAM_WIDTH,
            upstream.name,
            f"{upstream.kind} in {where}, ports {listed}",
            stroke=_COLOURS[number % len(_COLOURS)],
        )
    return "\n".join([*parts, "</svg>", ""])


def _caller_box(caller: Caller, top: int) -> list[str]:
    is_shut = not any(segment.is_open for segment in caller.segments)
    note = "reaches nothing" if is_shut else f"e.g. {caller.witness}"
    return _box(
        _CALLER_X,
        top,
        _CALLER_WIDTH,
        caller.name,
        note,
        more=" shut" if is_shut else "",
    )


def _box(
    left: int,
    top: int,
    width: int,
    name: str,
    note: str,
    *,
    stroke: str = "",
    more: str = "",
) -> list[str]:
    style = f' style="stroke:{stroke}"' if stroke else ""
    return [
        (
            f'<rect class="box{more}" x="{left}" y="{top}" width="{width}" '
            f'height="{_BOX}" rx="6"{style}/>'
        ),
        f'<text class="name" x="{left + 12}" y="{top + 20}">{_text(name)}</text>',
        f'<text class="note" x="{left + 12}" y="{top + 37}">{_text(note)}</text>',
    ]


def _edge(
    caller: Caller, segment: Segment, from_top: int, to_top: int, colour: str
) -> list[str]:
    start_x, start_y = _CALLER_X + _CALLER_WIDTH, from_top + _BOX // 2
    end_x, end_y = _UPSTREAM_X, to_top + _BOX // 2
    middle = (start_x + end_x) // 2
    width = 1.5 + 6 * (segment.allowed + segment.for_users) / segment.possible
    kinds = ["edge"]
    if not segment.allowed:
        kinds.append("shut")
    if segment.ports == ():
        kinds.append("filtered")
    return [
        (
            f'<path class="{" ".join(kinds)}" stroke="{colour}" '
            f'stroke-width="{width:.1f}" '
            f'd="M {start_x} {start_y} C {middle} {start_y}, {middle} {end_y}, '
            f'{end_x} {end_y}">'
        ),
        f"<title>{_text(f'{caller.name} on {segment.upstream}', 200)}\n"
        + "\n".join(escape(line) for line in (*layer_words(segment), *segment.words))
        + "</title></path>",
    ]


def layer_words(segment: Segment) -> tuple[str, ...]:
    """Return what each layer says of a segment, a line a layer."""
    ports = "none, outside Kubernetes"
    if segment.ports is not None:
        ports = ", ".join(map(str, segment.ports)) or "shut"
    mesh = {True: "listed", False: "not listed", None: "no ALLOW"}[segment.is_listed]
    return (
        f"packet filter: {ports}",
        f"Istio: {mesh}",
        f"server: {segment.allowed} of {segment.possible} kinds of operation"
        + (f", {segment.for_users} more for users" if segment.for_users else ""),
    )


def _text(text: str, most: int = _MAX_TEXT) -> str:
    return escape(text if len(text) <= most else text[: most - 1] + "…")
