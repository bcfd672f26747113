"""Which images a stage reads: the `data` section. Imports no torch."""

from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator

from ..settings.fields import Location, Place, Section, option, read_number


def _same_colour(name: str) -> str:
    """Return a colour in one spelling."""
    return {"#ffffff": "white", "#000000": "black"}.get(name.lower(), name.lower())


class Data(Section):
    """Which images, and how they become squares."""

    source: Place | None = option(
        None, "Folder of class folders, zip, tars, idx, npz, `mnist` or `scenes`.", "--data", identity="contents"
    )
    validation: Place | None = option(
        None, "Images held out; by default the source's own or a share of it.", "--val-data", identity="contents"
    )
    val_fraction: float = option(0.05, "Share held out, chosen by content hash, where nothing is given.", gt=0, lt=1)
    exclude: Location | None = option(
        None, "List of images to leave out, by name, as `ldm data dedup` writes it.", "--exclude", identity="contents"
    )
    # SSIM, which validation measures, has a window of 11 pixels.
    image_size: int = option(64, "Side of the square images, pixels.", "--image-size", ge=11, le=4096)
    image_width: int | None = option(
        None,
        "Width where images are not square, pixels; image_size is the height.",
        "--image-width",
        ge=11,
        le=4096,
    )
    fit: Literal["crop", "pad", "stretch"] = option(
        "crop",
        "How images get their size: crop to the centre, pad with data.background, or stretch.",
        "--fit",
    )
    channels: Annotated[Literal[1, 3, 4], BeforeValidator(read_number)] = option(
        3, "Channels of the images: 3 in colour, 1 grey, 4 with transparency.", "--channels"
    )
    masks: bool = option(
        False, "Let the loss count what masks show in white: x-mask.png beside x.png.", "--masks/--no-masks"
    )
    flip: bool = option(True, "Also use mirrored images; switch off for digits and text.", "--flip/--no-flip")
    captions: Place = option(
        "auto", "What images say: auto (as they come with it), none, or a file.", "--captions", identity="contents"
    )
    caption_template: str | None = option(
        None, "Caption made of each class's name: `a photo of a {class}`.", "--caption-template", pattern=r"\{class\}"
    )
    synthetic_captions: Location | None = option(
        None, "File with a second set of captions.", "--synthetic-captions", identity="contents"
    )
    synthetic_share: float = option(
        0.5, "Share of captions taken from the second set, where there is one.", "--synthetic-share", ge=0, le=1
    )
    background: Annotated[str, AfterValidator(_same_colour)] = option(
        "white", "Behind transparency: white, black or #rrggbb.", pattern="^(white|black|#[0-9a-fA-F]{6})$"
    )
    on_error: Literal["stop", "skip"] = option(
        "stop", "Stop at an unreadable image, or skip up to data.max_skipped of them.", "--on-error"
    )
    max_skipped: float = option(0.01, "Share of images that on_error=skip may leave out.", ge=0, lt=1)
    cache_gb: float = option(2.0, "Keep decoded images in memory up to this many gigabytes.", identity=False, ge=0)
    disk_gb: float = option(
        4.0, "Keep decoded images on the disk, for the next start, up to this many gigabytes.", identity=False, ge=0
    )

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the images in training."""
        return self.image_size, self.image_width or self.image_size
