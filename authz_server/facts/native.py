"""The extraction in C, with what Python has to give it.

The module says what of a `Plan` the core can do. Whatever it cannot, or not in the same
way as the twin to the last byte, the twin is asked for: see ``core/extract.h``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from authz_server._native import _core
from authz_server.errors import Reason, RequestError
from authz_server.facts.canonical import Annotations
from authz_server.facts.extraction import extract as twin
from authz_server.facts.plan import Keep, Outline, Plan

# Of protobuf: what no message has is never asked for.
_MAX_FIELD_NUMBER: Final = 2**29 - 1

_KEEPS: Final = {Keep.VALUE: 0, Keep.EACH: 1, Keep.PRESENCE: 2}


def compile_plan(plan: Plan) -> object:
    """Return `plan` in the form that the core reads."""
    try:
        return _core.compile_plan(
            _encoded(plan.headers),
            _encoded(plan.credentials),
            _encoded(plan.signals),
            tuple((path, _fields(outline)) for path, outline in plan.outlines.items()),
            _models(plan.json_models),
            plan.jwt_payload.encode("utf-8"),
            plan.document is not None,
        )
    except (OverflowError, UnicodeEncodeError):
        # More than the core takes, or a key that is no text: the twin's alone.
        return _core.compile_plan((), (), (), (), (), b"", True)  # noqa: FBT003


def _encoded(names: tuple[str, ...]) -> tuple[bytes, ...]:
    return tuple(name.encode("ascii") for name in names)


def _fields(outline: Outline) -> tuple[tuple[int, int], ...]:
    return tuple(
        (number, _KEEPS[keep])
        for number, keep in outline.items()
        if 0 < number <= _MAX_FIELD_NUMBER
    )


def _models(models: Mapping[bytes, str]) -> tuple[tuple[bytes, bytes], ...]:
    return tuple((path, key.encode("utf-8")) for path, key in models.items())


EXTRACTOR: Final = _core.Extractor(
    compile_plan,
    twin,
    Annotations,
    RequestError,
    {reason.value: reason for reason in Reason},
)

extract = EXTRACTOR.extract
