"""Folders of originals, aligned faces and published lists: what fits is read, what does not is listed."""

from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from eval.readers.image_sets import (
    ImageSet,
    check_enrolled,
    check_lists,
    find_images,
    identities,
    index_images,
    read_set,
)
from helpers.tinysurv_trees import cells


def touch(folder: Path, *names: str) -> Path:
    """Empty files: no image is read here."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return folder


def test_images_are_matched_by_stem_whatever_the_extension_or_sub_folder(tmp_path):
    originals = touch(tmp_path / "o", "2_1.JPG", "10_1.jpeg", "1_1.9.Png", "read.me", ".3_1.jpg", "4.mat")
    aligned = touch(tmp_path / "a", "x/1_1.9.jpg", "2_1.jpg", "10_1.png", "77_1.png")
    images = read_set(originals, aligned)
    assert images.stems == ("10_1", "1_1.9", "2_1")
    assert images.aligned == (aligned / "10_1.png", aligned / "x/1_1.9.jpg", aligned / "2_1.jpg")
    assert identities(images).tolist() == [10, 1, 2]


def test_duplicate_stems_are_listed(tmp_path):
    folder = touch(tmp_path, "1_1.jpg", "1_1.png", "b/2_1.jpg", "a/2_1.jpg", "3_1.jpg")
    with pytest.raises(ValueError, match=r": .* 2 \(1_1.jpg and 1_1.png, a/2_1.jpg and b/2_1.jpg\)"):
        index_images(folder)


def test_linked_folders_are_searched_once_and_what_systems_leave_is_not_taken(tmp_path):
    far = touch(tmp_path / "far", "1_1.jpg", "._1_1.jpg", "__MACOSX/5_1.jpg", ".cache/6_1.jpg")
    folder = touch(tmp_path / "set", "2_1.webp", "Thumbs.db")
    (folder / "3_1.jpg").mkdir()
    (folder / "part").symlink_to(far)
    (folder / "round").symlink_to(folder)
    assert list(index_images(folder)) == ["1_1", "2_1"]


def test_missing_images_are_counted_and_the_first_few_listed(tmp_path):
    folder = touch(tmp_path / "aligned", "1_0.jpg")
    stems = [f"1_{i}" for i in range(9)]
    expected = r"aligned lacks 8 \(1_1, 1_2, 1_3, 1_4, 1_5, …\) of 9 images of the list"
    with pytest.raises(FileNotFoundError, match=expected):
        find_images(stems, folder, "the list")
    with pytest.raises(FileNotFoundError, match=r"lacks 1 \(1_1\) of 2"):
        find_images(stems[:2], folder, "the list")
    with pytest.raises(FileNotFoundError, match=r"lacks 1 \(1_1 of row 7\) of 2 images of the list"):
        find_images(stems[:2], folder, "the list", {"1_0": "row 6", "1_1": "row 7"})


def test_folders_that_are_empty_or_not_there_are_reported(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no folder .*Probe"):
        index_images(tmp_path / "Probe")
    with pytest.raises(FileNotFoundError, match="holds no images"):
        index_images(touch(tmp_path, "1_1.gif"))


def image_set(*stems: str) -> ImageSet:
    return ImageSet(stems, tuple(Path(f"{stem}.png") for stem in stems), Path("Probe"))


def test_names_without_an_identity_are_listed():
    with pytest.raises(ValueError, match=r"Probe: .* 2 \(x_1, -1_2\)"):
        identities(image_set("1_1", "x_1", "-1_2"))


def test_probes_of_nobody_in_the_gallery_are_listed():
    probes = image_set("1_1", "2_1", "2_2", "3_1")
    ids = identities(probes)
    check_enrolled(probes, ids, np.array([3, 2, 1]), Path("Gallery"))
    with pytest.raises(ValueError, match=r"Probe: .* no image in Gallery: 2 \(2_1, 2_2\)"):
        check_enrolled(probes, ids, np.array([3, 1]), Path("Gallery"))


def lists(tmp_path, first_ids, second_ids, first=("10_1.jpg", "20_1.jpg"), second=("10_2.jpg", "20_2.jpg")):
    """Check two sets of two images each against lists that say so."""
    for name, names, ids in (("a.mat", first, first_ids), ("b.mat", second, second_ids)):
        savemat(tmp_path / name, {"names": cells(names), "ids": np.array(ids)})
    sets = (image_set("10_1", "20_1"), image_set("10_2", "20_2"))
    paths = (tmp_path / "a.mat", tmp_path / "b.mat")
    return check_lists([(images, path, "names", "ids") for images, path in zip(sets, paths)])


def test_lists_may_number_people_anew_and_may_be_absent(tmp_path):
    assert lists(tmp_path, [10, 20], [10, 20]) == ["a.mat", "b.mat"]
    assert lists(tmp_path, [1, 2], [1, 2]) == ["a.mat", "b.mat"]
    (tmp_path / "a.mat").unlink()
    assert check_lists([(image_set("1_1"), tmp_path / "a.mat", "names", "ids")]) == []


@pytest.mark.parametrize(
    ("ids", "names", "message"),
    [
        (([1, 1], [1, 2]), {}, "a.mat row 2: 20_1 has identity 1, as images of 10 have"),
        (([1, 2], [2, 1]), {}, "b.mat row 1: 10_2 has identity 2, as images of 20 have"),
        (([1, 2], [1, 3]), {}, "b.mat row 2: 20_2 has identity 3, other images of 20 have 2"),
        (([1, 2], [1]), {"second": ("10_2.jpg",)}, r"b.mat does not name .* 1 \(20_2\)"),
        (([1, 2], [1, 2, 2]), {"second": ("10_2", "20_2", "20_3")}, r"names .* Probe: 1 \(20_3 of row 3\)"),
        (([1, 2], [1, 2, 1]), {"second": ("10_2", "20_2", "10_2")}, "b.mat row 3: 10_2 is in row 1 already"),
    ],
)
def test_a_list_that_contradicts_the_folder_is_an_error(tmp_path, ids, names, message):
    with pytest.raises(ValueError, match=message):
        lists(tmp_path, *ids, **names)
