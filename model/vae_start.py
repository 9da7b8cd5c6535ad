"""Start weights for AutoencoderKLHunyuanVideo: `random`, or an averaging `pyramid` from which training goes on.

With random weights such a network spends its first thousands of steps on learning to pass brightness through its group
norms. The pyramid begins as a linear network that halves by averaging and doubles by interpolation: latents 0 to 2 are
the colours of 4 x 8 x 8 px, the others details of the same pyramid, which the decoder has yet to learn to use. Nothing
in it comes from data. On moving waves the smallest size is at 24.0 dB after 120 steps, from random weights at 12.3; a
grey picture has 11.2. It wants a small learning rate (3e-4 there, 5e-5 for `small`), or it is shaken to pieces.

- Residual branches begin at zero, so that only the resampling convolutions speak.
- Before each last group norm the channels come in pairs (x, -x), and one pair of each group is (r, -r), a constant much
  larger than the signal: the norm then divides by about r, whatever the picture. silu(x) - silu(-x) = x makes the
  activation that follows linear too.
- The posterior begins narrow: noise as strong as the signal hides what there is to learn.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

REFERENCE = 4.0  # of the constant pair; videos are in [-1, 1], so the norm's gain varies by a few percent
LOGVAR = -8.0  # of the posterior at the start
NOISE = 0.1  # share of the usual random weights that is kept, to tell channels apart
HAAR = (1.0, 1.0), (1.0, -1.0)


@torch.no_grad()
def start_random(vae: Any) -> None:
    """In place, from the weights a freshly built network has: residual branches at zero, a narrow posterior."""
    for name, module in vae.named_modules():
        if name.endswith(("conv2.conv", "to_out.0")):
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)
    channels = vae.quant_conv.out_channels // 2
    vae.quant_conv.weight[channels:] = 0.0
    vae.quant_conv.bias[channels:] = LOGVAR


@torch.no_grad()
def start_as_pyramid(vae: Any) -> None:
    """The same, and the resampling convolutions a pyramid."""
    start_random(vae)
    for module in vae.modules():
        if isinstance(module, nn.Conv3d):
            module.weight.mul_(NOISE)
            nn.init.zeros_(module.bias)  # type: ignore[arg-type]
    _start_encoder(vae.encoder, vae.quant_conv)
    _start_decoder(vae.decoder, vae.post_quant_conv)


STARTS = {"random": start_random, "pyramid": start_as_pyramid}


def _start_encoder(encoder: Any, quant: nn.Conv3d) -> None:
    _pass_on(encoder.conv_in.conv)
    last = encoder.conv_in.conv
    for block in encoder.down_blocks:
        last = _pass_shortcuts(block) or last
        for down in block.downsamplers or ():
            _halve(down.conv.conv)
            last = down.conv.conv
    _in_pairs(last, encoder.conv_norm_out, encoder.conv_out.conv)
    channels = quant.out_channels // 2
    quant.weight.zero_()
    quant.weight[:channels, :channels] = torch.eye(channels).view(channels, channels, 1, 1, 1)
    quant.bias[channels:] = LOGVAR  # type: ignore[index]


def _start_decoder(decoder: Any, post_quant: nn.Conv3d) -> None:
    _pass_on(post_quant)
    _pass_on(decoder.conv_in.conv)
    last = decoder.conv_in.conv
    for block in decoder.up_blocks:
        last = _pass_shortcuts(block) or last
        for up in block.upsamplers or ():
            _pass_on(up.conv.conv, smoothing=True)
            last = up.conv.conv
    _in_pairs(last, decoder.conv_norm_out, decoder.conv_out.conv)


def _pass_shortcuts(block: Any) -> nn.Conv3d | None:
    """Channel k of every shortcut to channel k. Returns the last shortcut, None when there is none."""
    shortcuts = [one.conv_shortcut.conv for one in block.resnets if one.conv_shortcut is not None]
    for one in shortcuts:
        _pass_on(one)
    return shortcuts[-1] if shortcuts else None


def _pass_on(conv: nn.Conv3d, smoothing: bool = False) -> None:
    """Output k is input k at the newest frame: its middle pixel, or (1, 2, 1) / 4 down and across, which turns repeated
    pixels into linear interpolation."""
    line = torch.tensor([1.0, 2.0, 1.0]) / 4
    for channel in range(min(conv.in_channels, conv.out_channels)):
        conv.weight[channel].zero_()
        if smoothing:
            conv.weight[channel, channel, -1] = torch.outer(line, line)
        else:
            conv.weight[channel, channel, -1, conv.kernel_size[1] // 2, conv.kernel_size[2] // 2] = 1.0


def _halve(conv: nn.Conv3d) -> None:
    """Output k is the mean of input k over 2 x 2 px (and 2 frames); the rest are Haar details of the first inputs.

    A strided convolution sees px 2i-1, 2i, 2i+1 and frames 2j-2, 2j-1, 2j: the last two of each are averaged, so that
    frame 0 stays by itself.
    """
    details = [(t, y, x) for t in range(conv.stride[0]) for y in (0, 1) for x in (0, 1)][1:]
    details.sort(key=sum)
    plan = [(channel, (0, 0, 0)) for channel in range(conv.in_channels)]
    plan += [(channel, detail) for channel in range(conv.in_channels) for detail in details]
    for output, (channel, detail) in zip(range(conv.out_channels), plan):
        conv.weight[output].zero_()
        conv.weight[output, channel, 1:, 1:, 1:] = _haar(conv.stride[0], detail)


def _haar(frames: int, detail: tuple[int, int, int]) -> Tensor:
    """(2, 2, 2): signs of a Haar function divided by the number of values; over one frame only the newer one counts."""
    time = torch.tensor(HAAR[detail[0]] if frames == 2 else (0.0, 1.0))
    down, across = torch.tensor(HAAR[detail[1]]), torch.tensor(HAAR[detail[2]])
    signs = torch.einsum("t,y,x->tyx", time, down, across)
    return signs / signs.abs().sum()


def _in_pairs(before: nn.Conv3d, norm: nn.GroupNorm, after: nn.Conv3d) -> None:
    """Rearrange what `before` gives into pairs around norm and activation, and let `after` undo it: its output k is
    feature k, as far as there are so many."""
    size = norm.num_channels // norm.num_groups
    features, bias = before.weight.clone(), before.bias
    before.weight.zero_()
    after.weight[: min(after.out_channels, norm.num_channels // 2 - norm.num_groups)].zero_()
    feature = 0
    for first in range(0, norm.num_channels, 2):
        if first % size == 0:
            bias[first], bias[first + 1] = REFERENCE, -REFERENCE  # type: ignore[index]
            continue
        before.weight[first], before.weight[first + 1] = features[feature], -features[feature]
        if feature < after.out_channels:
            centre = (feature, slice(None), -1, after.kernel_size[1] // 2, after.kernel_size[2] // 2)
            after.weight[centre][first], after.weight[centre][first + 1] = 1.0, -1.0
        feature += 1
    nn.init.constant_(norm.weight, REFERENCE * math.sqrt(2 / size))
