"""One encoder per cache. Locally the kernel holds the lock and drops it with the process, however that ends; on an
object store a small object says who holds it and is touched while he lives."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from media import storage

TOUCH_S = 20.0  # how often a holder on an object store says that it lives
DEAD_S = 90.0  # silence after which it is taken to be dead
SETTLE_S = 2.0  # after taking a lock over: the last of several writers holds it


class Busy(RuntimeError):
    """Somebody else holds the cache. Commands print it and exit with 3."""


@contextmanager
def held(folder: str) -> Iterator[None]:
    """Hold a cache folder while the block runs. Raises Busy, saying who holds it."""
    path = storage.join(folder, "encode.lock")
    with _held_store(path) if storage.is_remote(path) else _held_local(path):
        yield


@contextmanager
def _held_local(path: str) -> Iterator[None]:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise Busy(_busy(path, file.read())) from None
        file.truncate(0)
        file.write(json.dumps(_me()))
        file.flush()
        yield
        file.truncate(0)


@contextmanager
def _held_store(path: str) -> Iterator[None]:
    found = _read(path)
    if found and time.time() - found["seen"] < DEAD_S:
        raise Busy(_busy(path, json.dumps(found)))
    me = _me()
    storage.write_bytes(path, json.dumps(me | {"seen": time.time()}).encode())
    time.sleep(SETTLE_S)
    now = _read(path)
    if now is None or any(now[key] != me[key] for key in me):
        raise Busy(_busy(path, json.dumps(now or {})))
    over = threading.Event()
    thread = threading.Thread(target=_touch, args=(path, me, over), daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        storage.remove(path)


def _touch(path: str, me: dict[str, Any], over: threading.Event) -> None:
    while not over.wait(TOUCH_S):
        storage.write_bytes(path, json.dumps(me | {"seen": time.time()}).encode())


def _me() -> dict[str, Any]:
    return {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}


def _read(path: str) -> dict[str, Any] | None:
    return json.loads(storage.read_bytes(path)) if storage.exists(path) else None


def _busy(path: str, text: str) -> str:
    try:
        holder = json.loads(text)
        who = f"process {holder['pid']} on {holder['host']} since {holder['since']}"
    except (ValueError, KeyError):
        who = "another process"
    return f"{os.path.dirname(path)}: {who} is encoding into this cache"
