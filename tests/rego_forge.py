"""Random Rego policies that look into their input in every way that Rego has."""

from __future__ import annotations

import random
from typing import Any

KEYS = ("a", "b", "x-y")

# One body each. {r}, {s}, {t} become references into the input, {k} a key, {n} a
# number; names of variables are for that body alone.
_BODIES = (
    "{r}",
    "not {r}",
    "{r} == {s}",
    "{r} != {s}",
    "{r} == {n}",
    "{r} == false",
    "{r}[{s}]",
    "{r}[{s}].{k} == {t}",
    "{r}[_] == {n}",
    "{r}[_].{k} == {n}",
    "{r}[0] == {n}",
    "some i; {r}[i] == {s}[i]",
    "some x, y in {r}; y == {n}; x != {s}",
    "{n} in {r}",
    "{r} in {s}",
    "every x in {r} {{ x != {n} }}",
    "every x in {r} {{ x.{k} == {s} }}",
    "x := {r}; x.{k} == {n}",
    "x := {r}; y := x.{k}; not y.{k}",
    "x := {r}; not x.{k}.{k}",
    "x := {r}; count(x) > 1",
    "x := {r}; {s}; x.{k}",
    "x := input; x.{k}.{k} == {n}",
    "x := {{'m': {r}}}; x.m.{k} == {n}",
    "x := [{r}, {s}]; x[_] == {n}",
    "{r} = {{'a': z}}; z == {n}",
    "[z, _] = {r}; z == {n}",
    "walk({r}, [_, x]); x == {n}",
    "walk(input, [p, x]); x == {n}; count(p) == 2",
    "object.get({r}, '{k}', 0) == 0",
    "object.get(input, ['{k}', '{k}'], 7) == 7",
    "'{k}' in object.keys({r})",
    "json.marshal({r}) != '1'",
    "is_string({r})",
    "is_object({r})",
    "{{x | x := {r}[_]}} == {{{n}}}",
    "[x | some x in {r}; x != {s}][0] == {n}",
    "{{x: y | some x, y in {r}; y == {s}}} != {{}}",
    "count([x | x := {r}[_].{k}]) == 1",
    "holds({r})",
    "not holds({r})",
    "below({r}) == {n}",
    "below({r}).{k} == {n}",
    "either({r}, {s}) == {n}",
    "either({r}, {s}).{k} == {n}",
    "twice({r}).{k} == {n}",
    "shaped({r}) == {n}",
    "whole.{k} == {n}",
    "whole == {r}",
    "not whole.{k}.{k}",
    "fallen == {n}",
    "fallen.{k} == {n}",
    "guarded.{k} == {n}",
    "members[{n}]",
    "members[{r}]",
    "table[{r}] == {s}",
    "table.{k} == {n}",
    "nested.{k}.{k} == {n}",
    "deep[{n}][{r}]",
    "chosen.{k} == {n}",
    "renamed.{k} == {n}",
    "not renamed.{k}",
    "name := ['first', 'second'][_]; data.pol.{p}.tree[name].{k} == {n}",
    "name := {r}; data.pol.{p}.tree[name].{k} == {n}",
    "not data.pol.{p}.tree[{r}]",
    "data.pol.{p}.tree[_].{k} == {n}",
    "tree.first.{k}",
    "data.pol.{p}.whole.{k} == {n}",
    "whole.{k} == {n} with input as {{'a': {r}}}",
    "whole.{k} == {n} with input.{k} as {s}",
    "holds({r}) with data.mode as {s}",
    "data.mode == {n} with data.mode as {r}",
    "count({r}) > 0 with count as told",
    "x := {r} | {s}; count(x) > 1",
    # Looked into, and read whole as well: only the second use tells that all is read.
    "not {r}.{k}; some x in {r}; x == {n}",
    "not {r}.{k}; {r}[{s}] == {n}",
    "not {r}.{k}; x := 'ab'; {r}[substring(x, {n}, 1)] == {n}",
    "not {r}.{k}; picked({r}, 'b') == {n}",
    "not {r}.{k}; every x in {r} {{ x == {n} }}",
    "not {r}.{k}; count({r}) == 1",
    "not {r}.{k}; {r} == {s}",
    "not {r}.{k}; data.mode[_] == {n} with data.mode as {r}",
    "not {r}.{k}; all[_][_] == {n} with input as {{'a': {r}}}",
    "not whole.{k}; whole[_] == {n}",
    "not tree.first.{k}; x := ['first', 'second'][_]; data.pol.{p}.tree[x][_] == {n}",
    "not guarded.{k}; some x in guarded; x == {n}",
    "not below({r}).{k}; count(below({r})) == {n}",
    "concat('', [{r}, {s}]) == 'pq'",
    "sprintf('%v', [{r}]) == '{n}'",
)

# {{...}} as above. No two bodies of one rule give different values: that would be an
# error for all cases of one evaluation at once.
_RULES = """
holds(x) if x.{k} == {n}
below(x) := x.{k}
either(x, y) := x if y.{k}
either(x, y) := x if y == {n}
twice(x) := below(x).{k}
shaped({{'a': x, 'b': _}}) := x
shaped([x]) := x
told(_) := 1
picked(x, y) := x[[y][_]]
all := [input.a, input.b]
whole := {r}
fallen := {r} if {{ {s} == {n} }} else := {s} if {{ {t}.{k} }} else := {n}
guarded := {r} if {{ some x in {s}; x == {n} }}
guarded := {r} if {{ not {t}.{k} }}
members contains x if some x in {r}
members contains {s}
table[x] := y if some x, y in {r}
nested[x].{k} := y if some x, y in {r}
deep[x] contains y if {{ some y in {s}; x := {r} }}
tree.first := {r}
tree.second := below({s})
default chosen := {{'a': {n}}}
chosen := {r} if {s} == {t}
"""


def random_policy(dice: random.Random, number: int) -> str:
    """Return a policy of package ``pol.pNUMBER``: its ``decision`` is a set.

    Successive numbers use all that there is in turn.
    """
    name = f"p{number}"

    def ref() -> str:
        depth = dice.choice((1, 1, 1, 2, 2))
        return "input" + "".join(f'["{dice.choice(KEYS)}"]' for _ in range(depth))

    def filled(text: str) -> str:
        text = text.replace("'", '"')
        # Each key its own choice.
        while "{k}" in text:
            text = text.replace("{k}", dice.choice("ab"), 1)
        # Both bodies of one rule give the same reference.
        return text.format(r=ref(), s=ref(), t=ref(), n=dice.randint(0, 1), p=name)

    rules, renamed = _RULES, f"import input.{dice.choice('ab')} as renamed"
    start, _, rest = rules.partition("guarded := ")
    guarded, _, end = rest.partition("members contains x")
    guarded = filled("guarded := " + guarded)
    texts = [
        *(filled(rule) for rule in start.splitlines()),
        guarded,
        *(filled(rule) for rule in ("members contains x" + end).splitlines()),
    ]
    bodies = [
        f'decision contains "{number}" if {{ {filled(body)} }}'
        for number, body in enumerate(
            (
                _BODIES[number % len(_BODIES)],
                *dice.sample(_BODIES, dice.choice((0, 1, 2))),
            )
        )
    ]
    # Rules that nobody refers to are not in the plan.
    return "\n".join((f"package pol.{name}", renamed, *texts, *bodies))


def random_input(dice: random.Random) -> dict[str, Any]:
    """Return an input in which many of those references find something."""
    found = _object(dice, 4)
    return found if dice.random() < 0.9 else {}


def _object(dice: random.Random, depth: int) -> dict[str, Any]:
    return {key: _value(dice, depth - 1) for key in KEYS if dice.random() < 0.7}


def _value(dice: random.Random, depth: int) -> Any:
    kind = dice.random()
    if depth and kind < 0.4:
        return _object(dice, depth)
    if depth and kind < 0.75:
        return [_value(dice, depth - 1) for _ in range(dice.randint(0, 3))]
    return dice.choice((None, False, 0, 0, 0, 1, 1, 1, "a", "b", "first", "p"))
