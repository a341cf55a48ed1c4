"""IJB-S in small: surveillance and drone videos searched in galleries of stills and of videos."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tools.demo.album import Album

SEEN_TOGETHER = 4  # people in a video
SURVEILLANCE_VIDEOS = 2  # of each group; the first is enrolled in the surveillance galleries
FRAMES = 2  # of a person in a video
BOOKING_IMAGES = 2  # the first is the single image


def order_ijbs(album: Album, rng: np.random.Generator, root: Path, people: Sequence[int]) -> None:
    """Orders the aligned faces `<subject>/videos_<video>_<frame>.jpg` and `<subject>/img_<number>.jpg`, and
    writes the official tables and the list of faces.

    Every second person is in the galleries g1, the others in g2. The first person's second video has no face
    that could be aligned, as happens in the real set: its template is empty.
    """
    subjects = (rng.permutation(9 * len(people))[: len(people)] + 1).tolist()
    files = iter((rng.permutation(40 * len(people)) + 1).tolist())  # numbers of videos and images
    metadata, faces = [], []
    galleries = {(kind, half): [] for kind in ("single", "booking", "surveillance") for half in ("g1", "g2")}
    surveillance, enrolled, drone = [], [], []  # videos; the last with images too

    def add(i: int, name: str, badness: float, frame: str = "", found: bool = True) -> None:
        metadata.append(f"{subjects[i]},{name},{frame}")
        if found:
            stem = name.split(".")[0].replace("/", "_") + (f"_{frame}" if frame else "")
            faces.append(f"{subjects[i]}/{stem}.jpg")
            album.add(people[i], root / faces[-1], badness)

    def add_still(i: int, lowest: float, highest: float) -> str:
        name = f"img/{next(files)}.jpg"
        add(i, name, rng.uniform(lowest, highest))
        return name

    def add_video(group: range, lowest: float, highest: float, empty: int | None = None) -> str:
        name, badness = f"videos/{next(files)}.mp4", rng.uniform(lowest, highest)
        for i in group:
            for frame in sorted(rng.choice(1000, FRAMES, replace=False)):
                add(i, name, badness, str(frame), found=i != empty)
        return name

    for start in range(0, len(people), SEEN_TOGETHER):
        group = range(start, min(start + SEEN_TOGETHER, len(people)))
        videos = [
            add_video(group, 0.5, 0.95, empty=0 if start == 0 and number == 1 else None)
            for number in range(SURVEILLANCE_VIDEOS)
        ]
        surveillance += videos
        enrolled.append(videos[0])
        drone.append(add_video(group, 0.6, 1))
        drone += [add_still(i, 0.6, 1) for i in group[::2]]
        for i in group:
            half = ("g1", "g2")[i % 2]
            booking = [add_still(i, 0, 0.15) for _ in range(BOOKING_IMAGES)]
            galleries["single", half].append((subjects[i], booking[0]))
            galleries["booking", half] += [(subjects[i], name) for name in booking]
            galleries["surveillance", half].append((subjects[i], videos[0]))

    def write(name: str, header: str, rows) -> None:
        (root / name).write_text("".join(f"{row}\n" for row in (header, *rows)))

    (root / "galleries").mkdir(parents=True)
    write("cs6_metadata.csv", "SUBJECT_ID,FILENAME,FRAME", metadata)
    for (kind, half), rows in galleries.items():
        template = {subject: number for number, subject in enumerate(dict(rows), start=1)}
        write(
            f"galleries/cs6_surveillance_to_{kind}_{half}.csv",
            "TEMPLATE_ID,SUBJECT_ID,FILENAME",
            (f"{template[subject]},{subject},{name}" for subject, name in rows),
        )
    searched = [video for video in surveillance if video not in enrolled]
    write("cs6_surveillance_to_single-booking_probe.csv", "FILENAME", surveillance)
    write("cs6_surveillance_to_surveillance_probe.csv", "FILENAME", searched)
    write("cs6_uav_to_single-booking_probe.csv", "FILENAME", drone)
    write("image_list.csv", ",path", (f"{number},{face}" for number, face in enumerate(faces)))
