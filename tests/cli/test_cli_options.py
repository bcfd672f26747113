"""Flags: built from the configuration models, handed on only where typed, shown in help."""

import re
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from ldm.cli import examples
from ldm.cli.keys import find, settings_of, short_count
from ldm.cli.layers import merged_config
from ldm.cli.main import app, run
from ldm.cli.options import Given, stage_command
from ldm.core.settings.fields import parse_count
from ldm.core.settings.words import nearest
from ldm.stages.table import COMMANDS, STAGES


def parse(command: str, *arguments: str) -> Given:
    caught: list[Given] = []
    built: Any = stage_command(command, lambda _, given: caught.append(given))
    built.main(list(arguments), prog_name=command, standalone_mode=False)
    return caught[0]


def test_only_what_was_typed_is_handed_on() -> None:
    assert parse("sample") == Given(None, (), {}, False, False)
    given = parse(
        "sample", "--class", "3", "variance=beta", "-c", "x", "--cfg", "0", "--progressive", "-q", "--json", "eta=1"
    )
    assert given == Given(
        "x", ("variance=beta", "eta=1"), {"classes": "3", "cfg": "0", "progressive": True}, True, True
    )


def test_a_switch_has_its_opposite_and_both_differ_from_silence() -> None:
    assert parse("train-vqvae", "--flip").flags == {"data.flip": True}
    assert parse("train-vqvae", "--no-flip").flags == {"data.flip": False}
    assert parse("train-vqvae", "--eager").flags == {"machine.compile": False}


def test_an_alias_of_a_flag_sets_the_same_setting() -> None:
    assert parse("sample", "--count", "2k").flags == parse("sample", "--num", "2k").flags == {"num": "2k"}


def test_negative_numbers_and_spaces_are_values_not_flags() -> None:
    assert parse("sample", "--seed", "-1").flags == {"seed": "-1"}
    assert parse("sample", "--class", "golden retriever").flags == {"classes": "golden retriever"}


@pytest.mark.parametrize("command", STAGES)
def test_no_two_settings_of_a_stage_share_a_flag(command: str) -> None:
    flags = [flag for s in settings_of(STAGES[command].settings) for flag in (*s.flags, *s.off_flags)]
    flags += ["--config", "-c", "--quiet", "-q", "--json", "--help"]
    assert len(flags) == len(set(flags))


@pytest.mark.parametrize("command", STAGES)
def test_help_shows_every_flag_and_every_further_key_and_ends_with_examples(command: str) -> None:
    result = CliRunner().invoke(app, [command, "--help"])
    assert result.exit_code == 0
    for setting in settings_of(STAGES[command].settings):
        for shown in (*setting.flags, *setting.off_flags) or (setting.key,):
            assert shown in result.stdout
    lines = result.stdout.rstrip().splitlines()
    start = lines.index("Examples")
    assert [line.strip() for line in lines[start + 1 :]] == list(examples.examples_of(command))


def test_help_shows_defaults_as_they_are_typed() -> None:
    page = CliRunner().invoke(app, ["train-vqvae", "--help"]).stdout
    assert "--images COUNT" in page and "[1M]" in page and "[--flip]" in page and "auto|fp32|bf16|fp16" in page


def test_help_names_every_size_of_autoencoder() -> None:
    from ldm.core.autoencoders.families import FAMILIES
    from ldm.core.settings.families import preset_names

    setting = find(STAGES["train-vqvae"].settings, "model.preset")
    assert setting is not None and all(name in setting.help for name in preset_names(FAMILIES))


def test_help_tells_every_samplers_own_number_of_steps() -> None:
    from ldm.core.diffusion.samplers import DEFAULT_STEPS

    setting = find(STAGES["sample"].settings, "steps")
    assert setting is not None
    said = {
        name: number
        for number, names in re.findall(r"(\d+) for ([^,.]+)", setting.help)
        for name in names.split(" and ")
    }
    assert said == {name: str(number) for name, number in DEFAULT_STEPS.items()}


def test_help_shows_no_default_where_the_run_has_one() -> None:
    for command in ("encode", "train-classifier"):
        page = CliRunner().invoke(app, [command, "--help"]).stdout
        assert "Data, as the run's autoencoder was given it" in page
        assert "[--flip]" not in page and "pixels. [64]" not in page


def test_help_fits_a_narrow_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "50")
    page = CliRunner().invoke(app, ["train-vqvae", "--help"], prog_name="ldm").stdout
    text = [line for line in page.split("Examples")[0].splitlines() if "|" not in line]
    assert max(map(len, text)) <= 50


@pytest.mark.parametrize("words", [line for path in ("", *examples.SUMMARIES) for line in examples.examples_of(path)])
def test_every_example_is_accepted_by_the_parser(words: str) -> None:
    _, _, line = words.partition("ldm ")
    arguments = line.split(" > ")[0].split()
    if arguments[0] in COMMANDS:
        flags = parse(*arguments).flags
        assert all(find(COMMANDS[arguments[0]].settings, key) for key in flags)
    else:
        result = CliRunner().invoke(app, [*arguments, "--help"])
        assert result.exit_code == 0


def test_an_unknown_flag_is_reported_with_the_nearest_flag_or_key(capsys: pytest.CaptureFixture[str]) -> None:
    for typed, meant in (
        ("--batchsize", "--batch-size?"),
        ("--learning-rates", "no flag --learning-rates"),
        ("--accumulate", "train.accumulate=VALUE"),
        ("--quite", "--quiet?"),
    ):
        assert run(["train-dit", typed, "3"]) == 2
        assert meant in capsys.readouterr().err


def test_the_hidden_alias_is_the_same_command() -> None:
    group: Any = typer.main.get_command(app)
    assert group.get_command(None, "precompute-latents") is group.get_command(None, "encode")
    assert "precompute-latents" not in CliRunner().invoke(app, ["--help"]).stdout


def test_completion_offers_commands_flags_and_choices() -> None:
    def offered(line: str) -> list[str]:
        variables = {"_LDM_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(line.split(" ")) - 1)}
        return CliRunner().invoke(app, [], prog_name="ldm", env=variables).stdout.split()

    assert offered("ldm train-d") == ["train-dit", "train-denoiser"]
    assert "--sampler" in offered("ldm sample --sam")
    assert offered("ldm sample --sampler dd") == ["ddim", "ddpm"]


@pytest.mark.parametrize("count", [0, 1, 999, 1000, 1500, 12_345, 200_000, 2_500_000, 1_000_000_000])
def test_a_short_count_reads_back_as_itself(count: int) -> None:
    assert parse_count(short_count(count)) == count


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("lr", "train.lr"), ("Batch-Size", "train.batch_size"), ("train.lrr", "train.lr"), ("qqq", None)],
)
def test_the_nearest_word_is_the_same_leaf_or_close_in_spelling(typed: str, meant: str | None) -> None:
    assert nearest(typed, ["train.lr", "train.batch_size", "model.width"]) == meant


def test_all_words_that_set_nothing_are_the_images_to_edit() -> None:
    given = parse("edit", "a.png", "eta=0.5", "odd=name.png", "--steps", "4", "b/")
    assert given.flags == {"images": ["a.png", "odd=name.png", "b/"], "steps": "4"} and given.overrides == ("eta=0.5",)
    images = ("a.png", "odd=name.png", "b/")
    assert merged_config("edit", None, given.overrides, given.flags).config.images == images
