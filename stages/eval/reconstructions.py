"""Reconstruction of held-out images by an autoencoder: `ldm eval --of reconstructions`."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ...core.autoencoders.codec import Autoencoder
from ...core.errors import ConfigError
from ...core.features.extractor import extract
from ...core.images.decode import as_tensor, as_uint8, write_png
from ...core.images.grid import grid, scale_for
from ...core.images.loader import ImageLoader
from ...core.images.sets import data_of, image_loader
from ...core.metrics.document import evaluation_outcome, write_evaluation
from ...core.metrics.evaluate import Report, Settings, evaluate
from ...core.metrics.image import image_similarity
from ...core.metrics.inputs import feature_extractor, image_batches, limited, reference_images, saved_statistics
from ...core.pipeline.loading import load_autoencoder, load_perceptual
from ...core.progress import Outcome, Progress
from ...core.runs.inputs import as_input, open_own
from ...core.runs.lock import occupy
from ...core.runs.outputs import claim, command_line, machine_policy, output_folder
from ...core.runs.roles import AUTOENCODER
from ...core.system.precision import Policy
from ..configs import Eval

LABEL = "reconstructions"
PICTURE = "reconstructions.png"


def run(config: Eval, progress: Progress) -> Outcome:
    """Compare held-out images with their reconstructions, one by one and as sets."""
    label = LABEL if config.image_size is None else f"{LABEL}-{config.image_size}"
    folder = output_folder(config, label)
    with occupy(folder):
        policy = machine_policy(config.machine)
        source = open_own(AUTOENCODER, config, config.autoencoder, "autoencoder")
        data = data_of(source)
        if config.image_size is not None:
            data = data.model_copy(update={"image_size": config.image_size, "image_width": None})
        if saved_statistics(config) is not None:
            raise ConfigError(
                f"`reference={config.reference}` is saved statistics, but reconstructions need images",
                "give a folder of images, or leave it out for the validation images",
            )
        extractor, its_input = feature_extractor(config, policy, folder)
        held_out, reference = reference_images(config, source, progress, validation=True)
        inputs = {"autoencoder": as_input(source, folder), "extractor": its_input, "reference": reference}
        work = claim(folder, config, inputs, progress)
        next_commands = [command_line("report", config)]
        if work.complete:
            return evaluation_outcome(work, next_commands)
        autoencoder = load_autoencoder(source, policy).network
        autoencoder.latent_shape(data.size)  # which refuses a size that it does not take
        reconstruct = reconstruction_by(autoencoder, policy)
        perceptual = load_perceptual(config.lpips, policy)
        originals = image_loader(limited(held_out, config), data, "reference", progress)
        scores: list[dict[str, Tensor]] = []

        def decoded() -> Iterator[Tensor]:
            for images in image_batches(originals, config, progress, "decoding"):
                reconstructed = reconstruct(images)
                scores.append(image_similarity(reconstructed, images, perceptual))
                yield reconstructed

        fake = extract(extractor, decoded())
        by_image = {name: torch.cat([score[name] for score in scores]) for name in scores[0]}
        settings = Settings(seed=config.seed)
        if len(fake) < 2 * settings.least:
            progress.warn(f"{len(fake)} images are too few for distances between sets: only PSNR, SSIM and LPIPS")
            report = Report({}, {}, {"n_reference": len(fake), "n_samples": len(fake)})
        else:
            real = extract(extractor, image_batches(originals, config, progress, "originals"))
            report = evaluate(real, fake, extractor, settings=settings)
        means = {name: float(values.mean()) for name, values in by_image.items()}
        report = Report({**means, **report.numbers}, report.floor, report.conditions)
        _write_worst_and_best(folder / PICTURE, originals, reconstruct, by_image["psnr"])
        return write_evaluation(work, label, report, {"reference": reference["path"]}, [], [PICTURE], next_commands)


def reconstruction_by(autoencoder: Autoencoder, policy: Policy) -> Callable[[Tensor], Tensor]:
    """Return the function that encodes, decodes and rounds to 8 bits images (B, 3, H, W) in [-1, 1], on the CPU."""

    @torch.no_grad()
    def reconstruct(images: Tensor) -> Tensor:
        with policy.autocast():
            decoded = autoencoder(images.to(policy.device))
        return as_tensor(as_uint8(decoded.cpu()))

    return reconstruct


def shown_ranks(total: int, each: int = 4) -> np.ndarray:
    """Return the ranks of the worst, the median and the best of `total` images, each once where they are few."""
    starts = (0, max((total - each) // 2, 0), max(total - each, 0))
    return np.unique(np.concatenate([np.arange(start, min(start + each, total)) for start in starts]))


def _write_worst_and_best(
    path: Path, originals: ImageLoader, reconstruct: Callable[[Tensor], Tensor], ratio: Tensor
) -> None:
    """Write the worst, the median and the best reconstructions, by PSNR, below their originals."""
    order = ratio.argsort().numpy()
    chosen = order[shown_ranks(len(order))]
    pixels = originals.batch(chosen)
    picture = grid(
        np.concatenate([pixels, as_uint8(reconstruct(as_tensor(pixels)))]),
        columns=len(chosen),
        row_labels=["original", "decoded"],
        column_labels=[f"{float(ratio[index]):.1f} dB" for index in chosen],
        scale=scale_for(pixels),
    )
    write_png(path, picture)
