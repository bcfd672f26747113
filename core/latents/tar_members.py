"""Members of a tar of numbered samples, made fast: byte for byte what `tarfile` writes in its USTAR format.

Headers of one field differ only in the sample's number and the checksum: the rest is made once.
"""

from functools import lru_cache
from tarfile import BLOCKSIZE, RECORDSIZE, USTAR_FORMAT, TarInfo

_DIGITS = 9
_CHECKSUM = slice(148, 156)


def member(key: int, field: str, content: bytes) -> bytes:
    """Return header, content and padding of the member `KEY.FIELD`, KEY being nine digits."""
    digits = b"%09d" % key
    assert len(digits) == _DIGITS, f"key {key}"
    before, after, known_sum = _header_without_key(field, len(content))
    # Sums of six octal digits, a zero byte and a space, over the header with spaces in their place.
    checksum = b"%06o\0 " % (known_sum + sum(digits))
    return b"".join((digits, before, checksum, after, content, bytes(-len(content) % BLOCKSIZE)))


def ending(size: int) -> bytes:
    """Return what ends an archive of `size` bytes: two blocks of zeros, then zeros up to a whole record."""
    return bytes(2 * BLOCKSIZE + -(size + 2 * BLOCKSIZE) % RECORDSIZE)


@lru_cache(1024)
def _header_without_key(field: str, size: int) -> tuple[bytes, bytes, int]:
    """Return a header between key and checksum, the rest of it, and the sum of all its bytes but the key's digits."""
    info = TarInfo(f"{'0' * _DIGITS}.{field}")
    info.size = size
    header = bytearray(info.tobuf(USTAR_FORMAT))
    header[_CHECKSUM] = b" " * 8
    assert len(header) == BLOCKSIZE, f"{field} of {size} bytes"
    return bytes(header[_DIGITS : _CHECKSUM.start]), bytes(header[_CHECKSUM.stop :]), sum(header[_DIGITS:])
