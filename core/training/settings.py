"""How long and how to train, and what to look at meanwhile: the sections of trained stages. Imports no torch."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import model_validator

from ..diffusion.names import SamplerName
from ..features.settings import EXTRACTOR_HELP, ExtractorName
from ..settings.fields import ENDING, Count, Location, Place, Section, Texts, option

LONGEST_STD = 0.28  # of a profile, relative to the training: nearly that of a plain mean over it, √(1/12)
MUON_OVER_LR = 30  # its rate over that of AdamW beside it, at which both were at their best in small networks


class Train(Section):
    """How long and how to train. Lengths count images seen, so that curves compare across batch sizes."""

    images: Count = option(1_000_000, "Images to train on, counting repeats: 500k, 2M.", "--images")
    batch_size: int = option(64, "Images per optimizer step.", "--batch-size", ge=1)
    accumulate: int = option(1, "Split each batch into this many passes to save memory.", identity=False, ge=1)
    lr: float = option(1e-4, "Peak learning rate.", "--lr", gt=0)
    warmup: Count = option(10_000, "Images over which the learning rate rises.")
    decay: Literal["constant", "cosine", "linear", "exponential"] = option("constant", "Learning rate after warm-up.")
    decay_to: float = option(0.1, "Share of the peak rate that exponential decay ends in.", gt=0, le=1)
    decay_every: Count = option(0, "Let the rate fall in steps of so many images, such as an epoch; 0 lets it glide.")
    decay_images: Count = option(
        0, "Images that the decay takes; then the rate rises again over warmup and stays. 0: all of them."
    )
    cooldown: Count = option(
        0, "Images at the end over which the rate falls to 0 in a straight line, after a constant rate.", "--cooldown"
    )
    optimizer: Literal["adamw", "muon"] = option(
        "adamw", "AdamW, or Muon for the weights of repeated blocks and AdamW for all others.", "--optimizer"
    )
    muon_lr: float = option(
        0.03, "Peak learning rate of what Muon steps; lr is that of the others. 0: 30 times lr.", ge=0
    )
    weight_decay: float = option(0.0, "Weight decay, in shares of the weights over the learning rate.", ge=0)
    beta1: float = option(0.9, "AdamW's first moment.", ge=0, lt=1)
    beta2: float = option(0.999, "AdamW's second moment.", ge=0, lt=1)
    clip: float = option(1.0, "Largest gradient norm; 0 switches clipping off.", ge=0)
    ema: float = option(0.9999, "Decay of the EMA of the weights, per step; 0 switches it off.", ge=0, lt=1)
    checkpoint_every: Count = option(50_000, "Images between checkpoints.", "--checkpoint-every", identity=False)
    keep: int = option(2, "Checkpoints kept.", identity=False, ge=2)
    log_every: Count = option(2_000, "Images between lines of metrics.jsonl.", identity=False)
    validate_every: Count = option(20_000, "Images between validations.", identity=False)
    balance: Literal["images", "sqrt", "classes"] = option(
        "images",
        "Which classes are seen more: each image alike, each class alike, or between, by the root of its images.",
        "--balance",
    )
    repeats: Texts = option(
        (), "How often a class counts for each of its images, as in red=3; once for each such class.", "--repeat"
    )
    patience: Count = option(
        0,
        "End when the validation loss, or metrics.best where samples are measured, has not improved for so many"
        " images; 0 trains them all.",
        "--patience",
    )
    csv: bool = option(
        False,
        "Also write the numbers of metrics.jsonl as results.csv, a line for each count of images.",
        identity=False,
    )
    tensorboard: bool = option(False, "Also write TensorBoard events: numbers and pictures.", identity=False)
    tracker: Literal["none", "wandb", "trackio", "mlflow"] = option(
        "none", "Also send numbers and pictures to a tracker, whose package is installed.", identity=False
    )

    @property
    def rate_of_muon(self) -> float:
        """Peak learning rate of the weights that Muon steps; 0 where it steps none."""
        if self.optimizer != "muon":
            return 0.0
        return self.muon_lr or MUON_OVER_LR * self.lr

    @model_validator(mode="after")
    def _passes_are_equal(self) -> "Train":
        if self.batch_size % self.accumulate:
            raise ValueError(f"accumulate is {self.accumulate}, which does not divide batch_size {self.batch_size}")
        return self

    @model_validator(mode="after")
    def _the_optimizer_has_a_use_for_its_rate(self) -> "Train":
        if self.optimizer != "muon" and self.muon_lr not in (0, Train.model_fields["muon_lr"].default):
            raise ValueError(f"muon_lr is {self.muon_lr}, and optimizer is {self.optimizer}: set it to muon, or lr")
        return self

    @model_validator(mode="after")
    def _the_parts_of_the_schedule_fit(self) -> "Train":
        if self.decay_images and self.decay == "constant":
            raise ValueError(f"decay_images is {self.decay_images}, and a constant rate has no decay")
        if self.cooldown and not self.decay_images and self.decay != "constant":
            raise ValueError(f"cooldown is {self.cooldown}, and {self.decay} decay is still falling at the end")
        parts = self.cooldown + (self.decay_images + self.warmup if self.decay_images else 0)
        if parts > self.images:
            named = "decay_images, warmup and cooldown" if self.decay_images else "cooldown"
            raise ValueError(f"{named} are {parts} images, more than the {self.images} of images")
        return self

    def how_to_go_on(self, recorded: Mapping[str, Any], elsewhere: str) -> str:
        """Return how training by recorded settings of fewer images goes on to these; nothing where it may as it is.

        It may where the learning rate was the same up to its end, so that it is as if these had been asked for from
        the start. elsewhere: the remedy where it cannot.
        """
        part = {name: recorded[name] for name in ENDING if name in recorded}
        try:
            known = type(self).model_validate({**self.model_dump(), **dict.fromkeys(ENDING, 0), **part})
        except ValueError:
            return elsewhere
        ended = 0 if self.decay == "constant" else known.decay_images or known.images
        added, alike = self.images - known.images, not known.cooldown and ended == self.decay_images
        if alike and added >= self.cooldown:
            return ""
        if alike and added > 0:
            return f"let the rate fall over the images that are added: `train.cooldown={added}`"
        fall = max(1, added // 5)
        if known.cooldown or not ended or ended + self.warmup + fall > self.images:
            return elsewhere
        return f"let the rate rise again and fall at the end: `train.decay_images={ended}` and `train.cooldown={fall}`"


class AutoencoderTrain(Train, defaults={"lr": 4e-4, "beta2": 0.99, "ema": 0.995}):
    pass


class DenoiserTrain(
    Train, defaults={"images": 2_000_000, "lr": 1e-3, "optimizer": "muon", "muon_lr": 0.0, "beta2": 0.99}
):
    former: ClassVar[Mapping[str, Any]] = {"lr": 1e-4, "optimizer": "adamw", "muon_lr": 0.03, "beta2": 0.999}
    early: Count = option(
        100_000, "Images after which the EMA is also kept as early/, for autoguidance; 0 keeps none.", identity=False
    )
    keep_ema: bool = option(
        False,
        "Keep the EMA of a checkpoint that is removed, so that `ldm average` can make EMAs of other lengths later.",
        identity=False,
    )
    shard: bool = option(
        False,
        "Under torchrun: let each process hold only its part of weights and optimizer.",
        "--shard",
        identity=False,
    )

    @model_validator(mode="before")
    @classmethod
    def _adamw_has_its_own(cls, values: Any) -> Any:
        """AdamW has the rate and moments that DiT's authors gave it, and steps what is sharded."""
        if not isinstance(values, dict):
            return values
        if str(values.get("shard")).lower() in ("true", "t", "yes", "y", "on", "1"):
            values = {"optimizer": "adamw", **values}
        return {**cls.former, **values} if values.get("optimizer") == "adamw" else values

    @model_validator(mode="after")
    def _whole_matrices_are_there(self) -> "DenoiserTrain":
        if self.shard and self.optimizer == "muon":
            raise ValueError("shard is on, and muon needs whole matrices in each process: leave out --shard, or muon")
        return self


class NextScaleTrain(
    Train, defaults={"images": 2_000_000, "beta2": 0.95, "weight_decay": 0.05, "clip": 2.0, "decay": "cosine"}
):
    pass


class DistillTrain(Train, defaults={"images": 100_000, "lr": 5e-5, "warmup": 1_000, "decay": "linear", "ema": 0.0}):
    pass


class ClassifierTrain(
    Train, defaults={"images": 100_000, "lr": 2e-3, "decay": "cosine", "weight_decay": 0.01, "ema": 0.0}
):
    pass


class Preview(Section):
    """The grid of samples drawn while training, always from the same seeds."""

    every: Count = option(
        100_000, "Images between sample grids; 0 switches them off.", "--sample-every", identity=False
    )
    per_class: int = option(4, "Images of each class.", identity=False, ge=1)
    classes: int = option(10, "Classes shown, at most.", identity=False, ge=1)
    cfg: float = option(3.0, "Guidance scale.", identity=False)
    steps: int = option(30, "DDIM steps.", identity=False, ge=1)


class Metrics(Section):
    """Evaluation of samples while training, always from the same seeds, as by `ldm sample` and `ldm eval`."""

    every: Count = option(
        0, "Images between measurements of samples; 0 switches them off.", "--metrics-every", identity=False
    )
    num: Count = option(500, "Samples drawn, of all classes alike.", identity=False, ge=10)
    seed: int = option(0, "Seed of the first sample.", identity=False, ge=0, lt=2**62)
    cfg: float | None = option(None, "Guidance scale; by default that of `ldm sample`.", identity=False, ge=0)
    sampler: SamplerName = option("dpmpp-2m", "Sampler.", identity=False)
    steps: int | None = option(None, "Steps; by default the sampler's own number.", identity=False, ge=1)
    reference: Place | None = option(
        None, "Data source to compare with; by default the training images.", identity=False
    )
    limit: Count = option(5_000, "Reference images at most; 0 for no limit.", identity=False)
    features: Literal["auto", ExtractorName] = option("auto", EXTRACTOR_HELP, identity=False)
    weights: Location | None = option(None, "File or folder with the extractor's weights.", identity=False)
    best: Literal["frechet", "kernel", "precision", "recall", "class_accuracy", "loss"] = option(
        "frechet", "Number by which the best state is kept; loss is the validation loss.", identity=False
    )
