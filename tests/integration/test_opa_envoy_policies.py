"""Policies of the shapes that opa-envoy-plugin and OPA's documentation show.

Each is built by the real OPA, runs as Wasm, and gets an input document that is made of
a real CheckRequest and cut down to what the policy reads.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import datetime as dt
import functools
import json
import random
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from checks import check_request, is_allowed
from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.envoy.service.auth import v3 as auth
from envoy_data_plane.google import protobuf
from parts import MemorySink
from token_forge import Forge, key_set

from authz_server.assembly import build_pipeline, load_now, open_policies
from authz_server.cli import main
from authz_server.config import Config, Distribution, Identity, Policy
from authz_server.errors import Reason, RequestError
from authz_server.facts.envoy_document import build_document
from authz_server.facts.input_paths import EVERYTHING, InputPaths
from authz_server.identity.sources import IdentitySources
from authz_server.policy import engine
from authz_server.policy.building import build_bundle, build_plan, find_opa, read_wasm
from authz_server.policy.builtins.table import HOST_FUNCTIONS
from authz_server.policy.bundles.bundle import read_bundle, write_bundle
from authz_server.policy.envoy_decision import read_decision
from authz_server.policy.plan_inputs import inputs_of
from authz_server.policy.wasm import Instance, Module
from authz_server.response import Passage, Refusal, allow_as, deny_as

pytestmark = pytest.mark.go

FOLDER = Path(__file__).parents[1] / "opa_envoy_policies"
MEGABYTES = 16
NOON = int(dt.datetime(2026, 11, 25, 12, tzinfo=dt.UTC).timestamp())
"""A Wednesday."""
SUNDAY = NOON + 4 * 86_400

MANGLED = 250
ASK_THE_CLOCK = {"staff_directory", "opening_hours", "signed_by_key"}
ODD: tuple[Any, ...] = (None, True, 0, -1, 2.5, "", "x", "%2F", [], ["m"], {}, {"a": 1})

Changes = Mapping[str, Any]


def of(method: str, path: str, **headers: str) -> dict[str, Any]:
    """Return the arguments of a CheckRequest; ``_`` in a header's name is a dash."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return {"method": method, "path": path, "headers": named}


def posting(path: str, body: object, **headers: str) -> dict[str, Any]:
    named = of("POST", path, content_type="application/json", **headers)
    return named | {"raw_body": json.dumps(body).encode()}


def basic(name: str) -> str:
    return "Basic " + base64.urlsafe_b64encode(f"{name}:secret".encode()).decode()


def staff(role: str, *, secret: bytes = b"not-a-secret", **changes: object) -> str:
    claims = {
        "role": role,
        # OPA decodes base64url with and without padding.
        "sub": base64.urlsafe_b64encode(b"erin").decode().rstrip("="),
        "nbf": NOON - 60,
        "exp": NOON + 60,
        **changes,
    }
    token = Forge("hr", algorithm="HS256", key=KEY.key).token(
        claims, {"alg": "HS256", "typ": "JWT"}, key=secret
    )
    return "Bearer " + token.decode()


KEY = Forge("https://idp.example")


def signed(forge: Forge = KEY, **changes: object) -> str:
    claims = {"iss": forge.name, "aud": "shop", "sub": "ann", "exp": NOON + 60}
    return "Bearer " + forge.token({**claims, **changes}).decode()


def with_claims(request: auth.CheckRequest, claims: Mapping[str, Any]) -> None:
    """Put `claims` where Envoy's jwt_authn filter leaves them."""
    assert request.attributes is not None
    request.attributes.metadata_context = core.Metadata(
        filter_metadata={
            "envoy.filters.http.jwt_authn": protobuf.Struct.from_dict(
                {"verified": dict(claims)}
            )
        }
    )


@dataclass(frozen=True)
class Case:
    """One request and what the policy makes of it.

    Attributes:
        request: arguments of `check_request`.
        expected: whether it is let through, or how exactly.
        claims: that Envoy has verified.
    """

    request: Changes
    expected: bool | Passage | Refusal
    now_s: int = NOON
    claims: Changes | None = None


@dataclass(frozen=True)
class Suite:
    """A policy and its cases.

    Attributes:
        reads: the paths of the input that it reads.
    """

    entrypoint: str
    reads: list[str]
    cases: list[Case]
    data: Changes = field(default_factory=dict)


HTTP = "attributes.request.http"

STAFF = Suite(
    "envoy/authz/allow",
    [
        f"{HTTP}.headers.authorization",
        f"{HTTP}.method",
        f"{HTTP}.path",
        "parsed_body.name",
    ],
    [
        Case(of("GET", "/staff", authorization=staff("visitor")), expected=True),
        Case(of("GET", "/staff/7", authorization=staff("manager")), expected=True),
        Case(of("GET", "/pay", authorization=staff("manager")), expected=False),
        Case(of("GET", "/staff"), expected=False),
        Case(of("GET", "/staff", authorization="Bearer x.y.z"), expected=False),
        Case(of("GET", "/staff", authorization=staff("guest")), expected=False),
        Case(
            of("GET", "/staff", authorization=staff("visitor", secret=b"guess")),
            expected=False,
        ),
        Case(
            of("GET", "/staff", authorization=staff("visitor")),
            expected=False,
            now_s=NOON + 60,
        ),
        Case(
            of("GET", "/staff", authorization=staff("visitor")),
            expected=False,
            now_s=NOON - 61,
        ),
        Case(
            posting("/staff", {"name": "Frank"}, authorization=staff("manager")),
            expected=True,
        ),
        Case(
            posting("/staff", {"name": "ERIN"}, authorization=staff("manager")),
            expected=False,
        ),
        Case(posting("/staff", {}, authorization=staff("manager")), expected=False),
        Case(posting("/staff", [], authorization=staff("manager")), expected=False),
        Case(
            posting("/staff", {"name": "Frank"}, authorization=staff("visitor")),
            expected=False,
        ),
    ],
)

SHOP = Suite(
    "istio/authz/allow",
    [
        f"{HTTP}.headers.authorization",
        f"{HTTP}.method",
        f"{HTTP}.path",
        "parsed_path",
    ],
    [
        Case(of("GET", "/ready"), expected=True),
        Case(of("GET", "/ready/now"), expected=True),
        Case(of("POST", "/ready"), expected=False),
        Case(of("GET", "//ready"), expected=True),
        Case(of("GET", "/catalogue", authorization=basic("carol")), expected=True),
        Case(of("PUT", "/catalogue", authorization=basic("carol")), expected=False),
        Case(of("PUT", "/catalogue", authorization=basic("dave")), expected=True),
        Case(
            of("POST", "/catalogue/entries", authorization=basic("dave")),
            expected=True,
        ),
        Case(of("GET", "/catalogue?x", authorization=basic("carol")), expected=False),
        Case(of("GET", "/catalogue", authorization=basic("eve")), expected=False),
        Case(of("GET", "/catalogue", authorization="Basic"), expected=False),
        Case(of("GET", "/catalogue"), expected=False),
    ],
)

METHOD_AND_PATH = Suite(
    "envoy/authz/allow",
    [f"{HTTP}.method", f"{HTTP}.path", "parsed_path", "parsed_query.format"],
    [
        Case(of("GET", "/"), expected=True),
        Case(of("POST", "/"), expected=False),
        Case(of("GET", "/?x"), expected=False),
        Case(of("GET", "/orders/export?format=csv"), expected=True),
        Case(of("GET", "/orders/export?format=csv&format=xml"), expected=False),
        Case(of("GET", "/orders/export"), expected=False),
        Case(of("HEAD", "/orders/17"), expected=True),
        Case(of("GET", "/orders/17/"), expected=False),
        Case(of("GET", "/orders/seventeen"), expected=False),
        Case(of("DELETE", "/orders/17"), expected=False),
    ],
)

DETAILED = Suite(
    "envoy/authz/result",
    [f'{HTTP}.headers["x-plan"]', f'{HTTP}.headers["x-tenant"]'],
    [
        Case(
            of("GET", "/", x_plan="gold", x_tenant="a b"),
            Passage(
                headers=(("x-plan-checked", "true"), ("x-tenant-id", "a b")),
                remove=("x-internal", "x-debug"),
                response_headers=(("x-answered-by", "rego"), ("x-answered-by", "opa")),
                query_set=(("tenant", "a+b"), ("v", "1"), ("v", "2")),
                query_remove=("debug",),
                metadata='{"plan":"gold","rules":["plan"]}',
            ),
        ),
        Case(
            of("GET", "/", x_plan="free", x_tenant="a"),
            Refusal(
                402,
                (("retry-after", "60"),),
                "free costs more",
                '{"plan":"free","rules":["plan"]}',
            ),
        ),
        Case(
            of("GET", "/"), Refusal(401, (("retry-after", "60"),), "who are you?", "")
        ),
    ],
)

VERIFIED = Suite(
    "envoy/authz/allow",
    [
        'attributes.metadataContext.filterMetadata["envoy.filters.http.jwt_authn"]'
        ".verified." + claim
        for claim in ("iss", "level", "scopes")
    ]
    + ["parsed_path"],
    [
        Case(
            of("GET", "/reports/1"),
            expected=True,
            claims={"iss": "https://idp.example", "scopes": ["a", "reports"]},
        ),
        Case(
            of("GET", "/reports/1"),
            expected=False,
            claims={"iss": "https://idp.example", "scopes": ["a"]},
        ),
        Case(of("GET", "/x"), expected=True, claims={"level": 3}),
        Case(of("GET", "/x"), expected=False, claims={"level": 2.5}),
        Case(of("GET", "/reports/1"), expected=False, claims={}),
        Case(of("GET", "/reports/1"), expected=False),
    ],
)

TEAM = KEY.token({"team": "blue"}).decode()

UNVERIFIED = Suite(
    "istio/authz/allow",
    [f"{HTTP}.headers.authorization", "parsed_path"],
    [
        Case(of("GET", "/teams/blue", authorization=f"Bearer {TEAM}"), expected=True),
        Case(of("GET", "/teams/red", authorization=f"Bearer {TEAM}"), expected=False),
        Case(of("GET", "/teams/blue", authorization=TEAM), expected=False),
        Case(of("GET", "/teams/blue", authorization="Bearer x"), expected=False),
        Case(of("GET", "/teams/blue"), expected=False),
    ],
)

WORKLOAD = Suite(
    "envoy/authz/allow",
    [
        "attributes.contextExtensions.namespace",
        "attributes.source.address.socketAddress.address",
        "attributes.source.principal",
        "source_principal",
    ],
    [
        Case({}, expected=True),
        Case({"principal": ""}, expected=False),
        Case(
            {
                "principal": "spiffe://factory.example/ns/line2/sa/press",
                "extensions": {"namespace": "line2"},
            },
            expected=True,
        ),
        Case(
            {
                "principal": "spiffe://factory.example/ns/line2/sa/press",
                "extensions": {"namespace": "line1"},
            },
            expected=False,
        ),
        Case(
            {
                "principal": "spiffe://other.example/ns/line2/sa/press",
                "extensions": {"namespace": "line2"},
            },
            expected=False,
        ),
    ],
)

FORM = "application/x-www-form-urlencoded"
ORDER = {"items": [{"quantity": 1}, {"quantity": 10}]}

BODY = Suite(
    "envoy/authz/allow",
    [f"{HTTP}.method", "parsed_body", "truncated_body"],
    [
        Case(posting("/", ORDER), expected=True),
        Case(posting("/", {"items": [{"quantity": 11}]}), expected=False),
        Case(posting("/", ORDER | {"coupon": "x"}), expected=False),
        Case(posting("/", ORDER | {"note": ["DROP TABLE"]}), expected=False),
        Case(posting("/", ORDER) | {"method": "GET"}, expected=False),
        Case(posting("/", ORDER) | {"size": 10_000}, expected=False),
        Case(posting("/", ORDER, x_envoy_auth_partial_body="true"), expected=False),
        Case(posting("/", "text"), expected=False),
        Case(
            of("POST", "/", content_type=FORM) | {"body": "consent=yes"}, expected=True
        ),
        Case(
            of("POST", "/", content_type=FORM) | {"body": "consent=yes&consent=no"},
            expected=False,
        ),
    ],
)

GRPC = Suite(
    "envoy/authz/allow",
    [
        f'{HTTP}.headers["content-type"]',
        "parsed_body",
        "parsed_path",
        "version.ext_authz",
    ],
    [
        Case(of("POST", "/kitchen.Kitchen/Ring"), expected=True),
        Case(
            of("POST", "/kitchen.Kitchen/Order", content_type="application/grpc")
            | {"raw_body": b"\0\0\0\0\0"},
            expected=True,
        ),
        Case(of("POST", "/kitchen.Kitchen/Order"), expected=False),
        Case(of("POST", "/kitchen.Kitchen/Cancel"), expected=False),
    ],
)

READING = Suite(
    "envoy/authz/allow",
    [f"{HTTP}.method"],
    [Case(of("GET", "/x"), expected=True), Case(of("PUT", "/x"), expected=False)],
)

HOURS = Suite(
    "envoy/authz/allow",
    [f'{HTTP}.headers["x-on-call"]'],
    [
        Case(of("GET", "/"), expected=True),
        Case(of("GET", "/"), expected=False, now_s=SUNDAY),
        # Half past six in the evening in Berlin.
        Case(of("GET", "/"), expected=False, now_s=NOON + 19_800),
        Case(of("GET", "/", x_on_call="true"), expected=True, now_s=SUNDAY),
    ],
)

UNAUTHORIZED = Refusal(401, (("www-authenticate", "Bearer"),))

SIGNED = Suite(
    "envoy/authz/allow",
    [f"{HTTP}.headers.authorization"],
    [
        Case(of("GET", "/", authorization=signed()), Passage((("x-subject", "ann"),))),
        Case(of("GET", "/", authorization=signed(aud="other")), UNAUTHORIZED),
        Case(of("GET", "/", authorization=signed(exp=NOON - 1)), UNAUTHORIZED),
        Case(
            of("GET", "/", authorization=signed(Forge("https://idp.example"))),
            UNAUTHORIZED,
        ),
        Case(of("GET", "/"), UNAUTHORIZED),
    ],
    data={"keys": key_set(KEY.jwk()).decode()},
)

SUITES = {
    "staff_directory": STAFF,
    "shop_roles": SHOP,
    "method_and_path": METHOD_AND_PATH,
    "detailed_answer": DETAILED,
    "verified_claims": VERIFIED,
    "unverified_claims": UNVERIFIED,
    "workload_identity": WORKLOAD,
    "body_rules": BODY,
    "grpc_methods": GRPC,
    "reading_only": READING,
    "opening_hours": HOURS,
    "signed_by_key": SIGNED,
}


def raw_request(case: Case) -> bytes:
    request = check_request(**case.request)
    if case.claims is not None:
        with_claims(request, case.claims)
    return bytes(request)


def test_every_policy_has_its_cases() -> None:
    assert {path.stem for path in FOLDER.glob("*.rego")} == SUITES.keys()


@dataclass(frozen=True)
class Built:
    """A policy that can be asked."""

    name: str
    wanted: InputPaths
    evaluate: Callable[[bytes, int], list[dict[str, Any]]]

    def ask(self, document: bytes, now_s: int) -> Passage | Refusal:
        """Return what its answer means."""
        return read_decision(self.evaluate(document, now_s)[0]["result"])


@pytest.fixture(scope="module", params=SUITES)
def suite(request: pytest.FixtureRequest, tmp_path_factory: Any) -> tuple[Suite, Built]:
    suite = SUITES[request.param]
    sources, opa = [FOLDER / f"{request.param}.rego"], find_opa()
    bundle = tmp_path_factory.mktemp(request.param) / "bundle.tar.gz"
    build_bundle(sources, suite.entrypoint, bundle, opa)
    module = Module(read_wasm(bundle), HOST_FUNCTIONS)
    assert module.missing == []
    entrypoint = module.entrypoints[suite.entrypoint]

    def evaluate(document: bytes, now_s: int) -> list[dict[str, Any]]:
        instance = Instance(
            module,
            json.dumps(suite.data).encode(),
            max_pages=MEGABYTES * 16,
            clock_ns=lambda: now_s * 1_000_000_000,
        )
        try:
            results = instance.evaluate(
                document, entrypoint, timeout_s=5.0, max_bytes=65_536
            )
        finally:
            instance.close()
        found: list[dict[str, Any]] = json.loads(results)
        return found

    wanted = inputs_of(build_plan(sources, suite.entrypoint, opa))
    return suite, Built(request.param, wanted, evaluate)


def test_the_policy_answers_as_it_should(suite: tuple[Suite, Built]) -> None:
    cases, built = suite[0].cases, suite[1]
    answers = [
        built.ask(build_document(raw_request(case), built.wanted), case.now_s)
        for case in cases
    ]
    assert [
        isinstance(answer, Passage) if isinstance(case.expected, bool) else answer
        for case, answer in zip(cases, answers, strict=True)
    ] == [case.expected for case in cases]


def test_the_whole_document_gets_the_same_answers(suite: tuple[Suite, Built]) -> None:
    built = suite[1]
    for case in suite[0].cases:
        raw = raw_request(case)
        whole, cut = build_document(raw, EVERYTHING), build_document(raw, built.wanted)
        assert built.ask(whole, case.now_s) == built.ask(cut, case.now_s)


def test_what_the_policy_reads_is_known(suite: tuple[Suite, Built]) -> None:
    assert suite[1].wanted.texts() == suite[0].reads
    assert not suite[1].wanted.is_volatile


@pytest.mark.parametrize(
    "request_",
    [
        of("POST", "/", content_type="application/json") | {"body": "{"},
        of("POST", "/", content_type="application/json") | {"body": '{"a":1,"a":2}'},
    ],
)
def test_a_malformed_body_gets_no_answer_of_the_policy(request_: Changes) -> None:
    with pytest.raises(RequestError):
        build_document(
            bytes(check_request(**request_)), InputPaths((("parsed_body",),))
        )


@pytest.mark.parametrize("name", SUITES)
def test_the_whole_server_answers_so_and_says_the_same_again(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite, out = SUITES[name], tmp_path / "bundle.tar.gz"
    command = ["policy", "build", "--form", "opa-envoy", "-o", str(out)]
    source = str(FOLDER / f"{name}.rego")
    command += ["--entrypoint", suite.entrypoint, "--policy-dir", source]
    assert main(command) == 0
    bundle = read_bundle(out.read_bytes(), 10**8, None)
    out.write_bytes(write_bundle(dataclasses.replace(bundle, data=suite.data)))
    clock = {"now_s": NOON}
    monkeypatch.setattr(
        engine,
        "Instance",
        functools.partial(Instance, clock_ns=lambda: clock["now_s"] * 1_000_000_000),
    )
    config = Config(
        policy=Policy(form="opa-envoy"),
        distribution=Distribution(url=str(out)),
        identity=Identity(chain="proxy", require_certificate=False),
    )
    with contextlib.closing(open_policies(config)) as policies:
        assert load_now(policies), policies.error
        pipeline = build_pipeline(config, policies, MemorySink(), IdentitySources())
        for case in suite.cases:
            clock["now_s"] = case.now_s
            answers = [pipeline.check(raw_request(case)) for _ in range(2)]
            assert answers[0] == answers[1]
            allowed = case.expected is True or isinstance(case.expected, Passage)
            assert is_allowed(answers[0]) is allowed
            if isinstance(case.expected, Passage):
                assert answers[0] == allow_as(case.expected)
            elif isinstance(case.expected, Refusal):
                assert answers[0] == deny_as(case.expected, Reason.NOT_GRANTED)


@pytest.mark.parametrize(
    "bundle", sorted(FOLDER.glob("*.tar.gz")), ids=lambda p: p.name
)
def test_what_is_checked_in_is_what_is_built(bundle: Path, tmp_path: Path) -> None:
    name, out = bundle.name.removesuffix(".tar.gz"), tmp_path / "bundle.tar.gz"
    command = ["policy", "build", "--form", "opa-envoy", "-o", str(out)]
    command += ["--entrypoint", SUITES[name].entrypoint]
    assert main([*command, "--policy-dir", str(FOLDER / f"{name}.rego")]) == 0
    assert out.read_bytes() == bundle.read_bytes()


def test_wasm_and_interpreter_agree_on_mangled_documents(
    suite: tuple[Suite, Built], tmp_path: Path
) -> None:
    """What the interpreter of OPA says, the Wasm says, of odd documents too."""
    cases, name = suite[0].cases, suite[1].name
    rng = random.Random(name)
    whole = [
        json.loads(build_document(raw_request(case), EVERYTHING)) for case in cases
    ]
    asked = [mangled(rng, rng.choice(whole)) for _ in range(MANGLED)]
    (tmp_path / "asked.json").write_text(json.dumps({"asked": asked}))
    (tmp_path / "data.json").write_text(json.dumps(suite[0].data))
    rule = suite[0].entrypoint.replace("/", ".")
    output = subprocess.run(
        [
            *(str(find_opa()), "eval", "--format", "raw"),
            *("--data", str(FOLDER / f"{name}.rego")),
            *("--data", str(tmp_path / "asked.json")),
            *("--data", str(tmp_path / "data.json")),
            f"[f | some e in data.asked; f := [r | r := data.{rule} with input as e]]",
        ],
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert output.returncode == 0, (output.stdout + output.stderr)[:2500]
    told, now_s = json.loads(output.stdout), int(time.time())
    assert len(told) == MANGLED
    answers = set()
    for document, expected in zip(asked, told, strict=True):
        results = suite[1].evaluate(json.dumps(document).encode(), now_s)
        found = [result["result"] for result in results]
        assert found == expected, document
        answers.add(json.dumps(expected, sort_keys=True))
    # By the real clock, which is all that the interpreter has, every token is over.
    assert len(answers) > 1 or name in ASK_THE_CLOCK


def mangled(rng: random.Random, document: Any) -> Any:
    """Return a copy with something missing, of a wrong type, or from elsewhere."""
    copy = json.loads(json.dumps(document))
    for _ in range(rng.choice((0, 1, 1, 2, 3))):
        places = list(_places(copy))
        holder, key = rng.choice(places)
        if rng.random() < 0.3 and isinstance(holder, dict):
            del holder[key]
        elif rng.random() < 0.5:
            other, name = rng.choice(places)
            holder[key] = json.loads(json.dumps(other[name]))
        else:
            holder[key] = rng.choice(ODD)
    return copy


def _places(node: Any) -> Iterator[tuple[Any, Any]]:
    keys = node if isinstance(node, dict) else range(len(node))
    for key in keys:
        yield node, key
        if isinstance(node[key], dict | list):
            yield from _places(node[key])
