"""The commands without settings and the groups of commands, and the examples of each, for its help."""

from collections.abc import Mapping

from ..stages.table import COMMANDS

SUMMARY = "Train latent diffusion models on your own labelled images, one stage at a time."
MENUS = {
    "recipes": "List the recipes at hand, print one, or copy one to be edited.",
    "config": "Show a stage's settings and where each was set, or describe all settings.",
    "config show": "Print a stage's settings as a recipe: what was set and where, defaults as comments.",
    "data": "Look at images before they are trained on.",
    "plan": "Write what each stage of a recipe depends on; used by make.",
}
# The commands without settings: `module:function` of this package, and what they are for.
PLAIN = {
    "recipes ls": (
        "recipes:list_recipes",
        "List the recipes at hand with the hardware, time and result in their headers.",
    ),
    "recipes show": ("recipes:show_recipe", "Print a recipe as it stands."),
    "recipes copy": ("recipes:copy_recipe", "Copy a recipe to a new file, to be edited."),
    "config schema": (
        "schema:show_schema",
        "Print the JSON schema of recipes, for editors that check and complete YAML.",
    ),
    "config reference": (
        "reference:write_reference",
        "Write the pages of all commands and of all settings, Markdown, into a folder.",
    ),
}
SUMMARIES = {
    **{name: command.summary for name, command in COMMANDS.items()},
    **MENUS,
    **{path: summary for path, (_, summary) in PLAIN.items()},
}
_WITHOUT_SETTINGS: Mapping[str, tuple[str, ...]] = {
    "": (
        "ldm train-vqvae --data photos/ --image-size 64 --name mine",
        "ldm encode --name mine",
        "ldm train-dit --name mine --images 2M",
        "ldm sample --name mine --class cat --cfg 3",
        "ldm train-classifier --name mine",
        "ldm eval --name mine",
    ),
    "recipes": ("ldm recipes ls", "ldm recipes show mnist", "ldm recipes copy mnist mine.yaml"),
    "recipes ls": ("ldm recipes ls", "ldm recipes ls --json"),
    "recipes show": ("ldm recipes show mnist", "ldm recipes show path/to/recipe.yaml"),
    "recipes copy": ("ldm recipes copy mnist mine.yaml",),
    "config": ("ldm config show train-dit -c mnist", "ldm config schema > recipe.schema.json"),
    "config schema": ("ldm config schema > recipe.schema.json", "ldm config schema train-dit"),
    "config reference": ("ldm config reference docs",),
    "config show": ("ldm config show train-dit -c mnist", "ldm config show sample --cfg 2 > mine.yaml"),
    "data": ("ldm data inspect photos/", "ldm data dedup photos/ --out twins.jsonl"),
    "plan": ("ldm plan -c mnist", "ldm plan -c recipes/cifar10.yaml --name cifar"),
}


def examples_of(path: str) -> tuple[str, ...]:
    """Return the examples of a command or a group of commands. Those of a command with settings are beside these."""
    return _WITHOUT_SETTINGS[path] if path in _WITHOUT_SETTINGS else COMMANDS[path].settings.examples
