"""Peak memory of a network's making, cut up over the processes that started this file with torchrun.

    torchrun --nproc-per-node 2 tests/spread_memory.py meta|whole|lora FOLDER

`meta`: as train/network.py makes it; `whole`: every process makes all of it first; `lora`: adapters on the weights in
FOLDER/start.safetensors, kept in FOLDER as base-*.safetensors already. One JSON line per process.
"""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path

import torch
import train_workspace

from model.sizes import SIZES
from train import network, stages
from train.distributed import joined, spread

SIZE = SIZES["small"] | {"double_blocks": 2, "single_blocks": 4}
WIDTHS = stages.Widths(channels=16, text=256, pooled=256)


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    with joined("cpu") as world:
        spread(torch.nn.Linear(4, 4), [], "full", torch.float32, world)  # what the first use of it loads
        before, how = peak(), sys.argv[1]
        if how == "lora":
            plain = train_workspace.recipe(Path(sys.argv[2]), {"lora": {}, "shard": "full"}, {"model": "small"})
            settings = {"latents": {"vae": {"channels": 16}}, "text": {"encoder": {"width": 256, "pooled_width": 256}}}
            SIZES["small"] = SIZE
            model, _ = network.of_stage(plain, "s", world, settings, stages.run_folder(plain, "s"))
        else:
            model = stages.build(SIZE, WIDTHS, 0, meta=how == "meta")
            spread(model, model.blocks(), "full", torch.float32, world)
        if how == "meta":
            network.begin(stages.build(SIZE, WIDTHS, 0, meta=True), 0, None, dict(model.named_parameters()))
        whole = sum(one.numel() * one.element_size() for one in model.parameters())
        told = {"added": peak() - before, "whole": whole}
        sys.stdout.write(json.dumps(told) + "\n")  # in one piece: both write to one pipe
