"""Where bundles come from: a web server, an object store, a file.

A web server is asked as OPA asks it (https://www.openpolicyagent.org/docs/latest/
management-bundles/#bundle-service-api): only for what is new, by ETag; held open until
there is something new, where the server can do that (long polling). What an unsteady
link cuts off is gone on with where it ended (RFC 9110 §14).
"""

from __future__ import annotations

import hashlib
import re
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Final, Protocol

from authz_server.errors import FetchError
from authz_server.fetch import Answer, CutOffError, Request, exchange
from authz_server.watch import Fingerprint, fingerprint

_BUNDLES: Final = "application/vnd.openpolicyagent.bundles"
"""The content type by which a server says that it can hold a request open."""

_CONTENT_RANGE: Final = re.compile(
    r"bytes ([0-9]{1,18})-[0-9]{1,18}/([0-9]{1,18}|\*)", re.ASCII
)
_MAX_ETAG: Final = 1024


@dataclass(frozen=True, slots=True)
class Download:
    """A bundle as it came.

    Attributes:
        etag: names it to the source; empty if the source has no names for bundles.
    """

    raw: bytes = field(repr=False)
    etag: str = ""


class BundleSource(Protocol):
    """Where bundles come from."""

    @property
    def place(self) -> str:
        """What to call it, without secrets."""

    @property
    def is_waiting(self) -> bool:
        """Whether it answers when there is something new, so it is asked at once."""

    def ask(self, etag: str) -> Download | None:
        """Return the newest bundle; None if it is still that of `etag`.

        Raises:
            FetchError: if it cannot be had.
        """


class FileSource:
    """A bundle in a file, which something else keeps up to date."""

    is_waiting = False

    def __init__(self, path: Path, max_bytes: int) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._seen: tuple[Fingerprint | None, str] = (None, "")

    @property
    def place(self) -> str:
        """The path."""
        return str(self._path)

    def ask(self, etag: str) -> Download | None:
        """Return what is in the file; None if that is what it was.

        Raises:
            FetchError: if it cannot be read.
        """
        found = fingerprint(self._path)
        if etag and (found, etag) == self._seen:
            return None
        try:
            with self._path.open("rb") as file:
                raw = file.read(self._max_bytes + 1)
        except OSError as error:
            raise FetchError(
                f"{self._path}: cannot be read: {error.strerror}"
            ) from error
        if len(raw) > self._max_bytes:
            raise FetchError(f"{self._path}: has more than {self._max_bytes} bytes")
        digest = hashlib.sha256(raw).hexdigest()
        self._seen = (found, digest)
        return None if digest == etag else Download(raw, digest)


Headers = Callable[[], Mapping[str, str]]
"""Returns the headers of the next request that tell who asks."""


def bearer_headers(token_file: str) -> Headers:
    """Return what shows a server the token in a file, as it is then (RFC 6750 §2.1).

    Args:
        token_file: empty for no token.
    """

    def headers() -> Mapping[str, str]:
        if not token_file:
            return {}
        try:
            token = Path(token_file).read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise FetchError(f"{token_file}: no token can be read from it") from error
        return {"Authorization": f"Bearer {token}"}

    return headers


@dataclass(frozen=True, slots=True)
class WebTerms:
    """How a web server is asked.

    Attributes:
        timeout_s: for an answer, beyond what the server may wait.
        wait_s: how long the server may hold a request open; 0 for not at all.
        wants_deltas: whether changes are welcome in place of whole bundles.
    """

    max_bytes: int
    timeout_s: float
    wait_s: float = 0.0
    wants_deltas: bool = False


class WebSource:
    """A bundle on a web server. For one thread.

    Args:
        tls: as of `exchange`; None for ``http://``.
        headers: asked before each request.
    """

    def __init__(
        self, url: str, tls: ssl.SSLContext | None, terms: WebTerms, headers: Headers
    ) -> None:
        self._url = url
        self._tls = tls
        self._terms = terms
        self._headers = headers
        self._can_wait = False
        self._partial = Download(b"")

    @property
    def place(self) -> str:
        """The URL without user info and query, which may hold a password."""
        scheme, slashes, rest = self._url.partition("?")[0].partition("://")
        authority, slash, path = rest.partition("/")
        return scheme + slashes + authority.rpartition("@")[2] + slash + path

    @property
    def is_waiting(self) -> bool:
        """Whether the server holds requests open."""
        return self._can_wait and self._terms.wait_s > 0

    def ask(self, etag: str) -> Download | None:
        """Return the newest bundle; None if it is still that of `etag`.

        Raises:
            FetchError: if it cannot be had. What had come of it is not lost.
        """
        partial, self._partial = self._partial, Download(b"")
        try:
            answer = exchange(
                self._url,
                self._tls,
                Request(headers=self._request_headers(etag, partial)),
                max_bytes=self._terms.max_bytes,
                timeout_s=self._terms.timeout_s
                + (self._terms.wait_s if self.is_waiting else 0.0),
                statuses=_statuses(etag, partial),
            )
        except CutOffError as error:
            so_far = _so_far(partial, error.answer)
            # Only a strong ETag promises the same bytes (RFC 9110 §13.1.5).
            if so_far.etag.startswith('"'):
                self._partial = so_far
            raise
        except FetchError as error:
            # Neither what it is nor whether it waits is certain any more.
            self._can_wait = False
            if isinstance(error.__cause__, OSError):
                # The link's fault, and not that of what was asked for.
                self._partial = partial
            raise
        if answer.status == HTTPStatus.NOT_MODIFIED:
            return None
        self._can_wait = answer.headers.get("content-type") == _BUNDLES
        download = _so_far(partial, answer)
        if len(download.raw) > self._terms.max_bytes:
            raise FetchError(
                f"{self.place}: its answer is longer than {self._terms.max_bytes} bytes"
            )
        if _lacks_its_end(answer, len(download.raw)):
            # RFC 9110 §15.3.7: a server may send less than it was asked for.
            self._partial = download
            raise FetchError(f"{self.place}: sent only a part of the bundle's rest")
        return download

    def _request_headers(self, etag: str, partial: Download) -> dict[str, str]:
        modes = "snapshot,delta" if self._terms.wants_deltas else "snapshot"
        wait = f";wait={self._terms.wait_s:.0f}" if self.is_waiting else ""
        headers = {"Prefer": f"modes={modes}{wait}", **self._headers()}
        if partial.raw:
            # If it is another one by now, the whole of that comes instead.
            headers["Range"] = f"bytes={len(partial.raw)}-"
            headers["If-Range"] = partial.etag
        elif etag:
            headers["If-None-Match"] = etag
        return headers


def _so_far(partial: Download, answer: Answer) -> Download:
    """Return what is there of a bundle, with what an answer adds to it."""
    etag = answer.headers.get("etag", "")
    if len(etag) > _MAX_ETAG or not etag.isascii() or not etag.isprintable():
        etag = ""
    if answer.status == HTTPStatus.PARTIAL_CONTENT:
        found = _content_range(answer)
        if (
            found is None
            or int(found[1]) != len(partial.raw)
            or etag not in {"", partial.etag}
        ):
            raise FetchError(
                "the server sent another part of the bundle than asked for"
            )
        return Download(partial.raw + answer.body, partial.etag)
    return Download(answer.body, etag)


def _statuses(etag: str, partial: Download) -> tuple[HTTPStatus, ...]:
    """Return which answers there can be: only to what was asked."""
    if partial.raw:
        return HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT
    if etag:
        return HTTPStatus.OK, HTTPStatus.NOT_MODIFIED
    return (HTTPStatus.OK,)


def _content_range(answer: Answer) -> re.Match[str] | None:
    return _CONTENT_RANGE.fullmatch(answer.headers.get("content-range", ""))


def _lacks_its_end(answer: Answer, size: int) -> bool:
    """Return whether the whole bundle is longer than what is there of it."""
    if answer.status != HTTPStatus.PARTIAL_CONTENT:
        return False
    found = _content_range(answer)
    return found is not None and found[2] not in {"*", str(size)}
