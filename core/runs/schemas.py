"""Manifest schemas: what a manifest records of its stage, as far as other stages rely on it.

A manifest from elsewhere may carry the right hash of the wrong things. Metadata that nothing reads are not checked,
and what is not listed here may be absent.
"""

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, InstanceOf, ValidationError, model_validator
from typing_extensions import Self

from ..files import is_inside

MANY = 1 << 31  # above any number of images, latents or classes
_LARGEST_SIDE = 1 << 16


def _inside(name: str) -> str:
    if not is_inside(name):
        raise ValueError("should be the name of a file in this folder")
    return name


Text = InstanceOf[str]  # File names may have bytes that are not UTF-8, which pydantic's str rejects.
Name = Annotated[InstanceOf[str], AfterValidator(_inside)]
Side = Annotated[int, Field(ge=1, le=_LARGEST_SIDE)]
Count = Annotated[int, Field(ge=0, le=MANY)]
Number = Annotated[float, Field(allow_inf_nan=False)]
Names = Annotated[list[Text], Field(min_length=1)]
Shape = Annotated[list[Side], Field(min_length=3, max_length=3)]


def absent() -> Any:
    """Declare a field that may be absent, but not null."""
    return Field(default=None)


def size_recorded(size: tuple[int, int]) -> dict[str, int]:
    """Return what metadata say of images' height and width: the side of squares, of others both."""
    height, width = size
    return {"image_size": height} if width == height else {"image_size": height, "image_width": width}


def size_of(metadata: Mapping[str, Any]) -> tuple[int, int]:
    """Return height and width of the images, as metadata record them."""
    return metadata["image_size"], metadata.get("image_width", metadata["image_size"])


class _Record(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")


class Metadata(_Record):
    """What a stage records of its output, for the stages that read it."""

    def named_files(self) -> Iterable[str]:
        """Return the files of the stage that the metadata name: all are in its table of files."""
        return ()


class Conditioned(Metadata):
    """Metadata that record a conditioning, as `core.conditioning.registry` reads it: labels by the classes' names."""

    class_names: Names = absent()
    conditioning: dict[Text, Any] = absent()

    @model_validator(mode="after")
    def _the_conditioning_is_recorded(self) -> Self:
        if self.class_names is None and not isinstance((self.conditioning or {}).get("kind"), str):
            raise ValueError("should have class_names, or conditioning with its kind")
        return self


class File(_Record):
    """A file in the table of a manifest."""

    bytes: Annotated[int, Field(ge=0, lt=1 << 63)]
    sha256: Text


class Input(_Record):
    """An input of a stage: its path, and its fingerprint."""

    path: Text
    fingerprint: Text


class Provenance(_Record):
    """What made a stage."""

    ldm: Text
    python: Text
    packages: dict[Text, Text | None]
    platform: Text
    created: Text
    git: Text | None = None
    argv: list[Text] = []
    seconds: Number = absent()
    images_per_second: Number | None = None


class Manifest(_Record):
    """What every manifest has."""

    command: Text
    config: dict[Text, Any]
    files: dict[Name, File]
    inputs: dict[Text, Input]
    facts: dict[Text, Any]
    provenance: Provenance


class Autoencoder(Metadata):
    class_names: Names
    latent_shape: Shape
    image_size: Side
    image_width: Side = absent()
    images_seen: Count = absent()
    val_psnr: Number = absent()
    val_ssim: Number = absent()


class _Parts(_Record):
    train: list[Name]
    val: list[Name]


class _PartSizes(_Record):
    train: Count
    val: Count


class _Field(_Record):
    """One field of a shard's samples; null as the first side where lengths differ."""

    dtype: Literal["float16", "float32", "uint8", "uint16", "int32", "int64", "text"]
    shape: Annotated[list[Side | None], Field(max_length=3)]
    made_by: Text = absent()

    @model_validator(mode="after")
    def _only_the_first_side_is_open(self) -> "_Field":
        if None in self.shape[1:]:
            raise ValueError("only the first side may be open")
        return self


class Latents(Conditioned):
    class_counts: list[Count] = absent()
    latent_shape: Shape
    image_size: Side
    image_width: Side = absent()
    shards: _Parts
    samples: _PartSizes
    fields: dict[Text, _Field] = absent()

    @model_validator(mode="after")
    def _classes_are_counted(self) -> Self:
        if (self.class_names is None) != (self.class_counts is None):
            raise ValueError("class_names and class_counts should be recorded together")
        return self

    @model_validator(mode="after")
    def _the_latent_is_a_field(self) -> "Latents":
        latent = self.fields["npy"] if self.fields is not None and "npy" in self.fields else None
        if self.fields is not None and (latent is None or latent.shape != self.latent_shape):
            raise ValueError("fields should have the latent, npy, of latent_shape")
        return self

    def named_files(self) -> Iterable[str]:
        return [*self.shards.train, *self.shards.val]


class Generator(Conditioned):
    """What sampling and evaluation rely on, whatever draws the images."""

    image_size: Side
    image_width: Side = absent()


class Denoiser(Generator):
    latent_shape: Shape
    diffusion: dict[Text, Any]
    label_dropout: Annotated[float, Field(ge=0, lt=1)]
    images_seen: Count = absent()
    validation_loss: Number = absent()


class NextScale(Generator):
    latent_shape: Shape
    scales: Annotated[list[Side], Field(min_length=1)]
    label_dropout: Annotated[float, Field(ge=0, lt=1)]
    images_seen: Count = absent()
    validation_loss: Number = absent()


class Classifier(Metadata):
    class_names: Names
    accuracy: Number
    images_seen: Count = absent()


class NoisyClassifier(Metadata):
    class_names: Names
    latent_shape: Shape
    diffusion: dict[Text, Any]
    accuracy: dict[Text, Number]
    images_seen: Count = absent()


class Sampling(_Record):
    """How images were drawn."""

    sampler: Text
    steps: Count
    cfg: Number


class _Image(_Record):
    """A sample. Beside file and seed its condition is recorded, as the conditioning has it."""

    file: Name
    label: Count = absent()
    labels: list[Text] = absent()  # where an image may have several
    seed: Annotated[int, Field(ge=0, lt=1 << 63)]


class Samples(Conditioned):
    images: Annotated[list[_Image], Field(min_length=1)]
    image_size: Side
    image_width: Side = absent()
    sampling: Sampling

    @model_validator(mode="after")
    def _labels_have_names(self) -> Self:
        if self.conditioning is None and any(image.label is None for image in self.images):
            raise ValueError("an image has no label")
        if any(image.label is not None and image.label >= len(self.class_names or ()) for image in self.images):
            raise ValueError("an image has a label without a name")
        if len({image.labels is None for image in self.images}) > 1:
            raise ValueError("some images have labels and others have none")
        return self

    def named_files(self) -> Iterable[str]:
        return (image.file for image in self.images)


class _Edited(_Record):
    file: Name
    seed: Annotated[int, Field(ge=0, lt=1 << 63)]


class Edits(Metadata):
    images: Annotated[list[_Edited], Field(min_length=1)]
    image_size: Side
    image_width: Side = absent()
    sampling: Sampling

    def named_files(self) -> Iterable[str]:
        return (image.file for image in self.images)


class Evaluation(Metadata):
    numbers: dict[Text, Number]


def wrong_with(manifest: Mapping[str, Any], form: type[Metadata] | None) -> str | None:
    """Return the first error of a manifest, where and why; None where it is valid."""
    wrong = first_wrong(Manifest, manifest)
    if wrong is None and form is not None:
        wrong = first_wrong(form, manifest["facts"], "facts.")
        named = () if wrong else form.model_validate(manifest["facts"]).named_files()
        strange = next((name for name in named if name not in manifest["files"]), None)
        wrong = wrong if strange is None else f"facts: {strange[:80]!r} is not one of its files"
    return wrong


def first_wrong(form: type[BaseModel], value: object, prefix: str = "") -> str | None:
    """Return the first error of a value, as `facts.image_size: Input should be …`; None where it is valid."""
    try:
        form.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = prefix + ".".join(str(part)[:80] for part in first["loc"] if part != "[key]")
        return f"{where}: {first['msg']}" if where else str(first["msg"])
    return None
