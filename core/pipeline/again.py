"""Images drawn again: the parameters that an image carries, and the settings that they are of."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from .. import files
from ..errors import DataError
from ..images.parameters import Parameters, read_parameters
from ..runs.roles import NOISY_CLASSIFIER, Role, any_generator, generators
from ..runs.run import MANIFEST
from ..runs.schemas import first_wrong
from ..runs.states import POST_HOC, STATES
from ..settings.fields import defaults, is_incidental, is_option, places
from .generator import Opened
from .settings import Drawing

Settings = TypeVar("Settings", bound=Drawing)
_NESTED = 3  # folders between that of the runs and a stage's: a name may have parts


_OWN = ("seeds", "num", "checkpoint", "progressive", "metadata", "save_latents")  # not of one image
_ONE_OF = (("cfg", "cfg_paper"), ("strength", "start_index"), ("mask", "box", "outpaint"))


def parameters_of(
    opened: Opened, command: str, condition: Mapping[str, Any], asked: Mapping[str, Any], seed: int, **settings: Any
) -> dict[str, Any]:
    """Return the parameters of an image, as it carries them.

    condition: as the manifest has it. asked: the settings that ask for it. settings: further ones of the command that
    the image depends on.
    """
    return {
        "command": command,
        "model": {role: entry["fingerprint"] for role, entry in opened.inputs(Path()).items()},
        "condition": dict(condition),
        "settings": {**opened.settings, **asked, "seed": seed, **settings},
    }


def like(image: Path, config: Settings, **further: Any) -> Settings:
    """Return the settings that draw an image again; those that were given in `config` change it.

    further: settings for one image only. The models are found by their fingerprints among the runs. Raises DataError
    naming a model that is missing, and for an image that carries no parameters of this command.
    """
    drawn = read_parameters(image)
    if drawn.command != config.command:
        raise DataError(f"{image} was drawn by `ldm {drawn.command}`", "give an image of this command")
    given = config.model_dump(exclude_unset=True, exclude={"like"})
    replaced = {name for several in _ONE_OF if not given.keys().isdisjoint(several) for name in several}
    known = {name: value for name, value in drawn.settings.items() if name in _known(type(config)) - replaced}
    found = {**further, **known, **_models(drawn, config, image, given), **given}
    wrong = first_wrong(type(config), found)
    if wrong is not None:
        raise DataError(f"the parameters of {image} are damaged: {wrong}", "give another image")
    return type(config).model_validate(found)


def _known(model: type[Drawing]) -> set[str]:
    """Return the settings that an image may set: how it was drawn and of what, but no place and nothing else."""
    fields = {name for name, field in model.model_fields.items() if is_option(field)}
    own = {name for name, field in model.model_fields.items() if is_incidental(field)}
    return fields - own - set(places(defaults(model, {}))) - {*_OWN}


def _models(drawn: Parameters, config: Drawing, image: Path, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that name the directories that an image was drawn from, other than the run's own."""
    settings: dict[str, Any] = {}
    main = next((role.name for role in generators() if role.name in drawn.model), None)
    for name, role, setting in (
        (main, any_generator(), "denoiser"),
        ("weak", any_generator(), "autoguide"),
        ("classifier", NOISY_CLASSIFIER, "classifier"),
    ):
        if name is None or name not in drawn.model or setting in given:
            continue
        place = _find(drawn.model[name], role, config)
        if place is None:
            raise DataError(
                f"{image} was drawn with the {name} {drawn.model[name][:12]}, which no run in {config.runs_dir} holds",
                f"give its folder: `{setting}=FOLDER`; or another, for another image",
            )
        if place.name in STATES and setting == "denoiser":
            settings["checkpoint"], place = place.name, place.parent
        settings[setting] = place
    if settings.get("denoiser", config.root) == _only(config):
        del settings["denoiser"]
    return settings


def _only(config: Drawing) -> Path | None:
    """Return the run's generator, where it has one."""
    own = [config.root / kind for kind in any_generator().makers if (config.root / kind / MANIFEST).is_file()]
    return own[0] if len(own) == 1 else None


def _find(fingerprint: str, role: Role, config: Drawing) -> Path | None:
    """Find the directory of a role with a fingerprint: in the run, else in any run beside it."""
    return next((folder for folder in _places(role, config) if _fingerprint(folder) == fingerprint), None)


def _places(role: Role, config: Drawing) -> Iterator[Path]:
    for kind in role.makers:
        stage = f"{kind}/*" if kind in role.labelled else kind
        inside = ("", *(f"/{state}" for state in STATES), f"/{POST_HOC}/*")
        patterns = [f"{'*/' * depth}{stage}{state}" for state in inside for depth in range(1, _NESTED)]
        yield from (folder for state in inside for folder in sorted(config.root.glob(f"{stage}{state}")))
        for pattern in patterns:
            yield from sorted(config.runs_dir.glob(pattern))


def _fingerprint(folder: Path) -> str | None:
    try:
        return files.sha256_json(files.read_json(folder / MANIFEST, "").get("files"))
    except DataError:
        return None
