"""Which records of a `train.rec` are images, and how many classes they have.

insightface puts a header first: key 0 with the labels [N+1, N+1+C] and no payload. Then keys 1…N are images
and keys N+1…N+C are identities, each with the range [first, last+1) of its images' keys and no payload.
Without that header every record is an image, whatever its labels look like.
"""

from bisect import bisect_left
from pathlib import Path

import numpy as np

from utils.recordio import IndexedRecordReader, RecordError

# Where the number of classes is known beforehand, the labels of larger files are checked on an even sample
# (and each again when its image is read); otherwise all are read, which takes seconds per million.
SCAN_LIMIT = 1_000_000
NUM_PROBES = 1024
NUM_LABELS = 1 << 16  # that tell data apart where there are too many to read them all


def image_keys(reader: IndexedRecordReader) -> tuple[np.ndarray, int]:
    """The keys `(N,)` that hold images, in the order of the `.idx`, and the number of identity records.

    Raises:
        RecordError: the header announces other numbers than the `.idx` has.
    """
    if reader.keys.min() != 0:
        return reader.keys, 0
    header, payload = reader.read(0)
    if len(header) != 2 or payload:
        return reader.keys, 0
    # The header's numbers are float32, exact up to 2^24 only; so N is where records without payload begin.
    last = int(reader.keys.max())
    num_images = bisect_left(range(1, last + 1), True, key=lambda key: not reader.read(key)[1])
    if last != len(reader) - 1 or not np.array_equal(header, np.float32([num_images + 1, last + 1])):
        raise RecordError(
            f"{reader.rec_path}: its header announces {header[0] - 1:.0f} images and keys up to "
            f"{header[1] - 1:.0f}, but {reader.idx_path.name} has {num_images} images and keys up to {last}"
        )
    if num_images == 0:
        raise RecordError(f"{reader.rec_path} holds no image")
    return reader.keys[(reader.keys >= 1) & (reader.keys <= num_images)], last - num_images


def count_classes(
    reader: IndexedRecordReader, keys: np.ndarray, num_identities: int, declared: int | None, source: str
) -> int:
    """`declared`, if given, else the largest label plus one.

    Args:
        keys, num_identities: what `image_keys` returned.
        declared, source: the number of classes and where it is written; None where it is not.
    Raises:
        RecordError: a label is not an integer in the class range.
    """
    if num_identities and _identities_are_labels(reader, len(keys), num_identities):
        if declared is not None and num_identities > declared:
            raise RecordError(
                f"{reader.rec_path} has {num_identities} identities, but {source} says {declared} classes"
            )
        return declared or num_identities
    if declared is not None and len(keys) > SCAN_LIMIT:
        keys = keys[np.linspace(0, len(keys) - 1, NUM_PROBES).astype(np.int64)]
    labels = reader.first_labels(keys)
    check_labels(reader, keys, labels, declared, source)
    return declared or int(labels.max()) + 1


def check_labels(
    reader: IndexedRecordReader, keys: np.ndarray, labels: np.ndarray, num_classes: int | None, source: str
) -> None:
    """RecordError for the first label that is no integer from 0 to `num_classes` - 1 (None: no upper end)."""
    wrong = ~((labels >= 0) & (labels < (num_classes or np.inf)) & (labels == np.floor(labels)))
    if np.any(wrong):
        allowed = f"0…{num_classes - 1} ({source})" if num_classes else "integers from 0"
        raise RecordError(
            f"{reader.rec_path}: record {keys[wrong][0]} has label {labels[wrong][0]:.9g}; allowed: {allowed}"
        )


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
    line = path.read_text(errors="replace").partition("\n")[0].strip()
    number, *size = (field.strip() for field in line.split(","))
    if not number.isdecimal() or len(number) > 18 or int(number) < 1 or size != ["112", "112"]:
        raise RecordError(f"{path}: expected '<number of classes>,112,112', got {line[:80]!r}")
    return int(number)


def _identities_are_labels(reader: IndexedRecordReader, num_images: int, num_identities: int) -> bool:
    """Whether identity i is label i, as insightface numbers them: looks at one image each of a sample."""
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
    chosen, middle = chosen[first < end], ((first + end) // 2)[first < end]
    return np.array_equal(reader.first_labels(np.minimum(middle, num_images)), chosen)
