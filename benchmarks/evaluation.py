"""What evaluation costs at real size, on random features: IJB-C, LFW, TinyFace, SurvFace.

    python benchmarks/evaluation.py [--only templates pairs roc bootstrap kfold tinyface survface]

IJB-C has 469,375 images in 23,124 templates and 15,658,489 pairs. Its three steps are compared with the plain
way of the public evaluators: a loop over templates that looks each one's images up, fancy-indexed float64
rows in chunks of 100,000 pairs, scikit-learn's roc_curve and a search for the nearest rate. Equal results are
checked first on small data, and again on a sample of what both ways returned. The others have no rival: all
scores with their argsort would take 7 GB for TinyFace, and the scores alone 44 GB for SurvFace.

Each measurement runs in a process of its own. seconds: median of the runs; cpu: processor time of all
threads, which a busy machine changes less; peak_gib: all that the process ever held, data and libraries among
them. Ratios are to the plain way. A limit that is missed (LIMITS) is marked, and the exit code is 1.
"""

import argparse
import resource
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from sklearn.metrics import roc_curve

from benchmarks.common import in_own_process, report
from eval import kfold
from eval.bootstrap import bootstrap_tar
from eval.identification import search
from eval.metrics import cmc, dir_at_far, normalise, tar_at_far
from eval.templates import pair_scores, template_features
from utils.command_line import run_script

FARS = np.array([1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1])
GIB = 1 << 30
DIM = 512
IMAGES, TEMPLATES, PAIRS, POSITIVES, PEOPLE = 469_375, 23_124, 15_658_489, 19_557, 3_531
# The most that is allowed, by column of the table.
LIMITS = {
    "templates": {"seconds_ratio": 0.5, "peak_gib": 6},
    "pairs": {"seconds_ratio": 0.3, "peak_gib": 6},
    "roc": {"seconds_ratio": 1, "peak_gib": 6},
    "bootstrap": {"peak_gib": 6},
    "kfold": {"seconds": 0.2, "peak_gib": 6},
    "tinyface": {"peak_gib": 4},
    "survface": {"seconds": 200, "peak_gib": 6},  # about 3 minutes
}
REPEATS = {"kfold": 5}  # the first run, milliseconds, is one of memory that the system has to hand out


def unit(random: np.random.Generator, number: int) -> np.ndarray:
    """`(number, DIM)` float32 random directions, written once."""
    features = random.standard_normal((number, DIM), dtype=np.float32)
    features /= np.sqrt(np.einsum("nd,nd->n", features, features))[:, None]
    return features


# ---- the plain ways


def plain_templates(features, template_ids, media_ids):
    ids = np.unique(template_ids)
    sums = np.zeros((len(ids), features.shape[1]))
    for row, template in enumerate(ids):
        images = np.where(template_ids == template)[0]
        own, own_media = features[images], media_ids[images]
        means = [own[own_media == media].mean(axis=0) for media in np.unique(own_media)]
        sums[row] = np.sum(means, axis=0)
    return ids, sums / np.linalg.norm(sums, axis=1, keepdims=True)


def plain_pairs(templates, first, second):
    scores = np.zeros(len(first))
    for start in range(0, len(first), 100_000):
        part = slice(start, start + 100_000)
        scores[part] = np.sum(templates[first[part]] * templates[second[part]], axis=-1)
    return scores


def plain_roc(scores, same):
    fpr, tpr, _ = roc_curve(same, scores)
    fpr, tpr = np.flipud(fpr), np.flipud(tpr)
    return tpr[[np.abs(fpr - wanted).argmin() for wanted in FARS]]


# ---- data and work of each part


def templates_part(random, method, scale):
    """Images in random order, 20 a template, about seven medias each."""
    num_images, num_templates = IMAGES // scale, TEMPLATES // scale
    features = random.standard_normal((num_images, DIM), dtype=np.float32)
    templates = random.permutation(np.arange(num_images) % num_templates)
    medias = 7 * templates + random.integers(0, 7, num_images)
    work = plain_templates if method == "plain" else template_features
    return lambda: work(features, templates, medias)[1]


def pairs_part(random, method, scale):
    templates = normalise(random.standard_normal((TEMPLATES // scale, DIM)))
    first, second = random.integers(0, len(templates), (2, PAIRS // scale))
    work = plain_pairs if method == "plain" else pair_scores
    return lambda: work(templates, first, second)


def random_scores(random, scale):
    """Scores `(P,)` of two overlapping normal distributions, and which pairs are of the same person."""
    same = np.zeros(PAIRS // scale, dtype=bool)
    same[random.choice(len(same), POSITIVES // scale, replace=False)] = True
    scores = random.standard_normal(len(same))
    scores[same] = 2 * scores[same] + 8
    return scores / 16, same


def roc_part(random, method, scale):
    scores, same = random_scores(random, scale)
    if method == "plain":
        return lambda: plain_roc(scores, same)
    return lambda: tar_at_far(scores, same, FARS).tar


def bootstrap_part(random, method, scale):
    scores, same = random_scores(random, scale)
    people = random.integers(0, PEOPLE, (len(same), 2))
    people[same, 1] = people[same, 0]
    return lambda: bootstrap_tar(scores, same, people, fars=FARS)


def kfold_part(random, method, scale):
    embeddings, same = unit(random, 12_000 // scale), np.arange(6_000 // scale) % 2 == 0
    return lambda: kfold.evaluate(embeddings, same).accuracy


def tinyface_part(random, method, scale):
    probes, gallery = unit(random, 3_728 // scale), unit(random, 157_871 // scale)
    probe_ids = random.integers(0, 2_569 // scale, len(probes))
    gallery_ids = np.append(random.integers(0, 2_569 // scale, 4_443 // scale), np.full(len(gallery), -100))
    return lambda: cmc(search(probes, gallery, probe_ids, gallery_ids[: len(gallery)]), [1, 5, 20])


def survface_part(random, method, scale):
    mated, unmated = unit(random, 60_423 // scale), unit(random, 121_736 // scale)
    gallery = unit(random, 60_294 // scale)
    mated_ids, gallery_ids = (random.integers(0, 5_319 // scale, len(part)) for part in (mated, gallery))

    def work():
        found = search(mated, gallery, mated_ids, gallery_ids)
        strangers = search(unmated, gallery, np.full(len(unmated), -1), gallery_ids)
        return dir_at_far(found, strangers.top_other, [0.3, 0.2, 0.1, 0.01], [20]).dir

    return work


PARTS = {
    "templates": (templates_part, ("plain", "lqface")),
    "pairs": (pairs_part, ("plain", "lqface")),
    "roc": (roc_part, ("plain", "lqface")),
    "bootstrap": (bootstrap_part, ("lqface",)),
    "kfold": (kfold_part, ("lqface",)),
    "tinyface": (tinyface_part, ("lqface",)),
    "survface": (survface_part, ("lqface",)),
}


def run_part(name: str, method: str, scale: int = 1, repeat: int = 1) -> dict:
    """Time a part at 1 / `scale` of the real size; `result` is a sample of what it returned."""
    work = PARTS[name][0](np.random.default_rng(0), method, scale)
    seconds, cpu = [], []
    for _ in range(repeat):
        start, cpu_start = time.perf_counter(), time.process_time()
        result = work()
        seconds.append(time.perf_counter() - start)
        cpu.append(time.process_time() - cpu_start)
    return dict(
        seconds=statistics.median(seconds),
        cpu=statistics.median(cpu),
        peak_gib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB,
        result=result[:: max(1, len(result) // 10_000)],
    )


def check_equal(name: str, results: list[np.ndarray]) -> None:
    """Both ways gave the same numbers.

    Raises:
        AssertionError: they did not; then no timing means anything.
    """
    for got in results[1:]:
        error = np.abs(got - results[0]).max()
        assert error < 1e-6, f"{name}: results differ by {error:.1e}"


def missed(row: dict) -> str:
    """Such as "MISSED seconds 0.31 > 0.2"; the plain way has no limits."""
    limits = {} if row["method"] == "plain" else LIMITS[row["part"]]
    found = [f"{key} {row[key]:.3g} > {most:g}" for key, most in limits.items() if row[key] > most]
    return f"MISSED {', '.join(found)}" if found else ""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="parts to run")
    parser.add_argument("--repeat", type=int, help="runs of each part (default 5 of kfold, 1 of the others)")
    args = parser.parse_args()

    rows = []
    for name in args.only:
        methods = PARTS[name][1]
        repeat = args.repeat or REPEATS.get(name, 1)
        for scale in (100, 1):
            measured = [
                in_own_process(run_part, name, method, scale, repeat, timeout_s=3600) for method in methods
            ]
            check_equal(name, [m.pop("result") for m in measured])
        for method, m in zip(methods, measured):
            row = dict(part=name, method=method, **m)
            for key in ("seconds", "cpu"):
                row[f"{key}_ratio"] = m[key] / measured[0][key] if len(methods) > 1 else ""
            rows.append(row | dict(missed=missed(row)))
    report("evaluation", rows, vars(args))
    if misses := [f"{row['part']} {row['missed']}" for row in rows if row["missed"]]:
        raise ValueError(f"limits missed: {'; '.join(misses).replace('MISSED ', '')}")


if __name__ == "__main__":
    run_script(main)
