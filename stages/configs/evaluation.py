"""Settings of `ldm eval`."""

from typing import Literal

from ..settings import Count, Location, Machine, Stage, option, section


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
        None,
        "Data source, folder or saved statistics; by default the training images, for reconstructions the others.",
        "--reference",
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
