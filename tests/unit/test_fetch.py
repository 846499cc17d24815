import datetime as dt
import http.server
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from https_endpoint import (
    SERVER_ID,
    HttpsEndpoint,
    answer,
    https_endpoint,
    raw,
    server_svid,
    silent_port,
)
from parts import eventually

from authz_server.demo.pki import DevelopmentCa, write_bundle
from authz_server.demo.process import free_ports
from authz_server.errors import FetchError
from authz_server.fetch import (
    Poller,
    exchange,
    fetch,
    retry_delay_s,
    spread,
    web_context,
)

CA, STRANGER = DevelopmentCa("factory.example"), DevelopmentCa("factory.example")


@pytest.fixture
def endpoint(tmp_path: Path) -> Iterator[HttpsEndpoint]:
    with https_endpoint(tmp_path, server_svid(CA)) as running:
        yield running


@pytest.fixture
def tls(tmp_path: Path) -> ssl.SSLContext:
    return web_context(write_bundle(tmp_path, CA))


def get(
    url: str,
    tls: ssl.SSLContext,
    *,
    timeout_s: float = 10.0,
    accept: Callable[[bytes], None] | None = None,
) -> bytes:
    return fetch(url, tls, max_bytes=1000, timeout_s=timeout_s, accept=accept)


def test_a_document_is_fetched(endpoint: HttpsEndpoint, tls: ssl.SSLContext) -> None:
    assert get(f"{endpoint.url}?a=b", tls) == b"hello"
    path, headers = endpoint.requests[0]
    assert path == "/bundle?a=b"
    assert headers["Host"] == f"localhost:{endpoint.port}"


def test_a_url_without_a_path_asks_for_the_root(
    endpoint: HttpsEndpoint, tls: ssl.SSLContext
) -> None:
    assert get(f"https://127.0.0.1:{endpoint.port}", tls) == b"hello"
    assert endpoint.requests[0][0] == "/"


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://localhost/x", "https://"),
        ("localhost/x", "https://"),
        ("", "https://"),
        ("https://user:secret@localhost/x", "user info"),
        ("https:///x", "no host"),
        ("https://localhost/x#part", "fragment"),
        ("https://localhost:0/x", "port 0"),
        ("https://localhost:x/", "impossible host or port"),
        ("https://localhost:99999/", "impossible host or port"),
        ("https://[::1/", "impossible host or port"),
        ("https://a..b/", "impossible host or port"),
        (f"https://{'a' * 64}.example/", "impossible host or port"),
        ("https://localhost/a b", "percent-encoded"),
        ("https://localhost/x\r\nX-Role:admin", "percent-encoded"),
        ("https://localhost\t/x", "percent-encoded"),
        ("https://localhost\u017f/", "percent-encoded"),
    ],
)
def test_what_is_no_plain_https_url_is_refused_and_not_quoted(
    url: str, message: str, tls: ssl.SSLContext
) -> None:
    with pytest.raises(FetchError, match=message) as caught:
        get(url, tls)
    assert "secret" not in str(caught.value)


def test_a_message_names_the_url_without_its_query(
    endpoint: HttpsEndpoint, tls: ssl.SSLContext
) -> None:
    endpoint.respond = answer(b"", 500)
    with pytest.raises(FetchError) as caught:
        get(f"{endpoint.url}?key=secret", tls)
    assert str(caught.value) == (
        f"{endpoint.url}: answers with status 500 instead of 200"
    )


@pytest.mark.parametrize("status", [201, 204, 206, 400, 401, 404, 500, 503])
def test_only_status_200_is_an_answer(
    status: int, endpoint: HttpsEndpoint, tls: ssl.SSLContext
) -> None:
    endpoint.respond = answer(b"", status)
    with pytest.raises(FetchError, match=f"status {status} instead of 200"):
        get(endpoint.url, tls)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(
    status: int, endpoint: HttpsEndpoint, tls: ssl.SSLContext
) -> None:
    endpoint.respond = answer(b"", status, {"Location": endpoint.url + "2"})
    with pytest.raises(FetchError, match=r"redirect .*which is not followed"):
        get(endpoint.url, tls)
    assert len(endpoint.requests) == 1


def test_the_longest_body_is_fetched_and_a_longer_one_is_not(
    endpoint: HttpsEndpoint, tls: ssl.SSLContext
) -> None:
    endpoint.respond = answer(b"x" * 1000)
    assert len(get(endpoint.url, tls)) == 1000
    endpoint.respond = answer(b"x" * 1001)
    with pytest.raises(FetchError, match="longer than 1000 bytes"):
        get(endpoint.url, tls)


def test_an_endless_body_in_chunks_is_cut_off(
    endpoint: HttpsEndpoint, tls: ssl.SSLContext
) -> None:
    def respond(handler: object) -> None:
        assert isinstance(handler, http.server.BaseHTTPRequestHandler)
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            handler.wfile.write(b"5\r\nhello\r\n")

    endpoint.respond = respond
    with pytest.raises(FetchError, match="longer than 1000 bytes"):
        get(endpoint.url, tls)


def test_a_body_in_chunks_is_fetched(
    endpoint: HttpsEndpoint, tls: ssl.SSLContext
) -> None:
    endpoint.respond = raw(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n"
    )
    assert get(endpoint.url, tls) == b"hello"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nhello",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nz\r\nhello",
        b"HTTP/1.1 200 OK\r\n\r\nhello",  # where it ends nobody says
        b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 200 + b"\r\n",
    ],
)
def test_an_answer_that_is_broken_or_cut_off_is_none(
    data: bytes, endpoint: HttpsEndpoint, tls: ssl.SSLContext
) -> None:
    endpoint.respond = raw(data)
    with pytest.raises(FetchError, match=endpoint.url):
        get(endpoint.url, tls)


@pytest.mark.parametrize("length", [b"", b"Content-Length: 9\r\n"])
def test_a_body_that_ends_properly_is_whole_unless_more_was_promised(
    length: bytes, endpoint: HttpsEndpoint, tls: ssl.SSLContext
) -> None:
    def respond(handler: object) -> None:
        assert isinstance(handler, http.server.BaseHTTPRequestHandler)
        handler.wfile.write(b"HTTP/1.1 200 OK\r\n" + length + b"\r\nhello")
        handler.connection.unwrap()

    endpoint.respond = respond
    if length:
        with pytest.raises(FetchError, match="ends too early"):
            get(endpoint.url, tls)
    else:
        assert get(endpoint.url, tls) == b"hello"


def test_a_server_that_drips_does_not_hold_us(
    endpoint: HttpsEndpoint, tls: ssl.SSLContext
) -> None:
    endpoint.respond = endpoint.drip()
    begin_s = time.monotonic()
    with pytest.raises(FetchError, match=r"no complete answer within 0\.3 s"):
        get(endpoint.url, tls, timeout_s=0.3)
    assert 0.25 < time.monotonic() - begin_s < 5


def test_a_server_that_does_not_answer_does_not_hold_us(
    endpoint: HttpsEndpoint, tls: ssl.SSLContext
) -> None:
    endpoint.respond = endpoint.hang()
    with pytest.raises(FetchError, match="no complete answer within"):
        get(endpoint.url, tls, timeout_s=0.2)


def test_a_server_that_does_not_shake_hands_does_not_hold_us(
    tls: ssl.SSLContext,
) -> None:
    with (
        silent_port() as port,
        pytest.raises(FetchError, match="no complete answer within"),
    ):
        get(f"https://localhost:{port}/", tls, timeout_s=0.2)


def test_no_time_at_all_is_too_little(
    endpoint: HttpsEndpoint, tls: ssl.SSLContext
) -> None:
    with pytest.raises(FetchError, match="no complete answer within 0 s"):
        get(endpoint.url, tls, timeout_s=0)


def test_a_server_that_is_not_there_is_an_error(tls: ssl.SSLContext) -> None:
    (port,) = free_ports(1)
    with pytest.raises(FetchError, match="Connection refused"):
        get(f"https://127.0.0.1:{port}/", tls)


def test_a_host_that_does_not_exist_is_an_error(
    tls: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("socket.getaddrinfo", lambda *_, **__: [])
    with pytest.raises(FetchError, match="its name has no address"):
        get("https://nowhere.invalid/", tls)


def test_every_address_of_a_host_is_tried(
    endpoint: HttpsEndpoint, tls: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    import socket

    (closed,) = free_ports(1)
    monkeypatch.setattr(
        "socket.getaddrinfo",
        lambda *_, **__: [
            (socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", port))
            for port in (closed, endpoint.port)
        ],
    )
    assert get(endpoint.url, tls) == b"hello"


def test_a_certificate_of_another_ca_is_refused(
    endpoint: HttpsEndpoint, tmp_path: Path
) -> None:
    tls = web_context(write_bundle(tmp_path, STRANGER))
    with pytest.raises(FetchError, match="its certificate is not trusted"):
        get(endpoint.url, tls)
    assert endpoint.requests == []


def test_a_certificate_of_another_host_is_refused(
    tmp_path: Path, tls: ssl.SSLContext
) -> None:
    svid = CA.issue("spiffe://factory.example/a", ["elsewhere.example"])
    with (
        https_endpoint(tmp_path, svid) as other,
        pytest.raises(FetchError, match="certificate is not trusted: Hostname"),
    ):
        get(other.url, tls)


def test_an_expired_certificate_is_refused(tmp_path: Path, tls: ssl.SSLContext) -> None:
    end = dt.datetime.now(dt.UTC).replace(microsecond=0) - dt.timedelta(minutes=1)
    start = end - dt.timedelta(hours=1)
    svid = CA.issue(SERVER_ID, ["localhost"], not_before=start, not_after=end)
    with (
        https_endpoint(tmp_path, svid) as other,
        pytest.raises(FetchError, match="certificate has expired"),
    ):
        get(other.url, tls)


def test_the_cas_of_the_system_do_not_believe_a_private_one(
    endpoint: HttpsEndpoint,
) -> None:
    with pytest.raises(FetchError, match="its certificate is not trusted"):
        get(endpoint.url, web_context(None))


def test_a_file_may_name_the_ca_that_issued_without_the_root(tmp_path: Path) -> None:
    intermediate = DevelopmentCa("factory.example", CA)
    tls = web_context(write_bundle(tmp_path, intermediate))
    with https_endpoint(tmp_path, server_svid(intermediate)) as other:
        assert get(other.url, tls) == b"hello"


@pytest.mark.parametrize("content", [None, b"", b"not PEM"])
def test_a_file_without_cas_is_refused_by_name(
    content: bytes | None, tmp_path: Path
) -> None:
    file = tmp_path / "ca.pem"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(FetchError, match=f"{file}: has no PEM certificates"):
        web_context(file)


def test_nothing_older_than_tls_1_2_is_spoken(tls: ssl.SSLContext) -> None:
    assert tls.minimum_version is ssl.TLSVersion.TLSv1_2


def test_session_keys_are_not_written_to_where_the_environment_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / "keys"))
    assert web_context(None).keylog_filename is None


def test_a_proxy_of_the_environment_is_not_used(
    endpoint: HttpsEndpoint, tls: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    (port,) = free_ports(1)
    monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{port}")
    assert get(endpoint.url, tls) == b"hello"


def test_who_the_server_is_can_be_judged_before_anything_is_sent(
    endpoint: HttpsEndpoint, tls: ssl.SSLContext
) -> None:
    seen: list[bytes] = []

    def refuse(der: bytes) -> None:
        seen.append(der)
        raise FetchError("not you")

    with pytest.raises(FetchError, match="not you"):
        get(endpoint.url, tls, accept=refuse)
    assert ssl.DER_cert_to_PEM_cert(seen[0]).startswith("-----BEGIN CERTIFICATE")
    assert endpoint.requests == []


def test_a_context_that_lets_anybody_be_the_server_is_a_programmers_mistake(
    endpoint: HttpsEndpoint, tls: ssl.SSLContext
) -> None:
    tls.check_hostname = False
    with pytest.raises(ValueError, match="nothing would tell who"):
        get(endpoint.url, tls)
    tls.verify_mode = ssl.CERT_OPTIONAL
    with pytest.raises(ValueError, match="nothing would tell who"):
        get(endpoint.url, tls, accept=lambda _: None)
    with pytest.raises(ValueError, match="nobody shows a certificate"):
        exchange(
            endpoint.url.replace("https://", "http://"),
            None,
            max_bytes=100,
            timeout_s=1.0,
            accept=lambda _: None,
        )
    assert endpoint.connections == 0


@pytest.mark.parametrize(
    ("failures", "longest_s"), [(1, 1), (2, 2), (3, 4), (6, 32), (7, 60), (5000, 60)]
)
def test_the_wait_after_failures_doubles_up_to_a_minute(
    failures: int, longest_s: float
) -> None:
    delays = {retry_delay_s(failures) for _ in range(200)}
    assert len(delays) > 100
    assert all(longest_s / 2 <= delay <= longest_s for delay in delays)
    assert max(delays) > 0.75 * longest_s


def test_an_interval_is_spread_by_a_tenth() -> None:
    intervals = {spread(300.0) for _ in range(200)}
    assert len(intervals) > 100
    assert all(270 <= interval <= 300 for interval in intervals)


def test_a_poller_polls_until_it_is_stopped() -> None:
    polls: list[int] = []

    def poll() -> float:
        polls.append(1)
        return 0.001

    poller = Poller(poll, "test")
    poller.start()
    poller.start()
    assert eventually(lambda: len(polls) > 2)
    assert not poller.has_died
    poller.stop()
    count = len(polls)
    assert not any(thread.name == "test" for thread in threading.enumerate())
    assert not poller.has_died
    assert len(polls) == count


def test_a_stop_does_not_wait_for_a_poll_that_hangs_and_that_is_the_last(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("authz_server.fetch._STOP_WAIT_S", 0.05)
    begun, release = threading.Event(), threading.Event()
    polls: list[threading.Thread] = []

    def poll() -> float:
        polls.append(threading.current_thread())
        begun.set()
        release.wait(10)
        return 0.001

    poller = Poller(poll, "test")
    poller.start()
    assert begun.wait(10)
    poller.stop()
    hanging = polls[0]
    assert hanging.is_alive()
    # Nor does a new start bring it back.
    poller.start()
    release.set()
    hanging.join(10)
    assert not hanging.is_alive()
    assert eventually(lambda: len(polls) > 3)
    poller.stop()
    assert polls.count(hanging) == 1


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_poller_that_died_is_told() -> None:
    def fail() -> float:
        raise RuntimeError("boom")

    poller = Poller(fail, "test")
    assert not poller.has_died
    poller.start()
    assert eventually(lambda: poller.has_died)
    poller.stop()
