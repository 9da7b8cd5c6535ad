"""Samples side by side on a CPU: results in order, copies that don't disturb each other, memory that is kept to."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
import torch

from cache import lanes
from cache.lanes import Lanes, Load


class Slow:
    """A network that notes how many work at the same time, and that must not be used twice at once."""

    def __init__(self, together: list[int] | None = None):
        self.together = [] if together is None else together
        self.busy = threading.Lock()

    def __deepcopy__(self, memo: dict[int, object]) -> Slow:
        return Slow(self.together)

    def encode(self, seconds: float) -> float:
        assert self.busy.acquire(blocking=False)
        self.together.append(1)
        time.sleep(seconds)
        self.together.append(-1)
        self.busy.release()
        return seconds


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def most_at_once(slow: Slow) -> int:
    running = most = 0
    for step in slow.together:
        running += step
        most = max(most, running)
    return most


def test_results_keep_their_order_whichever_ends_first(threads: None) -> None:
    waits = [0.01, 0.1, 0.01, 0.02, 0.01, 0.05, 0.0]
    with Lanes(slow := Slow()) as two:
        assert list(two.run(Slow.encode, [Load(1, one) for one in waits])) == waits
    assert most_at_once(slow) == 2 and torch.get_num_threads() == 2


def test_no_more_go_side_by_side_than_memory_holds(threads: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "_resident_bytes", lambda: 0.0)
    monkeypatch.setattr(lanes, "peak_resident_bytes", lambda: 1000.0)
    monkeypatch.setattr(lanes, "available_bytes", lambda: 6000)
    with Lanes(slow := Slow()) as two:
        assert two.beside(1) == 1  # nothing is known yet
        list(two.run(Slow.encode, [Load(10, 0.02)] * 5))  # 1000 bytes each, 3000 may be taken
        assert two.beside(10) == 2 and two.beside(20) == 1 and most_at_once(slow) == 2
    with Lanes(slow := Slow()) as two:
        list(two.run(Slow.encode, [Load(10, 0.02), *[Load(20, 0.02)] * 4]))
    assert most_at_once(slow) == 1


def test_an_error_comes_out_and_what_waits_is_not_begun(threads: None) -> None:
    def encode(_vae: Slow, number: int) -> int:
        if number == 2:
            raise ValueError("the third is wrong")
        done.append(number)
        return number

    done: list[int] = []
    with pytest.raises(ValueError, match="third"), Lanes(Slow()) as two:
        list(two.run(encode, (Load(1, number) for number in range(50))))
    assert done[:2] == [0, 1] and len(done) < 8
