"""What a recipe says of clips: how they are measured, which sets keep them, how views and the cache make tensors of them.

`pipelines` gathers these settings and checks them together; import them from there.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictFloat, StrictInt, StrictStr, field_validator

# Every number a set may bound, and what more of it means. Facts of the clip come first, then the signals' scores.
SCORES: dict[str, str] = {
    "duration_s": "clip length in seconds (0 for images)",
    "width": "upright width in px, after the crop if there is one",
    "height": "upright height in px, after the crop if there is one",
    "short_side": "the smaller of width and height in px",
    "fps": "frames per second of the source",
    "aspect": "width / height",
    "sharpness": "Laplacian variance of luma at a 512 px long side, median over the clip",
    "detail": "bits that a full-size picture holds, sharpening left out",
    "clarity": "probability in [0, 1] that the picture is not blurred (trained classifier)",
    "brightness": "mean luma in [0, 1]",
    "contrast": "standard deviation of luma in [0, 0.5]",
    "overexposed": "share of pixels burnt out",
    "underexposed": "share of pixels crushed to black",
    "colourfulness": "Hasler-Suesstrunk colourfulness (0 grey, > 60 vivid)",
    "noise": "estimated noise standard deviation in grey levels",
    "blockiness": "8x8 block edge strength over its surroundings (0 none)",
    "borders": "share of the frame covered by uniform borders",
    "motion": "mean speed in percent of the frame width per second",
    "motion_px_s": "mean speed in source px per second",
    "moving_area": "share of the frame that moves",
    "jitter": "share of the motion that changes direction between frames",
    "jumps": "largest picture change between neighbouring frames inside the clip",
    "still_frames": "share of frames that repeat the one before",
    "camera_confidence": "confidence in [0, 1] of the camera class",
    "cropped": "share of the frame that the crop takes away: borders, and marks and text where enough remains",
    "text": "share of the frame covered by text",
    "text_left": "share of the frame covered by text that the crop does not take away",
    "text_persistence": "share of the clip's frames in which its most lasting line of text is there",
    "subtitles": "share of the clip's frames that have a line where subtitles are",
    "overlay": "share of the frame covered by a persistent overlay (logo, watermark)",
    "overlay_left": "share of the frame covered by overlays that the crop does not take away",
    "quality": "overall quality in [0, 1]",
    "aesthetic": "composition and colour in [0, 1]",
    "technical": "freedom from defects in [0, 1]",
    "people": "largest number of people seen in a frame",
    "faces": "largest number of faces seen in a frame",
    "largest_person": "largest share of the frame that one person covers",
}


class Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


Positive = Annotated[StrictFloat, Field(gt=0)]
Share = Annotated[StrictFloat, Field(ge=0, le=1)]
Count = Annotated[StrictInt, Field(ge=1)]
Name = Annotated[StrictStr, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]


class Bound(Frozen):
    """Closed interval: a clip is kept when min <= score <= max. An unknown score fails a bound."""

    min: StrictFloat | None = None
    max: StrictFloat | None = None


class Shots(Frozen):
    """min_s, max_s: usable span lengths in seconds; trim_s is cut off at both ends of a span that touches a cut."""

    detectors: tuple[Literal["content", "adaptive", "hash", "transnet"], ...] = ("content", "adaptive")
    mode: Literal["cheap", "auto", "full"] = (
        "cheap"  # where TransNet V2 looks: nowhere, where cheap ones doubt, everywhere
    )
    min_s: Positive = 0.8
    max_s: Positive = 20.0
    trim_s: Annotated[StrictFloat, Field(ge=0)] = 0.1


class Start(Frozen):
    window_s: Annotated[StrictFloat, Field(ge=0)] = 1.0


class Proxies(Frozen):
    frames: Count = 8
    long_side_px: Count = 512


class Signal(Frozen):
    """A signal without settings of its own."""


class WeightedSignal(Frozen):
    """A signal that may use a network. weights: path of the file; None is the built-in way."""

    weights: StrictStr | None = None


class Signals(Frozen):
    """Which signals are measured; a signal that is not named is off."""

    sharpness: Signal | None = None
    exposure: Signal | None = None
    borders: Signal | None = None
    motion: Signal | None = None
    camera: Signal | None = None
    clarity: Signal | None = None
    text: Signal | None = None
    overlay: WeightedSignal | None = None
    quality: WeightedSignal | None = None
    people: WeightedSignal | None = None


class Embed(Frozen):
    """model: `descriptor` (built in) or an open_clip name or path; same: cosine from which two clips are duplicates,
    None is the model's own (curate/embed.py): a threshold belongs to its model."""

    model: StrictStr = "descriptor"
    pretrained: StrictStr | None = None
    same: Share | None = None


class Concepts(Frozen):
    clusters: Count = 16
    law: Literal["inverse_sqrt", "uniform", "capped"] = "inverse_sqrt"
    seed: StrictInt = 0


class Workers(Frozen):
    """gpus: of a process that runs a network where there are GPUs; 0.5 puts two on one. gpu_cpus: CPUs beside it. waiting: jobs
    per such process that may wait before scanning holds. attempts: how often a job whose process dies is begun. hung_s: a process
    on Ray that says nothing of its job for so long (64 clips measured, or some frames decoded, are a word) is killed."""

    gpus: Positive = 1.0
    gpu_cpus: Annotated[StrictInt, Field(ge=0)] = 1
    waiting: Count = 4
    attempts: Count = 3
    hung_s: Positive = 3600.0

    @field_validator("gpus")
    @classmethod
    def _whole(cls, value: float) -> float:
        if value > 1 and not value.is_integer():
            raise ValueError(f"must be a share of one GPU or a whole number of them, got {value:g}")
        return value


class Curate(Frozen):
    max_loss: Share = 0.2
    unit_videos: Count = 64
    segment_s: Positive = (
        600.0  # videos twice as long are scanned in parts of this length, side by side; the rows are the same
    )
    stall_s: Positive = 60.0  # a decoder that yields no frame for this long is hung
    val_share: Share = 0.1
    shots: Shots = Shots()
    start: Start = Start()
    proxies: Proxies = Proxies()
    signals: Signals = Signals(sharpness=Signal(), exposure=Signal(), borders=Signal(), motion=Signal())
    embed: Embed = Embed()
    concepts: Concepts = Concepts()
    workers: Workers = Workers()


class Set(Frozen):
    """A set is its parent made stricter; `clips` is a file of hand-picked clip ids, exempt from nesting."""

    parent: Name | None = None
    media: Literal["image", "video"] | None = None
    keep: dict[str, Bound] = {}
    clips: StrictStr | None = None


class View(Frozen):
    """How a clip becomes a tensor. size: px of the square whose area a bucket has; frames: 1 or 4n+1."""

    size: Count
    frames: Count = 1
    fps: Positive | None = None
    aspects: Literal["square", "hunyuan", "auto"] | tuple[StrictStr, ...] = "hunyuan"
    patch: Count = 16  # bucket sides are multiples of this many px
    max_ratio: Positive = 4.0
    span: Literal["head", "random", "all"] = "head"  # which part of a clip longer than the bucket is encoded


class ImageTokens(Frozen):
    """Tokens that a LLaVA makes of the first frame. model: its folder, None is `text`; every stride-th is stored (2 serves
    variants that take every 2nd and every 4th); prompt: words up to `<image>`, None is HunyuanVideo-I2V's."""

    model: StrictStr | None = None
    stride: Count = 2
    prompt: StrictStr | None = None


class Cache(Frozen):
    """vae, text: built-in name or path of a diffusers / transformers folder. precision: what these compute in; dtype:
    what is stored. templates: text with `{}` for the caption; text_layer: hidden states of a decoder, from the end."""

    vae: StrictStr = "codec"
    text: StrictStr = "bytes"
    text_pooled: StrictStr | None = None
    text_length: Count = 256
    text_layer: Count = 3
    template: StrictStr | None = None
    image_template: StrictStr | None = None  # for images; None is `template`
    caption_variants: Count = 4
    logvar: StrictBool = False
    tiling: StrictBool = False
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    conditions: tuple[Literal["first_frame", "noised_first_frame", "image_tokens", "sound"], ...] = ()
    noise_draws: Count = 4
    image_tokens: ImageTokens = ImageTokens()
    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    shard_bytes: Count = 256_000_000
