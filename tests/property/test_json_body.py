"""Whatever the bytes: what is kept is what Python's own JSON reader will see."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from authz_server.facts import BodyState
from authz_server.facts.json_body import outline_json

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=8,
)
OBJECTS = st.dictionaries(
    st.sampled_from(["model", "Model", "prompt", "x"]), VALUES, max_size=4
)
ENCODINGS = st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"])


def agrees(raw: bytes) -> None:
    body = outline_json(raw, "model")
    assert body.state in {
        BodyState.ABSENT,
        BodyState.MALFORMED,
        BodyState.COMPLETE,
    }
    if body.state is BodyState.COMPLETE:
        # FastAPI reads a body with this very function.
        assert json.loads(raw)["model"].encode() == body.value(1)
    else:
        assert body.fields == ()


@given(st.binary(max_size=64))
def test_any_bytes_have_a_state(raw: bytes) -> None:
    agrees(raw)


@given(OBJECTS, ENCODINGS, st.booleans())
def test_an_object_in_any_encoding_is_read_as_its_reader_does_or_refused(
    found: dict[str, Any], encoding: str, is_ascii: bool
) -> None:
    text = json.dumps(found, ensure_ascii=is_ascii)
    agrees(text.encode(encoding, "replace"))


@given(st.lists(st.tuples(st.sampled_from(["model", "x"]), VALUES), max_size=4))
def test_a_key_that_comes_twice_is_never_read(pairs: list[tuple[str, Any]]) -> None:
    raw = b"{%s}" % b",".join(
        f"{json.dumps(key)}:{json.dumps(value)}".encode() for key, value in pairs
    )
    agrees(raw)
    if len({key for key, _ in pairs}) != len(pairs):
        assert outline_json(raw, "model").state is BodyState.MALFORMED


@given(OBJECTS, st.integers(0, 200), st.integers(0, 255))
def test_a_changed_byte_is_read_as_its_reader_does_or_refused(
    found: dict[str, Any], position: int, byte: int
) -> None:
    raw = bytearray(json.dumps(found).encode())
    raw[position % len(raw)] = byte
    agrees(bytes(raw))
