"""`ldm data dedup`: images that are there twice, or nearly so, in groups; lists are written, nothing is deleted."""

import shlex
from pathlib import Path

import numpy as np
import torch

from ...core.curation.contact_sheet import require_new
from ...core.curation.duplicates import Group, grouped
from ...core.curation.fingerprints import (
    FINGERPRINT,
    fingerprint_of,
    keeping_order,
    representatives,
    scratch,
    usual_likeness,
)
from ...core.curation.near import confirmed, cosine_pairs, merged, near_links
from ...core.errors import DataError
from ...core.features.registry import open_extractor
from ...core.images.decode import as_tensor
from ...core.images.exclusion import write_exclusion
from ...core.images.loader import ImageLoader, Preparation
from ...core.progress import Outcome, Progress
from ...core.runs.outputs import machine_policy
from ...core.system.settings import Machine
from ..configs.data_tools import DataDedup
from .data_copies import Copies
from .data_parts import TRAINED, Catalogue, opened_images, read_all

FEATURE_DISTANCE = 0.04  # of MobileNetV2
DETAIL = 0.965  # least likeness of the fine detail of near copies, among images that look alike
_ALIKE = 0.2  # the median likeness of unrelated images above which they do: photographs are at 0.03, MNIST at 0.37
_SIDE, _BATCH = 224, 64  # of images for a network


def run(config: DataDedup, progress: Progress) -> Outcome:
    """Find groups of copies, and write the lists and the sheet that were asked for."""
    for path, flag in ((config.out, "out"), (config.exclude_out, "exclude_out"), (config.sheet, "sheet")):
        if path is not None:
            require_new(path, config.replace, flag)
    images, exclude = opened_images(config)
    fingerprints, broken = _fingerprints(images, progress)
    found = Copies(images, _groups(config, images, fingerprints, progress), broken)
    facts = found.facts(config.drop_conflicts)
    summary = dict(found.rows(facts))
    next_commands = []
    if config.out is not None:
        found.write_list(config.out)
        summary["list"] = str(config.out)
    if config.exclude_out is not None:
        names = found.left_out(config.drop_conflicts)
        about = [f"{len(names):,} copies in {config.source}, found by `ldm data dedup`"]
        write_exclusion(config.exclude_out, [*sorted(exclude.names if exclude else ()), *names], about)
        summary["exclude list"] = str(config.exclude_out)
        words = ["ldm", "train-vqvae", "--data", config.source, "--exclude", str(config.exclude_out)]
        words += ["--val-data", config.validation] if config.validation is not None else []
        next_commands.append(shlex.join(words))
    pictures = []
    if config.sheet is not None and found.groups:
        found.write_sheet(config.sheet, config.sheet_order)
        pictures.append(config.sheet)
    count = len(found.groups)
    held = f"{count:,} group{'s' if count > 1 else ''} of copies" if count else "no copies"
    return Outcome(
        Path(config.source),
        summary=summary,
        pictures=pictures,
        next_commands=next_commands,
        verdict=f"holds {held} among {len(images):,} images",
        facts=facts,
    )


def _fingerprints(images: Catalogue, progress: Progress) -> tuple[np.ndarray, list[str]]:
    """Take the FINGERPRINT of every image, (N,). Returns them, and the names of images that cannot be decoded."""
    fingerprints = scratch((len(images),), FINGERPRINT)
    broken: list[str] = []
    for row, (_, source, index, seen) in enumerate(read_all(images.parts, fingerprint_of, progress, "reading images")):
        if isinstance(seen, DataError):
            broken.append(source.names[index])
        else:
            fingerprints[row] = seen
    return fingerprints, broken


def _groups(config: DataDedup, images: Catalogue, fingerprints: np.ndarray, progress: Progress) -> list[Group]:
    """Link images by what they look like, and by features where asked, and gather them.

    What is held out is rather kept than what is trained on, so that it remains what others measure by.
    """
    held_out = np.repeat([part not in TRAINED for part, _ in images.parts], np.diff(images.starts))
    places = keeping_order(fingerprints, held_out)
    stands = representatives(fingerprints, places)
    rows = np.flatnonzero(fingerprints["known"] & (stands == np.arange(len(images))))
    progress.note(f"comparing the hashes of {len(rows):,} images that differ in their pixels")
    detail = -1.0 if config.detail is None else config.detail
    if config.detail is None and (usual := usual_likeness(fingerprints, rows)) > _ALIKE:
        detail = DETAIL
        progress.note(
            f"unrelated images look alike (likeness {usual:.2f} at the median), as products on one background do: near"
            f" copies have to agree in fine detail (--detail {detail})"
        )
    links = near_links(fingerprints, rows, config.bits, config.likeness, config.mirrored, detail)
    if config.features == "none":
        progress.note("features are not compared: that takes --features mobilenet-v2 --weights FILE")
    else:
        device = machine_policy(Machine(device=config.device)).device
        features = _features(config, images, rows, device, progress)
        pairs = cosine_pairs(features, config.feature_distance or FEATURE_DISTANCE, device)
        links = merged([links, confirmed(fingerprints, rows, pairs, "features")])
    return grouped(fingerprints, stands, links, places)


def _features(
    config: DataDedup, images: Catalogue, rows: np.ndarray, device: torch.device, progress: Progress
) -> np.ndarray:
    """Return a network's features, float16 (N, D), of the images at `rows`, whole and squashed to a square."""
    extractor = open_extractor(config.features, config.weights, device)
    features = scratch((len(rows), extractor.dim), np.float16)
    progress.start(f"{extractor.name} features", len(rows), "images")
    for (_, source), start, stop in zip(images.parts, images.starts, images.starts[1:], strict=False):
        chosen = np.flatnonzero((rows >= start) & (rows < stop))
        loader = ImageLoader(source.subset(rows[chosen] - start), Preparation(_SIDE, fit="stretch", cache_bytes=0))
        for some, pixels in loader.in_turn(_BATCH):
            features[chosen[some]] = extractor.features(as_tensor(pixels)).cpu().numpy()
            progress.update(int(chosen[some[-1]]) + 1)
        loader.close()
    progress.finish()
    return features
