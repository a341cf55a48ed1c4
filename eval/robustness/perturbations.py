"""What goes wrong with a face between camera and network: alignment errors and bad images, in known amounts.

Each function takes aligned faces `(N, 112, 112, 3)` uint8 and one amount, and returns new ones of that shape.
Image i of a call is always perturbed in the same way: what has a direction or is random is drawn from
(seed, i) alone. A larger amount goes further in the same direction, and adds more of the same noise.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import cv2
import numpy as np

from utils.errors import nearest
from utils.faces import SIZE

CENTRE = np.array([(SIZE - 1) / 2, (SIZE - 1) / 2])


@dataclass(frozen=True)
class Perturbation:
    """One way to perturb a face, and in which amounts.

    Attributes:
        apply: (images, amount, seed) -> images.
        amounts: the usual ones, from mild to severe, without `clean`.
        clean: the amount that leaves an image as it is, to the bit.
        worst: the other end of what is allowed.
        label, unit: of an axis, and behind an amount.
        whole: whether an amount has to be a whole number.
    """

    apply: Callable[[np.ndarray, float, int], np.ndarray]
    amounts: tuple[float, ...]
    clean: float
    worst: float
    label: str
    unit: str = ""
    whole: bool = False

    def severity(self, amount: float) -> float:
        """How far from clean: 0 and up."""
        return abs(amount - self.clean)


def rotate(images: np.ndarray, degrees: float, seed: int = 0) -> np.ndarray:
    """Turned in the image plane about its centre by `degrees`, clockwise or the other way; black around."""

    def turned(random: np.random.Generator) -> np.ndarray:
        angle = np.radians(degrees) * random.choice((-1, 1))
        cos, sin = np.cos(angle), np.sin(angle)
        return about_centre(np.array([[cos, -sin], [sin, cos]]))  # y points down: above 0 is clockwise

    return warp(images, turned, seed)


def rescale(images: np.ndarray, share: float, seed: int = 0) -> np.ndarray:
    """Times 1 + `share`, or divided by it, about the image's centre; black around what got smaller."""

    def scaled(random: np.random.Generator) -> np.ndarray:
        return about_centre(np.eye(2) * (1.0 + share) ** random.choice((-1, 1)))

    return warp(images, scaled, seed)


def shift(images: np.ndarray, share: float, seed: int = 0) -> np.ndarray:
    """Moved by `share` of the image side, in any direction; black where nothing comes from.

    ARoFace counts in half sides: its 0.1 is 0.05 here.
    """

    def moved(random: np.random.Generator) -> np.ndarray:
        angle = random.uniform(0, 2 * np.pi)
        return about_centre(np.eye(2), share * SIZE * np.array([np.cos(angle), np.sin(angle)]))

    return warp(images, moved, seed)


def lower_resolution(images: np.ndarray, side: float, seed: int = 0) -> np.ndarray:
    """Shrunk to `side` pixels, by the mean over areas, and enlarged again, bicubic; 112 changes nothing."""

    def resized(image: np.ndarray, random: np.random.Generator) -> np.ndarray:
        small = cv2.resize(image, (int(side), int(side)), interpolation=cv2.INTER_AREA)
        return cv2.resize(small, (SIZE, SIZE), interpolation=cv2.INTER_CUBIC)

    return each(images, resized, seed)


def blur(images: np.ndarray, sigma: float, seed: int = 0) -> np.ndarray:
    """Gaussian blur of standard deviation `sigma` pixels."""

    def blurred(image: np.ndarray, random: np.random.Generator) -> np.ndarray:
        return cv2.GaussianBlur(image, (0, 0), sigma) if sigma else image

    return each(images, blurred, seed)


def add_noise(images: np.ndarray, std: float, seed: int = 0) -> np.ndarray:
    """Gaussian noise of standard deviation `std` grey levels (of 255), for each pixel and colour; clipped."""

    def noisy(image: np.ndarray, random: np.random.Generator) -> np.ndarray:
        noise = std * random.standard_normal(image.shape, dtype=np.float32)
        return np.rint(image + noise).clip(0, 255)

    return each(images, noisy, seed)


def compress(images: np.ndarray, quality: float, seed: int = 0) -> np.ndarray:
    """Stored as JPEG of libjpeg's `quality` and read again; 100 stands for an image that is left alone."""

    def stored(image: np.ndarray, random: np.random.Generator) -> np.ndarray:
        if quality == 100:
            return image
        _, data = cv2.imencode(".jpg", image[..., ::-1], (cv2.IMWRITE_JPEG_QUALITY, int(quality)))  # of BGR
        return cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1]

    return each(images, stored, seed)


def each(images: np.ndarray, change: Callable, seed: int) -> np.ndarray:
    """`change(image, random)` of every image, with a generator of its own."""
    changed = np.empty_like(images)
    for index, image in enumerate(images):
        changed[index] = change(image, np.random.default_rng((seed, index)))
    return changed


def warp(images: np.ndarray, draw: Callable[[np.random.Generator], np.ndarray], seed: int) -> np.ndarray:
    """Each image under the matrix `(2, 3)` that is drawn for it, from old to new pixels; bilinear."""
    return each(images, lambda image, r: cv2.warpAffine(image, draw(r), (SIZE, SIZE), borderValue=0), seed)


def about_centre(linear: np.ndarray, offset: np.ndarray | int = 0) -> np.ndarray:
    """`(2, 3)`: x -> centre + linear (x - centre) + offset."""
    return np.column_stack([linear, CENTRE - linear @ CENTRE + offset])


PERTURBATIONS = {
    "rotation": Perturbation(rotate, (5, 10, 20, 30), 0, 180, "rotation, degrees", "°"),
    "scale": Perturbation(rescale, (0.05, 0.1, 0.2, 0.3), 0, 1, "scale error, share of the size"),
    "shift": Perturbation(shift, (0.02, 0.05, 0.1, 0.15), 0, 1, "shift, share of the image side"),
    "resolution": Perturbation(
        lower_resolution, (56, 28, 16, 8), SIZE, 1, "resolution, pixels a side", " px", whole=True
    ),
    "blur": Perturbation(blur, (1, 2, 3, 4), 0, SIZE, "blur, sigma in pixels", " px"),
    "noise": Perturbation(add_noise, (10, 20, 40, 60), 0, 255, "noise, standard deviation of 255"),
    "jpeg": Perturbation(compress, (50, 25, 10, 5), 100, 1, "JPEG quality", whole=True),
}


def parse_choices(choices: Iterable[str]) -> dict[str, tuple[float, ...]]:
    """What to do: `["rotation=5,10", "blur"]` -> `{"rotation": (0, 5, 10), "blur": (0, 1, 2, 3, 4)}`.

    Amounts come clean first, then from mild to severe, each once.

    Args:
        choices: names of perturbations, each with amounts of its own or the usual ones; none: all of them.
    Raises:
        ValueError: an unknown name, one named twice, an amount that is no number or outside the range.
    """
    chosen = {}
    for choice in choices or PERTURBATIONS:
        name, given, text = choice.partition("=")
        if name not in PERTURBATIONS:
            allowed = ", ".join(PERTURBATIONS)
            raise ValueError(f"perturbation {name!r}{nearest(name, PERTURBATIONS)}; allowed: {allowed}")
        if name in chosen:
            raise ValueError(f"perturbation {name!r} is named twice; its amounts belong together: {name}=1,2")
        kind = PERTURBATIONS[name]
        amounts = [parse_amount(name, word) for word in text.split(",")] if given else kind.amounts
        chosen[name] = tuple(sorted({kind.clean, *amounts}, key=kind.severity))
    return chosen


def parse_amount(name: str, text: str) -> float:
    """One amount of a perturbation.

    Raises:
        ValueError: no number, or one that is not allowed.
    """
    kind = PERTURBATIONS[name]
    low, high = sorted((kind.clean, kind.worst))
    wanted = f"{name} takes {'whole numbers' if kind.whole else 'numbers'} from {low} to {high}"
    try:
        amount = int(text) if kind.whole else float(text)
    except ValueError:
        raise ValueError(f"amount {text!r}: {wanted}") from None
    if not low <= amount <= high:  # neither is NaN
        raise ValueError(f"amount {text}: {wanted}")
    return amount
