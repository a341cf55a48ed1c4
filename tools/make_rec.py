"""Pack faces into train.rec, train.idx and property, in insightface's layout.

    python tools/make_rec.py --images faces_112x112 --out data/faces
    python tools/make_rec.py --images photographs --align --out data/faces
    python tools/make_rec.py --images faces.csv --out data/faces          # path,identity
    python tools/make_rec.py --images train.lst --root images --out data/faces

IMAGES is a folder with a sub-folder per identity, a list of files (.csv with a header, or MXNet's .lst), or
whatever train_v2.py takes as rec: record files, tar, Parquet, LMDB. Faces have 112x112 pixels, in any format
that OpenCV reads; --align finds and aligns them first. Each is decoded once as a check and stored unchanged.
If some cannot be used, all of them are named and nothing is written; --skip-bad leaves them out.

OUT/identities.txt lists who has which label, OUT/images.txt the files, a name with a backslash or control
characters as Python writes them; OUT/duplicates.csv the images that look like one of another identity.
"""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from tqdm import tqdm

from eval.readers.errors import ListedError, names_in_file
from loading.readers.base import FaceDataset, decode
from tools.helpers.aligned_source import aligned
from tools.helpers.look_alikes import describe, look_alikes, write_look_alikes
from tools.helpers.processes import DEFAULT_WORKERS, ordered
from tools.helpers.record_files import DUPLICATES, require_free, whole_rec, write_rec
from tools.helpers.record_sources import Source, copied, open_source
from utils.command_line import run_script
from utils.recordio import RecordError

PART = 64  # images that a process checks at a time


@dataclass(frozen=True)
class Options:
    """What to do beside packing: see the help of the script."""

    root: Path | None = None
    align: bool = False
    skip_bad: bool = False
    dry_run: bool = False
    workers: int = 0


@dataclass
class Checked:
    """What was found when all images were decoded: which can be used, their hashes and bytes in all."""

    good: np.ndarray
    hashes: np.ndarray
    num_bytes: int
    faults: list[str]


def make_rec(images: Path, out: Path, options: Options = Options()) -> list[str]:
    """Write the record files; returns what was written and what was left out, in words.

    Raises:
        FileNotFoundError: no images in the folder.
        FileExistsError: there are record files already.
        ListedError: images that cannot be decoded or have another size, unless they are left out.
        RecordError: none is left.
    """
    require_free(out)
    source = open_source(images, options.root)
    if not options.align:
        return pack_source(source, images, out, options)
    if options.dry_run:
        return [f"{len(source):,} photographs of {len(source.identities):,} identities would be aligned"]
    with aligned(source, out, options.workers) as (faces, left_out):
        return pack_source(faces, images, out, options) + left_out


def pack_source(source: Source, images: Path, out: Path, options: Options) -> list[str]:
    """Check all images, then write; see `make_rec`."""
    found = check(source.data, options.workers)
    if found.faults and not options.skip_bad:
        raise ListedError(f"{images}: images that cannot be used (--skip-bad leaves them out):", found.faults)
    if not len(found.good):
        raise RecordError(f"{images}: none of its {len(source)} images can be used: {found.faults[0]}")
    order = np.argsort(source.labels[found.good], kind="stable")
    chosen = found.good[order]
    present, labels, counts = np.unique(source.labels[chosen], return_inverse=True, return_counts=True)
    pairs = look_alikes(found.hashes[order], labels)
    identities = [source.identities[label] for label in present]

    def row_of(i: int) -> tuple[str, str]:
        return source.names[chosen[i]] if source.names else source.data.name_of(chosen[i]), identities[
            labels[i]
        ]

    if not options.dry_run:
        which = np.stack([np.zeros_like(chosen), chosen], axis=1)
        with whole_rec(out) as folder:
            write_rec(folder, copied([source], which, labels, identities))
            if len(pairs):
                write_look_alikes(folder / DUPLICATES, pairs, row_of)
    alone = np.count_nonzero(counts == 1)
    left_out = [*getattr(source.data, "left_out", [])]
    left_out += [f"{len(found.faults)} bad images: {'; '.join(found.faults)}"] if found.faults else []
    notes = {
        f"{found.num_bytes / 2**20:,.1f} MiB would be written": options.dry_run,
        f"identities with one image: {alone:,}": alone,
        f"pairs of different identities that look alike ({DUPLICATES}): {len(pairs):,}": len(pairs),
    }
    return [
        f"{len(chosen):,} images of {len(present):,} identities",
        *(note for note, is_so in notes.items() if is_so),
        *(f"left out: {text}" for text in left_out),
    ]


# -------------------------------------------------------------------------------------- in worker processes

_data: FaceDataset | None = None


def start_worker(data: FaceDataset) -> None:
    """What the process is to check; it is forked, so nothing is copied."""
    global _data
    _data = data


def check_part(indices: range) -> tuple[list[int], np.ndarray, int, list[str]]:
    """Decode some images: which can be used, their hashes `(n, 2)`, bytes, and faults."""
    good, hashes, num_bytes, faults = [], np.empty((len(indices), 2), np.uint64), 0, []
    for index in indices:
        try:
            encoded, _ = _data.encoded(index)
            image = decode(encoded, _data.name_of(index))
        except RecordError as fault:
            faults.append(str(fault))
            continue
        hashes[len(good)] = describe(image)
        good.append(index)
        num_bytes += len(encoded)
    return good, hashes[: len(good)], num_bytes, faults


def check(data: FaceDataset, workers: int) -> Checked:
    """Decode every image, in so many processes."""
    jobs = [range(start, min(start + PART, len(data))) for start in range(0, len(data), PART)]
    good, hashes, num_bytes, faults = [], [], 0, []
    with tqdm(total=len(data), desc="checking", unit="img", disable=None) as progress:
        for job, part in zip(jobs, ordered(check_part, jobs, workers, start_worker, (data,), "fork")):
            good.append(np.array(part[0], np.int64))
            hashes.append(part[1])
            num_bytes += part[2]
            faults += part[3]
            progress.update(len(job))
    return Checked(np.concatenate(good), np.concatenate(hashes), num_bytes, faults)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--images", type=Path, required=True, help="folder, list, or data that train_v2.py takes")
    add("--root", type=Path, help="what the paths of a list are relative to (default: the list's folder)")
    add("--out", type=Path, required=True, help="folder to write to")
    add("--align", action="store_true", help="the images are photographs: find and align the faces first")
    add("--skip-bad", action="store_true", help="leave out images that cannot be used, and name them")
    add("--dry-run", action="store_true", help="check, say what would be written, and write nothing")
    workers = DEFAULT_WORKERS
    add("--workers", type=int, default=workers, help=f"processes; 0: none but this one (default {workers})")
    args = parser.parse_args()
    if args.workers < 0:
        raise ValueError("--workers is 0 or more")
    options = Options(args.root, args.align, args.skip_bad, args.dry_run, args.workers)
    with names_in_file(Path(f"{args.out}.faulty.txt")):
        done = make_rec(args.images, args.out, options)
    print(f"{'nothing is written: ' if args.dry_run else ''}{args.out}: " + "\n  ".join(done))


if __name__ == "__main__":
    run_script(main)
