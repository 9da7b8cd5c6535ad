"""Signals behind the pass: those that need no more of a frame than its small picture are measured in a process of their own.

Motion and camera are half of what a pass costs besides decoding, and nothing waits for them until a clip ends. They are hundreds of short
calls for a pair of frames, so a thread would do as much waiting for the interpreter as work (it took 1.4 times the CPU time). The
process is a fork of this one. Pictures go through shared memory. Every signal sees every frame in order, so the rows are those
of one process.
"""

from __future__ import annotations

import mmap
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from curate.forked import Forked, Line
from curate.seen import SMALL_PX, Glance, Record, Seen, Watcher

AT_ONCE = 8  # frames that are handed over together: to wake a process costs as much as a small call
MOST = 16  # such hands that may wait: four or five seconds of film
SLOT_BYTES = SMALL_PX**2

Records = list[tuple[str, Record]]


class Sent(NamedTuple):
    """A frame on its way: its picture lies in a slot of the shared memory."""

    time_s: float
    content: float
    shape: tuple[int, int]
    slot: int


class Behind:
    """Watchers that follow the pass. push(seen) for every frame; the records of the first `taken` of them were given to `take`, in
    order; `wait(count)` returns when those of the first `count` were. Use as a context.

    make: the watchers; kinds: classes (named tuples) that their records' values consist of; process: that they work in, or None: a
    frame is then measured as it is pushed. What a watcher raises is raised, from a process as a RuntimeError that says it; left
    by an error it ends the process.
    """

    def __init__(self, make: Callable[[], dict[str, Watcher]], kinds: Iterable[type], take: Callable[[str, Record], None],
                 process: Measurer | None):  # fmt: skip
        self._process, self._take = process, take
        self._watchers = make() if process is None else {}
        self._kinds = {kind.__name__: kind for kind in (Record, *kinds)}
        self._hand: list[Sent] = []
        self._waiting: deque[int] = deque()  # frames of each hand that is not back
        self.taken = 0
        if process is not None:
            process.begin()

    def __enter__(self) -> Behind:
        return self

    def __exit__(self, error: object, *_: object) -> None:
        if self._process is not None and error is not None:
            self._process.end()
        while self._process is not None and self._process.alive and self._waiting:
            self._collect(self._process)

    def push(self, seen: Seen) -> None:
        if self._process is None:
            self._give(measured(self._watchers, [seen]))
            self.taken += 1
            return
        self._hand.append(self._process.sent(seen))
        if len(self._hand) == AT_ONCE:
            self._hand_over(self._process)

    def wait(self, count: int) -> None:
        while self._process is not None and self.taken < count:
            if not self._waiting:
                self._hand_over(self._process)
            self._collect(self._process)

    def _hand_over(self, process: Measurer) -> None:
        while self._waiting and (len(self._waiting) == MOST or process.has_answer()):
            self._collect(process)
        process.ask(self._hand)
        self._waiting.append(len(self._hand))
        self._hand = []

    def _collect(self, process: Measurer) -> None:
        """The oldest hand, as soon as it is done."""
        self._give([made(one, self._kinds) for one in process.answer()])
        self.taken += self._waiting.popleft()

    def _give(self, records: Records) -> None:
        for name, record in records:
            self._take(name, record)


def measured(watchers: dict[str, Watcher], frames: Sequence[Seen | Glance]) -> Records:
    found = [(name, watcher.see(one)) for one in frames for name, watcher in watchers.items()]
    return [(name, record) for name, record in found if record is not None]


class Measurer:
    """A fork of this process that answers one hand of up to AT_ONCE frames after the other, of one film after the other; at most
    MOST may wait for their answer. make: the watchers of a film."""

    def __init__(self, make: Callable[[], dict[str, Watcher]]):
        self._memory = mmap.mmap(-1, (MOST + 1) * AT_ONCE * SLOT_BYTES)
        self._slots = np.frombuffer(self._memory, np.uint8).reshape(-1, SLOT_BYTES)
        self._next, self._make = 0, make
        self._fork = Forked(self._serve, "measures motion")

    @property
    def alive(self) -> bool:
        return self._fork.alive

    def cpu_s(self) -> float:
        return self._fork.cpu_s()

    def begin(self) -> None:
        """Another film."""
        self._fork.send([])

    def ask(self, hand: list[Sent]) -> None:
        self._fork.send(hand)

    def has_answer(self) -> bool:
        return self._fork.is_heard()

    def answer(self) -> list[Any]:
        """Records as `plain` has them. Raises RuntimeError with what the work raised, or if the process died of something else."""
        return self._fork.receive()  # type: ignore[no-any-return]

    def end(self) -> None:
        self._fork.end()

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

    def _serve(self, line: Line) -> None:
        """The other process."""
        watchers = self._make()
        while True:
            hand = line.receive()
            if hand:
                line.send(plain(measured(watchers, [self._glance(Sent(*sent)) for sent in hand])))
            else:
                watchers = self._make()


def plain(value: Any) -> Any:
    """Values for JSON, which has every float exactly; a named tuple begins with its class's name, another tuple with none."""
    if isinstance(value, tuple):
        inside = [plain(one) if isinstance(one, tuple) else one for one in value]
        return [type(value).__name__ if hasattr(value, "_fields") else "", *inside]
    return [plain(one) for one in value] if isinstance(value, list) else value


def made(value: Any, kinds: dict[str, type]) -> Any:
    """A tuple from what `plain` made of it."""
    if not isinstance(value, list):
        return value
    name, *values = value
    inside = [made(one, kinds) if isinstance(one, list) else one for one in values]
    return kinds[name](*inside) if name else tuple(inside)
