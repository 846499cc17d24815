"""How Wasm and the functions that we host for it come together."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from token_forge import encode, sign

from authz_server.errors import PolicyError, Reason
from authz_server.policy.building import build_bundle, find_opa, read_wasm
from authz_server.policy.builtins.table import HOST_FUNCTIONS
from authz_server.policy.engine import Engine
from authz_server.policy.wasm import Instance, Module, WasmError

pytestmark = pytest.mark.go

REGO = """package authz
answers["undefined"] := hex.decode("zz")
answers["goes on"] if not hex.decode("zz")
answers["sets"] := sprintf("%v %v", [{2, 1}, {"a": set()}])
answers["odd keys"] := json.patch({1: "a"}, [change]) if {
	change := {"op": "add", "path": [2], "value": {"b"}}
}
answers["expanded"] := count(net.cidr_expand("10.0.0.0/20"))
answers["between"] := [upper("a"), strings.count("aa", "a"), lower("B"), places] if {
	places := indexof_n("ab", "b")
}
answers["clock"] := now if {
	input.clock
	now := [time.now_ns(), time.now_ns(), to_number(sprintf("%d", [time.now_ns()]))]
}
answers["large"] := [count(text), substring(text, 500000, 3), data.kept] if {
	input.large
	text := sprintf("%*s%s", [input.large, "x", "end"])
}
answers["refused"] if {
	input.refused
	not hex.decode("ff")
}
answers["token"] := io.jwt.decode_verify(input.token, input.constraints)
answers["argument"] := crypto.sha256(input.text)
"""
DECISION = """package authz
default decision := {"allow": true}
decision := {"allow": false} if {
	input.limit
	time.now_ns() < input.limit
}
decision := {"allow": false, "ttl_seconds": 60} if {
	constraints := object.union({"secret": "s"}, input.constraints)
	io.jwt.decode_verify(input.token, constraints)[0]
}
"""
DATA = json.dumps({"kept": list(range(1000))}).encode()
NOW_NS = 1_700_000_000_123_456_789


def build(folder: Path, rego: str, entrypoint: str) -> bytes:
    (folder / "own.rego").write_text(rego)
    build_bundle([folder / "own.rego"], entrypoint, folder / "out.tar.gz", find_opa())
    return read_wasm(folder / "out.tar.gz")


@pytest.fixture(scope="module")
def module(tmp_path_factory: pytest.TempPathFactory) -> Module:
    wasm = build(tmp_path_factory.mktemp("host"), REGO, "authz/answers")
    return Module(wasm, HOST_FUNCTIONS)


@pytest.fixture
def instance(module: Module) -> Iterator[Instance]:
    ticks = iter(range(NOW_NS, NOW_NS + 1000))
    made = Instance(module, DATA, max_pages=4096, clock_ns=lambda: next(ticks))
    yield made
    made.close()


def ask(instance: Instance, **document: object) -> dict[str, object]:
    found = instance.evaluate(
        json.dumps(document).encode(), 0, timeout_s=5, max_bytes=1 << 24
    )
    answers = json.loads(found)[0]["result"]
    assert isinstance(answers, dict)
    return answers


def test_a_function_that_fails_leaves_its_expression_undefined(
    instance: Instance,
) -> None:
    answers = ask(instance)
    assert "undefined" not in answers
    assert answers["goes on"] is True


def test_a_function_that_gives_up_fails_the_evaluation(instance: Instance) -> None:
    with pytest.raises(WasmError, match=r"hex\.decode gave up: a text is not UTF-8"):
        ask(instance, refused=True)


def test_sets_and_odd_keys_arrive_as_what_they_are(instance: Instance) -> None:
    answers = ask(instance)
    assert answers["sets"] == '{1, 2} {"a": set()}'
    assert answers["odd keys"] == {"1": "a", "2": ["b"]}
    assert answers["expanded"] == 4096


def test_functions_keep_their_numbers_between_those_of_wasm(
    instance: Instance,
) -> None:
    assert ask(instance)["between"] == ["A", 2, "b", [1]]


def test_the_clock_stands_still_within_an_evaluation(instance: Instance) -> None:
    assert ask(instance, clock=True)["clock"] == [NOW_NS] * 3
    assert instance.has_read_clock
    assert "clock" not in ask(instance)
    assert not instance.has_read_clock
    assert ask(instance, clock=True)["clock"] == [NOW_NS + 1] * 3


def test_large_results_neither_leak_nor_overlap(instance: Instance) -> None:
    sizes = []
    for size in (1_000_000, 10, 900_000, 1_000_000, 500_001) * 4:
        answers = ask(instance, large=size)
        end = "   " if size > 500_003 else "xen" if size == 500_001 else ""
        assert answers["large"] == [size + 3, end, list(range(1000))]
        sizes.append(instance._size())
    assert len(set(sizes)) == 1


def test_an_argument_of_any_length_arrives(instance: Instance) -> None:
    lengths = (0, 1, 510, 511, 512, 513, 4095, 4096, 4097, 100_000)
    digests = [ask(instance, text="a" * length)["argument"] for length in lengths]
    assert len(set(digests)) == len(lengths)
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert digests[0] == empty


def test_an_argument_nested_too_deep_fails_the_evaluation(instance: Instance) -> None:
    # Wasm's own stack ends first, and that is no harm to the process.
    token = "[" * 5000 + "]" * 5000
    with pytest.raises(WasmError):
        instance.evaluate(
            b'{"token": ' + token.encode() + b', "constraints": {}}',
            0,
            timeout_s=5,
            max_bytes=1 << 20,
        )


def test_what_the_clock_had_a_part_in_is_not_kept(tmp_path: Path) -> None:
    wasm = build(tmp_path, DECISION, "authz/decision")
    engine = Engine(wasm, b"{}", timeout_s=5, instances=1)
    content = b".".join(encode(part) for part in (b'{"alg": "HS256"}', b"{}"))
    token = (content + b"." + encode(sign(b"s", "HS256", content))).decode()
    try:
        timed = engine.evaluate(json.dumps({"limit": 10**19}).encode())
        assert (timed.allow, timed.ttl_s) == (False, 0.0)
        assert engine.evaluate(b'{"limit": 5}').ttl_s == 0.0
        # Without a limit nobody asks for the time.
        assert engine.evaluate(b"{}").ttl_s is None
        for constraints, ttl_s in (({"time": 1}, 60.0), ({}, 0.0)):
            asked = {"token": token, "constraints": constraints}
            verdict = engine.evaluate(json.dumps(asked).encode())
            assert (verdict.allow, verdict.ttl_s) == (False, ttl_s)
    finally:
        engine.close()


@pytest.mark.parametrize(
    "call",
    [
        'http.send({"method": "get", "url": "http://127.0.0.1/"}).status_code == 200',
        'net.lookup_ip_addr("localhost") == set()',
        "opa.runtime().env.HOME",
        'rand.intn("x", 2) == 1',
        'uuid.rfc4122("x")',
        'rego.parse_module("x.rego", "package x")',
        'yaml.is_valid("a: b")',
        "io.jwt.encode_sign({}, {}, {})",
    ],
)  # fmt: skip
def test_what_is_never_offered_is_refused_by_name(tmp_path: Path, call: str) -> None:
    wasm = build(tmp_path, f"package authz\ndecision if {call}\n", "authz/decision")
    name = call.partition("(")[0]
    with pytest.raises(PolicyError, match=f"not offer here: {name}") as caught:
        Engine(wasm, b"{}", timeout_s=5, instances=1)
    assert caught.value.reason is Reason.POLICY_ERROR
