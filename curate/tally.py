"""What a run of scanning and measuring cost, stage by stage: throughput, waits, frames decoded for frames of the source."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

from curate.stages import Schedule
from curate.unit import Done

STAGE: dict[str, Any] = {"jobs": 0, "clips": 0, "video_s": 0.0, "kernel_s": 0.0, "cpu_s": 0.0, "seconds": 0.0}


class Told:
    """What workers report, counted for the progress line; the videos of a unit once, however often its job is begun."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._videos: Counter[int] = Counter()
        self._heard: set[tuple[str, int]] = set()

    def add(self, job: tuple[str, int], what: str, count: int) -> None:
        self._heard.add(job)
        self._counts[what] += count

    def reached(self, job: tuple[str, int], videos: int) -> None:
        """So many videos of a job's unit are done in the present attempt."""
        unit = job[1]
        self.add(job, "video", max(0, videos - self._videos[unit]))
        self._videos[unit] = max(videos, self._videos[unit])

    def take(self) -> tuple[dict[str, int], set[tuple[str, int]]]:
        """Counts, and the jobs that were heard of, since the last time."""
        taken = {what: count for what, count in self._counts.items() if count}, self._heard
        self._counts, self._heard = Counter(), set()
        return taken


class Tally:
    """Sums over finished jobs. Seconds of work are those of all workers together."""

    def __init__(self) -> None:
        self.stages: dict[str, dict[str, Any]] = defaultdict(lambda: dict(STAGE))
        self.units, self.videos, self.frames, self.decoded, self.parts = set[int](), 0, 0, 0, 0
        self.ran: dict[str, Any] = {}

    def add(self, done: Done) -> None:
        stage = self.stages[done.stage]
        stage["jobs"] += 1
        for name in ("clips", "video_s", "kernel_s", "cpu_s", "seconds"):
            stage[name] += getattr(done, name)
        self.units.add(done.unit)
        self.videos += done.videos
        self.frames += done.frames
        self.decoded += done.decoded
        self.parts += len(done.written)

    def close(self, schedule: Schedule, seconds: float, slots: int, stored_bytes: int) -> None:
        """schedule: for what waited; seconds: of the clock, from the first connection to the last job's end; slots: cores used."""
        for name, stage in self.stages.items():
            waits = schedule.waits.get(name, [0.0])
            stage |= {"waited_s": sum(waits) / len(waits), "most_waiting": schedule.most.get(name, 0)}
            stage |= {"again": schedule.retries(name), "pool": schedule.pools[name]}
            for rate in ("clips", "video_s"):
                stage[f"{rate}_per_s"] = stage[rate] / stage["kernel_s"] if stage["kernel_s"] else None
        total = {name: sum(stage[name] for stage in self.stages.values()) for name in ("kernel_s", "cpu_s")}
        room = seconds * slots
        self.ran = total | {"wall_s": seconds, "cores": slots, "kernel_share": total["kernel_s"] / room,
                            "cpu_share": total["cpu_s"] / room, "stored_bytes": stored_bytes}  # fmt: skip

    @property
    def amplification(self) -> float | None:
        """Frames decoded / frames of the source."""
        return self.decoded / self.frames if self.frames else None

    def facts(self) -> dict[str, Any]:
        """For --json and for the file beside the report."""
        return {"stages": dict(self.stages), "frames": self.frames, "frames_decoded": self.decoded,
                "amplification": self.amplification, **self.ran}  # fmt: skip

    def lines(self) -> list[str]:
        """The table at the end of a run. Rates are those of one worker, by its seconds inside decoding and measuring."""
        if not self.stages:
            return []
        head = (
            f"{'stage':<18}{'on':<4}{'jobs':>6}{'clips':>8}{'clips/s':>9}{'video s/s':>10}{'kernel s':>10}{'CPU s':>9}"
        )
        shown = [f"{head}{'waited s':>10}{'queue':>7}{'again':>7}"]
        for name, one in self.stages.items():
            shown.append(
                f"{name:<18}{one['pool']:<4}{one['jobs']:>6}{one['clips']:>8}{_rate(one['clips_per_s']):>9}{_rate(one['video_s_per_s']):>10}"
                f"{one['kernel_s']:>10.1f}{one['cpu_s']:>9.1f}{one['waited_s']:>10.1f}{one['most_waiting']:>7}{one['again']:>7}"
            )
        decoded = f"frames decoded / source {self.amplification:.2f}; " if self.amplification else ""
        ran = self.ran
        return [*shown, f"{decoded}kernel seconds / (wall x {ran['cores']} cores) {ran['kernel_share']:.2f}, of CPU "
                        f"{ran['cpu_share']:.2f}; through Ray's object store {ran['stored_bytes'] / 1e6:.1f} MB"]  # fmt: skip


def _rate(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"
