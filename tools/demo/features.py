"""The parts of a face that an expression moves, glasses and hats: painted anew for each photograph.

p is the Identity; side is -1 for the eye at negative x, 1 for the other one.
"""

import numpy as np

from tools.demo.canvas import Texture, curve, oval, stroke
from tools.demo.people import Accessories, Expression, Identity

EYE_WHITE, DARK, LIP, TEETH = np.float32([(226, 220, 214), (18, 12, 12), (176, 62, 70), (238, 232, 220)])
SHINE = (255, 240, 235)


def paint_eye(face: Texture, p: Identity, side: int, expression: Expression) -> None:
    open_up = 0.62 * p.eye_height * expression.eyes_open
    open_down = p.eye_height * (0.4 - 0.12 * max(expression.smile, 0))

    def place(*points):  # u: -1 at the inner corner, 1 at the outer one; v: down
        u, v = np.transpose(points) * ((p.eye_width / 2,), (1,))
        return np.stack([side * (p.eye_x + u), v - p.eye_tilt * u], axis=1)

    upper = [(-1, 0.02), (-0.45, -0.8 * open_up), (0.1, -open_up), (0.6, -0.72 * open_up), (1, -0.01)]
    lower = [(0.5, 0.75 * open_down), (0, open_down), (-0.55, 0.7 * open_down)]
    upper_lid, lower_lid = place(*upper), place(upper[-1], *lower, upper[0])
    shape = curve(*place(*upper, *lower))
    x, y = np.add((side * p.eye_x, -0.18 * p.eye_height), expression.gaze)

    face.paint(shape, EYE_WHITE)
    face.paint(oval(x, y, p.iris_size), 0.45 * p.iris, within=shape)
    face.paint(oval(x, y, 0.8 * p.iris_size), p.iris, soft=0.008, within=shape)
    face.paint(oval(x, y, 0.42 * p.iris_size), DARK, within=shape)
    face.paint(stroke(0.1, *np.add(upper_lid, (0, 0.03))), 0.4 * p.skin, 0.6, soft=0.02, within=shape)
    face.paint(oval(x + 0.03, y - 0.035, 0.022), SHINE, 0.9, within=shape)
    face.paint(stroke(p.lashes + 0.02, *upper_lid), 0.25 * p.skin + 0.1 * p.hair)
    crease = stroke(0.03, *np.subtract(upper_lid, (0, p.lid_crease + 0.02)))
    face.paint(crease, 0.5 * p.skin, 0.7, soft=0.008)
    face.paint(stroke(0.022, *lower_lid), 0.45 * p.skin, 0.6)


def paint_brow(face: Texture, p: Identity, side: int, expression: Expression) -> None:
    y, rise = p.brow_y - expression.brows_up, 0.5 * p.brow_tilt * p.brow_width
    inner, outer = p.brow_gap - 0.3 * expression.frown, p.brow_gap + p.brow_width
    middle = 0.4 * inner + 0.6 * outer
    line = [(inner, y + rise + expression.frown), (middle, y - p.brow_arch), (outer, y - rise + 0.06)]
    hairs = np.clip(0.85 + 0.25 * p.grain, 0, 1)
    shape = stroke(1.3 * p.brow_height, *np.multiply(line, (side, 1)))
    face.paint(shape, 0.6 * p.hair + 0.12 * p.skin, hairs, soft=0.012)


def paint_mouth(face: Texture, p: Identity, expression: Expression) -> None:
    smile, gap = expression.smile, 0.16 * expression.mouth_open
    half, corner_y = p.mouth_width * (1 + 0.15 * smile), p.mouth_y - 0.07 * smile
    left, right = (-half, corner_y - p.mouth_tilt), (half, corner_y + p.mouth_tilt)
    top, middle = p.mouth_y - p.upper_lip, p.mouth_y + 0.03 * smile
    bottom = middle + gap + p.lower_lip
    dip = top + p.cupid_bow * p.upper_lip

    def across(width, y_side, y_middle):  # three points from left to right
        return [(-width * half, y_side), (0, y_middle), (width * half, y_side)]

    upper_edge, lower_edge = across(0.25, top, dip), across(0.5, bottom - 0.3 * p.lower_lip, bottom)
    upper_rim = across(0.5, middle - 0.3 * gap - 0.01, middle - 0.4 * gap)
    lower_rim = across(0.5, middle + 0.5 * gap, middle + 0.6 * gap)
    inside = curve(left, *upper_rim, right, *lower_rim[::-1])
    lip = 0.85 * p.skin * (1 - p.lip_red) + LIP * p.lip_red * (0.4 + 0.6 * p.skin[0] / 255)

    face.paint(oval(0, bottom + 0.06, 0.5 * half, 0.04), 0.6 * p.skin, 0.5, soft=0.04)
    face.paint(inside, 0.4 * LIP)
    face.paint(oval(0, middle - 0.25 * gap, 0.62 * half, 0.4 * gap + 0.01, 3), TEETH, within=inside)
    face.paint(curve(left, *upper_edge, right, *upper_rim[::-1]), 0.86 * lip)
    face.paint(curve(right, *lower_edge[::-1], left, *lower_rim), lip)
    face.paint(oval(0, bottom - 0.5 * p.lower_lip, 0.35 * half, 0.025), SHINE, 0.35, soft=0.02)
    face.paint(stroke(0.03, left, *upper_rim, right), 0.3 * lip, 0.8)
    for x, y in (left, right):
        face.paint(oval(x, y, 0.03, 0.025), 0.4 * p.skin, 0.6, soft=0.012)


def paint_accessories(face: Texture, p: Identity, worn: Accessories) -> None:
    if worn.hat:
        w, rim_y = p.face_width + 0.12, worn.hat_edge + 0.3
        dome = [(w, rim_y), (w, -0.9), (0.7, -1.6), (0, -1.8), (-0.7, -1.6), (-w, -0.9), (-w, rim_y)]
        face.paint(curve(*dome, (0, worn.hat_edge)), worn.hat_colour)
        face.paint(stroke(0.12, dome[-1], (0, worn.hat_edge), dome[0]), 0.6 * worn.hat_colour)
    if worn.glasses or worn.sunglasses:
        radius, wire, x = p.glasses_size, p.glasses_wire, 1.02 * p.eye_x
        for side in (-1, 1):
            lens = oval(side * x, 0.03, radius, 0.8 * radius, p.glasses_exponent)
            hole = oval(side * x, 0.03, radius - wire, 0.8 * radius - wire, p.glasses_exponent)
            rim = np.concatenate([lens, lens[:1], hole[:1], hole[::-1]])
            face.paint(lens, *((DARK, 0.93) if worn.sunglasses else (SHINE, 0.07)))
            face.paint(rim, p.frame)
            temple = (side * (x + radius), -0.05), (side * (p.face_width + 0.1), -0.02)
            face.paint(stroke(1.5 * wire, *temple), p.frame)
        face.paint(stroke(2 * wire, (radius - x, 0), (0, -0.06), (x - radius, 0)), p.frame)
