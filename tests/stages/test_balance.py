"""`train.balance` through the stages: recorded, said, resumed to the bit, and refused where there are no classes."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from ldm.core.errors import ConfigError, Stopped
from tests.support.pipeline_run import Heard, Pipeline, Stopping, manifest, write_squares


def weights(folder: Path) -> bytes:
    return (folder / "final" / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def unequal(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    """A run on 30 blue images, 20 green and 10 red; not to be changed."""
    base = tmp_path_factory.mktemp("unequal")
    images = write_squares(base / "squares", per_class=30, size=16)
    for name, kept in (("green", 20), ("red", 10)):
        for path in sorted((images / name).iterdir())[kept:]:
            path.unlink()
    pipeline = Pipeline(base / "runs", images)
    pipeline.run("train-vqvae", train__images=16, train__balance="sqrt")
    pipeline.run("encode")
    return pipeline


def test_balance_changes_what_is_trained_and_is_said_recorded_and_resumed_to_the_bit(
    unequal: Pipeline, tmp_path: Path
) -> None:
    pipeline = unequal.copy(tmp_path)
    heard = Heard()
    settings: dict[str, Any] = {"train__images": 48, "train__checkpoint_every": 16, "preview__every": 0}
    plain = weights(pipeline.run("train-dit", **settings).directory)
    folder = pipeline.run("train-dit", heard, replace=True, train__balance="classes", **settings).directory
    (said,) = [note for note in heard.notes if note.startswith("train.balance=classes: of ")]
    assert "red" in said and "each" in said
    assert manifest(folder)["facts"]["class_shares"] == pytest.approx([1 / 3] * 3)
    whole = weights(folder)
    assert whole != plain

    shutil.rmtree(folder)
    with pytest.raises(Stopped):
        pipeline.run("train-dit", Stopping(32), train__balance="classes", **settings)
    assert weights(pipeline.run("train-dit", train__balance="classes", **settings).directory) == whole


def test_images_and_classifiers_are_balanced_too(unequal: Pipeline, tmp_path: Path) -> None:
    assert len(manifest(unequal.folder / "vqvae")["facts"]["class_shares"]) == 3
    pipeline = unequal.copy(tmp_path)
    heard = Heard()
    pipeline.run("train-classifier", heard, train__images=16, train__balance="classes")
    assert any(note.startswith("train.balance=classes: of ") for note in heard.notes)


def test_without_classes_it_is_refused(tmp_path: Path) -> None:
    flat = write_squares(tmp_path / "squares", per_class=30, size=16, names=["only"]) / "only"
    pipeline = Pipeline(tmp_path / "runs", flat)
    with pytest.raises(ConfigError, match=r"`train.balance=classes` needs classes"):
        pipeline.run("train-vqvae", train__balance="classes")


def test_a_class_counts_as_often_as_is_asked_for(unequal: Pipeline, tmp_path: Path) -> None:
    pipeline = unequal.copy(tmp_path)
    folder = pipeline.run("train-dit", train__images=16, train__repeats=("red=3",), preview__every=0).directory
    shares = manifest(folder)["facts"]["class_shares"]
    counts = manifest(pipeline.folder / "latents")["facts"]["class_counts"]
    wanted = [counts[0], counts[1], 3 * counts[2]]
    assert shares == pytest.approx([each / sum(wanted) for each in wanted])
    alike = pipeline.run("train-dit", replace=True, conditioning="none", train__images=16, train__repeats=("red=3",))
    assert manifest(alike.directory)["facts"]["class_shares"] == shares, "classes count, conditioned on or not"
    for text, said in {"rde=3": "did you mean red=3", "red=0": "factor", "red": "unknown class"}.items():
        with pytest.raises(ConfigError) as refused:
            pipeline.run("train-dit", replace=True, train__images=16, train__repeats=(text,))
        assert said in f"{refused.value.message} {refused.value.remedy}"
