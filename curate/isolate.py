"""One video at a time in a process of its own: a decoder that crashes or hangs costs one video, not the run.

The child (`python -m curate.isolate`) speaks JSON lines over its standard streams and spools rows as Arrow files; the
parent takes them only when the video is finished. A video that kills its child twice is quarantined.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa

from curate.orphan import end_with

if TYPE_CHECKING:
    from curate.beside import Beside
    from pipelines import Curate  # the child is told its settings, and loads no recipes

STRIKES = 2
BATCH_ROWS = 64
VIDEOS_PER_CHILD = 256


class Task(NamedTuple):
    """What the child needs to scan one video; JSON data only."""

    video_id: str
    path: str
    bytes: int
    tag: str
    want: list[str]
    part: tuple[float, float] | None = None  # seconds of the film: see `curate.segments`


class Cost(NamedTuple):
    """kernel_s, cpu_s: wall and CPU seconds inside the scan, of all processes together; decoded: frames, those of a lead-in and
    of a first attempt too."""

    kernel_s: float = 0.0
    cpu_s: float = 0.0
    decoded: int = 0

    def plus(self, other: Cost) -> Cost:
        return Cost(self.kernel_s + other.kernel_s, self.cpu_s + other.cpu_s, self.decoded + other.decoded)


class Scanned(NamedTuple):
    """video: row of `videos`; spool: folder of an Arrow batches file per table."""

    video: dict[str, Any]
    spool: Path
    cost: Cost

    def batches(self, table: str) -> Iterator[pa.RecordBatch]:
        path = self.spool / f"{table}.arrow"
        if path.exists():
            with pa.OSFile(str(path)) as file, pa.ipc.open_stream(file) as reader:
                yield from reader


class Isolated:
    """A child process that scans videos, restarted when it dies. Use as a context; `scan` may be called many times."""

    def __init__(self, settings: Curate, threads: int = 1):
        self.settings = settings
        self.threads = threads
        self.child: subprocess.Popen[bytes] | None = None
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115 (closed with this object)
        self.buffer = b""
        self.scanned = 0

    def __enter__(self) -> Isolated:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._end()
        self.errors.close()

    def scan(self, task: Task, spool: Path, beat: Callable[[int], None]) -> Scanned:
        """Scan a video into `spool` (emptied first). Never raises for a bad video: it ends as a row with its reason."""
        self._rest()
        reasons, cost, seen = [], Cost(), 0
        for _ in range(STRIKES):
            for stale in spool.glob("*.arrow"):
                stale.unlink()
            started, seen = time.monotonic(), 0

            def told(frames: int) -> None:
                nonlocal seen
                seen = frames
                beat(frames)

            answer, reason = self._ask(task, spool, told)
            if answer is not None:
                return Scanned(answer["video"], spool, cost.plus(Cost(*answer["cost"])))
            reasons.append(reason)
            cost = cost.plus(Cost(time.monotonic() - started, 0.0, seen))
        for stale in spool.glob("*.arrow"):
            stale.unlink()
        row = {"media": "video", "status": "quarantined", "reason": f"{STRIKES} strikes: {'; '.join(reasons)}"}
        return Scanned(row, spool, cost)

    def _rest(self) -> None:
        """A child that has scanned many videos makes room for a new one, so that what decoders leak stays bounded; so does one
        that died between two videos, which is no fault of the next."""
        self.scanned += 1
        if self.scanned % VIDEOS_PER_CHILD == 0 or (self.child is not None and self.child.poll() is not None):
            self._end()

    def parts(self, path: str, spool: Path) -> list[tuple[float, float]]:
        """The parts that a video is long enough to be scanned in; none where it is not, or where it cannot be told."""
        answer, _ = self._ask(Task("", path, 0, "", []), spool, lambda _frames: None, plan=True)
        return [(start, end) for start, end in answer["parts"]] if answer else []

    def _ask(self, task: Task, spool: Path, beat: Callable[[int], None], plan: bool = False
             ) -> tuple[dict[str, Any] | None, str]:  # fmt: skip
        child = self._alive()
        message = {"task": task._asdict(), "spool": str(spool), "plan": plan}
        try:
            assert child.stdin is not None
            child.stdin.write(json.dumps(message).encode() + b"\n")
            child.stdin.flush()
        except BrokenPipeError:
            return None, self._epitaph()
        while True:
            line = self._line()
            if line is None:
                self._end()
                return None, f"hung: no frame in {self.settings.stall_s:g} s"
            if not line:
                return None, self._epitaph()
            answer = json.loads(line)
            if "video" in answer or "parts" in answer:
                return answer, ""
            if "fault" in answer:
                return None, answer["fault"]
            beat(answer["beat"])

    def _line(self) -> bytes | None:
        """The next line of the child; empty when it is dead, None when it was silent for stall_s."""
        child = self._alive()
        assert child.stdout is not None
        deadline = time.monotonic() + self.settings.stall_s
        while b"\n" not in self.buffer:
            ready, _, _ = select.select([child.stdout], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                return None
            chunk = os.read(child.stdout.fileno(), 65536)
            if not chunk:
                return b""
            self.buffer += chunk
        line, _, self.buffer = self.buffer.partition(b"\n")
        return line

    def _alive(self) -> subprocess.Popen[bytes]:
        if self.child is None:
            self.buffer = b""
            environment = os.environ | {"OMP_NUM_THREADS": str(self.threads)}
            self.child = subprocess.Popen(
                [sys.executable, "-m", "curate.isolate", self.settings.model_dump_json(), str(self.threads)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self.errors,
                env=environment,
            )
        return self.child

    def _epitaph(self) -> str:
        assert self.child is not None
        code = self.child.wait()
        self.errors.seek(max(0, self.errors.seek(0, os.SEEK_END) - 2000))
        said = self.errors.read().decode(errors="replace").strip().split("\n")[-1][:200]
        self._end()
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        return f"the decoder died ({how}{': ' + said if said else ''})"

    def _end(self) -> None:
        if self.child is not None:
            self.child.kill()
            self.child.wait()
            for stream in (self.child.stdin, self.child.stdout):
                if stream is not None:
                    with suppress(BrokenPipeError):  # it still held what the dead child never read
                        stream.close()
        self.child = None


# --------------------------------------------------------------------------------------------------------------- child


class Spool:
    """Rows of each table into an Arrow stream file of their own, a batch at a time."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.waiting: dict[str, list[dict[str, Any]]] = {}
        self.writers: dict[str, pa.RecordBatchStreamWriter] = {}

    def add(self, table: str, rows: list[dict[str, Any]]) -> None:
        self.waiting.setdefault(table, []).extend(rows)
        if len(self.waiting[table]) >= BATCH_ROWS:
            self._flush(table)

    def close(self) -> None:
        for table in list(self.waiting):
            self._flush(table)
        for writer in self.writers.values():
            writer.close()

    def _flush(self, table: str) -> None:
        from curate.tables import SCHEMAS, scores_schema, typed

        rows, self.waiting[table] = self.waiting[table], []
        if not rows:
            return
        if table.startswith("scores."):
            from curate.signals import SIGNALS

            schema = scores_schema(SIGNALS[table.removeprefix("scores.")].columns)
        else:
            schema = SCHEMAS[table]
        if table not in self.writers:
            self.writers[table] = pa.ipc.new_stream(str(self.folder / f"{table}.arrow"), schema)
        self.writers[table].write_table(typed(rows, schema))


def _serve(settings: Curate, threads: int, answers: int) -> None:
    def say(message: dict[str, Any]) -> None:
        os.write(answers, json.dumps(message).encode() + b"\n")

    from curate.beside import Beside

    with Beside() as beside:
        for line in sys.stdin.buffer:
            message = json.loads(line)
            say(_scanned(settings, threads, message, say, beside))


def _scanned(settings: Curate, threads: int, message: dict[str, Any], say: Callable[[dict[str, Any]], None],
             beside: Beside) -> dict[str, Any]:  # fmt: skip
    from curate.scan import Source, scan_video

    task = Task(**message["task"])
    if message["plan"]:
        return {"parts": _planned(task.path, settings)}
    source = Source(task.video_id, task.path, task.bytes, task.tag)
    spool = Spool(Path(message["spool"]))
    wall, cpu = time.monotonic(), _cpu_s() + beside.cpu_s()
    try:
        video = scan_video(source, settings, frozenset(task.want), spool.add, lambda frames: say({"beat": frames}),
                           threads, (task.part[0], task.part[1]) if task.part else None, beside)  # fmt: skip
        spool.close()
        decoded = video.pop("decoded", None) or video["frames_decoded"]
        return {"video": video, "cost": [time.monotonic() - wall, _cpu_s() + beside.cpu_s() - cpu, decoded]}
    except Exception as error:  # noqa: BLE001 (told to the parent, which counts it as a strike)
        return {"fault": f"{type(error).__name__}: {error}"[:500]}


def _cpu_s() -> float:
    """CPU seconds of this process and of those that it waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def _planned(path: str, settings: Curate) -> list[tuple[float, float]]:
    from curate.segments import plan
    from media.decode import Unplayable, Video

    try:
        with Video(path) as video:
            return plan(video.probe.container, video.probe.duration_s, settings)
    except Unplayable:
        return []


def _main() -> None:
    end_with(os.getppid())
    answers = os.dup(1)
    os.dup2(2, 1)  # what a library prints must not mix with the answers
    import cv2

    cv2.setNumThreads(1)  # its pictures are small, and a process with such threads cannot be forked
    from compat import keep_freed_memory
    from curate.scan import told

    keep_freed_memory(for_all_threads=False)
    gc.freeze()  # what is loaded stays: it need not be looked through for garbage
    _serve(told(sys.argv[1]), int(sys.argv[2]), answers)


if __name__ == "__main__":
    _main()
