"""`ldm average`: the EMAs that a training kept in, its EMA of another length out."""

import itertools
import shlex
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open

from ...core import files
from ...core.distributed import tensor_file
from ...core.errors import ConfigError, DataError, as_data_error, with_remedy
from ...core.pipeline.latest import write_state
from ...core.progress import Outcome, Progress, number_of
from ...core.runs import checkpoint
from ...core.runs.claim import is_whole, settings_of
from ...core.runs.inputs import chosen, made_by
from ...core.runs.outputs import command_line
from ...core.runs.roles import DENOISER
from ...core.runs.run import IDENTITY, MANIFEST, kind_of
from ...core.runs.states import POST_HOC
from ...core.training.ema import BATCH_NORM_STATISTICS
from ...core.training.post_hoc import Combination, ema_profile, fit, gamma, power_profile
from ...core.training.settings import LONGEST_STD
from ..configs.average import Average

_LARGEST_MISFIT = 0.25  # That of a plain mean by averages as far apart as the EMA is long is 0.28.
_TRIED = np.round(np.geomspace(0.01, LONGEST_STD, 40), 3)  # values of `std` of which a refusal names those to be had


@dataclass(frozen=True)
class _Kept:
    """An EMA that a training kept, of a checkpoint or left by one. updates: that it has seen."""

    path: Path
    updates: int
    sha256: str


@dataclass(frozen=True)
class _Length:
    """A length of the EMA. setting: by which it is asked for, `std` or `decay`."""

    setting: str
    value: float

    @property
    def name(self) -> str:
        return f"{self.setting}-{self.value!r}"

    def profile(self, updates: int) -> np.ndarray:
        """Return its profile after so many updates."""
        if self.setting == "std":
            return power_profile(gamma(self.value), updates)
        return ema_profile(self.value, updates)


def run(config: Average, progress: Progress) -> Outcome:
    """Make the EMAs of all lengths that are asked for. Returns their folder."""
    lengths = [*(_Length("std", value) for value in config.std), *(_Length("decay", value) for value in config.decay)]
    if not lengths:
        raise ConfigError("no length of the EMA is given", "give `std=0.1`, or a `decay`")
    training = chosen(DENOISER, config, config.denoiser, "denoiser")
    command = made_by(DENOISER, config, training)
    kept, decay = _kept(training, command), _decay(training)

    # Fit all before anything is written.
    counts = [each.updates for each in kept]
    fitted = [fit(decay, counts, length.profile(counts[-1])) for length in lengths]
    for length, combination in zip(lengths, fitted, strict=True):
        if combination.misfit > _LARGEST_MISFIT:
            raise _cannot_be_had(length, combination, training, decay, counts)

    # Those that are whole, and of the same EMAs, stay. The files of all EMAs are checked once.
    folders = [training / POST_HOC / length.name for length in lengths]
    missing = [number for number, folder in enumerate(folders) if not _is_made(folder, training, kept)]
    for each in kept if missing else ():
        _loaded(each.path, checkpoint.EMA)
    for number in missing:
        _make(folders[number], training, command, kept, fitted[number], progress)
    return Outcome(
        folders[0] if len(folders) == 1 else training / POST_HOC,
        already_complete=not missing,
        summary={
            length.name: f"of {number_of(len(kept), 'EMA')}, misfit of the profile {combination.misfit:.1%}"
            for length, combination in zip(lengths, fitted, strict=True)
        },
        next_commands=[f"{command_line('sample', config)} --denoiser {shlex.quote(str(folder))}" for folder in folders],
    )


def _kept(training: Path, command: str) -> list[_Kept]:
    """List the EMAs that a training has, the last one last. Raises DataError for one whose record is damaged."""
    paths = [*checkpoint.emas(training), *checkpoint.saved(training)]
    if not paths or not (training / IDENTITY).is_file():
        is_done = (training / MANIFEST).is_file()
        train = "train another, with `train.keep_ema=yes`" if is_done else f"train it: {command}"
        raise DataError(f"{training} has no checkpoint", train)
    found: dict[int, _Kept] = {}
    for path in {int(path.name): path for path in paths}.values():
        each = _loaded(path)
        updates = each.state.get("ema_updates")
        if not isinstance(updates, int) or checkpoint.EMA not in each.hashes:
            raise DataError(f"{path} holds no EMA", checkpoint.mend(path))
        found[updates] = _Kept(path, updates, each.hashes[checkpoint.EMA])
    kept = [found[updates] for updates in sorted(found) if updates > 0]
    if not kept:
        raise DataError(f"{training} has no EMA of any update", f"train it: {command}")
    return kept


def _loaded(path: Path, *names: str) -> checkpoint.Checkpoint:
    """Check some files of a checkpoint besides its state, without keeping tensors."""
    with with_remedy(checkpoint.mend(path)):
        return checkpoint.load(path, lambda path: {}, only=names)


def _decay(training: Path) -> float:
    """Return the decay of a training's EMA. Raises DataError where it had none."""
    train = settings_of(files.read_json(training / IDENTITY)).get("train")
    decay = train.get("ema") if isinstance(train, dict) else None
    if not isinstance(decay, float) or not 0 < decay < 1:
        raise DataError(f"{training} was trained without an EMA: `train.ema={decay}`", "train one with it: `train.ema`")
    return decay


def _cannot_be_had(
    length: _Length, combination: Combination, training: Path, decay: float, counts: Sequence[int]
) -> DataError:
    """Return the error for a length to which no combination comes near, with those that can be had."""
    updates = counts[-1]
    near = [std for std in _TRIED if fit(decay, counts, _Length("std", std).profile(updates)).misfit < _LARGEST_MISFIT]
    instead = f"give `std` from {near[0]:g} to {near[-1]:g}, or train" if near else "train"
    return DataError(
        f"the {number_of(len(counts), 'EMA')} that {training} kept cannot make {length.setting} {length.value:g}:"
        f" the profile would be off by {combination.misfit:.0%}",
        f"{instead} with `train.keep_ema=yes`, which keeps one every `train.checkpoint_every` images, and fewer of"
        " those",
    )


def _record(folder: Path, kept: Sequence[_Kept]) -> dict[str, Any]:
    """Return what a length is made of, JSON. folder: of the length."""
    return {
        "length": folder.name,
        "images_seen": int(kept[-1].path.name),
        "updates": kept[-1].updates,
        "emas": {each.path.name: each.sha256 for each in kept},
    }


def _is_made(folder: Path, training: Path, kept: Sequence[_Kept]) -> bool:
    """Return whether the folder of a length is whole, and of these EMAs."""
    kind = kind_of(training)
    assert kind is not None, "it was chosen by its kind"
    if not is_whole(folder, kind):
        return False
    known = files.read_json(folder / MANIFEST)["facts"].get(POST_HOC)
    return isinstance(known, dict) and known.items() >= _record(folder, kept).items()


def _make(
    folder: Path, training: Path, command: str, kept: Sequence[_Kept], combination: Combination, progress: Progress
) -> None:
    """Write the folder of one length."""
    found = {**_record(folder, kept), "weights": combination.weights.tolist(), "misfit": combination.misfit}
    folder.parent.mkdir(exist_ok=True)
    with files.new_directory(folder, replace=True) as temporary:
        combine = partial(_combine, [each.path for each in kept], combination.weights, progress)
        write_state(temporary, training, command, combine, POST_HOC, found)


def _combine(paths: Sequence[Path], weights: np.ndarray, progress: Progress, at: Path) -> None:
    """Write the combination of EMAs, one tensor at a time. Sums are in float64.

    Integers and the statistics of BatchNorm, which an EMA copies, are those of the last one.
    """
    training = paths[0].parent.parent
    border = partial(as_data_error, f"the EMAs that {training} kept are not of one network")
    with ExitStack() as stack:
        with border():
            emas: list[Any] = [stack.enter_context(safe_open(path / checkpoint.EMA, "pt")) for path in paths]
            like = {name: emas[-1].get_tensor(name).to("meta") for name in emas[-1].keys()}  # noqa: SIM118
        progress.start("averaging", len(like), "tensors")
        done = itertools.count(1)

        def read(name: str) -> torch.Tensor:
            progress.update(next(done))
            with border():
                last: torch.Tensor = emas[-1].get_tensor(name)
                if not last.is_floating_point() or name.endswith(BATCH_NORM_STATISTICS):
                    return last
                total = torch.zeros_like(last, dtype=torch.float64)
                for ema, weight in zip(emas, weights.tolist(), strict=True):
                    total.add_(ema.get_tensor(name), alpha=weight)
                return total.to(last.dtype)

        tensor_file.write(at, like, read)
        progress.finish()
