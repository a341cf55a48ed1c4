"""The records that both sides write and expect: key, label, payload. Needs neither MXNet nor this project."""

import random
import struct
from pathlib import Path

MAGIC = struct.pack("<I", 0xCED7230A)
LAYOUTS = ("insightface", "plain", "multipart")


def records(layout: str, images: Path) -> list:
    """(key, label, payload) of one layout in the order of writing; `images`: folder of encoded images."""
    encoded = [path.read_bytes() for path in sorted(images.glob("image_*"))]
    rng = random.Random(layout)
    if layout == "insightface":
        labels = [0.0, 0.0, 0.0, 1.0, 1.0, 2.0]
        faces = [(1 + i, label, data) for i, (label, data) in enumerate(zip(labels, encoded))]
        ranges = [(7, [1.0, 4.0], b""), (8, [4.0, 6.0], b""), (9, [6.0, 7.0], b"")]
        return [(0, [7.0, 10.0], b""), *faces, *ranges]
    if layout == "plain":
        labels = [[float(i % 2), 0.5, -1.0] if i % 3 else float(i % 2) for i in range(len(encoded))]
        shuffled = list(zip(range(len(encoded)), labels, encoded))
        rng.shuffle(shuffled)
        return shuffled
    # The magic number at every place of the payload, alone, twice, at its very start and end, nothing else;
    # before it label arrays of all lengths, so that it falls on the border of a record's parts in all ways.
    payloads = [MAGIC, MAGIC + MAGIC, b"", b"\x00", MAGIC[:3]]
    payloads += [rng.randbytes(i) + MAGIC + rng.randbytes(j) for i in range(9) for j in range(9)]
    payloads += [rng.randbytes(4 * n) + MAGIC * n + rng.randbytes(n) + MAGIC for n in range(1, 9)]
    labels = [float(i) if i % 4 == 0 else [float(i)] * (i % 4) for i in range(len(payloads))]
    labels[7] = [3.0, struct.unpack("<f", MAGIC)[0], 4.0]  # the magic number within the label array
    return list(zip(range(len(payloads)), labels, payloads))


def check(layout: str, images: Path, keys: list, read) -> None:
    """Compare a file with what it should hold; `read(key)` returns its label as list and its payload.

    Raises:
        AssertionError: it holds something else; the message names layout, key and difference.
    """
    expected = records(layout, images)
    assert keys == [key for key, _, _ in expected], f"{layout}: keys {keys}"
    for key, label, payload in expected:
        found_label, found_payload = read(key)
        wanted = [label] if isinstance(label, float) else label
        assert found_label == wanted, f"{layout}: record {key}: label {found_label}, not {wanted}"
        assert found_payload == payload, (
            f"{layout}: record {key}: payload {found_payload[:99]!r}, not {payload[:99]!r}"
        )
