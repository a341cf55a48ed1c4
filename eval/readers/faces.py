"""The input of a network: aligned faces, 112x112, read from files when they are needed.

A sequence of faces has a length, slices `faces[a:b]` that are `(n, 112, 112, 3)` uint8 RGB arrays, and a
`fingerprint()`, which changes when the images may have changed: it is the data's part of the cache's key.
"""

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from eval.readers.errors import MissingFilesError
from utils.faces import ALIGNED, SIZE, align, coincide, decode_rgb, five_points


class FaceFiles:
    """Image files as a sequence of faces; a subclass says how one is read.

    Raises:
        MissingFilesError: files that are not there, before anything is read.
    """

    def __init__(self, paths: Iterable[str | Path]):
        self.paths = [os.fspath(path) for path in paths]
        self.states, missing = [], []  # size and time of change of each
        for path in self.paths:
            try:
                stat = os.stat(path)
                self.states.append((stat.st_size, stat.st_mtime_ns))
            except FileNotFoundError:
                missing.append(path)
        if missing:
            raise MissingFilesError(f"of {len(self.paths):,} images these are missing:", missing)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, part: slice) -> np.ndarray:
        """`(n, 112, 112, 3)` uint8, RGB."""
        chosen = range(len(self))[part]
        faces = np.empty((len(chosen), SIZE, SIZE, 3), dtype=np.uint8)
        for face, index in zip(faces, chosen):
            face[:] = self.read(index)
        return faces

    def read(self, index: int) -> np.ndarray:
        """One face, `(112, 112, 3)` uint8, RGB."""
        raise NotImplementedError

    def decode(self, index: int) -> np.ndarray:
        """The image in a file, `(H, W, 3)` uint8, RGB.

        Raises:
            ValueError: it is damaged, or no image; the message names it.
        """
        try:
            return decode_rgb(Path(self.paths[index]).read_bytes())
        except ValueError as fault:
            raise ValueError(f"{self.paths[index]}: {fault}") from None

    def fingerprint(self) -> str:
        """Of paths, sizes and times of change: no image is read."""
        digest = hashlib.sha256(type(self).__name__.encode())
        for path, (size, changed) in zip(self.paths, self.states):
            digest.update(os.fsencode(f"{os.path.abspath(path)}\0{size}\0{changed}\n"))
        return digest.hexdigest()


class AlignedFaces(FaceFiles):
    """Files that hold aligned faces already."""

    def read(self, index: int) -> np.ndarray:
        """One face.

        Raises:
            ValueError: not an image, or of another size.
        """
        face = self.decode(index)
        if face.shape[:2] != (SIZE, SIZE):
            raise ValueError(f"{self.paths[index]} is {face.shape[1]}x{face.shape[0]}, expected {ALIGNED}")
        return face


class CroppedFaces(FaceFiles):
    """Files that hold a face somewhere, and where: each is aligned when it is read.

    Args:
        paths: N image files.
        landmarks: `(N, 5, 2)`, in the order of TEMPLATE, or `(N, 68, 2)`: x and y in pixels of the file.
    Raises:
        ValueError: another shape, or landmarks that are not finite or coincide; the message names the file.
    """

    def __init__(self, paths: Iterable[str | Path], landmarks: np.ndarray):
        super().__init__(paths)
        landmarks = np.asarray(landmarks, dtype=np.float64)
        if landmarks.shape not in ((len(self), 5, 2), (len(self), 68, 2)):
            raise ValueError(
                f"landmarks are {landmarks.shape} for {len(self)} images, expected (N, 5, 2) or (N, 68, 2)"
            )
        self.points = five_points(landmarks) if landmarks.shape[1] == 68 else landmarks
        useless = ~np.isfinite(self.points).all(axis=(1, 2)) | coincide(self.points)
        if useless.any():
            raise ValueError(
                f"{self.paths[np.argmax(useless)]}: its landmarks are no face, "
                "but not finite or all in one place"
            )

    def read(self, index: int) -> np.ndarray:
        """One face, aligned."""
        return align(self.decode(index), self.points[index])

    def fingerprint(self) -> str:
        """Of the files, as above, and of the landmarks."""
        return hashlib.sha256(super().fingerprint().encode() + self.points.tobytes()).hexdigest()
