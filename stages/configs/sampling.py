"""Settings of `ldm sample`: guidance, sampler, and which images."""

from typing import Literal

from pydantic import model_validator

from ..settings import Count, Label, Location, Machine, Stage, option, section


class Sample(Stage):
    """Settings of `ldm sample`."""

    denoiser: Location | None = option(None, "Denoiser stage to sample; by default the run's own.", "--denoiser")
    checkpoint: Literal["final", "best"] = option(
        "final", "Weights at the end of the training, or the best that metrics.every has seen.", "--checkpoint"
    )
    label: Label | None = option(
        None, "Name of the output under samples/; by default made from the settings.", "--label", False
    )
    classes: str = option("all", "Classes by name or index: 3, tench, 0-4, cat,dog, all.", "--class")
    num: Count = option(16, "Images of each class.", "--num,--count", ge=1)
    cfg: float | None = option(
        None,
        "Classifier-free guidance scale s, u + s (c - u): 1 is none, 0 unconditional; by default 3, or 1 without a null"
        " class.",
        "--cfg",
        ge=0,
    )
    cfg_paper: float | None = option(
        None, "The same as w of the paper, (1 + w) c - w u: s is 1 + w.", "--cfg-paper", ge=-1
    )
    cfg_interval: tuple[float, float] | None = option(
        None, "Guide only at noise times from,to within [0, 1].", "--cfg-interval"
    )
    cfg_rescale: float = option(0.0, "Pull the guided contrast back by this share.", "--cfg-rescale", ge=0, le=1)
    cfg_channels: int | None = option(
        None,
        "Guide the first N latent channels only, as the DiT authors' sampling does with 3.",
        "--cfg-channels",
        ge=1,
    )
    autoguide: Location | None = option(
        None, "Denoiser stage of a smaller or less trained model of the same latents to guide away from.", "--autoguide"
    )
    autoguide_scale: float = option(
        2.0, "Autoguidance scale, weak + s (own - weak); counts with --autoguide.", "--autoguide-scale", ge=0
    )
    classifier: Location | None = option(
        None, "Classifier of noisy latents to guide by; by default the run's own.", "--classifier"
    )
    classifier_scale: float = option(
        0.0, "Classifier guidance: gradient scale; 0 is none. Adds to --cfg.", "--classifier-scale", ge=0
    )
    sampler: Literal["ddim", "ddpm", "euler", "heun", "dpmpp-2m"] = option("ddim", "Sampler.", "--sampler")
    steps: int | None = option(
        None,
        "Steps, 1 to the schedule's number; by default 50 for ddim and euler, 250 for ddpm, 20 for heun and dpmpp-2m.",
        "--steps",
        ge=1,
    )
    eta: float = option(0.0, "DDIM's share of fresh noise: 0 deterministic, 1 DDPM.", "--eta", ge=0, le=1)
    spacing: Literal["leading", "trailing", "linspace", "uniform"] = option(
        "trailing", "Which of the schedule's steps; uniform needs none of its table.", "--spacing"
    )
    shift: float | None = option(
        None, "Move the sampler's times towards noise (above 1) or data; by default as in training.", gt=0
    )
    variance: Literal["auto", "posterior", "beta", "learned"] = option(
        "auto", "DDPM's variance: auto is learned where it was, else posterior.", "--variance"
    )
    batch_size: int = option(
        64,
        "Images from one writing to the next; changes none of them, and a small number costs time.",
        "--batch-size",
        ge=1,
        identity=False,
    )
    progressive: bool = option(
        False, "Also write the path from noise to image, as a strip and animated.", "--progressive"
    )
    machine: Machine = section(Machine)

    @model_validator(mode="after")
    def _one_form_of_guidance(self) -> "Sample":
        if self.cfg is not None and self.cfg_paper is not None:
            raise ValueError(
                f"--cfg {self.cfg:g} and --cfg-paper {self.cfg_paper:g} say the same thing in two forms"
                f" (--cfg-paper w is --cfg 1 + w); give one of them"
            )
        return self

    @model_validator(mode="after")
    def _interval_is_ordered(self) -> "Sample":
        if self.cfg_interval is not None and not 0 <= self.cfg_interval[0] < self.cfg_interval[1] <= 1:
            given = ",".join(f"{time:g}" for time in self.cfg_interval)
            raise ValueError(f"--cfg-interval is {given}: give two noise times, the smaller first, within [0, 1]")
        return self
