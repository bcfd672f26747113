"""Random harm to files: to their bytes, and to what a format means by them, so that more than a first check is met."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np

# Numbers at which readers go wrong: signs, ends of integers and floats, and those of no memory.
NUMBERS = (
    *("0", "1", "-1", "2", "3", "-0", "0.5", "1e308", "1e999", "-1e999", "1e-320", "NaN", "Infinity", "-Infinity"),
    *("255", "256", "65535", "65536", "2147483647", "2147483648", "4294967296", "9223372036854775807"),
    *("9223372036854775808", "-9223372036854775809", "18446744073709551616", "1" + "0" * 400, "1" + "0" * 5000),
)
TEXTS = (
    *('""', '"."', '".."', '"../../x"', '"/etc/passwd"', '"a/b"', '"\\u0000"', '"\\ud800"', '"\\udcff"', '"\\u202e"'),
    *('"x\\ny"', '"null"', '"true"', '"1"', '"1e999"', '"nan"', '"-1"', '"é"', '"$\\\\frac{$"', '"' + "x" * 5000 + '"'),
    '"' + "../" * 2000 + '"',
)
SHAPES = (
    *("null", "true", "false", "[]", "{}", "[[]]", "[null]", '[{}, "x", 1]', '{"x": {"x": []}}'),
    *("[" * 40 + "]" * 40, "[" * 100_000, '{"a":' * 3000 + "1" + "}" * 3000, "[" + "0," * 3000 + "0]"),
)
_WORDS = (
    *(b"\x00", b"\xff", b"\xed\xa0\x80", b"\xc3", b"\n", b"\r\n", b"\t", b"../", b"/", b"\\", b'"', b"{", b"[", b"]"),
    *(
        b"}",
        b",",
        b":",
        b"nan",
        b"1e999",
        b"-1",
        b"9" * 30,
        b"null",
        b"PK\x03\x04",
        b"\x93NUMPY",
        b"%s",
        b"\xef\xbb\xbf",
    ),
)


Mutate = Callable[[bytes, np.random.Generator], bytes]


class Raw:
    """A piece of JSON as it is to be written."""

    def __init__(self, text: str) -> None:
        self.text = text


def mutate_bytes(data: bytes, random: np.random.Generator) -> bytes:
    """Return data with one to four places flipped, cut, doubled, moved, or overwritten by what readers stumble over."""
    for _ in range(int(random.integers(1, 5))):
        data = choose(_BYTES, random)(data, random)
    return data[: 1 << 20]


def mutate_json(data: bytes, random: np.random.Generator) -> bytes:
    """Return a JSON text with one to three values, keys or lists changed for others; one in ten also loses bytes."""
    try:
        tree = json.loads(data)
    except ValueError:
        return mutate_bytes(data, random)
    for _ in range(int(random.integers(1, 4))):
        tree = _change(tree, random)
    text = dump(tree).encode("utf-8", "surrogatepass")
    return mutate_bytes(text, random) if random.random() < 0.1 else text


def mutate_lines(data: bytes, random: np.random.Generator) -> bytes:
    """Return lines of JSON with one of them changed, doubled, left out or cut."""
    lines = data.splitlines()
    where = int(random.integers(len(lines)))
    act = random.random()
    if act < 0.7:
        lines[where] = mutate_json(lines[where], random)
    elif act < 0.8:
        lines.insert(where, lines[int(random.integers(len(lines)))])
    elif act < 0.9:
        del lines[where]
    else:
        return mutate_bytes(data, random)
    return b"\n".join(lines) + b"\n"


def dump(tree: Any) -> str:
    """Write a tree as JSON; a list of pairs marked as an object may hold a key twice."""
    if isinstance(tree, Raw):
        return tree.text
    if isinstance(tree, dict):
        return "{" + ", ".join(f"{dump(key)}: {dump(value)}" for key, value in tree.items()) + "}"
    if isinstance(tree, list):
        return "[" + ", ".join(map(dump, tree)) + "]"
    return json.dumps(tree)


def _change(tree: Any, random: np.random.Generator) -> Any:
    """Return a tree with one place changed, chosen evenly over all its places."""
    places = list(_places(tree))
    holder, key = places[int(random.integers(len(places)))]
    if holder is None:
        return _odd(tree, places, random)
    value, act = holder[key], random.random()
    if isinstance(holder, dict) and act < 0.35:
        if act < 0.15:
            del holder[key]
        elif act < 0.25:
            holder[Raw(json.dumps(key))] = _odd(value, places, random)  # the same key once more
        else:
            holder[Raw(choose(TEXTS, random))] = holder.pop(key)
    elif isinstance(holder, list) and act < 0.3:
        if act < 0.1:
            del holder[key]
        elif act < 0.2:
            holder.insert(key, value)
        else:
            holder.extend(holder * int(random.integers(1, 4)))
    else:
        holder[key] = _odd(value, places, random)
    return tree


def _odd(value: Any, places: list[Any], random: np.random.Generator) -> Any:
    """Return what to put in a value's place: an odd number, text or shape, itself as another kind, or a neighbour."""
    act = int(random.integers(6))
    if act == 0:
        return Raw(choose(NUMBERS, random))
    if act == 1:
        return Raw(choose(TEXTS, random))
    if act == 2:
        return Raw(choose(SHAPES, random))
    if act == 3 and isinstance(value, (int, float)) and not isinstance(value, bool):
        return choose(
            (value + 1, value - 1, -value, value * 2, value * 1000, float(value), str(value), [value]), random
        )
    if act == 4:
        holder, key = places[int(random.integers(len(places)))]
        return Raw(dump(holder[key])[:5000]) if holder is not None else [value]
    return choose((str(value)[:100], [value], {"x": value}, None), random)


def _places(tree: Any) -> Any:
    yield None, None
    waiting = [tree]
    while waiting:
        holder = waiting.pop()
        items = holder.items() if isinstance(holder, dict) else enumerate(holder) if isinstance(holder, list) else ()
        for key, value in items:
            if not isinstance(key, Raw):
                yield holder, key
            if isinstance(value, (dict, list)):
                waiting.append(value)


def choose(options: Any, random: np.random.Generator) -> Any:
    """Return one of several, all as likely."""
    return options[int(random.integers(len(options)))]


def _at(data: bytes, random: np.random.Generator) -> int:
    return int(random.integers(len(data) + 1))


def _flip(data: bytes, random: np.random.Generator) -> bytes:
    at = _at(data, random)
    return data[:at] + bytes([data[at] ^ 1 << int(random.integers(8))]) + data[at + 1 :] if at < len(data) else data


def _set(data: bytes, random: np.random.Generator) -> bytes:
    at = _at(data, random)
    return data[:at] + bytes([int(choose((0, 1, 127, 128, 254, 255, 32, 10), random))]) + data[at + 1 :]


def _cut(data: bytes, random: np.random.Generator) -> bytes:
    return data[: _at(data, random)]


def _remove(data: bytes, random: np.random.Generator) -> bytes:
    at = _at(data, random)
    return data[:at] + data[at + int(random.integers(1, 64)) :]


def _double(data: bytes, random: np.random.Generator) -> bytes:
    at = _at(data, random)
    return data[:at] + data[at : at + int(random.integers(1, 600))] * int(random.integers(1, 4)) + data[at:]


def _move(data: bytes, random: np.random.Generator) -> bytes:
    source, target, size = _at(data, random), _at(data, random), int(random.integers(1, 600))
    return data[:target] + data[source : source + size] + data[target + size :]


def _write_number(data: bytes, random: np.random.Generator) -> bytes:
    value = int(choose((0, 1, -1, 2**7, 2**8, 2**15, 2**16, 2**31, 2**31 - 1, 2**32 - 1, 2**63 - 1, 2**40), random))
    size = int(choose((1, 2, 4, 8), random))
    number = (value % (1 << 8 * size)).to_bytes(size, choose(("little", "big"), random))
    at = _at(data, random)
    return data[:at] + number + data[at + size :]


def _write_word(data: bytes, random: np.random.Generator) -> bytes:
    at, word = _at(data, random), choose(_WORDS, random)
    return data[:at] + word + data[at + (len(word) if random.random() < 0.5 else 0) :]


_BYTES: tuple[Mutate, ...] = (*(_flip, _set, _cut, _remove, _double, _move, _write_number, _write_word),)
