"""Which parts of the input a policy reads, worked out from OPA's plan of it.

A plan (https://www.openpolicyagent.org/docs/latest/ir/) is the small program that OPA
makes of a policy before it writes the Wasm. This module follows where the input gets to
in it. A local variable may hold the input, or what lies at a known path of it, as long
as it is only looked into by a constant key, copied, handed to a planned function or
returned by one. Any other use of it reads all that is below the path.

The answer is never too small. Run with the input cut down to the answer, each step does
what it does with the whole: a variable holds the same value, or what lies at the same
path of either input, and a look into that finds something in both or in neither. That
needs the cut to leave an object, or null, where something was on the way to a path (see
`authz_server.facts.envoy_message.narrowed`). What the analysis does not know, above all
`with input`, counts as reading everything.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from authz_server.errors import PolicyError
from authz_server.facts.input_paths import EVERYTHING, InputPaths, Path

_Held = frozenset[Path | None]
"""What a local variable may hold, if it is defined: what lies at one of these paths of
the input; None stands for any other value. Empty if it is not defined at all."""

_UNDEFINED: Final[_Held] = frozenset()
_OTHER: Final[_Held] = frozenset({None})
_INPUT: Final[_Held] = frozenset({()})

_IMPLICIT: Final = 2
"""Input and data are the first arguments of each planned function."""

_MAX_DEPTH: Final = 24
_MAX_HELD: Final = 64
_MAX_ROUNDS: Final = 200


_READING: Final[Mapping[str, tuple[str, ...]]] = {
    "LenStmt": ("source",),
    "EqualStmt": ("a", "b"),
    "NotEqualStmt": ("a", "b"),
    "IsArrayStmt": ("source",),
    "IsObjectStmt": ("source",),
    "IsSetStmt": ("source",),
    "ArrayAppendStmt": ("value",),
    "SetAddStmt": ("value",),
    "ObjectInsertStmt": ("key", "value"),
    "ObjectInsertOnceStmt": ("key", "value"),
    "ObjectMergeStmt": ("a", "b"),
    "ResultSetAddStmt": ("value",),
}
"""Statements that read operands whole, and the names of those."""

_Locals = dict[int, _Held]
_Step = Callable[[dict[str, Any], _Locals], _Locals]


class _UnknownError(Exception):
    """The plan has something that this analysis does not follow."""


def inputs_of(plan: bytes) -> InputPaths:
    """Return the paths of the input that the policy in `plan` may read.

    Args:
        plan: what ``opa build --target plan`` puts into ``plan.json``. The answer is
            for all its entrypoints together.

    Raises:
        PolicyError: if it is no plan.
    """
    try:
        policy = json.loads(plan)
        plans = policy["plans"]["plans"]
    except (ValueError, RecursionError, KeyError, TypeError) as error:
        raise PolicyError("the policy's plan cannot be read") from error
    try:
        return _Analysis(policy).run(plans)
    except (
        *(_UnknownError, RecursionError, LookupError),
        *(TypeError, ValueError, AttributeError),
    ):
        return EVERYTHING


@dataclass(slots=True)
class _Function:
    """What is known of a planned function so far."""

    params: list[int]
    blocks: list[dict[str, Any]]
    arguments: _Locals = field(default_factory=dict)
    """By parameter, what any caller hands over."""
    result: _Held = _UNDEFINED


class _Analysis:
    """Goes through the whole plan, again and again, until it learns nothing new.

    Everything that it knows only grows, so the last time has seen all there is.
    """

    def __init__(self, policy: dict[str, Any]) -> None:
        self._strings: list[str] = [
            each["value"] for each in policy.get("static", {}).get("strings") or []
        ]
        self._functions = {
            each["name"]: _Function(each["params"], each["blocks"])
            for each in (policy.get("funcs") or {}).get("funcs") or []
        }
        self._read: set[Path] = set()
        self._touched: set[Path] = set()
        """Looked for, whatever became of what was found."""
        self._loops: dict[int, _Locals] = {}
        """By loop, what its earlier turns may leave in local variables."""
        self._has_grown = False
        self._returned: _Held = _UNDEFINED
        self._nesting: Mapping[str, _Step] = {
            "BlockStmt": self._nested,
            "NotStmt": self._not,
            "ScanStmt": self._scan,
            "WithStmt": self._with,
        }
        self._steps: Mapping[str, _Step] = {
            "NopStmt": self._nothing,
            "BreakStmt": self._nothing,
            "IsDefinedStmt": self._nothing,
            "IsUndefinedStmt": self._is_undefined,
            "ResetLocalStmt": self._reset,
            "ReturnLocalStmt": self._return,
            "AssignVarStmt": self._assign,
            "AssignVarOnceStmt": self._assign_once,
            "AssignIntStmt": self._make,
            "MakeNullStmt": self._make,
            "MakeNumberIntStmt": self._make,
            "MakeNumberRefStmt": self._make,
            "MakeArrayStmt": self._make,
            "MakeObjectStmt": self._make,
            "MakeSetStmt": self._make,
            "DotStmt": self._dot,
            "CallStmt": self._call,
            "CallDynamicStmt": self._call_dynamic,
        }

    def run(self, plans: list[dict[str, Any]]) -> InputPaths:
        for _ in range(_MAX_ROUNDS):
            self._has_grown = False
            for plan in plans:
                self._blocks(plan["blocks"], {0: _INPUT, 1: _OTHER})
            for function in self._functions.values():
                self._function(function)
            if not self._has_grown:
                return self._answer()
        raise _UnknownError

    def _answer(self) -> InputPaths:
        """Return what was read, and what was looked for and not looked into further."""
        way = {
            path[:length]
            for path in self._read | self._touched
            for length in range(len(path))
        }
        return InputPaths(tuple(self._read | (self._touched - way)))

    def _function(self, function: _Function) -> None:
        given, data, *_ = function.params
        self._returned = function.result
        self._blocks(
            function.blocks, {**function.arguments, given: _INPUT, data: _OTHER}
        )
        if self._returned != function.result:
            function.result = self._returned
            self._has_grown = True

    def _blocks(self, blocks: Iterable[dict[str, Any]], held: _Locals) -> _Locals:
        """Go through `blocks` one after the other; return what they may assign.

        A block may end at any of its statements, or behind a block around it. So what
        comes after it finds any value that was ever assigned in it, or the one before.
        """
        assigned: _Locals = {}
        for block in blocks:
            inner = self._block(block, dict(held))
            _join(assigned, inner)
            _join(held, inner)
        return assigned

    def _block(self, block: Mapping[str, Any], held: _Locals) -> _Locals:
        """Go through one block, with `held` at its start and changed along the way."""
        assigned: _Locals = {}
        for typed in block["stmts"] or ():
            kind, statement = typed["type"], typed["stmt"]
            if kind in self._nesting:
                inner = self._nesting[kind](statement, held)
                _join(held, inner)
            else:
                if kind in _READING:
                    inner = self._reading(_READING[kind], statement, held)
                else:
                    inner = self._steps[kind](statement, held)
                held.update(inner)
            _join(assigned, inner)
        return assigned

    # Statements with blocks in them: each returns what they may assign.

    def _nested(self, statement: dict[str, Any], held: _Locals) -> _Locals:
        return self._blocks(statement["blocks"] or (), held)

    def _not(self, statement: dict[str, Any], held: _Locals) -> _Locals:
        return self._blocks([statement["block"]], held)

    def _scan(self, statement: dict[str, Any], held: _Locals) -> _Locals:
        self._use(held.get(statement["source"], _UNDEFINED))
        before = self._loops.setdefault(id(statement), {})
        turn = dict(held)
        _join(turn, before)
        found = {statement["key"]: _OTHER, statement["value"]: _OTHER}
        assigned = self._blocks([statement["block"]], {**turn, **found})
        _join(assigned, found)
        if _join(before, assigned):
            self._has_grown = True
        return assigned

    def _with(self, statement: dict[str, Any], held: _Locals) -> _Locals:
        if held.get(statement["local"]) != _OTHER:
            # `with input`: what is below reads another input.
            raise _UnknownError
        self._use(self._value(statement["value"], held))
        return self._blocks([statement["block"]], held)

    # All others: each returns what they do assign.

    def _reading(
        self, names: Iterable[str], statement: dict[str, Any], held: _Locals
    ) -> _Locals:
        """Follow a statement that reads the operands of these names whole."""
        for name in names:
            operand = statement[name]
            if isinstance(operand, int):
                operand = {"type": "local", "value": operand}
            self._use(self._value(operand, held))
        return {statement["target"]: _OTHER} if "target" in statement else {}

    def _nothing(self, _statement: dict[str, Any], _held: _Locals) -> _Locals:
        return {}

    def _assign(self, statement: dict[str, Any], held: _Locals) -> _Locals:
        return {statement["target"]: self._value(statement["source"], held)}

    def _assign_once(self, statement: dict[str, Any], held: _Locals) -> _Locals:
        """Follow an assignment that compares, if there is something already."""
        value = self._value(statement["source"], held)
        present = held.get(statement["target"], _UNDEFINED)
        if present and (present != value or len(present) > 1):
            self._use(present | value)
        return {statement["target"]: present | value}

    def _make(self, statement: dict[str, Any], _held: _Locals) -> _Locals:
        return {statement["target"]: _OTHER}

    def _reset(self, statement: dict[str, Any], _held: _Locals) -> _Locals:
        return {statement["target"]: _UNDEFINED}

    def _is_undefined(self, statement: dict[str, Any], _held: _Locals) -> _Locals:
        # What comes after it runs only if it is so. Whether a variable is defined says
        # nothing of what it holds.
        return {statement["source"]: _UNDEFINED}

    def _dot(self, statement: dict[str, Any], held: _Locals) -> _Locals:
        source = self._value(statement["source"], held)
        key = statement["key"]
        if key["type"] != "string_index":
            self._use(source | self._value(key, held))
            return {statement["target"]: _OTHER}
        name = self._strings[key["value"]]
        # In a loop, a variable may go deeper with each turn.
        deep = frozenset(path for path in source if path and len(path) >= _MAX_DEPTH)
        self._use(deep)
        found = {(*path, name) for path in source - deep if path is not None}
        self._touched |= found
        others = _OTHER if deep or None in source else _UNDEFINED
        return {statement["target"]: others | found}

    def _call(self, statement: dict[str, Any], held: _Locals) -> _Locals:
        arguments = [self._value(each, held) for each in statement["args"] or ()]
        function = self._functions.get(statement["func"])
        if function is None:
            # A built-in function.
            for argument in arguments:
                self._use(argument)
            return {statement["result"]: _OTHER}
        _check_implicit(arguments)
        given = dict(
            zip(function.params[_IMPLICIT:], arguments[_IMPLICIT:], strict=True)
        )
        if _join(function.arguments, given):
            self._has_grown = True
        return {statement["result"]: function.result}

    def _call_dynamic(self, statement: dict[str, Any], held: _Locals) -> _Locals:
        """Follow a call of a function that only the run tells: it may be any."""
        arguments = [held.get(each, _UNDEFINED) for each in statement["args"]]
        _check_implicit(arguments)
        for argument in arguments[_IMPLICIT:]:
            self._use(argument)
        for operand in statement["path"] or ():
            self._use(self._value(operand, held))
        for function in self._functions.values():
            self._use(function.result)
        return {statement["result"]: _OTHER}

    def _return(self, statement: dict[str, Any], held: _Locals) -> _Locals:
        self._returned |= held.get(statement["source"], _UNDEFINED)
        return {}

    def _value(self, operand: Mapping[str, Any], held: _Locals) -> _Held:
        """Return what an operand may hold."""
        if operand["type"] != "local":
            return _OTHER
        values = held.get(operand["value"], _UNDEFINED)
        if len(values) > _MAX_HELD:
            self._use(values)
            return _OTHER
        return values

    def _use(self, values: _Held) -> None:
        """Take all that is below `values` for read."""
        self._read |= {path for path in values if path is not None}


def _join(into: _Locals, more: _Locals) -> bool:
    """Add `more` to what `into` may hold; return whether that is new."""
    has_grown = False
    for local, values in more.items():
        known = into.get(local)
        joined = values if known is None else known | values
        if joined != known:
            into[local] = joined
            has_grown = has_grown or joined != _UNDEFINED
    return has_grown


def _check_implicit(arguments: list[_Held]) -> None:
    """Raise unless a planned function gets the input and the data that we know."""
    if arguments[:_IMPLICIT] != [_INPUT, _OTHER]:
        raise _UnknownError
