"""Harm to files, drawn by hypothesis: to their bytes, and to what a format means by them.

Bytes drawn blindly hardly come past a checksum or a header. These strategies know the format, put lengths, offsets,
types and counts out of true, and mend the checksums after.
"""

import io
import json
import struct
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

from hypothesis import strategies as st

Harm = Callable[[bytes], st.SearchStrategy[bytes]]
Draw = Callable[[st.SearchStrategy[Any]], Any]

# JSON at which readers go wrong: ends of integers and floats, paths, surrogates, and what nests or is too long.
NUMBERS = (
    *("0", "1", "-1", "0.5", "-0", "1e308", "1e999", "1e-320", "NaN", "-Infinity", "255", "65536", "2147483648"),
    *("4294967296", "9223372036854775807", "9223372036854775808", "18446744073709551616", "1" + "0" * 400, "9" * 5000),
)
TEXTS = (
    *('""', '".."', '"../../x"', '"/etc/passwd"', '"a/b"', '"\\u0000"', '"\\ud800"', '"\\u202e"', '"x\\ny"', '"null"'),
    *('"1e999"', '"$\\\\frac{$"', json.dumps("x" * 5000), json.dumps("../" * 2000)),
)
SHAPES = (
    *("null", "true", "[]", "{}", "[[]]", '[{}, "x", 1]', '{"x": {"x": []}}', "[" * 40 + "]" * 40, "[" * 100_000),
    *('{"a":' * 3000 + "1" + "}" * 3000, "[" + "0," * 3000 + "0]"),
)
WORDS = [*b'\x00 \xff \xed\xa0\x80 \xc3 \n \r\n \t ../ \\ " { [ ] } , : nan 1e999 -1 null %s'.split(b" "), b"9" * 30]
WORDS += [b"PK\x03\x04", b"\x93NUMPY", b"\xef\xbb\xbf"]
LENGTHS = (0, 1, 7, 2**31, 2**32, 2**63 - 1, 2**63, 100_000_001)
DTYPES = ["F64", "F16", "BF16", "F8_E4M3", "F8_E5M2", "F4", "F6_E2M3", "I8", "U8", "U16", "BOOL", "C64", "I32", "x"]
NPY = (
    *(
        b"|O",
        b">u8",
        b"<f8",
        b"<M8[s]",
        b"|V9",
        b"True",
        b"-1",
        b"9" * 30,
        b"()",
        b"(((",
        b"1L",
        b"<U0",
        b"<c16",
        b"\n",
    ),
    *(b"[('a', '|u1')]", b"__import__('os')", b"'''", b"<U" + b"9" * 9, b"(" * 300, b"1" + b"0" * 5000),
)
TAR_FIELDS = ((0, 100), (100, 8), (108, 8), (124, 12), (136, 12), (156, 1), (157, 100), (345, 155))  # start, size
TAR = (
    *(b"", b"\0", b"../x", b"/x", *(bytes([kind]) for kind in b"012567LKxgS"), b"\xff" * 12, b"77777777777", b"-1"),
    *(b"00000000010", b"\x80" + b"\xff" * 11, b"\x80" + b"\0" * 10 + b"\1", b"e\xff\xfe", b"a" * 155, b"00000020000"),
    *(b"GNUSparseFile.0/x", b"000000000.npy", b"000000001.cls", b"1.json"),
)
YAML = (
    *(b"&a [*a]", b"&a x", b"*a", b"<<: *a", b"!!python/object/apply:os.getcwd []", b"!!binary aGk=", b"!!set {a, b}"),
    *(b"!!timestamp 2001-99-99", b"2001-99-99", b"1:1:1:1", b"9" * 400 + b":1.5", b"0x" + b"f" * 300, b"1_0", b"|"),
    *(b"? [a]: b", b"? {a: b} : c", b">-", b"'x", b'"\\U00110000"', b"%TAG ! x", b"---", b"...", b"- - - x", b"\t x"),
    *(b"{a: b", b"[a, b", b"a: b: c", b"? ", b"- ", b"~", b"yes", b"=", b"<<: {}", b".inf", b"-.inf", b".nan", b"@x"),
    *(b"`x", b"[" * 3000, b"- " * 3000 + b"x", b"a: &x [" + b"*x," * 20 + b"]", b'"\\x00"', b"\xc2\x85x", b"\xff"),
    *(b"0o17", b"1" + b"0" * 5000, b"NULL", b"1,2,3", b"[1, 2]", b"500k", b"1e999M"),
)
LITERALS = st.sampled_from(NUMBERS) | st.sampled_from(TEXTS) | st.sampled_from(SHAPES)


def often(percent: int) -> st.SearchStrategy[bool]:
    """Draw True about this often; False is the simpler draw, which hypothesis prefers."""
    return st.integers(1, 100).map(lambda drawn: drawn > 100 - percent)


@st.composite
def in_bytes(draw: Draw, data: bytes) -> bytes:
    """One to four stretches are cut, doubled, moved, or overwritten by what readers stumble over."""
    for _ in range(draw(st.integers(1, 4))):
        at, other = draw(st.integers(0, len(data))), draw(st.integers(0, len(data)))
        length = draw(st.sampled_from((0, 1, 2, 4, 8, 64, 600, len(data))))
        moved = data[other : other + 300]
        piece = draw(st.binary(max_size=8) | st.sampled_from(WORDS) | st.sampled_from((b"", moved, moved * 2)))
        data = data[:at] + piece + data[at + length :]
    return data[: 1 << 20]


@st.composite
def in_json(draw: Draw, data: bytes) -> bytes:
    """One to three values, keys or lists are changed for others; one text in ten also loses bytes."""
    tree = json.loads(data)
    raw: list[tuple[str, str]] = []  # what stands for a literal, and the literal, which need not be JSON

    def put(literal: str) -> str:
        raw.append((f"<literal {len(raw)}>", literal))
        return raw[-1][0]

    for _ in range(draw(st.integers(1, 3))):
        places = list(_places(tree))
        if not places:
            break
        holder, key = draw(st.sampled_from(places))
        value, (elsewhere, its_key) = holder[key], draw(st.sampled_from(places))
        same_kind = [value, [value], {"x": value}, str(value)[:100], elsewhere[its_key]]
        if isinstance(value, (int, float)):
            same_kind += [value + 1, -value, value * 1000, float(value)]
        odd = draw(LITERALS | st.sampled_from([json.dumps(one)[:5000] for one in same_kind]))
        act = draw(st.sampled_from(("replace", "replace", "replace", "delete", "again", "rename")))
        if act == "replace":
            holder[key] = put(odd)
        elif act == "delete":
            del holder[key]
        elif isinstance(holder, list):
            holder.extend(holder * draw(st.integers(1, 3)))
        else:  # The same key once more, or another one.
            holder[put(json.dumps(key) if act == "again" else draw(st.sampled_from(TEXTS)))] = value
    text = json.dumps(tree)
    for mark, literal in reversed(raw):
        text = text.replace(json.dumps(mark), literal)
    return draw(in_bytes(text.encode())) if draw(often(10)) else text.encode("utf-8", "surrogatepass")


def _places(tree: Any) -> Iterator[tuple[Any, Any]]:
    """Yield every container with each of its keys."""
    items = list(tree.items()) if isinstance(tree, dict) else list(enumerate(tree)) if isinstance(tree, list) else []
    for key, value in items:
        yield tree, key
        yield from _places(value)


@st.composite
def in_lines(draw: Draw, data: bytes) -> bytes:
    """One line of JSON is changed, doubled, left out or cut."""
    lines = data.splitlines()
    where = draw(st.integers(0, len(lines) - 1))
    act = draw(st.sampled_from(("change", "change", "change", "double", "delete", "bytes")))
    if act == "bytes":
        return draw(in_bytes(data))
    lines[where : where + 1] = {"double": lines[where : where + 1] * 2, "delete": []}.get(act) or [
        draw(in_json(lines[where]))
    ]
    return b"\n".join(lines) + b"\n"


@st.composite
def in_yaml(draw: Draw, data: bytes) -> bytes:
    """One to three lines are changed for what YAML has and JSON has not."""
    lines = data.splitlines()
    for _ in range(draw(st.integers(1, 3))):
        where = draw(st.integers(0, len(lines) - 1))
        head, colon, _ = lines[where].partition(b":")
        odd = draw(st.sampled_from(YAML) | LITERALS.map(str.encode))
        lines[where : where + 1] = draw(
            st.sampled_from(
                ([head + colon + b" " + odd], [odd, lines[where]], [b"  " + lines[where]], [lines[where]] * 2, [b""])
            )
        )
    text = b"\n".join(lines) + b"\n"
    return draw(in_bytes(text)) if draw(often(20)) else text


@st.composite
def in_header(draw: Draw, data: bytes) -> bytes:
    """A safetensors file has its header changed, and mostly with the length that goes with it."""
    size = struct.unpack("<Q", data[:8])[0]
    header, rest = data[8 : 8 + size], data[8 + size :]
    act = draw(st.sampled_from(("json", "json", "json", "dtype", "bytes", "rest")))
    if act == "json":
        header = draw(in_json(header))
    elif act == "dtype":
        old, new = draw(st.sampled_from(("F32", "F16", "I64"))), draw(st.sampled_from(DTYPES))
        header = header.replace(f'"{old}"'.encode(), f'"{new}"'.encode(), 1)
    elif act == "bytes":
        return draw(in_bytes(data))
    else:
        rest = draw(in_bytes(rest))
    length = len(header) if draw(often(90)) else draw(st.sampled_from(LENGTHS))
    return struct.pack("<Q", length) + header + rest


@st.composite
def in_zip(draw: Draw, data: bytes, inside: Harm = in_bytes) -> bytes:
    """One member of a zip is changed, with the checksum that goes with it; or bytes of the whole are."""
    if draw(often(30)):
        return draw(in_bytes(data))
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(buffer, "w") as new:
        chosen = draw(st.sampled_from(old.namelist()))
        for name in old.namelist():
            new.writestr(name, draw(inside(old.read(name))) if name == chosen else old.read(name))
    return buffer.getvalue()


@st.composite
def in_npy(draw: Draw, data: bytes) -> bytes:
    """An array has a word of its header changed, or its bytes, and mostly the length that goes with it."""
    size = struct.unpack("<H", data[8:10])[0]
    header, rest = data[10 : 10 + size], data[10 + size :]
    if draw(often(80)):
        word = draw(st.sampled_from((b"|u1", b"<i8", b"<U3", b"False", b"(4,", b"5", b"3", b"'shape'", b"descr", b"}")))
        header = header.replace(word, draw(st.sampled_from(NPY)), 1)
    else:
        header = draw(in_bytes(header))
    length = len(header) % 65536 if draw(often(90)) else draw(st.integers(0, 65535))
    return data[:8] + struct.pack("<H", length) + header + rest


def in_npz(data: bytes) -> st.SearchStrategy[bytes]:
    """An array of an `.npz` has another header."""
    return in_zip(data, in_npy)


@st.composite
def in_tar(draw: Draw, data: bytes) -> bytes:
    """Fields of a tar's headers are changed, their checksums made right, and some blocks moved."""
    headers = [at for at in range(0, len(data), 512) if data[at + 257 : at + 262] == b"ustar"]
    if draw(often(30)):
        return draw(in_bytes(data))
    blocks = bytearray(data)
    for _ in range(draw(st.integers(1, 3))):
        at, (start, size) = draw(st.sampled_from(headers)), draw(st.sampled_from(TAR_FIELDS))
        old = bytes(blocks[at + start : at + start + size]).rstrip(b"\0")
        new = draw(in_bytes(old) | st.sampled_from(TAR))
        blocks[at + start : at + start + size] = new[:size].ljust(size, b"\0")
        blocks[at + 148 : at + 156] = b" " * 8
        blocks[at + 148 : at + 156] = f"{sum(blocks[at : at + 512]):06o}\0 ".encode()
    if draw(often(20)):
        source, target = (512 * draw(st.integers(0, len(data) // 512 - 1)) for _ in range(2))
        blocks[target : target + 512] = blocks[source : source + 512]
    return bytes(blocks)
