"""The segments as one HTML page: the picture, and what a compromised node could touch.

It holds everything that it shows and runs no script, so it can be sent and archived.
"""

from __future__ import annotations

from html import escape
from typing import Final

from authz_server.segmentation.drawing import layer_words, svg
from authz_server.segmentation.segments import Caller, Segmentation

_STYLE: Final = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1b1f24; max-width: 1100px;
       margin: 2rem auto; padding: 0 1rem; }
svg { width: 100%; height: auto; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: .4rem .6rem;
         border-bottom: 1px solid #d0d7de; }
td.number { white-space: nowrap; }
.bar { background: #d55e00; height: .5rem; }
.bar.all { background: #8c959f; width: 100%; }
ul { margin: 0; padding-left: 1.1rem; }
code { font-size: 13px; overflow-wrap: anywhere; }
.note { color: #57606a; }
"""


def page(segmentation: Segmentation) -> str:
    """Return the page, the same for the same segments."""
    name = escape(segmentation.policy)
    rows = "\n".join(_row(caller) for caller in segmentation.callers)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>Segments of {name}</title>
<style>{_STYLE}</style>
</head>
<body>
{svg(segmentation)}
<h2>What a compromised node could touch</h2>
<p>A row for every kind of caller that the policy tells apart. <em>Before</em> is a flat
network without authorization: whoever reaches a port may do all there is.
<em>After</em> is what the server allows it, at some time, on behalf of any user that
may come by; the layers in front of the server are named where they are coarser. Counted
are kinds of operation: action and model, version, adapter or dataset, as far as the
policy tells them apart.</p>
<table>
<thead><tr><th>caller</th><th>before</th><th>after</th><th>what, and through what</th>
</tr></thead>
<tbody>
{rows}
</tbody>
</table>
</body>
</html>
"""


def _row(caller: Caller) -> str:
    share = 100 * caller.allowed / caller.possible
    touched = "\n".join(
        f"<p><strong>{escape(segment.upstream)}</strong> "
        f'<span class="note">{escape("; ".join(layer_words(segment)))}</span></p>'
        f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in segment.words)}</ul>"
        for segment in caller.segments
        if segment.is_open
    )
    return f"""<tr>
<td>{escape(caller.name)}<br><code>{escape(str(caller.witness))}</code></td>
<td class="number">{caller.possible}<div class="bar all"></div></td>
<td class="number">{caller.allowed} ({share:.1f} %)
<div class="bar" style="width:{share:.1f}%"></div></td>
<td>{touched or '<span class="note">nothing</span>'}</td>
</tr>"""
