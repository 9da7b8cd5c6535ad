"""One remedy for one third-party fault: a torchvision built for CUDA beside a CPU build of torch.

There, `import torchvision` raises "operator torchvision::nms does not exist", and with it open_clip, diffusers,
transformers models, timm, lpips and peft fail to import. The files that import those libraries call
`mend_torchvision()` first.
"""

from __future__ import annotations

import importlib
import sys

_kept_alive: list[object] = []  # a torch Library lives as long as its object


def mend_torchvision() -> None:
    """Import torchvision; if, and only if, its nms operator is missing, declare it and import again.

    A later call of nms still raises torch's clear error: there is no kernel behind the declaration.
    """
    if "torchvision" in sys.modules:
        return
    try:
        importlib.import_module("torchvision")
    except ImportError:
        return  # torchvision is not installed: nothing to mend
    except RuntimeError as error:
        if "torchvision::nms does not exist" not in str(error):
            raise
        _declare_and_import()


def _declare_and_import() -> None:
    import torch

    library = torch.library.Library("torchvision", "FRAGMENT")
    for operator in ("nms", "qnms"):
        library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _kept_alive.append(library)
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[name]
    importlib.import_module("torchvision")
