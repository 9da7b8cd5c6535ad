"""A run's folder. What grows (metrics, events) is written locally and, for a run on an object store, copied there."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import tempfile
import time
from contextlib import suppress
from typing import Any

from media import storage
from pipelines import RecipeError

LOCK = ".train.lock"  # what commands.hold puts there
SEEN_S = 90.0  # after so long a network's file system tells everybody what one machine has written


class RunFolder:
    """path: where the run lies; local: the same folder, or its local half when the path is on an object store."""

    def __init__(self, path: str):
        self.path = path
        self.local = path
        if storage.is_remote(path):
            name = f"dailies-{os.getuid()}-{hashlib.sha256(path.encode()).hexdigest()[:16]}"
            self.local = os.path.join(tempfile.gettempdir(), name)
            self._fetch()

    def look(self, first: bool) -> None:
        """Whether the first process, which holds the folder by now, holds this one. Raises RecipeError where the machines
        do not share it: each would save its part of a checkpoint to itself, and none could be read back."""
        until = time.monotonic() + SEEN_S
        while not first and not storage.exists(storage.join(self.path, LOCK)):
            if time.monotonic() > until:
                raise RecipeError(
                    f"{self.path}: on {socket.gethostname()} it is not the folder that the first process writes to; put "
                    "the workspace where all machines reach it (a shared disk, s3://)"
                )
            time.sleep(min(1.0, SEEN_S / 10))

    def write_recipe(self, data: dict[str, Any]) -> None:
        text = json.dumps(data, indent=1) + "\n"
        storage.write_bytes(storage.join(self.path, "recipe.json"), text.encode())

    def publish(self) -> None:
        """Copy the local half to the store; nothing to do for a local run."""
        if self.local == self.path:
            return
        for entry in storage.find(self.local):
            with open(entry.path, "rb") as file:
                storage.write_bytes(storage.join(self.path, os.path.relpath(entry.path, self.local)), file.read())

    def set_aside(self) -> None:
        """Move an earlier run out of the way under a name with the time. Raises FileExistsError on an object store."""
        kept = [one for one in os.listdir(self.path) if not one.endswith(".lock")] if self.local == self.path else []
        if self.local != self.path and storage.find(self.path):
            raise FileExistsError(f"{self.path}: move the old run away yourself, an object store renames nothing")
        if not kept:
            return
        aside = f"{self.path}.aside-{time.strftime('%Y%m%d-%H%M%S')}"
        os.makedirs(aside)
        for one in kept:
            os.rename(os.path.join(self.path, one), os.path.join(aside, one))

    def _fetch(self) -> None:
        """The store's metrics are the truth: a local half of another machine or another time gives way."""
        os.makedirs(self.local, exist_ok=True)
        there, here = storage.join(self.path, "metrics.jsonl"), os.path.join(self.local, "metrics.jsonl")
        if storage.exists(there):
            storage.get(there, here)
        else:
            with suppress(FileNotFoundError):  # the other processes of this machine do the same
                os.remove(here)
