"""Whatever the bytes: the native core gives what its twin gives, or asks it."""

from __future__ import annotations

import itertools
import os
from collections import Counter
from pathlib import Path

import pytest
from checks import check_request, frame, grpc_check_request, len_field
from hypothesis import given
from hypothesis import strategies as st
from native.extract_cases import EACH_PATH, FOREIGN_PLANS, PLANS, requests

from authz_server.errors import Reason, RequestError
from authz_server.facts import Annotations, BodyState, Facts, Plan, native
from authz_server.facts.extraction import extract as twin

CORPUS = Path(__file__).parents[1] / "native" / "corpus" / "extract"

SEEDS = range(4)
CASES = 100_000 if os.environ.get("HYPOTHESIS_PROFILE") == "long" else 6_000
"""Of each seed."""

MESSAGES = {
    "varint is not minimal or exceeds 64 bits",
    "varint is cut off or too long",
    "field number is out of range",
    "field is longer than its message",
    *(f"wire type {number} is not accepted" for number in (3, 4, 6, 7)),
    "field has another wire type than its definition",
    "a singular message comes twice",
    "a singular field comes twice",
    "a context extension comes twice",
    "request size is not one number",
    "a header has two kinds of value",
    "CheckRequest has no HTTP request",
}

Outcome = tuple[bytes, Annotations] | tuple[Reason, str]


def outcome(extract: object, raw: bytes, plan: Plan) -> Outcome:
    try:
        key, annotations = extract(raw, plan)  # type: ignore[operator]
    except RequestError as error:
        return error.reason, str(error)
    assert type(key) is bytes
    assert type(annotations) is Annotations
    return key, annotations


def agrees(raw: bytes, plan: Plan) -> Outcome:
    """Compare, and return what both say; a refusal's message is the same too."""
    ours, theirs = outcome(native.extract, raw, plan), outcome(twin, raw, plan)
    assert ours == theirs, raw.hex()
    return ours


@pytest.mark.parametrize("seed", SEEDS)
def test_requests_whole_and_broken_are_read_alike(seed: int) -> None:
    seen: Counter[str] = Counter()
    for index, raw in enumerate(itertools.islice(requests(seed), CASES)):
        plan = PLANS[index % len(PLANS)]
        first, second = agrees(raw, plan)
        if not native.EXTRACTOR.answers(raw, plan):
            seen["asked"] += 1
        elif isinstance(first, Reason):
            seen["refused"] += 1
            seen[str(second)] += 1
        else:
            seen["read"] += 1
            seen[Facts.decode(first).body.state.name] += 1
    # The comparison is worth something: most is answered here, and of every kind.
    assert seen["asked"] < CASES / 10
    assert seen["read"] > CASES / 3
    assert {state.name for state in BodyState} <= set(seen)
    missing = MESSAGES - set(seen)
    assert not missing


@pytest.mark.parametrize("plan", FOREIGN_PLANS, ids=["document", "key", "outline"])
def test_a_plan_beyond_the_core_is_read_as_by_the_twin(plan: Plan) -> None:
    for raw in itertools.islice(requests(99), 200):
        agrees(raw, plan)


def test_an_outline_beyond_the_core_asks_the_twin() -> None:
    path = EACH_PATH.decode()
    raw = bytes(grpc_check_request(path, len_field(9, b"kept")))
    _, _, plan = FOREIGN_PLANS
    assert not native.EXTRACTOR.answers(raw, plan)
    assert agrees(raw, plan) != agrees(raw, Plan())


@given(st.binary(max_size=200), st.sampled_from(PLANS))
def test_any_bytes_are_read_alike(raw: bytes, plan: Plan) -> None:
    agrees(raw, plan)


@given(st.binary(max_size=300), st.binary(max_size=40), st.sampled_from(PLANS))
def test_any_text_in_an_annotation_is_read_alike(
    request_id: bytes, host: bytes, plan: Plan
) -> None:
    address = len_field(1, len_field(1, len_field(2, host)))
    request = len_field(4, len_field(2, len_field(1, request_id)))
    agrees(len_field(1, len_field(1, address) + request), plan)


@given(
    st.binary(max_size=60), st.booleans(), st.sampled_from(sorted(PLANS[1].outlines))
)
def test_any_bytes_of_a_message_are_read_alike(
    message: bytes, is_framed: bool, path: bytes
) -> None:
    raw_body = frame(message) if is_framed else message
    raw = len_field(4, path) + len_field(12, raw_body)
    agrees(len_field(1, len_field(4, len_field(2, raw))), PLANS[1])


@pytest.mark.parametrize("count", [2, 70_000])
def test_however_often_a_header_comes_it_is_read_alike(count: int) -> None:
    header = len_field(3, len_field(1, b"x-other") + len_field(2, b"v"))
    raw = len_field(1, len_field(4, len_field(2, header * count)))
    agrees(raw, Plan(headers=("x-line",)))
    if count == 2:
        agrees(raw, Plan(headers=("x-other",)))


def test_the_plans_in_use_are_told_apart() -> None:
    raw = bytes(check_request(headers={f"x-{name}": name for name in "abcdefghijkl"}))
    plans = [Plan(headers=(f"x-{name}",)) for name in "abcdefghijkl"]
    for _ in range(3):
        for name, plan in zip("abcdefghijkl", plans, strict=True):
            key, _ = native.extract(raw, plan)
            assert Facts.decode(key).headers == ((f"x-{name}", (name.encode(),)),)


def test_a_plan_larger_than_one_of_the_core_is_the_twins() -> None:
    names = tuple(f"x-{number}" for number in range(5_000))
    plan = Plan(headers=names)
    raw = bytes(check_request(headers={"x-7": "v"}))
    assert not native.EXTRACTOR.answers(raw, plan)
    agrees(raw, plan)


@pytest.mark.parametrize("arguments", [(), (b"",), (b"", Plan(), 1), ("x", Plan())])
def test_what_is_no_request_at_all_is_a_type_error(arguments: tuple[object]) -> None:
    with pytest.raises(TypeError):
        native.extract(*arguments)  # type: ignore[arg-type]


def test_what_is_no_plan_is_an_error() -> None:
    with pytest.raises(AttributeError):
        native.extract(b"", None)  # type: ignore[arg-type]


@pytest.mark.parametrize("path", sorted(CORPUS.iterdir()), ids=lambda path: path.name)
def test_what_the_fuzzer_of_the_core_begins_with_is_read_alike(path: Path) -> None:
    data = path.read_bytes()
    agrees(data[1:], PLANS[data[0] % len(PLANS)])
