"""Reads names of what is defined elsewhere in an access policy."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from authz_server.policy.nodes import Node, Problems, Scalar, suggest


def read_references(
    problems: Problems,
    node: Node | None,
    what: str,
    section: str,
    known: Collection[str],
    mend_empty: str = "leave the key out",
) -> tuple[str, ...]:
    """Return a list of names of a `section`, of which the `known` ones are defined."""
    scalars = problems.strings(node, what, mend_empty)
    check_references(problems, scalars, section, known)
    return tuple(scalar.text for scalar in scalars)


def check_references(
    problems: Problems, scalars: Iterable[Scalar], section: str, known: Collection[str]
) -> None:
    """Note each name that is not `known`."""
    for scalar in scalars:
        if scalar.text not in known:
            problems.add(
                scalar,
                f"{section} {scalar.text!r} is not defined",
                suggest(scalar.text, known),
            )
