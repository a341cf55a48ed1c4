"""What embed.py, verify.py, search.py and calibrate.py share: arguments, the model, files of embeddings."""

import argparse
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from eval.calibration_file import Threshold, read_calibration, threshold_at
from eval.embedding import Embeddings, embed, load_model
from eval.features import check_settings, chosen_precision
from eval.models import (
    add_model_arguments,
    add_normalise,
    check_precision,
    file_hash,
    input_of,
    made_otherwise,
)
from eval.readers.faces import AlignedFaces
from loading.image_files import IMAGE_SUFFIXES, images_below
from utils.files import whole_file
from utils.precision import PRECISIONS


class Named(NamedTuple):
    """Embeddings and the images that they are of."""

    paths: list[str]
    unit: np.ndarray  # (N, D)
    norm: np.ndarray  # (N,)


class Embedder:
    """The model of a command line.

    Attributes: model; made_with, what its embeddings depend on, for files.
    """

    def __init__(self, args: argparse.Namespace):
        self.args = args
        check_settings(args.batch_size, args.precision)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        said = {"input_order": args.input_order, "normalise": args.normalise, "device": device}
        self.model = load_model(args.model, args.network, **said)
        check_precision(self.model, args.precision)
        self.precision = chosen_precision(args.precision, torch.device(device))
        self.made_with = {
            "file": str(args.model),
            "sha256": file_hash(args.model),
            **input_of(self.model),
            "mirror": args.mirror,
            "precision": self.precision,
        }

    def embed(self, paths: Sequence[Path], progress: str) -> Named:
        """The embeddings of image files."""
        options = {"batch_size": self.args.batch_size, "precision": self.precision}
        faces = AlignedFaces(paths)
        found: Embeddings = embed(self.model, faces, mirror=self.args.mirror, progress=progress, **options)
        return Named([str(path) for path in paths], *found)

    def read(self, sources: Iterable[Path], progress: str) -> Named:
        """The embeddings of images and folders, or those in one file of `write_embeddings`.

        Raises:
            FileNotFoundError: nothing is there.
            ValueError: a file of embeddings that another model made or that is one of several sources, or
                images that cannot be used.
        """
        sources = list(sources)
        if files := [source for source in sources if source.suffix == ".npz"]:
            if len(sources) > 1:
                raise ValueError(f"{files[0]} holds embeddings: it cannot be given with others")
            return read_embeddings(files[0], self.made_with)
        return self.embed(find_images(sources), progress)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the four scripts take."""
    add_model_arguments(parser)
    add_normalise(parser)
    add = parser.add_argument
    help_mirror = "embed the image alone, without its mirror image: half the cost, other thresholds"
    add("--no-mirror", dest="mirror", action="store_false", help=help_mirror)
    add("--batch-size", type=int, default=64, help="images a forward pass (default 64)")
    add("--precision", default="fp32", help=f"{', '.join(PRECISIONS)} (default fp32)")


def add_decision(parser: argparse.ArgumentParser) -> None:
    """`--calibration` and `--far`."""
    parser.add_argument("--calibration", type=Path, help="calibration.json of tools/calibrate.py")
    parser.add_argument("--far", type=float, help="false accept rate, such as 1e-3 (default 1e-3)")


def decision_rule(args: argparse.Namespace, embedder: Embedder) -> tuple[Threshold | None, dict]:
    """The threshold that the command line asks for, if any, and the content of its file.

    Raises:
        ValueError: `--far` without `--calibration`, or see `read_calibration`.
    """
    if args.calibration is None:
        if args.far is not None:
            remedy = "tools/calibrate.py makes it, docs/use.md says of what"
            raise ValueError(f"--far {args.far:g} takes --calibration: {remedy}")
        return None, {}
    content = read_calibration(args.calibration, embedder.made_with)
    return threshold_at(content, 1e-3 if args.far is None else args.far, args.calibration), content


def find_images(sources: Iterable[Path]) -> list[Path]:
    """Image files: those named, and all below the folders named, in order, none twice.

    Raises:
        FileNotFoundError: no such file or folder, or a folder without images.
    """
    found = {}
    for source in sources:
        if not source.exists():
            raise FileNotFoundError(f"no image or folder {str(source)!r}")
        if not source.is_dir():
            found[source] = None
            continue
        inside = images_below(source)
        if not inside:
            raise FileNotFoundError(f"{source} holds no images ({', '.join(IMAGE_SUFFIXES)} in any case)")
        found |= dict.fromkeys(inside)
    return list(found)


def write_embeddings(path: Path, named: Named, made_with: dict) -> None:
    """Write an .npz with `paths`, `embeddings`, `norm` and `made_with` (JSON), whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    entries = {"paths": np.array(named.paths), "embeddings": named.unit, "norm": named.norm}
    with whole_file(path) as partial, open(partial, "wb") as file:
        np.savez(file, **entries, made_with=np.array(json.dumps(made_with)))


def read_embeddings(path: Path, made_with: dict) -> Named:
    """What `write_embeddings` wrote.

    Raises:
        FileNotFoundError: no such file.
        ValueError: another kind of file, or embeddings of another model.
    """
    try:
        with np.load(path) as file:  # pickled arrays are refused
            if sum(member.file_size for member in file.zip.infolist()) > path.stat().st_size:
                raise ValueError("it is compressed, which tools/embed.py never does")
            named = Named(
                file["paths"].tolist(),
                *(file[name].astype("f4", casting="same_kind") for name in ("embeddings", "norm")),
            )
            theirs = dict(json.loads(str(file["made_with"])))
    except FileNotFoundError:
        raise
    except Exception as error:  # any bytes may be in it
        raise ValueError(f"{path} is no file of tools/embed.py, or a damaged one ({error})") from error
    shapes = len(named.paths), named.unit.shape[:1], named.norm.shape
    if named.unit.ndim != 2 or shapes != (len(named.unit), named.norm.shape, (len(named.unit),)):
        raise ValueError(
            f"{path} is damaged: {len(named.paths)} paths, embeddings of shape {named.unit.shape}"
        )
    if not (np.isfinite(named[1]).all() and np.isfinite(named[2]).all()):
        raise ValueError(f"{path} holds embeddings that are not finite: embed again, with --precision fp32")
    if differs := made_otherwise(theirs, made_with):
        raise ValueError(f"{path} {differs}: embed again")
    return named
