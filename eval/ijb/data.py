"""IJB-B and IJB-C as insightface distributes them: loose crops, landmarks, templates, pairs, 1:N lists.

    ROOT/IJBC/loose_crop/NAME.jpg
    ROOT/IJBC/meta/ijbc_face_tid_mid.txt             NAME template media
    ROOT/IJBC/meta/ijbc_name_5pts_score.txt          NAME x1 y1 … x5 y5 score, the same rows
    ROOT/IJBC/meta/ijbc_template_pair_label.txt      template template 1|0
    ROOT/IJBC/meta/ijbc_1N_gallery_G1.csv, _G2.csv   header; template,subject,…
    ROOT/IJBC/meta/ijbc_1N_probe_mixed.csv           header; template,subject,…

IJB-B: the same with `ijbb`, galleries S1 and S2. A row of a 1:N list is an image; its template may recur. The
three 1:N lists, a later download, may be missing together: then there is 1:1 alone.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from eval.readers.errors import MissingFilesError
from eval.readers.tables import Column, read_rows
from utils.faces import coincide

GALLERIES = {"IJBB": ("S1", "S2"), "IJBC": ("G1", "G2")}
COORDINATES = [f"{axis}{point}" for point in range(1, 6) for axis in "xy"]


class Enrolment(NamedTuple):
    """Templates and who they show; each template once, in ascending order."""

    templates: np.ndarray  # (G,) ids
    subjects: np.ndarray  # (G,)


@dataclass(frozen=True)
class IJB:
    """One benchmark's metadata, checked."""

    name: str  # "IJBB" or "IJBC"
    paths: list[str]  # N loose crops
    landmarks: np.ndarray  # (N, 5, 2) pixels
    detector_scores: np.ndarray  # (N,)
    templates: np.ndarray  # (N,) the template of each image
    media: np.ndarray  # (N,) the photograph or video it is from
    pairs: np.ndarray  # (P, 2) template ids
    same: np.ndarray  # (P,) bool
    galleries: tuple[Enrolment, Enrolment] | None  # no subject in both; None: there are no 1:N lists
    probes: Enrolment | None  # each subject is in one of the galleries


def find(root: str | Path) -> list[str]:
    """Which benchmarks a folder holds.

    Raises:
        FileNotFoundError: neither.
    """
    found = [name for name in GALLERIES if (Path(root) / name / "meta").is_dir()]
    if not found:
        raise FileNotFoundError(f"{root} holds neither IJBB/meta nor IJBC/meta")
    return found


def load_ijb(root: str | Path, name: str) -> IJB:
    """Read and check the metadata of one benchmark; no image is opened.

    Args:
        root: the folder that holds IJBB or IJBC.
        name: "IJBB" or "IJBC".
    Raises:
        FileNotFoundError: a missing file; images that are not there, with their lines.
        ValueError: in one line, with file and line: what `read_rows` finds; files that disagree on an image;
            landmarks in one place; templates without images; a label that is neither 0 nor 1; a template of
            two subjects; a subject with two templates in the galleries; a probe whose subject is in none.
    """
    meta, prefix = Path(root) / name / "meta", name.lower()
    image_file, point_file = meta / f"{prefix}_face_tid_mid.txt", meta / f"{prefix}_name_5pts_score.txt"
    images = read_rows(image_file, {"name": str, "template": int, "media": int})
    points = read_rows(
        point_file, dict.fromkeys(["name"], str) | dict.fromkeys([*COORDINATES, "score"], float)
    )
    check_same_names(image_file, images["name"], point_file, points["name"])
    crops = Path(root) / name / "loose_crop"
    check_images(image_file, images["name"], crops)
    landmarks = np.stack([points[axis] for axis in COORDINATES], axis=1).reshape(-1, 5, 2)
    check_rows(point_file, ~coincide(landmarks), landmarks[:, 0], "landmarks that are all in one place")
    known = np.unique(images["template"])

    pair_file = meta / f"{prefix}_template_pair_label.txt"
    rows = read_rows(pair_file, {"template": int, "other template": int, "label": int})
    pairs, label = np.stack([rows["template"], rows["other template"]], axis=1), rows["label"]
    check_rows(pair_file, np.isin(pairs, known).all(axis=1), pairs, "a template without images")
    check_rows(pair_file, (label == 0) | (label == 1), label, "a label that is neither 0 nor 1")
    if label.all() or not label.any():
        kind = "the same subject" if label.all() else "different subjects"
        raise ValueError(f"{pair_file}: all {len(label)} pairs are of {kind}, expected both kinds")

    galleries, probes = load_identification(meta, name, known)
    return IJB(
        name=name,
        paths=[str(crops / image) for image in images["name"]],
        landmarks=landmarks,
        detector_scores=points["score"],
        templates=images["template"],
        media=images["media"],
        pairs=pairs,
        same=label == 1,
        galleries=galleries,
        probes=probes,
    )


def load_identification(
    meta: Path, name: str, known: np.ndarray
) -> tuple[tuple[Enrolment, Enrolment] | None, Enrolment | None]:
    """Galleries and probes of 1:N; None for both where none of the three lists is there.

    Args:
        known: ids of the templates that have images.
    Raises:
        FileNotFoundError, ValueError: see `load_ijb`.
    """
    prefix = name.lower()
    gallery_files = [meta / f"{prefix}_1N_gallery_{part}.csv" for part in GALLERIES[name]]
    probe_file = meta / f"{prefix}_1N_probe_mixed.csv"
    if not any(file.exists() for file in (*gallery_files, probe_file)):
        return None, None
    galleries, enrolled = [], {}  # subject -> where it is enrolled
    for file in gallery_files:
        gallery, lines = load_enrolment(file, known)
        galleries.append(gallery)
        for template, subject, line in zip(*map(np.ndarray.tolist, (*gallery, lines))):
            if subject in enrolled:
                whose = f"{file} line {line}: subject {subject} of template {template}"
                raise ValueError(f"{whose} is enrolled already: {enrolled[subject]}")
            enrolled[subject] = f"template {template}, {file.name} line {line}"
    probes, _ = load_enrolment(probe_file, known, subjects=np.array(list(enrolled)))
    return tuple(galleries), probes


def load_enrolment(
    path: Path, known: np.ndarray, subjects: np.ndarray | None = None
) -> tuple[Enrolment, np.ndarray]:
    """A 1:N list, and the first line of each template, `(G,)`.

    Args:
        known: ids of the templates that have images.
        subjects: who may occur; None: anybody.
    Raises:
        ValueError: see `load_ijb`.
    """
    rows = read_rows(path, {"template": int, "subject": int}, header=True, delimiter=",", extra=True)
    template, subject = rows["template"], rows["subject"]
    check_rows(path, np.isin(template, known), template, "a template without images", header=True)
    if subjects is not None:
        check_rows(path, np.isin(subject, subjects), subject, "a subject of no gallery", header=True)
    templates, first, back = np.unique(template, return_index=True, return_inverse=True)
    check_rows(path, subject == subject[first][back], template, "a template of two subjects", header=True)
    return Enrolment(templates, subject[first]), first + 2


def check_same_names(file: Path, names: Column, other: Path, other_names: Column) -> None:
    """Require that two files list the same images in the same order.

    Raises:
        ValueError: naming the first row that differs.
    """
    if len(names) != len(other_names):
        raise ValueError(f"{other} has {len(other_names)} rows, {file.name} has {len(names)}")
    if names != other_names:
        row = next(row for row, pair in enumerate(zip(names, other_names)) if pair[0] != pair[1])
        raise ValueError(f"{other} line {row + 1}: {other_names[row]!r}, but {file.name} has {names[row]!r}")


def check_images(path: Path, names: Column, folder: Path) -> None:
    """Require that a folder holds the images of a list. One listing is faster than a look for each image.

    Raises:
        MissingFilesError: some are not there.
    """
    there = set(os.listdir(folder)) if folder.is_dir() else set()
    if lost := [f"{name} of line {line}" for line, name in enumerate(names, start=1) if name not in there]:
        raise MissingFilesError(f"{path}: of its {len(names):,} images {folder} lacks", lost)


def check_rows(path: Path, right: np.ndarray, values: np.ndarray, fault: str, header: bool = False) -> None:
    """Require that every row is right.

    Raises:
        ValueError: naming the first that is not, with its values.
    """
    if not right.all():
        row = int(np.argmin(right))
        raise ValueError(f"{path} line {row + 1 + header}: {fault}: {np.array2string(values[row])}")
