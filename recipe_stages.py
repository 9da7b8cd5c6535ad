"""What a recipe says of training: stages with their feeds, phases and losses, and the stages of a VAE.

`pipelines` gathers these settings and checks them together; import them from there.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StrictBool, StrictFloat, StrictInt, StrictStr

from recipe_clips import Count, Frozen, Name, Positive, Share


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
    # A stage's name, a path, `scratch`, or `identity`: from scratch, but the network begins by handing its input on.
    start: StrictStr | None = None  # None is the stage before, if there is one
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
    guidance: Positive = 3.0  # of samples
    embedded_guidance: Positive = 1.0  # told in training to a network that embeds guidance (hunyuan-13b-guidance)
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
