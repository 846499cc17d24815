import contextlib
import dataclasses
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import grpc
import pytest
from checks import CAMERA
from cryptography.hazmat.primitives.asymmetric import ec
from https_endpoint import silent_port
from parts import eventually
from workload_agent import (
    JWT_BUNDLES,
    METHODS,
    X509_BUNDLES,
    X509_SVID,
    Agent,
    authorities,
    jwk,
    jwks,
    jwt_bundles,
    key_der,
    workload_agent,
    x509_bundles,
    x509_svid,
    x509_svids,
)

from authz_server.address import parse_workload_endpoint
from authz_server.demo.pki import DevelopmentCa
from authz_server.demo.process import free_ports
from authz_server.identity.jwk import KeySet
from authz_server.identity.spiffe_id import TrustDomain
from authz_server.identity.workload_api import WorkloadApi
from authz_server.identity.workload_messages import Authorities, OwnSvid

FACTORY, SUPPLIER = TrustDomain("factory.example"), TrustDomain("supplier.example")
F, S = f"spiffe://{FACTORY}", f"spiffe://{SUPPLIER}"
CA, NEXT = DevelopmentCa(FACTORY.name), DevelopmentCa(FACTORY.name)
OTHER = DevelopmentCa(SUPPLIER.name)
KEY = ec.generate_private_key(ec.SECP256R1())

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE
DENIED = grpc.StatusCode.PERMISSION_DENIED


@dataclasses.dataclass
class Told:
    """A client, and everything that it told."""

    api: WorkloadApi = dataclasses.field(init=False)
    x509: list[Mapping[TrustDomain, Authorities]] = dataclasses.field(
        default_factory=list
    )
    jwt: list[Mapping[TrustDomain, KeySet]] = dataclasses.field(default_factory=list)
    svids: list[OwnSvid | None] = dataclasses.field(default_factory=list)
    states: dict[str, list[str | None]] = dataclasses.field(
        default_factory=lambda: {method: [] for method in METHODS}
    )

    def count(self) -> int:
        """Return how many callbacks were called."""
        states = sum(map(len, self.states.values()))
        return len(self.x509) + len(self.jwt) + len(self.svids) + states

    def is_live(self, method: str) -> bool:
        return self.states[method][-1:] == [None]

    def problem(self, method: str = X509_BUNDLES) -> str:
        states = self.states[method]
        return states[-1] or "" if states else ""

    def has(self, *names: TrustDomain) -> bool:
        return bool(self.x509) and set(self.x509[-1]) == set(names)


@contextlib.contextmanager
def client(address: str, *, wants_svid: bool = True) -> Iterator[Told]:
    """Yield a client that runs, stopped in the end."""
    told = Told()
    told.api = WorkloadApi(
        address,
        on_x509_bundles=told.x509.append,
        on_jwt_bundles=told.jwt.append,
        on_svid=told.svids.append if wants_svid else None,
        on_state=lambda stream, problem: told.states[stream].append(problem),
    )
    told.api.start()
    try:
        yield told
    finally:
        told.api.stop()


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let attempts follow one another at once."""
    monkeypatch.setattr("authz_server.identity.workload_api.SHORTEST_WAIT_S", 0.01)
    monkeypatch.setattr("authz_server.identity.workload_api.LONGEST_WAIT_S", 0.05)


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    """Return an agent that tells something on each stream."""
    with workload_agent(tmp_path / "agent.sock") as running:
        tell_everything(running)
        yield running


def tell_everything(agent: Agent) -> None:
    agent.push(X509_BUNDLES, x509_bundles({F: authorities(CA), S: authorities(OTHER)}))
    agent.push(JWT_BUNDLES, jwt_bundles({F: jwks(jwk(KEY, "k1"))}))
    agent.push(X509_SVID, x509_svids(x509_svid(CA.issue(CAMERA))))


@pytest.fixture
def told(agent: Agent) -> Iterator[Told]:
    """Return a client that has been told everything."""
    with client(agent.address) as made:
        assert eventually(lambda: all(map(made.is_live, METHODS)))
        yield made


def test_every_stream_tells_its_state(told: Told) -> None:
    assert told.x509 == [
        {FACTORY: (CA.certificate,), SUPPLIER: (OTHER.certificate,)},
    ]
    assert [set(keys[FACTORY]) for keys in told.jwt] == [{"k1"}]
    (svid,) = told.svids
    assert svid is not None
    assert str(svid.spiffe_id) == CAMERA
    assert told.states == {method: [None] for method in METHODS}
    assert not told.api.has_died


def test_every_call_has_the_metadata_that_an_agent_insists_on(
    told: Told, agent: Agent
) -> None:
    assert told.x509
    for method in METHODS:
        assert [call["workload.spiffe.io"] for call in agent.calls[method]] == ["true"]


def test_an_svid_is_asked_for_only_if_somebody_wants_it(agent: Agent) -> None:
    with client(agent.address, wants_svid=False) as told:
        assert eventually(lambda: told.is_live(X509_BUNDLES))
        assert eventually(lambda: told.is_live(JWT_BUNDLES))
    assert agent.calls[X509_SVID] == []


def test_each_message_is_the_whole_state(told: Told, agent: Agent) -> None:
    agent.push(X509_BUNDLES, x509_bundles({F: authorities(NEXT)}))
    assert eventually(lambda: told.has(FACTORY))
    assert told.x509[-1] == {FACTORY: (NEXT.certificate,)}
    agent.push(JWT_BUNDLES, jwt_bundles({}))
    assert eventually(lambda: told.jwt[-1] == {})


def test_our_svid_rotates(told: Told, agent: Agent) -> None:
    svid = CA.issue(CAMERA)
    agent.push(X509_SVID, x509_svids(x509_svid(svid)))
    assert eventually(lambda: len(told.svids) == 2)
    assert told.svids[-1] is not None
    assert told.svids[-1].certificate_chain_pem == svid.certificate_pem
    assert told.svids[-1].private_key_pem == svid.key_pem


def test_a_key_that_is_not_the_certificates_leaves_the_svid_that_we_have(
    told: Told, agent: Agent
) -> None:
    key = key_der(CA.issue(CAMERA))
    agent.push(X509_SVID, x509_svids(x509_svid(CA.issue(CAMERA), key=key)))
    assert eventually(lambda: "not that of its cert" in told.problem(X509_SVID))
    assert len(told.svids) == 1
    agent.push(X509_SVID, x509_svids(x509_svid(CA.issue(CAMERA))))
    assert eventually(lambda: told.is_live(X509_SVID))
    assert len(told.svids) == 2


def test_being_denied_empties_at_once_and_does_not_last(
    told: Told, agent: Agent
) -> None:
    for method in METHODS:
        agent.refuse(method, DENIED)
    assert eventually(lambda: told.x509[-1] == told.jwt[-1] == {})
    assert eventually(lambda: told.svids[-1] is None)
    for method in METHODS:
        assert eventually(lambda m=method: "register an entry" in told.problem(m))  # type: ignore[misc]
    tell_everything(agent)
    assert eventually(lambda: all(map(told.is_live, METHODS)))
    assert told.has(FACTORY, SUPPLIER)
    assert told.svids[-1] is not None


def test_being_denied_one_stream_leaves_the_others_alone(
    told: Told, agent: Agent
) -> None:
    agent.refuse(X509_SVID, DENIED)
    assert eventually(lambda: told.svids[-1] is None)
    assert told.has(FACTORY, SUPPLIER)
    assert told.is_live(X509_BUNDLES)
    assert told.is_live(JWT_BUNDLES)


def test_a_request_that_is_invalid_is_not_made_again_and_told(
    told: Told, agent: Agent
) -> None:
    agent.refuse(X509_BUNDLES, grpc.StatusCode.INVALID_ARGUMENT)
    assert eventually(lambda: "because the test says so" in told.problem())
    (thread,) = (item for item in told.api._streams if item.method == X509_BUNDLES)
    assert thread._thread is not None
    thread._thread.join(10)
    assert len(agent.calls[X509_BUNDLES]) == 1
    assert told.has(FACTORY, SUPPLIER)
    # Ended on purpose, and by no error of ours.
    assert not told.api.has_died
    agent.push(JWT_BUNDLES, jwt_bundles({}))
    assert eventually(lambda: told.jwt[-1] == {})


def test_a_client_that_was_stopped_can_be_started_again(
    told: Told, agent: Agent
) -> None:
    agent.refuse(X509_BUNDLES, grpc.StatusCode.INVALID_ARGUMENT)
    assert eventually(lambda: told.problem() != "")
    told.api.stop()
    agent.push(X509_BUNDLES, x509_bundles({F: authorities(NEXT)}))
    told.api.start()
    told.api.start()
    assert eventually(lambda: told.has(FACTORY))
    assert not told.api.has_died


@pytest.mark.parametrize(
    "code",
    [
        UNAVAILABLE,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
    ],
)
def test_an_agent_that_fails_leaves_the_last_state_and_is_asked_again(
    code: grpc.StatusCode, told: Told, agent: Agent
) -> None:
    agent.refuse(X509_BUNDLES, code)
    assert eventually(lambda: told.problem().startswith(f"{code.name}: "))
    assert eventually(lambda: len(agent.calls[X509_BUNDLES]) > 3)
    assert len(told.x509) == 1
    agent.push(X509_BUNDLES, x509_bundles({F: authorities(NEXT)}))
    assert eventually(lambda: told.has(FACTORY))
    assert told.is_live(X509_BUNDLES)


def test_a_stream_that_ends_in_good_order_is_opened_anew(
    told: Told, agent: Agent
) -> None:
    agent.end(X509_BUNDLES)
    assert eventually(lambda: len(agent.calls[X509_BUNDLES]) == 2)
    assert eventually(lambda: len(told.x509) == 2)
    assert told.x509[0] == told.x509[1]
    assert eventually(lambda: told.is_live(X509_BUNDLES))


def test_a_stream_that_ends_without_a_message_gives_no_state(tmp_path: Path) -> None:
    with (
        workload_agent(tmp_path / "agent.sock") as agent,
        client(agent.address) as told,
    ):
        agent.refuse(X509_BUNDLES, grpc.StatusCode.OK)
        assert eventually(lambda: told.problem() != "")
        assert told.x509 == []
        agent.push(X509_BUNDLES, x509_bundles({F: authorities(CA)}))
        assert eventually(lambda: told.has(FACTORY))


def test_an_agent_that_ends_every_stream_at_once_is_not_hammered(
    agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("authz_server.identity.workload_api.SHORTEST_WAIT_S", 0.2)
    monkeypatch.setattr("authz_server.identity.workload_api.LONGEST_WAIT_S", 0.2)
    agent.push_and_end(X509_BUNDLES, x509_bundles({F: authorities(CA)}))
    begin_s = time.monotonic()
    with client(agent.address):
        assert eventually(lambda: len(agent.calls[X509_BUNDLES]) >= 4)
    assert time.monotonic() - begin_s >= 3 * 0.2 / 2


def test_attempts_in_a_row_are_ever_further_apart_until_a_message_comes(
    agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("authz_server.identity.workload_api.LONGEST_WAIT_S", 0.04)
    agent.refuse(X509_BUNDLES, UNAVAILABLE)
    with client(agent.address) as told:
        stream = told.api._streams[0]
        assert eventually(lambda: stream._wait_s == 0.04)
        agent.push(X509_BUNDLES, x509_bundles({F: authorities(CA)}))
        assert eventually(lambda: told.is_live(X509_BUNDLES))
        assert stream._wait_s == 0.01


@pytest.mark.parametrize(
    "state",
    [b"hello", x509_bundles({CAMERA: b""}), x509_bundles({F: authorities(CA)})[:-1]],
    ids=["no-message", "of-a-workload", "cut-off"],
)
def test_a_message_that_cannot_be_read_leaves_the_last_state_and_the_stream_is_anew(
    state: bytes, told: Told, agent: Agent
) -> None:
    agent.push(X509_BUNDLES, state)
    assert eventually(lambda: "bundle" in told.problem())
    assert eventually(lambda: len(agent.calls[X509_BUNDLES]) > 2)
    assert len(told.x509) == 1
    agent.push(X509_BUNDLES, x509_bundles({F: authorities(NEXT)}))
    assert eventually(lambda: told.has(FACTORY))


def test_a_message_that_is_too_long_leaves_the_last_state(
    told: Told, agent: Agent
) -> None:
    agent.push(X509_BUNDLES, x509_bundles({F: bytes(17 * 1024 * 1024)}))
    assert eventually(lambda: told.problem().startswith("RESOURCE_EXHAUSTED"))
    assert len(told.x509) == 1


def test_the_bad_bundle_of_one_trust_domain_does_not_hold_up_the_others(
    told: Told, agent: Agent
) -> None:
    agent.push(X509_BUNDLES, x509_bundles({F: authorities(NEXT), S: b"\x30\x00"}))
    assert eventually(lambda: len(told.x509) == 2)
    assert told.x509[-1] == {FACTORY: (NEXT.certificate,), SUPPLIER: ()}
    assert told.is_live(X509_BUNDLES)


def test_an_agent_that_is_not_there_yet_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "agent.sock"
    with client(f"unix://{path}") as told:
        assert eventually(lambda: len(told.states[X509_BUNDLES]) > 2)
        assert told.problem().startswith("UNAVAILABLE: ")
        with workload_agent(path) as agent:
            tell_everything(agent)
            assert eventually(lambda: all(map(told.is_live, METHODS)))


def test_an_agent_that_comes_back_on_the_same_path_is_found(tmp_path: Path) -> None:
    path = tmp_path / "agent.sock"
    with workload_agent(path) as first:
        tell_everything(first)
        running = client(first.address)
        told = running.__enter__()
        assert eventually(lambda: all(map(told.is_live, METHODS)))
    try:
        assert eventually(lambda: not any(map(told.is_live, METHODS)))
        assert told.has(FACTORY, SUPPLIER)
        with workload_agent(path) as second:
            second.push(X509_BUNDLES, x509_bundles({F: authorities(NEXT)}))
            assert eventually(lambda: told.has(FACTORY))
            assert told.is_live(X509_BUNDLES)
    finally:
        running.__exit__(None, None, None)


def test_an_agent_that_was_away_for_long_is_found_as_soon_as_it_is_there(
    tmp_path: Path,
) -> None:
    path = tmp_path / "agent.sock"
    with client(f"unix://{path}") as told:
        assert eventually(lambda: len(told.states[X509_BUNDLES]) > 20)
        with workload_agent(path) as agent:
            begin_s = time.monotonic()
            tell_everything(agent)
            assert eventually(lambda: all(map(told.is_live, METHODS)))
            # gRPC's own waits begin at a second.
            assert time.monotonic() - begin_s < 0.9


def test_an_agent_on_a_loopback_port_is_reached_whatever_proxy_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (nobody,) = free_ports(1)
    for name in ("http_proxy", "https_proxy", "grpc_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{nobody}")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("no_grpc_proxy", raising=False)
    with workload_agent(None) as agent, client(agent.address) as told:
        tell_everything(agent)
        assert eventually(lambda: told.has(FACTORY, SUPPLIER))


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("authz_server.identity.workload_api.FIRST_MESSAGE_S", 0.2)


@pytest.mark.usefixtures("impatient")
def test_an_agent_that_takes_calls_and_says_nothing_is_not_well(
    told: Told, agent: Agent
) -> None:
    agent.fall_silent(X509_BUNDLES)
    assert eventually(lambda: "did not answer within 0.2 s" in told.problem())
    assert len(told.x509) == 1
    agent.push(X509_BUNDLES, x509_bundles({F: authorities(NEXT)}))
    assert eventually(lambda: told.has(FACTORY))


@pytest.mark.usefixtures("impatient")
def test_a_port_that_takes_connections_and_speaks_no_grpc_is_not_well() -> None:
    with silent_port() as port, client(f"tcp://127.0.0.1:{port}") as told:
        assert eventually(lambda: "did not answer within" in told.problem())


@pytest.mark.usefixtures("impatient")
def test_an_agent_that_has_answered_may_be_silent_for_long(
    told: Told, agent: Agent
) -> None:
    before = len(agent.calls[X509_BUNDLES]), told.count()
    # Longer than the first message may take.
    assert not eventually(lambda: told.count() != before[1], 0.6)
    assert len(agent.calls[X509_BUNDLES]) == before[0]


def test_a_stream_is_opened_anew_after_a_while_without_a_word(
    agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("authz_server.identity.workload_api.REOPEN_S", 0.6)
    with client(agent.address) as told:
        assert eventually(lambda: len(agent.calls[X509_BUNDLES]) > 2)
        assert eventually(lambda: len(told.x509) > 2)
        assert set(told.states[X509_BUNDLES]) == {None}


def test_an_agent_that_froze_after_its_answer_is_noticed(
    agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("authz_server.identity.workload_api.REOPEN_S", 0.5)
    monkeypatch.setattr("authz_server.identity.workload_api.FIRST_MESSAGE_S", 0.2)
    with client(agent.address) as told:
        assert eventually(lambda: told.is_live(X509_BUNDLES))
        with agent._lock:
            agent._states.clear()
        assert eventually(lambda: "did not answer" in told.problem())
        assert len(told.x509) >= 1


def is_silent(told: Told, act: Callable[[], None]) -> bool:
    """Return whether a stop is prompt, and nothing is told after it."""
    begin_s = time.monotonic()
    told.api.stop()
    if time.monotonic() - begin_s > 2:
        return False
    before = told.count()
    act()
    return not eventually(lambda: told.count() != before, 0.2)


def test_a_stop_of_live_streams_is_prompt(told: Told, agent: Agent) -> None:
    assert is_silent(told, lambda: tell_everything(agent))
    assert eventually(lambda: not any(map(agent.open_streams, METHODS)))


@pytest.mark.parametrize("code", [UNAVAILABLE, DENIED], ids=lambda code: code.name)
def test_a_stop_while_an_attempt_is_waited_for_is_prompt(
    code: grpc.StatusCode, told: Told, agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("authz_server.identity.workload_api.LONGEST_WAIT_S", 600.0)
    for method in METHODS:
        agent.refuse(method, code)
    stream = told.api._streams[0]
    stream._wait_s = 600.0
    assert eventually(lambda: told.problem() != "")
    assert is_silent(told, lambda: tell_everything(agent))


def test_a_stop_while_nobody_answers_is_prompt(tmp_path: Path) -> None:
    with (
        workload_agent(tmp_path / "agent.sock") as agent,
        client(agent.address) as told,
    ):
        assert eventually(lambda: agent.open_streams(X509_BUNDLES) == 1)
        assert is_silent(told, lambda: tell_everything(agent))
        assert told.count() == 0


def test_a_stop_while_a_connection_is_made_is_prompt() -> None:
    with silent_port() as port, client(f"tcp://127.0.0.1:{port}") as told:
        assert is_silent(told, lambda: None)


def test_a_stop_after_a_final_refusal_is_prompt(told: Told, agent: Agent) -> None:
    agent.refuse(X509_BUNDLES, grpc.StatusCode.INVALID_ARGUMENT)
    assert eventually(lambda: told.problem() != "")
    assert is_silent(told, lambda: tell_everything(agent))


def test_a_stop_before_a_start_and_a_second_one_do_nothing(agent: Agent) -> None:
    with client(agent.address) as told:
        told.api.stop()
        told.api.stop()
    assert not told.api.has_died


def test_a_stop_waits_for_a_callback_under_way(agent: Agent) -> None:
    entered, leave, stopped = threading.Event(), threading.Event(), threading.Event()

    def on_svid(_: OwnSvid | None) -> None:
        entered.set()
        leave.wait(10)
        assert not stopped.is_set()

    with client(agent.address) as told:
        assert eventually(lambda: told.is_live(X509_SVID))
        told.api._streams[2]._on_message = lambda _: on_svid(None)
        tell_everything(agent)
        assert entered.wait(10)

        def stop() -> None:
            told.api.stop()
            stopped.set()

        stopping = threading.Thread(target=stop)
        stopping.start()
        assert not stopped.wait(0.2)
        leave.set()
        stopping.join(10)
        assert stopped.is_set()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_error_in_a_callback_ends_its_stream_alone_and_is_told(
    told: Told, agent: Agent
) -> None:
    def fail(_: Any) -> None:
        raise RuntimeError("boom")

    told.api._streams[0]._on_message = fail
    tell_everything(agent)
    assert eventually(lambda: told.api.has_died)
    assert "restart the server" in told.problem()
    agent.push(JWT_BUNDLES, jwt_bundles({}))
    assert eventually(lambda: told.jwt[-1] == {})


def test_what_is_wrong_is_logged_once_and_so_is_its_end(
    told: Told, agent: Agent, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "authz_server.workload_api")
    agent.refuse(X509_BUNDLES, DENIED)
    assert eventually(lambda: len(told.states[X509_BUNDLES]) > 4)
    tell_everything(agent)
    assert eventually(lambda: told.is_live(X509_BUNDLES))
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]


@pytest.mark.parametrize(
    ("address", "target"),
    [
        ("unix:///run/spire/agent.sock", "unix:/run/spire/agent.sock"),
        ("unix:/run/spire/agent.sock", "unix:/run/spire/agent.sock"),
        ("tcp://127.0.0.1:8000", "127.0.0.1:8000"),
        ("tcp://1.2.3.4:5", "1.2.3.4:5"),
        ("tcp://[::1]:65535", "[::1]:65535"),
    ],
)
def test_an_address_of_the_specification_is_accepted(address: str, target: str) -> None:
    assert parse_workload_endpoint(address) == target


@pytest.mark.parametrize(
    "address",
    [
        *("", "\t", "blah", "/run/agent.sock", "http://127.0.0.1:80", "npipe:agent"),
        *("unix:opaque", "unix:", "unix:/", "unix://", "unix:///", "unix://foo"),
        *("unix://foo?whatever", "unix://foo#whatever", "unix://john:doe@foo/path"),
        *("unix:///a?b", "unix:///a?", "unix:///a#b", "unix:///a#", "unix:////a"),
        *("unix://run/agent.sock", "unix:///a\n", "unix:///a\nb", " unix:///a"),
        *("unix:///a ", "unix:///a b", "unix:///a\0b", "unix:///a%00b", "unix:///a%2"),
        *("UNIX:///a", "unix:///" + "a" * 108),
        *("tcp:opaque", "tcp://", "tcp://foo", "tcp://foo:80", "tcp://1.2.3.4"),
        *("tcp://1.2.3.4:", "tcp://1.2.3.4:0", "tcp://1.2.3.4:65536", "tcp://:80"),
        *("tcp://1.2.3.4:5?whatever", "tcp://1.2.3.4:5#whatever", "tcp://1.2.3.4:5/"),
        *("tcp://john:doe@1.2.3.4:5/path", "tcp://john@1.2.3.4:5", "tcp://1.2.3.4:5/p"),
        *("tcp://1.2.3.4:+5", "tcp://1.2.3.4:\u0665", "tcp://1.2.3:5", "tcp://::1:5"),
        *(
            "tcp://1.2.3.4:5\n",
            "tcp://1.2.3.4:05 ",
            "tcp:1.2.3.4:5",
            "tcp:///1.2.3.4:5",
        ),
        "tcp://localhost:8000",
    ],
)
def test_any_other_address_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_workload_endpoint(address)


def test_a_client_without_an_address_is_not_made() -> None:
    with pytest.raises(ValueError, match="unix:///"), client("localhost:80"):
        pass


def test_a_socket_whose_path_has_odd_characters_is_reached(tmp_path: Path) -> None:
    folder = tmp_path / "user@1000.service"
    folder.mkdir()
    with (
        workload_agent(folder / "a+b~d.sock") as agent,
        client(agent.address) as told,
    ):
        tell_everything(agent)
        assert eventually(lambda: told.has(FACTORY, SUPPLIER))


def test_an_address_is_percent_encoded_where_a_path_is_odd(tmp_path: Path) -> None:
    path = tmp_path / "a.sock"
    (tmp_path / "a b%41").symlink_to(path)
    with (
        workload_agent(path) as agent,
        client(f"unix://{tmp_path}/a%20b%2541") as told,
    ):
        tell_everything(agent)
        assert eventually(lambda: told.has(FACTORY, SUPPLIER))


def test_a_password_in_an_address_is_not_quoted() -> None:
    with pytest.raises(ValueError, match="user") as caught:
        parse_workload_endpoint("tcp://john:secret@1.2.3.4:5")
    assert "secret" not in str(caught.value)
