"""`sprintf`: Go's formatting verbs, for what Rego's values become there.

A number is Go's int64, float64 or big.Int, a string a string, and all else is text in
Rego's notation. What Go prints of a wrong call (``%!d(string=x)``) is printed too, as
policies have been seen to compare with it. Hexadecimal floats are refused.

See https://pkg.go.dev/fmt#hdr-Printing.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any, Final

from authz_server.policy.builtins.operands import array, string
from authz_server.policy.builtins.values import (
    MAX_DEPTH,
    MAX_TEXT_BYTES,
    Number,
    RefusedError,
    RegoSet,
    bounded,
    entries,
    order_key,
)

_Argument = int | float | str
"""What a value of Rego's is to Go: int64 or big.Int, float64, string."""

_INT64: Final = 1 << 63
_MAX_WIDTH: Final = 1_000_000
"""Go takes no larger width or precision."""
_MAX_RUNE: Final = 0x10FFFF
_SURROGATES: Final = range(0xD800, 0xE000)
_MAX_VERBS: Final = 10_000
_MAX_PRECISION: Final = 4000
"""Of a number: Python prints no more digits without trouble."""
_BASES: Final = {"b": 2, "o": 8, "O": 8, "x": 16, "X": 16, "d": 10, "v": 10, "s": 10}
_PREFIXES: Final = {"b": "0b", "o": "0", "O": "0", "x": "0x", "X": "0X"}
_ESCAPES: Final = {
    "\a": "\\a",
    "\b": "\\b",
    "\f": "\\f",
    "\n": "\\n",
    "\r": "\\r",
    "\t": "\\t",
    "\v": "\\v",
    "\\": "\\\\",
}
_PIECE: Final = re.compile(r"([^%]+)|%([-+# 0]*)")
_DIGITS: Final = re.compile("[0-9]*")
_NOT_IN_BACKQUOTES: Final = re.compile("[`\x00-\x08\x0a-\x1f\x7f\ufeff]")


def sprintf(form: object, values: object) -> str:
    """Return `form` with its verbs replaced by `values`."""
    if string(form).count("%") > _MAX_VERBS:
        raise RefusedError("a text has too many verbs")
    return _Printer(string(form), [_argument(value) for value in array(values)]).text()


def quote(text: str, *, delimiter: str = '"', is_ascii: bool = False) -> str:
    """Return `text` as Go quotes it."""
    parts = [delimiter]
    for sign in text:
        if sign == delimiter:
            parts.append("\\" + sign)
        elif sign in _ESCAPES:
            parts.append(_ESCAPES[sign])
        elif sign.isprintable() and (sign.isascii() or not is_ascii):
            parts.append(sign)
        elif sign < " " or sign == "\x7f":
            parts.append(f"\\x{ord(sign):02x}")
        elif sign <= "\uffff":
            parts.append(f"\\u{ord(sign):04x}")
        else:
            parts.append(f"\\U{ord(sign):08x}")
    return bounded("".join([*parts, delimiter]))


def show(value: Any, depth: int = 0) -> str:  # noqa: ANN401 - any value
    """Return `value` in Rego's notation, as OPA prints it."""
    if depth > MAX_DEPTH:
        raise RefusedError("a value is nested too deep")
    if isinstance(value, str):
        return quote(value)
    if isinstance(value, Number):
        return value.text
    if value is None or isinstance(value, bool | int):
        return json.dumps(value)
    if isinstance(value, list):
        return "[" + ", ".join(show(item, depth + 1) for item in value) + "]"
    if isinstance(value, RegoSet):
        ordered = sorted(value, key=order_key)
        inside = ", ".join(show(item, depth + 1) for item in ordered)
        return "{" + inside + "}" if inside else "set()"
    pairs = sorted(entries(value) or [], key=lambda pair: order_key(pair[0]))
    shown = (f"{show(key, depth + 1)}: {show(item, depth + 1)}" for key, item in pairs)
    return "{" + ", ".join(shown) + "}"


def _argument(value: Any) -> _Argument:  # noqa: ANN401 - any value
    """Return what OPA hands to Go's formatter."""
    if isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, Decimal):
        number = float(value)
        return show(value) if number in (float("inf"), float("-inf")) else number
    return bounded(show(value))


def _type_name(value: _Argument) -> str:
    if isinstance(value, str):
        return "string"
    if isinstance(value, float):
        return "float64"
    return "int64" if -_INT64 <= value < _INT64 else "*big.Int"


@dataclass(frozen=True, slots=True)
class _Style:
    """The flags, width and precision of one verb."""

    sharp: bool = False
    zero: bool = False
    plus: bool = False
    minus: bool = False
    space: bool = False
    width: int | None = None
    precision: int | None = None

    def pad(self, text: str, *, zero: bool | None = None) -> str:
        width = self.width or 0
        if self.minus:
            return text.ljust(width)
        return text.rjust(width, "0" if (self.zero if zero is None else zero) else " ")


class _Printer:
    def __init__(self, form: str, arguments: list[_Argument]) -> None:
        self._form = form
        self._arguments = arguments
        self._at = 0
        self._next = 0
        self._is_index_good = True
        self._is_after_index = False
        self._was_reordered = False
        self._parts: list[str] = []
        self._size = 0

    def text(self) -> str:
        while self._at < len(self._form):
            found = _PIECE.match(self._form, self._at)
            if found is None:
                raise AssertionError("a text or a percent sign")
            self._at = found.end()
            if found[1] is not None:
                self._add(found[1])
            elif not self._verb(found[2]):
                self._add("%!(NOVERB)")
        rest = self._arguments[self._next :]
        if rest and not self._was_reordered:
            shown = (
                f"{_type_name(item)}={_format(item, 'v', _Style())}" for item in rest
            )
            self._add("%!(EXTRA " + ", ".join(shown) + ")")
        return "".join(self._parts)

    def _add(self, text: str) -> None:
        self._size += len(text)
        self._parts.append(text)
        if self._size > MAX_TEXT_BYTES:
            raise RefusedError("a text gets too long")

    def _verb(self, flags: str) -> bool:
        """Add what the verb at this place gives; false if the text ends before it."""
        self._is_index_good, self._is_after_index = True, False
        style = _Style(
            sharp="#" in flags,
            zero="0" in flags,
            plus="+" in flags,
            minus="-" in flags,
            space=" " in flags,
        )
        self._take_index()
        style = self._take_precision(self._take_width(style))
        if not self._is_after_index:
            self._take_index()
        if self._at >= len(self._form):
            return False
        verb = self._form[self._at]
        self._at += 1
        if verb == "%":
            self._add("%")
        elif not self._is_index_good:
            self._add(f"%!{verb}(BADINDEX)")
        elif self._next >= len(self._arguments):
            self._add(f"%!{verb}(MISSING)")
        else:
            argument = self._arguments[self._next]
            self._next += 1
            self._add(_format(argument, verb, style))
        return True

    def _take_index(self) -> None:
        """Read ``[n]``, the number of the argument that comes next."""
        self._is_after_index = False
        form = self._form
        if not form.startswith("[", self._at):
            return
        self._was_reordered = True
        end = form.find("]", self._at)
        if end < 0 or len(form) < self._at + len("[n]"):
            self._is_index_good = False
            self._at += 1
            return
        text = form[self._at + 1 : end]
        self._at = end + 1
        index = _small(text) if _DIGITS.fullmatch(text) and text else None
        if index is not None and 0 < index <= len(self._arguments):
            self._is_after_index = True
            self._next = index - 1
            return
        self._is_index_good = False
        # Go takes an index that is a number for one even if nothing is there.
        self._is_after_index = index is not None

    def _take_width(self, style: _Style) -> _Style:
        if self._form.startswith("*", self._at):
            self._at += 1
            width = self._take_number()
            self._is_after_index = False
            if width is None:
                self._add("%!(BADWIDTH)")
                return style
            if width < 0:
                return replace(style, width=-width, minus=True, zero=False)
            return replace(style, width=width)
        width = self._take_digits()
        if width is not None and self._is_after_index:
            self._is_index_good = False
        return replace(style, width=width)

    def _take_precision(self, style: _Style) -> _Style:
        # A dot at the very end is the verb.
        if not self._form.startswith(".", self._at) or self._at + 1 >= len(self._form):
            return style
        self._at += 1
        if self._is_after_index:
            self._is_index_good = False
        self._take_index()
        if self._form.startswith("*", self._at):
            self._at += 1
            precision = self._take_number()
            self._is_after_index = False
            if precision is None or precision < 0:
                self._add("%!(BADPREC)")
                return style
            return replace(style, precision=precision)
        return replace(style, precision=self._take_digits() or 0)

    def _take_digits(self) -> int | None:
        found = _DIGITS.match(self._form, self._at)
        text = found.group() if found else ""
        self._at += len(text)
        if not text:
            return None
        number = _small(text)
        if number is None:
            # Go gives up on the rest of the text.
            self._at = len(self._form)
        return number

    def _take_number(self) -> int | None:
        if self._next >= len(self._arguments):
            return None
        value = self._arguments[self._next]
        self._next += 1
        if not isinstance(value, int) or abs(value) > _MAX_WIDTH:
            return None
        return value


def _small(digits: str) -> int | None:
    """Return the number in `digits`; None if Go finds it too large."""
    number = 0
    for digit in digits:
        if number > _MAX_WIDTH:
            return None
        number = number * 10 + int(digit)
    # What Go takes in its last step would be refused for its length in any case.
    if number > _MAX_WIDTH:
        raise RefusedError("a text gets too long")
    return number


def _format(value: _Argument, verb: str, style: _Style) -> str:
    if verb == "T":
        return _print(_type_name(value), "s", style)
    if verb != "v":
        return _print(value, verb, style)
    if isinstance(value, int) and not -_INT64 <= value < _INT64:
        return _format_big(value, verb, style)
    is_go_syntax = style.sharp
    style = replace(style, sharp=False, plus=False)
    if is_go_syntax and isinstance(value, float):
        raise RefusedError("sprintf does not do %#v of a number with a fraction")
    return _print(
        value, "q" if is_go_syntax and isinstance(value, str) else verb, style
    )


def _print(value: _Argument, verb: str, style: _Style) -> str:
    if isinstance(value, str):
        return _format_string(value, verb, style)
    if isinstance(value, float):
        return _format_float(value, verb, style)
    if -_INT64 <= value < _INT64:
        return _format_integer(value, verb, style)
    return _format_big(value, verb, style)


def _bad(value: _Argument, verb: str, style: _Style) -> str:
    # Go prints the value with the flags that it was to have.
    return f"%!{verb}({_type_name(value)}={_print(value, 'v', style)})"


def _format_string(value: str, verb: str, style: _Style) -> str:
    cut = value if style.precision is None else value[: style.precision]
    if verb in ("v", "s"):
        return style.pad(cut)
    if verb == "q":
        if style.sharp and not _NOT_IN_BACKQUOTES.search(cut):
            return style.pad(f"`{cut}`")
        return style.pad(quote(cut, is_ascii=style.plus))
    if verb in ("x", "X"):
        return _format_bytes(value.encode(), verb, style)
    return _bad(value, verb, style)


def _format_bytes(content: bytes, verb: str, style: _Style) -> str:
    content = content if style.precision is None else content[: style.precision]
    if not content:
        return style.pad("")
    prefix = ("0" + verb) if style.sharp else ""
    digits = [f"{octet:02{verb}}" for octet in content]
    if style.space:
        return style.pad(" ".join(prefix + pair for pair in digits))
    return style.pad(prefix + "".join(digits))


def _format_integer(value: int, verb: str, style: _Style) -> str:
    if verb in ("c", "q"):
        rune = chr(value) if 0 <= value <= _MAX_RUNE else "\ufffd"
        rune = "\ufffd" if ord(rune) in _SURROGATES else rune
        if verb == "c":
            return style.pad(rune)
        return style.pad(quote(rune, delimiter="'", is_ascii=style.plus))
    if verb == "U":
        return _format_rune(value % (2 * _INT64), style)
    if verb not in _BASES or verb == "s":
        return _bad(value, verb, style)
    digits = _digits(abs(value), verb)
    if style.precision is not None:
        if not style.precision and not value:
            return style.pad("", zero=False)
        digits = digits.rjust(style.precision, "0")
    elif style.zero and not style.minus and style.width is not None:
        has_sign = value < 0 or style.plus or style.space
        digits = digits.rjust(style.width - has_sign, "0")
    prefix = _PREFIXES.get(verb, "") if style.sharp else ""
    if verb in ("o", "O") and digits.startswith("0"):
        prefix = ""
    if verb == "O":
        prefix = "0o" + prefix
    return style.pad(_sign(value, style) + prefix + digits, zero=False)


def _format_rune(rune: int, style: _Style) -> str:
    text = f"U+{rune:0{max(4, style.precision or 0)}X}"
    if style.sharp and rune <= _MAX_RUNE and chr(rune).isprintable():
        text += f" '{chr(rune)}'"
    return style.pad(text, zero=False)


def _format_big(value: int, verb: str, style: _Style) -> str:
    if verb == "p":
        raise RefusedError("sprintf does not print where a number lies")
    if verb not in _BASES:
        return f"%!{verb}(big.Int={value})"
    digits = _digits(abs(value), verb)
    if style.precision is not None:
        digits = digits.rjust(style.precision, "0")
    prefix = _PREFIXES.get(verb, "") if style.sharp else ""
    head = _sign(value, style) + ("0o" if verb == "O" else prefix)
    if style.zero and not style.minus and style.precision is None:
        digits = digits.rjust((style.width or 0) - len(head), "0")
    return style.pad(head + digits, zero=False)


def _digits(value: int, verb: str) -> str:
    base = _BASES[verb]
    if base == 10:  # noqa: PLR2004 - the base
        return str(value)
    return format(value, {2: "b", 8: "o", 16: "X" if verb == "X" else "x"}[base])


def _sign(value: float, style: _Style) -> str:
    if value < 0 or (value == 0 and str(value).startswith("-")):
        return "-"
    if style.plus:
        return "+"
    return " " if style.space else ""


def _format_float(value: float, verb: str, style: _Style) -> str:
    if verb in ("b", "x", "X") or (style.sharp and verb in "vgGeEfF"):
        raise RefusedError(f"sprintf does not do this verb of a fraction: {verb}")
    precision = style.precision
    if precision is not None and precision > _MAX_PRECISION:
        raise RefusedError("a text gets too long")
    size = abs(value)
    if verb in ("v", "g", "G"):
        text = _shortest(size) if precision is None else f"{size:.{precision}g}"
        text = text.upper() if verb == "G" else text
    elif verb in ("f", "F", "e", "E"):
        text = format(size, f".{6 if precision is None else precision}{verb}")
    else:
        return _bad(value, verb, style)
    sign = _sign(value, style)
    if style.zero and not style.minus:
        text = text.rjust((style.width or 0) - len(sign), "0")
    return style.pad(sign + text, zero=False)


def _shortest(value: float) -> str:
    """Return the shortest text that reads as `value`, in Go's form."""
    if not value:
        return "0"
    digits = Decimal(repr(value)).normalize()
    exponent = digits.adjusted()
    figures = "".join(map(str, digits.as_tuple().digits))
    if -4 <= exponent < 6:  # noqa: PLR2004 - Go's limits
        return f"{digits:f}"
    tail = f".{figures[1:]}" if len(figures) > 1 else ""
    return f"{figures[0]}{tail}e{'-' if exponent < 0 else '+'}{abs(exponent):02}"
