"""A stage's command as a process that is ended before its time, and what it leaves when nothing interrupts it."""

import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ldm.core.denoisers.settings import NOISY
from ldm.core.files import TEMPORARY
from ldm.core.runs.states import LATEST, POST_HOC
from ldm.stages.table import TOOLS
from tests.support.launcher import Command, Ended, Launcher
from tests.support.small_runs import NAME, contents, start_from, temporaries

FOLDERS = {
    "train-vqvae": "vqvae",
    "train-autoencoder": "autoencoder",
    "encode": "latents",
    "train-dit": "dit",
    "train-denoiser": "denoiser",
    "train-var": "var",
    "train-classifier": "classifier",
    "distill": "students/1",
    "sample": "samples/x",
    "edit": "edits/x",
    "anagram": "anagrams/x",
    "hybrid": "hybrids/x",
    "interpolate": "interpolations/x",
    "sweep": "eval",
    "average": "dit/post-hoc/std-0.1",
}
_DRAWN_FROM = ("vqvae", "autoencoder", "dit", "var")
NEEDS: dict[str, tuple[str, ...]] = {  # those of them that there are
    "train-vqvae": (),
    "train-autoencoder": (),
    "train-classifier": ("vqvae", "latents"),
    "encode": ("vqvae", "autoencoder"),
    "train-dit": ("vqvae", "latents", "classifier"),
    "train-denoiser": ("vqvae", "latents"),
    "train-var": ("autoencoder", "latents"),
    "distill": ("vqvae", "latents", "dit"),
    "sample": _DRAWN_FROM,
    "edit": _DRAWN_FROM,
    "anagram": _DRAWN_FROM,
    "hybrid": _DRAWN_FROM,
    "interpolate": _DRAWN_FROM,
    "sweep": (*_DRAWN_FROM, "classifier"),
    "average": _DRAWN_FROM,
}
CHAIN = "first_steps=2"  # of `distill`: two students
ENCODE = ["encode", "--shard-size", "4"]
ENCODE_CAPTIONS = [*ENCODE, "--caption-template", "a photo of a {class}"]
ENCODE_CROPS = [*ENCODE, "--crops", "2"]
ENCODE_ATTRIBUTES = [*ENCODE, "--conditioning", "attributes"]
SAMPLE = ["sample", "--label", "x", "--num", "6", "batch_size=2"]
ANAGRAM = ["anagram", "--label", "x", "--class", "red", "--class", "blue", "--num", "6", "batch_size=2"]
SAMPLE_TOKENS = [*SAMPLE, "steps=null"]
SAMPLE_ATTRIBUTES = [*SAMPLE, "--class", "cat;cat,outdoor", "--value", "age=15"]
SAMPLE_LATENTS = [*SAMPLE, "--save-latents"]
SAMPLE_LATEST = [*SAMPLE, "--checkpoint", "latest"]
HYBRID = ["hybrid", "--label", "x", "--near", "red", "--far", "blue", "--num", "6", "batch_size=2"]
INTERPOLATE = ["interpolate", "--label", "x", "--class", "red", "--class", "blue", "--frames", "6", "batch_size=2"]
AVERAGE = ["average", "--std", "0.1"]
SWEEP = ["sweep", "--cfg", "1,2", "--steps", "2,3", "--num", "4"]
EDIT = ["edit", "--label", "x", "--strength", "0.3,0.6", "--class", "red", "--box", "2,2,8,8", "batch_size=2"]


class Stage:
    """One stage's command over copies of the stages before it, and what it leaves when nothing interrupts it."""

    def __init__(self, words: list[str], ldm: Launcher, recipe: Path, trained: Path, scratch: Path) -> None:
        self.words, self.ldm, self.recipe, self.trained, self.scratch = words, ldm, recipe, trained, scratch
        self.copies = 0
        self.whole = self.fresh()
        self.seconds = self.succeed(self.whole).seconds
        self.expected = contents(self.folder(self.whole))

    def fresh(self) -> Path:
        """Return a new folder of runs with the stages before this one."""
        self.copies += 1
        runs_dir = self.scratch / str(self.copies)
        runs_dir.mkdir(parents=True)
        start_from(self.trained, runs_dir, *NEEDS[self.words[0]])
        return runs_dir

    def folder(self, runs_dir: Path) -> Path:
        folder = runs_dir / "tiny" / FOLDERS[self.words[0]]
        if "--noisy" in self.words:
            return folder.with_name(NOISY)
        return folder.parent if CHAIN in self.words else folder

    def start(self, runs_dir: Path, **conditions: Any) -> Command:
        what = ("--name", NAME) if self.words[0] in TOOLS else ("-c", self.recipe)  # A tool reads no recipe.
        return self.ldm.start(*self.words, *what, "--runs-dir", runs_dir, **conditions)

    def succeed(self, runs_dir: Path) -> Ended:
        ended = self.start(runs_dir).wait()
        assert ended.code == 0, ended
        return ended

    def finish(self, runs_dir: Path) -> Ended:
        """Run the command again to its end, and see that all is as if it had never been interrupted."""
        ended = self.succeed(runs_dir)
        self.check(runs_dir)
        return ended

    def check(self, runs_dir: Path) -> None:
        """See that all is as if nothing had ever been interrupted, and remove it."""
        assert not temporaries(runs_dir)
        found = contents(self.folder(runs_dir))
        differing = [name for name in found.keys() | self.expected.keys() if found.get(name) != self.expected.get(name)]
        assert not differing, differing
        for stage in NEEDS[self.words[0]]:
            now = contents(runs_dir / "tiny" / stage)
            made = {name for name in now if name.startswith((LATEST, POST_HOC))}
            assert {name: now[name] for name in now.keys() - made} == contents(self.trained / stage), f"{stage} changed"
        shutil.rmtree(runs_dir)

    def check_names(self, runs_dir: Path) -> None:
        """See that nothing lies under a final name but what is to lie there in the end."""
        if not self.folder(runs_dir).exists():
            return
        for name, content in contents(self.folder(runs_dir)).items():
            if name.endswith((".tar", ".png", ".safetensors")) and not Path(name).name.startswith(TEMPORARY):
                assert self.expected[name] == content, f"{name} is not what it is to be"

    def killed(self, random: np.random.Generator, when: Callable[[Path], None] | None = None) -> Path:
        """Start the command in a new folder and kill it: at a random moment, or when `when` returns."""
        delay = random.uniform(0, self.seconds)
        while True:
            runs_dir = self.fresh()
            command = self.start(runs_dir)
            if when is None:
                time.sleep(delay)
            else:
                when(self.folder(runs_dir))
            command.send(signal.SIGKILL)
            if command.wait().code == -signal.SIGKILL:
                return runs_dir
            delay *= 0.8  # It had ended before.
