"""benchmarks/loader.py: it compares before it measures, and each row is a share of the first."""

import os

import numpy as np
import pytest

from benchmarks.loader import batches_of, check_equal, draw_records, measure, through_workers
from dataset import RecordDataset


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return RecordDataset(draw_records(tmp_path_factory.mktemp("drawn"), num_images=8))


def test_another_image_or_label_in_a_batch_is_found_before_anything_is_measured(dataset, monkeypatch):
    check_equal(dataset, np.arange(8))
    read = RecordDataset.read
    for changed in (lambda image, label: (image ^ 1, label), lambda image, label: (image, label + 1)):
        monkeypatch.setattr(RecordDataset, "read", lambda self, i, changed=changed: changed(*read(self, i)))
        with pytest.raises(AssertionError, match="image 0"):
            check_equal(dataset, np.arange(8))


def test_rows_are_shares_of_the_first_with_the_workers_time_in_them(dataset):
    loop, pids = through_workers(dataset, 4, 1)
    work = {
        "first": (batches_of(dataset, np.arange(8), 4, (0, 0, 0, 0)), [], 8),
        "half": (batches_of(dataset, np.arange(8), 4, (0, 0, 0, 0)), [], 4),
        "worker": (loop, pids, 8),
    }
    first, half, worker = measure(work, rounds=9)
    assert first["share_of_imdecode"] == 1
    assert 0.2 < half["share_of_imdecode"] < 0.9
    assert len(pids) == 1
    assert pids[0] != os.getpid()
    assert worker["us_per_image"] > 0
