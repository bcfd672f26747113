"""What a file is, by its first bytes, where it is not an image that can be decoded: so that a refusal can name it."""

import re

_CONVERT = "convert it to JPEG, PNG or WebP"
HEIC = "a HEIC image"
_TEXT = re.compile(rb"[\t\n\r\x20-\x7e\x80-\xff]+")
# (what it begins with, what that is, what to do). RAW formats come first: most are TIFFs of another content.
RAW = re.compile(rb"II\*\0....CR|IIRO|IIRS|MMOR|IIU\0|FUJIFILMCCD-RAW", re.DOTALL)
_KNOWN = [
    (RAW, "a camera's raw file", "develop it to JPEG or PNG"),
    (
        re.compile(rb"....ftyp(hei[cxms]|hev[cxms]|mif1|msf1)", re.DOTALL),
        HEIC,
        f"pip install pillow-heif, or {_CONVERT}",
    ),
    (re.compile(rb"....ftypavi[fs]", re.DOTALL), "an AVIF image", f"pip install 'pillow>=11.3', or {_CONVERT}"),
    (re.compile(rb"\xff\x0a|\0\0\0\x0cJXL "), "a JPEG XL image", _CONVERT),
    (re.compile(rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51"), "a JPEG 2000 image", _CONVERT),
    (re.compile(rb"....ftyp", re.DOTALL), "a video or audio file", "save frames of it as images"),
    (re.compile(rb"\x1aE\xdf\xa3|RIFF....AVI ", re.DOTALL), "a video", "save frames of it as images"),
    (re.compile(rb"version https://git-lfs"), "a git-lfs pointer, not the file itself", "fetch it: git lfs pull"),
    (re.compile(rb"\s*(<!doctype html|<html|<head)", re.IGNORECASE), "a web page, often an error", "download it again"),
    (
        re.compile(rb"\s*(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)?<(svg|!doctype svg)", re.IGNORECASE | re.DOTALL),
        "an SVG drawing",
        _CONVERT,
    ),
    (re.compile(rb"\s*<\?xml"), "XML, often a server's error", "download it again"),
    (re.compile(rb"%PDF"), "a PDF", _CONVERT),
    (re.compile(rb"%!PS|\xc5\xd0\xd3\xc6"), "PostScript", _CONVERT),
    (re.compile(rb"8BPS"), "a Photoshop file", _CONVERT),
    (re.compile(rb"v/1\x01"), "an OpenEXR image", _CONVERT),
    (re.compile(rb".{128}DICM", re.DOTALL), "a DICOM image", _CONVERT),
    (re.compile(rb"\0\0\x01\0"), "an icon", _CONVERT),
    (re.compile(rb"PK\x03\x04|\x1f\x8b|7z\xbc\xaf|Rar!|BZh"), "an archive", "unpack it"),
    (re.compile(rb"\0+\Z"), "zeros only: it was lost on the disk or never copied", "copy it again"),
]


def named(data: bytes) -> tuple[str, str]:
    """Return what the bytes of a file are, in words, and what to do about it."""
    for pattern, what, remedy in _KNOWN:
        if pattern.match(data[:4096]):
            return what, f"remove it, or {remedy}"
    if _TEXT.fullmatch(data[:512]):
        return f"text, which begins {data[:40].decode('utf-8', 'replace').split(chr(10))[0]!r}", "remove it"
    return f"no image of a known format (it starts with {data[:8]!r})", f"remove it, or {_CONVERT}"
