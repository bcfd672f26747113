"""A run opened from Python draws and edits what the commands do, and decodes what it encodes."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import ldm
from ldm.core.errors import ConfigError, DataError
from ldm.core.pipeline.session import Session
from tests.support.pipeline_run import Pipeline


def pixels(folder: Path) -> np.ndarray:
    return np.stack([np.array(Image.open(path)) for path in sorted(folder.glob("[0-9]*.png"))])


@pytest.fixture(scope="module")
def opened(trained: Pipeline) -> Session:
    return ldm.open(trained.folder, device="cpu", precision="fp32")


def test_samples_are_those_of_the_command(trained: Pipeline, opened: Session) -> None:
    folder = trained.run("sample", classes="red", num=3, seed=5, cfg=2.0, steps=3, label="for-python").directory
    assert np.array_equal(opened.sample("red", seeds=range(5, 8), cfg=2.0, steps=3), pixels(folder))
    both = opened.sample("red,blue", seeds=[5, 6], cfg=2.0, steps=3)
    assert len(both) == 4 and np.array_equal(both[:2], pixels(folder)[:2])


def test_an_edit_of_strength_0_is_encoding_and_decoding_and_of_strength_1_sampling(opened: Session) -> None:
    image = opened.sample("green", seeds=[1], steps=3)[0]
    assert np.array_equal(
        opened.edit(image, "red", strength=0, steps=3)[0], opened.decode(opened.encode(image[None]))[0]
    )
    assert np.array_equal(
        opened.edit(image, "red", strength=1, seeds=[4], steps=3), opened.sample("red", seeds=[4], steps=3)
    )


def test_what_a_mask_keeps_stays_to_the_byte(opened: Session) -> None:
    image = opened.sample("green", seeds=[1], steps=3)[0]
    mask = np.zeros(image.shape, dtype=np.uint8)
    mask[:, 8:] = 255
    edited = opened.edit(image, "red", strength=1, mask=mask, steps=3)[0]
    assert np.array_equal(edited[:, :8], image[:, :8]) and not np.array_equal(edited[:, 8:], image[:, 8:])


def test_wrong_settings_and_missing_runs_are_named(opened: Session, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unknown class"):
        opened.sample("purple")
    with pytest.raises(ConfigError, match="smplr"):
        opened.sample("red", smplr="ddim")
    with pytest.raises(ConfigError, match="strength"):
        opened.edit(np.zeros((16, 16, 3), dtype=np.uint8), strength=2)
    with pytest.raises(DataError, match="does not exist"):
        ldm.open(tmp_path / "none")


@pytest.mark.parametrize("name", ["python.md", "python.ipynb"])
def test_the_page_and_the_notebook_are_run_as_they_are_written(
    name: str, trained: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / name).read_text()
    if name.endswith(".ipynb"):
        cells = json.loads(page)["cells"]
        blocks = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    else:
        blocks = "\n".join(re.findall(r"^```python\n(.*?)^```", page, re.M | re.S))
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "mine").symlink_to(trained.folder)
    monkeypatch.chdir(tmp_path)
    known: dict[str, Any] = {}
    exec(blocks.replace('"cat"', '"red"').replace('"dog"', '"blue"'), known)
    assert known["images"].shape == (4, 16, 16, 3) and known["dogs"].shape == (2, 16, 16, 3)
    assert np.array_equal(known["half"][0][:, :8], known["images"][0][:, :8])
    assert known["between"].shape == (1, 16, 16, 3)
