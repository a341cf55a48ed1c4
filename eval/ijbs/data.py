"""IJB-S: templates and protocols from the official csv files.

A medium is a video or a photograph: `videos/4012.mp4`, `img/17.jpg`. A person in a medium is a sighting. A
template is made of sightings: one, all booking photographs of a person, or all videos of a person. Templates
share sightings, so features are summed over the frames of each sighting once.

The csv files, by column, below a header of any wording:

    cs6_metadata.csv                                                           subject, file, ...
    galleries/cs6_surveillance_to_{single,booking,surveillance}_{g1,g2}.csv    template, subject, file, ...
    cs6_{surveillance_to_single-booking,surveillance_to_surveillance,uav_to_single-booking}_probe.csv    file
"""

import os
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from eval.readers.errors import ListedError
from eval.readers.tables import read_rows

METADATA = "cs6_metadata.csv"
GALLERY = "galleries/cs6_surveillance_to_{}_{}.csv"
PROBES = "cs6_{}_probe.csv"

Sighting = tuple[int, str]  # subject, and the medium as frames are named after it: "videos_4012", "img_17"


@dataclass(frozen=True)
class Protocol:
    """Probes and where they are searched: numbers of templates."""

    name: str
    probes: np.ndarray  # (P,)
    galleries: tuple[np.ndarray, np.ndarray]  # G1 and G2, of different people


@dataclass(frozen=True)
class IJBS:
    """T templates made of S sightings, and the five searches among them, in the published order."""

    protocols: list[Protocol]
    subjects: np.ndarray  # (T,) int64
    parts: np.ndarray  # (M,) numbers of sightings, those of a template side by side
    starts: np.ndarray  # (T,) where in `parts` those of each template begin; it has one at least
    sightings: dict[Sighting, int]  # their numbers
    unknown: dict[str, list[str]]  # list of probes -> files in it in which the metadata have nobody
    twice: dict[str, list[str]]  # list of probes -> files that it names more than once
    several: dict[str, list[str]]  # list of probes -> photographs in it that show several people


class Tables:
    """The csv files, and the templates that they name. Every error has file and line."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.templates: dict[tuple[int, tuple[str, ...]], int] = {}  # subject, media -> number
        # The file has a row for each box around a face: millions of rows, of few pairs of subject and medium.
        rows = self.rows(METADATA, {"subject": int}, distinct=True)
        self.metadata = {(subject, where) for _, subject, where in rows}
        # List of probes -> files: see `IJBS`.
        self.unknown, self.twice, self.several = ({} for _ in range(3))
        self.seen = defaultdict(list)  # medium -> subjects
        for subject, where in sorted(self.metadata):
            self.seen[where].append(subject)

    def rows(self, name: str, before: dict[str, type], distinct: bool = False) -> Iterator[tuple]:
        """Line number, the columns before the file's, the file as medium; see `read_rows` for `distinct`."""
        options = {"header": True, "delimiter": ",", "extra": True, "distinct": distinct}
        table = read_rows(self.folder / name, before | {"file": str}, **options)
        lines = table.pop("line", range(2, 2 + len(table["file"])))
        for line, *values, file in zip(lines, *table.values()):
            yield line, *values, self.medium(name, line, file)

    def medium(self, name: str, line: int, file: str) -> str:
        """`videos/4012.mp4` -> "videos_4012", `img/17.jpg` -> "img_17"."""
        folder, _, rest = file.partition("/")
        stem = os.path.splitext(rest)[0]
        if folder not in ("videos", "img") or not stem or "/" in stem:
            place = f"{self.folder / name} line {line}"
            raise ValueError(f"{place}: file is {file!r}, expected videos/… or img/…")
        return f"{folder}_{stem}"

    def template(self, subject: int, *media: str) -> int:
        """The number of a template; the same again for the same sightings."""
        return self.templates.setdefault((subject, media), len(self.templates))

    def gallery(self, kind: str, half: str) -> list[tuple[str, int]]:
        """The templates of a gallery: place of the first row, such as "FILE line 2", and number of each."""
        name = GALLERY.format(kind, half)
        groups = {}
        for line, _, subject, where in self.rows(name, {"template": str, "subject": int}):
            place = f"{self.folder / name} line {line}"
            if (subject, where) not in self.metadata:
                raise ValueError(f"{place}: {METADATA} does not know subject {subject} in {where}")
            key = {"single": line, "booking": subject, "surveillance": (subject, where)}[kind]
            _, _, media = groups.setdefault(key, (place, subject, {}))
            media[where] = True  # an ordered set
        return [(place, self.template(subject, *media)) for place, subject, media in groups.values()]

    def probes(self, kind: str) -> list[int]:
        """The sightings in the media of a list, a template each.

        Media in which the metadata have nobody are left out, as in the public code, and noted.
        """
        name = PROBES.format(kind)
        header, *files = read_rows(self.folder / name, {"file": str}, delimiter=",")["file"]
        if header.startswith(("videos/", "img/")):
            raise ValueError(f"{self.folder / name} line 1: expected a header, got {header!r}")
        if not files:
            raise ValueError(f"{self.folder / name} holds no rows")
        media = {self.medium(name, line, file): file for line, file in enumerate(files, start=2)}
        counts = Counter(self.medium(name, line, file) for line, file in enumerate(files, start=2))
        if twice := [media[where] for where, count in counts.items() if count > 1 and where in self.seen]:
            self.twice[name] = twice
        shared = [file for where, file in media.items() if len(self.seen.get(where, ())) > 1]
        if photographs := [file for file in shared if file.startswith("img/")]:
            self.several[name] = photographs
        if unknown := [file for where, file in media.items() if where not in self.seen]:
            self.unknown[name] = unknown
        if len(unknown) == len(media):
            raise ListedError(
                f"{self.folder / name}: {METADATA} has nobody in its {len(media)} files:", unknown
            )
        return [self.template(subject, where) for where in media for subject in self.seen.get(where, ())]

    def multi_view(self, templates: list[int]) -> list[int]:
        """For each person of these templates one template of all their videos, listed as probes or not."""
        keys = list(self.templates)
        videos = defaultdict(list)
        for subject, where in sorted(self.metadata):
            if where.startswith("videos_"):
                videos[subject].append(where)
        people = sorted({keys[number][0] for number in templates} & videos.keys())
        return [self.template(subject, *videos[subject]) for subject in people]


def read_protocols(folder: str | Path) -> IJBS:
    """Read and check all five protocols.

    Args:
        folder: holds cs6_metadata.csv and the other files that the head of this module lists.
    Raises:
        FileNotFoundError: a file is not there.
        ValueError: in one line, with file and line: a malformed row; gallery files that the metadata do not
            know; a list with no probe that they know; a probe's person enrolled twice; a gallery in which no
            probe, or every probe, has a mate.
    """
    tables = Tables(Path(folder))
    to_stills = tables.probes("surveillance_to_single-booking")
    to_videos = tables.probes("surveillance_to_surveillance")
    searched = [
        ("surveillance-to-single", to_stills, "single"),
        ("surveillance-to-booking", to_stills, "booking"),
        ("multi-view-surveillance-to-booking", tables.multi_view(to_videos), "booking"),
        ("surveillance-to-surveillance", to_videos, "surveillance"),
        ("UAV-surveillance-to-booking", tables.probes("uav_to_single-booking"), "booking"),
    ]
    galleries = {
        kind: [tables.gallery(kind, half) for half in ("g1", "g2")]
        for kind in ("single", "booking", "surveillance")
    }
    subjects = np.array([subject for subject, _ in tables.templates])
    protocols = []
    for name, probes, kind in searched:
        probes = np.array(probes, dtype=np.int64)
        check_mates(name, subjects[probes], galleries[kind], subjects)
        numbers = tuple(np.array([number for _, number in gallery]) for gallery in galleries[kind])
        protocols.append(Protocol(name, probes, numbers))

    sightings, parts, starts = {}, [], []
    for subject, media in tables.templates:
        starts.append(len(parts))
        parts += [sightings.setdefault((subject, where), len(sightings)) for where in media]
    return IJBS(
        protocols,
        subjects,
        np.array(parts),
        np.array(starts),
        sightings,
        tables.unknown,
        tables.twice,
        tables.several,
    )


def check_mates(
    name: str, searched: np.ndarray, galleries: list[list[tuple[str, int]]], subjects: np.ndarray
) -> None:
    """Require one mate at most for each probe, and in each gallery some probes with and some without one.

    Raises:
        ValueError: it is otherwise.
    """
    places = {}
    for gallery in galleries:
        for place, number in gallery:
            subject = subjects[number]
            if subject in searched and places.setdefault(subject, place) != place:
                raise ValueError(
                    f"{place}: subject {subject}, a probe of {name}, is enrolled already: {places[subject]}"
                )
        mated = np.isin(searched, subjects[[number for _, number in gallery]]).sum()
        if mated in (0, len(searched)):
            file = gallery[0][0].rsplit(" line", 1)[0]
            raise ValueError(
                f"{file}: {mated} of {len(searched)} probes of {name} have a mate in it, expected some with "
                "and some without"
            )
