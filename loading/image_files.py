"""Which files of a folder are images, and what is left out: one rule for training, evaluation and tools.

What a system or an archive leaves in folders is no content and is not counted: hidden files and folders
(macOS puts `._1.jpg` beside `1.jpg`) and Windows' thumbnails. Links are followed, to files and to folders.
"""

import os
from collections import Counter
from pathlib import Path
from typing import NamedTuple

# What OpenCV decodes in every build, in lower or upper case.
IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".dib"),
    *(".tif", ".tiff", ".ppm", ".pgm", ".pnm", ".jp2"),
)
OF_THE_SYSTEM = ("thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "__macosx")


def is_image(name: str) -> bool:
    """Whether a file of this name counts as an image."""
    return name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith(".")


def is_content(name: str) -> bool:
    """Whether a user has put it there, not a system."""
    return not name.startswith(".") and name.lower() not in OF_THE_SYSTEM


def images_below(folder: str | os.PathLike) -> list[Path]:
    """Every image at any depth below a folder, in order; a folder that is reached twice counts once."""
    found, seen = [], set()

    def refuse(fault: OSError) -> None:
        raise fault  # os.walk would leave out a folder that it may not read, and say nothing

    for parent, folders, files in os.walk(folder, followlinks=True, onerror=refuse):
        state = os.stat(parent)
        if (state.st_dev, state.st_ino) in seen:  # a link to where it came from would go round for ever
            folders.clear()
            continue
        seen.add((state.st_dev, state.st_ino))
        folders[:] = sorted(filter(is_content, folders))
        found += [Path(parent, name) for name in files if is_image(name)]
    return sorted(found)


class IdentityFolders(NamedTuple):
    """The images of a folder that has a sub-folder for each identity."""

    identities: list[str]  # names of the sub-folders that hold an image, sorted
    paths: list[bytes]  # of the images, relative to the folder, identity by identity
    labels: list[int]  # the number of each image's identity
    left_out: list[str]  # what was not taken, in words


def read_identity_folders(root: Path) -> IdentityFolders:
    """List the images one level below `root`. Only names are read."""
    identities, paths, labels = [], [], []
    others, loose, deep, empty = Counter(), 0, 0, 0
    for entry in sorted(os.scandir(root), key=lambda entry: entry.name):
        if not is_content(entry.name):
            continue
        if not entry.is_dir():
            loose += is_image(entry.name)
            continue
        names = []
        with os.scandir(entry.path) as inside:
            for item in filter(lambda item: is_content(item.name), inside):
                if item.is_dir():
                    deep += 1
                elif is_image(item.name):
                    names.append(item.name)
                else:
                    others[os.path.splitext(item.name)[1].lower() or "no suffix"] += 1
        empty += not names
        if names:
            paths += [os.fsencode(os.path.join(entry.name, name)) for name in sorted(names)]
            labels += [len(identities)] * len(names)
            identities.append(entry.name)
    kinds = ", ".join(f"{count:,} {suffix}" for suffix, count in others.most_common(8))
    counts = {
        f"files that are no images by their suffix ({kinds})": others.total(),
        f"images beside the identities' folders, directly in {root}": loose,
        "folders inside identities' folders": deep,
        "folders without an image": empty,
    }
    left_out = [f"{count:,} {what}" for what, count in counts.items() if count]
    return IdentityFolders(identities, paths, labels, left_out)
