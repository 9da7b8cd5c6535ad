"""Sharpness: variance of the Laplacian of luma at a long side of 512 px (smaller pictures as they are); and detail, in bits, of
luma at full size, once a second.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from curate.signals.detail import detail
from curate.signals.kinds import Clip, EverySeconds, Record, Scores, Seen, Signal, median

STEP_S = 1.0  # between looks at a full-size picture


class Watch:
    def __init__(self) -> None:
        self._due = EverySeconds(STEP_S)

    def see(self, seen: Seen) -> Record:
        bits = detail(seen.full_luma) if self._due.due(seen.time_s) else None
        return Record(seen.time_s, seen.time_s, (seen.sharpness, bits))


def summary(records: Sequence[Record], clip: Clip) -> Scores:
    """Medians over the clip: a few blurred or flashing frames do not decide. detail is unknown of a clip that no look fell into."""
    looks = [record.values[1] for record in records if record.values[1] is not None]
    return {"sharpness": median([record.values[0] for record in records]), "detail": median(looks)}


SIGNAL = Signal({"sharpness": pa.float64(), "detail": pa.float64()}, 3, "pass", Watch, summary)
