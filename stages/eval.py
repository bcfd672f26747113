"""`ldm eval`: samples or reconstructions and a reference in, numbers with their conditions out."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..core import files
from ..core.artifacts import MANIFEST, Artifact, open_artifact
from ..core.data.grid import grid, scale_for
from ..core.data.images import as_tensor, as_uint8, write_png
from ..core.data.loading import ImageLoader
from ..core.data.sources import ImageSource, open_source, open_splits
from ..core.errors import ConfigError, DataError
from ..core.lock import occupy
from ..core.metrics.evaluate import Report, Settings, compare_statistics, evaluate
from ..core.metrics.features import Extractor, Features, extract, open_extractor
from ..core.metrics.frechet import DESCRIPTION, TENSORS, load_statistics, save_statistics, statistics_of
from ..core.metrics.image import image_similarity
from ..core.metrics.picture import confusion_picture
from ..core.precision import Policy
from ..core.progress import Outcome, Progress
from .configs import Eval
from .handover import (
    as_input,
    autoencoder_artifact,
    claim,
    command_line,
    image_loader,
    input_path,
    load_autoencoder,
    load_perceptual,
    machine_policy,
    output_folder,
)
from .settings import Data

NUMBERS = "metrics.json"


def run(config: Eval, progress: Progress) -> Outcome:
    """Judge a run's samples, or its autoencoder's reconstructions. Returns where the numbers lie."""
    judge = _judge_samples if config.of == "samples" else _judge_reconstructions
    return judge(config, progress)


@dataclass(frozen=True)
class Judged:
    """Images to judge. classes: of each image, by index into class_names; None where they have no labels."""

    images: ImageLoader
    classes: torch.Tensor | None
    class_names: tuple[str, ...] | None
    conditions: dict[str, Any]


def _judge_samples(config: Eval, progress: Progress) -> Outcome:
    where = _samples_folder(config)
    made = open_artifact(where, "samples", command_line("sample", config)) if (where / MANIFEST).exists() else None
    folder = output_folder(config, "eval", where.name)
    with occupy(folder):
        policy = machine_policy(config.machine)
        data = _run_data(config, made)
        extractor, its_input = _extractor(config, policy, folder)
        samples = open_source(str(where)) if made is None else _sample_source(made)
        statistics = _saved_statistics(config)
        reference = None if statistics else _reference_source(config, data)
        inputs = {
            "samples": as_input(made, folder) if made else {"path": str(where), "fingerprint": samples.fingerprint()},
            "extractor": its_input,
            "reference": {
                "path": config.reference or f"{data.source} (training images)",
                "fingerprint": files.sha256_file(statistics / TENSORS) if statistics else _fingerprint(reference),
            },
        }
        work = claim(folder, "eval", config, inputs)
        if work.complete:
            return Outcome(folder, already_complete=True, summary=_shown(files.read_json(folder / NUMBERS)))
        judged = _judged(samples, made, data, config, progress)
        fake = extract(extractor, _batches(judged.images, config, progress, "samples"))
        outputs = [NUMBERS]
        if statistics is not None:
            known = load_statistics(statistics, extractor)
            numbers = compare_statistics(known, statistics_of(fake.features), extractor.name)
            conditions = {"n_reference": known.n, "n_samples": len(fake), "resize": extractor.resize}
            report = Report(numbers, {}, conditions | {"weights_sha256": extractor.weights_sha256})
        else:
            assert reference is not None
            loader = image_loader(_first(reference, config.limit, config.seed), data, "reference", progress)
            real = extract(extractor, _batches(loader, config, progress, "reference"))
            known_names = judged.class_names is not None and extractor.class_names is not None
            names = judged.class_names if known_names else None
            report = evaluate(real, fake, extractor, judged.classes if known_names else None, names)
            save_statistics(statistics_of(real.features), extractor, folder)
            outputs += [TENSORS, DESCRIPTION]
        document = _document("samples", report, {**judged.conditions, "reference": inputs["reference"]["path"]})
        files.write_json(folder / NUMBERS, document)
        pictures = _confusion(folder, fake, judged, extractor)
        work.commit(outputs + pictures, {"numbers": report.numbers, "floor": report.floor})
    return Outcome(folder, summary=_shown(document), pictures=[folder / name for name in pictures])


def _judge_reconstructions(config: Eval, progress: Progress) -> Outcome:
    folder = output_folder(config, "eval", "reconstructions")
    with occupy(folder):
        policy = machine_policy(config.machine)
        source = autoencoder_artifact(config.root / "vqvae", config)
        data = Data.model_validate(source.config["data"])
        extractor, its_input = _extractor(config, policy, folder)
        held_out = _reference_source(config, data, validation=True)
        reference = {"path": config.reference or f"{data.source} (validation images)"}
        reference["fingerprint"] = held_out.fingerprint()
        inputs = {"autoencoder": as_input(source, folder), "extractor": its_input, "reference": reference}
        work = claim(folder, "eval", config, inputs)
        if work.complete:
            return Outcome(folder, already_complete=True, summary=_shown(files.read_json(folder / NUMBERS)))
        autoencoder = load_autoencoder(source, policy).network
        perceptual = load_perceptual(config.lpips, policy)
        loader = image_loader(_first(held_out, config.limit, config.seed), data, "reference", progress)
        decoded, scores = [], []
        for batch in _batches(loader, config, progress, "decoding"):
            with torch.no_grad(), policy.autocast():
                output = autoencoder.decode(autoencoder.encode(batch.to(policy.device)))
            decoded.append(as_uint8(output.float().cpu()))
            scores.append(image_similarity(as_tensor(decoded[-1]), batch, perceptual))
        by_image = {name: torch.cat([score[name] for score in scores]) for name in scores[0]}
        report = Report({}, {}, {"n_reference": len(loader), "n_samples": len(loader)})
        if len(loader) < 2 * Settings().least:
            progress.warn(f"{len(loader)} images are too few for distances between sets: PSNR and its like only")
        else:
            real = extract(extractor, _batches(loader, config, progress, "originals"))
            fake = extract(extractor, (as_tensor(pixels) for pixels in decoded))
            report = evaluate(real, fake, extractor)
        means = {name: float(values.mean()) for name, values in by_image.items()}
        report = Report({**means, **report.numbers}, report.floor, report.conditions)
        document = _document("reconstructions", report, {"reference": reference["path"]})
        files.write_json(folder / NUMBERS, document)
        picture = _worst(folder, loader, np.concatenate(decoded), by_image["psnr"])
        work.commit([NUMBERS, picture], {"numbers": report.numbers, "floor": report.floor})
    return Outcome(folder, summary=_shown(document), pictures=[folder / picture])


def _samples_folder(config: Eval) -> Path:
    """Find the samples: by label or path, or the only ones in the run."""
    root = config.root / "samples"
    found = sorted(path.parent.name for path in root.glob(f"*/{MANIFEST}"))
    if config.samples is not None:
        inside = root / config.samples
        path = inside if inside.is_dir() else Path(config.samples)
        if not path.exists():
            raise DataError(
                f"--samples {config.samples}: neither {inside} nor {path} exists",
                f"the run has {', '.join(found)}" if found else f"make some: {command_line('sample', config)}",
            )
        return path
    if not found:
        raise DataError(f"{root} holds no finished samples", f"make some: {command_line('sample', config)}")
    if len(found) > 1:
        raise ConfigError(f"{root} holds several sets of samples", f"choose with --samples: {', '.join(found)}")
    return root / found[0]


def _run_data(config: Eval, samples: Artifact | None) -> Data:
    """Return how the run's images were read: through the samples' denoiser, or the run's autoencoder."""
    producer = config.root / "vqvae"
    if samples is not None:
        denoiser = open_artifact(input_path(samples, "denoiser"), "dit", command_line("train-dit", config))
        producer = input_path(denoiser, "autoencoder")
    return Data.model_validate(autoencoder_artifact(producer, config).config["data"])


def _extractor(config: Eval, policy: Policy, folder: Path) -> tuple[Extractor, dict[str, Any]]:
    """Open the feature extractor, and describe it as an input."""
    kind = "classifier" if config.features == "auto" else config.features
    if kind == "classifier" and config.weights is None:
        made = open_artifact(config.root / "classifier", "classifier", command_line("train-classifier", config))
        made.verify()
        return open_extractor(kind, made.path / "final", policy.device), as_input(made, folder)
    extractor = open_extractor(kind, config.weights, policy.device, config.download)
    return extractor, {"path": str(config.weights or kind), "fingerprint": extractor.weights_sha256}


def _saved_statistics(config: Eval) -> Path | None:
    """Return the folder with saved statistics, if that is what the reference is."""
    path = Path(config.reference or "")
    return path if config.reference and (path / DESCRIPTION).is_file() else None


def _reference_source(config: Eval, data: Data, validation: bool = False) -> ImageSource:
    """Return the reference: what was named, or the run's own images."""
    if config.reference is not None:
        return open_source(config.reference)
    if data.source is None:
        raise ConfigError("the run does not say which images it was trained on", "give --reference")
    return open_splits(data.source, data.validation, data.val_fraction)[1 if validation else 0]


def _fingerprint(source: ImageSource | None) -> str:
    assert source is not None, "a reference is either images or statistics"
    return source.fingerprint()


def _first(source: ImageSource, limit: int, seed: int) -> ImageSource:
    """Return at most `limit` images, spread over the source by a fixed choice; 0 is all of them."""
    if not limit or limit >= len(source):
        return source
    from ..core.data.order import epoch_order

    return source.subset(np.sort(epoch_order(seed, 0, len(source))[:limit]))


def _sample_source(made: Artifact) -> ImageSource:
    """Open a sample folder's images, in the order of its manifest."""
    made.verify()
    source = open_source(str(made.path))
    row = {name: index for index, name in enumerate(source.names)}
    return source.subset([row[entry["file"]] for entry in made.facts["images"]])


def _judged(source: ImageSource, made: Artifact | None, data: Data, config: Eval, progress: Progress) -> Judged:
    """Read the samples: at their own size, judged by their labels if they have any."""
    loader = image_loader(source, data, "sample", progress)
    if made is None:
        classes = torch.from_numpy(loader.labels) if source.labelled else None
        return Judged(loader, classes, source.class_names if source.labelled else None, {"samples": source.location})
    labels = torch.tensor([entry["label"] for entry in made.facts["images"]])
    conditions = {"sampling": made.facts["sampling"], "image_size": made.facts["image_size"]}
    return Judged(loader, labels, tuple(made.facts["class_names"]), conditions)


def _batches(images: ImageLoader, config: Eval, progress: Progress, title: str) -> Iterator[torch.Tensor]:
    size = config.batch_size
    indices = [np.arange(start, min(start + size, len(images))) for start in range(0, len(images), size)]
    progress.start(title, len(images), "images")
    for rows, pixels in zip(indices, images.batches(indices), strict=True):
        yield as_tensor(pixels)
        progress.update(int(rows[-1]) + 1)
    progress.finish()


def _document(of: str, report: Report, conditions: dict[str, Any]) -> dict[str, Any]:
    return {
        "of": of,
        "numbers": report.numbers,
        "real_against_real": report.floor,
        "conditions": {**report.conditions, **conditions},
    }


def _shown(document: dict[str, Any]) -> dict[str, str]:
    """Choose what the command prints: every number beside its floor, and how many images it rests on."""
    floor, conditions = document["real_against_real"], document["conditions"]
    rows = {
        name: f"{value:.4g}" + (f"   (real against real {floor[name]:.4g})" if name in floor else "")
        for name, value in document["numbers"].items()
        if "_std[" not in name
    }
    rows["images"] = f"{conditions['n_samples']:,} against {conditions['n_reference']:,}"
    return rows


def _confusion(folder: Path, fake: Features, judged: Judged, extractor: Extractor) -> list[str]:
    """Draw which class each sample was read as, where the extractor knows the same classes."""
    if judged.classes is None or judged.class_names is None or extractor.class_names != judged.class_names:
        return []
    confusion_picture(fake.logits.argmax(1), judged.classes, judged.class_names, folder / "confusion.png")
    return ["confusion.png"]


def _worst(folder: Path, originals: ImageLoader, decoded: np.ndarray, ratio: torch.Tensor) -> str:
    """Write the worst, the middling and the best reconstructions below their originals."""
    order = ratio.argsort().numpy()
    count = min(4, len(order))
    middle = max((len(order) - count) // 2, 0)
    chosen = np.concatenate([order[:count], order[middle : middle + count], order[-count:]])
    picture = grid(
        np.concatenate([originals.batch(chosen), decoded[chosen]]),
        columns=len(chosen),
        row_labels=["original", "decoded"],
        column_labels=[f"{float(ratio[index]):.1f} dB" for index in chosen],
        scale=scale_for(decoded),
    )
    write_png(folder / "reconstructions.png", picture)
    return "reconstructions.png"
