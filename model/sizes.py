"""The sizes of the transformer, as plain dictionaries: `DiT(**SIZES["tiny"])`.

Every size is the same architecture; only the numbers differ. `text_width` and `pooled_width` are those of the text
encoders that HunyuanVideo uses and are overridden by what the cache holds: `SIZES["tiny"] | {"text_width": 128}`.
"""

from __future__ import annotations

from typing import Any

Size = dict[str, Any]

HUNYUAN_13B: Size = {
    "in_channels": 16,
    "out_channels": 16,
    "width": 3072,
    "heads": 24,
    "double_blocks": 20,
    "single_blocks": 40,
    "refiner_blocks": 2,
    "mlp_ratio": 4.0,
    "rope_axes": (16, 56, 56),
    "rope_theta": 256.0,
    "patch": (1, 2, 2),
    "text_width": 4096,
    "pooled_width": 768,
    "guidance": False,
}

SIZES: dict[str, Size] = {
    # A step of 2 x 1,280 video tokens (one clip, five images; 100 text tokens each) costs 0.82 s of one CPU core, so
    # about 0.4 s on two; at width 160 it is 1.17 s, at 192 1.40 s.
    "tiny": HUNYUAN_13B
    | {
        "width": 128,
        "heads": 2,
        "double_blocks": 2,
        "single_blocks": 4,
        "refiner_blocks": 1,
        "rope_axes": (16, 24, 24),
    },
    "small": HUNYUAN_13B
    | {"width": 768, "heads": 12, "double_blocks": 4, "single_blocks": 8, "rope_axes": (16, 24, 24)},
    "1b": HUNYUAN_13B | {"width": 1536, "heads": 12, "double_blocks": 8, "single_blocks": 16},
    # The layers of the full model at full width, few enough that weights, gradients and AdamW's state fit one GPU: the
    # proxy on which speed is measured.
    "slice": HUNYUAN_13B | {"double_blocks": 5, "single_blocks": 10},
    "hunyuan-13b": HUNYUAN_13B,
    "hunyuan-13b-guidance": HUNYUAN_13B | {"guidance": True},
}
