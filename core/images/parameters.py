"""What a drawn image was drawn by, in its own PNG file: one text chunk of canonical JSON, without times or places."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image, PngImagePlugin
from pydantic import BaseModel, ConfigDict, ValidationError

from ..errors import DataError, as_data_error

KEYWORD = "ldm"  # of the chunk, tEXt


class Origin(BaseModel):
    """An image that another was made of: the name of its file, without folders, and the sha256 of its content."""

    model_config = ConfigDict(strict=True, frozen=True)
    name: str
    sha256: str


class Parameters(BaseModel):
    """What an image was drawn by.

    command: of ldm. model: role → fingerprint of the directories that it was drawn from. condition: as manifests record
    it. settings: those of the command that the image depends on, the seed included. origins: what an edit was made of,
    by its role: `image`, `mask`.
    """

    model_config = ConfigDict(strict=True, frozen=True)
    command: str
    model: dict[str, str]
    condition: dict[str, Any]
    settings: dict[str, Any]
    origins: dict[str, Origin] = {}


def text_chunk(parameters: Mapping[str, Any]) -> PngImagePlugin.PngInfo:
    """Return the chunk, for `Image.save`; equal parameters give equal bytes."""
    chunk = PngImagePlugin.PngInfo()
    chunk.add_text(KEYWORD, json.dumps(parameters, sort_keys=True, separators=(",", ":"), allow_nan=False))
    return chunk


def read_parameters(path: Path) -> Parameters:
    """Read the parameters of an image; its pixels are not decoded.

    Raises DataError naming the file where it is no PNG, carries none, or they are damaged.
    """
    remedy = "give a PNG that ldm drew, without `metadata=no`"
    if not path.is_file():
        raise DataError(f"{path} is a folder" if path.is_dir() else f"{path} does not exist", remedy)
    with as_data_error(f"{path} is not a readable PNG", remedy), Image.open(path, formats=["PNG"]) as image:
        text = image.info.get(KEYWORD)
    if not isinstance(text, str):
        raise DataError(f"{path} carries no parameters", remedy)
    try:
        return Parameters.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise DataError(f"the parameters of {path} are damaged: {where}: {first['msg']}", remedy) from None
