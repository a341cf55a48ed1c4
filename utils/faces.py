"""Encoded images to pixels."""

import cv2
import numpy as np

# How JPEG and PNG data begin, and what a truncated file lacks.
WHOLE_FILE = ((b"\xff\xd8", b"\xff\xd9"), (b"\x89PNG", b"IEND"))


def decode_rgb(encoded: bytes) -> np.ndarray:
    """`(H, W, 3)` uint8, RGB, of a JPEG, PNG or any other format that OpenCV reads.

    Raises:
        ValueError: it is none, or only the beginning of one (OpenCV would fill what is missing with grey).
    """
    truncated = any(encoded.startswith(begin) and end not in encoded for begin, end in WHOLE_FILE)
    try:
        image = None if truncated else cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error:  # what no bytes at all are
        image = None
    if image is None:
        raise ValueError(f"its {len(encoded)} bytes are no whole image that OpenCV can decode")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
