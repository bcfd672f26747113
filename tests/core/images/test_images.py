"""Every kind of image file gives the right pixels, or an error with the file's name in it."""

import io
import struct
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, features

from ldm.core.errors import DataError
from ldm.core.images import decode

GREY = np.add.outer(np.arange(20) * 5, np.arange(30) * 5).astype(np.uint8)
RGB = np.stack([GREY, GREY[::-1], 255 - GREY], axis=-1)
ALPHA = np.linspace(0, 255, GREY.size).round().astype(np.uint8).reshape(GREY.shape)


def encoded(picture, kind="PNG", **options):
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def png_chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def raw_png(width, height, bits, colour, rows, extra=b""):
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    body = png_chunk(b"IHDR", header) + extra + png_chunk(b"IDAT", zlib.compress(rows, 9)) + png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def close(found, expected, tolerance=1):
    assert found.dtype == np.uint8 and found.shape == expected.shape, f"{found.dtype} {found.shape}"
    assert np.abs(found.astype(int) - expected.astype(int)).max() <= tolerance


def repeated(grey):
    return np.repeat(np.asarray(grey)[:, :, None], 3, axis=2)


def composited(colour, alpha, background):
    weight = alpha[:, :, None] / 255
    return np.rint(colour * weight + np.array(background) * (1 - weight)).astype(np.uint8)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "DIB", "TIFF", "PPM", "TGA"])
def test_lossless_formats_keep_every_pixel(kind):
    close(decode.decode(encoded(Image.fromarray(RGB), kind), "x"), RGB, 0)


def test_webp_without_loss_keeps_every_pixel():
    close(decode.decode(encoded(Image.fromarray(RGB), "WEBP", lossless=True), "x"), RGB, 0)


@pytest.mark.parametrize("kind", ["JPEG", "GIF", "AVIF"])
def test_other_formats_are_what_pillow_shows(kind):
    if kind == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    data = encoded(Image.fromarray(RGB), kind)
    close(decode.decode(data, "x"), np.asarray(Image.open(io.BytesIO(data)).convert("RGB")), 0)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_grey_is_three_equal_channels(kind):
    close(decode.decode(encoded(Image.fromarray(GREY), kind), "x"), repeated(GREY), 0)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_16_bit_grey_is_scaled_not_saturated(kind):
    ramp = np.linspace(0, 65535, 600).round().astype(np.uint16).reshape(20, 30)
    picture = Image.frombytes("I;16", (30, 20), ramp.tobytes())
    close(decode.decode(encoded(picture, kind), "x"), repeated(np.rint(ramp / 257)))


def test_16_bit_white_is_zero_tiff_is_inverted():
    ramp = np.linspace(0, 65535, 600).round().astype(np.uint16).reshape(20, 30)
    data = encoded(Image.frombytes("I;16", (30, 20), ramp.tobytes()), "TIFF", tiffinfo={262: 0})
    close(decode.decode(data, "x"), repeated(255 - np.rint(ramp / 257)))


@pytest.mark.parametrize(("colour", "channels"), [(2, 3), (6, 4), (4, 2)])
def test_16_bit_rgb_rgba_and_la_are_scaled_not_saturated(colour, channels):
    values = np.linspace(0, 65535, 600 * channels).round().astype(">u2").reshape(20, 30, channels)
    rows = b"".join(b"\0" + row.tobytes() for row in values)
    eight = np.rint(values / 257)
    rgb = repeated(eight[:, :, 0]) if channels == 2 else eight[:, :, :3]
    expected = composited(rgb, eight[:, :, -1], (255, 255, 255)) if channels in (2, 4) else rgb
    close(decode.decode(raw_png(30, 20, 16, colour, rows), "x"), expected, 1 if channels == 3 else 2)


def test_a_transparent_colour_in_16_bits_is_refused():
    rows = b"".join(b"\0" + bytes(60) for _ in range(20))
    with pytest.raises(DataError, match=r"a\.png.*transparent colour in 16 bits"):
        decode.decode(raw_png(30, 20, 16, 0, rows, png_chunk(b"tRNS", b"\0\1")), "a.png")


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP", "GIF"])
def test_one_bit_is_black_and_white(kind):
    bits = GREY > 100
    close(decode.decode(encoded(Image.fromarray(bits), kind), "x"), repeated(bits * 255), 0)


@pytest.mark.parametrize("background", [(255, 255, 255), (10, 200, 30)])
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP", "TGA"])
def test_rgba_is_composited_on_the_background(kind, background):
    picture = Image.fromarray(np.dstack([RGB, ALPHA]))
    data = encoded(picture, kind, **({"lossless": True, "exact": True} if kind == "WEBP" else {}))
    close(decode.decode(data, "x", background), composited(RGB, ALPHA, background))


def test_la_and_premultiplied_alpha_are_composited():
    grey_alpha = Image.merge("LA", [Image.fromarray(GREY), Image.fromarray(ALPHA)])
    close(decode.decode(encoded(grey_alpha), "x", (0, 0, 255)), composited(repeated(GREY), ALPHA, (0, 0, 255)))


def test_palette_with_alpha_is_composited():
    picture = Image.fromarray((GREY // 64).astype(np.uint8)).convert("P")
    colours = [(10, 20, 30), (200, 0, 0), (0, 150, 0), (0, 0, 90)]
    picture.putpalette([value for colour in colours for value in colour])
    alphas = [0, 85, 170, 255]
    data = encoded(picture, transparency=bytes(alphas))
    index = GREY // 64
    expected = composited(np.array(colours)[index], np.array(alphas)[index], (255, 255, 255))
    close(decode.decode(data, "x"), expected)


def test_a_transparent_colour_shows_the_background():
    data = encoded(Image.fromarray(GREY), transparency=int(GREY[3, 4]))
    expected = repeated(GREY)
    expected[GREY[3, 4] == GREY] = (9, 8, 7)
    close(decode.decode(data, "x", (9, 8, 7)), expected, 0)


def test_cmyk_and_ycbcr_become_rgb():
    inks = np.dstack([RGB, GREY // 2])
    expected = np.rint((255.0 - RGB) * (255.0 - GREY // 2)[:, :, None] / 255)
    close(decode.decode(encoded(Image.fromarray(inks, "CMYK"), "TIFF"), "x"), expected.astype(np.uint8))
    assert decode.decode(encoded(Image.fromarray(inks, "CMYK"), "JPEG"), "x").shape == (20, 30, 3)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_exif_orientation_is_undone(kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(Image.fromarray(RGB), kind, exif=exif, **options)
    # EXIF 2.32: where the file's first row and first column are in the upright picture.
    upright = {
        1: RGB,
        2: RGB[:, ::-1],
        3: RGB[::-1, ::-1],
        4: RGB[::-1],
        5: RGB.transpose(1, 0, 2),
        6: RGB[::-1].transpose(1, 0, 2),
        7: RGB[::-1, ::-1].transpose(1, 0, 2),
        8: RGB[:, ::-1].transpose(1, 0, 2),
    }
    close(decode.decode(data, "x"), upright[orientation], 0)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_of_many_frames_the_first_is_taken(kind):
    frames = [Image.fromarray(np.full((8, 9, 3), value, dtype=np.uint8)) for value in (40, 250)]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    close(decode.decode(data, "x"), np.full((8, 9, 3), 40, dtype=np.uint8), 0)


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 10000, 3), (10000, 1, 3)])
def test_extreme_shapes_decode_and_crop(shape):
    pixels = np.full(shape, 77, dtype=np.uint8)
    decoded = decode.decode(encoded(Image.fromarray(pixels)), "x")
    close(decoded, pixels, 0)
    close(decode.to_training(decoded, 64), np.full((64, 64, 3), 77, dtype=np.uint8), 0)


@pytest.mark.parametrize("mode", ["F", "I"])
def test_pixels_of_unknown_range_are_refused(mode):
    with pytest.raises(DataError, match=r"depth\.tiff holds .*range is unknown"):
        decode.decode(encoded(Image.fromarray(GREY).convert(mode), "TIFF"), "depth.tiff")


@pytest.mark.parametrize(
    "data", [b"", b"hello, I am text\n", b"\xff\xd8\xff", b"%!PS-Adobe-3.0 EPSF-3.0\n", b"\0" * 99]
)
def test_what_is_no_image_is_refused_by_name(data):
    with pytest.raises(DataError, match=r"holiday\.jpg"):
        decode.decode(data, "holiday.jpg")


@pytest.mark.filterwarnings("ignore:Corrupt EXIF", "ignore:Truncated File")
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "TGA"])
def test_a_cut_file_is_refused_or_still_right(kind):
    data = encoded(Image.fromarray(RGB), kind)
    whole = decode.decode(data, "x")
    refused = 0
    for length in range(1, len(data), max(1, len(data) // 60)):
        try:
            close(decode.decode(data[:length], "cut"), whole, 0)
        except DataError as error:
            assert "cut" in str(error)
            refused += 1
    assert refused >= 40


def test_a_decompression_bomb_is_refused_before_it_grows():
    row = b"\0" + bytes(2500)
    bomb = raw_png(20000, 20000, 1, 0, row * 20000)
    assert len(bomb) < 60_000
    tracemalloc.start()
    with pytest.raises(DataError, match=r"bomb\.png.*400000000 pixels"):
        decode.decode(bomb, "bomb.png")
    smaller = raw_png(9000, 9000, 1, 0, (b"\0" + bytes(1125)) * 9000)
    with pytest.raises(DataError, match="like a decompression bomb"):
        decode.decode(smaller, "bomb.png")
    assert tracemalloc.get_traced_memory()[1] < 30e6
    tracemalloc.stop()


def adm_size(width, height, size):
    """What ADM's centre crop does to the sides, by the closed form: k halvings, then one bicubic resize."""
    while min(width, height) >= 2 * size:
        width, height = width // 2, height // 2
    return round(width * size / min(width, height)), round(height * size / min(width, height))


@pytest.mark.parametrize(
    "shape", [(64, 97), (65, 64), (500, 375), (375, 501), (255, 129), (20, 33), (128, 300), (1024, 777)]
)
def test_the_crop_is_adms(shape):
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    picture = Image.fromarray(pixels)
    while min(picture.size) >= 128:
        picture = picture.resize(tuple(side // 2 for side in picture.size), Image.BOX)
    assert adm_size(shape[1], shape[0], 64) == adm_size(*picture.size, 64)
    resized = np.asarray(picture.resize(adm_size(*picture.size, 64), Image.BICUBIC))
    top, left = (resized.shape[0] - 64) // 2, (resized.shape[1] - 64) // 2
    np.testing.assert_array_equal(decode.to_training(pixels, 64), resized[top : top + 64, left : left + 64])


def test_halving_is_the_mean_of_two_by_two():
    pixels = np.random.default_rng(1).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    mean = pixels.reshape(8, 2, 8, 2, 3).mean(axis=(1, 3))
    close(decode.to_training(pixels, 8), np.floor(mean + 0.5).astype(np.uint8))


def test_a_long_strip_is_cropped_as_if_it_were_resized_whole():
    pixels = np.random.default_rng(2).integers(0, 256, (10, 400, 3), dtype=np.uint8)
    whole = np.asarray(Image.fromarray(pixels).resize((1280, 32), Image.BICUBIC))
    close(decode.to_training(pixels, 32), whole[:, 624:656])


def test_stretching_keeps_the_whole_picture():
    pixels = np.zeros((10, 40, 3), dtype=np.uint8)
    pixels[:, 20:] = 255
    out = decode.to_training(pixels, 20, "stretch")
    assert out.shape == (20, 20, 3) and out[:, :8].max() == 0 and out[:, 12:].min() == 255


@pytest.mark.parametrize(("width", "height"), [(64, 32), (32, 64), (7, 3), (301, 200), (4000, 3)])
def test_padding_keeps_the_whole_image_in_the_middle_of_the_background(width: int, height: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 200, (height, width, 3)).astype(np.uint8)
    side, colour = 32, (250, 240, 230)
    out = decode.to_training(pixels, side, "pad", colour)
    shown = (~(out == colour).all(2)).nonzero()
    inner = [max(round(each * side / max(width, height)), 1) for each in (height, width)]
    extents = [int(rows.max() - rows.min()) + 1 for rows in shown]
    assert max(extents) == side and all(abs(a - b) <= 1 for a, b in zip(extents, inner, strict=True)), "halving rounds"
    assert all(abs((side - 1 - int(rows.max())) - int(rows.min())) <= 1 for rows in shown), "in the middle"
    if (width, height) == (64, 32):  # Halved by a box filter, and nothing else.
        mean = pixels.reshape(16, 2, 32, 2, 3).mean((1, 3))
        close(out[8:24], np.floor(mean + 0.5).astype(np.uint8))


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
def test_a_square_of_the_size_stays_as_it_is_however_it_is_fitted(fit: decode.Fit) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (16, 16, 3)).astype(np.uint8)
    np.testing.assert_array_equal(decode.to_training(pixels, 16, fit), pixels)
    larger = np.full((50, 50, 3), 70, dtype=np.uint8)
    close(decode.to_training(larger, 16, fit), np.full((16, 16, 3), 70, dtype=np.uint8), 0)


def test_pixels_survive_the_way_to_a_tensor_and_back():
    levels = np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 16, 16, 3)
    tensor = decode.as_tensor(levels)
    assert tensor.shape == (1, 3, 16, 16) and tensor.dtype == torch.float32 and tensor.is_contiguous()
    assert tensor.min() == -1 and tensor.max() == 1
    np.testing.assert_array_equal(decode.as_uint8(tensor), levels)
    assert decode.as_uint8(torch.tensor([[[[-3.0]], [[0.0039]], [[3.0]]]])).ravel().tolist() == [0, 128, 255]


def test_written_pngs_are_whole_and_repeatable(tmp_path: Path):
    decode.write_png(tmp_path / "a.png", RGB)
    decode.write_png(tmp_path / "b.png", RGB)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    close(decode.decode((tmp_path / "a.png").read_bytes(), "a"), RGB, 0)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "b.png"]


@pytest.fixture
def heic():
    """A HEIC file of RGB, where the package that reads it is installed."""
    pytest.importorskip("pillow_heif")
    assert decode.HEIF in decode.readable_formats()
    return encoded(Image.fromarray(RGB), "HEIF", quality=-1)


def test_heic_is_read_whatever_its_name_and_its_transparency_is_composited(heic):
    close(decode.decode(heic, "photo.jpg"), RGB, 8)  # by way of YCbCr, of half the resolution
    clear = encoded(Image.fromarray(np.dstack([RGB, np.zeros_like(ALPHA)])), "HEIF", quality=-1)
    close(decode.decode(clear, "x", (9, 8, 7)), np.full_like(RGB, (9, 8, 7)))


def test_heic_that_is_cut_off_damaged_or_too_large_is_named(heic, monkeypatch):
    for length in (40, len(heic) // 2, len(heic) - 5):
        with pytest.raises(DataError, match=r"cut\.heic cannot be (decoded|read)"):
            decode.decode(heic[:length], "cut.heic")
    with pytest.raises(DataError, match="a HEIC image that is damaged"):
        decode.decode(heic[:40], "cut.heic")
    monkeypatch.setattr(decode, "MAX_PIXELS", 100)
    with pytest.raises(DataError, match="declares 600 pixels"):
        decode.decode(heic, "large.heic")


@pytest.mark.parametrize(("height", "width"), [(12, 30), (30, 12), (40, 41), (200, 100), (5, 9)])
def test_images_that_are_not_square_are_cropped_padded_or_stretched_to_their_size(height, width):
    """Of an image whose values rise to the right and downwards, the middle stays in the middle."""
    down, right = np.mgrid[:height, :width]
    pixels = np.stack([255 * down / (height - 1), 255 * right / (width - 1), 0 * down], axis=2).astype(np.uint8)
    for fit in ("crop", "pad", "stretch"):
        out = decode.to_training(pixels, (18, 27), fit, (0, 0, 255)).astype(int)
        assert out.shape == (18, 27, 3)
        seen = out[:, :, 2] < 128
        assert seen.all() if fit != "pad" else seen.all(axis=0).any() or seen.all(axis=1).any()
        middle = out[seen].reshape(-1, 3)[:, :2].mean(axis=0)
        assert abs(middle - 127).max() < 8


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
@pytest.mark.parametrize("mode", ["L", "RGBA"])
@pytest.mark.parametrize("shape", [(90, 61, 3), (13, 40, 3), (16, 16, 3)])
def test_a_mode_that_is_asked_for_is_that_of_the_whole_picture(
    fit: decode.Fit, mode: str, shape: tuple[int, ...]
) -> None:
    picture = Image.fromarray(np.random.default_rng(7).integers(0, 256, shape, dtype=np.uint8))
    whole = decode.to_training(picture.convert(mode), 16, fit, (9, 8, 7))
    np.testing.assert_array_equal(decode.to_training(picture, 16, fit, (9, 8, 7), mode), whole)
