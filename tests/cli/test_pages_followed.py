"""Whoever follows the README or the tutorial gets through: every block on the page is run, in order, at small size.

Commands are run as they stand on the page, with smaller settings behind them, over a few small pictures that lie where
the page says that photos are. Blocks of YAML that begin with a file's name are written there; Python is executed.
"""

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import diffusers
import pytest
import torch
from PIL import Image

from ldm.cli.main import run
from ldm.cli.plan import rules
from ldm.core.images.sources import open_source
from ldm.core.runs.metrics_log import METRICS
from tests.support.authors_dit import training_checkpoint
from tests.support.pipeline_run import write_squares

ROOT = Path(__file__).resolve().parents[2]
SHORT = ["--images", "64", "--batch-size", "8", "--device", "cpu", "train.warmup=8"]
SHORT += ["train.log_every=16", "train.validate_every=64", "train.checkpoint_every=32"]
TINY_DIT = ["model.width=32", "model.depth=2", "model.heads=2", "train.ema=0.9"]
TINY_DIT += ["train.early=32", "preview.per_class=1", "preview.steps=2", "metrics.num=12", "metrics.steps=2"]
SMALLER = {
    "train-vqvae": [*SHORT, "--preset", "vqvae-xs", "--codebook-size", "32", "pictures=2"],
    "train-autoencoder": [*SHORT, "--preset", "msvq-xs", "model.channels=8", "--codebook-size", "32", "pictures=2"],
    "encode": ["--batch-size", "16"],
    "train-dit": [*SHORT, "--preset", "dit-xs", *TINY_DIT],
    "train-denoiser": [*SHORT, "--preset", "dit-xs", *TINY_DIT],
    "distill": [*SHORT, "first_steps=4"],
    "train-var": [*SHORT, "--preset", "var-d2", "model.width=32"],
    "train-classifier": [*SHORT, "noisy_model.width=32", "noisy_model.depth=1"],
    "sample": ["--count", "4", "--steps", "2"],
    "eval": ["times=2"],
    "doctor": ["--quick"],
    "sweep": ["--cfg", "1,3", "--steps", "2", "--count", "4"],
}
TAKE_DATA = ("train-vqvae", "train-autoencoder", "encode", "train-classifier", "import")
SLOW = ("ldm estimate",)  # which measures the recipe as it stands
# What a flag on the page asks of a small picture, where `SMALLER` will not do.
INSTEAD = {"mnist": ["--data", "digits"], "mnist-var": ["--data", "digits"], "DiT-XL-2-256x256.pt": ["--heads", "2"]}


@dataclass(frozen=True)
class Block:
    """A fenced block of a page. line: of its fence, counted from 1."""

    language: str
    text: str
    line: int


def blocks_of(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    found = re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.M | re.S)
    return [Block(block[1], block[2], text[: block.start()].count("\n") + 1) for block in found]


def lines_of(block: Block) -> list[str]:
    """Return the commands of a shell block, without comments; `\\` at the end of a line goes on."""
    whole = block.text.replace("\\\n", " ")
    lines = (line.split(" #")[0].strip() for line in whole.splitlines())
    return [part.strip() for line in lines if not line.startswith("#") for part in line.split("&&") if part.strip()]


def smaller(line: str) -> list[str]:
    """Return the arguments of an `ldm` line with what makes it small behind them."""
    _, *words = shlex.split(line.split(" > ")[0])
    if words[0] == "config":
        return words
    instead = [setting for word, settings in INSTEAD.items() if word in words[1:] for setting in settings]
    # A student's steps are its own, a next-scale transformer has none.
    own_steps = words[0] == "sample" and ("var" in words or any("/students/" in word for word in words))
    return [*words, *([] if own_steps else SMALLER.get(words[0], [])), *(instead if words[0] in TAKE_DATA else [])]


def what_make_runs() -> list[str]:
    """List the `ldm` lines of `make pipelines` with its own recipe and run."""
    found = re.findall(r"^\t\$\(LDM\) (.*?) && touch", rules(), re.M)
    assert len(found) == 7
    return [f"ldm {line.replace('$(ARGS)', '-c mnist --name default --replace')}" for line in found]


class Follower:
    """Does in the working directory what a page says, and tells the line at which that ends badly."""

    def __init__(self, page: Path, tell: Callable[[], str], slow: bool = False) -> None:
        self.page, self.tell, self.slow = page, tell, slow

    def follow(self) -> list[str]:
        """Follow the page to its end. Returns the commands that were run."""
        done = []
        for block in blocks_of(self.page):
            if block.language == "sh":
                for line in lines_of(block):
                    self.run(line, block)
                    done.append(line)
            elif block.language == "python":
                exec(compile(block.text, f"{self.page.name}, line {block.line}", "exec"), {})
            elif block.language == "yaml" and (named := re.match(r"# (\S+\.yaml)\n", block.text)):
                Path(named[1]).write_text(block.text, encoding="utf-8")
        return done

    def run(self, line: str, block: Block) -> None:
        if line == "source .venv/bin/activate":
            return  # what it activates is what runs this; the slow test sources it
        if line.startswith(SLOW) and not self.slow:
            return
        for command in what_make_runs() if line == "make pipelines" else [line]:
            assert command.startswith("ldm "), f"{self.page.name}, line {block.line}: nobody knows how to run {command}"
            self.tell()
            code = run(smaller(command))
            assert code == 0, f"{self.page.name}, block at line {block.line}: {command}\nexit {code}\n{self.tell()}"


@pytest.fixture
def beginning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Iterator[Path]:
    """An empty folder with what a reader has: photos, an autoencoder, a checkpoint; and digits, instead of 10,000."""
    monkeypatch.chdir(tmp_path)
    write_squares(Path("photos"), per_class=24, size=48, names=("cat", "dog", "owl"))
    shutil.copy("photos/cat/000.png", "photos/cat/IMG_0002.png")
    digits = open_source("mnist", "test")
    for index in range(120):
        folder = Path("digits") / str(digits.labels[index])
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(digits.read(index)).save(folder / f"{index}.png")
    torch.manual_seed(0)
    kinds = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    vae = diffusers.AutoencoderKL(block_out_channels=(8, 16), norm_num_groups=4, latent_channels=4, **kinds)
    for name in ("vae", "sd-vae"):
        vae.save_pretrained(Path("path/to") / name)
    torch.save(training_checkpoint(classes=1000), "DiT-XL-2-256x256.pt")
    yield tmp_path


RECIPE = """data: {source: digits, image_size: 32, flip: false}
train-vqvae:
  model: {preset: vqvae-xs, codebook_size: 32}
  train: {images: 64, batch_size: 8, warmup: 8}
train-dit:
  model: {preset: dit-xs, width: 32, depth: 2, heads: 2}
  train: {images: 64, batch_size: 8, warmup: 8}
  preview: {steps: 2}
train-classifier: {train: {images: 64, batch_size: 8, warmup: 8}}
sample: {num: 4, steps: 2}
"""


@pytest.mark.parametrize("page", ["README.md", pytest.param("docs/tutorial.md", marks=pytest.mark.slow)])
def test_a_page_can_be_followed_to_its_end(page: str, beginning: Path, capfd: pytest.CaptureFixture[str]) -> None:
    follower = Follower(ROOT / page, lambda: "\n".join(capfd.readouterr()))
    done = follower.follow()
    assert {"train-vqvae", "encode", "train-dit", "sample", "eval"} <= {line.split()[1] for line in done}
    assert list(beginning.glob(f"runs/*/dit/{METRICS}"))


@pytest.mark.slow
def test_the_slow_lines_of_the_tutorial_can_be_followed_too(beginning: Path, capfd: pytest.CaptureFixture[str]) -> None:
    done = Follower(ROOT / "docs" / "tutorial.md", lambda: "\n".join(capfd.readouterr()), slow=True).follow()
    assert any(line.startswith(SLOW) for line in done)


@pytest.mark.slow
def test_a_class_can_be_added_as_the_page_says(beginning: Path, capfd: pytest.CaptureFixture[str]) -> None:
    follower = Follower(ROOT / "docs" / "fine-tune.md", lambda: "\n".join(capfd.readouterr()))
    follower.run("make pipelines", Block("sh", "", 0))
    follower.follow()
    assert "turned" in (beginning / "runs" / "more" / "denoiser" / "manifest.json").read_text()


@pytest.mark.slow
def test_the_first_two_blocks_of_the_readme_work_in_a_clone(beginning: Path) -> None:
    if not (ROOT / ".venv" / "bin" / "activate").is_file():
        pytest.skip("needs the .venv that make makes")
    first, second, *_ = blocks_of(ROOT / "README.md")[1:]
    assert (first.text, second.text.splitlines()[0]) == ("make pipelines\n", "source .venv/bin/activate")
    clone = beginning / "clone"
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, tracked.split("\0")):
        (clone / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, clone / name, follow_symlinks=False)
    os.utime(clone / "pyproject.toml", (1, 1))  # what is installed is newer
    (clone / ".venv").symlink_to(ROOT / ".venv")
    (clone / "digits").symlink_to(beginning / "digits")
    (clone / "recipes" / "mnist.yaml").write_text(RECIPE)
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MAKE")}

    def shell(text: str) -> str:
        done = subprocess.run(["bash", "-ec", text], cwd=clone, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    assert "Done: runs/default." in shell(first.text)
    assert "Nothing to do" in shell(first.text)
    shell(second.text)
    assert (clone / "runs" / "default" / "report.html").is_file()
