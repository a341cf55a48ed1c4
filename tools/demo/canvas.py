"""Painting with smooth anti-aliased shapes.

Coordinates are in face units: the origin is midway between the eyes, x points right, y points down, and 1 is
the mean distance between the pupils (63 mm on real heads).
"""

from functools import lru_cache

import cv2
import numpy as np

TEXELS = 40  # texture pixels per face unit; an aligned 112 x 112 image has 35
LEFT, TOP, RIGHT, BOTTOM = -2.0, -2.0, 2.0, 2.4  # the part of the face plane that a texture covers
SHAPE = (int((BOTTOM - TOP) * TEXELS), int((RIGHT - LEFT) * TEXELS))
Y, X = (np.mgrid[: SHAPE[0], : SHAPE[1]] / TEXELS + np.array([TOP, LEFT])[:, None, None]).astype(np.float32)


class Texture:
    """A picture of the face plane: `.pixels` is float32 (H, W, 4), red, green, blue and alpha in 0..255.

    Colours are premultiplied by alpha: so painting on a transparent place is exact, and no edge gets dark.
    """

    def __init__(self, pixels: np.ndarray | None = None):
        self.pixels = np.zeros((*SHAPE, 4), np.float32) if pixels is None else pixels.copy()

    def paint(self, contour, colour, opacity=1.0, soft=0.0, within=None) -> None:
        """Blends a closed contour (n, 2) into the picture.

        colour: (3,) or a picture (H, W, 3). opacity: in [0, 1], a number or a map (H, W).
        soft: width of the blurred edge in face units. within: a second contour that clips the first.
        """
        margin = 2 + int(3 * soft * TEXELS)
        pixels = (contour - (LEFT, TOP)) * TEXELS
        left, top = np.maximum(pixels.min(axis=0).astype(int) - margin, 0)
        right, bottom = np.minimum(pixels.max(axis=0).astype(int) + margin + 1, SHAPE[::-1])
        if left >= right or top >= bottom:
            return
        area = np.s_[top:bottom, left:right]
        mask = _fill(contour, left, top, (bottom - top, right - left))
        if soft:
            mask = cv2.GaussianBlur(mask, (0, 0), soft * TEXELS)
        if within is not None:
            mask = cv2.multiply(mask, _fill(within, left, top, mask.shape), scale=1 / 255)
        weight = mask * (np.float32(1 / 255) * (opacity if np.isscalar(opacity) else opacity[area]))
        paint = np.empty((*mask.shape, 4), np.float32)
        paint[..., :3], paint[..., 3] = colour[area] if np.ndim(colour) == 3 else colour, 255
        target = self.pixels[area]
        paint -= target
        paint *= weight[..., None]
        target += paint

    def overlay(self, layer: "Texture") -> None:
        """Puts another picture on top."""
        self.pixels *= 1 - layer.pixels[..., 3:] * np.float32(1 / 255)
        self.pixels += layer.pixels


def _fill(contour, left, top, shape) -> np.ndarray:
    """Anti-aliased uint8 mask of a contour, on the texture pixels that begin at (left, top)."""
    pixels = (contour - (LEFT, TOP)) * TEXELS - (left, top)
    return cv2.fillPoly(np.zeros(shape, np.uint8), [np.int32(pixels * 16)], 255, cv2.LINE_AA, shift=4)


@lru_cache
def _spline_weights(num_points: int, closed: bool, steps: int = 6) -> np.ndarray:
    """The matrix that turns control points into points on the Catmull-Rom curve through them."""
    rows = []
    for start in range(num_points if closed else num_points - 1):
        around = np.arange(start - 1, start + 3)
        around = around % num_points if closed else around.clip(0, num_points - 1)
        for t in np.arange(steps) / steps:
            weights = (-t + 2 * t**2 - t**3, 2 - 5 * t**2 + 3 * t**3, t + 4 * t**2 - 3 * t**3, -(t**2) + t**3)
            row = np.zeros(num_points)
            np.add.at(row, around, np.array(weights) / 2)
            rows.append(row)
    return np.array(rows if closed else [*rows, np.eye(num_points)[-1]])


@lru_cache
def _stroke_weights(num_points: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Matrices for the middle line of a stroke and its direction, and its thickness (n, 1) along the line."""
    middle = _spline_weights(num_points, closed=False)
    thickness = np.sin(np.linspace(0.2, np.pi - 0.2, len(middle)))
    return middle, np.gradient(middle, axis=0), thickness[:, None]


@lru_cache
def _unit_oval(exponent: float) -> np.ndarray:
    angle = np.linspace(0, 2 * np.pi, 32, endpoint=False)
    circle = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return np.sign(circle) * np.abs(circle) ** (2 / exponent)


def curve(*points) -> np.ndarray:
    """A smooth closed contour (n, 2) through the points."""
    return _spline_weights(len(points), closed=True) @ np.array(points, float)


def mirrored(*points) -> np.ndarray:
    """A smooth closed contour from its right half, top to bottom; the first and last point have x = 0."""
    return curve(*points, *[(-x, y) for x, y in points[-2:0:-1]])


def stroke(width, *points) -> np.ndarray:
    """The outline of a smooth line through the points, `width` thick in the middle and thin at both ends."""
    middle, along, thickness = (weights for weights in _stroke_weights(len(points)))
    points = np.array(points, float)
    middle, (along_x, along_y) = middle @ points, (along @ points).T
    across = np.stack([along_y, -along_x], axis=1) * (
        width / 2 * thickness / np.hypot(along_x, along_y)[:, None]
    )
    return np.concatenate([middle + across, (middle - across)[::-1]])


def oval(x, y, radius_x, radius_y=None, exponent=2.0) -> np.ndarray:
    """An ellipse, or with a larger exponent a rounded rectangle."""
    return _unit_oval(exponent) * (radius_x, radius_y or radius_x) + (x, y)


def bump(x, y, radius_x, radius_y) -> np.ndarray:
    """A Gaussian hill (H, W) of height 1."""
    return np.exp(-(((X - x) / radius_x) ** 2) - ((Y - y) / radius_y) ** 2)
