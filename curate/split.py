"""Train or validation: by groups of videos that share a copy, so that validation shows nothing that was trained on.

A group is what is connected by "same video" and "copy of". Its place on [0, 1) is the smallest hash of its videos'
ids; below the share it is validation. So a new clip of a known video, or a new video that copies nothing, moves no one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pyarrow as pa

TRAIN, VAL = "train", "val"


def place(video_id: str) -> float:
    """A fixed number in [0, 1) of a video, as good as drawn at random."""
    import xxhash

    return xxhash.xxh3_64_intdigest(f"split:{video_id}".encode()) / 2.0**64


def groups(clip_ids: Sequence[str], video_ids: Sequence[str], keepers: Sequence[str | None]) -> np.ndarray:
    """Clips, their videos and keepers (None for no duplicate) -> group of each clip, int64 (N,), 0-based."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    videos = {video: index for index, video in enumerate(dict.fromkeys(video_ids))}
    video_of = dict(zip(clip_ids, video_ids, strict=True))
    own = np.array([videos[video] for video in video_ids], dtype=np.int64)
    other = [videos[video_of.get(keeper or "", video)] for keeper, video in zip(keepers, video_ids, strict=True)]
    links = coo_matrix((np.ones(len(own)), (own, np.array(other, dtype=np.int64))), shape=(len(videos), len(videos)))
    return connected_components(links, directed=False)[1][own].astype(np.int64)


def splits(
    group: np.ndarray, video_ids: Sequence[str], share: float, kept: Iterable[np.ndarray], known: pa.Array | None = None
) -> np.ndarray:
    """Group of each clip (N,), its video, the share of validation -> bool (N,): True is validation; for all sets alike.

    kept: for each set, bool (N,) of its kept clips. A set that keeps clips of two groups or more, and none of them in
    validation, gets the group with the smallest place; this is what makes small footage have a validation loss.
    known: the split of each clip in an earlier ledger, or null: a group with trained clips stays in training, another
    known one in validation, so that no new footage ever turns what was trained on into validation.
    """
    count = int(group.max()) + 1 if len(group) else 0
    places = np.full(count, np.inf)
    np.minimum.at(places, group, np.array([place(video) for video in video_ids]))
    chosen = places < share
    fixed = _known(group, count, known)
    for index, is_val in fixed.items():
        chosen[index] = is_val
    if share > 0:
        for mask in kept:
            _ensure(chosen, places, np.unique(group[mask]), fixed)
    return chosen[group] if count else np.zeros(0, bool)


def _ensure(chosen: np.ndarray, places: np.ndarray, present: np.ndarray, fixed: Mapping[int, bool]) -> None:
    """At least one of the present groups in validation, and one in training, where there are two and they are free."""
    free = [index for index in present[np.argsort(places[present], kind="stable")].tolist() if index not in fixed]
    if len(present) < 2 or not free:
        return
    if not chosen[present].any():
        chosen[free[0]] = True
    elif chosen[present].all():
        chosen[free[-1]] = False


def _known(group: np.ndarray, count: int, known: pa.Array | None) -> dict[int, bool]:
    """Group -> whether it is validation, where an earlier ledger says so; training wins."""
    if known is None:
        return {}
    names = np.array(known.to_pylist(), dtype=object)
    trained, validated = np.zeros(count, bool), np.zeros(count, bool)
    trained[group[names == TRAIN]] = True
    validated[group[names == VAL]] = True
    return {int(index): not trained[index] for index in np.flatnonzero(trained | validated)}
