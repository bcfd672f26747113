"""What is asked for: prompts out of files, and the encoders that read them."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from ..conditioning import scenes
from ..conditioning.conditioning import Conditioning
from ..conditioning.text import TextConditioning
from ..errors import ConfigError, DataError
from ..features.texts import open_recorded
from ..files import read_plain
from ..images.caption_files import decoded
from ..images.captions import tidy
from .settings import Prompted, TextReading

Settings = TypeVar("Settings", bound=Prompted)
SCENES = "scenes"  # the prompts of the evaluation of the built-in scenes


def with_prompts(config: Settings) -> Settings:
    """Return the settings with the prompts of the file that they name, or the built-in ones, after those given.

    Raises ConfigError for a file that is not there, DataError for one that is not UTF-8 text, has none, or holds lines
    of JSON without a prompt.
    """
    if config.prompts is None:
        return config
    read = scenes.prompts() if config.prompts == SCENES else _read(Path(config.prompts))
    return config.model_copy(update={"prompt": (*config.prompt, *read), "prompts": None})


def with_encoders(conditioning: Conditioning, config: TextReading) -> Conditioning:
    """Return the conditioning with what opens its frozen text encoder, where it has one, for texts that are new.

    Raises ConfigError for the folder of an encoder that the model has no use for.
    """
    if isinstance(conditioning, TextConditioning) and not conditioning.is_own:
        return replace(conditioning, opened=partial(open_recorded, folders=config.text_encoder))
    if config.text_encoder:
        raise ConfigError(
            f"`text_encoder={config.text_encoder[0]}`: the model has no frozen text encoder", "leave it out"
        )
    return conditioning


def _read(path: Path) -> tuple[str, ...]:
    if not path.is_file():
        raise ConfigError(f"`prompts={path}` is not a file", "give a text file with a prompt a line")
    lines = [line for line in decoded(read_plain(path), str(path)).splitlines() if line.strip()]
    texts = (
        [_of_json(line, f"{path}, line {number + 1}") for number, line in enumerate(lines)]
        if (path.suffix.lower() in (".json", ".jsonl"))
        else lines
    )
    if not texts:
        raise DataError(f"{path} holds no prompt", "write a prompt a line")
    return tuple(tidy([text], str(path))[0] for text in texts)


def _of_json(line: str, place: str) -> object:
    try:
        entry = json.loads(line)
    except ValueError as error:
        raise DataError(f"{place} is not JSON: {error}", "write an object a line, with the key prompt") from None
    if not isinstance(entry, dict) or "prompt" not in entry:
        raise DataError(f"{place} has no key prompt", "write an object a line, with the key prompt")
    return entry["prompt"]
