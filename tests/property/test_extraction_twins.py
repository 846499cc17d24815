"""Whatever the bytes: the native core gives what its twin gives, or asks it."""

from __future__ import annotations

import itertools
import os
import random
from collections import Counter
from pathlib import Path

import pytest
from checks import check_request, frame, grpc_check_request, len_field
from hypothesis import given
from hypothesis import strategies as st
from native.extract_cases import (
    EACH_PATH,
    FOREIGN_PLANS,
    JSON_LITERALS,
    JSON_NUMBERS,
    JSON_TEXTS,
    ODD_PATH,
    PLANS,
    requests,
)

from authz_server.errors import Reason, RequestError
from authz_server.facts import Annotations, BodyState, Facts, Plan, native
from authz_server.facts.extraction import extract as twin

CORPUS = Path(__file__).parents[1] / "native" / "corpus" / "extract"

SEED, CASES = 0, 12_000
if os.environ.get("HYPOTHESIS_PROFILE") == "long":
    SEED, CASES = random.randrange(2**32), 250_000

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
    "metadata of one filter comes twice",
    "metadata is nested too deeply",
    "metadata is no Struct",
    "metadata has an entry that is none",
    "metadata has a key twice",
    "metadata has a value that is not exactly one",
    "metadata has a list that is none",
    "metadata has a number that JSON has not",
    "metadata has text that is not UTF-8",
    "the claims in the metadata are no object",
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


def test_requests_whole_and_broken_are_read_alike() -> None:
    seen: Counter[str] = Counter()
    for index, raw in enumerate(itertools.islice(requests(SEED), CASES)):
        plan = PLANS[index % len(PLANS)]
        first, second = agrees(raw, plan)
        if not native.EXTRACTOR.answers(raw, plan):
            seen["asked"] += 1
        elif isinstance(first, Reason):
            seen["refused"] += 1
            seen[str(second)] += 1
        else:
            seen["read"] += 1
            facts = Facts.decode(first)
            seen[facts.body.state.name] += 1
            seen["claims"] += bool(facts.claims)
    # The comparison is worth something: most is answered here, and of every kind.
    assert seen["asked"] < CASES / 10
    assert seen["read"] > CASES / 3
    assert {state.name for state in BodyState} <= set(seen)
    assert seen["claims"] > CASES / 100
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


def http_request(http: bytes) -> bytes:
    return len_field(1, len_field(4, len_field(2, http)))


def json_request(raw_body: bytes) -> bytes:
    return http_request(len_field(4, b"/v1/completions") + len_field(12, raw_body))


@pytest.mark.parametrize("value", [*JSON_TEXTS, *JSON_NUMBERS, *JSON_LITERALS])
def test_every_value_in_json_is_read_alike(value: str) -> None:
    for text in (
        f'{{"model":"m","x":{value}}}',
        f'{{"model":{value}}}',
        f'{{"model":"m","x":[{value},{{"y":-{value}}}]}}',
        f'{{{value}:1,"model":"m"}}',
    ):
        agrees(json_request(text.encode()), PLANS[0])


@pytest.mark.parametrize("count", [7, 8, 9, 10, 100, 1000])
def test_a_name_that_comes_twice_among_many_is_found_as_by_the_twin(count: int) -> None:
    rng = random.Random(count)
    names = [f"k\\u00{number:x}" for number in range(32, 128)] + ["model"]
    names += [f"{number}" for number in range(count)]
    rng.shuffle(names)
    unique = names[:count]
    for twice in range(min(count, 40)):
        for chosen in (unique, [*unique, unique[twice]]):
            pairs = ",".join(f'"{name}":"v"' for name in chosen)
            agrees(json_request(f"{{{pairs}}}".encode()), PLANS[0])
            inner = f'{{"model":"m","a":{{{pairs}}},"b":{{{pairs}}}}}'
            agrees(json_request(inner.encode()), PLANS[0])


@pytest.mark.parametrize("byte", range(0x20))
def test_a_control_character_in_json_is_read_alike(byte: int) -> None:
    for text in (b'{"model":"a%cb"}', b'{"model"%c:"m"}', b'{"model":"\\%c"}'):
        agrees(json_request(text % byte), PLANS[0])


ENCODED = [
    bytes((first, second, *rest))
    for first in (
        0x7F,
        0x80,
        0xC1,
        0xC2,
        0xDF,
        0xE0,
        0xE1,
        0xED,
        0xEF,
        0xF0,
        0xF4,
        0xF5,
    )
    for second in (0x41, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC0)
    for rest in (
        (),
        (0x80,),
        (0xBF, 0x80),
        (0xC0, 0x80),
        (0x80, 0xC0),
        (0x80, 0x80, 65),
    )
]


def test_every_kind_of_utf_8_is_read_alike() -> None:
    for text in ENCODED:
        agrees(http_request(len_field(1, text)), PLANS[0])
        agrees(json_request(b'{"model":"%b"}' % text), PLANS[0])


@pytest.mark.parametrize("numbers", list(itertools.permutations((2, 3, 15, 1), 4)))
@pytest.mark.parametrize("count", [13, 14, 15, 16, 17])
def test_very_many_kept_fields_are_read_alike(
    numbers: tuple[int, ...], count: int
) -> None:
    first, *others = numbers
    message = len_field(first, b"v") * count
    message += b"".join(len_field(number, b"w") for number in others)
    for body in (message, message + message[-3:]):
        raw = len_field(4, ODD_PATH) + len_field(12, frame(body))
        agrees(http_request(raw), PLANS[1])


def test_a_message_of_very_many_fields_is_read_alike() -> None:
    for count in (4095, 4096, 4097):
        raw = len_field(4, ODD_PATH) + len_field(12, frame(b"\x48\x00" * count))
        agrees(http_request(raw), PLANS[1])


@pytest.mark.parametrize("count", [63, 64, 65])
def test_as_many_context_extensions_as_there_are_are_read_alike(count: int) -> None:
    found = [len_field(10, len_field(1, b"%d" % number)) for number in range(count)]
    request = len_field(4, len_field(2, b""))
    agrees(len_field(1, request + b"".join(found)), PLANS[0])
    for number in (0, count - 1):
        agrees(len_field(1, request + b"".join(found) + found[number]), PLANS[0])
