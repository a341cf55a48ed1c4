"""One photograph: decoded, its faces found, aligned and written. This runs in worker processes."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from tools.alignment.faces import Face, choose
from tools.alignment.landmark_files import read_landmarks
from tools.alignment.mtcnn import MTCNN
from tools.alignment.yunet import YuNet
from utils.faces import SIZE, align, decode_rgb, similarity

MIN_FACE, MIN_SHARE = 20, 0.04  # pixels; share of the longer side
CROP_SIDE, CROP_BORDER = 160, 0.1  # what a small crop is enlarged to; black around it, share of its side
THUMBNAIL = 224  # pixels, longer side


@dataclass(frozen=True)
class Options:
    """What a worker has to know; see tools/align.py."""

    images: Path
    out: Path
    detector: Path | None = None
    landmarks: Path | None = None
    faces: str = "largest"
    min_face: float | None = None
    crops: bool = False
    centre: bool = False
    suffix: str = ".png"


@dataclass
class Outcome:
    """What became of one photograph.

    Attributes:
        aligned: (name of the image, face), the first being the largest.
        found: faces before the choice.
        error: why it could not be read; "" otherwise.
        centred: nothing was found, and the middle was taken.
        pictures: small ones for the contact sheet, before and after; None unless asked for.
    """

    name: str
    aligned: list[tuple[str, Face]] = field(default_factory=list)
    found: int = 0
    error: str = ""
    centred: bool = False
    pictures: tuple[np.ndarray, np.ndarray] | None = None


class Aligner:
    """Aligns photographs one after the other."""

    def __init__(self, options: Options):
        self.options = options
        self.listed = read_landmarks(options.landmarks) if options.landmarks else None
        self.detect: Callable[[np.ndarray, float], list[Face]] | None = None
        if self.listed is None:
            self.detect = YuNet(options.detector) if options.detector else MTCNN()

    def __call__(self, name: str, stem: str, with_pictures: bool = False) -> Outcome:
        """Align one photograph.

        Args:
            name: its path below the folder of photographs.
            stem: the path of what is written, without the suffix.
            with_pictures: for the contact sheet.
        """
        outcome = Outcome(name)
        try:
            image = decode_rgb((self.options.images / name).read_bytes())
        except (ValueError, OSError) as fault:
            outcome.error = str(fault)
            return outcome
        faces = self.find(image, name)
        outcome.found = len(faces)
        chosen = choose(faces, image.shape[:2], self.options.faces)
        results = [(face, align_photograph(image, face.points)) for face in chosen]
        if not results and self.options.centre:
            results, outcome.centred = [(middle(image), centre_crop(image))], True
        for number, (face, aligned) in enumerate(results):
            path = f"{stem}_{number}" if self.options.faces == "all" else stem
            path += self.options.suffix
            write_image(self.options.out / path, aligned)
            outcome.aligned.append((path, face))
        if with_pictures and results:
            outcome.pictures = thumbnail(image, results[0][0]), results[0][1]
        return outcome

    def find(self, image: np.ndarray, name: str) -> list[Face]:
        """All faces: of the list, or of the detector."""
        if self.listed is not None:
            return self.listed.get(name, [])
        if self.options.crops:
            return self.find_in_crop(image)
        height, width = image.shape[:2]
        longer = max(height, width)
        min_face = self.options.min_face or max(MIN_FACE, MIN_SHARE * longer)
        # Where only large faces are wanted, a smaller picture shows them as well, and costs less.
        factor = min(1.0, 2 * MIN_FACE / min_face)
        if factor == 1:
            return self.detect(image, min_face)
        size = (round(width * factor), round(height * factor))
        found = self.detect(cv2.resize(image, size, interpolation=cv2.INTER_AREA), min_face * factor)
        return [face.scaled(1 / factor) for face in found]

    def find_in_crop(self, image: np.ndarray) -> list[Face]:
        """The face in a small crop: squared with black, enlarged, a border around it."""
        square, x, y = padded(image)
        factor = CROP_SIDE / len(square)
        enlarged = cv2.resize(square, (CROP_SIDE, CROP_SIDE), interpolation=cv2.INTER_CUBIC)
        found = self.detect(enlarged, CROP_SIDE / 3)
        return [face.scaled(1 / factor).moved(-x, -y) for face in found]


def padded(image: np.ndarray) -> tuple[np.ndarray, int, int]:
    """An image in the middle of a black square with a border, and how far it lies from left and top."""
    height, width = image.shape[:2]
    side = round(max(height, width) * (1 + 2 * CROP_BORDER))
    top, left = (side - height) // 2, (side - width) // 2
    square = np.zeros((side, side, 3), np.uint8)
    square[top : top + height, left : left + width] = image
    return square, left, top


def align_photograph(image: np.ndarray, points: np.ndarray) -> np.ndarray:
    """`utils.faces.align`, which takes one pixel of many: a large face is first shrunk by averaging.

    Args:
        image: `(H, W, 3)` uint8, RGB.
        points: `(5, 2)`.
    Returns:
        `(112, 112, 3)` uint8.
    """
    matrix = similarity(points)
    factor = int(1 / max(np.hypot(matrix[0, 0], matrix[1, 0]), 1e-3))
    if factor < 2:
        return align(image, points)
    height, width = (side // factor * factor for side in image.shape[:2])
    small = cv2.resize(
        image[:height, :width], (width // factor, height // factor), interpolation=cv2.INTER_AREA
    )
    return align(small, (points + 0.5) / factor - 0.5)


def centre_crop(image: np.ndarray) -> np.ndarray:
    """The largest square in the middle, at 112x112."""
    side = min(image.shape[:2])
    top, left = ((length - side) // 2 for length in image.shape[:2])
    interpolation = cv2.INTER_AREA if side > SIZE else cv2.INTER_CUBIC
    return cv2.resize(image[top : top + side, left : left + side], (SIZE, SIZE), interpolation=interpolation)


def middle(image: np.ndarray) -> Face:
    """That square as a face without landmarks: they are NaN, the score is 0."""
    side = min(image.shape[:2])
    top, left = ((length - side) / 2 for length in image.shape[:2])
    return Face((left, top, side, side), 0.0, np.full((5, 2), np.nan))


def write_image(path: Path, image: np.ndarray) -> None:
    """Write RGB as PNG, or as JPEG with all of its colour."""
    path.parent.mkdir(parents=True, exist_ok=True)
    quality = [cv2.IMWRITE_JPEG_QUALITY, 95]
    quality += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    encoded = cv2.imencode(path.suffix, image[..., ::-1], quality if path.suffix == ".jpg" else [])[1]
    path.write_bytes(encoded.tobytes())


def thumbnail(image: np.ndarray, face: Face) -> np.ndarray:
    """The photograph, small, with the face's box and landmarks."""
    factor = THUMBNAIL / max(image.shape[:2])
    size = [max(1, round(side * factor)) for side in image.shape[1::-1]]
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_NEAREST)
    left, top, width, height = (round(side * factor) for side in face.box)
    cv2.rectangle(small, (left, top), (left + width, top + height), (31, 111, 235), 2)
    for x, y in face.points[np.isfinite(face.points).all(axis=1)] * factor:
        cv2.circle(small, (round(float(x)), round(float(y))), 2, (26, 255, 55), -1)
    return small


# -------------------------------------------------------------------------------------- in worker processes

_aligner: Aligner | None = None


def start_worker(options: Options) -> None:
    """Load the detector once a process."""
    global _aligner
    _aligner = Aligner(options)


def align_one(job: tuple[str, str, bool]) -> Outcome:
    """`Aligner.__call__` in a worker."""
    return _aligner(*job)
