"""One exchange over HTTP within bounds, and a thread that asks again and again.

It knows nothing of what it fetches, and makes nobody trusted: who the server has to be
is the caller's to say, by the TLS context and by `accept`.
"""

from __future__ import annotations

import http.client
import io
import random
import socket
import ssl
import threading
import time
import urllib.parse
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Final, Self, cast

from authz_server.errors import FetchError

_PORTS: Final = {"https": 443, "http": 80}
_CHUNK: Final = 64 * 1024

_FIRST_RETRY_S: Final = 1.0
_LAST_RETRY_S: Final = 60.0

_STOP_WAIT_S: Final = 1.0
"""How long the end of a poll is waited for: shutting down matters more than it."""

# Not seedable and not shared: processes that were forked or started together have to
# come apart.
_random: Final = random.SystemRandom()


def web_context(ca_file: Path | None) -> ssl.SSLContext:
    """Return a context that believes a server by its host name (RFC 9525).

    Args:
        ca_file: PEM certificates of the CAs to believe, read now and never again; None
            for those of the system.

    Raises:
        FetchError: if `ca_file` holds no certificates.
    """
    # Not create_default_context: that writes session keys to wherever SSLKEYLOGFILE in
    # the environment says. Peer and host name are checked by this protocol's default.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if ca_file is None:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
        return context
    # A file may name the CA that issues directly, without the root above it.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    try:
        context.load_verify_locations(cafile=str(ca_file))
    except OSError as error:  # an SSLError too: neither says which file
        raise FetchError(
            f"{ca_file}: has no PEM certificates of CAs: {_cause(error)}"
        ) from error
    return context


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked of a server.

    Attributes:
        headers: by name, beside those that every request has.
    """

    method: str = "GET"
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    body: bytes = field(default=b"", repr=False)


GET: Final = Request()


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server answered.

    Attributes:
        headers: by lower-case name.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)


class CutOffError(FetchError):
    """The link was lost amid the body.

    Attributes:
        answer: what had come by then.
    """

    def __init__(self, message: str, answer: Answer) -> None:
        super().__init__(message)
        self.answer = answer


def fetch(
    url: str,
    tls: ssl.SSLContext,
    *,
    max_bytes: int,
    timeout_s: float,
    accept: Callable[[bytes], None] | None = None,
) -> bytes:
    """Return the body that `url` answers a GET with, over HTTPS; see `exchange`.

    Raises:
        FetchError: if there is no such body; names the URL without its query.
        ValueError: if `tls` and `accept` would let anybody be the server.
    """
    return exchange(
        url, tls, max_bytes=max_bytes, timeout_s=timeout_s, accept=accept
    ).body


def exchange(
    url: str,
    tls: ssl.SSLContext | None,
    request: Request = GET,
    *,
    max_bytes: int,
    timeout_s: float,
    statuses: Collection[int] = (HTTPStatus.OK,),
    accept: Callable[[bytes], None] | None = None,
) -> Answer:
    """Return what `url` answers.

    Redirects are not followed. A SPIFFE bundle's client may refuse them (SPIFFE
    Federation §7.5.1), and has reason to: whoever can make the server answer once
    would choose where the keys come from. Proxies that the environment names are not
    used, for the same reason.

    Not checked: what the body is. Not bounded: how long the system takes to look up
    the host's name.

    Args:
        tls: has to demand a certificate, and to check the host name unless `accept`
            checks whose it is. None for ``http://``, where anybody may be the server:
            only for what proves itself, or for this machine.
        max_bytes: of the body.
        timeout_s: for connecting, handshake and answer together, however slowly that
            drips in.
        statuses: that are an answer; all others are an error.
        accept: gets the server's leaf certificate as DER before anything is sent; what
            it raises ends the exchange.

    Raises:
        FetchError: if there is no such answer; names the URL without its query. It is a
            `CutOffError` if some of the body had come.
        ValueError: if `tls` and `accept` would let anybody be the server, or `accept`
            would have nothing to judge.
    """
    if tls is None and accept is not None:
        raise ValueError("without TLS nobody shows a certificate")
    if tls is not None and (
        tls.verify_mode is not ssl.CERT_REQUIRED or not (tls.check_hostname or accept)
    ):
        raise ValueError("nothing would tell who the server is")
    place = _Place.parse(url, "http" if tls is None else "https")
    deadline = _Deadline(time.monotonic() + timeout_s)
    try:
        with _connect(place, deadline) as plain, _secured(plain, tls, place) as sock:
            if accept is not None and isinstance(sock, ssl.SSLSocket):
                accept(sock.getpeercert(binary_form=True) or b"")
            sock.settimeout(deadline.left_s())
            sock.sendall(place.request(request))
            return _answer(sock, request.method, deadline, statuses, max_bytes)
    except TimeoutError as error:
        raise FetchError(
            f"{place}: no complete answer within {timeout_s:g} s"
        ) from error
    except ssl.SSLCertVerificationError as error:
        raise FetchError(
            f"{place}: its certificate is not trusted: {error.verify_message}"
        ) from error
    except OSError as error:
        raise FetchError(f"{place}: {_cause(error)}") from error
    except http.client.HTTPException as error:
        raise FetchError(
            f"{place}: its answer is no HTTP ({type(error).__name__})"
        ) from error
    except _CutOffError as error:
        why = (
            f"no complete answer within {timeout_s:g} s"
            if isinstance(error.__cause__, TimeoutError)
            else "its answer ends too early"
        )
        raise CutOffError(f"{place}: {why}", error.answer) from error
    except _UnusableError as error:
        raise FetchError(f"{place}: {error}") from error


def retry_delay_s(failures: int) -> float:
    """Return how long to wait after so many failures in a row: 1 s, doubled to 60 s.

    Up to half of it is left off by chance, so that a thousand boxes that lost the same
    link do not come back at the same moment.
    """
    doublings = min(failures - 1, 10)  # far past the last one already
    longest_s = min(_FIRST_RETRY_S * 2.0**doublings, _LAST_RETRY_S)
    return _random.uniform(longest_s / 2, longest_s)


def spread(interval_s: float) -> float:
    """Return up to a tenth less than `interval_s`, by chance, for the same reason."""
    return _random.uniform(0.9 * interval_s, interval_s)


class Poller:
    """A thread that calls `poll` at once, and again after as long as each call says.

    Args:
        poll: returns seconds. An error in it ends the thread, which `has_died` tells.
        name: of the thread.
    """

    def __init__(self, poll: Callable[[], float], name: str) -> None:
        self._poll = poll
        self._name = name
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def has_died(self) -> bool:
        """Whether an error ended the thread, so that nothing is polled."""
        return self._thread is not None and not self._thread.is_alive()

    def start(self) -> None:
        """Poll from now on; nothing if it does already."""
        if self._thread is not None:
            return
        # Each thread has its own event: one that a stop gave up on stays stopped.
        self._stopping = threading.Event()
        self._thread = threading.Thread(
            target=self._run, args=(self._stopping,), name=self._name, daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Poll no more.

        A poll that is under way is waited for only a second. If it hangs it ends by
        itself, as the last.
        """
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(_STOP_WAIT_S)
            self._thread = None

    def _run(self, stopping: threading.Event) -> None:
        while not stopping.is_set():
            stopping.wait(self._poll())


class _UnusableError(Exception):
    """The server answered in HTTP, but not with a document."""


class _CutOffError(Exception):
    def __init__(self, answer: Answer) -> None:
        super().__init__()
        self.answer = answer


@dataclass(frozen=True, slots=True)
class _Place:
    """A URL taken apart.

    Attributes:
        authority: host and port as they were spelled.
        target: path and query, for the request line.
    """

    scheme: str
    host: str
    port: int
    authority: str
    target: str

    @classmethod
    def parse(cls, url: str, scheme: str) -> Self:
        """Return the parts of `url`.

        Raises:
            FetchError: if it is no URL of `scheme` without user info and fragment. The
                message quotes none of it: there may be a password in it.
        """
        # First of all: urlsplit removes some control characters without a word, and
        # the rest would end up in the request.
        if not all("!" <= character <= "~" for character in url):
            raise FetchError("a URL has a character that belongs percent-encoded")
        try:
            parts = urllib.parse.urlsplit(url)
            host, port = parts.hostname or "", parts.port
            host.encode("idna")  # what the look-up will do: are the labels possible?
        except ValueError as error:
            raise FetchError("a URL has an impossible host or port") from error
        if parts.scheme != scheme:
            raise FetchError(f"a URL does not begin with {scheme}://")
        if "@" in parts.netloc:
            # SPIFFE Federation §5.2.1.1 and §5.2.2.1.
            raise FetchError("a URL holds user info; leave out what is before the '@'")
        if not host or port == 0 or "#" in url:
            raise FetchError("a URL has no host, port 0, or a fragment ('#')")
        query = f"?{parts.query}" if parts.query else ""
        return cls(
            scheme=scheme,
            host=host,
            port=port or _PORTS[scheme],
            authority=parts.netloc,
            target=(parts.path or "/") + query,
        )

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}{self.target.partition('?')[0]}"

    def request(self, request: Request) -> bytes:
        """Return the whole request (RFC 9112 §3).

        Raises:
            FetchError: if a header has a character that none can have.
        """
        headers = {
            "Host": self.authority,
            "Accept-Encoding": "identity",
            "Connection": "close",
            "User-Agent": "authz-server",
            **request.headers,
        }
        if request.body:
            headers["Content-Length"] = str(len(request.body))
        for name, value in headers.items():
            # RFC 9110 §5.5. Its value is not told: it may be a password.
            if not all(" " <= character <= "~" for character in value):
                raise FetchError(f"header {name} would have an impossible character")
        head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        line = f"{request.method} {self.target} HTTP/1.1\r\n"
        return f"{line}{head}\r\n".encode("ascii") + request.body


@dataclass(frozen=True, slots=True)
class _Deadline:
    """The steady second after which nothing is waited for."""

    end_s: float

    def left_s(self) -> float:
        """Return the seconds that are left, more than zero.

        Raises:
            TimeoutError: if there are none.
        """
        left_s = self.end_s - time.monotonic()
        if left_s <= 0:
            raise TimeoutError
        return left_s


class _TimedReader(io.RawIOBase):
    """What a socket receives until a deadline.

    A socket's own timeout begins anew with each byte.
    """

    def __init__(self, sock: socket.socket, deadline: _Deadline) -> None:
        self._sock = sock
        self._deadline = deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        self._sock.settimeout(self._deadline.left_s())
        return self._sock.recv_into(buffer)

    def makefile(self, _mode: str) -> io.BufferedReader:
        """Return a buffered reader: all that `HTTPResponse` asks of a socket."""
        return io.BufferedReader(self)


def _connect(place: _Place, deadline: _Deadline) -> socket.socket:
    """Return a connection to the first of the host's addresses that takes one."""
    problem = OSError("its name has no address")
    for family, kind, protocol, _, address in socket.getaddrinfo(
        place.host, place.port, type=socket.SOCK_STREAM
    ):
        sock = socket.socket(family, kind, protocol)
        try:
            sock.settimeout(deadline.left_s())
            sock.connect(address)
        except OSError as error:
            sock.close()
            problem = error
        else:
            # The handshake's time limit, which counts for all of it.
            sock.settimeout(deadline.left_s())
            return sock
    raise problem


def _secured(
    plain: socket.socket, tls: ssl.SSLContext | None, place: _Place
) -> socket.socket:
    if tls is None:
        return plain
    # A connection that ends without a close_notify was cut off, by anybody.
    return tls.wrap_socket(
        plain, server_hostname=place.host, suppress_ragged_eofs=False
    )


def _answer(
    sock: socket.socket,
    method: str,
    deadline: _Deadline,
    statuses: Collection[int],
    max_bytes: int,
) -> Answer:
    reader = cast(socket.socket, _TimedReader(sock, deadline))  # noqa: TC006
    with http.client.HTTPResponse(reader, method=method) as response:
        response.begin()
        if response.status not in statuses:
            raise _refusal(response.status, statuses)
        headers = {name.lower(): value for name, value in response.getheaders()}
        body = b"".join(_chunks(response, headers, max_bytes))
        return Answer(response.status, headers, body)


def _refusal(status: int, statuses: Collection[int]) -> _UnusableError:
    is_redirect = status // 100 == HTTPStatus.MULTIPLE_CHOICES // 100
    if is_redirect and status != HTTPStatus.NOT_MODIFIED:
        return _UnusableError(
            f"answers with a redirect ({status}), which is not followed; "
            "configure the address that it leads to"
        )
    expected = " or ".join(str(int(known)) for known in sorted(statuses))
    return _UnusableError(f"answers with status {status} instead of {expected}")


def _chunks(
    response: http.client.HTTPResponse, headers: Mapping[str, str], max_bytes: int
) -> Iterator[bytes]:
    """Yield the body as it comes.

    Raises:
        _CutOffError: if it ends before it is over.
    """
    came: list[bytes] = []
    size = 0
    while True:
        try:
            chunk = response.read1(_CHUNK)
        except (OSError, http.client.IncompleteRead) as error:
            answer = Answer(response.status, headers, b"".join(came))
            raise _CutOffError(answer) from error
        if not chunk:
            break
        size += len(chunk)
        if size > max_bytes:
            raise _UnusableError(f"its answer is longer than {max_bytes} bytes")
        came.append(chunk)
        yield chunk
    if response.length:  # what Content-Length promised and did not come
        raise _CutOffError(Answer(response.status, headers, b"".join(came)))


def _cause(error: OSError) -> str:
    """Return what went wrong, without a number or a place in C source."""
    if isinstance(error, ssl.SSLError) and error.reason:
        return f"TLS failed ({error.reason})"
    return error.strerror or str(error) or type(error).__name__
