"""Datasets: what they hold, how many classes, and one clear line for what cannot be used."""

import json
import os
import shutil

import cv2
import numpy as np
import pytest
import torch

from dataset import FolderDataset, MergedDataset, RecordDataset, SyntheticDataset, get_dataset, to_input
from helpers.records import GOLDENS, picture, png, settings, write_rec, write_rec_with_header
from loading import record_layout
from loading.image_files import IMAGE_SUFFIXES
from utils.recordio import MAGIC_BYTES, IndexedRecordWriter, RecordError

FACTS = json.loads((GOLDENS / "recordio.json").read_text())


def labels_of(dataset) -> list[int]:
    return [dataset[i][1] for i in range(len(dataset))]


@pytest.mark.parametrize("layout", ["insightface", "plain"])
def test_files_of_mxnet_give_the_recorded_labels(layout):
    dataset = RecordDataset(GOLDENS / layout)
    assert len(dataset) == FACTS[layout]["n"]
    assert labels_of(dataset) == FACTS[layout]["labels"]
    assert dataset.labels().tolist() == FACTS[layout]["labels"]
    assert all(type(label) is int for label in labels_of(dataset))
    assert dataset.num_classes == 6


def test_an_image_is_what_mxnet_decodes():
    image, _ = RecordDataset(GOLDENS / "insightface")[2]  # key 3
    expected = np.load(GOLDENS / "insightface" / "decoded_3.npy")
    assert (image.dtype, image.shape, image.is_contiguous()) == (torch.uint8, (3, 112, 112), True)
    assert np.abs(image.permute(1, 2, 0).numpy().astype(int) - expected).max() <= 2  # another JPEG decoder


def test_a_lossless_image_comes_back_in_rgb_at_its_place(tmp_path):
    dataset = RecordDataset(write_rec(tmp_path, [0, 1]))
    for i, (image, label) in enumerate(dataset):
        assert torch.equal(image, torch.from_numpy(picture(i)).permute(2, 0, 1))
        assert label == i
    assert np.array_equal(dataset.read(1)[0], picture(1))


def test_images_with_label_arrays_are_no_header(tmp_path):
    assert len(RecordDataset(write_rec(tmp_path, [[2, 5], [0, 1]]))) == 2


def test_classes_are_counted_to_the_largest_label(tmp_path):
    assert RecordDataset(write_rec(tmp_path, [0, 7, 3])).num_classes == 8


@pytest.mark.parametrize(
    ("labels", "ranges", "num_classes"),
    [
        ([0, 0, 1, 2], [(1, 3), (3, 4), (4, 5)], 3),
        ([0, 0, 2, 2], [(1, 3), (3, 3), (3, 5)], 3),  # an identity without images
        ([5, 5, 9, 9], [(1, 3), (3, 5)], 10),  # identities numbered otherwise: the labels of the images count
    ],
)
def test_identity_records_give_the_number_of_classes_where_they_are_the_labels(
    labels, ranges, num_classes, tmp_path
):
    dataset = RecordDataset(write_rec_with_header(tmp_path, labels, ranges))
    assert (dataset.num_classes, labels_of(dataset)) == (num_classes, labels)


def test_the_header_is_checked_against_the_index(tmp_path):
    write_rec_with_header(tmp_path, [0, 0, 1], [(1, 3), (3, 4)])
    text = (tmp_path / "train.idx").read_text()
    (tmp_path / "train.idx").write_text(text.replace("\n5\t", "\n6\t"))
    with pytest.raises(RecordError, match=r"announces 3 images and keys up to 5, but .* keys up to 6"):
        RecordDataset(tmp_path)


@pytest.mark.parametrize(("announced", "payload"), [((4, 9), b""), ((4, 4), b""), ((4, 9), b"no image")])
def test_a_header_without_its_identity_records_or_with_a_payload_is_one(announced, payload, tmp_path):
    with IndexedRecordWriter(tmp_path / "train.idx", tmp_path / "train.rec") as records:
        records.write(0, announced, payload)
        for key, label in enumerate([0, 2, 1], start=1):
            records.write(key, label, png(picture(key)))
    dataset = RecordDataset(tmp_path)
    assert (len(dataset), dataset.num_classes, labels_of(dataset)) == (3, 3, [0, 2, 1])
    assert np.array_equal(dataset.read(0)[0], picture(1))


def test_an_identity_record_that_points_elsewhere_is_refused(tmp_path):
    with pytest.raises(RecordError, match=r"record 5 should hold .* within 1…4, but holds \[3\.0, 9\.0\]"):
        RecordDataset(write_rec_with_header(tmp_path, [0, 0, 1], [(1, 3), (3, 9)]))


@pytest.mark.parametrize("bad", [-1, 1.5, float("nan"), float("inf")])
def test_a_label_that_is_no_class_is_named_on_opening(bad, tmp_path):
    with pytest.raises(
        RecordError, match=rf"train\.rec: record 1 has label {bad:g}; allowed: integers from 0"
    ):
        RecordDataset(write_rec(tmp_path, [0, bad, 1]))


def test_property_declares_the_class_range(tmp_path):
    write_rec(tmp_path, [0, 3])
    (tmp_path / "property").write_text("6,112,112\n2\n")
    assert RecordDataset(tmp_path).num_classes == 6
    (tmp_path / "property").write_text("3,112,112")
    with pytest.raises(RecordError, match=r"record 1 has label 3; allowed: 0…2 \(property\)"):
        RecordDataset(tmp_path)


def test_a_property_with_the_mark_of_windows_editors_is_read(tmp_path):
    write_rec(tmp_path, [0, 3])
    (tmp_path / "property").write_text("\ufeff6,112,112\r\n", encoding="utf-8")
    assert RecordDataset(tmp_path).num_classes == 6


@pytest.mark.parametrize("text", ["", "six,112,112", "6", "0,112,112", "6,224,224"])
def test_a_malformed_property_is_refused(text, tmp_path):
    write_rec(tmp_path, [0])
    (tmp_path / "property").write_text(text)
    with pytest.raises(RecordError, match=f"property: expected '<number of classes>,112,112', got {text!r}"):
        RecordDataset(tmp_path)


def test_more_identities_than_property_says_are_refused(tmp_path):
    write_rec_with_header(tmp_path, [0, 1], [(1, 2), (2, 3)])
    (tmp_path / "property").write_text("1,112,112")
    with pytest.raises(RecordError, match="has 2 identities, but property says 1 classes"):
        RecordDataset(tmp_path)


def test_a_wrong_label_that_no_probe_met_is_named_when_its_image_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(record_layout, "SCAN_LIMIT", 4)
    monkeypatch.setattr(record_layout, "NUM_PROBES", 2)
    dataset = RecordDataset(write_rec(tmp_path, [0, 1, 9, 1, 1]), num_classes=2)
    assert dataset[1][1] == 1
    with pytest.raises(RecordError, match=r"train\.rec: record 2 has label 9; allowed: 0…1"):
        dataset[2]
    monkeypatch.setattr(record_layout, "SCAN_LIMIT", 5)
    with pytest.raises(RecordError, match=r"record 2 has label 9; allowed: 0…1 \(num_classes\)"):
        RecordDataset(tmp_path, num_classes=2)


def test_images_that_cannot_be_used_are_named(tmp_path):
    jpeg = cv2.imencode(".jpg", picture(0))[1].tobytes()
    images = {1: b"no image", 2: b"", 3: png(picture(0)[:100]), 4: png(picture(0))[:999], 5: jpeg[:999]}
    dataset = RecordDataset(write_rec(tmp_path, [0] * 6, images))
    assert dataset[0][1] == 0
    for i, message in {
        1: "record 1: its 8 bytes are no whole image",
        2: "record 2: its 0 bytes are no whole image",
        3: "record 3: the image has 112×100 pixels, expected an aligned face of 112x112 pixels",
        4: "record 4: its 999 bytes are no whole image",
        5: "record 5: its 999 bytes are no whole image",
    }.items():
        with pytest.raises(RecordError, match=rf"train\.rec: {message}") as caught:
            dataset[i]
        assert "\n" not in str(caught.value)


def test_a_batch_is_what_reading_one_by_one_gives_errors_included(tmp_path, monkeypatch):
    monkeypatch.setattr(record_layout, "SCAN_LIMIT", 4)  # so that wrong labels are met on reading
    monkeypatch.setattr(record_layout, "NUM_PROBES", 2)
    images = {1: b"no image", 2: b"", 3: png(picture(0)[:100]), 4: png(picture(0))[:999]}
    images[5] = png(picture(5)) + MAGIC_BYTES + bytes(4 - len(png(picture(5))) % 4) + MAGIC_BYTES  # in parts
    labels = [0, 0, 0, 0, 0, 1, 9, float("nan"), [2.0, 5.0], 2]
    records = RecordDataset(write_rec(tmp_path / "rec", labels, images), num_classes=3)
    (tmp_path / "folder").mkdir()
    folder = FolderDataset(write_folder(tmp_path / "folder"))
    (tmp_path / "folder/b/1.png").write_bytes(b"damaged")
    for dataset in (records, folder, SyntheticDataset(3, 9), MergedDataset([folder, records, folder])):
        indices, num_errors = np.random.default_rng(0).permutation(len(dataset)), 0
        for index, (found, found_label) in zip(indices.tolist(), dataset.read_batch(indices), strict=True):
            if isinstance(found, RecordError):
                with pytest.raises(RecordError) as caught:
                    dataset.read(index)
                assert (str(found), found_label) == (str(caught.value), 0)
                num_errors += 1
            else:
                image, label = dataset.read(index)
                assert np.array_equal(found, image)
                assert (type(found_label), found_label) == (int, label)
        assert num_errors == {10: 6, 3: 1, 9: 0, 16: 8}[len(dataset)]


def write_folder(root):
    for i, name in enumerate(["b/2.JPG", "b/1.png", "a/x.Jpeg", "c/readme.txt", ".hidden/1.png", "0.png"]):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(png(picture(i)))
    return root


def test_a_folder_gives_a_class_for_each_subfolder_with_images(tmp_path):
    dataset = FolderDataset(write_folder(tmp_path))
    assert [str(dataset.path(i).relative_to(tmp_path)) for i in range(3)] == [
        "a/x.Jpeg",
        "b/1.png",
        "b/2.JPG",
    ]
    assert (len(dataset), dataset.num_classes, dataset.identities) == (3, 2, ["a", "b"])
    assert labels_of(dataset) == dataset.labels().tolist() == [0, 1, 1]
    assert np.array_equal(dataset.read(1)[0], picture(1))


@pytest.mark.parametrize("suffix", [s for s in IMAGE_SUFFIXES if s not in (".jfif", ".pgm")])
def test_every_suffix_that_counts_is_of_a_format_that_is_read(suffix, tmp_path):
    encoded = cv2.imencode(suffix, picture(0))[1].tobytes()
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"1{suffix.upper()}").write_bytes(encoded)
    assert FolderDataset(tmp_path)[1][1] == 1


def test_what_is_left_out_is_counted_and_what_a_system_leaves_is_not(tmp_path):
    write_folder(tmp_path)
    for name in ("a/._x.jpg", "a/Thumbs.db", "a/.DS_Store", "a/x.heic", "b/y.HEIC", "b/none"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "a" / "backup.jpg").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "1.webp").write_bytes(png(picture(0)))
    (tmp_path / "d").symlink_to(tmp_path / "elsewhere")
    dataset = FolderDataset(tmp_path)
    assert dataset.identities == ["a", "b", "d", "elsewhere"]
    assert len(dataset) == 5
    assert dataset.left_out == [
        "4 files that are no images by their suffix (2 .heic, 1 no suffix, 1 .txt)",
        f"1 images beside the identities' folders, directly in {tmp_path}",
        "1 folders inside identities' folders",
        "1 folders without an image",
    ]
    assert "left out: 4 files" in get_dataset(settings(rec=str(tmp_path))).warnings[0]


def test_a_rec_of_another_name_is_found_and_may_be_named_itself(tmp_path):
    folder = write_rec(tmp_path / "named", [0, 1])
    for suffix in (".rec", ".idx"):
        (folder / f"train{suffix}").rename(folder / f"mydata{suffix}")
    for rec in (folder, folder / "mydata.rec"):
        assert len(get_dataset(settings(rec=str(rec)))) == 2
    shutil.copy(folder / "mydata.rec", folder / "other.rec")
    with pytest.raises(RecordError, match=r"holds mydata\.rec, other\.rec: name one of them"):
        get_dataset(settings(rec=str(folder)))
    with pytest.raises(RecordError, match=r"other\.rec has no other\.idx beside it"):
        get_dataset(settings(rec=str(folder / "other.rec")))


def test_one_identity_alone_is_refused(tmp_path):
    write_folder(tmp_path)
    shutil.rmtree(tmp_path / "b")
    for num_classes in (None, 5):
        with pytest.raises(ValueError, match="has one identity only: there is nobody to tell it from"):
            get_dataset(settings(rec=str(tmp_path), num_classes=num_classes))


@pytest.mark.parametrize(
    ("labels", "warning"),
    [
        ([0, 1, 2], None),
        ([1, 2, 3], "1 of 4 classes have no image: its labels begin at 1, not at 0"),
        (list(range(1, 150)), "1 of 150 classes have no image: its labels begin at 1, not at 0"),
        ([0, 7, 3], "5 of 8 classes have no image"),
    ],
)
def test_classes_without_images_are_warned_of(labels, warning, tmp_path):
    write_rec(tmp_path, labels, dict.fromkeys(range(len(labels)), b"x"))
    found = RecordDataset(tmp_path).warnings
    assert [text.removeprefix(f"{tmp_path}/train.rec: ") for text in found] == ([warning] if warning else [])


def test_labels_that_leave_out_most_of_their_range_are_refused_unless_it_is_declared(tmp_path):
    write_rec(tmp_path, [0, 40, 99])
    with pytest.raises(RecordError, match=r"go up to 99, but only 3 of them occur: .*num_classes=100"):
        RecordDataset(tmp_path)
    dataset = RecordDataset(tmp_path, num_classes=100)
    assert (dataset.num_classes, len(dataset.warnings)) == (100, 1)


def test_a_folder_names_the_file_that_cannot_be_used(tmp_path):
    dataset = FolderDataset(write_folder(tmp_path))
    (tmp_path / "b" / "1.png").write_bytes(b"damaged")
    os.remove(tmp_path / "b" / "2.JPG")
    for i, message in {1: r"b/1\.png: its 7 bytes are no whole image", 2: r"b/2\.JPG: No such file"}.items():
        with pytest.raises(RecordError, match=message):
            dataset[i]


def test_a_place_without_data_is_named(tmp_path):
    for path, message in {
        tmp_path / "none": "none: no such folder",
        tmp_path: r"neither train\.rec nor images; expected .*, or .*/<identity>/\*\.jpg",
    }.items():
        with pytest.raises(FileNotFoundError, match=message):
            get_dataset(settings(rec=str(path)))
    with pytest.raises(FileNotFoundError, match=r"none: no such folder"):
        RecordDataset(tmp_path / "none")
    (tmp_path / "train.idx").write_text("0\t0\n")
    with pytest.raises(FileNotFoundError, match=r"train\.rec: no such file"):
        get_dataset(settings(rec=str(tmp_path)))


def test_several_folders_count_their_classes_on(tmp_path):
    first = write_rec(tmp_path / "first", [1, 0, 2])
    (tmp_path / "second").mkdir()
    second = write_folder(tmp_path / "second")
    dataset = get_dataset(settings(rec=[str(first), str(second), str(first)], num_classes=8, num_image=9))
    assert isinstance(dataset, MergedDataset)
    assert labels_of(dataset) == [1, 0, 2, 3, 4, 4, 6, 5, 7]
    assert (dataset.num_classes, len(dataset), dataset.root) == (8, 9, first)
    assert np.array_equal(dataset.read(8)[0], picture(2))
    assert dataset[-9][1] == 1
    for index in (9, -10):
        with pytest.raises(IndexError, match=f"index {index} of a dataset of 9 images"):
            dataset[index]


def test_counts_of_the_settings_are_checked(tmp_path):
    root = str(write_rec(tmp_path / "rec", [0, 1, 2]))
    folder = tmp_path / "folder"
    folder.mkdir()
    write_folder(folder)
    assert get_dataset(settings(rec=root, num_classes=3, num_image=3)).num_classes == 3
    assert get_dataset(settings(rec=root, num_classes=5)).num_classes == 5  # classes without images
    for changes, message in [
        (dict(rec=root, num_classes=2), r"record 2 has label 2; allowed: 0…1 \(num_classes\)"),
        (dict(rec=[root, root], num_classes=5), "has 6 classes, more than num_classes=5"),
        (dict(rec=str(folder), num_classes=1), "has 2 classes, more than num_classes=1"),
        (dict(rec=root, num_image=2), "has 3 images, but num_image=2"),
        (dict(rec=root, num_image=4), "has 3 images, but num_image=4"),
        (dict(rec=[]), "rec is an empty list"),
        (dict(rec="synthetic", num_classes=4), "needs num_classes and num_image"),
    ]:
        with pytest.raises(ValueError, match=message):
            get_dataset(settings(**changes))


def test_synthetic_data_has_the_size_that_was_asked_for():
    dataset = get_dataset(settings(rec="synthetic", num_classes=5, num_image=12))
    assert isinstance(dataset, SyntheticDataset)
    assert labels_of(dataset) == [i % 5 for i in range(12)]
    assert dataset[0][0].shape == (3, 112, 112)
    assert not torch.equal(dataset[0][0], dataset[1][0])


@pytest.mark.parametrize("channels_last", [False, True])
def test_input_is_normalised_as_the_networks_expect(channels_last):
    images = torch.arange(256, dtype=torch.uint8).repeat(2, 3, 1).reshape(2, 3, 16, 16)
    found = to_input(images, torch.device("cpu"), channels_last)
    assert found.is_contiguous(
        memory_format=torch.channels_last if channels_last else torch.contiguous_format
    )
    assert torch.allclose(found, (images / 255 - 0.5) / 0.5, rtol=0, atol=2**-23)
    assert (found.dtype, found.min(), found.max()) == (torch.float32, -1, 1)


def test_content_tells_data_apart_without_reading_an_image(tmp_path, monkeypatch):
    def content(dataset) -> dict:
        return {name: [part.tobytes() for part in parts] for name, parts in dataset.content().items()}

    labels = [0, 1, 2, 3]
    first = content(RecordDataset(write_rec(tmp_path / "a", labels)))
    assert first == content(RecordDataset(write_rec(tmp_path / "b", labels)))
    other_labels = content(RecordDataset(write_rec(tmp_path / "c", [0, 1, 3, 2])))
    assert first["labels"] != other_labels["labels"]
    assert first["images"] == other_labels["images"]
    other_image = RecordDataset(write_rec(tmp_path / "d", labels, {2: b"one that nobody can decode"}))
    assert first["images"] != content(other_image)["images"]
    last = content(RecordDataset(write_rec(tmp_path / "e", labels, {3: png(picture(3)) + bytes(4)})))
    assert first["images"] != last["images"]  # the last record has no follower: the file is longer

    for name in ("x/1.jpg", "x/2.jpg", "y/1.jpg"):
        (tmp_path / "folder" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "folder" / name).touch()
    folder = FolderDataset(tmp_path / "folder")
    before = content(folder)
    (tmp_path / "folder/y/1.jpg").rename(tmp_path / "folder/y/2.jpg")
    renamed = content(FolderDataset(tmp_path / "folder"))
    assert before["labels"] == renamed["labels"]
    assert before["images"] != renamed["images"]

    a, c = RecordDataset(tmp_path / "a"), RecordDataset(tmp_path / "c")
    merged = [content(MergedDataset(parts)) for parts in ((a, folder), (folder, a), (c, folder))]
    assert merged[0] == content(MergedDataset((RecordDataset(tmp_path / "b"), folder)))
    assert merged[0] != merged[1]
    assert {name for name in merged[0] if merged[0][name] != merged[2][name]} == {"labels of folder 0"}
    assert content(SyntheticDataset(3, 9)) == {}

    broken = shutil.copytree(tmp_path / "a", tmp_path / "broken")
    (broken / "property").write_text("4,112,112\n")
    unreadable = RecordDataset(broken)
    with open(broken / "train.rec", "r+b") as file:
        file.seek(int(unreadable.reader.layout()[0][1]))
        file.write(bytes(4))
    assert content(unreadable) == {"images": first["images"]}

    monkeypatch.setattr("loading.record_layout.SCAN_LIMIT", 3)
    monkeypatch.setattr("loading.record_layout.NUM_LABELS", 2)
    assert RecordDataset(tmp_path / "a").content()["labels"][0].tolist() == [0, 3]
