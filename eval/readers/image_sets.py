"""Sets of test images: a folder of originals says who belongs to a set, a second one holds the aligned faces.

TinyFace and QMUL-SurvFace are published as loose faces. A network gets their aligned copies, which are
found by set folder and stem (the file name without its extension): an alignment that lost images, or wrote
one twice, is an error and never a smaller gallery. Extensions may be in upper case, and sub-folders are
searched.

The identity of an image is the first field of its name (12_3.jpg, 10002_cam3_1.jpg), as in the public code.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from eval.readers.errors import ListedError, MissingFilesError
from eval.readers.mat_lists import read_identities
from loading.image_files import IMAGE_SUFFIXES, images_below


@dataclass(frozen=True)
class ImageSet:
    """Images in the order of their stems."""

    stems: tuple[str, ...]
    aligned: tuple[Path, ...]  # one for each stem
    folder: Path  # of the originals

    def __len__(self) -> int:
        return len(self.stems)


def index_images(folder: str | Path) -> dict[str, Path]:
    """Every image at any depth below a folder, by stem, in the order of the stems.

    Raises:
        FileNotFoundError: no such folder, or no image in it.
        ValueError: two images of the same stem.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {folder}")
    index, twice = {}, []
    for path in images_below(folder):
        if path.stem in index:
            twice.append(f"{index[path.stem].relative_to(folder)} and {path.relative_to(folder)}")
        index[path.stem] = path
    if twice:
        raise ListedError(f"{folder}: images of the same name:", twice)
    if not index:
        raise FileNotFoundError(f"{folder} holds no images ({', '.join(IMAGE_SUFFIXES)} in any case)")
    return dict(sorted(index.items()))


def find_images(
    stems: Iterable[str], folder: str | Path, wanted_by: str | Path, places: Mapping[str, str] | None = None
) -> list[Path]:
    """The image of each stem in a folder.

    Args:
        wanted_by: what has them all, for the error.
        places: stem -> where in it the stem is, such as "FILE row 3"; None: the stem is easy to find.
    Raises:
        MissingFilesError: some are not there.
        FileNotFoundError: see `index_images`.
        ValueError: see `index_images`.
    """
    index = index_images(folder)
    stems = list(stems)
    if missing := [stem for stem in stems if stem not in index]:
        names = [f"{stem} of {places[stem]}" for stem in missing] if places else missing
        raise MissingFilesError(f"{folder} lacks", names, f" of {len(stems):,} images of {wanted_by}")
    return [index[stem] for stem in stems]


def read_set(originals: str | Path, aligned: str | Path) -> ImageSet:
    """The images of one set.

    Raises:
        FileNotFoundError, ValueError: see `index_images` and `find_images`.
    """
    stems = tuple(index_images(originals))
    return ImageSet(stems, tuple(find_images(stems, aligned, originals)), Path(originals))


def identities(images: ImageSet) -> np.ndarray:
    """The identity of each image, `(N,)` int64: the first field of its name.

    Raises:
        ValueError: where that is no number.
    """
    fields = [stem.split("_")[0] for stem in images.stems]
    if wrong := [stem for stem, field in zip(images.stems, fields) if not field.isdecimal()]:
        raise ListedError(
            f"{images.folder}: names that do not begin with an identity, as 12_3.jpg does:", wrong
        )
    return np.array(fields, dtype=np.int64)


def check_enrolled(probes: ImageSet, probe_ids: np.ndarray, gallery_ids: np.ndarray, gallery: Path) -> None:
    """Require that every probe has a mate in the gallery.

    Raises:
        ListedError: some have not.
    """
    lost = np.flatnonzero(~np.isin(probe_ids, gallery_ids))
    if len(lost):
        names = [probes.stems[i] for i in lost]
        raise ListedError(f"{probes.folder}: probes whose identity has no image in {gallery}:", names)


def check_lists(sets: Iterable[tuple[ImageSet, Path, str, str]]) -> list[str]:
    """Compare folders with the published lists that exist.

    A list has to name exactly the images of its folder, and its identities have to group the images as the
    file names do: one identity of the lists for one of the names, over all lists together. The numbers
    themselves may differ (SurvFace counts its people anew).

    Args:
        sets: for each list: images, its file, its variables of names and of identities.
    Returns:
        The names of the lists that exist.
    Raises:
        ValueError: a mismatch, or see `mat_lists.read_identities`.
    """
    name_of_listed, listed_of_name, checked = {}, {}, []
    for images, path, names_key, ids_key in sets:
        if not path.exists():
            continue
        names, listed = read_identities(path, names_key, ids_key)
        stems = [Path(name).stem for name in names]
        in_folder = dict(zip(images.stems, identities(images).tolist()))
        rows = enumerate(zip(names, stems), start=1)
        if strange := [f"{name} of row {row}" for row, (name, stem) in rows if stem not in in_folder]:
            raise ListedError(f"{path} names images that are not in {images.folder}:", strange)
        if unnamed := sorted(in_folder.keys() - set(stems)):
            raise ListedError(f"{path} does not name images that are in {images.folder}:", unnamed)
        row_of = {}
        for row, (stem, number) in enumerate(zip(stems, listed.tolist()), start=1):
            if row_of.setdefault(stem, row) != row:
                raise ValueError(f"{path} row {row}: {stem} is in row {row_of[stem]} already")
            identity = in_folder[stem]
            if (other := name_of_listed.setdefault(number, identity)) != identity:
                raise ValueError(f"{path} row {row}: {stem} has identity {number}, as images of {other} have")
            if (other := listed_of_name.setdefault(identity, number)) != number:
                raise ValueError(
                    f"{path} row {row}: {stem} has identity {number}, other images of {identity} have {other}"
                )
        checked.append(path.name)
    return checked
