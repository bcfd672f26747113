"""`ldm eval` of samples: samples and a reference in, numbers with their conditions out."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...core.conditioning.registry import conditioning_of
from ...core.errors import ConfigError, DataError
from ...core.features.extractor import Extractor, Features, extract
from ...core.files import sha256_file, sha256_json
from ...core.images.dataset import ImageSource
from ...core.images.decode import write_png
from ...core.images.grid import grid, scale_for
from ...core.images.loader import ImageLoader
from ...core.images.sets import data_of, image_loader
from ...core.images.settings import Data
from ...core.images.sources import open_source
from ...core.metrics.document import evaluation_outcome, write_evaluation
from ...core.metrics.evaluate import Report, Settings, compare_statistics, evaluate, require_enough
from ...core.metrics.frechet import DESCRIPTION, TENSORS, load_statistics, save_statistics, statistics_of
from ...core.metrics.inputs import (
    described_features,
    feature_extractor,
    image_batches,
    known_classes,
    known_labels,
    limited,
    reference_images,
    saved_statistics,
)
from ...core.metrics.nearest import neighbours
from ...core.pipeline.training_data import reader_of_images
from ...core.progress import Outcome, Progress
from ...core.runs.inputs import as_input, has_begun, made_by, open_own, open_producer, own_folders
from ...core.runs.lock import occupy
from ...core.runs.outputs import claim, command_line, machine_policy, output_folder
from ...core.runs.roles import AUTOENCODER, DENOISER, LATENTS, SAMPLES, any_generator, generators
from ...core.runs.run import MANIFEST, StageRun, open_run
from ..configs import Eval
from .classes import by_class, draw_confusion, read, read_held_out
from .prompts import clip_input, conditions_of_samples, evaluate_prompts, open_clip_of, prompts_alone, with_prompts

NEAREST = "nearest.png"
SHOWN_SAMPLES, SHOWN_NEIGHBOURS = 8, 5


def run(config: Eval, progress: Progress, seen: dict[str, Features] | None = None) -> Outcome:
    """Compare samples with a reference, and where they have classes, classify them.

    seen: features of references, a cache for evaluating several sets of samples one after another.
    """
    where = _samples_folder(config)
    label = where.resolve().name
    folder = output_folder(config, label)
    with occupy(folder):
        policy = machine_policy(config.machine)
        made = _made_by_us(where, config)
        reader = _reader(config, made)
        data = data_of(reader)
        samples = open_source(str(where)) if made is None else _labelled(made)
        clip = open_clip_of(config, samples, policy)
        if made is not None and prompts_alone(config, samples):
            return evaluate_prompts(config, made, samples, data, folder, clip, progress)
        extractor, its_input = feature_extractor(config, policy, folder)
        statistics = saved_statistics(config)
        if statistics is not None:
            known = load_statistics(statistics, extractor)
            if len(limited(samples, config)) < 2:
                raise DataError("the samples: 1 image is too few", "give at least 2")
            reference = {"path": config.reference, "fingerprint": sha256_file(statistics / TENSORS)}
        else:
            real_images, reference = reference_images(config, reader, progress)
            require_enough(len(limited(real_images, config)), len(limited(samples, config)))
        samples_input = as_input(made, folder) if made else {"path": str(where), "fingerprint": samples.fingerprint()}
        inputs = {"samples": samples_input, "extractor": its_input, "reference": reference, **clip_input(config, clip)}
        work = claim(folder, config, inputs, progress)
        next_commands = [command_line("sweep", config), command_line("report", config)]
        if work.complete:
            return evaluation_outcome(work, next_commands)
        columns = known_classes(samples.class_names, extractor, progress) if samples.labelled else None
        checked = known_labels(asked, extractor, progress) if (asked := _labels_asked_for(made)) else None
        if checked is not None:
            names, rows, columns = checked
            samples = replace(samples, class_names=names, labels=rows)
        fakes = image_loader(limited(samples, config), data, "sample", progress)
        fake = extract(extractor, image_batches(fakes, config, progress, "samples"))
        outputs, pictures = [], []
        if statistics is not None:
            numbers = compare_statistics(known, statistics_of(fake.features), extractor.name)
            conditions = {"n_reference": known.n, "n_samples": len(fake), "resize": extractor.resize}
            report = Report(numbers, {}, conditions | {"weights_sha256": extractor.weights_sha256})
        else:
            reals, real = _reference_features(real_images, reference, extractor, data, config, progress, seen)
            labels = torch.from_numpy(fakes.labels)
            report = evaluate(real, fake, extractor, labels, columns, Settings(seed=config.seed))
            save_statistics(statistics_of(real.features), extractor, folder)
            outputs = [TENSORS, DESCRIPTION]
            pictures += _nearest(folder, fakes, fake, reals, real)
        conditions, classes = {**conditions_of_samples(made, where), "reference": reference["path"]}, {}
        if columns is not None:
            own = read(fake, fakes.labels, columns, extractor)
            conditions |= {"n_classified": len(own)} if len(own) < len(fake) else {}
            held_out = read_held_out(config, reader, data, extractor, set(own.own.tolist()), progress, seen)
            if held_out is not None:
                report = replace(report, floor={**report.floor, **held_out.accuracy})
                conditions["n_held_out"] = len(held_out)
            classes = by_class(samples.class_names, columns, own, held_out)
            if extractor.class_names == samples.class_names:
                pictures += draw_confusion(folder, samples.class_names, own, held_out)
        report = with_prompts(report, fakes, clip, data, progress)
        return write_evaluation(work, "samples", report, conditions, outputs, pictures, next_commands, classes)


def _reference_features(
    images: ImageSource,
    reference: dict[str, Any],
    extractor: Extractor,
    data: Data,
    config: Eval,
    progress: Progress,
    seen: dict[str, Features] | None,
) -> tuple[ImageLoader, Features]:
    """Return the reference images and their features, from `seen` where they are there."""
    key = sha256_json(described_features(extractor, reference, config, data))
    known = (seen or {}).get(key)
    # Broken images that are left out are known only once all were decoded.
    keep = known is None or data.on_error == "skip"
    loader = image_loader(limited(images, config), data, "reference", progress, keep)
    if known is None:
        known = extract(extractor, image_batches(loader, config, progress, "reference"))
        if seen is not None:
            seen[key] = known
    return loader, known


def _samples_folder(config: Eval) -> Path:
    """Find the samples: by label or path, or the only ones in the run."""
    root = config.root / "samples"
    found = sorted(path.parent.name for path in root.glob(f"*/{MANIFEST}"))
    if config.samples is not None:
        inside = root / config.samples
        path = inside if inside.is_dir() else Path(config.samples)
        if not path.exists():
            missing = f"{path} does not exist" if inside == path else f"neither {inside} nor {path} exists"
            raise DataError(
                f"`samples={config.samples}`: {missing}",
                f"name one of the run's: {', '.join(found)}"
                if found
                else f"make some: {command_line('sample', config)}",
            )
        return path
    if not found:
        raise DataError(f"{root} holds no finished samples", f"make some: {command_line('sample', config)}")
    if len(found) > 1:
        raise ConfigError(f"{root} holds several sets of samples", f"choose with `samples`: {', '.join(found)}")
    return root / found[0]


def _made_by_us(where: Path, config: Eval) -> StageRun | None:
    """Open samples of `ldm sample`, None for other images. Raises DataError for unfinished ones."""
    return open_run(where, SAMPLES, made_by(SAMPLES, config, where)) if has_begun(where) else None


def _reader(config: Eval, samples: StageRun | None) -> StageRun:
    """Return the stage that read the images which the samples are like; of samples of no model, the run's own."""
    if samples is None:
        if config.autoencoder is None and own_folders(LATENTS, config.root):
            return open_own(LATENTS, config)
        return open_own(AUTOENCODER, config, config.autoencoder, "autoencoder")
    name = next((role.name for role in generators() if role.name in samples.inputs), DENOISER.name)
    return reader_of_images(open_producer(samples, name, any_generator(), config), config)


def _labelled(made: StageRun) -> ImageSource:
    """Open a sample folder's images, in the order of its manifest, with the classes or prompts that asked for them."""
    made.verify()
    source = open_source(str(made.path))
    row = {name: index for index, name in enumerate(source.names)}
    entries = made.metadata["images"]
    images, names = source.subset([row[entry["file"]] for entry in entries]), conditioning_of(made.metadata).class_names
    if all(isinstance(entry.get("prompt"), str) for entry in entries):
        images = replace(images, captions=[(entry["prompt"],) for entry in entries])
    if not names:
        return images
    labels = np.array([entry["label"] for entry in entries], dtype=np.int64)
    return replace(images, labels=labels, class_names=names, labelled=True)


def _labels_asked_for(made: StageRun | None) -> list[list[str]]:
    """Return the labels that each sample was drawn with, where it may have several; nothing of other samples."""
    entries = [] if made is None else made.metadata["images"]
    return [entry["labels"] for entry in entries if "labels" in entry]


def _nearest(folder: Path, fakes: ImageLoader, fake: Features, reals: ImageLoader, real: Features) -> list[str]:
    """Draw some samples, each beside the reference images nearest to it in feature space: new, or memorised."""
    chosen = np.unique(np.linspace(0, len(fake) - 1, SHOWN_SAMPLES).round().astype(int))
    found = neighbours(fake.features[chosen], real.features, SHOWN_NEIGHBOURS)
    rows = [
        image
        for sample, near in zip(fakes.batch(chosen), found.indices.numpy(), strict=True)
        for image in (sample, *reals.batch(near))
    ]
    picture = grid(
        np.stack(rows),
        columns=1 + SHOWN_NEIGHBOURS,
        column_labels=["sample", "nearest", *(f"{rank}." for rank in range(2, SHOWN_NEIGHBOURS + 1))],
        scale=scale_for(np.stack(rows)),
    )
    write_png(folder / NEAREST, picture)
    return [NEAREST]
