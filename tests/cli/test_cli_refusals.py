"""What core says of settings, in the flags of the command that was typed."""

import ast
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ldm.cli.failures import explain
from ldm.cli.main import _command_in, run
from ldm.cli.refusals import in_flags
from ldm.core.errors import SETTING, ConfigError

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("command", "text", "shown"),
    [
        ("sample", "`cfg=3` needs a null class; use `cfg=1`", "--cfg 3 needs a null class; use --cfg 1"),
        ("train-dit", "lower `train.lr`", "lower --lr"),
        ("train-dit", "use `machine.precision=bf16`, or fp32", "use --precision bf16, or fp32"),
        ("data dedup", "`machine.device=gpu` is unknown", "--device gpu is unknown"),
        ("train-dit", "`machine.compile=yes` needs a compiler", "--compile needs a compiler"),
        ("encode", "`data.flip=no`", "--no-flip"),
        ("train-dit", "choose `train.decay=cosine`", "choose train.decay=cosine"),
        ("sample", "train with `label_dropout=0.1`", "train with --label-dropout 0.1"),
        ("sample", "train with `diffusion.learn_variance=yes`", "train with --learn-variance"),
        ("verify", "start over with `replace`", "start over with --replace"),
        ("", "add `data.source=FOLDER`", "add --data FOLDER"),
        ("plot", "`ldm plot weights` shows one schedule", "`ldm plot weights` shows one schedule"),
        ("sample", "`nothing=1` of the kind", "`nothing=1` of the kind"),
    ],
)
def test_a_setting_is_shown_as_it_is_typed_behind_the_command(command: str, text: str, shown: str) -> None:
    assert in_flags(text, command) == shown


def test_a_part_of_a_stage_names_the_settings_of_its_section() -> None:
    error = ConfigError("`cfg=3` needs a null class", "use `cfg=1`, or train with `label_dropout=0.1`")
    error.section = "metrics"
    said = explain(error, "train-dit")
    assert said is not None and said.message == "metrics.cfg=3 needs a null class"
    assert said.remedy == "use metrics.cfg=1, or train with --label-dropout 0.1"
    assert error.setting == "cfg"


@pytest.mark.parametrize(
    ("words", "command"),
    [
        (["sample", "--cfg", "3"], "sample"),
        (["precompute-latents"], "encode"),
        (["data", "dedup", "photos"], "data dedup"),
        (["config", "show", "train-dit"], "train-dit"),
        (["--help"], ""),
    ],
)
def test_the_command_is_found_among_the_words(words: list[str], command: str) -> None:
    assert _command_in(words) == command


def _named_in_core() -> Iterator[tuple[str, str]]:
    """Yield the settings in backquotes in core's and the stages' code, with their file."""
    for folder in ("core", "stages"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
                name = getattr(call.func, "id", getattr(call.func, "attr", ""))
                if name in ("ConfigError", "DataError", "Diverged"):
                    for text in (n.value for n in ast.walk(call) if isinstance(n, ast.Constant)):
                        for key, _ in SETTING.findall(text) if isinstance(text, str) else ():
                            yield key, str(path.relative_to(ROOT))


def test_every_setting_that_core_names_is_one_of_a_command() -> None:
    unknown = {(key, path) for key, path in _named_in_core() if in_flags(f"`{key}`", "train-dit") == f"`{key}`"}
    tools = ("average", "data dedup", "estimate", "export", "import", "plot")
    assert not {(k, p) for k, p in unknown if all(in_flags(f"`{k}`", tool) == f"`{k}`" for tool in tools)}


def test_core_names_no_flags_in_errors() -> None:
    found = []
    for path in sorted((ROOT / "core").rglob("*.py")):
        for call in (n for n in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(n, ast.Call)):
            if getattr(call.func, "id", "") in ("ConfigError", "DataError", "Diverged"):
                texts = [n.value for n in ast.walk(call) if isinstance(n, ast.Constant) and isinstance(n.value, str)]
                found += [(path.name, t) for t in texts if " --" in f" {t}" and "ldm " not in t and "torchrun" not in t]
    assert not [text for text in found if "--nproc-per-node" not in text[1] and text[1].strip() != "--replace"], found


def test_of_thousands_of_unknown_keys_the_first_are_listed_in_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("train-dit:\n" + "".join(f"  unknown{number}: 1\n" for number in range(12_000)))
    started = time.process_time()
    assert run(["train-dit", "-c", str(recipe)]) == 2
    assert "and 11,980 more" in capsys.readouterr().err
    assert time.process_time() - started < 5
