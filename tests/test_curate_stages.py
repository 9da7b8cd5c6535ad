"""Which job may begin when: order, bounded queues, retries, and that nothing is done twice or left; what it cost."""

from __future__ import annotations

import random
import time

import pytest

import pipelines
from curate.stages import CPU, GPU, Lost, Schedule, uses_gpu
from curate.tally import Tally, Told
from curate.unit import SCAN, Done, Job
from tests.select_tables import make_recipe

TABLES = ("scores.people", "scores.text", "embeddings")
LEARNED = {"embed": {"model": "some-tower", "pretrained": "w"}}


def recipe(**curate) -> pipelines.Recipe:
    return make_recipe({"all": {}}, **curate)


def jobs(units: int, threads: int = 1) -> list[Job]:
    scans = [Job(SCAN, unit, {}, [], ["clips"], threads) for unit in range(units)]
    return scans + [Job(name, unit, {}, [], [name], 1) for unit in range(units) for name in TABLES]


def done(job: Job) -> Done:
    return Done(job.stage, job.unit, 1, 2, 3.0, 40, 44, 5.0, 4.0, 6.0, job.tables)


def test_a_job_that_is_begun_again_counts_its_videos_once() -> None:
    """Its first attempt got to the second video, the next one does all three; another unit in between."""
    told, first, other = Told(), (SCAN, 0), (SCAN, 1)
    for videos in (1, 2):
        told.reached(first, videos)
    told.reached(other, 1)
    told.add(first, "alive", 4)
    assert told.take() == ({"video": 3, "alive": 4}, {first, other})
    told.reached(first, 1)
    told.reached(first, 2)
    assert told.take() == ({}, {first}), "nothing new, but a word was heard"
    told.reached(first, 3)
    assert told.take() == ({"video": 1}, {first}) and told.take() == ({}, set())


def test_tables_wait_for_their_unit_and_go_before_the_next_scan() -> None:
    schedule = Schedule(jobs(2), recipe())
    first = schedule.begin(CPU, 1)
    assert first and first.key == (SCAN, 0) and schedule.begin(CPU, 0) is None
    schedule.end(done(first))
    assert [job.key for job in iter(lambda: schedule.begin(CPU, 1), None)] == [
        *((name, 0) for name in TABLES),
        (SCAN, 1),
    ]


def test_a_table_that_alone_is_missing_needs_no_scan() -> None:
    schedule = Schedule([Job("embeddings", 3, {}, [], ["embeddings"], 1)], recipe())
    job = schedule.begin(CPU, 1)
    assert job and job.stage == "embeddings"
    schedule.end(done(job))
    assert schedule.finished


def test_scanning_holds_while_the_gpu_is_behind() -> None:
    schedule = Schedule(jobs(9), recipe(**LEARNED, workers={"waiting": 2}), gpu=1)
    begun = []
    while job := schedule.begin(CPU, 1):
        begun.append(job.stage)
        schedule.end(done(job))
    assert begun.count(SCAN) == 2 and schedule.waiting == 2  # two wait: the third scan must not begin
    network = schedule.begin(GPU, 1)
    assert network and network.stage == "embeddings"
    after = schedule.begin(CPU, 1)
    assert after and after.stage == SCAN


def test_networks_alone_go_to_the_gpu_and_only_where_there_is_one() -> None:
    learned = recipe(**LEARNED, signals={"people": {"weights": "yolox.onnx"}, "quality": {"weights": "dover.onnx"}})
    assert [name for name in (SCAN, *TABLES, "scores.quality") if uses_gpu(name, learned)] == [
        "embeddings",
        "scores.quality",
    ]
    assert not any(uses_gpu(name, recipe(signals={"quality": {}})) for name in (SCAN, *TABLES, "scores.quality"))
    without = Schedule(jobs(1), learned, gpu=0)
    assert without.left(GPU) == 0 and without.left(CPU) == 4


def test_a_job_whose_worker_dies_is_begun_again_and_then_given_up() -> None:
    schedule = Schedule(jobs(2), recipe(workers={"attempts": 3}))
    again = []
    while not schedule.finished:
        job = schedule.begin(CPU, 1)
        assert job
        if job.key == (SCAN, 1):
            again.append(schedule.fail(job, "killed"))
        else:
            schedule.end(done(job))
    assert again == [True, True, False] and schedule.retries(SCAN) == 2
    with pytest.raises(Lost, match=r"scan of unit 1 lost its worker 3 times \(killed\); all else is done"):
        schedule.check()


@pytest.mark.parametrize("seed", range(20))
def test_every_job_ends_once_whatever_dies_and_however_slots_lie(seed: int) -> None:
    """A machine of a few slots and GPUs, jobs ending and dying in any order: all done, bounds kept, nothing stuck."""
    draw = random.Random(seed)
    slots, gpus = draw.randint(1, 6), draw.randint(0, 2)
    every = jobs(draw.randint(1, 12), draw.randint(1, slots))
    schedule = Schedule(every, recipe(**LEARNED, workers={"attempts": 1000, "waiting": draw.randint(1, 3)}), gpu=gpus)
    free, running, ended = {CPU: slots, GPU: gpus}, [], []
    while not schedule.finished:
        for pool in free:
            while job := schedule.begin(pool, free[pool]):
                free[pool] -= job.threads
                running.append((pool, job))
        assert running, "something waits and nothing runs"
        assert min(free.values()) >= 0
        behind = len(schedule.queues[GPU].later)
        assert behind <= schedule.most_waiting + slots  # those under way may still add theirs
        pool, job = running.pop(draw.randrange(len(running)))
        free[pool] += job.threads
        if draw.random() < 0.2:
            assert schedule.fail(job, "killed")
        else:
            ended.append(job.key)
            schedule.end(done(job))
    assert sorted(ended) == sorted(job.key for job in every)
    place = {key: number for number, key in enumerate(ended)}
    assert all(place[SCAN, unit] <= number for (_, unit), number in place.items())


def test_a_million_videos_are_no_work_to_schedule() -> None:
    """16,000 units of 64, four jobs each: the bookkeeping of all of them takes seconds, so nothing is looked through."""
    started, schedule = time.process_time(), Schedule(jobs(16_000), recipe())
    while job := schedule.begin(CPU, 1):
        schedule.end(done(job))
    assert schedule.finished and schedule.left(CPU) == 0
    assert time.process_time() - started < 5.0


def test_the_tally_adds_up_and_knows_who_waited() -> None:
    now = iter(range(0, 1000, 10))
    schedule = Schedule(jobs(2), recipe(), clock=lambda: float(next(now)))
    tally = Tally()
    while not schedule.finished:
        job = schedule.begin(CPU, 1)
        assert job
        schedule.end(done(job))
        tally.add(done(job))
    tally.close(schedule, seconds=25.0, slots=2, stored_bytes=0)
    facts = tally.facts()
    assert facts["stages"][SCAN]["jobs"] == 2 and facts["stages"][SCAN]["clips"] == 4
    assert facts["stages"]["embeddings"]["clips_per_s"] == pytest.approx(2 / 5)
    assert facts["stages"]["embeddings"]["video_s_per_s"] == pytest.approx(3 / 5)
    assert facts["stages"][SCAN]["most_waiting"] == 2 and facts["stages"][SCAN]["waited_s"] > 0
    assert tally.videos == 8 and len(tally.units) == 2
    assert facts["kernel_s"] == 40.0 and facts["kernel_share"] == pytest.approx(40 / 50)
    assert facts["cpu_share"] == pytest.approx(32 / 50)
    assert tally.amplification == pytest.approx(44 / 40)
    lines = tally.lines()
    assert (
        len(lines) == 1 + 4 + 1 and "frames decoded / source 1.10" in lines[-1] and "(wall x 2 cores) 0.80" in lines[-1]
    )
    assert {len(line) for line in lines[:-1]} == {len(lines[0])}, "columns stand under their heads"


def test_a_share_of_a_gpu_is_a_part_or_whole_ones() -> None:
    assert recipe(workers={"gpus": 0.25}).curate.workers.gpus == 0.25
    assert recipe(workers={"gpus": 2.0}).curate.workers.gpus == 2.0
    with pytest.raises(pipelines.RecipeError, match="a share of one GPU or a whole number of them"):
        recipe(workers={"gpus": 1.5})
