"""How every command behaves: exit codes, signals, one clear line per error, one holder per workspace.

0 whole · 1 error · 2 usage or recipe · 3 busy · 4 finished, but lost more than `max_loss` · 130 / 143 interrupted and
resumable. The first signal lets the part at hand finish, the second stops at once.
"""

from __future__ import annotations

import atexit
import json
import os
import resource
import signal
import socket
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from media import storage
from pipelines import RecipeError

LEASE_S = 60.0  # a holder on an object store that has not renewed for this long is dead
SETTLE_S = 0.5  # after taking a lease: of several that took it at once the last writer has it


class Busy(RuntimeError):
    """Somebody else works here. Exit code 3."""


class TooMuchLost(RuntimeError):
    """The run is finished, but lost more than the recipe allows. Exit code 4."""


class Interrupted(RuntimeError):
    """Stopped on request at a point from which the same command goes on. number: the signal's."""

    def __init__(self, number: int):
        super().__init__(signal.Signals(number).name)
        self.number = number


class Stop:
    """Turns the first SIGINT / SIGTERM into a wish that `check()` raises between parts; the second one ends at once."""

    def __init__(self) -> None:
        self.number: int | None = None
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._asked)

    def _asked(self, number: int, _frame: Any) -> None:
        if self.number is not None:
            os._exit(128 + number)
        self.number = number
        print("\nstopping after the part at hand; once more to stop now", file=sys.stderr, flush=True)

    @property
    def asked(self) -> bool:
        """For loops that end by themselves, save, and only then check()."""
        return self.number is not None

    def check(self) -> None:
        if self.number is not None:
            raise Interrupted(self.number)


@contextmanager
def keep_handlers() -> Iterator[None]:
    """Handlers of the signals that Stop minds are the same after the block: Ray puts its own in their place."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run(body: Callable[[], int | None]) -> NoReturn:
    """Run a command's body and leave with the house's exit code. A traceback is shown only with DAILIES_DEBUG=1."""
    if os.environ.get("DAILIES_DEBUG") != "1":
        warnings.simplefilter("ignore")  # libraries' remarks to programmers, not to the person at this command
    try:
        code = body() or 0
    except Exception as error:  # noqa: BLE001 (the one place where every error becomes a line and a code)
        code = _explain(error)
    except KeyboardInterrupt:
        code = 130
    sys.stdout.flush()
    sys.exit(code)


def main(body: Callable[[], int | None]) -> NoReturn:
    """`run`, for a process that is this command: once the exit handlers have run it ends without unloading anything.

    Native libraries that keep threads (decoders, Arrow, S3) now and then abort while the interpreter takes them down
    ("terminate called without an active exception"): everything was done, and the exit code said that it was not.
    """
    code: Any = 1
    try:
        run(body)
    except SystemExit as left:
        code = left.code
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else 1)


def go_on() -> str:
    """The command line that continues this run."""
    program = os.path.basename(sys.argv[0])
    if program.endswith(".py"):
        spec = getattr(sys.modules["__main__"], "__spec__", None)
        program = f"python -m {spec.name.removesuffix('.__main__')}" if spec else f"python {sys.argv[0]}"
    return " ".join([program, *sys.argv[1:]])


def _explain(error: Exception) -> int:
    if os.environ.get("DAILIES_DEBUG") == "1":
        traceback.print_exc()
    if isinstance(error, Interrupted):
        print(f"interrupted; go on with: {go_on()}", file=sys.stderr)
        return 128 + error.number
    if hasattr(error, "format_message"):  # a usage error of the command line parser
        print(f"error: {error.format_message()} (--help teaches)", file=sys.stderr)  # type: ignore[attr-defined]
        return 2
    for kind, code in ((Busy, 3), (TooMuchLost, 4), (RecipeError, 2), (FileNotFoundError, 2), (PermissionError, 2)):
        if isinstance(error, kind):
            print(f"error: {_text(error)}", file=sys.stderr)
            return code
    if type(error).__module__.split(".")[0] in ("botocore", "aiobotocore", "gcsfs"):
        print(
            f"error: the object store cannot be used: {_text(error)}; check its name, endpoint and keys",
            file=sys.stderr,
        )
        return 2
    hint = "" if os.environ.get("DAILIES_DEBUG") == "1" else " (DAILIES_DEBUG=1 shows where)"
    print(f"error: {type(error).__name__}: {_text(error)}{hint}", file=sys.stderr)
    return 1


def _text(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split("\n")) if not isinstance(error, RecipeError) else str(error)


# ---------------------------------------------------------------------------------------------------------------- lock


@contextmanager
def hold(folder: str, what: str) -> Iterator[None]:
    """Be the only one of `what` in a folder, local or on a store. Raises Busy naming the holder; the dead are replaced.

    Locally an flock, which the system frees with its process; on a store a lease, renewed every third of LEASE_S.
    """
    path = storage.join(folder, f".{what}.lock")
    with _lease(path) if storage.is_remote(path) else _flock(path):
        yield


@contextmanager
def _flock(path: str) -> Iterator[None]:
    import fcntl

    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        file = open(path, "a+")  # noqa: SIM115 (held until the end)
    except OSError as error:
        raise PermissionError(error.errno, f"cannot write there ({error.strerror})", os.path.dirname(path)) from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.seek(0)
            raise Busy(f"{os.path.dirname(path)} is busy: {_who(file.read())} works here") from None
        file.truncate(0)
        file.write(_me())
        file.flush()
        yield


@contextmanager
def _lease(path: str) -> Iterator[None]:
    if storage.exists(path):
        held = json.loads(storage.read_bytes(path))
        if time.time() - held["time"] < LEASE_S and not _dead_here(held):
            raise Busy(f"{path} is held by {_who(json.dumps(held))}; it lapses {LEASE_S:.0f} s after its holder's end")
    mine = _me().encode()
    storage.write_bytes(path, mine)
    time.sleep(SETTLE_S)
    if (now := storage.read_bytes(path)) != mine:
        raise Busy(f"{path} is held by {_who(now.decode())}, who took it at the same moment")
    done = threading.Event()

    def renew() -> None:
        while not done.wait(LEASE_S / 3):
            storage.write_bytes(path, _me().encode())

    thread = threading.Thread(target=renew, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        storage.remove(path)


def _me() -> str:
    return json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "time": time.time(), "command": go_on()})


def _who(text: str) -> str:
    try:
        held = json.loads(text)
        return f"process {held['pid']} on {held['host']} ({held['command']})"
    except (ValueError, KeyError):
        return "another process"


def _dead_here(held: dict[str, Any]) -> bool:
    return held["host"] == socket.gethostname() and not runs(held["pid"])


def peak_resident_bytes() -> float:
    """The most memory that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1.0 if sys.platform == "darwin" else 1024.0)


def runs(pid: int) -> bool:
    """Whether this machine has such a process, be it another user's."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


# ------------------------------------------------------------------------------------------------------------ progress


class Progress:
    """One line on standard error: done / total, rate, time left. as_json: JSON lines on standard output instead.

    On a terminal the line is redrawn twice a second, elsewhere written every ten seconds and at the end.
    """

    def __init__(self, what: str, total: int, as_json: bool = False):
        self.what, self.total, self.as_json = what, total, as_json
        self.done = 0
        self.extra: dict[str, Any] = {}
        self.started = time.monotonic()
        self.shown = 0.0
        self.lock = threading.Lock()

    def add(self, count: int = 1, **extra: Any) -> None:
        with self.lock:
            self.done += count
            self.extra |= extra
            every = 0.5 if sys.stderr.isatty() or self.as_json else 10.0
            if time.monotonic() - self.shown >= every:
                self._show()

    def close(self) -> None:
        with self.lock:
            self._show(end="\n")

    def _show(self, end: str = "") -> None:
        self.shown = time.monotonic()
        seconds = max(1e-6, self.shown - self.started)
        rate = self.done / seconds
        left = (self.total - self.done) / rate if rate else None
        if self.as_json:
            event = {"what": self.what, "done": self.done, "total": self.total, "per_s": rate, "left_s": left}
            print(json.dumps(event | self.extra), flush=True)
            return
        facts = "".join(f" · {value} {key}" for key, value in self.extra.items())
        time_left = "" if left is None or self.done >= self.total else f" · {clock(left)} left"
        line = f"{self.what} {self.done}/{self.total} · {rate:.3g}/s{facts}{time_left}"
        redraw = sys.stderr.isatty()
        print(f"\r\x1b[K{line}" if redraw else line, end=end if redraw else "\n", file=sys.stderr, flush=True)


def clock(seconds: float) -> str:
    """61 -> '1:01', 3700 -> '1:01:40'."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
