"""IJB-S's csv files and frames: templates and searches of the tiny tree, one line for every mistake."""

from pathlib import Path

import numpy as np
import pytest

from eval.ijbs.data import read_protocols
from eval.ijbs.frames import read_frames, sighting_of
from helpers.ijbs_trees import FACELESS, csv_files, frames, table, write_csv_files


def contents(ijbs) -> list[tuple[int, set[str]]]:
    """Subject and media of each template."""
    names = list(ijbs.sightings)
    ends = [*ijbs.starts[1:], len(ijbs.parts)]
    found = []
    for subject, start, end in zip(ijbs.subjects.tolist(), ijbs.starts, ends):
        parts = [names[number] for number in ijbs.parts[start:end]]
        assert {who for who, _ in parts} == {subject}
        found.append((subject, {where for _, where in parts}))
        assert len(parts) == len(found[-1][1]) > 0
    return found


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_templates_and_searches_are_the_published_ones(tmp_path, newline):
    ijbs = read_protocols(write_csv_files(tmp_path, newline))
    templates = contents(ijbs)
    still = [
        *((10, {"videos_1"}), (20, {"videos_1"}), (30, {"videos_1"})),
        *((10, {"videos_2"}), (30, {"videos_2"}), (50, {"videos_2"}), (40, {"videos_3"}), (50, {"videos_3"})),
    ]
    # All videos: 1 was not searched as surveillance video, nor was the drone's, 9.
    views = [
        *((10, {"videos_1", "videos_2"}), (30, {"videos_1", "videos_2"})),
        *((40, {"videos_3", "videos_9"}), (50, {"videos_2", "videos_3"})),
    ]
    booking = [[(who, {f"img_{who}", f"img_{who + 1}"}) for who in half] for half in ((10, 20), (30, 40))]
    expected = {
        "surveillance-to-single": (
            still,
            [[(who, {f"img_{who}"}) for who in (10, 20)], [(30, {"img_30"}), (40, {"img_40"})]],
        ),
        "surveillance-to-booking": (still, booking),
        "multi-view-surveillance-to-booking": (views, booking),
        "surveillance-to-surveillance": (
            still[3:],
            [[(10, {"videos_1"}), (20, {"videos_1"})], [(30, {"videos_2"}), (40, {"videos_3"})]],
        ),
        "UAV-surveillance-to-booking": ([(20, {"videos_9"}), (40, {"videos_9"}), (10, {"img_90"})], booking),
    }
    assert [protocol.name for protocol in ijbs.protocols] == list(expected)
    for protocol, (probes, galleries) in zip(ijbs.protocols, expected.values()):
        assert [templates[number] for number in protocol.probes] == probes
        assert [[templates[number] for number in gallery] for gallery in protocol.galleries] == galleries
    # Same sightings, same template: those of both booking searches, and videos enrolled and searched.
    assert len(templates) == len({(subject, *sorted(media)) for subject, media in templates})


def test_probes_unknown_to_the_metadata_are_left_out_and_named(tmp_path):
    expected = read_protocols(write_csv_files(tmp_path))
    path = tmp_path / "cs6_surveillance_to_single-booking_probe.csv"
    path.write_text(path.read_text().replace("\n", "\nvideos/88.mp4\nimg/7.jpg\nvideos/88.mp4\n", 1))
    found = read_protocols(tmp_path)
    assert expected.unknown == {}
    assert found.unknown == {path.name: ["videos/88.mp4", "img/7.jpg"]}
    assert contents(found) == contents(expected)
    for ours, theirs in zip(found.protocols, expected.protocols):
        assert np.array_equal(ours.probes, theirs.probes)


def test_files_that_are_listed_twice_and_photographs_of_two_people_are_named(tmp_path):
    write_csv_files(tmp_path)
    path = tmp_path / "cs6_uav_to_single-booking_probe.csv"
    path.write_text(path.read_text() + "img/90.jpg\nvideos/88.mp4\nvideos/88.mp4\n")
    metadata = tmp_path / "cs6_metadata.csv"
    metadata.write_text(metadata.read_text() + "20,img/90.jpg,4,5,60,70\n")
    found = read_protocols(tmp_path)
    assert (found.twice, found.several) == ({path.name: ["img/90.jpg"]}, {path.name: ["img/90.jpg"]})
    assert len(found.protocols[-1].probes) == 4  # two people in the video, two on the photograph


SINGLE = "galleries/cs6_surveillance_to_single_g1.csv"
BOOKING = "galleries/cs6_surveillance_to_booking_g2.csv"
VIDEO = "galleries/cs6_surveillance_to_surveillance_g1.csv"
PROBE = "cs6_surveillance_to_surveillance_probe.csv"
META = "cs6_metadata.csv"


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        (
            META,
            "10,videos/1.mp4,4,5,60,70\n",
            "10,videos/1.mp4,4,5\n",
            "line 11: 4 columns, expected 6 .subject, file, …",
        ),
        (META, "\n20,", "\n\n20,", "line 5: it is empty"),
        (META, "30,img/30.jpg", "x30,img/30.jpg", "line 7: subject is 'x30', expected an integer"),
        (
            META,
            "SUBJECT_ID,FILENAME,X,Y,WIDTH,HEIGHT\n",
            "",
            "line 1: expected a header, got '10' for subject",
        ),
        (META, "img/30.jpg", "images/30.jpg", "line 7: file is 'images/30.jpg', expected videos/… or img/…"),
        (META, "img/30.jpg", "img/", "line 7: file is 'img/', expected"),
        (
            SINGLE,
            "10,img/10.jpg",
            "10,img/20.jpg",
            "line 2: cs6_metadata.csv does not know subject 10 in img_20",
        ),
        (
            SINGLE,
            "20,img/20.jpg",
            "10,img/11.jpg",
            "line 3: subject 10, a probe of .*-to-single, is enrolled already: .*single_g1.csv line 2",
        ),
        (SINGLE, ",4\n", "\n", "line 2: 3 columns, expected 4 .template, subject, file, …"),
        (
            BOOKING,
            "30,img/31.jpg",
            "10,img/11.jpg",
            "line 3: subject 10, a probe of .*-to-booking, is enrolled already: .*booking_g1.csv line 2",
        ),
        (
            VIDEO,
            "20,videos/1.mp4",
            "10,videos/2.mp4",
            "line 3: subject 10, a probe of surveillance-to-surveillance, is enrolled",
        ),
        (
            PROBE,
            "videos/2.mp4\nvideos/3.mp4",
            "videos/8.mp4\nimg/7.jpg",
            "cs6_metadata.csv has nobody in its 2 files: 2 .videos/8.mp4, img/7.jpg",
        ),
        (PROBE, "videos/2.mp4", "videos/2.mp4,7", "line 2: 2 columns, expected 1"),
        (PROBE, "videos/3.mp4\n", "\nvideos/3.mp4\n", "line 3: it is empty"),
        (PROBE, "FILENAME\n", "", "line 1: expected a header, got 'videos/2.mp4'"),
        (PROBE, "videos/2.mp4\nvideos/3.mp4\n", "", "holds no rows"),
        (
            PROBE,
            "videos/2.mp4\n",
            "",
            "booking_g1.csv: 0 of 2 probes of multi-view-surveillance-to-booking have a mate",
        ),
    ],
)
def test_a_mistake_in_a_csv_file_is_reported_in_one_line(tmp_path, name, old, new, message):
    write_csv_files(tmp_path)
    text = csv_files()[name]
    assert old in text
    (tmp_path / name).write_text(text.replace(old, new, 1))
    with pytest.raises(ValueError, match=message) as caught:
        read_protocols(tmp_path)
    assert str(caught.value).startswith(str(tmp_path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", csv_files())
def test_a_csv_file_that_is_not_there_is_reported(tmp_path, name):
    write_csv_files(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"no file .*{name}"):
        read_protocols(tmp_path)


# ----------------------------------------------------------------------------------------------------- frames


def test_a_frame_says_who_is_seen_where():
    assert sighting_of("12/videos_4012_77.jpg") == (12, "videos_4012")
    assert sighting_of("/data/007/videos_4012_77_2.png") == (7, "videos_4012")
    assert sighting_of("12/img_5.jpg") == (12, "img_5")
    for name in (
        "img_5.jpg",
        "a/img_5.jpg",
        "12/5.jpg",
        "12/videos_4012.jpg",
        "12/videos__7.jpg",
        "12/img_.jpg",
    ):
        with pytest.raises(ValueError, match=f"{name}' is not <subject>/videos_<video>_<frame>.jpg or"):
            sighting_of(name)


def write_faces(root: Path) -> Path:
    for name in frames():
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).touch()
    return root


def test_frames_are_those_of_the_sightings_listed_or_found(tmp_path):
    ijbs = read_protocols(write_csv_files(tmp_path))
    write_faces(tmp_path)
    (tmp_path / "10" / "img_99.jpg").touch()  # in no template
    (tmp_path / "10" / "Thumbs.db").touch()
    names = [*frames()[::-1], "10/img_99.jpg"]
    (tmp_path / "list.csv").write_text(table(",path", enumerate(names)))
    (tmp_path / "list.txt").write_text("\r\n".join(names))
    found = read_frames(tmp_path, ijbs.sightings)
    for listed in ("list.csv", "list.txt"):
        other = read_frames(tmp_path, ijbs.sightings, tmp_path / listed)
        assert (other.paths, other.sighting.tolist()) == (found.paths, found.sighting.tolist())
        assert other.num_unused == found.num_unused == 1
    numbers = found.sighting
    assert (np.diff(numbers) >= 0).all()
    assert [ijbs.sightings[sighting_of(str(path))] for path in found.paths] == numbers.tolist()
    assert {str(path.relative_to(tmp_path)) for path in found.paths} == set(frames())
    without = [sighting for sighting, number in ijbs.sightings.items() if number not in numbers]
    assert sorted(without) == sorted({sighting_of(name) for name in FACELESS})


def test_mistakes_among_frames_are_reported(tmp_path):
    ijbs = read_protocols(write_csv_files(tmp_path))
    with pytest.raises(FileNotFoundError, match=": 0 frames, none of them of a template"):
        read_frames(tmp_path, ijbs.sightings)
    write_faces(tmp_path)
    (tmp_path / "10" / "img_90.jpg").unlink()
    (tmp_path / "20" / "videos_9_0.jpg").unlink()
    listed = tmp_path / "list.txt"
    for text, kind, message in (
        (
            "\n".join(frames()),
            FileNotFoundError,
            r"of its 26 frames .* lacks 2 \(10/img_90.jpg of line 1, 20/videos_9_0.jpg of line 23\)",
        ),
        ("30/img_30.jpg\n30/img_30.jpg", ValueError, "list.txt line 2: 30/img_30.jpg is in line 1 already"),
        ("30/img_30.jpg\n30/face.jpg", ValueError, "list.txt line 2: '30/face.jpg' is not <subject>/videos"),
        ("30/img_30.jpg\n\n40/img_40.jpg", ValueError, "list.txt line 2: it is empty"),
        ("../x/30/img_30.jpg", ValueError, "list.txt line 1: '../x/30/img_30.jpg' does not lie below"),
        ("0 30/img_30.jpg\n", ValueError, "list.txt line 1: 2 columns, expected 1"),
    ):
        listed.write_text(text)
        with pytest.raises(kind, match=message) as caught:
            read_frames(tmp_path, ijbs.sightings, listed)
        assert "\n" not in str(caught.value)
    (tmp_path / "list.csv").write_text("0,30/img_30.jpg\n")
    with pytest.raises(ValueError, match=r"list.csv line 1: expected a header"):
        read_frames(tmp_path, ijbs.sightings, tmp_path / "list.csv")
    (tmp_path / "10" / "face.jpg").touch()
    with pytest.raises(ValueError, match=f"{tmp_path}: '10/face.jpg' is not <subject>"):
        read_frames(tmp_path, ijbs.sightings)
    with pytest.raises(FileNotFoundError, match="no folder"):
        read_frames(tmp_path / "none", ijbs.sightings)
