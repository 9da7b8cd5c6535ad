"""The process beside one that scans: begun when a film first needs it, kept from film to film."""

from __future__ import annotations

from collections.abc import Callable

from curate.behind import Measurer
from curate.seen import Watcher


class Beside:
    """Use as a context, or close it. Nothing is begun before it is asked for."""

    def __init__(self) -> None:
        self._names: frozenset[str] = frozenset()
        self._measurer: Measurer | None = None

    def measurer(self, names: frozenset[str], make: Callable[[], dict[str, Watcher]]) -> Measurer:
        """For films of which the signals of these names are measured behind the pass. make: their watchers, new ones for every film."""
        if self._measurer is None or not self._measurer.alive or self._names != names:
            self.close()
            self._names, self._measurer = names, Measurer(make)
        return self._measurer

    def cpu_s(self) -> float:
        """CPU seconds of what runs; of what has ended this process was told when it waited for it."""
        return 0.0 if self._measurer is None else self._measurer.cpu_s()

    def close(self) -> None:
        if self._measurer is not None:
            self._measurer.end()
        self._measurer = None

    def __enter__(self) -> Beside:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
