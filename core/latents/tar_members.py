"""Members of a tar of numbered samples, made fast: byte for byte what `tarfile` writes in its USTAR format.

Of one field's headers only the sample's number and the checksum differ: the rest is made once.
"""

import tarfile

BLOCK = 512
_DIGITS = 9
_CHECKSUM = slice(148, 156)


class Members:
    """Makes the members `KEY.FIELD` of one archive, KEY being nine digits."""

    def __init__(self) -> None:
        self._headers: dict[tuple[str, int], tuple[bytes, int]] = {}

    def member(self, key: int, field: str, content: bytes) -> bytes:
        """Return header, content and padding of a member."""
        size = len(content)
        if (field, size) not in self._headers:
            self._headers[field, size] = _header_without_key(field, size)
        rest, known_sum = self._headers[field, size]
        digits = b"%09d" % key
        assert len(digits) == _DIGITS, f"key {key}"
        # Sums of six octal digits, a zero byte and a space, over the header with spaces in their place.
        checksum = b"%06o\0 " % (known_sum + sum(digits))
        start, stop = _CHECKSUM.start - _DIGITS, _CHECKSUM.stop - _DIGITS
        return b"".join((digits, rest[:start], checksum, rest[stop:], content, bytes(-size % BLOCK)))


def ending(size: int) -> bytes:
    """Return what ends an archive of `size` bytes: two blocks of zeros, then zeros up to a whole record."""
    return bytes(2 * BLOCK + -(size + 2 * BLOCK) % tarfile.RECORDSIZE)


def _header_without_key(field: str, size: int) -> tuple[bytes, int]:
    """Return a header behind the key's digits, and the sum of all its bytes but those digits."""
    member = tarfile.TarInfo(f"{'0' * _DIGITS}.{field}")
    member.size = size
    header = bytearray(member.tobuf(tarfile.USTAR_FORMAT))
    header[_CHECKSUM] = b" " * 8
    assert len(header) == BLOCK, f"{field} of {size} bytes"
    return bytes(header[_DIGITS:]), sum(header[_DIGITS:])
