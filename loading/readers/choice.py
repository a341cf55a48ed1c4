"""Which reader a path needs: told by what lies there."""

from pathlib import Path

from loading.readers.base import FaceDataset
from loading.readers.folders import FolderDataset
from loading.readers.lmdb_file import LmdbDataset, find_lmdb
from loading.readers.parquet import ParquetDataset, find_parquet
from loading.readers.records import RecordDataset
from loading.readers.tars import TarDataset, find_tars
from loading.record_layout import find_record


def open_data(root: str | Path, num_classes: int | None = None) -> FaceDataset:
    """The data in a file or folder.

    Args:
        num_classes: how many the user says there are.
    Raises:
        FileNotFoundError, RecordError: see the readers.
        ValueError: a package is missing.
    """
    root = Path(root)
    if find_record(root):
        return RecordDataset(root, num_classes)
    for find, reader in ((find_tars, TarDataset), (find_parquet, ParquetDataset), (find_lmdb, LmdbDataset)):
        if found := find(root):
            return reader(found, num_classes)
    return FolderDataset(root)
