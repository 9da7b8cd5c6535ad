"""pipelines.yaml -> frozen, checked settings.

One file holds every threshold and every stage. It is read strictly: an unknown key, a key written twice, a number that
YAML reads as text, an alias, a set looser than its parent are errors that name the place and the remedy.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictFloat, StrictInt, StrictStr, ValidationError

import recipe_file
from recipe_file import RecipeError, suggest

# Every number a set may bound, and what more of it means. Facts of the clip come first, then the signals' scores.
SCORES: dict[str, str] = {
    "duration_s": "clip length in seconds (0 for images)",
    "width": "upright width in px, after the crop if there is one",
    "height": "upright height in px, after the crop if there is one",
    "short_side": "the smaller of width and height in px",
    "fps": "frames per second of the source",
    "aspect": "width / height",
    "sharpness": "Laplacian variance of luma at a 512 px long side, median over the clip",
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
    conditions: tuple[Literal["first_frame", "noised_first_frame", "image_tokens"], ...] = ()
    noise_draws: Count = 4
    image_tokens: ImageTokens = ImageTokens()
    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    shard_bytes: Count = 256_000_000


class Feed(Frozen):
    set: Name
    view: Name
    share: Positive = 1.0


class Flow(Frozen):
    """How t is drawn. shift: a number, or `resolution` (grows with the square root of the bucket's tokens)."""

    sampler: Literal["logit_normal", "uniform", "mixed"] = "logit_normal"
    mean: StrictFloat = 0.0
    scale: Positive = 1.0
    shift: Positive | Literal["resolution"] = 1.0


class Losses(Frozen):
    """Weights of the losses; an absent one is off. `velocity` alone is plain flow matching; the others judge the
    decoded estimate of the clip, decode_frames latent frames at a time. Weights and encoders of others by path."""

    velocity: Annotated[StrictFloat, Field(ge=0)] = 1.0
    perceptual: Positive | None = None
    temporal: Positive | None = None
    sync: Positive | None = None
    perceptual_weights: StrictStr | None = None  # LPIPS (safetensors); None is the built-in gradient + SSIM distance
    temporal_encoder: StrictStr | None = (
        None  # TorchScript file or transformers folder; None is a pyramid of differences
    )
    sync_scorer: StrictStr | None = None  # TorchScript file or weights of model/sync.py; must be given for `sync`
    decode_frames: Annotated[StrictInt, Field(ge=2)] = 2


class End(Frozen):
    """When a phase ends: the first of these that comes true. min_improvement: share of the loss; less is none."""

    steps: Count | None = None
    plateau: Count | None = None  # the mean loss of so many steps is no improvement on any so many steps before
    validation: Count | None = None  # no improvement of the validation loss in so many validations
    min_improvement: Annotated[StrictFloat, Field(ge=0)] = 0.01


class Phase(Frozen):
    """lr: instead of the stage's, at the peak of its schedule. The last phase needs no end: the stage's steps end it."""

    name: Name
    losses: Losses = Losses()
    trainable: tuple[StrictStr, ...] = ()  # patterns of parameter names; empty is all
    lr: Positive | None = None
    optimiser: Literal["carry", "fresh"] = "carry"
    end: End = End()


class Unfreeze(Frozen):
    """Parameters that match these patterns train from step at_step on; those that match none never do."""

    at_step: Annotated[StrictInt, Field(ge=0)]
    trainable: Annotated[tuple[StrictStr, ...], Field(min_length=1)]


class Image2Video(Frozen):
    """probability: of a micro-batch of clips to be given its first frames; the others stay text to video, like images.
    docs/image-to-video.md says which variant does what."""

    variant: Literal["token_replace", "concat_mask", "concat", "first_frame_copy"]
    probability: Share = 1.0
    semantic_drop: Share = 0.1  # of the image tokens, where the cache holds them
    image_latent_scaling: Literal["multiply", "divide"] = "multiply"  # CogVideoX1.5: its trainer, its sampler
    pad_to: Count = 2  # first_frame_copy: latent frames are padded in front to a multiple of this
    ofs: StrictBool = False  # CogVideoX1.5's further embedding beside that of the time


class Lora(Frozen):
    rank: Count = 16
    alpha: Positive = 16.0
    targets: tuple[StrictStr, ...] = ("qkv", "proj")


class Stage(Frozen):
    """One step of the curriculum. tokens: per micro-batch, its batch size is tokens / tokens of its bucket."""

    feeds: Annotated[tuple[Feed, ...], Field(min_length=1)]
    micro_batches: Count = 1  # per step, whatever the number of ranks
    mix: Literal["share", "every_step"] = "share"  # every_step: each step holds every feed in the ratio of the shares
    tokens: Count
    steps: Count
    start: StrictStr | None = None  # a stage's name, a path, or `scratch`; None is the stage before, if there is one
    lr: Positive
    warmup_steps: Annotated[StrictInt, Field(ge=0)] = 0
    schedule: Literal["constant", "cosine", "linear"] = "constant"
    weight_decay: Annotated[StrictFloat, Field(ge=0)] = 0.0
    betas: tuple[Share, Share] = (0.9, 0.99)
    clip_norm: Positive = 1.0
    ema: Share = 0.99
    text_dropout: Share = 0.1
    flow: Flow = Flow()
    precision: Literal["float32", "bfloat16", "float64"] = "float32"
    checkpointing: Literal["none", "selective", "full"] = "none"
    compile: StrictBool = False  # torch.compile each block: needs a compiler, and minutes at the start
    shard: Literal["none", "full"] | Count = "none"  # over how many processes each weight is spread (FSDP2)
    reduce: Literal["step", "micro_batch"] = "step"  # when spread gradients are summed; micro_batch needs less memory
    seed: StrictInt = 0
    checkpoint_every: Count = 100
    keep_last: Count = 2
    milestones: tuple[Count, ...] = ()
    validate_every: Count = 50
    sample_every: Count | None = None
    prompts: tuple[StrictStr, ...] = ()
    guidance: Positive = 3.0
    losses: Losses = Losses()
    phases: tuple[Phase, ...] = ()
    image_to_video: Image2Video | None = None
    unfreeze: tuple[Unfreeze, ...] = ()  # groups that join the training; empty: all train from the start
    lora: Lora | None = None


class VaePhase(Frozen):
    """Clips of `frames` frames (4n+1; images one) of size x size px, `batch` a step. tiling: share of tiled steps."""

    steps: Count
    size: Count
    frames: Count
    batch: Count
    tiling: Share = 0.0


class VaeLosses(Frozen):
    """Weights. perceptual_weights: an LPIPS network (safetensors); None is the built-in gradient + SSIM loss."""

    l1: Positive = 1.0
    perceptual: Annotated[StrictFloat, Field(ge=0)] = 0.1
    perceptual_weights: StrictStr | None = None
    adversarial: Annotated[StrictFloat, Field(ge=0)] = 0.05
    adversarial_start: Annotated[StrictInt, Field(ge=0)] = 0  # first step with a discriminator
    kl: Annotated[StrictFloat, Field(ge=0)] = 1.0e-6


class VaeStage(Frozen):
    """How a VAE is trained from scratch on the recipe's footage. size: of model.vae_sizes; images: share of steps."""

    size: Name
    phases: Annotated[tuple[VaePhase, ...], Field(min_length=1)]
    losses: VaeLosses = VaeLosses()
    images: Share = 0.2
    max_interval: Count = 8  # frames of a clip are 1 to so many source frames apart
    holdout: tuple[StrictStr, ...] = ()  # footage to judge on; none: every tenth file of the recipe's, by name
    start: StrictStr = "random"  # or `pyramid` (model/vae_start.py), or a diffusers folder to go on from
    lr: Positive
    warmup_steps: Annotated[StrictInt, Field(ge=0)] = 0
    schedule: Literal["constant", "cosine", "linear"] = "constant"
    weight_decay: Annotated[StrictFloat, Field(ge=0)] = 0.0
    betas: tuple[Share, Share] = (0.9, 0.99)
    clip_norm: Positive = 1.0
    ema: Share = 0.999
    precision: Literal["float32", "bfloat16"] = "float32"
    seed: StrictInt = 0
    checkpoint_every: Count = 200
    keep_last: Count = 2
    validate_every: Count = 200

    @property
    def steps(self) -> int:
        return sum(phase.steps for phase in self.phases)


class Recipe(Frozen):
    """Everything a run needs, resolved: no defaults left to other files, no names left to look up."""

    name: Name
    footage: tuple[StrictStr, ...]
    workspace: StrictStr
    curate: Curate = Curate()
    sets: dict[Name, Set]
    views: dict[Name, View]
    cache: Cache = Cache()
    model: Name = "tiny"
    stages: dict[Name, Stage]
    vae_stages: dict[Name, VaeStage] = {}

    def bounds(self, set_name: str) -> dict[str, Bound]:
        """Effective bounds of a set: the intersection along its line of parents."""
        chosen = self.sets[set_name]
        merged = dict(self.bounds(chosen.parent)) if chosen.parent else {}
        for score, bound in chosen.keep.items():
            merged[score] = _intersect(merged.get(score, Bound()), bound)
        return merged

    def media(self, set_name: str) -> str | None:
        chosen = self.sets[set_name]
        return chosen.media or (self.media(chosen.parent) if chosen.parent else None)


def load(config: str | Path | None = None, recipe: str | None = None, overrides: tuple[str, ...] = (),
         **top: Any) -> Recipe:  # fmt: skip
    """Read, merge and check a recipe. overrides: `dotted.key=yaml`; top: footage=..., workspace=... that are not None.

    Raises RecipeError with the place of the fault and what to do about it.
    """
    data = recipe_file.read(config, recipe, overrides)
    data |= {key: value for key, value in top.items() if value is not None}
    return check(data)


def check(data: dict[str, Any]) -> Recipe:
    """Plain data -> Recipe. Raises RecipeError naming every wrong key by its path."""
    try:
        recipe = Recipe.model_validate(data)
    except ValidationError as error:
        raise RecipeError("\n".join(dict.fromkeys(_explain(fault) for fault in error.errors()))) from None
    _check_sets(recipe)
    _check_stages(recipe)
    return recipe


def resolved(recipe: Recipe) -> dict[str, Any]:
    """Plain JSON data of a recipe, every default written out: what lies beside each output."""
    return recipe.model_dump(mode="json")


def fingerprint(settings: Any) -> str:
    """8 hex digits of settings (JSON data or a settings object): equal settings, equal digits."""
    plain = settings.model_dump(mode="json") if isinstance(settings, BaseModel) else settings
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


# -------------------------------------------------------------------------------------------------------------- errors


def _explain(fault: Any) -> str:
    place = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "extra_forbidden":
        return f"{place}: unknown key{suggest(str(fault['loc'][-1]), _keys_beside(fault['loc']))}"
    if fault["type"] == "missing":
        return f"{place}: must be given"
    got = fault.get("input")
    if isinstance(got, str) and fault["type"] in {"float_type", "int_type"} and _is_number(got):
        return f"{place}: YAML reads {got} as text; write it with a dot: {_with_dot(got)}"
    return f"{place}: {fault['msg'][0].lower() + fault['msg'][1:]}, got {got!r}"


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _with_dot(text: str) -> str:
    mantissa, _, exponent = text.lower().partition("e")
    sign = exponent if exponent[:1] in "+-" else f"+{exponent}"
    return f"{mantissa if '.' in mantissa else mantissa + '.0'}e{sign}" if exponent else text


def _keys_beside(place: tuple[Any, ...]) -> list[str]:
    """The keys that are allowed where an unknown one was found: down the annotations, along the place's parts."""
    model: Any = Recipe
    for part in place[:-1]:
        inner = model.model_fields.get(str(part)) if hasattr(model, "model_fields") else None
        models = _models_in(inner.annotation) if inner is not None else []
        model = models[0] if models else model
    return list(model.model_fields)


def _models_in(annotation: Any) -> list[Any]:
    """Settings classes inside an annotation such as dict[Name, Set] or Signal | None."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for inner in get_args(annotation) for model in _models_in(inner)]


# ---------------------------------------------------------------------------------------------------------------- sets


def _intersect(outer: Bound, inner: Bound) -> Bound:
    lows = [b for b in (outer.min, inner.min) if b is not None]
    highs = [b for b in (outer.max, inner.max) if b is not None]
    return Bound(min=max(lows) if lows else None, max=min(highs) if highs else None)


def _check_sets(recipe: Recipe) -> None:
    for name, chosen in recipe.sets.items():
        _check_line(recipe, name)
        for score, bound in chosen.keep.items():
            place = f"sets.{name}.keep.{score}"
            if score not in SCORES:
                raise RecipeError(f"{place}: unknown key{suggest(score, SCORES)}")
            if bound.min is not None and bound.max is not None and bound.min > bound.max:
                raise RecipeError(f"{place}: min {bound.min} is above max {bound.max}")
            if chosen.parent:
                _check_stricter(place, bound, recipe.bounds(chosen.parent).get(score, Bound()), chosen.parent)


def _check_line(recipe: Recipe, name: str) -> None:
    seen = [name]
    while (parent := recipe.sets[seen[-1]].parent) is not None:
        if parent not in recipe.sets:
            raise RecipeError(f"sets.{seen[-1]}.parent: no set '{parent}'{suggest(parent, recipe.sets)}")
        if parent in seen:
            raise RecipeError(f"sets.{name}.parent: a set cannot be its own ancestor ({' -> '.join([*seen, parent])})")
        seen.append(parent)
    media = {found for one in seen if (found := recipe.sets[one].media) is not None}
    if len(media) > 1:
        raise RecipeError(f"sets.{name}.media: must be its parent's or narrower, got {' and '.join(sorted(media))}")


def _check_stricter(place: str, bound: Bound, parent: Bound, parent_name: str) -> None:
    if bound.min is not None and parent.min is not None and bound.min < parent.min:
        raise RecipeError(f"{place}.min: {bound.min} is looser than {parent.min} of its parent '{parent_name}'")
    if bound.max is not None and parent.max is not None and bound.max > parent.max:
        raise RecipeError(f"{place}.max: {bound.max} is looser than {parent.max} of its parent '{parent_name}'")


def _check_stages(recipe: Recipe) -> None:
    for view_name, view in recipe.views.items():
        if view.frames % 4 != 1:
            raise RecipeError(
                f"views.{view_name}.frames: must be 1 or 4n+1 (the VAE's stride in time), got {view.frames}"
            )
        if view.frames > 1 and view.fps is None:
            raise RecipeError(f"views.{view_name}.fps: must be given for a view of more than one frame")
    for name, stage in recipe.stages.items():
        for index, feed in enumerate(stage.feeds):
            for kind, known in (("set", recipe.sets), ("view", recipe.views)):
                chosen = getattr(feed, kind)
                if chosen not in known:
                    place = f"stages.{name}.feeds.{index}.{kind}"
                    raise RecipeError(f"{place}: no {kind} '{chosen}'{suggest(chosen, known)}")
