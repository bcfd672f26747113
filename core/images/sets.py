"""Training and validation images, as stages read them."""

import time
from calendar import timegm
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path
from typing import Any, TypeVar

from PIL import ImageColor

from ..distributed import processes
from ..errors import ConfigError, DataError
from ..files import sha256_json
from ..progress import Progress
from ..runs.inputs import section_of
from ..runs.provenance import CREATED
from ..runs.run import StageRun, kind_of
from ..settings.fields import Section
from .captions import has_captions, with_captions
from .dataset import ImageSource, listed
from .exclusion import Exclusion, read_exclusion
from .loader import ImageLoader, Preparation
from .settings import Data
from .sources import open_splits
from .squares import Squares, cache_folder
from .weights import advice_on_masks, mask_fingerprint

_DARK = 0.5  # share of nearly black images above which they are hardly meant to be
_NAMED = 3  # files, of those that were written since a stage ended
MASKS = "masks"  # role of masks, among a stage's inputs
CAPTIONS = "captions"  # role of captions, among a stage's inputs
EXCLUDE = "exclude"  # role of the list of images to leave out, among a stage's inputs


Config = TypeVar("Config", bound=Section)


@dataclass(frozen=True)
class ImageSets:
    """Training and validation images, ready to be had as squares."""

    train: ImageLoader
    val: ImageLoader

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.train.source.class_names

    @property
    def skipped(self) -> list[list[str]]:
        return [[name, reason] for loader in (self.train, self.val) for name, reason in loader.skipped]


@dataclass(frozen=True)
class ImageSources:
    """Training and validation images that `data` names, hashed but not decoded."""

    data: Data
    train: ImageSource
    val: ImageSource
    as_input: dict[str, Any]
    exclude: Exclusion | None = None

    @property
    def inputs(self) -> dict[str, dict[str, Any]]:
        """The images as an input of a stage, their masks, and the list of those left out, where there is one."""
        found = {"data": self.as_input}
        if self.data.masks:
            fingerprint = sha256_json([mask_fingerprint(self.train), mask_fingerprint(self.val)])
            found[MASKS] = {"path": self.as_input["path"], "fingerprint": fingerprint}
        if self.exclude is not None:
            left_out = {"path": self.exclude.path.as_posix(), "fingerprint": self.exclude.sha256}
            found[EXCLUDE] = {**left_out, "images": len(self.exclude.names)}
        return found

    @property
    def captioned(self) -> bool:
        """Whether the images come with captions, as far as the names of their files say."""
        return has_captions(self.train, self.data)

    def with_captions(self) -> "ImageSources":
        """Return the images with their captions. Raises DataError naming an image without, or a file that is wrong."""
        train, val = with_captions([self.train, self.val], self.data)
        return replace(self, train=train, val=val)

    @property
    def caption_input(self) -> dict[str, dict[str, Any]]:
        """The captions as an input of a stage that uses them; nothing before `with_captions`."""
        if self.train.captions is None:
            return {}
        fingerprint = sha256_json([self.train.caption_fingerprint(), self.val.caption_fingerprint()])
        return {CAPTIONS: {"path": self.data.captions, "fingerprint": fingerprint}}

    def read(self, progress: Progress, keep: bool = True) -> ImageSets:
        """Say what they are, and make them readable as squares. Raises DataError for those that cannot be decoded.

        keep: in memory, where they fit. A stage that needs each image once decodes it when its turn comes; but which
        images are left out by data.on_error is known only when all were decoded, so that they are kept all the same.
        """
        progress.note(self.described)
        if inside := self._folders_of_one_class():
            progress.warn(f"one class, {self.train.class_names[0]}; did you mean {inside}?")
        if not self.data.masks and (advice := advice_on_masks([*self.train.names, *self.val.names])):
            progress.warn(advice)
        keep = keep or self.data.on_error == "skip"
        return ImageSets(
            image_loader(self.train, self.data, "training", progress, keep),
            image_loader(self.val, self.data, "validation", progress, keep),
        )

    @property
    def described(self) -> str:
        """Images, classes and ignored files in words, by which a wrong folder is known before hours of training."""
        images, names = len(self.train) + len(self.val), self.train.class_names
        many = f"{len(names)} classes" if len(names) > 1 else "one class"
        # Captions that were read, or are built in: to look for others would read their files, which may be broken.
        unlabelled = " of one class (no folders)" if self.train.captions is None else ", with captions"
        classes = f" of {many}: {listed(names)}" if self.train.labelled else unlabelled
        above, below = _common_folder(self.train.names)
        classes += f" (the folders in {above})" if above and below and len(names) > 1 else ""
        ignored = self.train.ignored
        aside = f"; ignored, as no images: {listed(ignored)}" if ignored else ""
        without = f"; {len(self.exclude.names):,} left out by {self.exclude.path}" if self.exclude else ""
        return f"{self.data.source}: {images:,} images{classes}{aside}{without}"

    def _folders_of_one_class(self) -> str:
        """Return where there is one class, whose folder holds folders, which of them: the classes may be there."""
        if not self.train.labelled or len(self.train.class_names) > 1:
            return ""
        above, below = _common_folder(self.train.names)
        return f"{above} ({len(below)} folders inside)" if len(below) > 1 else ""


def _common_folder(names: list[str]) -> tuple[str, set[str]]:
    """Return the innermost folder that holds all of the names, with the slash at its end, and the folders in it."""
    first, last = (name.split("/")[:-1] for name in (min(names), max(names)))
    shared = takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False))
    above = "".join(f"{folder}/" for folder, _ in shared)
    return above, {name[len(above) :].partition("/")[0] for name in names if "/" in name[len(above) :]}


def image_sources(data: Data) -> ImageSources:
    """Open the images that `data` names, and hash their contents. Raises ConfigError and DataError."""
    if data.source is None:
        raise ConfigError("no images given", "add `data.source=FOLDER`, or `data.source=mnist` for the built-in digits")
    exclude = exclusion_of(data)
    if kind_of(Path(data.source)) is not None:
        raise DataError(f"{data.source} is a directory of a run, which is not read as data", "give other images")
    train, val = open_splits(data.source, data.validation, data.val_fraction, exclude, data.masks)
    fingerprint = sha256_json([train.fingerprint(), val.fingerprint()])
    return ImageSources(data, train, val, {"path": data.source, "fingerprint": fingerprint}, exclude)


def exclusion_of(data: Data) -> Exclusion | None:
    """Read the list of images that `data` leaves out, if it names one."""
    return read_exclusion(data.exclude) if data.exclude is not None else None


def image_loader(source: ImageSource, data: Data, role: str, progress: Progress, keep: bool = True) -> ImageLoader:
    """Make a source's images readable as squares; those that cannot be decoded are named, and skipped if so wished.

    keep: in memory, where they fit.
    """
    prepare = preparation_of(data, keep)
    on_disk = None if source.kept_as_arrays else squares_of(prepare, data.disk_gb)
    if not keep:
        return ImageLoader(source, prepare, on_disk=on_disk)
    progress.start(f"reading {role} images", len(source), "images")
    loader = ImageLoader(source, prepare, lambda done, total: progress.update(done), on_disk)
    progress.finish()
    if on_disk is not None and (on_disk.failure or on_disk.damaged):
        removed = f"{on_disk.damaged} damaged files of decoded images in {on_disk.folder} were removed"
        progress.warn(f"decoded images are not kept: {on_disk.failure}" if on_disk.failure else removed)
    if loader.skipped:
        shown = "; ".join(reason for _, reason in loader.skipped[:3])
        progress.warn(f"skipped {len(loader.skipped)} unreadable {role} images: {shown}")
    if loader.num_dark > _DARK * len(loader):
        known = "no value is above an eighth of the range, as when 12 bits are stored in 16"
        progress.warn(f"{loader.num_dark:,} of {len(loader):,} {role} images are nearly black: {known}")
    return loader


def preparation_of(data: Data, keep: bool = True) -> Preparation:
    """Return how `data` makes squares of images. keep: in memory, where they fit."""
    return Preparation(
        image_size=data.image_size if data.image_width is None else data.size,
        background=ImageColor.getrgb(data.background)[:3],
        fit=data.fit,
        on_error=data.on_error,
        max_skipped=data.max_skipped,
        cache_bytes=int(data.cache_gb * 2**30) if keep else 0,
        channels=data.channels,
    )


def squares_of(prepare: Preparation, gigabytes: float) -> Squares:
    """Open the squares of this preparation that are on the disk, of up to so many bytes. One process adds to them."""
    how = "adm" if prepare.fit == "crop" else prepare.fit  # the name under which those of before are found
    prepared = [how, prepare.background]
    room = int(gigabytes * 2**30) if processes.world().is_main else 0
    return Squares(cache_folder(), prepared, prepare.image_size, room, prepare.channels)


def warn_of_change(now: Mapping[str, Any], before: StageRun, progress: Progress) -> None:
    """Warn where images lie at the same place as those that a stage recorded, and are others.

    now: the path and fingerprint of these images, as among a stage's inputs.
    """
    recorded = before.inputs.get("data", {})
    if recorded.get("path") == now.get("path") and recorded.get("fingerprint") != now.get("fingerprint"):
        since = _written_since(Path(now["path"]), before)
        named = f"; written since: {', '.join(since[:_NAMED])}{' …' if since[_NAMED:] else ''}" if since else ""
        progress.warn(f"the images of {now['path']} are others than when {before.path} was made{named}")


def _written_since(folder: Path, before: StageRun) -> list[str]:
    """List the files below a folder that were written after a stage had ended, which it says to the second."""
    try:
        ended = timegm(time.strptime(str(before.provenance.get("created")), CREATED))
    except ValueError:
        return []
    written = (path for path in folder.rglob("*") if path.is_file() and path.stat().st_mtime > ended + 1)
    return sorted(path.relative_to(folder).as_posix() for path in written)


def data_of(artifact: StageRun) -> Data:
    """Return how a stage was given its images. Raises DataError where its manifest says that in no known words."""
    return section_of(Data, artifact.config.get("data"), artifact, "config.data")


def inherit_data(config: Config, producer: StageRun | None) -> Config:
    """Complete a stage's `data` by what the stage before it was given, so that it need not be said twice."""
    if producer is None:
        return config
    given = config.data.model_dump(mode="json", exclude_unset=True)  # type: ignore[attr-defined]
    inherited = data_of(producer).model_dump(mode="json")
    return config.model_copy(update={"data": Data.model_validate({**inherited, **given})})
