"""Edits of images: what is given, what is drawn of it, and what is recorded."""

from dataclasses import replace
from pathlib import PurePath
from typing import Any

from ...core.distributed import processes
from ...core.files import sha256_file
from ...core.images.given import require_readable
from ...core.pipeline.asking import with_prompts
from ...core.pipeline.drawing import folder_label
from ...core.pipeline.editing import open_unguided, own_condition, requested
from ...core.pipeline.generator import open_generator
from ...core.pipeline.training_data import preparation_of_training
from ...core.pipeline.writing import PREVIEW, draw, kept_latents, preview
from ...core.progress import Outcome, Progress
from ...core.runs.inputs import has_begun
from ...core.runs.outputs import claim, occupied, output_folder
from ...core.runs.schemas import size_recorded
from ..configs import Edit
from .inputs import Inputs, check_editor, images_of, mask_of
from .results import errors_of, extent, records_of, write_strips
from .variants import images_to_draw, parameters_of_edits, variants_of


def run(config: Edit, progress: Progress) -> Outcome:
    """Draw the edits of every image. Returns their folder."""
    # The images, the model and its conditions, checked before anything is loaded or written.
    config, source = images_of(with_prompts(config))
    guided = bool(config.asked) or config.away_from is not None
    opened = open_generator(config) if guided else open_unguided(open_generator, config)
    check_editor(config, opened)
    latents = kept_latents(config, opened)
    request = requested(opened, config.asked)
    own = own_condition(opened.conditioning, config.from_class) if config.inversion else None
    for note in request.notes:
        progress.warn(note)
    inputs = Inputs(config, source, mask_of(config), preparation_of_training(opened.source, config))
    described: dict[str, dict[str, Any]] = {"images": {"path": config.images[0], "fingerprint": source.fingerprint()}}
    if config.mask is not None:
        described["mask"] = {"path": config.mask.as_posix(), "fingerprint": sha256_file(config.mask)}

    label = config.label or folder_label(config, PurePath(config.images[0]).stem, described)
    folder = output_folder(config, label)
    with occupied(folder, config.machine) as policy:
        begun = has_begun(folder)
        if not begun:  # Nothing is left behind by an edit that cannot be made.
            require_readable(source, progress, inputs.check)
        work = claim(folder, config, {**opened.inputs(folder), **described}, progress)
        overview = folder / "grid.png"
        if work.complete:
            return Outcome(folder, already_complete=True, pictures=[overview])

        # What is drawn: of each image all its variants, together with those of others of the same strength.
        if begun:
            require_readable(source, progress, inputs.check)
        generator = opened.generator(config, policy)
        request, variants = variants_of(config, request, own, generator)
        drawing = latents.of(generator) if latents is not None else generator
        images = images_to_draw(config, inputs, request, variants, drawing, preview(folder, config.preview_every))
        images = replace(images, latents=latents)
        if config.metadata:
            images = replace(images, parameters=parameters_of_edits(config, opened, request, variants, source))
        hashes, speed = draw(images, config.batch_size, folder, progress)
        if not processes.world().is_main:
            return Outcome(folder)

        # The strip of each image, the numbers, and the manifest, the last file.
        (folder / PREVIEW).unlink(missing_ok=True)
        records = records_of(generator, images, request, variants, source)
        errors = errors_of(inputs, generator, variants, records, folder) if config.inversion else {}
        strips = write_strips(inputs, request, variants, images.names, folder)
        metadata = {
            "images": records,
            "strips": strips,
            "sampling": opened.recorded(config.seed),
            **size_recorded(inputs.prepare.shape[:2]),
            **errors,
        }
        work.commit([*images.files, *strips, overview.name], metadata, hashes, speed)

    # What the command shows.
    summary = {"images": f"{len(images.names):,}, made from {len(source):,}", **extent(records)}
    if errors:
        summary["PSNR"] = f"{errors['psnr']:.1f} dB, of the autoencoder alone {errors['psnr_of_autoencoder']:.1f} dB"
    return Outcome(folder, summary=summary, pictures=[overview, *(folder / name for name in strips[:1])])
