"""The best model of a run, and the end of one that gets no better; also where it goes on as another."""

from types import SimpleNamespace

import pytest

from training.best_model import BestModel


def verified(best: BestModel, score: float, name: str = "lfw") -> bool:
    """Whether the model is saved after a verification with this accuracy."""
    saved = []
    best.add(1, {name: SimpleNamespace(mean=score)}, lambda: saved.append(1))
    return bool(saved)


def resumed(before: BestModel, **changes) -> BestModel:
    after = BestModel(before.path.parent, **{"keep": True, "patience": 2} | changes)
    after.load_state_dict(before.state_dict())
    return after


@pytest.fixture
def best(tmp_path) -> BestModel:
    best = BestModel(tmp_path, keep=True, patience=2)
    best.path.write_bytes(b"the best model")
    assert verified(best, 0.9)
    assert not verified(best, 0.9), "of equal scores the earlier one stays the best"
    return best


def test_a_run_that_goes_on_counts_on(best):
    after = resumed(best)
    assert not verified(after, 0.8)
    assert after.is_over


def test_a_score_of_other_sets_does_not_count(best):
    after = resumed(best)
    assert verified(after, 0.5, "ijbc")
    assert not after.is_over
    assert verified(after, 0.6, "ijbc")


def test_a_run_that_kept_no_best_model_begins_with_the_next_one(tmp_path):
    before = BestModel(tmp_path, keep=False, patience=2)
    before.path.write_bytes(b"of an earlier run")
    verified(before, 0.9)
    assert verified(resumed(before), 0.5)


def test_a_best_model_that_was_deleted_is_written_again(best):
    best.path.unlink()
    after = resumed(best)
    assert after.not_better == 1, "patience does not begin again"
    assert verified(after, 0.5)
    assert not verified(after, 0.5)


def test_patience_counts_without_a_file_and_begins_again_with_each_better_one(tmp_path):
    best = BestModel(tmp_path, keep=False, patience=2)
    scores = iter((0.5, 0.4, 0.6, 0.6, 0.3, 0.9))
    saved = [verified(best, score) for _, score in zip(best.until_over(range(9)), scores)]
    assert saved == [False] * 5, "the run ends after two that are not better, and keeps no file"
    assert (best.score, best.is_over) == (0.6, True)


def test_the_mean_over_all_sets_decides(best):
    results = {name: SimpleNamespace(mean=mean) for name, mean in (("cfp", 0.99), ("lfw", 0.79))}
    best.add(2, results, lambda: None)  # other sets: the first one is the best
    best.add(3, results | {"lfw": SimpleNamespace(mean=0.78)}, lambda: pytest.fail("not better"))
    assert (best.step, best.score, best.not_better) == (2, pytest.approx(0.89), 1)


def test_a_run_that_needs_no_best_model_compares_nothing(tmp_path):
    best = BestModel(tmp_path, keep=False, patience=0)
    assert not verified(best, 0.9)
    assert (best.score, best.decides, best.is_over) == (None, False, False)
