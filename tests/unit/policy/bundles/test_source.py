"""Where bundles come from, over links and from servers of every kind."""

from __future__ import annotations

import re
import ssl
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from https_endpoint import (
    Handler,
    HttpsEndpoint,
    Respond,
    answer,
    http_endpoint,
    https_endpoint,
    raw,
    server_svid,
)

from authz_server.demo.pki import DevelopmentCa, write_bundle
from authz_server.demo.process import free_ports
from authz_server.errors import FetchError
from authz_server.fetch import web_context
from authz_server.policy.bundles.source import (
    Download,
    FileSource,
    WebSource,
    WebTerms,
    bearer_headers,
)

CA = DevelopmentCa("factory.example")
WAITS = "application/vnd.openpolicyagent.bundles"
WHOLE = b"0123456789"


@pytest.fixture(params=["http", "https"])
def endpoint(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[HttpsEndpoint]:
    with (
        http_endpoint()
        if request.param == "http"
        else https_endpoint(tmp_path, server_svid(CA))
    ) as running:
        yield running


@pytest.fixture
def plain() -> Iterator[HttpsEndpoint]:
    with http_endpoint() as running:
        yield running


def open_source(
    endpoint: HttpsEndpoint,
    folder: Path,
    *,
    url: str = "",
    token_file: str = "",
    max_bytes: int = 1000,
    timeout_s: float = 10.0,
    wait_s: float = 0.0,
    wants_deltas: bool = False,
) -> WebSource:
    tls: ssl.SSLContext | None = None
    if endpoint.scheme == "https":
        tls = web_context(write_bundle(folder, CA))
    return WebSource(
        url or endpoint.url,
        tls,
        WebTerms(max_bytes, timeout_s, wait_s, wants_deltas),
        bearer_headers(token_file),
    )


def last_headers(endpoint: HttpsEndpoint) -> Mapping[str, str]:
    return endpoint.requests[-1][1]


def cut_off(
    body: bytes,
    length: int,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
) -> Respond:
    """Return a response that promises more than it sends."""
    lines = {"Content-Length": str(length), **(headers or {})}
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return raw(f"HTTP/1.1 {status} Any\r\n{head}\r\n".encode() + body)


ETAG = {"ETag": '"one"'}


def rest(
    start: int, body: bytes = WHOLE, headers: Mapping[str, str] | None = None
) -> Respond:
    """Return what a server says that goes on at `start`."""
    place = f"bytes {start}-{len(body) - 1}/{len(body)}"
    return answer(
        body[start:], 206, {"Content-Range": place, **ETAG, **(headers or {})}
    )


def lose_the_link(
    endpoint: HttpsEndpoint, source: WebSource, body: bytes = WHOLE[:4]
) -> None:
    endpoint.respond = cut_off(body, 10, 200, ETAG)
    with pytest.raises(FetchError, match="ends too early"):
        source.ask("")


def test_a_bundle_comes_with_its_name(endpoint: HttpsEndpoint, tmp_path: Path) -> None:
    source = open_source(endpoint, tmp_path)
    endpoint.respond = answer(b"abc", 200, ETAG)
    assert source.ask("") == Download(b"abc", '"one"')
    assert "If-None-Match" not in last_headers(endpoint)
    assert "Range" not in last_headers(endpoint)
    endpoint.respond = answer(b"", 304)
    assert source.ask('"one"') is None
    assert last_headers(endpoint)["If-None-Match"] == '"one"'


def test_a_server_without_names_sends_it_each_time(
    plain: HttpsEndpoint, tmp_path: Path
) -> None:
    source = open_source(plain, tmp_path)
    assert source.ask("") == source.ask("") == Download(b"hello", "")


def test_it_cannot_be_unchanged_if_nothing_was_there(
    plain: HttpsEndpoint, tmp_path: Path
) -> None:
    plain.respond = answer(b"", 304)
    with pytest.raises(FetchError, match="status 304 instead of 200"):
        open_source(plain, tmp_path).ask("")


@pytest.mark.parametrize("etag", ['"é"', "x" * 1025, '"a\tb"'])
def test_a_name_that_could_not_be_sent_back_is_none(
    etag: str, plain: HttpsEndpoint, tmp_path: Path
) -> None:
    plain.respond = raw(
        f"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nETag: {etag}\r\n\r\nx".encode()
    )
    assert open_source(plain, tmp_path).ask("") == Download(b"x", "")


@pytest.mark.parametrize(
    ("wants_deltas", "prefer"),
    [(False, "modes=snapshot"), (True, "modes=snapshot,delta")],
)
def test_changes_are_asked_for_only_where_they_are_welcome(
    wants_deltas: bool, prefer: str, plain: HttpsEndpoint, tmp_path: Path
) -> None:
    open_source(plain, tmp_path, wants_deltas=wants_deltas, wait_s=0).ask("")
    assert last_headers(plain)["Prefer"] == prefer


def test_a_server_waits_only_after_it_said_that_it_can(
    plain: HttpsEndpoint, tmp_path: Path
) -> None:
    source = open_source(plain, tmp_path, wait_s=7)
    assert not source.is_waiting
    source.ask("")
    assert last_headers(plain)["Prefer"] == "modes=snapshot"
    assert not source.is_waiting
    plain.respond = answer(b"x", 200, {"Content-Type": WAITS, **ETAG})
    source.ask("")
    assert source.is_waiting
    plain.respond = answer(b"", 304)
    source.ask('"one"')
    assert last_headers(plain)["Prefer"] == "modes=snapshot;wait=7"
    # What says nothing new does not say either that it can no more.
    assert source.is_waiting
    plain.respond = answer(b"x", 200, {"Content-Type": "application/gzip"})
    source.ask('"one"')
    assert not source.is_waiting


def test_nobody_waits_who_was_not_told_to(plain: HttpsEndpoint, tmp_path: Path) -> None:
    source = open_source(plain, tmp_path, wait_s=0)
    plain.respond = answer(b"x", 200, {"Content-Type": WAITS})
    source.ask("")
    assert not source.is_waiting


def test_an_answer_may_take_the_wait_longer(
    plain: HttpsEndpoint, tmp_path: Path
) -> None:
    source = open_source(plain, tmp_path, timeout_s=0.2, wait_s=1)
    plain.respond = answer(b"x", 200, {"Content-Type": WAITS, **ETAG})
    source.ask("")

    def late(handler: Handler) -> None:
        plain.stopping.wait(0.4)
        answer(b"", 304)(handler)

    plain.respond = late
    assert source.ask('"one"') is None
    plain.respond = plain.hang()
    began_s = time.monotonic()
    with pytest.raises(FetchError, match=r"within 1\.2 s"):
        source.ask('"one"')
    assert time.monotonic() - began_s < 20
    # It waited for too long: perhaps it is not the same server any more.
    assert not source.is_waiting


def test_what_was_cut_off_is_gone_on_with(
    endpoint: HttpsEndpoint, tmp_path: Path
) -> None:
    source = open_source(endpoint, tmp_path)
    lose_the_link(endpoint, source)
    endpoint.respond = rest(4)
    assert source.ask("") == Download(WHOLE, '"one"')
    headers = last_headers(endpoint)
    assert headers["Range"] == "bytes=4-"
    assert headers["If-Range"] == '"one"'
    assert "If-None-Match" not in headers
    endpoint.respond = answer(b"", 304)
    assert source.ask('"one"') is None
    assert "Range" not in last_headers(endpoint)


def test_it_is_gone_on_with_as_often_as_the_link_is_lost(
    plain: HttpsEndpoint, tmp_path: Path
) -> None:
    source = open_source(plain, tmp_path)
    lose_the_link(plain, source, WHOLE[:1])
    for start in range(1, 9):
        place = {"Content-Range": f"bytes {start}-9/10", **ETAG}
        plain.respond = cut_off(WHOLE[start : start + 1], 10 - start, 206, place)
        with pytest.raises(FetchError, match="ends too early"):
            source.ask("")
    plain.respond = rest(9)
    assert source.ask("") == Download(WHOLE, '"one"')


def test_what_came_is_not_lost_while_the_link_is_down(tmp_path: Path) -> None:
    with http_endpoint() as endpoint:
        (port,) = free_ports(1)
        source = open_source(endpoint, tmp_path)
        lose_the_link(endpoint, source)
        url, source._url = source._url, f"http://127.0.0.1:{port}/"
        for _ in range(3):
            with pytest.raises(FetchError, match="refused"):
                source.ask("")
        source._url = url
        endpoint.respond = rest(4)
        assert source.ask("") == Download(WHOLE, '"one"')


def test_a_body_in_chunks_that_is_cut_off_is_gone_on_with(
    plain: HttpsEndpoint, tmp_path: Path
) -> None:
    source = open_source(plain, tmp_path)
    plain.respond = raw(
        b'HTTP/1.1 200 OK\r\nETag: "one"\r\nTransfer-Encoding: chunked\r\n\r\n'
        b"4\r\n0123\r\n6\r\n45"
    )
    with pytest.raises(FetchError, match="ends too early"):
        source.ask("")
    plain.respond = rest(6)
    assert source.ask("") == Download(WHOLE, '"one"')


def test_a_server_that_knows_no_ranges_sends_all_of_it(
    plain: HttpsEndpoint, tmp_path: Path
) -> None:
    source = open_source(plain, tmp_path, max_bytes=10)
    lose_the_link(plain, source)
    plain.respond = answer(WHOLE, 200, ETAG)
    assert source.ask("") == Download(WHOLE, '"one"')


def test_what_is_another_one_by_now_comes_whole(
    plain: HttpsEndpoint, tmp_path: Path
) -> None:
    source = open_source(plain, tmp_path)
    lose_the_link(plain, source)
    plain.respond = answer(b"another", 200, {"ETag": '"two"'})
    assert source.ask("") == Download(b"another", '"two"')


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Range": "bytes 0-9/10"},
        {"Content-Range": "bytes 5-9/10"},
        {"Content-Range": "bytes */10"},
        {"Content-Range": "bytes -4-9/10"},
        {"Content-Range": "items 4-9/10"},
        {"Content-Range": "4-9/10"},
        {"Content-Range": ""},
        {"Content-Range": "bytes 4-9/10", "ETag": '"two"'},
        {"Content-Type": "multipart/byteranges; boundary=x"},
    ],
)
def test_another_part_than_that_asked_for_is_not_put_behind_it(
    headers: dict[str, str], plain: HttpsEndpoint, tmp_path: Path
) -> None:
    source = open_source(plain, tmp_path)
    lose_the_link(plain, source)
    plain.respond = answer(WHOLE[4:], 206, headers)
    with pytest.raises(FetchError, match="another part of the bundle"):
        source.ask("")
    plain.respond = answer(WHOLE, 200, ETAG)
    assert source.ask("") == Download(WHOLE, '"one"')
    assert "Range" not in last_headers(plain)


def test_a_part_that_lacks_its_end_is_no_bundle_and_is_gone_on_with(
    plain: HttpsEndpoint, tmp_path: Path
) -> None:
    source = open_source(plain, tmp_path)
    lose_the_link(plain, source)
    plain.respond = answer(b"45", 206, {"Content-Range": "bytes 4-5/10", **ETAG})
    with pytest.raises(FetchError, match="only a part"):
        source.ask("")
    plain.respond = rest(6)
    assert source.ask("") == Download(WHOLE, '"one"')


@pytest.mark.parametrize("etag", ['W/"one"', "", "one"])
def test_what_promises_no_equal_bytes_is_begun_anew(
    etag: str, plain: HttpsEndpoint, tmp_path: Path
) -> None:
    source = open_source(plain, tmp_path)
    plain.respond = cut_off(b"0123", 10, 200, {"ETag": etag} if etag else {})
    with pytest.raises(FetchError, match="ends too early"):
        source.ask("")
    plain.respond = answer(WHOLE, 200)
    assert source.ask("").raw == WHOLE  # type: ignore[union-attr]
    assert "Range" not in last_headers(plain)


@pytest.mark.parametrize("status", [416, 404, 500, 304])
def test_a_server_that_does_not_go_on_is_asked_for_all_of_it(
    status: int, plain: HttpsEndpoint, tmp_path: Path
) -> None:
    source = open_source(plain, tmp_path)
    lose_the_link(plain, source)
    plain.respond = answer(b"", status)
    with pytest.raises(FetchError, match=f"status {status}"):
        source.ask("")
    plain.respond = answer(WHOLE, 200, ETAG)
    assert source.ask("") == Download(WHOLE, '"one"')
    assert "Range" not in last_headers(plain)


def test_a_part_that_nobody_asked_for_is_no_answer(
    plain: HttpsEndpoint, tmp_path: Path
) -> None:
    plain.respond = rest(4)
    with pytest.raises(FetchError, match="status 206"):
        open_source(plain, tmp_path).ask("")


def test_the_largest_bundle_comes_and_a_larger_one_does_not(
    endpoint: HttpsEndpoint, tmp_path: Path
) -> None:
    source = open_source(endpoint, tmp_path, max_bytes=10)
    endpoint.respond = answer(WHOLE)
    assert source.ask("") == Download(WHOLE)
    endpoint.respond = answer(WHOLE + b"x")
    with pytest.raises(FetchError, match="longer than 10 bytes"):
        source.ask("")


def test_parts_do_not_come_to_more_than_a_bundle_may_have(
    plain: HttpsEndpoint, tmp_path: Path
) -> None:
    source = open_source(plain, tmp_path, max_bytes=9)
    lose_the_link(plain, source)
    plain.respond = rest(4)
    with pytest.raises(FetchError, match="longer than 9 bytes"):
        source.ask("")


def test_the_token_is_read_anew_for_every_request(
    endpoint: HttpsEndpoint, tmp_path: Path
) -> None:
    file = tmp_path / "token"
    source = open_source(endpoint, tmp_path, token_file=str(file))
    for token in ("first", "second"):
        file.write_text(f" {token}\n")
        source.ask("")
        assert last_headers(endpoint)["Authorization"] == f"Bearer {token}"


def test_without_a_token_nobody_is_told_one(
    plain: HttpsEndpoint, tmp_path: Path
) -> None:
    open_source(plain, tmp_path).ask("")
    assert "Authorization" not in last_headers(plain)


@pytest.mark.parametrize(
    "content",
    [
        None,
        b"secret\r\nX-Role: admin",
        b"secret\0",
        "secr\u00e9t".encode(),
        b"sec\tret",
    ],
)
def test_a_token_that_cannot_be_sent_is_not_and_is_not_told(
    content: bytes | None, plain: HttpsEndpoint, tmp_path: Path
) -> None:
    file = tmp_path / "token"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(FetchError) as caught:
        open_source(plain, tmp_path, token_file=str(file)).ask("")
    assert "sec" not in str(caught.value)
    assert plain.requests == []


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_the_token_does_not_follow_a_redirect(
    status: int, endpoint: HttpsEndpoint, tmp_path: Path
) -> None:
    file = tmp_path / "token"
    file.write_text("secret")
    with http_endpoint() as other:
        endpoint.respond = answer(b"", status, {"Location": other.url})
        with pytest.raises(FetchError, match="redirect"):
            open_source(endpoint, tmp_path, token_file=str(file)).ask("")
        assert other.connections == 0


@pytest.mark.parametrize(
    "respond",
    [answer(b"", 500), cut_off(b"x", 9), raw(b"")],
    ids=["refused", "cut off", "silent"],
)
def test_no_message_has_a_secret(
    respond: Respond, endpoint: HttpsEndpoint, tmp_path: Path
) -> None:
    file = tmp_path / "token"
    file.write_text("secret")
    url = f"{endpoint.url}?sig=secret"
    endpoint.respond = respond
    source = open_source(endpoint, tmp_path, url=url, token_file=str(file))
    assert source.place == endpoint.url
    with pytest.raises(FetchError) as caught:
        source.ask("")
    error: BaseException | None = caught.value
    while error is not None:
        assert "secret" not in f"{error!s} {error!r}"
        error = error.__cause__


def test_the_place_has_no_password(plain: HttpsEndpoint, tmp_path: Path) -> None:
    url = plain.url.replace("//", "//user:secret@") + "?x=secret@"
    source = open_source(plain, tmp_path, url=url)
    assert source.place == plain.url
    with pytest.raises(FetchError, match="user info"):
        source.ask("")


def test_a_bundle_is_not_shown_where_it_is_printed() -> None:
    assert "secret" not in repr(Download(b"secret", '"e"'))


def test_a_file_is_read_when_it_has_changed(tmp_path: Path) -> None:
    file = tmp_path / "bundle"
    source = FileSource(file, 10)
    assert source.place == str(file)
    assert not source.is_waiting
    with pytest.raises(FetchError, match=re.escape(f"{file}: cannot be read: No such")):
        source.ask("")
    file.write_bytes(b"one")
    first = source.ask("")
    assert first is not None
    assert first.raw == b"one"
    assert source.ask(first.etag) is None
    file.write_bytes(b"two")
    second = source.ask(first.etag)
    assert second is not None
    assert second.raw == b"two"
    file.write_bytes(b"x" * 11)
    with pytest.raises(FetchError, match="more than 10 bytes"):
        source.ask(second.etag)
