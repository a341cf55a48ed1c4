"""Write the images of a rec as files, a sub-folder for each identity; the bytes are those of the records.

    python tools/rec_to_folder.py --rec data/faces --out faces_again

Folders are called as identities.txt says, files as images.txt says (make_rec.py writes both): a folder that
was packed comes back byte for byte. Where there are no such names, or some are no name of a file or occur
twice, all are numbered. OUT appears when all is done. --dry-run only says what would be written.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tqdm import tqdm

from loading.image_files import is_content, is_image
from tools.helpers.record_sources import Source, open_rec
from utils.command_line import run_script
from utils.files import whole_folder
from utils.recordio import RecordError

SUFFIXES = {  # by the first bytes
    b"\xff\xd8": ".jpg", b"\x89PNG": ".png", b"RIFF": ".webp", b"BM": ".bmp", b"II*\0": ".tif",
    b"MM\0*": ".tif", b"P6": ".ppm", b"P5": ".pgm", b"\0\0\0\x0cjP": ".jp2",
}  # fmt: skip


def rec_to_folder(source: Source, out: Path, dry_run: bool = False) -> str:
    """Write the files; returns what was written, in words.

    Raises:
        FileExistsError: `out` is there already.
        RecordError: a record holds no image.
    """
    if out.exists():
        raise FileExistsError(f"{out} exists already: remove it, or choose another --out")
    folders, files = folder_names(source), file_names(source)
    people = len(set(source.labels.tolist()))
    done = f"{out}: {len(source):,} images of {people:,} identities"
    if dry_run:
        return f"nothing is written: {done}"
    with whole_folder(out) as folder:
        for index in tqdm(range(len(source)), unit="img", disable=None):
            encoded = source.record(index)[1]
            place = folder / folders[source.labels[index]]
            place.mkdir(exist_ok=True)
            name = files[index] if files else f"{index:07}{suffix_of(encoded, source, index)}"
            (place / name).write_bytes(encoded)
    return done


def folder_names(source: Source) -> list[str]:
    """One for each label: the identities' names where all can be used, else the labels, of equal length."""
    names = source.identities
    usable = len(set(names)) == len(names) and all(is_content(name) and _is_plain(name) for name in names)
    width = len(str(len(names) - 1))
    return (
        names if usable and not _are_numbers(names) else [f"{label:0{width}}" for label in range(len(names))]
    )


def file_names(source: Source) -> list[str] | None:
    """The name of each image's file, without its folder; None where some cannot be used or are not unlike."""
    if source.names is None:
        return None
    names = [Path(name).name for name in source.names]
    unlike = len(set(zip(source.labels.tolist(), names))) == len(names)
    return names if unlike and all(is_image(name) and _is_plain(name) for name in names) else None


def suffix_of(encoded: bytes, source: Source, index: int) -> str:
    """Of the format that the first bytes tell."""
    for start, suffix in SUFFIXES.items():
        if encoded.startswith(start):
            return suffix
    raise RecordError(
        f"{source.data.name_of(index)} holds no image of a known format: "
        "tools/inspect_rec.py --repair leaves it out"
    )


def _is_plain(name: str) -> bool:
    """Whether it stays in its folder, whatever a file that was downloaded says."""
    return name == Path(name).name and name not in ("", ".", "..") and "\0" not in name and len(name) < 200


def _are_numbers(names: list[str]) -> bool:
    """Whether they are nothing but the labels, which sort better with zeros in front."""
    return all(name == str(number) for number, name in enumerate(names))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--rec", type=Path, required=True, help="folder with train.rec and train.idx, or a .rec file")
    add("--out", type=Path, required=True, help="folder to write to, which must not be there yet")
    add("--dry-run", action="store_true", help="say what would be written, and write nothing")
    arguments = parser.parse_args()
    print(rec_to_folder(open_rec(arguments.rec), arguments.out, arguments.dry_run))


if __name__ == "__main__":
    run_script(main)
