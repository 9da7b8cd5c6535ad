"""`make demo`: footage -> a private Ray -> curate -> cache -> train -> samples, with the three commands as typed.

Everything is made under data/ and work/demo; a second run re-does nothing that is up to date.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
WORK = ROOT / "work" / "demo"
STAGE = "256px"
PROMPT = "Pink triangles in front of a city of brown houses under a teal sky. Camera: pan right."


def main() -> None:
    os.chdir(ROOT)
    timings: dict[str, float] = {}
    if not footage_is_current():
        run(timings, "footage", [sys.executable, "-m", "examples.footage", "data/footage"])
    with private_ray() as (address, environment):
        run(timings, "curate", [str(BIN / "ray"), "job", "submit", "--address", address, "--", "curate"], environment)
    run(timings, "cache", [sys.executable, "-m", "cache.encode_latents", "--stage", STAGE])
    run(timings, "train", [sys.executable, "-m", "train.run", "--stage", STAGE])
    run(timings, "sample", [sys.executable, "-m", "train.sample", "--stage", STAGE, "--prompt", PROMPT])
    run({}, "report", [sys.executable, "-m", "train.report", "--stage", STAGE])
    (WORK / "timings.json").write_text(json.dumps(timings, indent=1))
    subprocess.run([str(BIN / "curate"), "status"], check=True)
    print("\ntimes:", ", ".join(f"{name} {seconds:.1f} s" for name, seconds in timings.items()))
    print("\npictures:")
    for what, where in pictures():
        print(f"  {what:<32} {where}")


def footage_is_current() -> bool:
    """Whether data/footage was rendered by examples/ as it stands: its truth is younger than every source."""
    truth = ROOT / "data" / "footage" / "truth.json"
    sources = (ROOT / "examples").glob("*.py")
    return truth.is_file() and truth.stat().st_mtime > max(path.stat().st_mtime for path in sources)


def run(timings: dict[str, float], step: str, command: list[str], environment: dict[str, str] | None = None) -> None:
    """One step, its output passed through. Leaves with the step's exit code when it fails."""
    shown = " ".join(Path(part).name if part.startswith(str(BIN)) else part for part in command)
    print(f"\n--- {step}: {shown}", flush=True)
    started = time.monotonic()
    code = subprocess.run(command, env=environment).returncode
    timings[step] = round(time.monotonic() - started, 2)
    if code:
        sys.exit(f"the step '{step}' ended with exit code {code}; `make demo` again goes on from here")


@contextmanager
def private_ray(*options: str) -> Iterator[tuple[str, dict[str, str]]]:
    """A Ray head with free ports and a temporary folder of its own, ended by its pid: other Rays are not touched."""
    folder = tempfile.mkdtemp(prefix="dly", dir="/tmp" if os.path.isdir("/tmp") else None)
    head, dashboard = free_port(), free_port()
    environment = os.environ | {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled", "RAY_TMPDIR": folder}
    environment.pop("RAY_ADDRESS", None)
    environment["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # stays on 127.0.0.1, see compat.keep_ray_on_loopback
    command = [str(BIN / "ray"), "start", "--head", "--block", f"--port={head}", f"--temp-dir={folder}"]
    command += ["--node-ip-address=127.0.0.1", "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}"]
    command += ["--object-store-memory=200000000", f"--ray-client-server-port={free_port()}"]
    command += [f"--dashboard-agent-listen-port={free_port()}", f"--metrics-export-port={free_port()}", *options]
    environment["PATH"] = f"{BIN}{os.pathsep}{environment.get('PATH', '')}"
    print(f"\n--- a private Ray on 127.0.0.1:{head}", flush=True)
    with open(Path(folder, "start.log"), "wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        address = f"http://127.0.0.1:{dashboard}"
        wait_for(process, dashboard, Path(folder, "start.log"))
        yield address, environment
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
        shutil.rmtree(folder, ignore_errors=True)


def wait_for(process: subprocess.Popen[bytes], port: int, log: Path, patience_s: float = 60.0) -> None:
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        if process.poll() is not None:
            sys.exit(f"Ray did not start:\n{log.read_text()[-2000:]}")
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.2)
    sys.exit(f"Ray did not answer within {patience_s:.0f} s:\n{log.read_text()[-2000:]}")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def pictures() -> list[tuple[str, Path]]:
    wanted = (
        ("kept and dropped, with reasons", "report/index.html"),
        ("contact sheet of kept clips", "report/kept*.png"),
        ("contact sheet of dropped clips", "report/dropped*.png"),
        ("loss curve", f"runs/{STAGE}/**/loss*.png"),
        ("sample grid", f"runs/{STAGE}/**/*grid*.png"),
        ("a generated clip", f"runs/{STAGE}/**/*.mp4"),
    )
    found = [(what, sorted(WORK.glob(pattern))) for what, pattern in wanted]
    return [(what, paths[-1].relative_to(ROOT)) for what, paths in found if paths]


if __name__ == "__main__":
    main()
