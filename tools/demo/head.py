"""A head from the front, drawn once per person: its depth, and textures of all parts that do not move."""

import cv2
import numpy as np

from tools.demo.canvas import TEXELS, Texture, X, Y, bump, curve, mirrored, oval, stroke
from tools.demo.features import paint_accessories, paint_brow, paint_eye, paint_mouth
from tools.demo.people import Accessories, Expression, Identity

BLUSH = (214, 90, 84)
CROWN_Y = -1.9  # hair starts at the point (parting, CROWN_Y) and runs away from it


class Head:
    """Layers of one person's head.

    `.depth` (H, W) in face units and its `.normals` (H, W, 3), float32. The textures are `.back`, neck and
    long hair; `.skin`, the face without eyes, brows and mouth; `.hair`, the hair in front of it.
    """

    def __init__(self, person: Identity):
        self.person = p = person
        w = p.face_width
        self.outline = mirrored(
            (0, -1.38), (0.58 * w, -1.24), (0.9 * w, -0.8), (w, -0.1), (w * p.cheek_width, 0.55),
            (w * p.jaw_width, 1.12), (p.chin_width, p.chin_y - 0.12), (0, p.chin_y),
        )  # fmt: skip
        self._sculpt()
        self.back, self.skin, self.hair = Texture(), Texture(), Texture()
        hair_colours = self._hair_colours()
        self._paint_back(hair_colours)
        self._paint_skin()
        self._paint_nose()
        self._paint_beard()
        if not p.bald:
            self._paint_hair(hair_colours)

    def face(self, expression: Expression, worn: Accessories) -> np.ndarray:
        """The whole face, with glasses and hat, pixels (H, W, 4)."""
        p, face = self.person, Texture(self.skin.pixels)
        for side in (-1, 1):
            paint_eye(face, p, side, expression)
            paint_brow(face, p, side, expression)
        paint_mouth(face, p, expression)
        face.overlay(self.hair)
        paint_accessories(face, p, worn)
        return face.pixels

    def _sculpt(self) -> None:
        """A paraboloid with hills and hollows, so flat that no point hides another at the largest yaw."""
        p = self.person
        along_nose = (-0.3, 0.0, p.nose_y - 0.05, p.nose_y + 0.05, p.nose_y + 0.3)
        ridge = np.interp(Y, along_nose, (0.0, 0.2, 1.0, 0.9, 0.0))
        breadth = np.interp(Y, (0.1, p.nose_y), (1.3 * p.nose_bridge, 1.1 * p.nose_width))
        depth = 0.7 - 0.5 * (X / p.face_width) ** 2 - 0.12 * (Y - 0.2) ** 2
        depth += p.nose_height * ridge * np.exp(-((X / breadth) ** 2))
        depth += p.brow_ridge * bump(0, p.brow_y + 0.05, 0.9, 0.16)
        depth += 0.06 * bump(0, p.mouth_y, 0.4, 0.16) + 0.05 * bump(0, p.chin_y - 0.12, 0.25, 0.15)
        for side in (-1, 1):
            depth -= 0.09 * bump(side * p.eye_x * 0.95, 0, 0.28, 0.18)
            depth += p.cheekbone * bump(side * 0.66, 0.42, 0.28, 0.24)
        self.depth = cv2.GaussianBlur(depth.astype(np.float32), (0, 0), 0.04 * TEXELS)
        slope_y, slope_x = np.gradient(self.depth, 1 / TEXELS)
        normals = np.stack([-slope_x, -slope_y, np.ones_like(slope_x)], axis=-1)
        self.normals = normals / np.linalg.norm(normals, axis=-1, keepdims=True)

    def _hair_colours(self) -> np.ndarray:
        """Colours of hair, (H, W, 3): streaks that run away from the crown, with waves if it is curly."""
        p = self.person
        angle, radius = np.arctan2(X - p.parting, Y - CROWN_Y), np.hypot(X - p.parting, Y - CROWN_Y)
        wave = p.curl * np.sin(9 * radius)
        streak = np.interp((angle / np.pi + 1) * 200 + 4 * wave, np.arange(400), p.strands)
        light = 1 + 0.16 * streak + 0.15 * p.curl * np.sin(9 * radius + 3 * streak)
        return np.clip(p.hair * light[..., None], 0, 255).astype(np.float32)

    def _paint_back(self, hair_colours: np.ndarray) -> None:
        p = self.person
        if not p.bald and p.hair_end > 0.2:
            outer, end = p.face_width + 0.1 + p.hair_volume, p.hair_end
            top = [(0, -1.6), (0.7 * outer, -1.4), (outer, -0.5)]
            self.back.paint(
                mirrored(*top, (1.04 * outer, 0.5 * end), (outer, end), (0, end + 0.1)), 0.75 * hair_colours
            )
        neck = curve((-0.62, 0.8), (0.62, 0.8), (0.66, 2.0), (1.2, 2.6), (-1.2, 2.6), (-0.66, 2.0))
        self.back.paint(neck, 0.72 * p.skin)
        self.back.paint(oval(0, p.chin_y - 0.05, 0.7, 0.3), 0.5 * p.skin, 0.6, soft=0.1)  # the chin's shadow

    def _paint_skin(self) -> None:
        p, w, shadow = self.person, self.person.face_width, 0.62 * self.person.skin
        for side in (-1, 1):
            self.skin.paint(oval(side * (w + 0.03), 0.2, 0.13, p.ear_size), 0.9 * p.skin)
            self.skin.paint(oval(side * (w + 0.05), 0.2, 0.06, 0.65 * p.ear_size), shadow, 0.6, soft=0.02)
        self.skin.paint(self.outline, p.skin * (1 + 0.02 * p.grain[..., None]))
        for side in (-1, 1):
            cheek, socket = oval(side * 0.62, 0.62, 0.26, 0.2), oval(side * p.eye_x, -0.04, 0.3, 0.2)
            self.skin.paint(cheek, BLUSH, p.blush, soft=0.12, within=self.outline)
            self.skin.paint(socket, shadow, 0.45, soft=0.08)
            bag = stroke(0.05, (side * 0.24, 0.2), (side * p.eye_x, 0.27), (side * 0.72, 0.16))
            self.skin.paint(bag, shadow, p.eye_bag, soft=0.02)
            nostril, corner = (side * p.nose_width, p.nose_y), (side * (p.mouth_width + 0.1), p.mouth_y)
            fold = stroke(0.05, nostril, (side * 0.42, p.nose_y + 0.25), corner)
            self.skin.paint(fold, shadow, p.cheek_fold, soft=0.02)
        for x, y in p.freckles:
            self.skin.paint(oval(x, y, 0.018), 0.72 * p.skin, 0.6)
        for x, y, radius in p.moles:
            self.skin.paint(oval(x, y, radius), 0.4 * p.skin, 0.9, within=self.outline)

    def _paint_nose(self) -> None:
        p, y, w, shadow = self.person, self.person.nose_y, self.person.nose_width, 0.6 * self.person.skin
        under = stroke(0.14, (-w, y + 0.06), (0, y + 0.16), (w, y + 0.06))
        self.skin.paint(under, shadow, 0.5, soft=0.03)
        for side in (-1, 1):
            hole = oval(side * 0.5 * w, y + 0.075, 0.35 * w, p.nostril)
            wing = stroke(0.05, *((side * x * w, y + dy) for x, dy in ((0.9, -0.1), (1.15, 0), (0.85, 0.1))))
            flank = stroke(0.08, (side * 0.16, -0.2), (side * p.nose_bridge, 0.2), (side * 0.7 * w, y - 0.1))
            self.skin.paint(hole, 0.25 * p.skin, 0.85, soft=0.012)
            self.skin.paint(wing, shadow, 0.7, soft=0.015)
            self.skin.paint(flank, 0.75 * p.skin, 0.35, soft=0.03)
        tip = oval(0, y - 0.06, 0.3 * w, 0.06)
        self.skin.paint(tip, np.minimum(1.18 * p.skin, 255), 0.5, soft=0.03)

    def _paint_beard(self) -> None:
        p = self.person
        stubble = np.clip(0.75 + 0.35 * p.grain, 0, 1)
        if p.beard:
            top, w = p.mouth_y + 0.16, p.beard_width * p.face_width
            cheek = [(0, top), (0.3, top), (0.75 * w, 0.75), (1.05 * w, 0.5)]
            jaw = [(1.05 * w, 1.2), (0.63 * w, p.chin_y + 0.05), (0, p.chin_y + 0.1)]
            self.skin.paint(mirrored(*cheek, *jaw), p.hair, p.beard * stubble, soft=0.05, within=self.outline)
        if p.moustache:
            y, end = p.mouth_y - p.upper_lip, (p.mouth_width + 0.06, p.mouth_y - p.upper_lip + 0.06)
            shape = mirrored((0, y - 0.16), (0.2, y - 0.14), end, (0.2, y - 0.01), (0, y - 0.03))
            self.skin.paint(shape, p.hair, p.moustache * stubble, soft=0.025)

    def _paint_hair(self, hair_colours: np.ndarray) -> None:
        """Hair over forehead and temples, and its shadow. A layer of its own, because it covers the brows."""
        p, w = self.person, self.person.face_width
        outer, end = w + 0.04 + 0.6 * p.hair_volume, np.clip(p.hair_end, -0.1, 0.9)
        inner = w * (1.0 if end < 0.2 else 0.9)  # ears are free or covered

        def hairline(x):  # y of the hair's edge; x = -1 … 1 goes from temple to temple
            lock = max(p.fringe, 0.0) * (0.35 + abs(x - p.parting)) * (1 - 0.5 * abs(x))
            return p.hairline + 0.25 * x**2 + lock

        edge = [(x * w * p.temple_width, hairline(x)) for x in (0.95, 0.7, 0.3, -0.1, -0.5, -0.9)]
        contour = curve(
            (-outer, end), (-1.05 * outer, -0.5), (-0.8 * outer, -1.35), (0, -1.5 - p.hair_volume),
            (0.8 * outer, -1.35), (1.05 * outer, -0.5), (outer, end), (inner, end - 0.05), (inner, -0.3),
            *edge, (-inner, -0.3), (-inner, end - 0.05),
        )  # fmt: skip
        self.hair.paint(contour, 0.5 * p.hair, 0.5, soft=0.06, within=self.outline)
        self.hair.paint(contour, hair_colours, soft=0.012)
