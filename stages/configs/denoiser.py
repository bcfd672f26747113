"""Settings of `ldm train-dit`: the network, the forward process, the training."""

from typing import Annotated, Any, Literal

from pydantic import model_validator

from ...core.presets import DENOISERS
from ..settings import Count, Location, Machine, OneOf, Section, Stage, Train, option, section

BEST = "best"  # in a denoiser's folder: its state that measured best, a folder of the same kind

DenoiserPreset = Annotated[str, OneOf((*DENOISERS,))]
ScheduleName = Literal["linear", "scaled-linear", "cosine", "quadratic", "sigmoid", "rectified-flow"]


class DiTModel(Section):
    """The denoiser's network: a preset, and what differs from it."""

    preset: DenoiserPreset = option("dit-s/2", "Named network size: dit-xs, DiT-S/2 … DiT-XL/2.", "--preset")
    patch_size: int | None = option(None, "Latent pixels per token side.", ge=1)
    width: int | None = option(None, "Width of the tokens.", ge=8)
    depth: int | None = option(None, "Blocks.", ge=1)
    heads: int | None = option(None, "Attention heads.", ge=1)
    mlp_ratio: float | None = option(None, "Width of the MLP over the width of the tokens.", gt=0)
    qk_norm: bool | None = option(None, "Normalise queries and keys.")
    rope: bool | None = option(None, "Rotary instead of added positions.")
    swiglu: bool | None = option(None, "SwiGLU instead of GELU.")
    rmsnorm: bool | None = option(None, "RMSNorm instead of LayerNorm.")
    checkpointing: bool = option(False, "Recompute activations to save memory.", identity=False)


class Diffusion(Section):
    """The forward process, what the network predicts, and how its error is weighted."""

    schedule: ScheduleName = option("cosine", "Noise schedule.", "--schedule")
    num_steps: int = option(1000, "Steps of the discrete process.", ge=2, le=1_000_000)
    zero_terminal_snr: bool = option(False, "Rescale the schedule to end in pure noise.")
    prediction: Literal["v", "eps", "x0", "flow"] = option(
        "v", "What the network predicts; flow, the velocity, is rectified-flow's own.", "--prediction"
    )
    weighting: Literal["snr+1", "snr", "truncated-snr", "min-snr", "uniform", "flow"] = option(
        "snr+1", "Loss weight on the x0 error (Salimans & Ho 2022); flow is rectified-flow's own.", "--weighting"
    )
    min_snr_gamma: float = option(5.0, "Gamma of the min-snr weighting.", gt=0)
    times: Literal["uniform", "logit-normal"] = option("uniform", "How training times are drawn.", "--times")
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
        """On the straight path the flow's velocity and its plain loss are meant where nothing else is said."""
        if isinstance(values, dict) and values.get("schedule") == "rectified-flow":
            return {"prediction": "flow", "weighting": "flow", **values}
        return values

    @model_validator(mode="after")
    def _prediction_suits_the_schedule(self) -> "Diffusion":
        straight = self.schedule == "rectified-flow"
        if self.prediction == "eps" and (self.zero_terminal_snr or straight):
            instead = "flow or x0" if straight else "v or x0"
            raise ValueError(f"eps-prediction says nothing about x0 where the signal is 0; take prediction {instead}")
        if self.prediction == "flow" and not straight:
            raise ValueError(f"prediction flow needs schedule rectified-flow, not {self.schedule}; take v here")
        if self.prediction == "v" and straight:
            raise ValueError("v-prediction needs a variance preserving schedule; take prediction flow here")
        return self


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
    """Numbers of samples while training, always of the same seeds: drawn as `ldm sample` does, judged as `ldm eval`."""

    every: Count = option(
        0, "Images between measurements of samples; 0 switches them off.", "--metrics-every", identity=False
    )
    num: Count = option(500, "Samples drawn, of all classes alike.", identity=False, ge=10)
    seed: int = option(0, "Seed of the first sample.", identity=False, ge=0, lt=2**62)
    cfg: float | None = option(None, "Guidance scale; by default that of `ldm sample`.", identity=False, ge=0)
    sampler: Literal["ddim", "ddpm", "euler", "heun", "dpmpp-2m"] = option("dpmpp-2m", "Sampler.", identity=False)
    steps: int | None = option(None, "Steps; by default the sampler's own number.", identity=False, ge=1)
    reference: str | None = option(None, "Data source to compare with; by default the training images.", identity=False)
    limit: Count = option(5_000, "Reference images at most; 0 is no limit.", identity=False)
    features: Literal["auto", "classifier", "mobilenet-v2", "inception", "lenet"] = option(
        "auto", "Feature extractor; auto takes the run's classifier. Only inception gives a FID.", identity=False
    )
    weights: Location | None = option(None, "File or folder with the extractor's weights.", identity=False)
    best: Literal["frechet", "kernel", "precision", "recall", "class_accuracy", "loss"] = option(
        "frechet", "Number by which the best state is kept; loss is the validation loss.", identity=False
    )


class DiTTrain(Train):
    images: Count = option(2_000_000, "Images to train on, counting repeats: 500k, 2M.", "--images")
    shard: bool = option(
        False,
        "Under torchrun: let each process hold only its part of weights and optimizer.",
        "--shard",
        identity=False,
    )


class TrainDiT(Stage):
    """Settings of `ldm train-dit`."""

    latents: Location | None = option(None, "Latents to train on; by default the run's own.", "--latents")
    model: DiTModel = section(DiTModel)
    diffusion: Diffusion = section(Diffusion)
    label_dropout: float = option(
        0.1, "Share of labels replaced by the null class; 0 gives up guidance.", "--label-dropout", ge=0, lt=1
    )
    reading: Literal["auto", "held", "mapped", "streamed"] = option(
        "auto",
        "Latents held on the device, mapped into memory, or streamed from the disk; auto takes what they fit in.",
        identity=False,
    )
    train: DiTTrain = section(DiTTrain)
    preview: Preview = section(Preview)
    metrics: Metrics = section(Metrics)
    machine: Machine = section(Machine)
