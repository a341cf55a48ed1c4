"""The same small images in every container that training data may come in: picture(i) has labels[i]."""

import io
import json
import tarfile
from pathlib import Path

import pytest

from helpers.records import picture, png, write_rec

LABELS = [0, 0, 1, 2, 1, 2, 0, 1]


def add_member(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


def write_tars(folder: Path, labels: list, *, first: int = 0) -> Path:
    """Two tars; labels in .cls and .json in turn, with other members and a long name among them."""
    folder.mkdir(parents=True, exist_ok=True)
    half = len(labels) // 2
    for shard, chosen in enumerate((range(half), range(half, len(labels)))):
        with tarfile.open(folder / f"faces-{shard}.tar", "w") as tar:
            for i in chosen:
                key = f"people/{'x' * 120 if i == 1 else ''}{first + i:04}"
                add_member(tar, f"{key}.png", png(picture(first + i)))
                if i % 2:
                    add_member(tar, f"{key}.json", json.dumps({"source": "web", "label": labels[i]}).encode())
                else:
                    add_member(tar, f"{key}.cls", f"{labels[i]}\n".encode())
                add_member(tar, f"{key}.landmarks.npy", b"anything")
    return folder


def write_parquet(folder: Path, labels: list, *, plain: bool = False, rows: int = 3) -> Path:
    """Two files in `data`, as the Hub has them, of row groups of `rows` images, and one of another split."""
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    (folder / "data").mkdir(parents=True, exist_ok=True)
    half = len(labels) // 2
    for name, chosen in {
        "train-00000-of-00002": range(half),
        "train-00001-of-00002": range(half, len(labels)),
        "test-00000-of-00001": range(1),
    }.items():
        images = [png(picture(i)) for i in chosen]
        if not plain:
            images = [{"bytes": image, "path": f"{i}.png"} for i, image in enumerate(images)]
        table = arrow.table(
            {"image": images, "label": [labels[i] for i in chosen], "age": [30.0] * len(chosen)}
        )
        parquet.write_table(table, folder / "data" / f"{name}.parquet", row_group_size=rows)
    return folder


def write_lmdb(folder: Path, labels: list, *, features: bool = False, **entries) -> Path:
    """faces.lmdb, one file as Vec2Face+ publishes it; `entries` take the place of __keys__ and the like."""
    lmdb, msgpack = pytest.importorskip("lmdb"), pytest.importorskip("msgpack")
    folder.mkdir(parents=True, exist_ok=True)
    keys = [str(i).encode() for i in range(len(labels))]
    found = {"__keys__": keys, "__len__": len(keys), "__classnum__": 3} | entries
    env = lmdb.open(str(folder / "faces.lmdb"), subdir=False, map_size=1 << 24)
    with env, env.begin(write=True) as transaction:
        for i, label in enumerate(labels):
            value = [png(picture(i)), *([b"a feature"] if features else []), label]
            transaction.put(keys[i], msgpack.packb(value))
        for key, value in found.items():
            transaction.put(key.encode(), msgpack.packb(value))
    return folder


WRITERS = {"rec": write_rec, "tar": write_tars, "parquet": write_parquet, "lmdb": write_lmdb}
