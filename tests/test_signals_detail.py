"""Detail: bits of a picture, less for every copy that lost something."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from curate.keeper import spent
from curate.signals import detail as signal
from curate.signals.detail import detail
from tests import copy_films


@pytest.fixture(scope="module", params=range(2))
def luma(request: pytest.FixtureRequest) -> np.ndarray:
    return np.ascontiguousarray(cv2.cvtColor(copy_films.photographs()[request.param], cv2.COLOR_RGB2GRAY)[:424, :640])


def resized(luma: np.ndarray, scale: float, how: int = cv2.INTER_AREA) -> np.ndarray:
    return cv2.resize(luma, None, fx=scale, fy=scale, interpolation=how)


def coded(luma: np.ndarray, quality: int) -> np.ndarray:
    return copy_films.jpeg(np.dstack([luma] * 3), quality)[..., 0]


def test_whatever_loses_something_has_less(luma: np.ndarray) -> None:
    whole = detail(luma)
    lost = {
        "half size": resized(luma, 0.5),
        "a tenth off": luma[20:-20, 30:-30],
        "blurred": cv2.GaussianBlur(luma, (0, 0), 1.0),
        "blurred more": cv2.GaussianBlur(luma, (0, 0), 2.0),
        "coded badly": coded(luma, 20),
        "half size, enlarged": resized(resized(luma, 0.5), 2.0, cv2.INTER_CUBIC),
    }
    shares = {name: detail(picture) / whole for name, picture in lost.items()}
    assert all(share < 1.0 for share in shares.values()), shares  # a tenth of sky holds little
    assert shares["blurred more"] < shares["blurred"]


def test_sharpening_adds_little(luma: np.ndarray) -> None:
    soft = cv2.GaussianBlur(luma, (0, 0), 1.5)
    assert detail(cv2.addWeighted(luma, 2.5, soft, -1.5, 0)) < 1.25 * detail(luma)


def test_what_coding_takes_from_noise_is_detail(luma: np.ndarray) -> None:
    noisy = np.clip(luma + np.random.default_rng(0).normal(0, 4, luma.shape), 0, 255).astype(np.uint8)
    assert detail(coded(noisy, 40)) < detail(noisy)


def test_light_is_no_detail(luma: np.ndarray) -> None:
    """Gain and lift change no bit but those of rounding; mirrored and turned it is the same picture."""
    darker = (luma * 0.8 + 10.0).astype(np.uint8)
    assert detail(darker) == pytest.approx(detail(luma), rel=0.04)
    assert detail(luma[:, ::-1].copy()) == pytest.approx(detail(luma), rel=0.01)
    assert detail(luma.T.copy()) == pytest.approx(detail(luma), rel=0.01)


def test_flat_pictures_hold_nothing_and_bars_little(luma: np.ndarray) -> None:
    assert detail(np.full((200, 300), 90, np.uint8)) == 0.0 == detail(np.zeros((9, 9), np.uint8))
    barred = cv2.copyMakeBorder(luma, 64, 64, 0, 0, cv2.BORDER_CONSTANT, value=0)
    assert detail(barred) < 1.25 * detail(luma), "the edges of the bars alone"


def test_one_tile_by_hand() -> None:
    """One tile of stripes on grey: it lives in the finest band alone, and the bits are those of its variance there."""
    picture = np.full((64, 64), 128, np.uint8)
    picture[16:24, 16:24] = np.where(np.arange(8) % 2, 168, 88)
    bands = signal._variances(picture)
    assert bands[0][2, 2] > 800 and np.isclose(bands[0].sum(), bands[0][1:4, 1:4].sum()) and bands[1].sum() < 20
    assert detail(picture) == 0.0, "the coarser bands have nothing that it could be an edge of"


def test_strips_change_nothing(luma: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = detail(luma)
    monkeypatch.setattr(signal, "STRIP", 1 << 20)
    assert detail(luma) == pytest.approx(whole, rel=1e-6)


def test_bits_spent_are_those_of_one_codec() -> None:
    assert spent("h264", 1000, 2.0) == 4000.0 == spent("jpeg", 500, None)
    assert spent("hevc", 1000, 2.0) > spent("h264", 1000, 2.0) > spent("mpeg4", 1000, 2.0)


def test_labelled_picture_has_more_than_all_made_of_it(footage: Path) -> None:
    import json

    from media.still import still_frame

    labels = json.loads((footage / "labels.json").read_text())
    files = next(one["files"] for one in labels["near_dup_groups"] if one["name"] == "pdq bridge image mods")
    bits = {name: detail(still_frame(str(footage / name)).luma()) for name in files}
    assert max(bits, key=bits.__getitem__).endswith("aaa-orig.jpg"), bits
