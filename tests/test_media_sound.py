"""What is heard of a file: at the right time, silence where there is nothing, an error that names the file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from examples import beats
from media.sound import read_sound
from media.write import write_mp4

RATE = 16_000


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("beats")
    chance = np.random.default_rng(3)
    times = beats.beats(chance)
    beats.write(folder / "film.mp4", beats.pictures(chance, times), beats.tones(chance, times))
    (folder / "beats.json").write_text(json.dumps(times.tolist()))
    return folder / "film.mp4"


def test_beats_are_heard_when_they_are_played(film: Path) -> None:
    wave, times = read_sound(str(film), 0.0, 3 * RATE, RATE), json.loads((film.parent / "beats.json").read_text())
    assert wave.shape == (3 * RATE,) and 0.4 < np.abs(wave).max() <= 1.0
    for at in times:
        before, after = (np.abs(wave[round((at + move) * RATE) :][:80]).max() for move in (-0.008, 0.003))
        assert after > 2 * before, at  # within 8 ms of it


@pytest.mark.parametrize("start_s", [0.3, 1.0, 2.5])
def test_a_span_is_that_part_of_the_whole(film: Path, start_s: float) -> None:
    whole = read_sound(str(film), 0.0, 3 * RATE, RATE)
    count, at = RATE // 2, round(start_s * RATE)
    assert np.abs(read_sound(str(film), start_s, count, RATE) - whole[at : at + count]).max() < 2e-3


def test_another_rate_keeps_the_time(film: Path) -> None:
    fine, coarse = read_sound(str(film), 0.5, RATE, RATE), read_sound(str(film), 0.5, RATE // 2, RATE // 2)
    envelopes = [np.abs(one).reshape(100, -1).max(axis=1) for one in (fine, coarse)]
    assert np.corrcoef(*envelopes)[0, 1] > 0.99


def test_silence_before_behind_and_without_a_track(film: Path, tmp_path: Path) -> None:
    early, late = read_sound(str(film), -0.5, RATE // 2, RATE), read_sound(str(film), 2.8, 2 * RATE, RATE)
    assert np.abs(early[: RATE // 2 - 200]).max() < 1e-3 and not late[RATE:].any()
    write_mp4(str(tmp_path / "mute.mp4"), np.zeros((12, 32, 32, 3), np.uint8), 24.0)
    assert not read_sound(str(tmp_path / "mute.mp4"), 0.0, 100, RATE).any()


def test_what_is_no_film_is_named(tmp_path: Path) -> None:
    (tmp_path / "torn.mp4").write_bytes(b"no film")
    with pytest.raises(ValueError, match=r"torn\.mp4"):
        read_sound(str(tmp_path / "torn.mp4"), 0.0, 100, RATE)
