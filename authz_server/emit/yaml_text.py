"""Kubernetes objects as YAML text that every reader understands alike.

PyYAML reads YAML 1.1, `kubectl` and `istioctl` read a mixture of 1.1 and 1.2. They
disagree about scalars such as ``y``, ``1e3`` and ``0o17``, so a string is written
without quotes only where none of them could take it for anything else.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Mapping
from typing import Any, Final

import yaml

COMMENT_WIDTH: Final = 88

# Starts with a letter or a slash, so it is no number and no date in any dialect.
_PLAIN: Final = re.compile(r"[A-Za-z/][A-Za-z0-9_./-]*", re.ASCII)

# YAML 1.1's booleans and null, which several Go readers still honour.
_NOT_STRINGS: Final = frozenset({"y", "n", "yes", "no", "on", "off", "true", "false"})
_NULLS: Final = frozenset({"null", "nan", "inf"})
_QUOTED: Final = _NOT_STRINGS | _NULLS


# libyaml is some ten times faster, and every wheel of PyYAML has it. Without it only
# characters beyond the Basic Multilingual Plane are spelled in another way.
_LIBRARY: Final = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


class _Dumper(_LIBRARY):  # type: ignore[misc, valid-type]
    """Block style, in the order given, without anchors."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ANN401 - PyYAML's
        del data
        return True


def _represent_str(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    if "\n" in text:
        style: str | None = "|"
    elif _PLAIN.fullmatch(text) and text.lower() not in _QUOTED:
        style = None
    else:
        style = '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_str)


def document(value: Mapping[str, Any]) -> str:
    """Return `value` as one YAML document without a ``---`` line."""
    return yaml.dump(
        value,
        Dumper=_Dumper,
        default_flow_style=False,
        sort_keys=False,
        allow_unicode=True,
        width=10**6,  # a folded line would be a matter of taste, not of content
    )


def documents(values: Iterable[Mapping[str, Any]]) -> str:
    """Return `values` as a multi-document YAML stream."""
    return "---\n".join(document(value) for value in values)


def comment(paragraphs: Iterable[str]) -> str:
    """Return `paragraphs` as comment lines, one bare ``#`` between two of them."""
    wrapped = (
        "\n".join(
            f"# {line}"
            for line in textwrap.wrap(
                paragraph.strip(),
                COMMENT_WIDTH - 2,
                break_long_words=False,
                break_on_hyphens=False,
            )
        )
        for paragraph in paragraphs
    )
    return "\n#\n".join(wrapped) + "\n"
