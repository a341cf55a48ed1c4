"""Encoded images are looked at before they are decoded: their size, and whether they are whole."""

import io
import struct
import time
import zlib

import cv2
import pytest
from PIL import Image

from helpers.records import picture
from utils.faces import decode_rgb
from utils.image_headers import MAX_PIXELS, size_of

FORMATS = (".jpg", ".png", ".bmp", ".webp", ".tiff", ".ppm")


def encoded(suffix: str, size=(70, 30), *options: int) -> bytes:
    image = cv2.resize(picture(0), size)
    return cv2.imencode(suffix, image, list(options))[1].tobytes()


VARIANTS = {suffix: encoded(suffix) for suffix in FORMATS} | {
    "progressive": encoded(".jpg", (70, 30), cv2.IMWRITE_JPEG_PROGRESSIVE, 1),
    "restart markers": encoded(".jpg", (70, 30), cv2.IMWRITE_JPEG_RST_INTERVAL, 1),
    "lossy webp": encoded(".webp", (70, 30), cv2.IMWRITE_WEBP_QUALITY, 80),
}


def chunk(kind: bytes, data: bytes) -> bytes:
    """A part of a PNG."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def with_thumbnail(photo: bytes) -> bytes:
    """A JPEG with a smaller one inside its EXIF block, as cameras write them."""
    block = b"Exif\0\0" + encoded(".jpg", (16, 16))
    return photo[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block + photo[2:]


@pytest.mark.parametrize("name", VARIANTS)
def test_the_size_is_what_decoding_gives(name):
    assert size_of(VARIANTS[name]) == (70, 30)
    assert decode_rgb(VARIANTS[name]).shape == (30, 70, 3)


def test_a_webp_with_metadata_has_another_header():
    file = io.BytesIO()
    Image.fromarray(picture(1)).resize((70, 30)).save(file, "WEBP", exif=b"Exif\0\0" + bytes(20))
    assert file.getvalue()[12:16] == b"VP8X"
    assert size_of(file.getvalue()) == (70, 30)


@pytest.mark.parametrize("name", VARIANTS)
def test_the_beginning_of_an_image_is_no_image(name):
    for share in (0.2, 0.5, 0.9, 0.99):
        with pytest.raises(ValueError, match="bytes are no whole image"):
            decode_rgb(VARIANTS[name][: int(share * len(VARIANTS[name]))])


@pytest.mark.parametrize("name", [".jpg", "progressive", "restart markers", ".png", ".webp", "lossy webp"])
def test_the_last_byte_has_to_be_there(name):  # told here, whatever OpenCV makes of it
    with pytest.raises(ValueError, match="bytes are no whole image"):
        size_of(VARIANTS[name][:-1])


def test_the_end_of_a_thumbnail_is_not_the_end_of_the_photograph():
    photo = with_thumbnail(encoded(".jpg", (112, 112)))
    assert decode_rgb(photo).shape == (112, 112, 3)
    for share in (0.3, 0.6, 0.95):
        with pytest.raises(ValueError, match="no whole image"):  # here, whatever the version of OpenCV does
            size_of(photo[: int(share * len(photo))])


def test_the_end_of_a_picture_in_a_text_of_a_png_is_not_its_end():
    photo = encoded(".png", (112, 112))
    text = b"tEXt" + b"a\0IEND"
    photo = (
        photo[:33]
        + struct.pack(">I", len(text) - 4)
        + text
        + struct.pack(">I", zlib.crc32(text))
        + photo[33:]
    )
    assert size_of(photo) == (112, 112)
    with pytest.raises(ValueError, match="no whole image"):
        size_of(photo[:-40])


def grey_png(side: int) -> bytes:
    """A PNG of side² grey pixels, a thousandth of that in bytes."""
    packer = zlib.compressobj(9)
    rows = b"".join(packer.compress(bytes(1 + side)) for _ in range(side)) + packer.flush()
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def jpeg_of(width: int, height: int) -> bytes:
    """A JPEG whose header claims another size."""
    data = bytearray(encoded(".jpg"))
    at = data.find(b"\xff\xc0")
    struct.pack_into(">HH", data, at + 5, height, width)
    return bytes(data)


HUGE = {
    "png": grey_png(11_000),
    "jpeg": jpeg_of(65_000, 65_000),
    "webp": b"RIFF\x16\0\0\0WEBPVP8X\x0a\0\0\0" + bytes(4) + b"\xff\x3e\0" * 2,
    "bmp": b"BM" + struct.pack("<IHHIIiiHHIIiiII", 100, 0, 0, 54, 40, 30000, 30000, 1, 24, *[0] * 6),
    "pgm": b"P5 30000 30000 255\n",
}


def test_the_largest_photographs_of_telephones_are_below_the_limit():
    assert 12_000 * 9_000 <= MAX_PIXELS < 11_000**2


@pytest.mark.parametrize("name", HUGE)
def test_what_would_take_gigabytes_is_refused_by_its_header(name):
    start = time.process_time()
    with pytest.raises(ValueError, match=r"it has .*more than the 120,000,000 that are decoded"):
        decode_rgb(HUGE[name])
    assert time.process_time() - start < 0.5


FRAME = b"\xff\xc0\0\x0b\x08\0\x70\0\x70\x01\x01\x11\0"
ENDLESS = {
    "filling": b"\xff" * 30_000,
    "filling and data": b"\xff" * 30_000 + b"\0" * 8,
    "scans": FRAME + b"\xff\xda\0\x02" * 40_000,
}


@pytest.mark.parametrize("name", ENDLESS)
def test_a_jpeg_of_filling_or_of_scans_without_an_end_is_refused_in_a_moment(name):
    start = time.process_time()
    with pytest.raises(ValueError, match="no whole image"):
        size_of(b"\xff\xd8" + ENDLESS[name])
    assert time.process_time() - start < 0.5


def test_a_jpeg_may_have_markers_without_a_length_and_counts_as_its_largest_frame():
    progressive, scan, end = FRAME.replace(b"\xc0", b"\xc2"), b"\xff\xda\0\x02", b"\xff\xd9"
    assert size_of(b"\xff\xd8\xff\x01" + progressive + scan + b"\xff\xd0\xff\0" + end) == (112, 112)
    larger = progressive.replace(b"\0\x70\0\x70", b"\x10\0\x20\0")
    for frames in (larger + progressive, progressive + larger):
        assert size_of(b"\xff\xd8" + frames + scan + end) == (8192, 4096)


def test_looking_at_the_header_costs_little_beside_decoding():
    data = with_thumbnail(encoded(".jpg", (112, 112)))
    times = {}
    for function in (size_of, decode_rgb):
        start = time.process_time()
        for _ in range(200):
            function(data)
        times[function] = time.process_time() - start
    assert times[size_of] < 0.3 * times[decode_rgb]


def test_a_jpeg_like_the_one_before_is_looked_at_as_the_first_was():
    """Its header is not walked again, but its end is looked for, and another header is walked."""
    first, larger = encoded(".jpg"), encoded(".jpg", (71, 30))
    second = cv2.imencode(".jpg", cv2.resize(picture(1), (70, 30)))[1].tobytes()
    scan = first.index(b"\xff\xda") + 14
    assert first[:scan] == second[:scan], "no case of a header that two files share"
    for photo, size in ((first, (70, 30)), (second, (70, 30)), (larger, (71, 30)), (first, (70, 30))):
        assert size_of(photo) == size
    assert size_of(second + b"something behind it") == (70, 30)
    for end in (-2, scan):
        with pytest.raises(ValueError, match="no whole image"):
            size_of(second[:end])
    with pytest.raises(ValueError, match="no whole image"):  # the last bytes of the header are not the end
        size_of(first[: scan - 2] + b"\xff\xd9")
    assert size_of(second) == (70, 30)
