"""Inputs below a megabyte that would swell, by the name of their file."""

import gzip
import io
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

from tests.support.image_kinds import encoded, raw_png

Make = Callable[[], bytes]
LARGEST = 1_000_000  # bytes


def flat(mode: str, side: int) -> Image.Image:
    return Image.new(mode, (side, side))


def padded(data: bytes, size: int = 500_000) -> bytes:
    """Fill up a file with what its reader passes over."""
    return data + bytes(max(0, size - len(data)))


def many_scans(side: int, scans: int) -> bytes:
    whole = encoded(flat("L", side), "JPEG", progressive=True)
    last = whole.rindex(b"\xff\xc4", 0, whole.rindex(b"\xff\xda"))
    return whole[:last] + whole[last:-2] * scans + whole[-2:]


def plain_ppm(side: int) -> bytes:
    return b"P3 %d %d 255\n" % (side, side) + b"0 " * (3 * side * side)


def deep_ppm(side: int) -> bytes:
    return b"P6 %d %d 65535\n" % (side, side) + bytes(6 * side * side)


def rgba_16(side: int) -> bytes:
    return raw_png(side, side, 16, 6, (b"\0" + bytes(8 * side)) * side)


def pictures() -> dict[str, Make]:
    """Single pictures, by file name."""
    return {
        "lossless.webp": lambda: padded(encoded(flat("RGBA", 9400), "WEBP", lossless=True, quality=0, method=0)),
        "lossless-below.webp": lambda: encoded(flat("RGBA", 3000), "WEBP", lossless=True, quality=0, method=0),
        "lossy.webp": lambda: encoded(flat("RGB", 3300), "WEBP", quality=1, method=0),
        "rgba.png": lambda: encoded(flat("RGBA", 9400), "PNG", compress_level=6),
        "rgba-below.png": lambda: encoded(flat("RGBA", 4700), "PNG"),
        "rgba-16.png": lambda: rgba_16(4000),
        "grey-16.png": lambda: encoded(Image.new("I;16", (5100, 5100)), "PNG"),
        "palette.png": lambda: encoded(flat("P", 9000), "PNG", transparency=b"\0"),
        "deflate.tiff": lambda: encoded(flat("RGBA", 9400), "TIFF", compression="tiff_deflate"),
        "deflate-below.tiff": lambda: encoded(flat("RGBA", 3800), "TIFF", compression="tiff_deflate"),
        "one-strip.tiff": lambda: encoded(flat("RGB", 4400), "TIFF", compression="tiff_deflate", strip_size=1 << 30),
        "fax.tiff": lambda: encoded(flat("1", 5900), "TIFF", compression="group4"),
        "progressive.jpg": lambda: padded(encoded(flat("CMYK", 6000), "JPEG", quality=1, progressive=True)),
        "progressive-below.jpg": lambda: encoded(flat("CMYK", 3350), "JPEG", quality=1, progressive=True),
        "baseline.jpg": lambda: encoded(flat("RGB", 6000), "JPEG", quality=1),
        "scans.jpg": lambda: many_scans(4000, 600),
        "scans-below.jpg": lambda: many_scans(4800, 38),
        "frames.gif": lambda: encoded(flat("P", 7000), "GIF"),
        "flat.avif": lambda: encoded(flat("RGBA", 3000), "AVIF", quality=1, speed=10),
    }


def in_a_zip(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(f"{name.replace('__', '.')}", data)
    return buffer.getvalue()


def in_a_tar(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name.replace("__", "."))
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def npz(shape: tuple[int, ...], dtype: str = "|u1", fortran: bool = False, labels: int = 0) -> bytes:
    """Return a packed .npz of zeros, written piece by piece."""
    buffer, head = io.BytesIO(), io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": dtype, "fortran_order": fortran, "shape": shape})
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open("images.npy", "w", force_zip64=True) as member:
            member.write(head.getvalue())
            size = int(np.prod(shape)) * np.dtype(dtype).itemsize
            for start in range(0, size, 1 << 24):
                member.write(bytes(min(1 << 24, size - start)))
        if labels:
            kept = io.BytesIO()
            np.save(kept, np.zeros(labels, dtype=np.uint8))
            archive.writestr("labels.npy", kept.getvalue())
    return buffer.getvalue()


def containers() -> dict[str, Make]:
    """Archives and arrays, by file name: what they hold, and how much it swells."""
    small = {f"a/{n}__png": encoded(flat("RGBA", 4700), "PNG") for n in range(1)}
    picture = lambda n: encoded(Image.new("RGBA", (4000, 4000), (n, 0, 0, 9)), "PNG")  # noqa: E731
    return {
        "bmps.zip": lambda: in_a_zip(**{f"a/{n}__bmp": encoded(flat("RGB", 3000 + n), "BMP") for n in range(16)}),
        "pngs.zip": lambda: in_a_zip(**{f"a/{n}__png": picture(n) for n in range(12)}),
        "pngs.tar": lambda: in_a_tar(
            **{f"{n}__png": picture(n) for n in range(12)}, **{f"{n}__cls": b"0" for n in range(12)}
        ),
        "twice-packed.zip": lambda: in_a_zip(**small),
        "plain.zip": lambda: in_a_zip(a__ppm=plain_ppm(2500)),
        "deep.zip": lambda: in_a_zip(a__ppm=deep_ppm(2500)),
        "large.zip": lambda: in_a_zip(a__ppm=b"P6 9000 9000 255\n" + bytes(3 * 9000 * 9000)),
        "images.npz": lambda: npz((9000, 100, 100), labels=9000),
        "columns.npz": lambda: npz((9000, 100, 100), fortran=True),
        "floats.npz": lambda: npz((9000, 50, 50), "<f8"),
        "dots.npz": lambda: npz((900_000_000, 1, 1)),
        "tiny.npz": lambda: npz((240_000, 8, 8), labels=240_000),
        "one.npz": lambda: npz((1, 17_000, 17_000, 3)),
        "labels.npz": lambda: npz((10, 16, 16), labels=900_000_000),
    }


def idx(count: int, side: int) -> bytes:
    packer = zlib.compressobj(9, wbits=31)
    pieces = [packer.compress(struct.pack(">HBB3I", 0, 8, 3, count, side, side))]
    pieces += [packer.compress(bytes(side * side)) for _ in range(count)]
    return b"".join([*pieces, packer.flush()])


def idx_labels(count: int) -> bytes:
    return gzip.compress(struct.pack(">HBBI", 0, 8, 1, count) + bytes(count))


def weights() -> dict[str, Callable[[], Any]]:
    """State dicts in a .pt file whose tensors have more numbers than their storage."""
    import torch

    one = torch.zeros(1)
    return {
        "stride-0.pt": lambda: {"x_embedder.proj.weight": one.expand(30_000, 30_000)},
        "shared.pt": lambda: dict.fromkeys(map(str, range(3000)), torch.zeros(100_000)) | {"a": one},
        "views.pt": lambda: (lambda base: {str(n): base[: 100_000 - n] for n in range(5000)})(torch.zeros(100_000)),
    }
