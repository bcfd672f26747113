"""`ldm data inspect`: what images are like, what is wrong with them, and what training would make of them."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ...core.curation.advice import advise, largest_size
from ...core.curation.contact_sheet import class_strips, require_new, write_sheet
from ...core.curation.survey import EXAMPLES, TRAITS, Survey, look
from ...core.curation.suspicions import similar_classes, suspicious_labels
from ...core.curation.texts import MOST_TOKENS, survey_captions
from ...core.errors import DataError
from ...core.images.dataset import ImageSource
from ...core.images.settings import Data
from ...core.images.weights import advice_on_masks
from ...core.progress import Outcome, Progress, number_of
from ..configs.data_tools import DataInspect
from .data_parts import TRAINED, Parts, counted, listed, opened_images, own_split, read_all, shown

COLUMNS, ROWS = 8, 40  # of the contact sheet
_BAR = 24  # characters of the longest bar
_SHOWN_CLASSES = 40  # in words; JSON has all


def run(config: DataInspect, progress: Progress) -> Outcome:
    """Look at every image once. The exit code is 3 where something would stop training."""
    if config.sheet is not None:
        require_new(config.sheet, config.replace, "sheet")
    parts = opened_images(config)[0].parts
    survey = Survey()
    for part, source, index, seen in read_all(parts, look, progress, "looking at images"):
        survey.add(part, source, index, seen)

    source = parts[0][1]
    counts = survey.class_counts.get(parts[0][0], np.zeros(len(source.class_names), dtype=np.int64))
    facts = _facts(config, parts, survey)
    opened, alone = _opened(parts, config.validation is not None)
    facts["captions"] = _captions(config, parts)
    stops = facts["stops"] = [*_stops(opened, survey), *_caption_stops(facts["captions"], source)]
    facts["not_opened"] = [*_not_opened(alone, survey)]
    facts["advice"] = advise(survey, counts, source.class_names, config.image_size)
    if masks := advice_on_masks(source.names):
        facts["advice"]["masks"] = masks
    pictures = []
    if config.sheet is not None and len(survey):
        write_sheet(config.sheet, class_strips(source, config.image_size, COLUMNS, ROWS))
        pictures = [config.sheet]
    total, classes = sum(len(each) for _, each in parts), len(source.class_names)
    verdict = "would stop training" if stops else "can be trained on"
    return Outcome(
        Path(config.source),
        summary=dict(_rows(parts, survey, facts)),
        pictures=pictures,
        verdict=f"{verdict}: {number_of(total, 'image')} of {number_of(classes, 'class')}",
        facts=facts,
        exit_code=DataError.exit_code if stops else 0,
    )


def _captions(config: DataInspect, parts: Parts) -> dict[str, Any] | None:
    """Return what captions are like; None without, or where none of them can be read."""
    data = Data(source=config.source, captions=config.captions)
    try:
        return survey_captions([source for _, source in parts], data)
    except DataError as error:
        return {"problem": error.message}


def _caption_stops(found: dict[str, Any] | None, source: ImageSource) -> Iterator[str]:
    """Yield what a model of captions would refuse, where the images are for one: they have no classes."""
    if found is None or source.labelled:
        return
    if "problem" in found:
        yield shown(found["problem"], 300)
    if missing := found.get("missing"):
        yield f"{number_of(len(missing), 'image')} without a caption: {listed(missing, len(missing))}"
    if wrong := found.get("wrong"):
        yield f"{number_of(len(wrong), 'caption')} cannot be used: {shown(wrong[0], 300)}"


def _caption_rows(found: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the lines about captions."""
    if "problem" in found:
        yield "captions", shown(found["problem"], 300)
        return
    least, median, most = found["per_image"] or (0, 0, 0)
    per_image = f"{median:g} an image" if least == most else f"{least:g} … {median:g} … {most:g} an image"
    yield "captions", f"{found['captions']:,} of {found['images']:,} images, {per_image} (least, median, most)"
    if found["captions"]:
        spans = (" … ".join(f"{value:g}" for value in found[name]) for name in ("words", "tokens"))
        yield "lengths", "{} words, {} tokens of CLIP".format(*spans)
    if found["long"]:
        yield "long", f"{found['long']:,} captions of more than {MOST_TOKENS} tokens, which most encoders cut"
    if repeated := found["repeated"]["captions"]:
        most_common = ", ".join(f"{shown(text)!r} {count:,} times" for text, count in found["repeated"]["most"])
        yield "repeated", f"{repeated:,} captions are also of another image: {most_common}"
    for name, what in (("missing", "images without a caption"), ("stray", "captions of images that are not there")):
        if names := found[name]:
            yield name, f"{len(names):,} {what}: {listed(names, len(names))}"
    if wrong := found["wrong"]:
        yield "wrong", f"{len(wrong):,}: {'; '.join(shown(each, 200) for each in wrong[:3])}"


def _opened(parts: Parts, validation: bool) -> tuple[Parts, Parts]:
    """Return the parts that training opens, and those that it leaves alone: validation images are val, else test."""
    names = [part for part, _ in parts]
    own = names[0] == "train" or validation  # what is one part is divided, whatever is beside it
    held_out = next((part for part in ("val", "test") if own and part in names[1:]), None)
    opened = [each for place, each in enumerate(parts) if place == 0 or each[0] == held_out]
    return opened, [each for each in parts if each not in opened]


def _not_opened(parts: Parts, survey: Survey) -> Iterator[str]:
    """Yield what is wrong with parts that training leaves alone, and would matter once they are used."""
    for part, source in parts:
        if source.empty_folders:
            folders = listed([*source.empty_folders], len(source.empty_folders))
            yield f"{part} is left alone by training; class folders there have no images: {folders}"
        if broken := [image.name for image in survey.broken if image.part == part]:
            yield f"{part} is left alone by training; {_undecoded(broken)}"


def _undecoded(names: list[str]) -> str:
    return f"{number_of(len(names), 'image')} cannot be decoded: {listed(names, len(names))}"


def _stops(parts: Parts, survey: Survey) -> Iterator[str]:
    """Yield what training would refuse of the parts that it opens, all of it."""
    if parts[0][0] not in TRAINED:
        yield f"there is nothing to train on: {shown(parts[0][1].location)} has no part called train"
        return
    for part, source in parts:
        for folder in source.empty_folders:
            yield f"class folder {shown(folder)} has no images"
        if part in TRAINED and not source.numbered:
            for label in np.flatnonzero(np.bincount(source.labels, minlength=len(source.class_names)) == 0):
                yield f"class {shown(source.class_names[label])} has no images"
        elif part in TRAINED:
            yield from _refused(source.require_every_class)
        else:
            yield from _refused(lambda of=source: of.with_classes(parts[0][1].class_names))  # type: ignore[misc]
    if len(parts) == 1:
        yield from _refused(lambda: own_split(parts[0][1]))
    opened = {part for part, _ in parts}
    if broken := [image.name for image in survey.broken if image.part in opened]:
        yield _undecoded(broken)


def _refused(check: Callable[[], object]) -> Iterator[str]:
    """Yield what a check of training says of data that it refuses."""
    try:
        check()
    except DataError as error:
        yield shown(error.message, 300)


def _rows(parts: Parts, survey: Survey, facts: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the lines that are shown, by their headings."""
    yield "images", counted(parts)
    yield from _class_rows(parts[0][1], facts["classes"])
    if len(survey):
        for name in ("width", "height"):
            span = facts["sizes"][name]
            yield name, f"{span['min']:,} … {span['median']:,.0f} … {span['max']:,} pixels (least, median, most)"
        yield "smaller", f"{facts['smaller']:,} with a side below --image-size {facts['image_size']}"
        yield "shapes", ", ".join(f"{count:,} {shape}" for shape, count in facts["shapes"].items() if count)
        for name in ("formats", "modes"):
            yield name, ", ".join(f"{kind} {count:,}" for kind, count in facts[name].items())
    if facts["captions"]:
        yield from _caption_rows(facts["captions"])
    for trait, words in TRAITS.items():
        if count := survey.traits[trait]:
            yield trait, f"{count:,} {words}: {listed(survey.examples[trait], count)}"
    yield "broken", f"{len(survey.broken):,}" if survey.broken else "none"
    if ignored := facts["ignored"]:
        files = f"{len(ignored):,} file{'s' * (len(ignored) > 1)}"
        yield "left aside", f"{files} not taken for images: {listed(ignored, len(ignored))}"
    if suspects := facts["suspicious"]:
        names = ", ".join(f"{shown(each['name'])} of class {shown(each['own'])}" for each in suspects[:EXAMPLES])
        yield "labels", f"{len(suspects):,} named after another class: {names}"
    if pairs := facts["similar_classes"]:
        yield "class names", f"alike: {', '.join(f'{shown(a)} and {shown(b)}' for a, b in pairs[:EXAMPLES])}"
    for number, remark in enumerate(facts["not_opened"], 1):
        yield f"not opened {number}", remark
    for number, stop in enumerate(facts["stops"], 1):
        yield f"stops {number}", stop
    for matter, line in facts["advice"].items():
        yield f"advice: {matter}", line


def _class_rows(source: ImageSource, classes: list[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    """Yield a bar for each class; of very many, for the largest and the smallest."""
    trained = np.array([next(iter(each["counts"].values())) for each in classes])
    most = max(1, int(trained.max()))
    chosen = list(range(len(classes)))
    if len(classes) > _SHOWN_CLASSES:
        ordered = np.argsort(-trained, kind="stable").tolist()
        half = _SHOWN_CLASSES // 2
        chosen = [*ordered[:half], *ordered[-half:]]
        yield "classes", f"{len(classes):,}; the {half} largest and the {half} smallest:"
    for label in chosen:
        bar = "█" * round(_BAR * trained[label] / most) or ("▏" if trained[label] else "")
        others = ", ".join(f"{count:,} in {part}" for part, count in [*classes[label]["counts"].items()][1:])
        share = f"{trained[label]:,} ({trained[label] / max(1, trained.sum()):.1%})" + (f", {others}" if others else "")
        yield f"class {shown(classes[label]['name'], 24)}", f"{bar:<{_BAR}}  {share}"
    for folder in source.empty_folders:
        yield f"class {shown(folder.rpartition('/')[2], 24)}", f"{'':<{_BAR}}  0, an empty folder"


def _facts(config: DataInspect, parts: Parts, survey: Survey) -> dict[str, Any]:
    """Return everything that was found, JSON. Counts of classes are of images that can be decoded."""
    empty = dict.fromkeys((part for part, _ in parts), 0)
    classes = {name: dict(empty) for name in parts[0][1].class_names}
    for part, source in parts:
        for name, count in zip(source.class_names, survey.class_counts.get(part, ()), strict=False):
            classes.setdefault(name, dict(empty))[part] = int(count)
    return {
        "images": {part: len(source) for part, source in parts},
        "classes": [{"name": name, "counts": counts} for name, counts in classes.items()],
        "empty_folders": [folder for _, source in parts for folder in source.empty_folders],
        "ignored": [name for _, source in parts for name in source.ignored],
        "image_size": config.image_size,
        "smaller": int((survey.shorter < config.image_size).sum()) if len(survey) else 0,
        "largest_size": largest_size(survey.shorter) if len(survey) else None,
        "suspicious": [vars(suspect) for _, source in parts for suspect in suspicious_labels(source)],
        "similar_classes": [list(pair) for pair in similar_classes(parts[0][1].class_names)],
        **survey.described(),
    }
