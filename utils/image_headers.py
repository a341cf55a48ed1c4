"""What an encoded image says of itself before it is decoded: how many pixels it has, and that it is whole.

OpenCV allocates what the header of a few bytes asks for, and older versions fill the rows that a truncated
JPEG lacks with whatever the memory holds.
"""

import io
import re
import struct
import warnings

from PIL import Image

NO_IMAGE = "its {} bytes are no whole image that OpenCV can decode"
MAX_PIXELS = 120_000_000  # larger than photographs are; decoded 360 MB, for a moment twice
TOO_MANY = f"more than the {MAX_PIXELS:,} that are decoded"
# 0xFF in the data of a JPEG is followed by 0 or a restart marker, 0xD0 to 0xD7; anything else is a marker.
MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]", re.DOTALL)
FILLING = {0x00, 0xFF, *range(0xD0, 0xD8)}
END, SCAN, WITHOUT_LENGTH = 0xD9, 0xDA, (0x01, 0xD8)
JPEG_END = bytes([0xFF, END])
SEQUENTIAL = (0xC0, 0xC1)  # of the markers with the size: those of files whose data come in one scan
SIZES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # markers of a header with the size
_last_header = b"no JPEG begins like this", (0, 0)  # up to the scan, and the size in it


def require_decodable(encoded: bytes) -> None:
    """Raise ValueError unless it is a whole image of a format that is known, with at most MAX_PIXELS."""
    width, height = size_of(encoded)
    if width * height > MAX_PIXELS:
        raise ValueError(f"it has {width}x{height} pixels, {TOO_MANY}")


def size_of(encoded: bytes) -> tuple[int, int]:
    """Width and height of an image that is whole, in pixels.

    Raises:
        ValueError: it is truncated, of no known format, or far too large.
    """
    try:
        if encoded.startswith(b"\xff\xd8"):
            return _size_of_jpeg(encoded)
        if encoded.startswith(b"\x89PNG"):
            return _size_of_png(encoded)
        if encoded[8:12] == b"WEBP":
            return _size_of_webp(encoded)
        with warnings.catch_warnings(action="ignore"), Image.open(io.BytesIO(encoded)) as image:
            return image.size  # Pillow has read the header only
    except Image.DecompressionBombError as error:  # what Pillow itself finds too large
        raise ValueError(f"it has {TOO_MANY}") from error
    except Exception as error:  # of broken headers; Pillow has many classes for them
        raise ValueError(NO_IMAGE.format(len(encoded))) from error


def _size_of_jpeg(encoded: bytes) -> tuple[int, int]:
    """From marker to marker; what a marker's own length covers, such as a thumbnail, is passed over.

    In a file of one scan, as nearly all are, only the end may follow: then no more is looked at, since a
    training reads millions of images. Nor is a header walked that begins like the last one: files of one
    program and size differ behind it only.
    """
    global _last_header
    header, size = _last_header
    if not encoded.startswith(header):
        size, begin = _walk_jpeg(encoded)
        if begin is None:
            return size
        header = encoded[:begin]
    if not encoded.endswith(JPEG_END, len(header)):
        encoded.index(JPEG_END, len(header))  # or an error: no end comes
    _last_header = header, size  # one assignment: threads cannot mix two headers
    return size


def _walk_jpeg(encoded: bytes) -> tuple[tuple[int, int], int | None]:
    """Its size; and where its only scan begins, or None where it was walked to its end."""
    size, is_sequential, position = None, False, 2
    while True:
        if encoded[position] != 0xFF or encoded[position + 1] in FILLING:  # data of a scan, or filling
            position = MARKER.search(encoded, position).end() - 2
        marker, position = encoded[position + 1], position + 2
        if marker == END:
            return (size[0], size[1]), None
        if marker in WITHOUT_LENGTH:
            continue
        if marker in SIZES:
            height, width = struct.unpack_from(">HH", encoded, position + 3)
            size = max(size or (0, 0), (width, height), key=lambda pair: pair[0] * pair[1])
            is_sequential = marker in SEQUENTIAL
        position += encoded[position] << 8 | encoded[position + 1]
        if marker == SCAN and is_sequential:
            return (size[0], size[1]), position


def _size_of_png(encoded: bytes) -> tuple[int, int]:
    """From chunk to chunk: length, type, content, checksum (which libpng compares)."""
    position, kind = 8, b""
    while kind != b"IEND":
        length, kind = struct.unpack_from(">I4s", encoded, position)
        position += 12 + length
        if position > len(encoded):
            raise ValueError("truncated")
    return struct.unpack_from(">II", encoded, 16)


def _size_of_webp(encoded: bytes) -> tuple[int, int]:
    """Of the canvas, or of the only image; Pillow would allocate the canvas."""
    if struct.unpack_from("<I", encoded, 4)[0] + 8 > len(encoded):
        raise ValueError("truncated")
    kind = encoded[12:16]
    if kind == b"VP8X":
        return tuple(1 + int.from_bytes(encoded[at : at + 3], "little") for at in (24, 27))
    if kind == b"VP8L":
        bits = struct.unpack_from("<I", encoded, 21)[0]
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    width, height = struct.unpack_from("<HH", encoded, 26)
    return width & 0x3FFF, height & 0x3FFF
