"""Large files of a store, fetched once for all processes of a machine: of 13B weights every one would have its own 52 GB."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from media import storage


@contextmanager
def together(key: Any) -> Iterator[str]:
    """A local folder that is the same for all who give this key (JSON data that tells the files from any others). The last
    to leave removes it; what was mapped from it stays as long as the map does.

    Raises PermissionError where somebody else has put a folder in its place: what lies there is not trusted.
    """
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    folder = os.path.join(tempfile.gettempdir(), f"dailies-{os.getuid()}-{digest}-fetched")
    with open(f"{folder}.lock", "ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        os.makedirs(folder, mode=0o700, exist_ok=True)
        if os.path.islink(folder) or os.stat(folder).st_uid != os.getuid():
            raise PermissionError(f"{folder}: made by another user; set TMPDIR to a folder of your own")
        try:
            yield folder
        finally:
            with suppress(BlockingIOError):  # somebody else is still here
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)


def once(path: str, local: str) -> str:
    """Fetched by the first who comes, while the others wait."""
    with open(f"{local}.lock", "ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not os.path.exists(local):
            storage.get(path, local)
    return local
