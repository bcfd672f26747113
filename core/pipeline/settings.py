"""The forward process and how its network is trained; guidance and sampler. Imports no torch."""

from typing import Any, Literal

from pydantic import model_validator

from ..diffusion.names import (
    CONSISTENCY,
    FIXED_NOISE,
    STRAIGHT,
    ObjectiveName,
    PredictionName,
    SamplerName,
    ScheduleName,
    SpacingName,
    TimesName,
    WeightingName,
    check_prediction,
)
from ..settings.fields import Count, Label, Location, Place, Section, Seeds, Stage, Texts, option, section
from ..system.settings import Machine


class Diffusion(Section):
    """The forward process, what the network predicts, and how its error is weighted."""

    objective: ObjectiveName = option(
        "denoising",
        "What is trained: denoising at all times, in one step from one noise level, or a consistency model.",
        "--objective",
    )
    sigma: float = option(0.5, "For fixed-noise: its noise level, sigma in x0 + sigma eps, x0 normalised.", gt=0, le=10)
    pure_noise: bool = option(False, "For fixed-noise: train on noise alone, of which the mean of the data is made.")
    gap_factor: float = option(
        2.0, "For consistency: what the gap between the two times is divided by, from stage to stage.", gt=1, le=16
    )
    gap_stages: int = option(
        4, "For consistency: stages of the training; the gap is t / factor^k in the k-th.", ge=1, le=20
    )
    schedule: ScheduleName = option("cosine", "Noise schedule.", "--schedule")
    num_steps: int = option(1000, "Steps of the discrete process.", ge=2, le=1_000_000)
    zero_terminal_snr: bool = option(False, "Rescale the schedule to end in pure noise.")
    prediction: PredictionName = option(
        "v", "What the network predicts; flow, the velocity, is rectified-flow's own.", "--prediction"
    )
    weighting: WeightingName = option(
        "snr+1", "Loss weight on the x0 error (Salimans & Ho 2022); flow is rectified-flow's own.", "--weighting"
    )
    min_snr_gamma: float = option(5.0, "Gamma of the min-snr weighting.", gt=0)
    times: TimesName = option("uniform", "How training times are drawn.", "--times")
    logit_mean: float = option(0.0, "Mean of the logit of logit-normal times.")
    logit_std: float = option(1.0, "Deviation of the logit of logit-normal times.", gt=0)
    shift: float = option(1.0, "Moves times towards noise (above 1) or data, in training and sampling.", gt=0)
    learn_variance: bool = option(
        False, "Also learn the variance of the reverse steps (improved DDPM).", "--learn-variance/--fixed-variance"
    )
    vlb_weight: float = option(0.001, "Weight of the variational bound that trains a learned variance.", gt=0)

    @model_validator(mode="before")
    @classmethod
    def _rectified_flow_has_its_own(cls, values: Any) -> Any:
        """On the straight path the defaults are the flow's velocity and its plain loss."""
        if isinstance(values, dict) and values.get("schedule") == STRAIGHT:
            return {"prediction": "flow", "weighting": "flow", **values}
        return values

    @model_validator(mode="before")
    @classmethod
    def _fixed_noise_has_its_own(cls, values: Any) -> Any:
        """At one noise level the network predicts x0, by its plain error."""
        if isinstance(values, dict) and values.get("objective") == FIXED_NOISE:
            return {"prediction": "x0", "weighting": "uniform", **values}
        return values

    @model_validator(mode="before")
    @classmethod
    def _consistency_has_its_own(cls, values: Any) -> Any:
        """The weight is one over the gap of times."""
        if isinstance(values, dict) and values.get("objective") == CONSISTENCY:
            return {"weighting": "uniform", **values}
        return values

    @model_validator(mode="after")
    def _parts_fit_together(self) -> "Diffusion":
        check_prediction(self.prediction, self.schedule, self.zero_terminal_snr)
        if self.objective == FIXED_NOISE:
            plain = {"weighting": "uniform", "times": "uniform", "shift": 1.0, "learn_variance": False}
            for name, only in plain.items():
                if getattr(self, name) != only:
                    raise ValueError(f"{name} is {getattr(self, name)}: objective {FIXED_NOISE!r} takes {only} alone")
            if self.pure_noise and not (self.zero_terminal_snr or self.schedule == STRAIGHT):
                raise ValueError(
                    f"pure_noise needs a schedule that ends in noise alone, which {self.schedule!r} does not:"
                    f" take zero_terminal_snr, or {STRAIGHT!r}"
                )
        if self.objective == CONSISTENCY:
            for name, only in {"weighting": "uniform", "learn_variance": False}.items():
                if getattr(self, name) != only:
                    raise ValueError(f"{name} is {getattr(self, name)}: objective {CONSISTENCY!r} takes {only} alone")
            if self.prediction not in ("v", "flow"):
                raise ValueError(f"prediction is {self.prediction!r}: objective {CONSISTENCY!r} takes v or flow")
        if self.pure_noise and self.objective != FIXED_NOISE:
            raise ValueError(f"pure_noise is for objective {FIXED_NOISE!r}")
        return self

    @property
    def most_steps(self) -> int:
        """The most steps of sampling: one where one noise level is trained."""
        return 1 if self.objective == FIXED_NOISE else self.num_steps

    @property
    def draws(self) -> bool:
        """Whether images can be drawn from noise, which takes a network that was trained on noise alone."""
        return self.objective != FIXED_NOISE or self.pure_noise


class Student(Section):
    """What a distilled denoiser was made for: its steps, and the guidance scales, lowest and highest, inside it."""

    steps: int = option(..., "Steps.", ge=1)
    guidance: tuple[float, float] = option((1.0, 1.0), "Lowest and highest guidance scale.")

    @property
    def takes_scale(self) -> bool:
        """Whether the network takes the scale as a condition: there is more than one."""
        return self.guidance[0] < self.guidance[1]


class Prompted(Section):
    """Prompts, of a model of captions."""

    prompt: Texts = option(
        (), "What images are to show, of a model of captions; several times for several.", "--prompt"
    )
    prompts: Place | None = option(
        None,
        "Text file with a prompt a line, or jsonl with `prompt` in each; `scenes`: those of the built-in evaluation.",
        "--prompts",
        identity=False,
    )


class TextReading(Section):
    """Where a model's frozen text encoders are."""

    text_encoder: Texts = option(
        (), "Folder of the model's frozen text encoder, where it was moved; for several, each.", "--text-encoder", False
    )


class Asking(Prompted, Stage):
    """Which conditions images are drawn for: a setting for each kind, of which a model takes those of its own."""

    classes: str = option("all", "Classes by name or index: 3, tench, 0-4, cat,dog, all.", "--class")
    values: Texts = option((), "Number that a model of labels.csv is given: age=30; once for each.", "--value")

    @property
    def asked(self) -> dict[str, Any]:
        """What was asked for, by setting, for `Conditioning.request`."""
        values = {"classes": self.classes, "prompt": self.prompt, "values": self.values}
        return {name: value for name, value in values.items() if value not in (None, ())}


class Seeded(Stage):
    """Which seeds images are drawn from: some after the first, or those that are listed."""

    num: Count = option(16, "Images of each class, with consecutive seeds.", "--num,--count", ge=1)
    seeds: Seeds | None = option(
        None, "Seeds of each class's images, in place of --seed and --num: 0-15 or 3,7,20.", "--seeds"
    )


class Repeatable(Stage):
    """Images that carry what they were drawn by, and what is kept beside them."""

    like: Location | None = option(
        None, "Image of this command to draw again, with the changes that are given.", "--like", identity=False
    )
    metadata: bool = option(
        True, "Let each image carry what it was drawn by, for ldm inspect and --like.", "--metadata/--no-metadata"
    )
    save_latents: bool = option(
        False, "Also write the latent of each image that a denoiser draws, as safetensors beside it.", "--save-latents"
    )


class TokenDrawing(Section):
    """How tokens are drawn from their distribution; for generators of tokens alone."""

    temperature: float = option(1.0, "Of tokens: logits are divided by it; 0 takes the likeliest.", ge=0)
    top_k: int = option(0, "Of tokens: draw from the k likeliest; 0 from all.", "--top-k", ge=0)
    top_p: float = option(1.0, "Of tokens: draw from the likeliest that reach this share.", "--top-p", gt=0, le=1)
    smooth: bool = option(False, "Of tokens: mix codes by a Gumbel-softmax, for pictures rather than numbers.")


class Drawing(TokenDrawing, TextReading, Stage):
    """What images are drawn from, and how: guidance and sampler."""

    denoiser: Location | None = option(
        None,
        "Denoiser stage to sample, or another generator; by default the run's own.",
        "--denoiser",
        identity="contents",
    )
    checkpoint: Literal["final", "best", "early", "latest"] = option(
        "final",
        "Weights at the end of the training, the best measured by metrics.every, those after train.early images, or"
        " those of the newest checkpoint, also while it trains.",
        "--checkpoint",
    )
    image_size: int | None = option(
        None,
        "Side of the images, for networks that draw at any size; by default that of training. Moves the sampler's times"
        " with it.",
        "--image-size",
        ge=1,
    )
    label: Label | None = option(
        None, "Name of the output, in a folder of its kind; by default made from the settings.", "--label", False
    )
    batch_size: int = option(
        64,
        "Images written at once; does not change them, and a small number costs time.",
        "--batch-size",
        ge=1,
        identity=False,
    )
    preview_every: Count = option(
        0,
        "Steps between pictures of what is being drawn, preview.png in the output; 0 for none.",
        "--preview-every",
        identity=False,
    )
    machine: Machine = section(Machine)
    cfg: float | None = option(
        None,
        "Classifier-free guidance scale s, u + s (c - u): 1 disables it, 0 is unconditional; by default 3, or 1 without"
        " a null class.",
        "--cfg",
        ge=0,
    )
    cfg_paper: float | None = option(
        None, "The same as w of the paper, (1 + w) c - w u: s is 1 + w.", "--cfg-paper", ge=-1
    )
    cfg_interval: tuple[float, float] | None = option(
        None, "Guide only at noise times from,to within [0, 1].", "--cfg-interval"
    )
    away_from: str | None = option(
        None,
        "Class or prompt to guide away from, in the place of the null: what images are not to look like.",
        "--away-from,--negative",
    )
    cfg_rescale: float = option(0.0, "Pull the guided contrast back by this share.", "--cfg-rescale", ge=0, le=1)
    cfg_channels: int | None = option(
        None,
        "Guide the first N latent channels only, as the DiT authors' sampling does with 3.",
        "--cfg-channels",
        ge=1,
    )
    autoguide: Location | None = option(
        None,
        "Denoiser stage of a smaller or less trained model of the same latents to guide away from; early is the"
        " denoiser's own state after train.early images.",
        "--autoguide",
        identity="contents",
    )
    autoguide_scale: float = option(
        2.0, "Autoguidance scale, weak + s (own - weak); counts with --autoguide.", "--autoguide-scale", ge=0
    )
    classifier: Location | None = option(
        None, "Classifier of noisy latents to guide by; by default the run's own.", "--classifier", identity="contents"
    )
    classifier_scale: float = option(
        0.0, "Classifier guidance: gradient scale; 0 disables it. Adds to --cfg.", "--classifier-scale", ge=0
    )
    sampler: SamplerName = option("ddim", "Sampler.", "--sampler")
    steps: int | None = option(
        None,
        "Steps, 1 to the schedule's number; by default 50 for ddim and euler, 250 for ddpm, 20 for heun and dpmpp-2m.",
        "--steps",
        ge=1,
    )
    cache: int = option(
        1,
        "Compute the middle blocks of a transformer at every n-th step only, and add the same in between: faster,"
        " nearly the same images. 1 computes all.",
        "--cache",
        ge=1,
        le=20,
    )
    eta: float = option(0.0, "DDIM's share of fresh noise: 0 deterministic, 1 DDPM.", "--eta", ge=0, le=1)
    spacing: SpacingName = option(
        "trailing", "Which of the schedule's steps; uniform and flow do not use its table.", "--spacing"
    )
    shift: float | None = option(
        None, "Move the sampler's times towards noise (above 1) or data; by default as in training.", gt=0
    )
    variance: Literal["auto", "posterior", "beta", "learned"] = option(
        "auto", "DDPM's variance: auto is learned where it was, else posterior.", "--variance"
    )
    clip: Literal["none", "static", "dynamic"] = option(
        "none", "For models of pixels: keep the estimates of x0 in their range; dynamic also scales them.", "--clip"
    )

    @model_validator(mode="after")
    def _one_form_of_guidance(self) -> "Drawing":
        if self.cfg is not None and self.cfg_paper is not None:
            raise ValueError(
                f"`cfg={self.cfg:g}` and `cfg_paper={self.cfg_paper:g}` are the same setting in two forms"
                " (`cfg_paper=w` is `cfg=1 + w`); give one of them"
            )
        return self

    @model_validator(mode="after")
    def _interval_is_ordered(self) -> "Drawing":
        if self.cfg_interval is not None and not 0 <= self.cfg_interval[0] < self.cfg_interval[1] <= 1:
            given = ",".join(f"{time:g}" for time in self.cfg_interval)
            raise ValueError(f"`cfg_interval={given}`: give two noise times, the smaller first, within [0, 1]")
        return self
