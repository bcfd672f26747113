"""One frozen configuration per stage: defaults, help text, checks. Imports no torch."""

from typing import Literal

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

    schedule: Literal["linear", "scaled-linear", "cosine", "quadratic", "sigmoid"] = option(
        "cosine", "Noise schedule.", "--schedule"
    )
    num_steps: int = option(1000, "Steps of the discrete process.", ge=2)
    zero_terminal_snr: bool = option(False, "Rescale the schedule to end in pure noise.")
    prediction: Literal["v", "eps", "x0"] = option("v", "What the network predicts.", "--prediction")
    weighting: Literal["snr+1", "snr", "truncated-snr", "min-snr", "uniform"] = option(
        "snr+1", "Loss weight on the x0 error (Salimans & Ho 2022).", "--weighting"
    )
    min_snr_gamma: float = option(5.0, "Gamma of the min-snr weighting.", gt=0)

    @model_validator(mode="after")
    def _eps_needs_a_signal(self) -> "Diffusion":
        if self.zero_terminal_snr and self.prediction == "eps":
            raise ValueError("eps-prediction says nothing about x0 at zero terminal SNR; take prediction v or x0")
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


class TrainClassifier(Stage):
    """Settings of `ldm train-classifier`. What `data` leaves unsaid is taken from the run's autoencoder."""

    data: Data = section(Data, inherited=True)
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
    cfg: float = option(
        3.0, "Classifier-free guidance scale, u + s (c - u); 1 is none, 0 unconditional.", "--cfg", ge=0
    )
    cfg_interval: tuple[float, float] | None = option(
        None, "Guide only at noise times from,to within [0, 1].", "--cfg-interval"
    )
    cfg_rescale: float = option(0.0, "Pull the guided contrast back by this share.", "--cfg-rescale", ge=0, le=1)
    sampler: Literal["ddim", "ddpm", "euler", "heun", "dpmpp-2m"] = option("ddim", "Sampler.", "--sampler")
    steps: int | None = option(
        None, "Steps, 1 to the schedule's number; by default the sampler's own.", "--steps", ge=1
    )
    eta: float = option(0.0, "DDIM's share of fresh noise: 0 deterministic, 1 DDPM.", "--eta", ge=0, le=1)
    spacing: Literal["leading", "trailing", "linspace"] = option(
        "trailing", "Which of the schedule's steps.", "--spacing"
    )
    variance: Literal["posterior", "beta"] = option("posterior", "DDPM's variance.")
    batch_size: int = option(64, "Images denoised at once; changes no image.", "--batch-size", ge=1, identity=False)
    progressive: bool = option(
        False, "Also write the path from noise to image, as a strip and animated.", "--progressive"
    )
    machine: Machine = section(Machine)

    @model_validator(mode="after")
    def _interval_is_ordered(self) -> "Sample":
        if self.cfg_interval is not None and not 0 <= self.cfg_interval[0] < self.cfg_interval[1] <= 1:
            given = ",".join(f"{time:g}" for time in self.cfg_interval)
            raise ValueError(f"--cfg-interval is {given}: give two noise times, the smaller first, within [0, 1]")
        return self


class Eval(Stage):
    """Settings of `ldm eval`."""

    of: Literal["samples", "reconstructions"] = option("samples", "What to judge.", "--of")
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
    limit: Count = option(0, "Images at most on either side; 0 is no limit.", "--limit")
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
OUTPUTS = {
    "train-vqvae": "vqvae",
    "encode": "latents",
    "train-dit": "dit",
    "train-classifier": "classifier",
    "sample": "samples",
    "eval": "eval",
}
