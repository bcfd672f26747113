"""Random harm to files: to their bytes, and to what a format means by them, so that more than its first check is met."""

import json
import struct
from collections.abc import Callable
from typing import Any

import numpy as np

# Numbers at which readers go wrong: signs, ends of integers and floats, and those of no memory.
_NUMBERS = (
    *("0", "1", "-1", "2", "3", "-0", "0.5", "1e308", "1e999", "-1e999", "1e-320", "NaN", "Infinity", "-Infinity"),
    *("255", "256", "65535", "65536", "2147483647", "2147483648", "4294967296", "9223372036854775807"),
    *("9223372036854775808", "-9223372036854775809", "18446744073709551616", "1" + "0" * 400, "1" + "0" * 5000),
)
_TEXTS = (
    *('""', '"."', '".."', '"../../x"', '"/etc/passwd"', '"a/b"', '"\\u0000"', '"\\ud800"', '"\\udcff"', '"\\u202e"'),
    *('"x\\ny"', '"null"', '"true"', '"1"', '"1e999"', '"nan"', '"-1"', '"é"', '"$\\\\frac{$"', '"' + "x" * 5000 + '"'),
    '"' + "../" * 2000 + '"',
)
_SHAPES = (
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


class Raw:
    """A piece of JSON as it is to be written."""

    def __init__(self, text: str) -> None:
        self.text = text


def mutate_bytes(data: bytes, random: np.random.Generator) -> bytes:
    """Return data with one to four places flipped, cut, doubled, moved, or overwritten by what readers stumble over."""
    for _ in range(int(random.integers(1, 5))):
        data = _choose(_BYTES, random)(data, random)
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


def mutate_yaml(data: bytes, random: np.random.Generator) -> bytes:
    """Return a YAML text with lines changed for what YAML has and JSON has not."""
    lines = data.splitlines()
    for _ in range(int(random.integers(1, 4))):
        where = int(random.integers(len(lines)))
        head, colon, _ = lines[where].partition(b":")
        act = int(random.integers(6))
        if act == 0:
            lines[where] = head + colon + b" " + _choose(_YAML, random)
        elif act == 1:
            lines[where] = head + colon + b" " + _choose(_NUMBERS + _TEXTS + _SHAPES, random).encode()
        elif act == 2:
            lines.insert(where, _choose(_YAML, random))
        elif act == 3:
            lines.insert(where, b"  " * int(random.integers(4)) + lines[int(random.integers(len(lines)))].lstrip())
        elif act == 4:
            lines[where] = b" " * int(random.integers(1, 9)) + lines[where]
        else:
            del lines[where : where + int(random.integers(1, 4))]
            lines = lines or [b""]
    text = b"\n".join(lines) + b"\n"
    return mutate_bytes(text, random) if random.random() < 0.2 else text


def mutate_header(data: bytes, random: np.random.Generator) -> bytes:
    """Return a safetensors file with its header changed, and mostly with the length that goes with it."""
    size = struct.unpack("<Q", data[:8])[0]
    header, rest = data[8 : 8 + size], data[8 + size :]
    act = random.random()
    if act < 0.6:
        header = mutate_json(header, random)
    elif act < 0.8:
        header = header.replace(*_choose(_DTYPES, random), 1)
    elif act < 0.9:
        return mutate_bytes(data, random)
    else:
        rest = mutate_bytes(rest, random)
    length = len(header) if random.random() < 0.9 else int(_choose(_LENGTHS, random))
    return struct.pack("<Q", length) + header + rest


def mutate_tar(data: bytes, random: np.random.Generator) -> bytes:
    """Return a tar with fields of a header changed, its checksum made right, or whole blocks moved."""
    blocks = bytearray(data)
    headers = [at for at in range(0, len(data), 512) if data[at + 257 : at + 262] == b"ustar"]
    if not headers or random.random() < 0.3:
        return mutate_bytes(data, random)
    for _ in range(int(random.integers(1, 4))):
        at = headers[int(random.integers(len(headers)))]
        start, size = _choose(_TAR_FIELDS, random)
        old = bytes(blocks[at + start : at + start + size])
        new = mutate_bytes(old.rstrip(b"\0"), random) if random.random() < 0.5 else _choose(_TAR_VALUES, random)
        blocks[at + start : at + start + size] = new[:size].ljust(size, b"\0")
        blocks[at + 148 : at + 156] = b" " * 8
        total = sum(blocks[at : at + 512])
        blocks[at + 148 : at + 156] = f"{total:06o}\0 ".encode()
    if random.random() < 0.2:
        source, target = (512 * int(random.integers(len(data) // 512)) for _ in range(2))
        blocks[target : target + 512] = blocks[source : source + 512]
    return bytes(blocks)


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
            holder[Raw(_choose(_TEXTS, random))] = holder.pop(key)
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
        return Raw(_choose(_NUMBERS, random))
    if act == 1:
        return Raw(_choose(_TEXTS, random))
    if act == 2:
        return Raw(_choose(_SHAPES, random))
    if act == 3 and isinstance(value, (int, float)) and not isinstance(value, bool):
        return _choose(
            (value + 1, value - 1, -value, value * 2, value * 1000, float(value), str(value), [value]), random
        )
    if act == 4:
        holder, key = places[int(random.integers(len(places)))]
        return json.loads(json.dumps(holder[key], default=str)) if holder is not None else [value]
    return _choose((str(value)[:100], [value], {"x": value}, None), random)


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


def _choose(options: Any, random: np.random.Generator) -> Any:
    return options[int(random.integers(len(options)))]


def _at(data: bytes, random: np.random.Generator) -> int:
    return int(random.integers(len(data) + 1))


def _flip(data: bytes, random: np.random.Generator) -> bytes:
    at = _at(data, random)
    return data[:at] + bytes([data[at] ^ 1 << int(random.integers(8))]) + data[at + 1 :] if at < len(data) else data


def _set(data: bytes, random: np.random.Generator) -> bytes:
    at = _at(data, random)
    return data[:at] + bytes([int(_choose((0, 1, 127, 128, 254, 255, 32, 10), random))]) + data[at + 1 :]


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
    value = int(_choose((0, 1, -1, 2**7, 2**8, 2**15, 2**16, 2**31, 2**31 - 1, 2**32 - 1, 2**63 - 1, 2**40), random))
    size = int(_choose((1, 2, 4, 8), random))
    number = (value % (1 << 8 * size)).to_bytes(size, _choose(("little", "big"), random))
    at = _at(data, random)
    return data[:at] + number + data[at + size :]


def _write_word(data: bytes, random: np.random.Generator) -> bytes:
    at, word = _at(data, random), _choose(_WORDS, random)
    return data[:at] + word + data[at + (len(word) if random.random() < 0.5 else 0) :]


_BYTES: tuple[Callable[[bytes, np.random.Generator], bytes], ...] = (
    *(_flip, _set, _cut, _remove, _double, _move, _write_number, _write_word),
)
_LENGTHS = (0, 1, 7, 2**31, 2**32, 2**63 - 1, 2**63, 100_000_001)
_DTYPES = tuple(
    (f'"{old}"'.encode(), f'"{new}"'.encode())
    for old in ("F32", "F16", "I64")
    for new in (
        "F64",
        "F16",
        "BF16",
        "F8_E4M3",
        "F8_E5M2",
        "F4",
        "F6_E2M3",
        "I8",
        "U8",
        "U16",
        "BOOL",
        "C64",
        "I32",
        "x",
    )
)
_TAR_FIELDS = ((0, 100), (100, 8), (108, 8), (124, 12), (124, 12), (136, 12), (156, 1), (157, 100), (345, 155))
_TAR_VALUES = (
    *(b"", b"\0", b"../x", b"/x", b"0", b"1", b"2", b"5", b"6", b"7", b"L", b"K", b"x", b"g", b"S", b"\xff" * 12),
    *(
        b"77777777777",
        b"-1",
        b"00000000010",
        b"\x80" + b"\xff" * 11,
        b"\x80" + b"\0" * 10 + b"\1",
        b"\xff",
        b"e\xff\xfe",
    ),
    *(b"a" * 155, b"GNUSparseFile.0/x", b"000000000.npy", b"000000001.cls", b"1.json", b"00000020000"),
)
_YAML = (
    *(b"&a [*a]", b"&a x", b"*a", b"<<: *a", b"!!python/object/apply:os.getcwd []", b"!!binary aGk=", b"!!set {a, b}"),
    *(
        b"!!timestamp 2001-99-99",
        b"2001-99-99",
        b"1:1:1:1",
        b"9" * 400 + b":1.5",
        b"0x" + b"f" * 300,
        b"1_0",
        b"? [a]: b",
    ),
    *(
        b"? {a: b} : c",
        b"|",
        b">-",
        b"'x",
        b'"\\ud800"',
        b'"\\U00110000"',
        b"%TAG ! x",
        b"---",
        b"...",
        b"- - - x",
        b"\t x",
    ),
    *(
        b"{a: b",
        b"[a, b",
        b"a: b: c",
        b"? ",
        b"- ",
        b"~",
        b"yes",
        b"=",
        b"<<: {}",
        b"<<: 1",
        b".inf",
        b"-.inf",
        b".nan",
    ),
    *(
        b"@x",
        b"`x",
        b"[" * 3000,
        b"- " * 3000 + b"x",
        b"a: &x [" + b"*x," * 20 + b"]",
        b'"\\x00"',
        b"\xc2\x85x",
        b"\xff",
    ),
    *(
        b"1e400",
        b"-0",
        b"0o17",
        b"1" + b"0" * 5000,
        b"null",
        b"NULL",
        b"''",
        b'"~"',
        b"1,2,3",
        b"[1, 2]",
        b"500k",
        b"1e999M",
    ),
)
