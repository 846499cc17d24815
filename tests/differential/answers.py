"""What an answer of Triton's says that it did, whatever the protocol."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

from differential.acts import ANY_ACTION, ANY_VERSION, EVERY, UNKNOWN, Act
from differential.repository import NAMES, RUNNING
from differential.wires import Answer

from authz_server.operations.actions import Action

Twin = Callable[[bytes], Answer]
"""Sends the same request with another path."""

Marks = Mapping[str, str]
"""Which model has which ``log_frequency`` in its trace settings."""

Told = Sequence[tuple[str, str]]
"""Names and versions in an answer."""

_SPOKEN_OF: Final = re.compile(r"model:? '([^']*)'")


def act(what: str, action: Action, model: str, version: str = ANY_VERSION) -> Act:
    """Return an act that one action alone allows."""
    return Act(what, frozenset({action}), model, version)


def spoken_of(text: str) -> Iterator[Act]:
    """Yield for each existing model that an error is about."""
    for name in set(_SPOKEN_OF.findall(text)):
        if name in NAMES:
            yield Act("spoke of", ANY_ACTION, name)


def trace(mark: str, marks: Marks) -> Act:
    """Return whose trace settings have `mark`; a mark that was cleared is nobody's."""
    return act("trace", Action.TRACE, marks.get(mark, UNKNOWN))


def listing(action: Action, told: Told) -> Act:
    """Return the act of an answer that lists models on its own account."""
    parts = tuple(act("listed", action, *one) for one in told)
    whole = about(action, told)
    return Act(whole.what, whole.actions, whole.model, whole.version, parts)


def about(action: Action, told: Told) -> Act:
    """Return what a request was about to which statistics of `told` came back."""
    names = {name for name, _ in told}
    if len(names) != 1:
        return act("described all", action, EVERY)
    (name,) = names
    if len(told) > 1:
        version = ""
    elif len(RUNNING.get(name, "1")) > 1:
        version = told[0][1]
    else:
        # Its only version, asked for or not.
        version = ANY_VERSION
    return act("described", action, name, version)
