"""VAEs: the built-in codec, the small one that is shipped, or a diffusers AutoencoderKL* folder (HunyuanVideo, Wan,
CogVideoX).

Latents leave here scaled to about unit variance and come back so; the scaling is part of the settings. Stride 4 in time
after the first frame, 8 in space.
"""

from __future__ import annotations

import copy
import hashlib
import json
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol, cast

import torch

from compat import mend_torchvision
from model import codec
from model.weights import find_weights, read_config, weights_digest

SHIPPED = {"small": Path(__file__).with_name("vae_small")}  # trained by `train.vae --stage vae-small`: docs/vae.md

# Attributes that switch or size diffusers' tiling. HunyuanVideo's use_framewise_encoding is on from the start: clips of
# more than 16 frames are tiled in time although nobody asked for it.
_TILING = ("use_tiling", "use_framewise_encoding", "use_framewise_decoding")


class Vae(Protocol):
    """encode: video (B, 3, T, H, W) in [-1, 1] -> mean and log-variance (B, C, 1 + (T-1)/4, H/8, W/8), scaled, float32;
    decode: the way back, clipped to [-1, 1] by nobody, and once more for losses, where gradients flow through it;
    settings: everything that changes these bytes."""

    channels: int

    def encode(self, video: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]: ...

    def decode(self, latents: torch.Tensor) -> torch.Tensor: ...

    def decode_with_gradient(self, latents: torch.Tensor) -> torch.Tensor: ...

    def settings(self) -> dict[str, Any]: ...


def vae_settings(spec: str, tiling: bool = False, precision: str = "float32") -> dict[str, Any]:
    """What load_vae(...).settings() says, without loading the weights. Raises MissingWeights."""
    if spec == "codec":
        return codec.settings()
    return _settings(_folder(spec), tiling, precision)


def load_vae(spec: str, device: torch.device | str = "cpu", tiling: bool = False, precision: str = "float32") -> Vae:
    """spec: `codec`, `small`, or the path or hub name of a diffusers folder (its `vae` subfolder is found). precision: the
    dtype the network computes in. Raises MissingWeights."""
    if spec == "codec":
        return codec.Codec(device)
    return Autoencoder(_folder(spec), device, tiling, precision)


def _folder(spec: str) -> Path:
    return SHIPPED.get(spec) or find_weights(spec, "cache.vae", "vae")


class Autoencoder:
    """A diffusers AutoencoderKL* in the Vae interface."""

    def __init__(self, folder: Path, device: torch.device | str, tiling: bool, precision: str):
        self.device, self.dtype = torch.device(device), getattr(torch, precision)
        self._settings = _settings(folder, tiling, precision)
        self._vae = _class(read_config(folder)).from_pretrained(folder, torch_dtype=self.dtype, use_safetensors=True)
        self._vae.requires_grad_(False).eval().to(self.device)
        if tiling:
            self._vae.enable_tiling()
        self.channels = int(self._settings["channels"])
        shift, scale = (torch.tensor(self._settings[name]).view(1, -1, 1, 1, 1) for name in ("shift", "scale"))
        self._shift, self._scale = shift.to(self.device), scale.to(self.device)

    def __deepcopy__(self, memo: dict[int, Any]) -> Autoencoder:
        """One that can encode at the same time: its weights are the same memory, what it notes meanwhile is its own."""
        other = copy.copy(self)
        shared: dict[int, Any] = {id(one): one for one in (*self._vae.parameters(), *self._vae.buffers())}
        other._vae = copy.deepcopy(self._vae, shared)
        return other

    def settings(self) -> dict[str, Any]:
        return self._settings

    @torch.no_grad()
    def encode(self, video: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(mean, log-variance), both of the scaled latent."""
        found = self._vae.encode(video.to(self.device, self.dtype)).latent_dist
        mean = (found.mean.float() - self._shift) * self._scale
        return mean, found.logvar.float() + 2 * self._scale.log()

    @torch.no_grad()
    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        return self.decode_with_gradient(latents)

    def decode_with_gradient(self, latents: torch.Tensor) -> torch.Tensor:
        raw = latents.to(self.device).float() / self._scale + self._shift
        return self._vae.decode(raw.to(self.dtype)).sample.float()


@lru_cache(maxsize=16)
def _skeleton(folder: Path, tiling: bool) -> Any:
    """The network without its weights, to ask its class what tiling it starts with."""
    config = read_config(folder)
    with torch.device("meta"):
        network = _class(config).from_config(config)
    if tiling:
        network.enable_tiling()
    return network


def _settings(folder: Path, tiling: bool, precision: str) -> dict[str, Any]:
    config, network = read_config(folder), _skeleton(folder, tiling)
    told = {key: value for key, value in config.items() if not key.startswith("_")}
    flags = {name: getattr(network, name) for name in _TILING if hasattr(network, name)}
    tiles = {name: value for name, value in sorted(vars(network).items()) if name.startswith("tile_")}
    used = any(flags.get(name) for name in ("use_tiling", "use_framewise_encoding"))
    return {
        "class": config["_class_name"],
        "weights": weights_digest(folder),
        "config": hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16],
        "channels": _channels(config),
        "precision": precision,
        "tiling": flags | (tiles if used else {}),
        **_scaling(config),
    }


def _scaling(config: dict[str, Any]) -> dict[str, Any]:
    """latent = (raw - shift) * scale, per channel. CogVideoX-1.5 was trained with condition images divided by the scale
    instead (`invert_scale_latents`): conditions lie in the cache multiplied, like all latents, and this says so."""
    if config.get("latents_mean"):
        return {"shift": list(config["latents_mean"]), "scale": [1.0 / std for std in config["latents_std"]]}
    found = {"shift": [float(config.get("shift_factor") or 0.0)], "scale": [float(config["scaling_factor"])]}
    return found | {"invert_scale_latents": bool(config.get("invert_scale_latents", False))}


def _channels(config: dict[str, Any]) -> int:
    return int(config.get("latent_channels") or config["z_dim"])


def _class(config: dict[str, Any]) -> Any:
    name = str(config.get("_class_name", "of no class"))
    mend_torchvision()
    import diffusers

    if not name.startswith("AutoencoderKL") or not hasattr(diffusers, name):
        raise ValueError(f"cache.vae: must be a diffusers AutoencoderKL* folder, got one of {name}")
    return cast(Any, getattr(diffusers, name))
