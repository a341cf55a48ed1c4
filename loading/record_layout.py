"""Which records of a `train.rec` are images, and how many classes they have.

insightface puts a header first: key 0 with the labels [N+1, N+1+C] and no payload. Then keys 1…N are images
and keys N+1…N+C are identities, each with the range [first, last+1) of its images' keys and no payload.
Without that header every record is an image, whatever its labels look like. As arcface_torch, a header is
taken whose identities are missing, which subsets keep, or that has a payload which is no image.
"""

from bisect import bisect_left
from pathlib import Path

import numpy as np

from utils.faces import decode_rgb
from utils.recordio import IndexedRecordReader, RecordError

# Where the number of classes is known beforehand, the labels of larger files are checked on an even sample
# (and each again when its image is read); otherwise all are read, which takes seconds per million.
SCAN_LIMIT = 1_000_000
NUM_PROBES = 1024
MAX_EMPTY, WARN_EMPTY = 0.9, 0.01  # shares of classes without an image
NUM_LABELS = 1 << 16  # that tell data apart where there are too many to read them all


def find_record(root: Path) -> Path | None:
    """The `.rec` file that is meant by a folder or a file; None where the folder has none.

    train.rec comes first; a folder without it may have one `.rec` of any name, as im2rec writes it.

    Raises:
        RecordError: several, or one without its `.idx`.
    """
    if root.suffix in (".rec", ".idx") and not root.is_dir():
        found = [root.with_suffix(".rec")]
    elif (root / "train.rec").exists() or (root / "train.idx").exists():
        return root / "train.rec"  # the reader says which of the two is missing
    else:
        found = sorted(root.glob("*.rec"))
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise RecordError(f"{root} holds {names}: name one of them, as rec={found[0]}")
    if found and not found[0].with_suffix(".idx").exists():
        raise RecordError(
            f"{found[0]} has no {found[0].with_suffix('.idx').name} beside it, which says where its records "
            "start: im2rec writes it too, and MXNet's rec2idx.py makes it"
        )
    return found[0] if found else None


def image_keys(reader: IndexedRecordReader) -> tuple[np.ndarray, int]:
    """The keys `(N,)` that hold images, in the order of the `.idx`, and the number of identity records.

    Raises:
        RecordError: the header announces other numbers than the `.idx` has.
    """
    if reader.keys.min() != 0:
        return reader.keys, 0
    header, payload = reader.read(0)
    if len(header) != 2 or (payload and _is_image(payload)):
        return reader.keys, 0
    # The header's numbers are float32, exact up to 2^24 only; so N is where records without payload begin.
    last = int(reader.keys.max())
    num_images = bisect_left(range(1, last + 1), True, key=lambda key: not reader.read(key)[1])
    if last == num_images and header[0] == np.float32(num_images + 1) and last == len(reader) - 1:
        return reader.keys[
            reader.keys > 0
        ], 0  # the identities' records are not there: it is a subset's header
    if last != len(reader) - 1 or not np.array_equal(header, np.float32([num_images + 1, last + 1])):
        raise RecordError(
            f"{reader.rec_path}: its header announces {header[0] - 1:.0f} images and keys up to "
            f"{header[1] - 1:.0f}, but {reader.idx_path.name} has {num_images} images and keys up to {last}"
        )
    if num_images == 0:
        raise RecordError(f"{reader.rec_path} holds no image")
    return reader.keys[(reader.keys >= 1) & (reader.keys <= num_images)], last - num_images


def _is_image(payload: bytes) -> bool:
    """Whether a record with two labels and a payload is an image, not a header with something in it."""
    try:
        decode_rgb(payload)
    except ValueError:
        return False
    return True


def count_classes(
    reader: IndexedRecordReader, keys: np.ndarray, num_identities: int, declared: int | None, source: str
) -> tuple[int, list[str]]:
    """The number of classes: `declared`, if given, else the largest label plus one; and what to warn of.

    Args:
        keys, num_identities: what `image_keys` returned.
        declared, source: the number of classes and where it is written; None where it is not.
    Raises:
        RecordError: a label is not an integer in the class range, or labels leave out most of it, though
            nobody has declared it.
    """
    if num_identities and (present := _identities_with_images(reader, len(keys), num_identities)):
        if declared is not None and num_identities > declared:
            raise RecordError(
                f"{reader.rec_path} has {num_identities} identities, but {source} says {declared} classes"
            )
        num_classes = declared or num_identities
        return num_classes, gaps(reader.rec_path, present, num_classes)
    all_read = declared is None or len(keys) <= SCAN_LIMIT
    if not all_read:
        keys = keys[np.linspace(0, len(keys) - 1, NUM_PROBES).astype(np.int64)]
    labels = reader.first_labels(keys)
    check_labels(reader, keys, labels, declared, source)
    if not all_read:
        return declared, []
    return count_labels(reader.rec_path, labels.astype(np.int64), declared)


def count_labels(source: object, labels: np.ndarray, declared: int | None) -> tuple[int, list[str]]:
    """The number of classes: `declared`, if given, else the largest label plus one; and what to warn of.

    Args:
        source: the data, as a user calls them.
        labels: `(N,)` int64 from 0, of all images.
    Raises:
        RecordError: labels leave out most of their range, though nobody has declared it.
    """
    num_classes, classes = declared or int(labels.max()) + 1, np.unique(labels)
    if declared is None and len(classes) < (1 - MAX_EMPTY) * num_classes:
        raise RecordError(
            f"{source}: its labels go up to {num_classes - 1:,}, but only {len(classes):,} of them "
            f"occur: number the people from 0 without gaps, or declare num_classes={num_classes} if the rest "
            "is to stay empty"
        )
    return num_classes, gaps(source, len(classes), num_classes, int(classes[0]))


def gaps(source: object, present: int, num_classes: int, first: int = 0) -> list[str]:
    """What to warn of, where `present` of the classes have images and `first` is the first that has.

    Args:
        source: the data, as a user calls them.
    """
    empty = num_classes - present
    shifted = f": its labels begin at {first}, not at 0" if first else ""
    found = f"{source}: {empty:,} of {num_classes:,} classes have no image{shifted}"
    return [found] if first or empty > WARN_EMPTY * num_classes else []


def check_labels(
    reader: IndexedRecordReader, keys: np.ndarray, labels: np.ndarray, num_classes: int | None, source: str
) -> None:
    """RecordError for the first label that is no integer from 0 to `num_classes` - 1 (None: no upper end)."""
    wrong = ~are_labels(labels, num_classes)
    if np.any(wrong):
        allowed = f"0…{num_classes - 1} ({source})" if num_classes else "integers from 0"
        raise RecordError(
            f"{reader.rec_path}: record {keys[wrong][0]} has label {labels[wrong][0]:.9g}; allowed: {allowed}"
        )


def are_labels(labels: np.ndarray, num_classes: int | None) -> np.ndarray:
    """Which of these floats `(n,)` are integers from 0 to `num_classes` - 1 (None: no upper end)."""
    return (labels >= 0) & (labels < (num_classes or np.inf)) & (labels == np.floor(labels))


def content(reader: IndexedRecordReader, keys: np.ndarray) -> dict[str, tuple[np.ndarray, ...]]:
    """What tells the images of these keys from others without reading them, as arrays by name.

    "labels": of more than SCAN_LIMIT images a sample; left out where one is unreadable, which the loader will
    find and may be told to skip. "images": the keys, where each record starts, and the size of the file.
    """
    places = {"images": (keys, *reader.layout())}
    if len(keys) > SCAN_LIMIT:
        keys = keys[np.linspace(0, len(keys) - 1, NUM_LABELS).astype(np.int64)]
    try:
        return {"labels": (reader.first_labels(keys),), **places}
    except RecordError:
        return places


def read_property(path: Path) -> int | None:
    """The number of classes in a file `property`, None where there is no such file."""
    if not path.is_file():
        return None
    line = path.read_text(encoding="utf-8-sig", errors="replace").partition("\n")[0].strip()
    number, *size = (field.strip() for field in line.split(","))
    if not number.isdecimal() or len(number) > 18 or int(number) < 1 or size != ["112", "112"]:
        raise RecordError(f"{path}: expected '<number of classes>,112,112', got {line[:80]!r}")
    return int(number)


def _identities_with_images(reader: IndexedRecordReader, num_images: int, num_identities: int) -> int:
    """How many identities have images, by a sample; 0 where identity i is not label i, as insightface's are.

    Looks at one image of each identity of the sample.
    """
    # Numbers above 2^24 were rounded to a float32: compare with rounded ones, and look at the middle image.
    chosen = np.unique(np.linspace(0, num_identities - 1, NUM_PROBES).astype(np.int64))
    ranges = [reader.read(num_images + 1 + i)[0] for i in chosen]
    for i, found in zip(chosen, ranges):
        if len(found) != 2 or not 1 <= found[0] <= found[1] <= np.float32(num_images + 1):
            raise RecordError(
                f"{reader.rec_path}: record {num_images + 1 + i} should hold an identity's range of keys, "
                f"within 1…{num_images + 1}, but holds {found.tolist()}"
            )
    first, end = np.array(ranges, np.int64).T
    share = np.mean(first < end)
    chosen, middle = chosen[first < end], ((first + end) // 2)[first < end]
    same = np.array_equal(reader.first_labels(np.minimum(middle, num_images)), chosen)
    return round(share * num_identities) if same else 0
