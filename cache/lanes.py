"""Samples that go through a VAE side by side on a CPU, each on threads of its own, their results in order.

One sample on all cores waits at the end of every layer for the slowest of them; a sample a core does not. How many fit
into memory is measured: the first one goes alone and says what its pixels cost.
"""

from __future__ import annotations

import copy
import resource
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any, NamedTuple, TypeVar

import torch

from cache.ahead import available_bytes
from commands import peak_resident_bytes

MOST = 8  # lanes; where there are more cores, each has several
MEMORY_SHARE = 0.5  # that all lanes together may take, of what is available at first

T = TypeVar("T")


class Load(NamedTuple):
    """What goes through the VAE together. pixels: of all its frames."""

    pixels: int
    given: Any


class Lanes:
    """encode(vae, given) of one load after the other, several at the same time. Use as a context.

    Every lane has a copy of the VAE whose weights are the same memory: some keep frames between the parts of a clip.
    """

    def __init__(self, vae: Any):
        self._vae, self._threads = vae, torch.get_num_threads()
        self._count = min(self._threads, MOST)
        self._copies: SimpleQueue[Any] = SimpleQueue()
        for _ in range(self._count):
            self._copies.put(copy.deepcopy(vae))
        self._pool = ThreadPoolExecutor(self._count, thread_name_prefix="lane")
        self._budget = MEMORY_SHARE * available_bytes()
        self._bytes_per_pixel: float | None = None

    def __enter__(self) -> Lanes:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
        torch.set_num_threads(self._threads)

    def run(self, encode: Callable[[Any, Any], T], loads: Iterable[Load]) -> Iterator[T]:
        """The results in the order of the loads, of which a few are taken ahead."""
        waiting: deque[Future[T]] = deque()
        for load in loads:
            beside = self.beside(load.pixels)
            most = beside - 1 if beside < self._count else beside  # in the second case one waits, so that no lane does
            while len(waiting) > most:
                yield waiting.popleft().result()
            if beside == 1:
                yield self._alone(encode, load)
            else:
                waiting.append(self._pool.submit(self._in_lane, encode, load, self._threads // beside))
        while waiting:
            yield waiting.popleft().result()

    def beside(self, pixels: int) -> int:
        """How many loads of so many pixels fit beside each other: one, until one was measured."""
        if self._bytes_per_pixel is None:
            return 1
        return max(1, min(self._count, int(self._budget / max(1.0, self._bytes_per_pixel * pixels))))

    def _alone(self, encode: Callable[[Any, Any], T], load: Load) -> T:
        """On all cores but one, which is the readers'."""
        torch.set_num_threads(max(1, self._threads - 1))
        before = _resident_bytes()
        found = encode(self._vae, load.given)
        if self._bytes_per_pixel is None:
            self._bytes_per_pixel = max(0.0, peak_resident_bytes() - before) / load.pixels
        return found

    def _in_lane(self, encode: Callable[[Any, Any], T], load: Load, threads: int) -> T:
        torch.set_num_threads(threads)  # of this thread
        vae = self._copies.get()
        try:
            return encode(vae, load.given)
        finally:
            self._copies.put(vae)


def _resident_bytes() -> float:
    """What this process holds; where the system does not say, the most that it held."""
    try:
        with open("/proc/self/statm", encoding="ascii") as words:
            return float(int(words.read().split()[1]) * resource.getpagesize())
    except OSError:
        return peak_resident_bytes()
