"""Tiny trees in the official layouts of TinyFace and QMUL-SurvFace: noise for faces, real names and lists."""

import json
from pathlib import Path
from zlib import crc32

import cv2
import numpy as np
from scipy.io import savemat

TINYFACE = {
    "Probe": ["1_1.jpg", "1_2.jpg", "2_1.jpg", "30_1.JPG"],
    "Gallery_Match": ["1_3.jpg", "2_2.jpg", "2_3.PNG", "30_2.jpeg"],
    # Named after the photograph: the first field is no identity, and meets some people's.
    "Gallery_Distractor": ["1_0_face3.jpg", "44_7_face11.jpg", "7.5_1_face2.jpg"],
}
SURVFACE = {
    "gallery": ["10001_cam1_1.jpg", "10001_cam2_1.jpg", "10002_cam1_1.jpg"],
    "mated_probe": ["10001_cam3_1.jpg", "10002_cam1_2.jpg"],
    "unmated_probe": ["10007_cam1_1.jpg", "distractors_1.jpg", "distractors_2.jpg"],
}
SURVFACE_LABEL = {10001: 1, 10002: 2}  # SurvFace's lists count the enrolled people from 1


def cells(rows) -> np.ndarray:
    """An array of objects, which MATLAB calls a cell: `(N, 1)` of texts, or `(N, 2)` of pairs."""
    rows = [row if isinstance(row, (tuple, list)) else (row,) for row in rows]
    array = np.empty((len(rows), len(rows[0])), dtype=object)
    for i, row in enumerate(rows):
        array[i] = row
    return array


def write_image(path: Path, size: int, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
    cv2.imwrite(str(path), pixels)


def write_sets(sets: dict[str, list[str]], originals: Path, aligned: Path) -> None:
    """Loose faces of 20 pixels in `originals`, aligned ones in `aligned`."""
    for folder, names in sets.items():
        for name in names:
            write_image(originals / folder / name, 20, seed=0)
            # An alignment writes its own extension.
            write_image(aligned / folder / f"{Path(name).stem}.png", 112, seed=crc32(name.encode()))


def identity_lists(names: list[str], names_key: str, ids_key: str, label=int) -> dict[str, np.ndarray]:
    """Both variables as the published files have them."""
    ids = [[label(int(name.split("_")[0]))] for name in names]
    return {names_key: cells(names), ids_key: np.array(ids, dtype=np.uint16)}


def write_tinyface(root: Path) -> Path:
    testing = root / "tinyface" / "Testing_Set"
    write_sets(TINYFACE, testing, root / "aligned_pad_0.1_pad_high")
    for name, folder, key in (
        ("probe_img_ID_pairs.mat", "Probe", "probe"),
        ("gallery_match_img_ID_pairs.mat", "Gallery_Match", "gallery"),
    ):
        savemat(testing / name, identity_lists(TINYFACE[folder], f"{key}_set", f"{key}_ids"))
    return root


def write_survface(root: Path, num_pairs: int = 6) -> Path:
    test_set = root / "QMUL-SurvFace" / "Face_Identification_Test_Set"
    write_sets(SURVFACE, test_set, root / "surv_align")
    for name, folder, key in (
        ("mated_probe_img_ID_pairs.mat", "mated_probe", "mated_probe"),
        ("gallery_img_ID_pairs.mat", "gallery", "gallery"),
    ):
        lists = identity_lists(SURVFACE[folder], f"{key}_set", f"{key}_ids", SURVFACE_LABEL.get)
        savemat(test_set / name, lists)

    lists = root / "QMUL-SurvFace" / "Face_Verification_Test_Set"
    lists.mkdir()
    same = [(f"{i}_cam1_1.jpg", f"{i}_cam2_1.jpg") for i in range(num_pairs)]
    different = [(f"{i}_cam1_1.jpg", f"{(i + 1) % num_pairs}_cam2_1.jpg") for i in range(num_pairs)]
    savemat(lists / "positive_pairs_names.mat", {"positive_pairs_names": cells(same)})
    savemat(lists / "negative_pairs_names.mat", {"negative_pairs_names": cells(different)})
    for i, names in enumerate(same):
        for j, name in enumerate(names):
            write_image(root / "surv_ver_origin" / "verification_images" / name, 112, seed=2 * i + j)
    return root


def directions(degrees) -> np.ndarray:
    """Unit vectors in the plane, `(N, 2)`: the nearer two angles, the higher the score."""
    angle = np.deg2rad(degrees)
    return np.stack([np.cos(angle), np.sin(angle)], axis=1)


def results_in(folder: Path) -> dict:
    """A script's results.json, without the state of the repository, which may change while tests run."""
    results = json.loads((folder / "results.json").read_text())
    del results["git"]
    return results


def run_here(monkeypatch, main, *arguments) -> None:
    """Run a script's `main` in this process, which has imported torch already."""
    monkeypatch.setattr("sys.argv", ["script", *map(str, arguments)])
    main()
