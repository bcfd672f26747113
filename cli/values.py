"""What a setting takes: in words, for pages and errors, and as the JSON schema of what a YAML reader makes of it.

Limits are read from the JSON schema that pydantic makes of a setting's declaration.
"""

from typing import Annotated, Any, NamedTuple

import yaml
from pydantic import TypeAdapter

from .keys import Setting

_INTEGER = r"[+-]?[0-9]+(_[0-9]+)*(\.0+)?"
_NUMBER = r"[+-]?([0-9][0-9_]*\.?[0-9_]*|\.[0-9][0-9_]*)([eE][+-]?[0-9][0-9_]*)?"
_COUNT = rf"({_INTEGER}|[0-9][0-9_]*\.?[0-9]*([eE][0-9]{{1,2}})?\s*[kKmMgG]?)"
_YES = r"[yY]([eE][sS])?|[oO][nN]|[tT]([rR][uU][eE])?|1"
_NO = r"[nN][oO]?|[oO][fF][fF]|[fF]([aA][lL][sS][eE])?|0"


class _Kind(NamedTuple):
    """What a value is called in a table and in `must be …`, and its schema: with the texts that are read as one."""

    name: str
    wanted: str
    schema: dict[str, Any]


_ANY: dict[str, Any] = {"type": ["string", "number", "boolean"]}
_SWITCH = {"type": ["boolean", "string", "integer"], "pattern": f"^({_YES}|{_NO})$", "minimum": 0, "maximum": 1}
_KINDS = {
    "INTEGER": _Kind(
        "whole number", "a whole number", {"type": ["integer", "string"], "pattern": rf"^\s*{_INTEGER}\s*$"}
    ),
    "COUNT": _Kind(
        "count", "a count such as 5000, 500k or 2M", {"type": ["integer", "string"], "pattern": rf"^\s*{_COUNT}\s*$"}
    ),
    "NUMBER": _Kind("number", "a number", {"type": ["number", "string"], "pattern": rf"^\s*{_NUMBER}\s*$"}),
    "yes|no": _Kind("yes or no", "yes or no", _SWITCH),
    "PATH": _Kind("path", "a path", _ANY),
    "TEXT": _Kind("text", "a text", _ANY),
    "TEXTS": _Kind("texts", "a list of texts", {"type": ["array", "string"], "items": _ANY}),
}
_LIMITS = {
    "minimum": "at least {}",
    "exclusiveMinimum": "greater than {}",
    "maximum": "at most {}",
    "exclusiveMaximum": "less than {}",
}
# Where a validator comes before the number, pydantic leaves the limits their Python names.
_KEYWORDS = {"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum", "lt": "exclusiveMaximum"}


def takes(setting: Setting) -> str:
    """Return what a setting takes, for a table: `count, at least 1`. That counts are not negative is left unsaid."""
    if setting.choices:
        return ", ".join(f"`{choice}`" for choice in setting.choices)
    found = [words for words in limits(setting) if (setting.kind, words) != ("COUNT", "at least 0")]
    declared, _ = _declared(setting)
    if setting.is_list:
        kind = f"{_numbers(declared)}, with {'a comma' if 'maxItems' in declared else 'commas'}"
        return ", each ".join(filter(None, (kind, " and ".join(found))))
    if "pattern" in declared:
        found.append(f"matching `{declared['pattern']}`".replace("|", r"\|"))
    return ", ".join([_KINDS[setting.kind].name, *found])


def wanted(setting: Setting) -> str:
    """Return what a value should have been that is not of the setting's kind: `a whole number`."""
    if not setting.is_list:
        return _KINDS[setting.kind].wanted
    declared, _ = _declared(setting)
    example = ["1", "2", "4"] if _kind_of_items(declared) == "INTEGER" else ["0.2", "0.5", "0.8"]
    return f"{_numbers(declared)}, as in {','.join(example[: declared.get('maxItems')])}"


def limits(setting: Setting) -> list[str]:
    """Return the limits of a setting, or of each number of a list, in words."""
    declared, _ = _declared(setting)
    found = _limits(declared.get("items", declared)).items()
    return [_LIMITS[name].format("2^63" if limit == 2**63 else f"{limit:g}") for name, limit in found]


def value_schema(setting: Setting) -> dict[str, Any]:
    """Return the JSON schema of a setting's value in a recipe."""
    declared, optional = _declared(setting)
    if setting.choices:
        values = [value for choice in setting.choices for value in (choice, yaml.safe_load(choice))]
        return {"enum": list(dict.fromkeys([*values, None] if optional else values))}
    if setting.is_list:
        schema = _list_schema(declared)
    elif "pattern" in declared:
        schema = {"type": ["string"], "pattern": declared["pattern"]}
    else:
        schema = _KINDS[setting.kind].schema | _limits(declared)
    return schema | {"type": [*schema["type"], "null"]} if optional else schema


def _declared(setting: Setting) -> tuple[dict[str, Any], bool]:
    """Return the JSON schema of a setting as it was declared, and whether null is a value as well."""
    annotation: Any = setting.field.annotation
    for mark in setting.field.metadata:
        annotation = Annotated[annotation, mark]
    schema = TypeAdapter(annotation).json_schema()
    members = [member for member in schema.get("anyOf", ()) if member.get("type") != "null"]
    return (members[0], True) if members else (schema, False)


def _limits(declared: dict[str, Any]) -> dict[str, Any]:
    named = {_KEYWORDS.get(name, name): value for name, value in declared.items()}
    return {name: named[name] for name in _LIMITS if name in named}


def _list_schema(declared: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a list of numbers, which may also be written as one text: `1,2,4`."""
    kind, length = _kind_of_items(declared), declared.get("maxItems")
    pattern = _INTEGER if kind == "INTEGER" else _NUMBER
    items = _KINDS[kind].schema | _limits(declared.get("items", {}))
    ends = {"minItems": length, "maxItems": length} if length else {}
    more = rf"(\s*,\s*{pattern})" + (f"{{{length - 1}}}" if length else "*")
    single = [] if length else [items["type"][0]]
    return {
        "type": ["array", "string", *single],
        "items": items,
        **ends,
        "pattern": rf"^\s*\[?\s*{pattern}{more}\s*\]?\s*$",
    }


def _kind_of_items(declared: dict[str, Any]) -> str:
    item = declared["items"] if "items" in declared else declared["prefixItems"][0]
    return "INTEGER" if item["type"] == "integer" else "NUMBER"


def _numbers(declared: dict[str, Any]) -> str:
    """Return what a list consists of: `whole numbers`, `2 numbers`."""
    length = [str(declared["maxItems"])] if "maxItems" in declared else []
    return " ".join([*length, f"{_KINDS[_kind_of_items(declared)].name}s"])
