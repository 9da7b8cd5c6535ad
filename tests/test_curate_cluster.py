"""`curate` on a Ray that runs already: as a job, with a (pretended) GPU, beside others; it leaves nothing behind there."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from curate_runs import BIN, CURATE, LEAN_OPTIONS, command, curate, event, fill, hands, listening
from table_digest import digest

from scripts.demo import private_ray

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

LOOPBACK = {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}


@pytest.fixture(scope="module")
def small(generated: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fill(generated, tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="module")
def cluster() -> Iterator[tuple[str, dict[str, str]]]:
    """Dashboard's address and environment of a Ray of 2 CPUs that believes to have a GPU."""
    with private_ray("--num-cpus=2", "--num-gpus=1") as (address, environment):
        yield address, environment


@pytest.fixture(scope="module")
def expected(small: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    workspace = tmp_path_factory.mktemp("whole") / "work"
    curate(workspace, small)
    return digest(workspace)


def processes() -> dict[int, bytes]:
    """Every process of this machine: pid -> command line."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found[int(entry.parent.name)] = entry.read_bytes()
        except OSError:
            continue  # ended meanwhile
    return found


def workers(cluster: tuple[str, dict[str, str]]) -> set[int]:
    """Those of the cluster in which a `curate` hand lives."""
    folder = cluster[1]["RAY_TMPDIR"].encode()
    raylets = [pid for pid, line in processes().items() if folder in line and b"/raylet" in line.split(b"\0")[0]]
    return {pid for raylet in raylets for pid in hands(raylet)}


def test_a_submitted_job_uses_the_cluster_and_ends_with_its_code(
    cluster: tuple[str, dict[str, str]], small: Path, tmp_path: Path, expected: dict[str, str]
) -> None:
    address, environment = cluster
    submit = [
        str(BIN / "ray"),
        "job",
        "submit",
        "--address",
        address,
        "--",
        *command(tmp_path / "work", small, local=False),
    ]
    done = subprocess.run(submit, env=environment, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout[-3000:]
    assert "on the Ray cluster at 127.0.0.1:" in done.stdout + done.stderr and "private" not in done.stdout
    assert digest(tmp_path / "work") == expected
    wrong = subprocess.run(
        [*submit, "--only", "nonsense"], env=environment, capture_output=True, text=True, timeout=400
    )
    assert wrong.returncode != 0 and "must be one of" in wrong.stdout + wrong.stderr


def test_it_listens_nowhere_but_on_loopback(cluster: tuple[str, dict[str, str]]) -> None:
    folder = cluster[1]["RAY_TMPDIR"].encode()
    addresses = listening([pid for pid, line in processes().items() if folder in line])
    assert len(addresses) >= 4 and set(addresses) <= LOOPBACK


@pytest.mark.parametrize(("gpus", "most"), [(0.5, 4), (1.0, 3)])
def test_networks_have_workers_of_their_own_on_shares_of_a_gpu(
    cluster: tuple[str, dict[str, str]], small: Path, tmp_path: Path, tiny_clip: Path, gpus: float, most: int
) -> None:
    """Two CPU workers, and one or two beside them that take a GPU; the rows are those of a run without."""
    learned = ("--set", f"curate.embed={{model: {tiny_clip}, same: 0.97}}")
    share = ("--set", f"curate.workers={{gpus: {gpus}, gpu_cpus: 0, waiting: 1}}")
    environment = cluster[1] | {"RAY_ADDRESS": head(cluster)}
    process = subprocess.Popen(command(tmp_path / "ray", small, *learned, *share, local=False), env=environment, stdout=-1,
                               stderr=-1, text=True, cwd=small.parent)  # fmt: skip
    seen = 0
    while process.poll() is None:
        seen = max(seen, len(workers(cluster)))
        time.sleep(0.1)
    out, said = process.communicate()
    assert process.returncode == 0, said
    stages = event(out, "stages")["stages"]
    assert stages["embeddings"]["pool"] == "gpu" and stages["scan"]["pool"] == "cpu" and seen == most
    assert stages["embeddings"]["jobs"] == 3 and stages["embeddings"]["most_waiting"] <= 1 + 2
    curate(tmp_path / "here", small, *learned)
    assert digest(tmp_path / "ray") == digest(tmp_path / "here")
    deadline = time.monotonic() + 20
    while workers(cluster) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not workers(cluster), "the cluster is as it was"


def test_a_run_waits_for_cpus_that_others_hold_and_says_so(
    cluster: tuple[str, dict[str, str]], small: Path, tmp_path: Path
) -> None:
    hog = subprocess.Popen([str(BIN / "python"), "-c", HOG], env=cluster[1] | {"RAY_ADDRESS": head(cluster)}, stdout=-1,
                           text=True)  # fmt: skip
    assert hog.stdout and hog.stdout.readline().strip() == "held"
    done = subprocess.run([*CURATE, "--footage", str(small), "--workspace", str(tmp_path / "work"), *LEAN_OPTIONS],
                          env=cluster[1] | {"RAY_ADDRESS": head(cluster)}, capture_output=True, text=True, timeout=400)  # fmt: skip
    hog.wait(60)
    assert done.returncode == 0, done.stderr
    assert "waiting for a worker with 1 CPU (0 CPU free)" in done.stderr


HOG = """
import ray, time
ray.init(log_to_driver=False)
@ray.remote(num_cpus=2)
class Hog:
    def held(self): return "held"
hog = Hog.remote()
print(ray.get(hog.held.remote()), flush=True)
time.sleep(25)
"""


def head(cluster: tuple[str, dict[str, str]]) -> str:
    """host:port of the cluster, as a job would find it in RAY_ADDRESS."""
    folder = cluster[1]["RAY_TMPDIR"].encode()
    for line in processes().values():
        for part in line.split(b"\0") if folder in line else ():
            if part.startswith(b"--gcs-address="):
                return part.split(b"=", 1)[1].decode()
    raise AssertionError("the cluster is not there")
