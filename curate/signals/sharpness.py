"""Sharpness: variance of the Laplacian of luma at a long side of 512 px (smaller pictures as they are), twice a second; and detail, in
bits, of luma at full size, once a second.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from curate.seen import Clip, Record, Seen
from curate.sharpest import laplacian_variance
from curate.signals.detail import detail
from curate.signals.kinds import EverySeconds, Scores, Signal, median

STEP_S, DETAIL_STEP_S = 0.5, 1.0  # between looks at a picture, at a full-size one


class Watch:
    def __init__(self) -> None:
        self._due, self._detail_due = EverySeconds(STEP_S), EverySeconds(DETAIL_STEP_S)

    def see(self, seen: Seen) -> Record | None:
        if not self._due.due(seen.time_s):
            return None
        bits = detail(seen.full_luma) if self._detail_due.due(seen.time_s) else None
        return Record(seen.time_s, seen.time_s, (laplacian_variance(seen.luma), bits))


def summary(records: Sequence[Record], clip: Clip) -> Scores:
    """Medians over the clip: a few blurred or flashing frames do not decide. detail is unknown of a clip that no look fell into."""
    looks = [record.values[1] for record in records if record.values[1] is not None]
    return {"sharpness": median([record.values[0] for record in records]), "detail": median(looks)}


SIGNAL = Signal({"sharpness": pa.float64(), "detail": pa.float64()}, 6, "pass", Watch, summary)
