"""A server for benchmarks.loader: every request waits first, then gets a file or a part of one.

    python -m benchmarks.loader_server FOLDER SECONDS

Prints its port. It answers GET and HEAD of plain files and of S3 objects alike (the path-style /bucket/key of the one
bucket `b`; signatures are not looked at) and lists keys, over connections that stay open, so every client meets the same server.
"""

from __future__ import annotations

import os
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape


class Slow(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    folder, wait_s = Path(), 0.0

    def do_GET(self) -> None:
        self._answer(True)

    def do_HEAD(self) -> None:
        self._answer(False)

    def _answer(self, with_body: bool) -> None:
        time.sleep(self.wait_s)
        asked = parse_qs(urlsplit(self.path).query)
        if "list-type" in asked:
            return self._list(asked.get("prefix", [""])[0])
        path = self.folder / unquote(urlsplit(self.path).path).lstrip("/").removeprefix("b/")
        if not path.is_file():
            self.send_response(404)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        size = path.stat().st_size
        first, last = _range(self.headers.get("Range"), size)
        self.send_response(206 if self.headers.get("Range") else 200)
        self.send_header("Content-Length", str(last - first))
        self.send_header("Content-Range", f"bytes {first}-{last - 1}/{size}")
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("ETag", '"0"')
        self.send_header("Last-Modified", self.date_time_string(path.stat().st_mtime))
        self.end_headers()
        if with_body:
            self.wfile.flush()
            with open(path, "rb") as file:
                while first < last:
                    first += os.sendfile(self.connection.fileno(), file.fileno(), first, last - first)

    def _list(self, prefix: str) -> None:
        """Keys below a prefix, as S3 lists them."""
        files = ((path.relative_to(self.folder).as_posix(), path) for path in sorted(self.folder.rglob("*")))
        entries = "".join(
            f"<Contents><Key>{escape(key)}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified>"
            f"<ETag>0</ETag><Size>{path.stat().st_size}</Size></Contents>"
            for key, path in files
            if key.startswith(prefix) and path.is_file()
        )
        body = f"<ListBucketResult><Name>b</Name><IsTruncated>false</IsTruncated>{entries}</ListBucketResult>".encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


class Many(ThreadingHTTPServer):
    request_queue_size = 128  # the usual five refuse clients that ask for several files at once
    daemon_threads = True


def _range(header: str | None, size: int) -> tuple[int, int]:
    if header is None:
        return 0, size
    first, last = header.removeprefix("bytes=").split("-")
    return int(first), min(size, int(last) + 1 if last else size)


if __name__ == "__main__":
    Slow.folder, Slow.wait_s = Path(sys.argv[1]), float(sys.argv[2])
    server = Many(("127.0.0.1", 0), Slow)
    print(server.server_port, flush=True)
    server.serve_forever()
