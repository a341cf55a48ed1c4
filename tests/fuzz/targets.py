"""For each format: sound files, how they are changed, and the code of this project that reads them.

A target has a name, `mutate(chance)` -> files by name, `is_sound(folder)`: reads the files, tells whether
their content is that of the sound ones, and raises what the reader raises; `checksum`: no other content may
be read.
"""

import io
import json
import pickle
import random
import tempfile
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
from scipy.io import savemat

from backbones import get_model, load_backbone, save_backbone
from dataset import RecordDataset
from eval.readers.bin_sets import load_bin
from eval.readers.mat_lists import read_identities, read_name_pairs
from eval.readers.pair_lists import read_pairs
from eval.readers.tables import read_rows
from fuzz.mutations import as_bytes, changed_bytes, changed_text
from helpers.other_data import WRITERS
from loading.readers.choice import open_data
from tools.helpers.record_sources import read_list
from training import checkpoint
from utils.config import get_config
from utils.faces import decode_rgb
from utils.logging import read_metrics
from utils.recordio import IndexedRecordWriter

Files = dict[str, bytes]
cv2.setNumThreads(0)


class Target:
    """A reader and the files that it is given.

    Args:
        variants: sound files, each a set of its own.
        changed: names of the files to change; the others stay as they are.
        read: folder -> content; equal contents are equal.
        text: change lines and fields, too.
    """

    def __init__(
        self,
        name: str,
        variants: list[Files],
        changed: list[str],
        read: Callable,
        *,
        text=False,
        checksum=False,
    ):
        self.name, self.variants, self.changed = name, variants, changed
        self.read, self.text, self.checksum = read, text, checksum
        with tempfile.TemporaryDirectory() as folder:
            self.contents = [read(write(Path(folder), files)) for files in variants]

    def mutate(self, chance: random.Random) -> Files:
        files = dict(chance.choice(self.variants))
        name = chance.choice([name for name in self.changed if name in files])
        files[name] = self.change(files[name], chance)
        return files

    def change(self, data: bytes, chance: random.Random) -> bytes:
        if self.text and chance.random() < 0.6:
            return as_bytes(changed_text(data.decode(), chance))
        return changed_bytes(data, chance)

    def is_sound(self, folder: Path) -> bool:
        return self.read(folder) in self.contents

    def names(self, message: str, folder: Path) -> bool:
        """Whether an error names a file of the folder."""
        return str(folder) in message


class Overrides(Target):
    """Arguments of a command line, for which there is no file to name."""

    def names(self, message: str, folder: Path) -> bool:
        return True


def write(folder: Path, files: Files) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def face(seed: int) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 256, (7, 7, 3), np.uint8)
    return cv2.resize(coarse, (112, 112), interpolation=cv2.INTER_CUBIC)


def encoded(suffix: str, seed: int = 0, *options: int) -> bytes:
    return cv2.imencode(suffix, face(seed), list(options))[1].tobytes()


# ------------------------------------------------------------------------------------ RecordIO, idx, property


def record_files() -> list[Files]:
    """With insightface's header and `property`, and without; one payload holds the magic number."""
    found = []
    for header in (True, False):
        with tempfile.TemporaryDirectory() as folder:
            folder = Path(folder)
            with IndexedRecordWriter(folder / "train.idx", folder / "train.rec") as records:
                if header:
                    records.write(0, (7, 10), b"")
                for i in range(6):
                    records.write(
                        1 + i,
                        i // 2 if header else (i // 2, 1.0),
                        encoded(".jpg", i) + b"\x0a\x23\xd7\xce" * (i == 3),
                    )
                for i in range(3 * header):
                    records.write(7 + i, (1 + 2 * i, 3 + 2 * i), b"")
            names = ("train.rec", "train.idx")
            files = {name: (folder / name).read_bytes() for name in names}
        found.append(files | ({"property": b"3,112,112\n"} if header else {}))
    return found


def read_records(folder: Path):
    data = RecordDataset(folder)
    samples = [data.read(i) for i in range(len(data))]
    return [(label, image.tobytes()) for image, label in samples], data.num_classes, data.labels().tolist()


def container_files(kind: str) -> list[Files]:
    """The small images of the tests in a tar or in Parquet; LMDB checks nothing, as docs/data.md says."""
    with tempfile.TemporaryDirectory() as folder:
        root = WRITERS[kind](Path(folder), [0, 1, 0, 1])
        return [{path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*.*")}]


def read_container(folder: Path):
    for kept in folder.glob("*.index.npz"):  # of the input before
        kept.unlink()
    data = open_data(folder)
    return [(label, image.tobytes()) for image, label in map(data.read, range(len(data)))], data.num_classes


IMAGE_LISTS = {
    "list.lst": b"0\t3\tann/1.png\n1\t5.0\tbob/1.png\n2\t3\t0.5\tann/2.png\n",
    "list.csv": b'path,identity\nann/1.png,ann\n"bob/1,2.png",bob\n',
}


def read_image_lists(folder: Path):
    found = [read_list(folder / name, folder) for name in IMAGE_LISTS]
    return [(data.identities, data.relative_paths.tolist(), data.labels().tolist()) for data in found]


# ------------------------------------------------------------------------------- verification sets, lists


def bin_files() -> list[Files]:
    images, same = [encoded(".jpg", i) for i in range(4)], [True, False]
    contents = [
        (images, same),
        ([np.frombuffer(i, np.uint8) for i in images], np.array(same)),
        ([bytearray(i) for i in images], same),
    ]
    return [{"set.bin": pickle.dumps(content, protocol)} for content in contents for protocol in range(6)]


def read_bin(folder: Path):
    images, same = load_bin(folder / "set.bin")
    return images.tobytes(), same.tolist()


def mat_files() -> list[Files]:
    names = np.array([["1_1.jpg"], ["22_1.jpg"], ["22_2.jpg"]], object)
    pairs = np.array([["1_a.jpg", "1_b.jpg"], ["2_a.jpg", "3_b.jpg"]], object)
    found = []
    for compressed in (False, True):
        file = io.BytesIO()
        savemat(
            file,
            {"set": names, "ids": np.array([[1], [22], [22]]), "pairs": pairs},
            do_compression=compressed,
        )
        found.append({"list.mat": file.getvalue()})
    return found


def read_mat_lists(folder: Path):
    names, ids = read_identities(folder / "list.mat", "set", "ids")
    return names, ids.tolist(), read_name_pairs(folder / "list.mat", "pairs")


LISTS = {
    "pairs.csv": b'path1,path2,issame\na/1.jpg,a/2.jpg,1\na/1.jpg,b/2.jpg,0\n"x,y",b/2.jpg,true\n',
    "pairs.txt": b"10\t300\nabel\t1\t2\nabel\t1\tbob\t2\n",
    "table.csv": b"NAME,ID,X\na.jpg,1,0.5\nb.jpg,2,-1e3\n",
    "numbers.txt": b"1 2 3\n4 5 6\n",
    "metrics.jsonl": b'{"kind": "train", "step": 1, "loss": 1}\n{"kind": "train", "step": 2, "loss": null}\n',
}


def read_lists(folder: Path):
    table = read_rows(folder / "table.csv", {"NAME": str, "ID": int, "X": float}, header=True, delimiter=",")
    numbers = read_rows(folder / "numbers.txt", {"a": int, "b": int, "c": int})
    found = [list(map(list, table.values())), [column.tolist() for column in numbers.values()]]
    found += [read_pairs(folder / name, Path("images")) for name in ("pairs.csv", "pairs.txt")]
    return repr([found, read_metrics(folder / "metrics.jsonl")])


# ------------------------------------------------------------------------------------ models and checkpoints


def model_files() -> list[Files]:
    torch.manual_seed(0)
    args, found = {"blocks": (1, 1, 1, 1), "scale": 1}, []
    backbone = get_model("mbf", num_features=8, **args)
    for name in ("model.pt", "model.safetensors"):
        with tempfile.TemporaryDirectory() as folder:
            save_backbone(Path(folder) / name, backbone, network="mbf", num_features=8, network_args=args)
            found.append({"model": (Path(folder) / name).read_bytes()})
    return found


class Models(Target):
    def change(self, data: bytes, chance: random.Random) -> bytes:
        """Mostly where an archive keeps its books: at its ends; the pickle is near the beginning."""
        cut = chance.choice((2000, 20_000, len(data)))
        if chance.random() < 0.5:
            return changed_bytes(data[:cut], chance) + data[cut:]
        return data[:-cut] + changed_bytes(data[-cut:], chance)


def read_model(folder: Path):
    backbone = load_backbone(folder / "model")
    return backbone.input_order, {
        key: tensor.numpy().tobytes() for key, tensor in backbone.state_dict().items()
    }


def checkpoint_files() -> list[Files]:
    shared = {"step": 4, "fixed": {"batch": 8}, "optimizer": {"state": {0: {"momentum": torch.ones(3)}}}}
    with tempfile.TemporaryDirectory() as folder:
        path = checkpoint.save(folder, 4, shared, {"weight": torch.arange(24.0).view(12, 2)}, 0)
        return [{f"{path.name}/{file.name}": file.read_bytes() for file in path.iterdir()}]


def read_checkpoint(folder: Path):
    shared, sharded = checkpoint.load(folder, 2, 9, 4, num_classes=12)
    return repr((shared, sharded["weight"].tolist()))


# ------------------------------------------------------------------------------------ images, overrides


def read_image(folder: Path):
    try:
        return decode_rgb((folder / "image").read_bytes()).tobytes()
    except ValueError as error:  # its callers add the name
        raise ValueError(f"{folder}: {error}") from error


OVERRIDES = (
    *(
        "batch_size=64",
        "resume=true",
        "loss_args.m=0.4",
        "val_targets=[lfw,cfp_fp]",
        "output=None",
        "lr=1e-3",
    ),
    *(
        "network_args={blocks: (1,1,1,1), scale: 1}",
        "regularizers=[(ndr, {weight: 10})]",
        "tensorboard=false",
    ),
    *(
        "max_skipped_steps=3",
        "rec=[a,b]",
        "precision=bf16",
        "seed=3",
        "loss=arcface",
        "optimizer=adamw",
    ),
)


def read_override(folder: Path):
    text = (folder / "override").read_bytes().decode("utf-8", "surrogatepass")
    return json.dumps(get_config("demo", [text]), default=str)


def build(name: str) -> Target:
    """The target of that name; makes its sound files."""
    return TARGETS[name](name)


TARGETS: dict[str, Callable[[str], Target]] = {
    "rec": lambda name: Target(name, record_files(), ["train.rec"], read_records),
    "idx": lambda name: Target(name, record_files(), ["train.idx", "property"], read_records, text=True),
    "tar": lambda name: Target(name, files := container_files("tar"), list(files[0]), read_container),
    "parquet": lambda name: Target(name, files := container_files("parquet"), list(files[0]), read_container),
    "lists": lambda name: Target(name, [IMAGE_LISTS], list(IMAGE_LISTS), read_image_lists, text=True),
    "bin": lambda name: Target(name, bin_files(), ["set.bin"], read_bin),
    "mat": lambda name: Target(name, mat_files(), ["list.mat"], read_mat_lists),
    "text": lambda name: Target(name, [LISTS], list(LISTS), read_lists, text=True),
    "model": lambda name: Models(name, model_files(), ["model"], read_model, checksum=True),
    "checkpoint": lambda name: Target(
        name, files := checkpoint_files(), list(files[0]), read_checkpoint, checksum=True
    ),
    "png": lambda name: Target(name, [{"image": encoded(".png")}], ["image"], read_image, checksum=True),
    "image": lambda name: Target(
        name,
        [{"image": encoded(s)} for s in (".jpg", ".bmp", ".webp", ".tiff", ".ppm")]
        + [{"image": encoded(".jpg", 0, cv2.IMWRITE_JPEG_PROGRESSIVE, 1)}],
        ["image"],
        read_image,
    ),
    "override": lambda name: Overrides(
        name, [{"override": o.encode()} for o in OVERRIDES], ["override"], read_override, text=True
    ),
}
