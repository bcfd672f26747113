"""Settings of `ldm data inspect` and `ldm data dedup`."""

from pathlib import Path
from typing import Literal

from pydantic import field_validator, model_validator

from ...core.features.settings import ExtractorName
from ...core.settings.fields import Location, Place, Section, option


class LookingAtData(Section):
    """Which images to look at, and where to write a picture of them."""

    source: Place = option(..., "Folder, zip, tars, idx, npz, or `mnist`, as for training.", "SOURCE")
    validation: Place | None = option(None, "Separate source of validation images.", "--val-data")
    exclude: Location | None = option(None, "List of images to leave out, as training would.", "--exclude")
    sheet: Location | None = option(None, "Contact sheet to write, PNG.", "--sheet")
    replace: bool = option(False, "Overwrite existing files.", "--replace")

    @field_validator("sheet")
    @classmethod
    def _pictures_are_png(cls, sheet: Path | None) -> Path | None:
        if sheet is not None and sheet.suffix.lower() != ".png":
            raise ValueError("contact sheets are PNG; give a name that ends in .png")
        return sheet


class DataInspect(LookingAtData):
    """Settings of `ldm data inspect`."""

    examples = (
        "ldm data inspect photos/",
        "ldm data inspect photos.zip --image-size 128 --sheet photos.png",
        "ldm data inspect mnist --json",
    )

    captions: Place = option("auto", "Captions to look at: auto (as they come with it), none, or a file.", "--captions")
    image_size: int = option(64, "Image size of the planned training, pixels.", "--image-size", ge=4, le=4096)


class DataDedup(LookingAtData):
    """Settings of `ldm data dedup`."""

    examples = (
        "ldm data dedup photos/ --sheet twins.png",
        "ldm data dedup photos/ --mirrored --out twins.jsonl --exclude-out twins.txt",
        "ldm data dedup photos/ --features mobilenet-v2 --weights mobilenet_v2-b0353104.pth",
    )

    out: Location | None = option(None, "List of all groups to write: .jsonl or .csv.", "--out")
    exclude_out: Location | None = option(
        None, "List to write of all but one of each group, for --exclude of training.", "--exclude-out"
    )
    sheet_order: Literal["size", "doubt"] = option(
        "size", "Groups on the sheet: the largest first, or the least alike.", "--sheet-order"
    )
    bits: int = option(10, "Bits of 64 in which hashes of near copies may differ.", "--bits", ge=0, le=15)
    likeness: float = option(0.92, "Least correlation of near copies' thumbnails.", "--likeness", gt=0, le=1)
    detail: float | None = option(
        None,
        "Least correlation of their fine detail; by default 0.965 where unrelated images look alike, else none.",
        "--detail",
        ge=-1,
        le=1,
    )
    mirrored: bool = option(False, "Find mirrored copies too.", "--mirrored")
    drop_conflicts: bool = option(
        False, "In --exclude-out, keep none of a group that has several labels.", "--drop-conflicts"
    )
    features: Literal["none", ExtractorName] = option(
        "none", "Also compare images by the features of this network.", "--features"
    )
    weights: Location | None = option(None, "File or folder with the network's weights.", "--weights")
    feature_distance: float | None = option(
        None,
        "Largest cosine distance of near copies' features; by default MobileNetV2's, as measured.",
        "--feature-distance",
        gt=0,
        lt=1,
    )
    device: str = option("auto", "Where the network runs: auto, cpu, cuda, cuda:N or mps.", "--device")

    @field_validator("out")
    @classmethod
    def _lists_are_lines(cls, out: Path | None) -> Path | None:
        if out is not None and out.suffix.lower() not in (".jsonl", ".csv"):
            raise ValueError("give a name that ends in .jsonl or .csv")
        return out

    @model_validator(mode="after")
    def _features_have_what_they_need(self) -> "DataDedup":
        if self.features == "none":
            for name in ("weights", "feature_distance"):
                if getattr(self, name) is not None:
                    raise ValueError(f"`{name}` has no effect without `features`")
        elif self.weights is None:
            raise ValueError(f"`features={self.features}` needs `weights`")
        elif self.features != "mobilenet-v2" and self.feature_distance is None:
            raise ValueError(f"`features={self.features}` needs `feature_distance`: distances differ between networks")
        return self
