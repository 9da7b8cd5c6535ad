"""A fork of this process that works beside it: messages both ways, its errors told here, and nothing of it left behind.

A fork costs some 10 ms and shares what is loaded. Messages are lines of JSON, which has every float exactly; pictures go through
shared memory, for a pipe holds 64 kB.
"""

from __future__ import annotations

import gc
import json
import os
import select
import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

import cv2

from curate.orphan import end_with


def can_fork() -> bool:
    """Whether this process may be forked: not where OpenCV has threads of its own, which a fork would wait for in vain."""
    return sys.platform == "linux" and cv2.getNumThreads() == 1


class Line:
    """One end of a connection."""

    def __init__(self, hears: int, says: int):
        self._hears, self._says = hears, says
        self._heard = b""

    def send(self, message: object) -> None:
        """Raises BrokenPipeError if the other side is gone."""
        rest = memoryview(json.dumps(message).encode() + b"\n")
        while rest:
            rest = rest[os.write(self._says, rest) :]

    def receive(self) -> Any:
        """The next message; EOFError when the other side is gone."""
        while b"\n" not in self._heard:
            more = os.read(self._hears, 1 << 16)
            if not more:
                raise EOFError
            self._heard += more
        line, _, self._heard = self._heard.partition(b"\n")
        return json.loads(line)

    def is_heard(self) -> bool:
        """Whether there is something to receive."""
        return bool(self._heard or select.select([self._hears], [], [], 0)[0])

    def close(self) -> None:
        os.close(self._hears)
        os.close(self._says)


class Forked:
    """A fork that does `work(line)` and ends. what: what it does, for who reads of its death.

    send and receive raise RuntimeError with what the work raised, or how the process ended; then, and after `end`, it is not `alive`.
    """

    def __init__(self, work: Callable[[Line], None], what: str):
        self._what = what
        (their_in, our_out), (our_in, their_out) = os.pipe(), os.pipe()
        parent = os.getpid()
        self._pid = os.fork()
        if self._pid == 0:
            os.close(our_out)
            os.close(our_in)
            _serve(work, Line(their_in, their_out), parent)
        os.close(their_in)
        os.close(their_out)
        self._line = Line(our_in, our_out)

    @property
    def alive(self) -> bool:
        """Also after it was killed by somebody else, between two questions, it is not."""
        if self._pid and os.waitid(os.P_PID, self._pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            self._reap()
        return self._pid != 0

    def send(self, message: object) -> None:
        try:
            self._line.send(message)
        except BrokenPipeError:
            while True:
                self.receive()  # what it said before it ended, and then why it did

    def receive(self) -> Any:
        try:
            found = self._line.receive()
        except EOFError:
            raise RuntimeError(f"the process that {self._what} ended with status {self._reap()}") from None
        if isinstance(found, dict) and "fault" in found:
            self._reap()
            raise RuntimeError(found["fault"])
        return found

    def is_heard(self) -> bool:
        """Whether `receive` would not wait, or hardly."""
        return self._line.is_heard()

    def end(self) -> None:
        if self._pid:
            os.kill(self._pid, signal.SIGKILL)  # it holds nothing that is not here too
            self._reap()

    def cpu_s(self) -> float:
        """CPU seconds until now, 0 when it has ended: who waits for it is told of them."""
        if not self._pid:
            return 0.0
        fields = Path(f"/proc/{self._pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def _reap(self) -> int:
        _, status = os.waitpid(self._pid, 0)
        self._pid = 0
        self._line.close()
        return os.waitstatus_to_exitcode(status)


def _serve(work: Callable[[Line], None], line: Line, parent: int) -> NoReturn:
    """The other process, until there is no more to do."""
    gc.freeze()  # to look for cycles among what both share would copy it
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the one that forked it says when it ends
    end_with(parent)
    try:
        work(line)
    except (BrokenPipeError, EOFError):  # there is nobody to work for
        pass
    except Exception as error:  # noqa: BLE001 (told to who asked)
        traceback.print_exc()
        with suppress(BrokenPipeError):
            line.send({"fault": f"{type(error).__name__}: {error}"})
    finally:
        os._exit(1)
