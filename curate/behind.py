"""Signals behind the pass: those that need no more of a frame than its small picture are measured in a process of their own.

Motion and camera are half of what a pass costs besides decoding, and nothing waits for them until a clip ends. They are hundreds of short
calls for a pair of frames, so a thread would do as much waiting for the interpreter as work (it took 1.4 times the CPU time). The
process is a fork of this one: it costs some 10 ms and ends with the pass. Pictures go through shared memory. Every signal sees
every frame in order, so the rows are those of one process.
"""

from __future__ import annotations

import gc
import json
import mmap
import os
import signal
import sys
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any, BinaryIO, NamedTuple, NoReturn

import cv2
import numpy as np

from curate.orphan import end_with
from curate.seen import SMALL_PX, Glance, Record, Seen, Watcher

AT_ONCE = 8  # frames that are handed over together: to wake a process costs as much as a small call
MOST = 8  # such hands that may wait: two or three seconds of film
SLOT_BYTES = SMALL_PX**2

Records = list[tuple[str, Record]]


class Sent(NamedTuple):
    """A frame on its way: its picture lies in a slot of the shared memory."""

    time_s: float
    content: float
    shape: tuple[int, int]
    slot: int


class Behind:
    """Watchers that follow the pass. push(seen) for every frame; `wait(count)` returns when the records of the first `count` of
    them were given to `take`, in order. Use as a context.

    kinds: classes (named tuples) that their records' values consist of. apart: whether there is a process; without one a frame is
    measured as it is pushed. What a watcher raises is raised, from a process as a RuntimeError that says it.
    """

    def __init__(self, watchers: dict[str, Watcher], kinds: Iterable[type], take: Callable[[str, Record], None],
                 apart: bool):  # fmt: skip
        self._watchers, self._take = watchers, take
        self._kinds = {kind.__name__: kind for kind in (Record, *kinds)}
        self._process = Process(self._see) if apart and watchers else None
        self._hand: list[Sent] = []
        self._waiting: deque[int] = deque()  # frames of each hand that is not back
        self._taken = 0

    def __enter__(self) -> Behind:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.end()

    def push(self, seen: Seen) -> None:
        if self._process is None:
            self._give(self._see([seen]))
            return
        self._hand.append(self._process.sent(seen))
        if len(self._hand) == AT_ONCE:
            self._hand_over(self._process)

    def wait(self, count: int) -> None:
        while self._process is not None and self._taken < count:
            if not self._waiting:
                self._hand_over(self._process)
            self._collect(self._process)

    def _hand_over(self, process: Process) -> None:
        if len(self._waiting) == MOST:
            self._collect(process)
        process.ask(self._hand)
        self._waiting.append(len(self._hand))
        self._hand = []

    def _collect(self, process: Process) -> None:
        """The oldest hand, as soon as it is done."""
        self._give([made(one, self._kinds) for one in process.answer()])
        self._taken += self._waiting.popleft()

    def _give(self, records: Records) -> None:
        for name, record in records:
            self._take(name, record)

    def _see(self, frames: Sequence[Seen | Glance]) -> Records:
        found = [(name, watcher.see(one)) for one in frames for name, watcher in self._watchers.items()]
        return [(name, record) for name, record in found if record is not None]


def can_be_apart() -> bool:
    """Whether this process may be forked: not where OpenCV has threads of its own, which a fork would wait for in vain."""
    return sys.platform == "linux" and cv2.getNumThreads() == 1


class Process:
    """A fork of this process that answers one hand of up to AT_ONCE frames after the other; at most MOST may wait for their answer."""

    def __init__(self, work: Callable[[list[Glance]], Records]):
        self._memory = mmap.mmap(-1, (MOST + 1) * AT_ONCE * SLOT_BYTES)
        self._slots = np.frombuffer(self._memory, np.uint8).reshape(-1, SLOT_BYTES)
        self._next = 0
        (their_in, our_out), (our_in, their_out) = os.pipe(), os.pipe()
        parent = os.getpid()
        self._pid = os.fork()
        if self._pid == 0:
            os.close(our_out)
            os.close(our_in)
            self._serve(work, os.fdopen(their_in, "rb"), os.fdopen(their_out, "wb"), parent)
        os.close(their_in)
        os.close(their_out)
        self._out, self._in = os.fdopen(our_out, "wb"), os.fdopen(our_in, "rb")

    def ask(self, hand: list[Sent]) -> None:
        try:
            _send(self._out, hand)
        except BrokenPipeError:
            self._lost()

    def answer(self) -> list[Any]:
        """Records as `plain` has them. Raises RuntimeError with what the work raised, or if the process died of something else."""
        line = self._in.readline()
        if not line:
            self._lost()
        found = json.loads(line)
        if "fault" in found:
            raise RuntimeError(found["fault"])
        return found["records"]  # type: ignore[no-any-return]

    def end(self) -> None:
        if self._pid:
            os.kill(self._pid, signal.SIGKILL)  # it holds nothing that is not here too
            self._reap()

    def _lost(self) -> NoReturn:
        raise RuntimeError(f"the process that measures motion ended with status {self._reap()}")

    def _reap(self) -> int:
        _, status = os.waitpid(self._pid, 0)
        self._pid = 0
        for pipe in (self._out, self._in):
            with suppress(BrokenPipeError):  # it still held what the other side never read
                pipe.close()
        return os.waitstatus_to_exitcode(status)

    def sent(self, seen: Seen) -> Sent:
        """For the hand that is asked for next: the picture is copied, so that the frame may go."""
        luma = seen.small_luma
        sent = Sent(seen.time_s, seen.content, luma.shape, self._next)  # type: ignore[arg-type]
        self._slots[self._next, : luma.size].reshape(luma.shape)[:] = luma
        self._next = (self._next + 1) % len(self._slots)
        return sent

    def _glance(self, sent: Sent) -> Glance:
        size = sent.shape[0] * sent.shape[1]
        return Glance(sent.time_s, sent.content, self._slots[sent.slot, :size].reshape(sent.shape).copy())

    def _serve(self, work: Callable[[list[Glance]], Records], questions: BinaryIO, answers: BinaryIO, parent: int) -> NoReturn:  # fmt: skip
        """The other process, until there is no more to do."""
        gc.disable()  # to look for cycles would copy the memory that both share, and there are none
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the pass says when this ends
        end_with(parent)
        try:
            for line in questions:
                hand = [self._glance(Sent(*sent)) for sent in json.loads(line)]
                _send(answers, {"records": plain(work(hand))})
        except Exception as error:  # noqa: BLE001 (told to who asked)
            traceback.print_exc()
            _send(answers, {"fault": f"{type(error).__name__}: {error}"})
        finally:
            os._exit(1)


def _send(pipe: BinaryIO, message: object) -> None:
    pipe.write(json.dumps(message).encode() + b"\n")
    pipe.flush()


def plain(value: Any) -> Any:
    """Values for JSON, which has every float exactly; a named tuple begins with its class's name, another tuple with none."""
    if isinstance(value, tuple):
        return [type(value).__name__ if hasattr(value, "_fields") else "", *map(plain, value)]
    return [plain(one) for one in value] if isinstance(value, list) else value


def made(value: Any, kinds: dict[str, type]) -> Any:
    """A tuple from what `plain` made of it."""
    if not isinstance(value, list):
        return value
    name, *values = value
    inside = [made(one, kinds) for one in values]
    return kinds[name](*inside) if name else tuple(inside)
