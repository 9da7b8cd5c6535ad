"""Sharpness: variance of the Laplacian of luma at a long side of 512 px (smaller pictures as they are)."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from curate.signals.kinds import Clip, Record, Scores, Seen, Signal, median


class Watch:
    def see(self, seen: Seen) -> Record:
        return Record(seen.time_s, seen.time_s, seen.sharpness)


def summary(records: Sequence[Record], clip: Clip) -> Scores:
    """Median over the clip: a few blurred or flashing frames do not decide."""
    return {"sharpness": median([record.values for record in records])}


SIGNAL = Signal({"sharpness": pa.float64()}, 2, "pass", Watch, summary)
