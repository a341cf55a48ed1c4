"""Faces as images: 112x112 pixels, how a file is decoded, and how a face is brought into its place.

Alignment is insightface's: the similarity transform that brings five landmarks nearest, in least squares, to
a fixed template. In the plane it has a closed form (S. Umeyama, Least-squares estimation of transformation
parameters between two point patterns, TPAMI 1991, without the SVD that three dimensions need).
"""

import cv2
import numpy as np

from utils.image_headers import NO_IMAGE, require_decodable

SIZE = 112  # pixels, width and height of an aligned face
# What an error expects.
ALIGNED = (
    "an aligned face of 112x112 pixels (tools/align.py makes them from photographs, docs/use.md says how)"
)
# (5, 2) pixels, x and y: left eye, right eye (as seen in the image), nose, left and right corner of the mouth
TEMPLATE = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)
# OpenCV 4.11 and later decode a JPEG into RGB. Of other formats some come as BGR all the same, such as PAM.
JPEG_COLOR = getattr(cv2, "IMREAD_COLOR_RGB", cv2.IMREAD_COLOR)


def decode_rgb(encoded: bytes) -> np.ndarray:
    """`(H, W, 3)` uint8, RGB, of a JPEG, PNG or any other format that OpenCV reads.

    Raises:
        ValueError: it is none, or only the beginning of one (OpenCV would fill what is missing with grey), or
            it has more than MAX_PIXELS.
    """
    require_decodable(encoded)
    color = JPEG_COLOR if encoded.startswith(b"\xff\xd8") else cv2.IMREAD_COLOR
    try:
        image = cv2.imdecode(np.frombuffer(encoded, np.uint8), color)
    except cv2.error:
        image = None
    if image is None:
        raise ValueError(NO_IMAGE.format(len(encoded)))
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB) if color == cv2.IMREAD_COLOR else image


def coincide(points: np.ndarray) -> np.ndarray:
    """Which rows of landmarks `(N, K, 2)` have all K in one place, so that no transform follows from them."""
    return (np.ptp(points, axis=1) == 0).all(axis=1)


def five_points(landmarks: np.ndarray) -> np.ndarray:
    """The 68 landmarks of iBUG's scheme `(N, 68, 2)` -> the five of the template `(N, 5, 2)`.

    An eye is the mean of its two corners.
    """
    left, right = (landmarks[:, 36] + landmarks[:, 39]) / 2, (landmarks[:, 42] + landmarks[:, 45]) / 2
    return np.stack([left, right, landmarks[:, 30], landmarks[:, 48], landmarks[:, 54]], axis=1)


def similarity(points: np.ndarray, target: np.ndarray = TEMPLATE) -> np.ndarray:
    """The rotation, scaling and shift `(2, 3)` that brings points `(K, 2)` nearest to `target`, float64.

    As complex numbers, a similarity is w = a z + b: linear regression.
    """
    z, w = (np.asarray(p, dtype=np.float64) @ (1, 1j) for p in (points, target))  # (K,)
    centred = z - z.mean()
    a = np.vdot(centred, w) / np.vdot(centred, centred).real  # vdot conjugates its first argument
    b = w.mean() - a * z.mean()
    return np.array([[a.real, -a.imag, b.real], [a.imag, a.real, b.imag]])


def align(image: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Warp an image so that its five landmarks meet the template; black where the image has no pixel.

    Args:
        image: `(H, W, 3)` uint8.
        points: `(5, 2)`, x and y in pixels, in the order of TEMPLATE.
    Returns:
        `(112, 112, 3)` uint8.
    """
    return cv2.warpAffine(image, similarity(points), (SIZE, SIZE), flags=cv2.INTER_LINEAR, borderValue=0)
