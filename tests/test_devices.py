"""Which device is chosen, and what is said where the asked one is not there."""

from __future__ import annotations

import pytest
import torch

from model.devices import NoDevice, best_device
from model.weights import MissingWeights, find_weights


def test_a_device_that_is_not_here_is_told_in_one_line_and_an_existing_one_is_taken():
    assert best_device("cpu") == torch.device("cpu")
    with pytest.raises(NoDevice, match="--device cuda: GPU 63 is not there, PyTorch sees"):
        best_device("cuda:63")
    with pytest.raises(NoDevice, match="--device gpu: no such device; give cpu or cuda"):
        best_device("gpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_gpu_the_cpu_is_best_and_torchruns_rank_does_not_matter(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert best_device() == torch.device("cpu")
    with pytest.raises(NoDevice, match="GPU 3 is not there, PyTorch sees 0"):
        best_device("cuda")


def test_only_what_can_be_a_hub_name_is_offered_for_fetching():
    with pytest.raises(MissingWeights, match="hf download owner/no-such-model"):
        find_weights("owner/no-such-model", "cache.vae")
    with pytest.raises(MissingWeights, match="no such folder; put the weights there, or name a model") as told:
        find_weights("/weights/no/such/folder", "cache.vae")
    assert "hf download" not in str(told.value)
