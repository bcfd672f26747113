"""Random harm to what a format means by its bytes: YAML, safetensors, zip, npz, torch's checkpoints, tar."""

import io
import struct
import zipfile

import numpy as np

from tests.support.mutations import NUMBERS, SHAPES, TEXTS, Mutate, choose, mutate_bytes, mutate_json


def mutate_yaml(data: bytes, random: np.random.Generator) -> bytes:
    """Return a YAML text with lines changed for what YAML has and JSON has not."""
    lines = data.splitlines()
    for _ in range(int(random.integers(1, 4))):
        where = int(random.integers(len(lines)))
        head, colon, _ = lines[where].partition(b":")
        act = int(random.integers(6))
        if act == 0:
            lines[where] = head + colon + b" " + choose(_YAML, random)
        elif act == 1:
            lines[where] = head + colon + b" " + choose(NUMBERS + TEXTS + SHAPES, random).encode()
        elif act == 2:
            lines.insert(where, choose(_YAML, random))
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
        header = header.replace(*choose(_DTYPES, random), 1)
    elif act < 0.9:
        return mutate_bytes(data, random)
    else:
        rest = mutate_bytes(rest, random)
    length = len(header) if random.random() < 0.9 else int(choose(_LENGTHS, random))
    return struct.pack("<Q", length) + header + rest


def mutate_members(data: bytes, random: np.random.Generator, mutate: Mutate = mutate_bytes) -> bytes:
    """Return a zip one of whose members is changed, with the checksum that goes with it; or one with bytes changed."""
    if random.random() < 0.3:
        return mutate_bytes(data, random)
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(buffer, "w") as new:
        chosen = choose(old.namelist(), random)
        for name in old.namelist():
            content = old.read(name)
            new.writestr(name, mutate(content, random) if name == chosen else content)
    return buffer.getvalue()


def mutate_npz(data: bytes, random: np.random.Generator) -> bytes:
    """Return an `.npz` one of whose arrays has another header; or one with bytes changed."""
    return mutate_members(data, random, _mutate_npy)


def _mutate_npy(data: bytes, random: np.random.Generator) -> bytes:
    size = struct.unpack("<H", data[8:10])[0]
    header, rest = data[10 : 10 + size], data[10 + size :]
    if random.random() < 0.8:
        header = header.replace(choose(_NPY_WORDS, random), choose(_NPY_VALUES, random), 1)
    else:
        header = mutate_bytes(header, random)
    length = len(header) if random.random() < 0.9 else int(random.integers(65536))
    return data[:8] + struct.pack("<H", length % 65536) + header + rest


def mutate_tar(data: bytes, random: np.random.Generator) -> bytes:
    """Return a tar with fields of a header changed, its checksum made right, or whole blocks moved."""
    blocks = bytearray(data)
    headers = [at for at in range(0, len(data), 512) if data[at + 257 : at + 262] == b"ustar"]
    if not headers or random.random() < 0.3:
        return mutate_bytes(data, random)
    for _ in range(int(random.integers(1, 4))):
        at = headers[int(random.integers(len(headers)))]
        start, size = choose(_TAR_FIELDS, random)
        old = bytes(blocks[at + start : at + start + size])
        new = mutate_bytes(old.rstrip(b"\0"), random) if random.random() < 0.5 else choose(_TAR_VALUES, random)
        blocks[at + start : at + start + size] = new[:size].ljust(size, b"\0")
        blocks[at + 148 : at + 156] = b" " * 8
        total = sum(blocks[at : at + 512])
        blocks[at + 148 : at + 156] = f"{total:06o}\0 ".encode()
    if random.random() < 0.2:
        source, target = (512 * int(random.integers(len(data) // 512)) for _ in range(2))
        blocks[target : target + 512] = blocks[source : source + 512]
    return bytes(blocks)


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
_NPY_WORDS = (b"|u1", b"<i8", b"<U3", b"False", b"(4,", b"5", b"3", b"'shape'", b"descr", b"}")
_NPY_VALUES = (
    *(b"|O", b">u8", b"<f8", b"<M8[s]", b"|V9", b"True", b"-1", b"9" * 30, b"()", b"(((", b"1L", b"x", b"<U0", b"<c16"),
    *(
        b"[('a', '|u1')]",
        b"__import__('os')",
        b"\xff",
        b"'''",
        b"0",
        b"\n",
        b"<U" + b"9" * 9,
        b"(" * 300,
        b"1" + b"0" * 5000,
    ),
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
