"""Parts of a file on a web server or an S3 store, by plain ranged GETs over connections that are kept open.

The store's own client would ask for a file's size first and read it through one connection; an S3 path becomes a
signed URL here, which costs no request, and from then on a store is a web server.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from typing import Any
from urllib.parse import SplitResult, urlsplit

from media import storage

CHUNK_BYTES = 1 << 18
TIMEOUT_S = 60.0
SIGNED_S = 6 * 3600  # how long a signed URL holds

Sink = Callable[[int, memoryview], Any]  # takes (offset in the file, bytes)

_gives_parts: dict[str, bool] = {}  # by server

_mine = threading.local()  # connections are not shared between threads


class Short(OSError):
    """The file ends before the range does."""


def address(path: str) -> str | None:
    """URL at which parts of the file can be asked for; None where only the store's client can read it."""
    if path.startswith(("http://", "https://")):
        return path
    if path.startswith(("s3://", "s3a://")):
        fs, inner = storage.opened(path)
        return str(fs.url(inner, expires=SIGNED_S))
    return None


def gives_parts(url: str) -> bool | None:
    """Whether the server answers ranged requests; it is asked once. None: it has no such file, so it did not say."""
    server = urlsplit(url).netloc
    if server not in _gives_parts:
        with _asked(url, 0, 1) as answer:
            _learn(server, answer.status)
    return _gives_parts.get(server)


def read_whole(url: str) -> bytes:
    """A small file, in one request. Raises FileNotFoundError, OSError."""
    with _asked(url, 0, None) as answer:
        _learn(urlsplit(url).netloc, answer.status)
        if answer.status == 404:
            raise FileNotFoundError(url.split("?")[0])
        if answer.status not in (200, 206):
            raise OSError(f"{url.split('?')[0]}: the server answered {answer.status} {answer.reason}")
        return answer.read()


def _learn(server: str, status: int) -> None:
    if status in (200, 206):
        _gives_parts[server] = status == 206


def read_part(url: str, start: int, stop: int, sink: Sink) -> None:
    """Bytes [start, stop) of a file, into sink as they come.

    Raises FileNotFoundError, Short for a file that ends before, OSError for whatever else goes wrong.
    """
    with _asked(url, start, stop) as answer:
        if answer.status == 404:
            raise FileNotFoundError(url.split("?")[0])
        if answer.status == 416:
            raise Short(f"{url.split('?')[0]} ends before byte {start}")
        if answer.status != 206:
            raise OSError(f"{url.split('?')[0]}: the server answered {answer.status} {answer.reason}")
        promised = answer.length
        at, buffer = start, memoryview(bytearray(min(CHUNK_BYTES, stop - start)))
        while at < stop and (got := answer.readinto(buffer[: stop - at])):
            sink(at, buffer[:got])
            at += got
        if at < stop and promised == stop - start:
            raise OSError(f"{url.split('?')[0]}: the answer for bytes {start} to {stop} broke off at {at}")
        if at < stop:
            raise Short(f"{url.split('?')[0]} ends at byte {at}, {stop} are needed")


class _asked:
    """An answer; its connection is kept for the next request of this thread when the body was read to its end."""

    def __init__(self, url: str, start: int, stop: int | None):
        self._to = urlsplit(url)
        last = "" if stop is None else stop - 1
        self._range = {"Range": f"bytes={start}-{last}", "Accept-Encoding": "identity"}

    def __enter__(self) -> HTTPResponse:
        try:
            try:
                self._answer = self._ask(_connection(self._to))
            except (HTTPException, OSError):  # a kept connection that the server has closed meanwhile
                _drop(self._to)
                self._answer = self._ask(_connection(self._to))
        except HTTPException as error:
            _drop(self._to)
            raise OSError(f"{self._to.netloc}: {type(error).__name__} {error}") from error
        return self._answer

    def _ask(self, connection: HTTPConnection) -> HTTPResponse:
        path = self._to.path + (f"?{self._to.query}" if self._to.query else "")
        connection.request("GET", path, headers=self._range)
        return connection.getresponse()

    def __exit__(self, *_: object) -> None:
        if not self._answer.isclosed():
            _drop(self._to)


def _connection(to: SplitResult) -> HTTPConnection:
    held: dict[str, HTTPConnection] = _mine.__dict__.setdefault("held", {})
    if to.netloc not in held:
        kind = HTTPSConnection if to.scheme == "https" else HTTPConnection
        held[to.netloc] = kind(to.netloc, timeout=TIMEOUT_S)
    return held[to.netloc]


def _drop(to: SplitResult) -> None:
    held: dict[str, HTTPConnection] = _mine.__dict__.get("held", {})
    if (connection := held.pop(to.netloc, None)) is not None:
        connection.close()


def fetch_whole(path: str, local: str) -> None:
    """The file by its store's client."""
    fs, inner = storage.opened(path)
    fs.get_file(inner, local)
