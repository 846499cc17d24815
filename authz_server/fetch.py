"""One document over HTTPS within bounds, and a thread that asks again and again.

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
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Final, Self, cast

from authz_server.errors import FetchError

_HTTPS_PORT: Final = 443

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


def fetch(
    url: str,
    tls: ssl.SSLContext,
    *,
    max_bytes: int,
    timeout_s: float,
    accept: Callable[[bytes], None] | None = None,
) -> bytes:
    """Return the body that `url` answers a GET with.

    Redirects are not followed. A SPIFFE bundle's client may refuse them (SPIFFE
    Federation §7.5.1), and has reason to: whoever can make the server answer once
    would choose where the keys come from. Proxies that the environment names are not
    used, for the same reason.

    Not checked: what the body is. Not bounded: how long the system takes to look up
    the host's name.

    Args:
        tls: has to demand a certificate, and to check the host name unless `accept`
            checks whose it is.
        timeout_s: for connecting, handshake and answer together, however slowly that
            drips in.
        accept: gets the server's leaf certificate as DER before anything is sent; what
            it raises ends the exchange.

    Raises:
        FetchError: if there is no such body; names the URL without its query.
        ValueError: if `tls` and `accept` would let anybody be the server.
    """
    if tls.verify_mode is not ssl.CERT_REQUIRED or not (tls.check_hostname or accept):
        raise ValueError("nothing would tell who the server is")
    place = _Place.parse(url)
    deadline = _Deadline(time.monotonic() + timeout_s)
    try:
        with (
            _connect(place, deadline) as plain,
            # A connection that ends without a close_notify was cut off, by anybody.
            tls.wrap_socket(
                plain, server_hostname=place.host, suppress_ragged_eofs=False
            ) as sock,
        ):
            if accept is not None:
                accept(sock.getpeercert(binary_form=True) or b"")
            sock.settimeout(deadline.left_s())
            sock.sendall(place.request())
            return _body(_answer(sock, deadline), max_bytes)
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


@dataclass(frozen=True, slots=True)
class _Place:
    """A URL taken apart.

    Attributes:
        authority: host and port as they were spelled.
        target: path and query, for the request line.
    """

    host: str
    port: int
    authority: str
    target: str

    @classmethod
    def parse(cls, url: str) -> Self:
        """Return the parts of `url`.

        Raises:
            FetchError: if it is no HTTPS URL without user info and fragment. The
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
        if parts.scheme != "https":
            raise FetchError("a URL does not begin with https://")
        if "@" in parts.netloc:
            # SPIFFE Federation §5.2.1.1 and §5.2.2.1.
            raise FetchError("a URL holds user info; leave out what is before the '@'")
        if not host or port == 0 or "#" in url:
            raise FetchError("a URL has no host, port 0, or a fragment ('#')")
        query = f"?{parts.query}" if parts.query else ""
        return cls(host, port or _HTTPS_PORT, parts.netloc, (parts.path or "/") + query)

    def __str__(self) -> str:
        return f"https://{self.authority}{self.target.partition('?')[0]}"

    def request(self) -> bytes:
        """Return the whole request (RFC 9112 §3)."""
        return (
            f"GET {self.target} HTTP/1.1\r\n"
            f"Host: {self.authority}\r\n"
            "Accept-Encoding: identity\r\n"
            "Connection: close\r\n"
            "User-Agent: authz-server\r\n\r\n"
        ).encode("ascii")


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

    def __init__(self, sock: ssl.SSLSocket, deadline: _Deadline) -> None:
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


def _answer(sock: ssl.SSLSocket, deadline: _Deadline) -> http.client.HTTPResponse:
    reader = cast(socket.socket, _TimedReader(sock, deadline))  # noqa: TC006
    response = http.client.HTTPResponse(reader, method="GET")
    response.begin()
    return response


def _body(response: http.client.HTTPResponse, max_bytes: int) -> bytes:
    with response:
        if response.status // 100 == HTTPStatus.MULTIPLE_CHOICES // 100:
            raise _UnusableError(
                f"answers with a redirect ({response.status}), which is not followed; "
                "configure the address that it leads to"
            )
        if response.status != HTTPStatus.OK:
            raise _UnusableError(
                f"answers with status {response.status} instead of 200"
            )
        body = response.read(max_bytes + 1)
        if len(body) > max_bytes:
            raise _UnusableError(f"its answer is longer than {max_bytes} bytes")
        if response.length:  # what Content-Length promised and did not come
            raise _UnusableError("its answer ends too early")
        return body


def _cause(error: OSError) -> str:
    """Return what went wrong, without a number or a place in C source."""
    if isinstance(error, ssl.SSLError) and error.reason:
        return f"TLS failed ({error.reason})"
    return error.strerror or str(error) or type(error).__name__
