"""IJB-S in small: videos of surveillance and of drones are searched in galleries of stills and of videos."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from tools.demo.album import Album, Request

SEEN_TOGETHER = 4  # people in a video
SURVEILLANCE_VIDEOS = 2  # of each group; the first is enrolled in the surveillance galleries
FRAMES = 2  # of a person in a video
BOOKING_IMAGES = 2  # the first is the single image
HALVES = ("g1", "g2")  # of each gallery


def request_ijbs(
    album: Album, rng: np.random.Generator, root: Path, known: Sequence[int], strangers: Sequence[int]
) -> None:
    """Requests the aligned faces `<subject>/videos_<video>_<frame>.jpg` and `<subject>/img_<number>.jpg`, and
    writes the official tables and the list of faces.

    Two thirds of the known people are shown, no strangers. Every second person is in the galleries g1, the
    others in g2. The first person has no aligned face in the second video, as happens in the real set: that
    template is empty.
    """
    people = known[: 2 * len(known) // 3]
    tables = _Tables(album, rng, root, people)
    for start in range(0, len(people), SEEN_TOGETHER):
        tables.add_group(range(start, min(start + SEEN_TOGETHER, len(people))))
    tables.write()


class _Tables:
    """The rows of the tables. People are numbered as in `people`; lists of videos hold their file names."""

    def __init__(self, album: Album, rng: np.random.Generator, root: Path, people: Sequence[int]):
        self.album, self.rng, self.root, self.people = album, rng, root, people
        self.subjects = (rng.permutation(9 * len(people))[: len(people)] + 1).tolist()
        self.files = iter((rng.permutation(40 * len(people)) + 1).tolist())  # numbers of videos and images
        self.metadata, self.faces = [], []
        self.galleries = {(k, half): [] for k in ("single", "booking", "surveillance") for half in HALVES}
        self.surveillance, self.enrolled = [], []
        self.drone = []  # videos, and images too

    def add_group(self, group: range) -> None:
        """The videos that show these people together, and the stills of each."""
        has_empty = group.start == 0  # the template of the first person, in the second video
        videos = [
            self.add_video(group, 0.5, 0.95, empty=0 if has_empty and number == 1 else None)
            for number in range(SURVEILLANCE_VIDEOS)
        ]
        self.surveillance += videos
        self.enrolled.append(videos[0])
        self.drone.append(self.add_video(group, 0.6, 1))
        self.drone += [self.add_still(i, 0.6, 1) for i in group[::2]]
        for i in group:
            half, subject = HALVES[i % 2], self.subjects[i]
            booking = [self.add_still(i, 0, 0.15) for _ in range(BOOKING_IMAGES)]
            self.galleries["single", half].append((subject, booking[0]))
            self.galleries["booking", half] += [(subject, name) for name in booking]
            self.galleries["surveillance", half].append((subject, videos[0]))

    def add_still(self, i: int, lowest: float, highest: float) -> str:
        """An image of person i with a degradation in [lowest, highest]. Returns the name of the file."""
        name = f"img/{next(self.files)}.jpg"
        self._add(i, name, self.rng.uniform(lowest, highest))
        return name

    def add_video(self, group: range, lowest: float, highest: float, empty: int | None = None) -> str:
        """A video of these people; person `empty` has no face in it that could be aligned."""
        name, degradation = f"videos/{next(self.files)}.mp4", self.rng.uniform(lowest, highest)
        for i in group:
            for frame in sorted(self.rng.choice(1000, FRAMES, replace=False)):
                self._add(i, name, degradation, str(frame), found=i != empty)
        return name

    def _add(self, i: int, name: str, degradation: float, frame: str = "", found: bool = True) -> None:
        self.metadata.append(f"{self.subjects[i]},{name},{frame}")
        if found:
            stem = name.split(".")[0].replace("/", "_") + (f"_{frame}" if frame else "")
            self.faces.append(f"{self.subjects[i]}/{stem}.jpg")
            self.album.add(self.people[i], Request(self.root / self.faces[-1], degradation))

    def write(self) -> None:
        (self.root / "galleries").mkdir(parents=True)
        self._write("cs6_metadata.csv", "SUBJECT_ID,FILENAME,FRAME", self.metadata)
        for (kind, half), rows in self.galleries.items():
            template = {subject: number for number, subject in enumerate(dict(rows), start=1)}
            self._write(
                f"galleries/cs6_surveillance_to_{kind}_{half}.csv",
                "TEMPLATE_ID,SUBJECT_ID,FILENAME",
                (f"{template[subject]},{subject},{name}" for subject, name in rows),
            )
        searched = [video for video in self.surveillance if video not in self.enrolled]
        self._write("cs6_surveillance_to_single-booking_probe.csv", "FILENAME", self.surveillance)
        self._write("cs6_surveillance_to_surveillance_probe.csv", "FILENAME", searched)
        self._write("cs6_uav_to_single-booking_probe.csv", "FILENAME", self.drone)
        list_of_faces = (f"{number},{face}" for number, face in enumerate(self.faces))
        self._write("image_list.csv", ",path", list_of_faces)

    def _write(self, name: str, header: str, rows: Iterable[str]) -> None:
        (self.root / name).write_text("".join(f"{row}\n" for row in (header, *rows)))
