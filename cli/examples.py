"""What each command is for, and examples of it: the last thing its help shows."""

from collections.abc import Mapping

from ..stages.table import COMMANDS

SUMMARY = "Train latent diffusion models on your own labelled images, one stage at a time."
MENUS = {
    "recipes": "List the recipes at hand, print one, or copy one to be edited.",
    "config": "Show a stage's settings and where each was set, or describe all settings.",
    "data": "Look at images before they are trained on.",
    "plan": "Write what each stage of a recipe depends on; used by make.",
}
SUMMARIES = {**{name: command.summary for name, command in COMMANDS.items()}, **MENUS}
EXAMPLES: Mapping[str, tuple[str, ...]] = {
    **{name: command.examples for name, command in COMMANDS.items()},
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
    "show": ("ldm config show train-dit -c mnist", "ldm config show sample --cfg 2 > mine.yaml"),
    "config show": ("ldm config show train-dit -c mnist", "ldm config show sample --cfg 2 > mine.yaml"),
    "data": ("ldm data inspect photos/", "ldm data dedup photos/ --out twins.jsonl"),
    "plan": ("ldm plan -c mnist", "ldm plan -c recipes/cifar10.yaml --name cifar"),
}
