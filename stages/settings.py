"""What every stage's configuration is made of: options with flags, sections shared by stages, counts like `1M`.

A configuration is a frozen pydantic model. Each field made by `option` carries its help text, the flag that sets it
(if it has one) and whether it is part of a run's identity: settings that only say how the work is carried out
(device, worker count) may differ when a run goes on.
"""

import re
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path, PurePath
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    PlainSerializer,
    model_validator,
)
from pydantic_core import CoreSchema, core_schema

_SUFFIX = {"": 1, "k": 1_000, "m": 1_000_000, "g": 1_000_000_000}


def parse_count(value: object) -> object:
    """Read `1M`, `2.5k`, `60_000` or `1e6` as a whole number; leave anything else for pydantic to refuse."""
    if not isinstance(value, str):
        return value
    match = re.fullmatch(r"\s*(\d[\d_]*\.?\d*(?:e\d{1,2})?)\s*([kmg]?)\s*", value.lower(), re.ASCII)
    if match is None:
        return value
    number = Decimal(match[1].replace("_", "")) * _SUFFIX[match[2]]
    return int(number) if number == int(number) else value


Count = Annotated[int, BeforeValidator(parse_count), Field(ge=0)]
Location = Annotated[Path, PlainSerializer(lambda path: path.as_posix(), return_type=str)]


def _stay_inside(name: str) -> str:
    parts = PurePath(name).parts
    if not parts or ".." in parts or PurePath(name).is_absolute():
        raise ValueError("must be a name, without .. or a leading /")
    return name


def _single(name: str) -> str:
    if len(PurePath(_stay_inside(name)).parts) > 1:
        raise ValueError("must be one name, without /")
    if name in JUDGED_APART:
        raise ValueError(f"must not be {name}, which is what `ldm eval` calls its judgement of those")
    return name


JUDGED_APART = ("reconstructions", "likelihood")
Name = Annotated[str, AfterValidator(_stay_inside)]
"""What a folder is called, or a path below the one that holds it."""
Label = Annotated[str, AfterValidator(_single)]
"""What samples, and their judgement, are called."""


@dataclass(frozen=True)
class OneOf:
    """What makes of a text one of some names, in any case; it stays as it was typed."""

    names: tuple[str, ...]

    def __get_pydantic_core_schema__(self, kind: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._known, handler(kind))

    def _known(self, name: str) -> str:
        if name.lower() not in self.names:
            raise ValueError(f"must be one of {', '.join(self.names)}")
        return name


def option(default: Any, help: str, flag: str | None = None, identity: bool = True, **limits: Any) -> Any:
    """Declare a setting.

    flag: its command-line name (`--x`, several split by `/` for a switch and its opposite; a word without dashes is
    an argument told by its place), None for settings that only `section.key=value` and recipes reach. identity:
    whether a run made with another value is another run.
    """
    return Field(default, description=help, json_schema_extra={"flag": flag, "identity": identity}, **limits)


def section(kind: type["Section"], inherited: bool = False) -> Any:
    """Declare a group of settings. It is built when it is first needed, so that help pages need not wait for it.

    inherited: whether the stage takes what is left unsaid from the stage before it, and not from the defaults.
    """
    return Field(default_factory=kind, json_schema_extra={"inherited": inherited})


class Section(BaseModel):
    """A group of settings: frozen, without unknown keys; numbers are finite."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False, defer_build=True)


class Run(Section):
    """Which run a command works in."""

    name: Name = option("default", "Run to work in: the folder RUNS_DIR/NAME.", "--name", identity=False)
    runs_dir: Location = option(Path("runs"), "Folder that holds the runs.", "--runs-dir", identity=False)

    @property
    def root(self) -> Path:
        """The run's folder."""
        return self.runs_dir / self.name


class Stage(Run):
    """Where a stage works, and with which seed: the settings that all stages have."""

    seed: int = option(0, "Seed of every random draw.", "--seed", ge=0, lt=2**63)
    replace: bool = option(
        False, "Discard what the output folder holds if it was made with other settings or inputs.", "--replace", False
    )


def identity(section: Section) -> dict[str, Any]:
    """Return the settings that make a run this run, JSON: those that only say how the work is done are left out."""
    chosen: dict[str, Any] = {}
    dumped = section.model_dump(mode="json")
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(value, Section):
            chosen[name] = identity(value)
        elif isinstance(field.json_schema_extra, dict) and field.json_schema_extra["identity"]:
            chosen[name] = dumped[name]
    return chosen


def incidental(section: Section) -> frozenset[str]:
    """Return the other settings, dotted: those that only say how the work is done."""
    names: set[str] = set()
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(value, Section):
            names |= {f"{name}.{inner}" for inner in incidental(value)}
        elif isinstance(field.json_schema_extra, dict) and not field.json_schema_extra["identity"]:
            names.add(name)
    return frozenset(names)


class Machine(Section):
    """On what, and in which number format, a stage computes."""

    device: str = option("auto", "auto, cpu, cuda, cuda:N or mps.", "--device", identity=False)
    precision: Literal["auto", "fp32", "bf16", "fp16"] = option(
        "auto", "Number format of the networks; auto takes what the hardware is fast at.", "--precision"
    )
    compile: bool | None = option(
        None,
        "Compile the networks with torch.compile; where nothing is said, in a long train-dit only.",
        "--compile/--eager",
        identity=False,
    )
    deterministic: bool = option(
        False,
        "On a GPU: the same bits every time, slower, and a warning of what cannot give them; a CPU gives them anyway.",
        identity=False,
    )
    threads: int = option(0, "CPU threads; 0 leaves the choice to torch.", identity=False, ge=0)


class Data(Section):
    """Which images, and how they become squares of RGB."""

    source: str | None = option(None, "Folder of class folders, zip, tars, idx, npz, or `mnist`.", "--data")
    validation: str | None = option(
        None, "Images held out; by default the source's own or a share of it.", "--val-data"
    )
    val_fraction: float = option(0.05, "Share held out, chosen by content hash, where nothing is given.", gt=0, lt=1)
    exclude: Location | None = option(
        None, "List of images to leave out, by name, as `ldm data dedup` writes it.", "--exclude"
    )
    # SSIM, which validation measures, has a window of 11 pixels.
    image_size: int = option(64, "Side of the square images, pixels.", "--image-size", ge=11, le=4096)
    flip: bool = option(True, "Also use mirrored images; switch off for digits and text.", "--flip/--no-flip")
    background: str = option(
        "white", "Behind transparency: white, black or #rrggbb.", pattern="^(white|black|#[0-9a-fA-F]{6})$"
    )
    on_error: Literal["stop", "skip"] = option(
        "stop", "Stop at an unreadable image, or skip up to data.max_skipped of them.", "--on-error"
    )
    max_skipped: float = option(0.01, "Share of images that on_error=skip may leave out.", ge=0, lt=1)
    cache_gb: float = option(2.0, "Keep decoded images in memory up to this many gigabytes.", identity=False, ge=0)


class Train(Section):
    """How long and how to train. Lengths count images seen, so that curves compare across batch sizes."""

    images: Count = option(1_000_000, "Images to train on, counting repeats: 500k, 2M.", "--images")
    batch_size: int = option(64, "Images per optimizer step.", "--batch-size", ge=1)
    accumulate: int = option(1, "Split each batch into this many passes to save memory.", identity=False, ge=1)
    lr: float = option(1e-4, "Peak learning rate.", "--lr", gt=0)
    warmup: Count = option(10_000, "Images over which the learning rate rises.")
    decay: Literal["constant", "cosine", "linear"] = option("constant", "Learning rate after warm-up.")
    weight_decay: float = option(0.0, "AdamW's weight decay.", ge=0)
    beta1: float = option(0.9, "AdamW's first moment.", ge=0, lt=1)
    beta2: float = option(0.999, "AdamW's second moment.", ge=0, lt=1)
    clip: float = option(1.0, "Largest gradient norm; 0 switches clipping off.", ge=0)
    ema: float = option(0.9999, "Decay of the weights' moving average, per step; 0 switches it off.", ge=0, lt=1)
    checkpoint_every: Count = option(50_000, "Images between checkpoints.", "--checkpoint-every", identity=False)
    keep: int = option(2, "Checkpoints kept.", identity=False, ge=2)
    log_every: Count = option(2_000, "Images between lines of metrics.jsonl.", identity=False)
    validate_every: Count = option(20_000, "Images between validations.", identity=False)
    tensorboard: bool = option(False, "Also write TensorBoard events.", identity=False)

    @model_validator(mode="after")
    def _passes_are_equal(self) -> "Train":
        if self.batch_size % self.accumulate:
            raise ValueError(f"accumulate is {self.accumulate}, which does not divide batch_size {self.batch_size}")
        return self
