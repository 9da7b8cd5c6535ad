import time
from collections import Counter

import numpy as np
import pytest

from train import plan as plans
from train.plan import Plan, Pool


def pool(bucket, count, batch, weights=None, per_shard=10, cost=1.0, first=0):
    rows = np.arange(count)
    clips = np.array([f"{first + i:016x}" for i in rows], dtype="S16")
    weights = np.ones(count) if weights is None else np.asarray(weights, dtype=np.float64)
    return Pool(bucket, batch, cost, rows, rows // per_shard, clips, rows * 0, weights)


def epoch_batches(plan, feed, epoch):
    found, ordinal = [], 0
    while plan.locate(feed, ordinal)[0] <= epoch:
        if plan.locate(feed, ordinal)[0] == epoch:
            found.append(plan.micro_batch(feed, ordinal))
        ordinal += 1
    return found


def two_feeds(**options):
    feeds = [[pool("a", 33, 4), pool("b", 7, 3)], [pool("c", 50, 2, np.linspace(0.1, 3.1, 50))]]
    return Plan(feeds, [0.6, 0.4], **{"micro_batches": 6, "seed": 3} | options)  # type: ignore[arg-type]


def test_every_draw_of_an_epoch_comes_once_and_none_is_left_out():
    plan = two_feeds()
    for epoch in range(3):
        drawn = Counter(
            (b.bucket, row, o) for b in epoch_batches(plan, 0, epoch) for row, o in zip(b.rows, b.occurrences)
        )
        assert drawn == Counter({("a", row, 0): 1 for row in range(33)} | {("b", row, 0): 1 for row in range(7)})


def test_micro_batches_hold_one_bucket_and_their_batch_size():
    batches = epoch_batches(two_feeds(), 0, 0)
    assert Counter((b.bucket, len(b.rows)) for b in batches) == {("a", 4): 8, ("a", 1): 1, ("b", 3): 2, ("b", 1): 1}
    assert all(b.clips == tuple(f"{row:016x}" for row in b.rows) for b in batches)


def test_weights_are_drawn_floor_or_ceil_times_and_occurrences_count_them():
    plan, weights = two_feeds(), np.linspace(0.1, 3.1, 50)
    totals = np.zeros(50)
    for epoch in range(20):
        draws = [(r, o) for b in epoch_batches(plan, 1, epoch) for r, o in zip(b.rows, b.occurrences)]
        counts = np.bincount([row for row, _ in draws], minlength=50)
        assert np.all((counts == np.floor(weights)) | (counts == np.ceil(weights)))
        assert sorted(draws) == [(row, o) for row in range(50) for o in range(counts[row])]
        totals += counts
    assert np.abs(totals / 20 - weights).max() < 0.2  # independent offsets would miss by 0.35 with ease


def test_draws_keep_whole_weights_exact_and_the_total():
    generator = np.random.default_rng(0)
    assert np.array_equal(plans.draws(np.full(100_000, 2.0), 0.9999999999999999), np.full(100_000, 2))
    weights = generator.exponential(1.0, 5000)
    for offset in generator.random(50):
        counts = plans.draws(weights, offset)
        assert np.all((counts >= np.floor(weights)) & (counts <= np.ceil(weights)))
        assert abs(counts.sum() - weights.sum()) < 1
    mean = np.mean([plans.draws(weights, offset) for offset in (np.arange(1000) + 0.5) / 1000], axis=0)
    assert np.abs(mean - weights).max() < 2e-3  # unbiased


def test_a_step_is_a_function_of_its_number():
    forward = [two_feeds().step(i) for i in range(40)]
    plan = two_feeds()
    assert [plan.step(i) for i in reversed(range(40))] == forward[::-1]
    assert two_feeds(seed=4).step(0) != forward[0]
    assert two_feeds(seed=-1).step(0) != forward[0]


def test_epochs_differ_and_buckets_are_spread_over_them():
    plan = Plan([[pool("a", 400, 4), pool("b", 40, 4)]], [1.0], 1, 0)
    first, second = epoch_batches(plan, 0, 0), epoch_batches(plan, 0, 1)
    assert [b.rows for b in first] != [b.rows for b in second]
    at = [i for i, b in enumerate(first) if b.bucket == "b"]
    assert len(at) == 10 and all(11 * j - 1 <= i <= 11 * j + 12 for j, i in enumerate(at))


def test_windows_bound_how_many_shards_are_open_at_once():
    plan = Plan([[pool("a", 1000, 5, per_shard=10)]], [1.0], 1, 0, window=4)
    order = [row // 10 for b in epoch_batches(plan, 0, 0) for row in b.rows]
    for start in range(0, 1000, 40):
        assert len(set(order[start : start + 40])) == 4
    assert order[:40] != sorted(order[:40])


@pytest.mark.parametrize("shares", [[0.6, 0.4], [1.0], [0.7, 0.2, 0.1], [5.0, 3.0, 1.0, 1.0]])
def test_feeds_are_interleaved_by_share(shares):
    ratios = np.array(shares) / sum(shares)
    feeds, ordinals = plans.slots(ratios, 0, 5000)
    for feed, ratio in enumerate(ratios):
        assert np.array_equal(ordinals[feeds == feed], np.arange((feeds == feed).sum()))
        assert np.abs(np.cumsum(feeds == feed) - ratio * np.arange(1, 5001)).max() <= 1.5
    for first in (1, 17, 1234, 4900):
        there = plans.slots(ratios, first, 100)
        assert np.array_equal(there[0], feeds[first : first + 100])
        assert np.array_equal(there[1], ordinals[first : first + 100])


def test_every_step_holds_every_feed_in_the_ratio():
    plan = two_feeds(mix="every_step", micro_batches=10)
    taken = [Counter(b.feed for b in plan.step(i)) for i in range(30)]
    assert all(one == {0: 6, 1: 4} for one in taken)
    ordinals = [b for i in range(30) for b in plan.step(i) if b.feed == 0]
    assert ordinals == [plan.micro_batch(0, i) for i in range(180)]
    with pytest.raises(ValueError, match="multiple of 5, got 6"):
        two_feeds(mix="every_step")


def texts_of(count, seed=0, variants=3):
    lengths = np.random.default_rng(seed).integers(4, 200, (count, variants))
    return lengths, plans.Texts(lengths.reshape(-1), np.arange(count + 1) * variants)


def of_draw(feed, epoch, occurrence, clip, tick, lengths):
    """A variant that the draw's own name decides about; some texts are dropped."""
    number = int(clip, 16) + 7 * occurrence + 13 * epoch
    return 0 if number % 11 == 0 else int(lengths[number % len(lengths)])


def with_texts(count=1000, batch=8, seed=3, text_of=of_draw):
    weights = np.random.default_rng(1).gamma(4.0, 0.25, count)
    feed = [pool("a", count, batch, weights)._replace(texts=texts_of(count)[1])]
    return Plan([feed], [1.0], 4, seed, text_of=text_of), texts_of(count)[0]


def padding(batches, lengths):
    """Share of the text tokens of padded micro-batches that are padding."""
    rows = [
        [of_draw(0, b.epoch, o, c, 0, lengths[r]) for r, o, c in zip(b.rows, b.occurrences, b.clips)] for b in batches
    ]
    return 1 - sum(map(sum, rows)) / sum(max(1, *one) * len(one) for one in rows)


def test_samples_of_similar_texts_share_a_micro_batch_and_none_is_lost():
    (sorted_plan, lengths), (plain, _) = with_texts(), with_texts(text_of=None)
    for epoch in range(2):
        mine, other = (epoch_batches(one, 0, epoch) for one in (sorted_plan, plain))
        assert Counter(len(b.rows) for b in mine) == Counter(len(b.rows) for b in other)
        held = [sorted((r, o) for b in one for r, o in zip(b.rows, b.occurrences)) for one in (mine, other)]
        assert held[0] == held[1]
        assert padding(mine, lengths) < 0.03 < 0.4 < padding(other, lengths)


def test_sorted_micro_batches_are_a_function_of_the_step_and_come_in_no_order_of_length():
    forward = [with_texts()[0].step(i) for i in range(80)]
    plan, lengths = with_texts()
    assert [plan.step(i) for i in reversed(range(80))] == forward[::-1]
    batches = epoch_batches(plan, 0, 0)
    longest = [max(of_draw(0, 0, o, c, 0, lengths[r]) for r, o, c in zip(b.rows, b.occurrences, b.clips))
               for b in batches]  # fmt: skip
    assert abs(np.corrcoef(longest[:-1], longest[1:])[0, 1]) < 0.25  # in sorted stretches it would be 0.97
    assert with_texts(seed=4)[0].step(0) != forward[0]


def test_ranks_share_out_every_micro_batch_evenly():
    costs = [9.0, 1.0, 1.0, 9.0, 5.0, 4.0, 5.0, 4.0]
    for ranks in (1, 2, 4, 8):
        shared = plans.share_out(costs, ranks)
        assert sorted(i for one in shared for i in one) == list(range(8))
        assert {len(one) for one in shared} == {8 // ranks}
    assert [sum(costs[i] for i in one) for one in plans.share_out(costs, 2)] == [19.0, 19.0]
    with pytest.raises(ValueError, match=r"8 micro_batches .* 3 ranks, only to 1, 2, 4 or 8"):
        plans.share_out(costs, 3)


def test_a_feed_without_samples_is_refused():
    with pytest.raises(ValueError, match="feed 1 has no samples"):
        Plan([[pool("a", 3, 1)], [pool("b", 3, 1, np.zeros(3))]], [0.5, 0.5], 1, 0)


def test_a_million_rows_give_their_first_step_in_half_a_second():
    """Timed against a fixed piece of numpy work, so that a busy machine does not fail it."""
    rows = np.arange(1_000_000)
    clips = rows.astype("S16")
    weights = np.random.default_rng(0).exponential(1.0, len(rows))
    big = [Pool("a", 8, 1.0, rows, rows // 1000, clips, rows, weights)]
    started = time.process_time()
    Plan([big], [1.0], 8, 0).step(0)
    assert time.process_time() - started < 1.0


def test_samples_per_batch():
    assert [plans.samples_per_batch(1280, tokens) for tokens in (256, 1280, 5000, 1000)] == [5, 1, 1, 1]
