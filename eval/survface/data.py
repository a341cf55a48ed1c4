"""The two halves of QMUL-SurvFace on the disk: pairs to verify, and probes to identify.

DATA/QMUL-SurvFace/Face_Verification_Test_Set/{positive,negative}_pairs_names.mat
DATA/surv_ver_origin/verification_images/*                                                   112x112
DATA/QMUL-SurvFace/Face_Identification_Test_Set/{gallery,mated_probe,unmated_probe}/*        as published
DATA/QMUL-SurvFace/Face_Identification_Test_Set/{gallery,mated_probe}_img_ID_pairs.mat       optional
DATA/surv_align/{gallery,mated_probe,unmated_probe}/*                                        112x112
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from eval.readers.image_sets import check_enrolled, check_lists, find_images, identities, read_set
from eval.readers.mat_lists import read_name_pairs

PAIR_LISTS = Path("QMUL-SurvFace") / "Face_Verification_Test_Set"
ORIGINALS = Path("QMUL-SurvFace") / "Face_Identification_Test_Set"
VERIFICATION_IMAGES = Path("surv_ver_origin") / "verification_images"
ALIGNED = Path("surv_align")


@dataclass(frozen=True)
class Pairs:
    """What verification compares."""

    paths: list[Path]  # each image once
    first: np.ndarray  # (P,) index into `paths`
    second: np.ndarray  # (P,)
    same: np.ndarray  # (P,) bool
    people: np.ndarray  # (P, 2) identity of both images, by their names


@dataclass(frozen=True)
class Probes:
    """What identification searches: gallery, then mated, then unmated probes."""

    paths: list[Path]
    gallery_ids: np.ndarray  # (G,)
    mated_ids: np.ndarray  # (M,)
    num_unmated: int
    lists: list[str]  # the .mat files that were there, and agree


def exist(*folders: Path) -> bool:
    return all(folder.is_dir() for folder in folders)


def read_tree(
    root: Path, verification_images: Path | None = None, aligned: Path | None = None
) -> tuple[Pairs | None, Probes | None, list[str]]:
    """Find and check everything that both protocols need.

    A half is left out if one of its two folders does not exist. A folder that was asked for by name has to
    exist, and a half that is not left out has to be complete.

    Args:
        root: folder that holds `QMUL-SurvFace/`.
        verification_images, aligned: folders of aligned images; None: the published ones.
    Returns:
        Each half, or None; and a line for each that is missing.
    Raises:
        FileNotFoundError, ValueError: neither half is there; see `read_verification` and
            `read_identification`.
    """
    pairs = probes = None
    missing = []
    lists, images = root / PAIR_LISTS, verification_images or root / VERIFICATION_IMAGES
    if verification_images or exist(lists, images):
        pairs = read_verification(lists, images)
    else:
        missing.append(f"verification is left out: it needs {lists} and {images}")
    originals, folder = root / ORIGINALS, aligned or root / ALIGNED
    if aligned or exist(originals, folder):
        probes = read_identification(originals, folder)
    else:
        missing.append(f"identification is left out: it needs {originals} and {folder}")
    if pairs is None and probes is None:
        raise FileNotFoundError(f"{root} holds no half of QMUL-SurvFace: " + "; ".join(missing))
    return pairs, probes, missing


def read_verification(lists: Path, images: Path) -> Pairs:
    """The positive pairs, then the negative ones.

    Raises:
        FileNotFoundError: a list or images are not there.
        ValueError: a malformed list, a pair whose names contradict its list, two images of one name.
    """
    positive, negative = (
        read_name_pairs(lists / f"{key}.mat", key) for key in ("positive_pairs_names", "negative_pairs_names")
    )
    same = np.repeat([True, False], [len(positive), len(negative)])
    stems = np.array([[Path(name).stem for name in pair] for pair in positive + negative])  # (P, 2)
    people = np.array([[person(stem) for stem in pair] for pair in stems])
    if (wrong := (people[:, 0] == people[:, 1]) != same).any():
        pair = int(np.argmax(wrong))
        raise ValueError(
            f"{lists / place_of(pair, same)}: {' and '.join(stems[pair])} are "
            f"{'different people' if same[pair] else 'the same person'} by their names"
        )
    unique, at, index = np.unique(stems, return_index=True, return_inverse=True)
    places = {stem: place_of(pair, same) for stem, pair in zip(unique.tolist(), at // 2)}
    first, second = index.reshape(-1, 2).T
    return Pairs(find_images(unique.tolist(), images, lists, places), first, second, same, people)


def place_of(pair: int, same: np.ndarray) -> str:
    """Where a pair is listed: the positive ones come first."""
    if same[pair]:
        return f"positive_pairs_names.mat row {pair + 1}"
    return f"negative_pairs_names.mat row {pair + 1 - same.sum()}"


def person(stem: str) -> str:
    """The identity that a name begins with; an image without one is a person of its own."""
    field = stem.split("_")[0]
    return field if field.isdecimal() else stem


def read_identification(originals: Path, aligned: Path) -> Probes:
    """Gallery, mated and unmated probes.

    Raises:
        FileNotFoundError: a folder or aligned images are not there.
        ValueError: two images of one name, a name without an identity, lists that contradict the folders, a
            mated probe without a mate.
    """
    names = ("gallery", "mated_probe", "unmated_probe")
    gallery, mated, unmated = (read_set(originals / name, aligned / name) for name in names)
    lists = check_lists(
        [
            (gallery, originals / "gallery_img_ID_pairs.mat", "gallery_set", "gallery_ids"),
            (mated, originals / "mated_probe_img_ID_pairs.mat", "mated_probe_set", "mated_probe_ids"),
        ]
    )
    gallery_ids, mated_ids = identities(gallery), identities(mated)
    check_enrolled(mated, mated_ids, gallery_ids, gallery.folder)
    return Probes(
        paths=[*gallery.aligned, *mated.aligned, *unmated.aligned],
        gallery_ids=gallery_ids,
        mated_ids=mated_ids,
        num_unmated=len(unmated),
        lists=lists,
    )
