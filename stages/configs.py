"""One frozen configuration per stage: defaults, help text, checks. Imports no torch."""

from typing import Any, Literal

from pydantic import model_validator

from .settings import Count, Data, Location, Machine, Section, Stage, Train, option, section


class VQVAEModel(Section):
    """The autoencoder's network: a preset, and what differs from it."""

    preset: str = option(
        "vqvae-s", "Named network size: vqvae-xs, vqvae-s or vqvae-m (4x smaller), vqvae-f8, vqvae-f16.", "--preset"
    )
    channels: int | None = option(None, "Width of the finest level.", ge=1)
    channel_multipliers: tuple[int, ...] | None = option(
        None, "Width of each of n levels; they shrink images patch x 2^(n-1) times."
    )
    patch: int | None = option(None, "Pixels per side that the first layer folds into channels.", ge=1)
    num_res_blocks: int | None = option(None, "Residual blocks per level.", ge=1)
    num_decoder_blocks: int | None = option(None, "Residual blocks per level of the decoder.", ge=1)
    middle_blocks: bool | None = option(None, "Residual blocks at the lowest resolution.")
    latent_channels: int | None = option(None, "Channels of the latent.", "--latent-channels", ge=1)
    codebook_size: int | None = option(None, "Codes that a latent pixel can be.", "--codebook-size", ge=2)
    cosine: bool | None = option(None, "Choose codes by cosine similarity.")
    attention: bool | None = option(None, "Self-attention at the lowest resolution.")
    commitment: float | None = option(None, "Weight of the commitment term, on the encoder.", ge=0)
    ema_decay: float | None = option(None, "Decay of the codebook's moving average.", ge=0, lt=1)


class VQVAELoss(Section):
    """What the reconstruction is judged by."""

    reconstruction: Literal["l1", "l2"] = option("l1", "Pixel loss.")
    lpips: Location | None = option(None, "Folder with LPIPS weights; none leaves the perceptual loss out.", "--lpips")
    lpips_weight: float = option(1.0, "Weight of the perceptual loss.", ge=0)
    adversarial_weight: float = option(0.0, "Weight of a PatchGAN discriminator; 0 leaves it out.", ge=0)
    adversarial_start: Count = option(200_000, "Images before the discriminator counts.")


class VQVAETrain(Train):
    images: Count = option(1_000_000, "Images to train on, counting repeats: 500k, 2M.", "--images")
    lr: float = option(4e-4, "Peak learning rate.", "--lr", gt=0)
    beta2: float = option(0.99, "AdamW's second moment.", ge=0, lt=1)
    ema: float = option(0.995, "Decay of the weights' moving average, per step; 0 switches it off.", ge=0, lt=1)


class TrainVQVAE(Stage):
    """Settings of `ldm train-vqvae`."""

    autoencoder: Location | None = option(
        None,
        "Take this diffusers autoencoder folder instead of training one; it is measured and stored.",
        "--autoencoder",
    )
    data: Data = section(Data)
    model: VQVAEModel = section(VQVAEModel)
    loss: VQVAELoss = section(VQVAELoss)
    train: VQVAETrain = section(VQVAETrain)
    machine: Machine = section(Machine)
    pictures: int = option(8, "Validation images shown beside their reconstruction.", identity=False, ge=1, le=64)


class Encode(Stage):
    """Settings of `ldm encode`. What `data` leaves unsaid is taken from the autoencoder's own training."""

    autoencoder: Location | None = option(None, "Autoencoder stage to use; by default the run's own.", "--autoencoder")
    data: Data = section(Data, inherited=True)
    batch_size: int = option(64, "Images encoded at once.", "--batch-size", ge=1)
    shard_size: int = option(4096, "Samples per shard.", "--shard-size", ge=1)
    machine: Machine = section(Machine)


ScheduleName = Literal["linear", "scaled-linear", "cosine", "quadratic", "sigmoid", "rectified-flow"]


class DiTModel(Section):
    """The denoiser's network: a preset, and what differs from it."""

    preset: str = option("dit-s/2", "Named network size: dit-xs, DiT-S/2 … DiT-XL/2.", "--preset")
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
    num_steps: int = option(1000, "Steps of the discrete process.", ge=2)
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


class DiTTrain(Train):
    images: Count = option(2_000_000, "Images to train on, counting repeats: 500k, 2M.", "--images")


class TrainDiT(Stage):
    """Settings of `ldm train-dit`."""

    latents: Location | None = option(None, "Latents to train on; by default the run's own.", "--latents")
    model: DiTModel = section(DiTModel)
    diffusion: Diffusion = section(Diffusion)
    label_dropout: float = option(
        0.1, "Share of labels replaced by the null class; 0 gives up guidance.", "--label-dropout", ge=0, lt=1
    )
    train: DiTTrain = section(DiTTrain)
    preview: Preview = section(Preview)
    machine: Machine = section(Machine)


class ClassifierTrain(Train):
    images: Count = option(100_000, "Images to train on, counting repeats: 500k, 2M.", "--images")
    lr: float = option(2e-3, "Peak learning rate.", "--lr", gt=0)
    decay: Literal["constant", "cosine", "linear"] = option("cosine", "Learning rate after warm-up.")
    weight_decay: float = option(0.01, "AdamW's weight decay.", ge=0)
    ema: float = option(0.0, "Decay of the weights' moving average, per step; 0 switches it off.", ge=0, lt=1)


class NoisyClassifierModel(Section):
    """The classifier of noisy latents: its noise, by default that of the run's denoiser, and its network."""

    schedule: ScheduleName | None = option(None, "Noise schedule.")
    num_steps: int | None = option(None, "Steps of the discrete process.", ge=2)
    zero_terminal_snr: bool | None = option(None, "Rescale the schedule to end in pure noise.")
    width: int = option(128, "Width of the tokens.", ge=8)
    depth: int = option(4, "Blocks.", ge=1)
    heads: int = option(4, "Attention heads.", ge=1)
    patch_size: int = option(2, "Latent pixels per token side.", ge=1)


class TrainClassifier(Stage):
    """Settings of `ldm train-classifier`. What `data` leaves unsaid is taken from the run's autoencoder."""

    noisy: bool = option(False, "Classify noisy latents, for classifier guidance, instead of images.", "--noisy")
    latents: Location | None = option(None, "With --noisy: latents to train on; by default the run's own.", "--latents")
    data: Data = section(Data, inherited=True)
    noisy_model: NoisyClassifierModel = section(NoisyClassifierModel)
    max_shift: int = option(2, "Random shift of training images, pixels.", ge=0)
    train: ClassifierTrain = section(ClassifierTrain)
    machine: Machine = section(Machine)


class Sample(Stage):
    """Settings of `ldm sample`."""

    denoiser: Location | None = option(None, "Denoiser stage to sample; by default the run's own.", "--denoiser")
    label: str | None = option(
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
        None, "Steps, 1 to the schedule's number; by default the sampler's own.", "--steps", ge=1
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
    batch_size: int = option(64, "Images denoised at once; changes no image.", "--batch-size", ge=1, identity=False)
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


class Eval(Stage):
    """Settings of `ldm eval`."""

    of: Literal["samples", "reconstructions"] = option("samples", "What to judge.", "--of")
    bits_per_dim: bool = option(
        False, "Judge the denoiser instead: bound its likelihood of held-out latents.", "--bits-per-dim"
    )
    times: int = option(16, "With --bits-per-dim: terms of the bound drawn for each latent.", ge=1)
    samples: str | None = option(
        None, "Label or folder of the samples; by default the only ones in the run.", "--samples"
    )
    reference: str | None = option(
        None, "Data source, folder or saved statistics; by default the validation images.", "--reference"
    )
    features: Literal["auto", "classifier", "mobilenet-v2", "inception", "lenet"] = option(
        "auto", "Feature extractor; auto takes the run's classifier. Only inception gives a FID.", "--features"
    )
    weights: Location | None = option(None, "File or folder with the extractor's weights.", "--weights")
    download: bool = option(False, "Allow the download of Inception's weights.", "--download")
    limit: Count = option(0, "Images at most on either side, or latents; 0 is no limit.", "--limit")
    lpips: Location | None = option(None, "Folder with LPIPS weights, for reconstructions.", "--lpips")
    batch_size: int = option(64, "Images at once.", "--batch-size", ge=1, identity=False)
    machine: Machine = section(Machine)


STAGES: dict[str, type[Stage]] = {
    "train-vqvae": TrainVQVAE,
    "encode": Encode,
    "train-dit": TrainDiT,
    "train-classifier": TrainClassifier,
    "sample": Sample,
    "eval": Eval,
}
NOISY = "noisy-classifier"  # output of `train-classifier --noisy`
OUTPUTS = {
    "train-vqvae": "vqvae",
    "encode": "latents",
    "train-dit": "dit",
    "train-classifier": "classifier",
    "sample": "samples",
    "eval": "eval",
}
