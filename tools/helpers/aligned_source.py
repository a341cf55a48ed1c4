"""Photographs as a source of record files: their faces are found and aligned first."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from tqdm import tqdm

from eval.readers.errors import first_few
from loading.readers.folders import FileDataset
from tools.alignment.photograph import Options, align_one, start_worker
from tools.helpers.processes import ordered
from tools.helpers.record_sources import Source
from utils.recordio import RecordError


@contextmanager
def aligned(source: Source, out: Path, workers: int) -> Iterator[tuple[Source, list[str]]]:
    """The largest face of each photograph, and what was left out, in words.

    Args:
        out: the faces are kept beside it while this lasts.
    Raises:
        ValueError: the source is no folder or list of files.
        RecordError: there is no face.
    """
    data = source.data
    if not isinstance(data, FileDataset):
        raise ValueError("--align takes photographs in files: a folder or a list")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f"{out.name}.aligned.", dir=out.parent) as folder:
        options = Options(data.root, Path(folder))
        jobs = [(name, f"{index:08}", False) for index, name in enumerate(source.names)]
        found = ordered(align_one, jobs, workers, start_worker, (options,))
        results = list(tqdm(found, total=len(jobs), desc="aligning", unit="img", disable=None))
        good = [index for index, outcome in enumerate(results) if outcome.aligned]
        if not good:
            raise RecordError(f"{data.root}: no face was found in its {len(jobs):,} photographs")
        paths = [os.fsencode(results[index].aligned[0][0]) for index in good]
        present, labels = np.unique(source.labels[good], return_inverse=True)
        faces = Source(FileDataset(Path(folder), [source.identities[i] for i in present], paths, labels))
        faces.names = [os.path.splitext(source.names[index])[0] + options.suffix for index in good]
        none = [outcome.name for outcome in results if not outcome.aligned and not outcome.error]
        unreadable = [outcome.name for outcome in results if outcome.error]
        kinds = {"photographs without a face": none, "that cannot be read": unreadable}
        yield faces, [f"left out: {what}: {first_few(names)}" for what, names in kinds.items() if names]
