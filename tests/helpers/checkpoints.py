"""A small checkpoint whose rows say their class; saved, loaded in every split, damaged."""

import torch

from training import checkpoint

NUM_CLASSES, WIDTH = 10, 3
SHARED = {"step": 7, "name": "r50", "none": None, "nested": [1.5, {"ema": torch.arange(4)}]}


def per_class(start, end):
    """Tensors whose rows say their class."""
    rows = torch.arange(start, end, dtype=torch.float32)
    return {"weight": rows[:, None].repeat(1, WIDTH), "age": torch.arange(start, end)}


def ranges(num_ranks, num_classes=NUM_CLASSES):
    """(class_start, class_end) of each rank."""
    share, left = divmod(num_classes, num_ranks)
    starts = [share * r + min(r, left) for r in range(num_ranks)]
    return list(zip(starts, [*starts[1:], num_classes]))


def assert_every_split_loads(folder, num_classes=NUM_CLASSES):
    for num_ranks in (1, 2, 3, 4):
        for start, end in ranges(num_ranks, num_classes):
            shared, sharded = checkpoint.load(folder, start, end - start, num_classes=num_classes)
            expected = per_class(start, end)
            assert set(sharded) == set(expected)
            assert all(torch.equal(sharded[name], expected[name]) for name in expected)
            assert sharded["age"].dtype == torch.int64
            assert shared["nested"][1]["ema"].tolist() == [0, 1, 2, 3]
            assert {k: shared[k] for k in ("step", "name", "none")} == {
                "step": 7,
                "name": "r50",
                "none": None,
            }


def save(folder, step=1, num_classes=NUM_CLASSES, **changed):
    return checkpoint.save(folder, step, SHARED, per_class(0, num_classes), 0, **changed)


def damage(path, how):
    if how == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-100] if how == "truncated" else b"\0" * path.stat().st_size)
