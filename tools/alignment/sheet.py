"""A page of photographs before and after alignment, to be looked at before anything is trained on them."""

from collections.abc import Sequence

import numpy as np

from tools.alignment.photograph import THUMBNAIL
from utils.faces import SIZE

COLUMNS, GAP, WHITE = 3, 12, 255


def contact_sheet(pictures: Sequence[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """`(H, W, 3)` uint8, RGB: each photograph with its marks, and right of it the aligned face.

    Args:
        pictures: photographs of at most THUMBNAIL pixels, and faces of 112x112.
    """
    width, height = THUMBNAIL + SIZE + 3 * GAP, THUMBNAIL + 2 * GAP
    columns = min(COLUMNS, len(pictures))
    rows = -(-len(pictures) // columns)
    sheet = np.full((rows * height, columns * width, 3), WHITE, np.uint8)
    for index, (before, after) in enumerate(pictures):
        top, left = index // columns * height + GAP, index % columns * width + GAP
        sheet[top : top + before.shape[0], left : left + before.shape[1]] = before
        left += THUMBNAIL + GAP
        sheet[top : top + SIZE, left : left + SIZE] = after
    return sheet
