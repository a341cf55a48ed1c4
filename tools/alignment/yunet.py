"""YuNet, by OpenCV's own code, from an ONNX file that the user has: faces with float landmarks.

W. Wu, H. Peng, S. Yu, YuNet: A Tiny Millisecond-level Face Detector, Machine Intelligence Research 2023. The
file is face_detection_yunet_*.onnx of https://github.com/opencv/opencv_zoo
"""

from pathlib import Path

import cv2
import numpy as np
from cv2.utils import logging

from tools.alignment.faces import Face

LEAST = 0.7  # score


class YuNet:
    """Finds faces in photographs.

    Args:
        path: the ONNX file.
    Raises:
        FileNotFoundError: no such file.
        ValueError: OpenCV cannot read it as YuNet.
    """

    def __init__(self, path: Path):
        if not path.is_file():
            raise FileNotFoundError(f"no detector {str(path)!r}")
        level = logging.getLogLevel()
        logging.setLogLevel(logging.LOG_LEVEL_SILENT)  # an error has the reason; the rest is OpenCV's affair
        try:
            self.detector = cv2.FaceDetectorYN.create(str(path), "", (320, 320), LEAST)
        except cv2.error as error:
            raise ValueError(f"{path} is no YuNet that OpenCV can read ({error.err})") from error
        finally:
            logging.setLogLevel(level)

    def __call__(self, image: np.ndarray, min_face: float) -> list[Face]:
        """The faces in an RGB image `(H, W, 3)` uint8 of at least `min_face` pixels."""
        self.detector.setInputSize(image.shape[1::-1])
        _, found = self.detector.detect(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
        rows = np.empty((0, 15)) if found is None else found.astype(np.float64)
        # A row: box, then the person's right eye (left in the image), left eye, nose, corners of the mouth.
        faces = [Face(tuple(row[:4].tolist()), float(row[14]), row[4:14].reshape(5, 2)) for row in rows]
        return [face for face in faces if min(face.box[2:]) >= min_face]
