"""HDR curves against the numbers of the standards, and what tone mapping must keep."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from media.colour import HLG, PQ, compress, hlg_to_nits, luma_table, nits_to_pq, pq_to_nits, stretched, tone_map
from media.frames import read_frames


@pytest.mark.parametrize(
    ("nits", "code"), [(0.0, 0.0), (100.0, 0.508), (203.0, 0.581), (1000.0, 0.752), (10000.0, 1.0)]
)
def test_pq_has_the_values_of_bt2408(nits: float, code: float) -> None:
    assert abs(float(nits_to_pq(np.array(nits))) - code) < 1e-3
    assert np.isclose(pq_to_nits(nits_to_pq(np.array(nits))), nits, atol=1e-2)


def test_hlg_white_is_203_nits_and_its_peak_1000() -> None:
    grey = hlg_to_nits(np.array([[0.75] * 3, [1.0] * 3, [0.0] * 3]))
    assert np.allclose(grey[:, 0], [203, 1000, 0], atol=2)


def test_compression_is_monotone_keeps_the_dark_and_ends_at_the_screen() -> None:
    nits = np.linspace(0, 1000, 400)
    out = compress(nits)
    assert (np.diff(out) > -1e-9).all() and np.isclose(out[-1], 203, atol=0.5)
    assert np.allclose(out[nits < 20], nits[nits < 20], rtol=1e-3)


@pytest.mark.parametrize("transfer", [PQ, HLG])
def test_grey_stays_grey_and_order_stays(transfer: int) -> None:
    ramp = np.repeat(np.linspace(0, 1, 64)[:, None], 3, axis=1)
    mapped = tone_map(ramp, transfer).astype(int)
    assert np.ptp(mapped, axis=1).max() <= 1 and (np.diff(mapped[:, 1]) >= 0).all()
    assert mapped[0, 0] == 0 and mapped[-1, 0] >= 250
    table = luma_table(transfer, False)
    assert (np.diff(table.astype(int)) >= 0).all()


def test_limited_luma_is_stretched_to_the_full_range() -> None:
    codes = np.arange(256, dtype=np.uint8).reshape(8, 32)
    assert np.array_equal(stretched(codes), np.rint(np.clip((codes - 16.0) / 219, 0, 1) * 255).astype(np.uint8))


def test_hdr_footage_is_not_washed_out(footage: Path) -> None:
    """HLG shown as if it were SDR is pale; mapped, the picture uses the whole range."""
    for name in ("siti-tools/sunset-hlg.mov", "androidx-media/hdr10-av1.mp4", "ffmpegcore/input_hdr.mov"):
        rgb = read_frames(str(footage / name), [0.0], (180, 320))[0]
        low, high = np.quantile(rgb, [0.02, 0.98])
        assert high - low > 90 and rgb.std() > 25, name
