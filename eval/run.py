"""What the evaluation scripts share: their arguments, a run with its networks, and features kept on disk.

    args = arguments(__doc__).parse_args()
    with list_faults_in_file(args, "tinyface"):
        tree = read_tree(args.data)                  # a faulty tree is an error before a network is loaded
        faces = AlignedFaces(tree.paths)
    with evaluation(args, "tinyface", "TinyFace") as run:
        plain, flip = run.features(faces)            # on every rank
        if not run.is_main:
            return
        run.report.table(...)
        run.write_report()

Features are kept in `feature_cache/` beside the output folder, in files named by a hash of all that
determines them: content of the model file, images, precision, kind of device, version of the extraction. A
second evaluation needs no pass of the network; a changed model or image makes a new file. The folder may be
deleted at any time; `--no-cache` neither reads nor writes it.
"""

import argparse
import hashlib
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from eval.baseline import compare, read_outcomes
from eval.features import check_settings, chosen_precision, extract
from eval.models import (
    OnnxModel,
    add_model_arguments,
    add_normalise,
    check_precision,
    file_hash,
    input_of,
    load_model,
)
from eval.readers.errors import names_in_file
from eval.report import Report, title_of
from ranks.watchdog import watch_ranks
from utils.distributed import broadcast, rank, start_process_group, stop_process_group, world_size
from utils.errors import one_line
from utils.files import try_writing, whole_file
from utils.precision import PRECISIONS
from utils.progress import here

CACHE = "feature_cache"
VIEWS = ("plain", "flip")  # names in its files
EXTRACTION = 2  # raise it with every change of features.py, faces.py or a backbone that changes features


def arguments(
    doc: str, data: str = "folder of the data set", several: Collection[str] = ()
) -> argparse.ArgumentParser:
    """A parser with what all evaluation scripts take; a script adds its own.

    Args:
        doc: the script's docstring.
        data: help of `--data`.
        several: "data", "model": which of them is a list of paths, not a single path.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add_model_arguments(parser, several="model" in several)
    add_normalise(parser)
    add("--data", type=Path, required=True, nargs="+" if "data" in several else None, help=data)
    add("--out", type=Path, help="folder to write to; default: MODEL.PROTOCOL, beside the model")
    add("--batch-size", type=int, default=64, help="images a forward pass, on each rank (default 64)")
    add("--precision", default="auto", help=f"{', '.join(PRECISIONS)}, or auto: bf16 on a GPU, else fp32")
    add("--no-cache", action="store_true", help=f"neither read nor write {CACHE}/, beside the output folder")
    add("--baseline", type=Path, help="results.json of another model on the same data, to compare with")
    add("--seed", type=int, default=0, help="of all that is drawn (default 0)")
    return parser


def output_folder(args: argparse.Namespace, protocol: str) -> Path:
    """`--out`, or a folder beside the (first) model, called after the protocol."""
    model = args.model[0] if isinstance(args.model, list) else args.model
    return args.out or Path(f"{model}.{protocol}")


@contextmanager
def list_faults_in_file(args: argparse.Namespace, protocol: str) -> Iterator[None]:
    """If a `ListedError` has more names than its message shows, write all to OUT.faulty.txt, which it names.

    Without an error, the file of an earlier one is removed. Every rank does this, with equal content.
    """
    with names_in_file(Path(f"{output_folder(args, protocol)}.faulty.txt")):
        yield


class Evaluation:
    """One run of a script.

    Attributes: models, the paths; backbones, their networks on `device`; precision, that of their passes;
    is_main, whether this is the rank that scores and reports; out, the folder to write to; report.
    """

    def __init__(self, args: argparse.Namespace, protocol: str, title: str, device: torch.device):
        self.args, self.device, self.is_main = args, device, rank() == 0
        self.models = args.model if isinstance(args.model, list) else [args.model]
        self.out = output_folder(args, protocol)
        check_settings(args.batch_size, args.precision)
        self.baseline = read_outcomes(args.baseline) if args.baseline and self.is_main else {}
        if self.out.exists() and not self.out.is_dir():
            raise ValueError(f"--out {self.out} is a file, expected a folder")
        if (title_there := title_of(self.out)) not in (None, title):
            raise ValueError(
                f"--out {self.out} holds the results of {title_there}, which those of {title} would replace: "
                "name another folder"
            )
        if self.is_main:
            try_writing(self.out)  # not after hours of work
        said = {"input_order": args.input_order, "normalise": args.normalise, "device": str(device)}
        self.backbones = [load_model(path, args.network, **said) for path in self.models]
        for backbone in self.backbones:
            check_precision(backbone, args.precision)
        of_file = any(isinstance(backbone, OnnxModel) for backbone in self.backbones)
        self.precision = "fp32" if of_file else chosen_precision(args.precision, device)
        self.hashes = [file_hash(path) for path in self.models]
        self.report = Report(title, self.settings())

    def settings(self) -> dict:
        """What the report says of this run; a script adds its conventions to `report.settings`."""
        models = [
            {"file": str(path), "network": b.network, **input_of(b), "sha256": sha256}
            for path, b, sha256 in zip(self.models, self.backbones, self.hashes)
        ]
        return {
            "models": models,
            "data": self.args.data,
            "precision": self.precision,
            "batch_size": self.args.batch_size,
            "ranks": world_size(),
            "device": self.device.type,
        }

    def features(
        self, faces: Sequence, model: int = 0, mirror: bool = True
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Raw features of faces and mirrored faces, each `(N, D)` float32, from the cache or the network.

        Every rank calls it, and gets all of them. Rank 0 alone looks into the cache and decides for all: the
        ranks may have different disks. It sends one integer, and the features if the cache has them.

        Args:
            faces: an array `(N, 112, 112, 3)` or a sequence of `eval.readers.faces`, the same on every rank.
            model: index into `models`.
            mirror: without it None takes the place of the mirrored faces' features, at half the cost.
        """
        caching = self.is_main and not self.args.no_cache
        path = self.cache_file(faces, model) if caching else None
        kept = read_features(path, len(faces), mirror) if caching else None  # (1 or 2, N, D)
        num_features = int(broadcast(torch.tensor(0 if kept is None else kept.shape[2])))
        if num_features:
            if not self.is_main:
                kept = np.empty((1 + mirror, len(faces), num_features), dtype=np.float32)
            plain, *flip = broadcast(torch.from_numpy(kept)).numpy()
            return plain, flip[0] if mirror else None
        plain, flip = extract(
            self.backbones[model],
            faces,
            batch_size=self.args.batch_size,
            precision=self.precision,
            mirror=mirror,
            progress=self.models[model].name,
        )
        if caching:
            try:
                write_features(path, plain, flip)
            except OSError as fault:  # the features are here: the evaluation goes on without the file
                self.report.note(f"Warning: features were not kept: {one_line(fault)}")
        return plain, flip

    def write_report(self) -> None:
        """Compare with the baseline, if there is one, and write and print everything; for rank 0.

        Raises:
            ValueError: the baseline is of other data; everything else is written by then.
        """
        try:
            if self.args.baseline:
                differences = compare(self.report.outcomes, self.baseline, self.args.seed)
                self.report.compare(differences, self.args.baseline)
        finally:
            self.report.write(self.out)

    def cache_file(self, faces: Sequence, model: int) -> Path:
        """The file that keeps, or would keep, the features of these faces."""
        # Batch size and number of ranks are left out: they change the last bits only, which is not worth
        # another pass. The device is in, since the report names the one that computed the features.
        taken = input_of(self.backbones[model]).values()
        settings = (self.precision, self.device.type, *taken)
        parts = (EXTRACTION, self.hashes[model], fingerprint(faces), *settings)
        key = hashlib.sha256(" ".join(map(str, parts)).encode()).hexdigest()
        return self.out.parent / CACHE / f"{key[:32]}.npz"


@contextmanager
def evaluation(args: argparse.Namespace, protocol: str, title: str) -> Iterator[Evaluation]:
    """Join the process group, load the networks, leave the group.

    Args:
        args: what `arguments` parsed.
        protocol: its short name, such as "tinyface"; the default output folder is called after it.
        title: of the report, such as "TinyFace".
    Raises:
        ValueError, FileNotFoundError: settings that no network can run with, no such model.
    """
    device = start_process_group()
    watch_ranks()
    here.doing = "evaluation"
    alone = world_size() == 1
    try:
        yield Evaluation(args, protocol, title, device)
    except BaseException:
        # With several ranks it would wait for those that failed; run_script ends the process instead.
        if alone:
            stop_process_group()
        raise
    stop_process_group()


def fingerprint(faces: Sequence) -> str:
    """A hash of these faces: a sequence makes its own, an array is hashed whole."""
    if not isinstance(faces, np.ndarray):
        return faces.fingerprint()
    return hashlib.sha256(np.ascontiguousarray(faces).reshape(-1)).hexdigest()


def read_features(path: Path, num_faces: int, mirror: bool) -> np.ndarray | None:
    """What `write_features` wrote, `(1 or 2, num_faces, D)` float32; None where it is missing or damaged.

    Args:
        mirror: whether the mirrored faces' are wanted; a file without them counts as missing then.
    """
    try:
        with np.load(path) as file:  # zip archives carry a checksum
            found = np.stack([file[view] for view in VIEWS[: 1 + mirror]])
    except FileNotFoundError:
        return None
    except Exception:  # a damaged archive can raise anything; the features are made again
        return None
    usable = found.ndim == 3 and found.shape[1] == num_faces and found.dtype == np.float32
    return found if usable else None


def write_features(path: Path, *views: np.ndarray | None) -> None:
    """Write features to a file, whole or not at all; a view that is None is left out."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as partial, open(partial, "wb") as file:
        np.savez(file, **{name: view for name, view in zip(VIEWS, views) if view is not None})
