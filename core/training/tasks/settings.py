"""The settings of each training as a whole. Imports no torch."""

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, SerializeAsAny, TypeAdapter, model_validator
from typing_extensions import Self

from ...autoencoders.settings import AutoencoderModel, VQVAELoss
from ...autoregressive.settings import NextScaleModel
from ...conditioning.names import KindName
from ...denoisers.settings import DenoiserModel, NoisyClassifierModel
from ...diffusion.names import CONSISTENCY, least_steps
from ...images.settings import Data
from ...pipeline.settings import Diffusion
from ...settings.fields import Count, Location, Stage, Texts, option, section
from ...system.settings import Machine
from ..settings import (
    AutoencoderTrain,
    ClassifierTrain,
    DenoiserTrain,
    DistillTrain,
    Metrics,
    NextScaleTrain,
    Preview,
    Train,
)
from .phases import in_phases

Share = Annotated[float, Field(gt=0, lt=1)]


class Training(Stage):
    """What every trained stage may start from."""

    start_from: Location | None = option(
        None,
        "Start from the weights of a finished training of this kind: a run, or a stage's folder.",
        "--start-from",
        identity="contents",
    )

    def how_to_go_on(self, recorded: Mapping[str, Any], elsewhere: str) -> str | None:
        train: Train = dict(self)["train"]
        return train.how_to_go_on(recorded, elsewhere)


class AutoencoderTraining(Training):
    """How an autoencoder is trained, or a finished one taken."""

    part: Literal["all", "middle", "decoder", "head"] = option(
        "all",
        "Train only these layers: those around the latents, the decoder, or those that output the images.",
        "--part",
    )
    autoencoder: Location | None = option(
        None,
        "Take this diffusers autoencoder folder instead of training one; it is measured and stored.",
        "--autoencoder",
        identity="contents",
    )
    phases: Texts = option(
        (),
        "Settings of one phase of the training, `data.image_size=64 train.images=1M`; give it for each. A phase starts"
        " from the weights of the one before.",
        "--phase",
        identity="contents",
    )
    last_phase: int | None = option(None, "Stop after this phase, whose folder is phases/N.", identity=False, ge=1)
    data: Data = section(Data)
    model: SerializeAsAny[AutoencoderModel] = section(AutoencoderModel)
    loss: VQVAELoss = section(VQVAELoss)
    train: AutoencoderTrain = section(AutoencoderTrain)
    machine: Machine = section(Machine)
    pictures: int = option(8, "Validation images shown beside their reconstruction.", identity=False, ge=1, le=64)

    @model_validator(mode="after")
    def _phases_are_trainings(self) -> Self:
        if self.last_phase is not None and self.last_phase > len(self.phases):
            raise ValueError(f"`last_phase={self.last_phase}`: there are {len(self.phases)} phases")
        in_phases(self)
        return self


class LatentTraining(Stage):
    """What every training on latents has."""

    reading: Literal["auto", "held", "mapped", "streamed"] = option(
        "auto",
        "Latents held on the device, mapped into memory, or streamed from the disk; auto chooses by what they fit in.",
        identity=False,
    )
    train: Train = section(Train)
    preview: Preview = section(Preview)
    metrics: Metrics = section(Metrics)
    machine: Machine = section(Machine)


class GeneratorTraining(LatentTraining, Training):
    """How a generator of any kind is trained on latents."""

    latents: Location | None = option(
        None, "Latents to train on; by default the run's own.", "--latents", identity="contents"
    )
    conditioning: Literal["data", KindName] = option(
        "data",
        "Condition on what came with the data, labels, text or the attributes of labels.csv, or on none of it.",
        "--conditioning",
    )
    label_dropout: float = option(
        0.1,
        "Share of labels or captions replaced by the null, which stands for none; 0 disables guidance.",
        "--label-dropout",
        ge=0,
        lt=1,
    )

    @model_validator(mode="before")
    @classmethod
    def _nothing_is_dropped_of_no_condition(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("conditioning") == "none":
            return {"label_dropout": 0.0, **values}
        return values

    @model_validator(mode="after")
    def _dropout_needs_a_condition(self) -> Self:
        if self.conditioning == "none" and self.label_dropout:
            raise ValueError(
                f"`label_dropout={self.label_dropout:g}`: with `conditioning=none` there is nothing to drop"
            )
        return self


class DenoiserTraining(GeneratorTraining):
    """How a denoiser is trained."""

    synthetic_share: float | None = option(
        None,
        "Share of captions taken from the second set, where there is one; by default as encode had it.",
        "--synthetic-share",
        ge=0,
        le=1,
    )
    synthetic_first: Count = option(
        0, "Images trained with captions of the second set alone, before their share counts.", "--synthetic-first"
    )
    synthetic_falling: Count = option(
        0, "Images over which their share then falls evenly to what it is from there on.", "--synthetic-falling"
    )
    encoder_dropout: tuple[Share, ...] = option(
        (),
        "Share of captions replaced by the null for each of several frozen text encoders, each drawn for itself, in the"
        " place of --label-dropout, which is then their product; Stable Diffusion 3 has 0.464,0.464,0.464.",
    )
    crop_share: float | None = option(
        None,
        "Share of images of which training sees a crop; by default half, where encode wrote crops.",
        "--crop-share",
        ge=0,
        lt=1,
    )
    dispersive_weight: float = option(
        0.0,
        "Weight of the dispersive loss, which spreads hidden states of a batch apart; 0.5 is the paper's. 0: none.",
        ge=0,
    )
    model: SerializeAsAny[DenoiserModel] = section(DenoiserModel)
    diffusion: Diffusion = section(Diffusion)
    train: DenoiserTrain = section(DenoiserTrain)

    def how_to_go_on(self, recorded: Mapping[str, Any], elsewhere: str) -> str | None:
        # Consistency training goes through its curriculum in these images.
        return elsewhere if self.diffusion.objective == CONSISTENCY else super().how_to_go_on(recorded, elsewhere)

    @model_validator(mode="before")
    @classmethod
    def _what_is_trained_goes_on_by_adamw(cls, values: Any) -> Any:
        """Weights to start from may be those of authors, whom Muon's long steps would lead away from them."""
        if isinstance(values, dict) and values.get("start_from") and isinstance(values.get("train", {}), dict):
            return {**values, "train": {"optimizer": "adamw", **values.get("train", {})}}
        return values

    @model_validator(mode="before")
    @classmethod
    def _captions_are_dropped_with_all_encoders(cls, values: Any) -> Any:
        """Where each encoder is dropped for itself, a whole caption is with all of them at once."""
        if isinstance(values, dict) and values.get("encoder_dropout") and "label_dropout" not in values:
            shares = TypeAdapter(tuple[Share, ...]).validate_python(values["encoder_dropout"])
            return {**values, "label_dropout": math.prod(shares)}
        return values

    @model_validator(mode="after")
    def _dropout_is_of_one_kind(self) -> Self:
        if self.encoder_dropout and self.label_dropout != math.prod(self.encoder_dropout):
            raise ValueError("`label_dropout` and `encoder_dropout` are two ways to drop captions; give one of them")
        return self

    @model_validator(mode="after")
    def _steps_keep_the_path(self) -> Self:
        kind, least = self.diffusion.schedule, least_steps(self.diffusion.schedule)
        if self.diffusion.num_steps < least:
            raise ValueError(
                f"`diffusion.num_steps={self.diffusion.num_steps}` makes {kind!r} another schedule than its 1000 steps:"
                f" take {least} or more, or the schedule 'cosine'"
            )
        return self


class NextScaleTraining(GeneratorTraining):
    """How a next-scale transformer is trained."""

    model: SerializeAsAny[NextScaleModel] = section(NextScaleModel)
    train: NextScaleTrain = section(NextScaleTrain)


class DistillTraining(LatentTraining):
    """How a trained denoiser is distilled into students of fewer and fewer steps."""

    denoiser: Location | None = option(
        None, "Denoiser to distill; by default the run's own.", "--denoiser", identity="contents"
    )
    steps: int = option(4, "Steps of the last student; a power of two.", "--steps", ge=1)
    first_steps: int = option(
        32, "Steps of the first student, which the teacher draws in twice as many.", ge=1, identity="contents"
    )
    guidance: tuple[float, float] | None = option(
        None,
        "Lowest,highest guidance scale that the students learn; one pass then does for two. By default 1,4, or none"
        " where the teacher has no null class.",
        "--guidance",
    )
    weighting: Literal["truncated-snr", "snr+1"] = option("truncated-snr", "Loss weight on the x0 error.")
    train: DistillTrain = section(DistillTrain)

    @model_validator(mode="after")
    def _steps_halve(self) -> Self:
        ratio = self.first_steps / self.steps
        if ratio < 1 or ratio != int(ratio) or int(ratio) & (int(ratio) - 1):
            raise ValueError(
                f"`first_steps={self.first_steps}` does not halve to `steps={self.steps}`: take {self.steps} times a"
                " power of two"
            )
        if self.guidance is not None and not 0 <= self.guidance[0] <= self.guidance[1]:
            raise ValueError("`guidance` is a range: the lowest scale first, neither below 0")
        return self


class ClassifierTraining(Training):
    """How a classifier is trained. Missing settings of `data` are those of the run's autoencoder."""

    noisy: bool = option(False, "Classify noisy latents, for classifier guidance, instead of images.", "--noisy")
    latents: Location | None = option(
        None, "With --noisy: latents to train on; by default the run's own.", "--latents", identity="contents"
    )
    denoiser: Location | None = option(
        None,
        "With --noisy: denoiser whose noise levels are classified; by default the run's own.",
        "--denoiser",
        identity="contents",
    )
    autoencoder: Location | None = option(
        None,
        "Autoencoder stage whose images are classified; by default the run's own.",
        "--autoencoder",
        identity="contents",
    )
    data: Data = section(Data, inherited=True)
    noisy_model: NoisyClassifierModel = section(NoisyClassifierModel)
    max_shift: int = option(2, "Random shift of training images, pixels.", ge=0)
    train: ClassifierTrain = section(ClassifierTrain)
    machine: Machine = section(Machine)
