"""Photographs of a head: pose, light, background, occlusion, alignment, and the faults of a bad camera.

A head is a height field z(x, y). Turned by R and seen from far away, its point (x, y) appears at
R[:2] @ (x, y, z). So the point (x, y) that a pixel shows solves a fixed-point equation; a few steps of
iteration, each a look-up in the table z, find it:

    (x, y) = R[:2, :2]^-1 (pixel - R[:2, 2] z(x, y))
"""

from functools import lru_cache

import cv2
import numpy as np

from tools.demo.canvas import LEFT, TEXELS, TOP
from tools.demo.head import Head
from tools.demo.people import Accessories, Expression
from utils.faces import SIZE, TEMPLATE, similarity

LARGEST_TURN = 0.65  # radians
SEARCH_STEPS = 8  # the error is then below half a pixel almost everywhere, at any turn
BACK_DEPTH = -0.25  # z of neck and long hair
BACK_NORMAL = np.float32([0, 0, 0.85])  # shorter than 1: darker, since the head shadows it
SMALLEST_SIDE = 12  # pixels across the face in the worst photograph
LOOSE_SIDE = 176  # pixels that are drawn for a loose crop: the aligned image and what is around it
LARGEST_CUT = 0.1  # share that is cut off at each edge, because the boxes of detectors are not squares


def photograph(head: Head, rng: np.random.Generator, degradation: float) -> np.ndarray:
    """One aligned image, uint8 (112, 112, 3) RGB.

    degradation: from 0, a good photograph, to 1, a face far away from a cheap camera.
    """
    image, _ = _draw(head, rng, degradation, np.eye(2, 3), SIZE)
    return image


def loose_crop(head: Head, rng: np.random.Generator, degradation: float) -> tuple[np.ndarray, np.ndarray]:
    """A photograph before alignment: a larger image with a tilted face somewhere in it, and its landmarks.

    Returns the image, uint8 (H, W, 3) RGB, and the landmarks, pixels (5, 2) in TEMPLATE's order: those of the
    drawing plus the error of a detector. Aligned by them, the face is where photograph() would have put it.
    """
    # A generator of its own: `rng` then draws the same pose, expression and light as in photograph().
    place = rng.spawn(1)[0]
    tilt, zoom = np.clip(place.normal(0, 0.2), -0.5, 0.5), place.uniform(1, 1.5)
    turn = np.array([[np.cos(tilt), -np.sin(tilt)], [np.sin(tilt), np.cos(tilt)]])
    middle = (LOOSE_SIDE - 1) / 2 + place.uniform(-6, 6, 2)
    frame = np.column_stack([turn, middle - turn @ (2 * [(SIZE - 1) / 2])])
    image, landmarks = _draw(head, rng, degradation, frame, LOOSE_SIDE, zoom)
    (left, top), (right, bottom) = (LARGEST_CUT * len(image) * place.random((2, 2))).astype(int)
    return image[top : len(image) - bottom, left : len(image) - right], landmarks - (left, top)


def _draw(
    head: Head, rng: np.random.Generator, degradation: float, frame: np.ndarray, side: int, zoom: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """A square image (S, S, 3), S = zoom * side, and the landmarks (5, 2) in it.

    frame: similarity (2, 3) from pixels of the aligned image to pixels of this one. side: a multiple of 4.
    """
    p = head.person
    yaw, pitch = np.clip(rng.normal(0, (0.3, 0.12)), -LARGEST_TURN, LARGEST_TURN)
    turn = rotation(yaw, pitch)
    flat = [
        (-p.eye_x, 0),
        (p.eye_x, 0),
        (0, p.nose_y),
        (-p.mouth_width, p.mouth_y),
        (p.mouth_width, p.mouth_y),
    ]
    seen = np.hstack([flat, look_up(head.depth, np.float32([flat])).T]) @ turn[:2].T
    error = rng.normal(0, 1.5 + 2 * degradation, (5, 2))  # of the detector, in pixels
    align = similarity(seen, TEMPLATE + error)
    projection = np.column_stack([align[:, :2] @ turn[:2], align[:, 2]])
    # Alignment by landmarks with the opposite error gives back this image, up to a second-order term.
    landmarks = _apply(frame, _apply(align, seen) - error)
    projection = frame[:, :2] @ projection + [[0, 0, 0, 1]] * frame[:, 2:]

    image, light = _background(rng, side), Light(rng)
    face = head.face(Expression(rng), Accessories(p, rng))
    back_points, points = visible_points(head.depth, projection, side)
    normals = look_up(head.normals, points) @ np.float32(turn.T)
    image = _over(image, look_up(head.back.pixels, back_points), light.on(BACK_NORMAL))
    image = _over(image, look_up(face, points), light.on(normals))
    if rng.random() < 0.1 + 0.1 * degradation:
        image = _occlude(image, rng, _apply(frame, np.array([SIZE / 2, SIZE / 2])))
    image = _develop(image, rng, degradation, zoom)
    return image, (landmarks + 0.5) * (len(image) / side) - 0.5


@lru_cache
def pixels(side: int) -> np.ndarray:
    """The place (x, y) of each pixel, float32 (side, side, 2)."""
    return np.stack(np.meshgrid(*2 * [np.arange(side, dtype=np.float32)]), axis=-1)


def visible_points(
    depth: np.ndarray, projection: np.ndarray, side: int = SIZE
) -> tuple[np.ndarray, np.ndarray]:
    """Points (x, y) of the flat back layer and of the face that pixels show, each float32 (side, side, 2).

    depth: z of the face, (H, W). projection: (2, 4), takes (x, y, z, 1) to pixels.
    """
    inverse = np.linalg.inv(projection[:, :2])
    parallax = np.float32(inverse @ projection[:, 2])  # shift of a point of depth 1
    to_plane = np.column_stack([inverse, -inverse @ projection[:, 3]])
    plane = cv2.transform(pixels(side), to_plane)  # the points, if all depths were 0
    coarse = (plane[1::4, 1::4] + plane[2::4, 2::4]) / 2  # a quarter of the size is enough: depth is smooth
    points = coarse
    for _ in range(SEARCH_STEPS):
        points = coarse - parallax * look_up(depth, points)[..., None]
    return plane - parallax * np.float32(BACK_DEPTH), cv2.resize(points, (side, side))


def rotation(yaw: float, pitch: float) -> np.ndarray:
    """(3, 3): first nod by `pitch`, then turn by `yaw`, in radians."""
    cy, sy, cp, sp = np.cos(yaw), np.sin(yaw), np.cos(pitch), np.sin(pitch)
    return np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]]) @ [[1, 0, 0], [0, cp, -sp], [0, sp, cp]]


def _apply(transform: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Points (..., 2) after an affine transform (2, 3)."""
    return points @ transform[:, :2].T + transform[:, 2]


def look_up(picture: np.ndarray, points: np.ndarray) -> np.ndarray:
    """The picture at points (..., 2) of the face plane; outside it, the values at its border."""
    x, y = cv2.split((points - np.float32([LEFT, TOP])) * np.float32(TEXELS))
    return cv2.remap(picture, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def _over(image: np.ndarray, layer: np.ndarray, light: np.ndarray) -> np.ndarray:
    return image * (1 - layer[..., 3:] * np.float32(1 / 255)) + layer[..., :3] * light


class Light:
    """A lamp somewhere in front of the face, and the light that the room reflects."""

    def __init__(self, rng: np.random.Generator):
        direction = np.array([rng.normal(0, 0.8), rng.normal(-0.4, 0.4), 1.0])
        self.direction = np.float32(direction / np.linalg.norm(direction))
        self.ambient = np.float32(rng.uniform(0.25, 0.75))
        warm, green = rng.normal(0, (0.09, 0.03))
        self.colour = np.float32(rng.uniform(0.5, 1.3) * np.array([1 + warm, 1 + green, 1 - warm]))

    def on(self, normals: np.ndarray) -> np.ndarray:
        """The light (..., 3) that the camera gets from surfaces with normals (..., 3)."""
        facing = np.maximum(normals @ self.direction, 0)
        shine = np.maximum(2 * facing * normals[..., 2] - self.direction[2], 0) ** 12
        return (self.ambient + (1.15 - self.ambient) * facing + 0.12 * shine)[..., None] * self.colour


def _background(rng: np.random.Generator, side: int) -> np.ndarray:
    """A background out of focus, float32 (side, side, 3): patches of colour, boxes, discs."""
    patches = _muted(rng, (rng.integers(2, 6), rng.integers(2, 6)))
    smooth = cv2.INTER_LINEAR if rng.random() < 0.5 else cv2.INTER_NEAREST
    image = cv2.resize(patches, (side, side), interpolation=smooth)
    for _ in range(rng.integers(0, 5)):
        (x, y), (u, v), colour = *rng.integers(0, side, (2, 2)).tolist(), _muted(rng).tolist()
        if rng.random() < 0.6:
            cv2.rectangle(image, (x, y), (u, v), colour, -1)
        else:
            cv2.circle(image, (x, y), 4 + u // 4, colour, -1)
    return cv2.GaussianBlur(image, (0, 0), rng.uniform(1, 6))


def _muted(rng: np.random.Generator, shape=()) -> np.ndarray:
    """Random colours (*shape, 3), like those of walls, trees and clothes: of any brightness, rarely vivid."""
    brightness = rng.uniform(20, 240, (*shape, 1))
    return np.float32(np.clip(brightness + rng.normal(0, 28, (*shape, 3)), 0, 255))


def _occlude(image: np.ndarray, rng: np.random.Generator, middle: np.ndarray) -> np.ndarray:
    """Something in front of the face, like fingers: round bars from the border to the edge of the face.

    middle: pixel (x, y) of the middle of the face.
    """
    angle = rng.uniform(0, 2 * np.pi)
    outward, across = np.array([np.cos(angle), np.sin(angle)]), np.array([-np.sin(angle), np.cos(angle)])
    width = int(rng.integers(8, 16))
    mask = np.zeros(image.shape[:2], np.uint8)
    for finger in range(rng.integers(1, 5)):
        tip = middle + outward * rng.uniform(22, 34) + across * 1.05 * width * (finger - 1.5)
        start, end = np.rint([tip, tip + len(image) * outward]).astype(int).tolist()
        cv2.line(mask, start, end, 255, width, cv2.LINE_AA)
    alpha, roundness = (
        cv2.GaussianBlur(mask, (0, 0), sigma)[..., None] / np.float32(255) for sigma in (0.8, 3)
    )
    return image * (1 - alpha) + alpha * _muted(rng) * (0.45 + 0.55 * roundness)


def _develop(image: np.ndarray, rng: np.random.Generator, degradation: float, zoom: float) -> np.ndarray:
    """From light to uint8: exposure, blur, low resolution, noise, JPEG; then resized by the factor `zoom`."""
    contrast, brightness = rng.normal((1, 0), (0.15, 8))
    image = (image - 128) * np.float32(contrast) + np.float32(128 + brightness)
    if rng.random() < 0.1:  # black and white
        image = np.repeat(image.mean(axis=2, keepdims=True), 3, axis=2)
    image = cv2.GaussianBlur(np.clip(image, 0, 255), (0, 0), 0.3 + 1.5 * degradation * rng.random())
    if rng.random() < 0.4 * degradation:
        image = cv2.filter2D(image, -1, _motion(rng))
    face_side = SIZE - (SIZE - SMALLEST_SIDE) * degradation * rng.uniform(0.75, 1)
    side, enlarged = round(face_side * len(image) / SIZE), round(zoom * len(image))
    image = cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA)
    noise = np.float32(1.5 + 10 * degradation * rng.random())
    image += noise * rng.standard_normal(image.shape, dtype=np.float32)
    image = np.clip(image, 0, 255).astype(np.uint8)
    if degradation > 0.1:
        quality = int(95 - 60 * degradation * rng.random())
        jpeg = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
        image = cv2.imdecode(jpeg, cv2.IMREAD_COLOR)
    enlarge = cv2.INTER_CUBIC if rng.random() < 0.5 else cv2.INTER_LINEAR
    return cv2.resize(image, (enlarged, enlarged), interpolation=enlarge)


def _motion(rng: np.random.Generator, largest=4) -> np.ndarray:
    """Motion blur along a line: a kernel whose sum is 1."""
    kernel = np.zeros((2 * largest + 1, 2 * largest + 1), np.float32)
    length, angle = rng.uniform(1, largest), rng.uniform(0, np.pi)
    (x, y) = np.rint(length * np.array([np.cos(angle), np.sin(angle)])).astype(int).tolist()
    cv2.line(kernel, (largest - x, largest - y), (largest + x, largest + y), 1.0)
    return kernel / kernel.sum()
