"""How much a network minds bad alignment and bad images, and whether its feature norm knows quality.

    python eval/eval_robustness.py --model work_dirs/demo/model.pt --data demo_hq.bin demo_lq.bin --best-first
    python eval/eval_robustness.py --model arcface.pt aroface.pt --data lfw.bin survface_training/ \\
        --only rotation=5,10,15,20 shift --pairs 1000

The question is that of ARoFace's first figure: what do alignment errors cost on good and on bad faces?
M. S. E. Saadabadi, S. R. Malakshan, A. Dabouei, N. M. Nasrabadi, ARoFace: Alignment Robustness to Improve
Low-Quality Face Recognition, ECCV 2024, https://arxiv.org/abs/2407.14972

Data: `.bin` sets, or folders of aligned faces, DATA/<identity>/*.jpg, of which pairs are drawn, half of them
of the same person. `--best-first` says that the sets come in falling quality.

Both images of a pair are perturbed, each in its own direction (`--one-side`: the second only). Directions,
noise and drawn pairs follow from --seed. `robustness/perturbations.py` has units and ranges of the amounts.

Accuracy is that of eval/verification.py, ten folds, with thresholds chosen on the perturbed pairs: what is
left to tell people apart by. results.json also has the accuracy at the threshold of the clean set, which a
system that was tuned on good images meets, and the true accept rate nearest to a false accept rate of 0.1.
±: one standard error, the standard deviation over the folds (divided by 9) over √10.

Norm and quality: AdaFace and NDR take the norm of the raw feature for the quality of an image. Norm: mean
over image and mirror image. Within an image: Spearman's correlation of norm and mildness over all amounts,
the clean one included, then the mean over the perturbed images. Between sets (`--best-first`): of norm and
place of the set, over all clean images. Norms count as equal where they differ by less than a ten-thousandth,
so one that never changes has correlation 0. ±: 95 % interval over pairs drawn with replacement; where all of
it is below 0, the correlation is marked with ! and warned of.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from prettytable import PrettyTable

from eval.calibration import Calibration
from eval.calibration_report import report_calibrations
from eval.robustness.curves import (
    FAR,
    Correlation,
    Curves,
    correlation_between,
    order_warnings,
    robustness_curve,
)
from eval.robustness.pairs import choose_pairs
from eval.robustness.perturbations import PERTURBATIONS, parse_choices
from eval.robustness.pictures import norm_figure, robustness_figure
from eval.run import Evaluation, arguments, evaluation
from eval.verification_report import calibration
from utils.command_line import run_script

FEWEST_PAIRS = 20  # two a fold
CONVENTIONS = """Accuracy: ten folds, thresholds chosen on the perturbed pairs; ±, bands: one standard error,
from the spread of the folds. Norm ρ: Spearman's correlation of an image's feature norm and how little it is
perturbed, mean over the perturbed images; between sets, of norm and place in --data. +1: every step for the
worse shortens every feature. ±: half a 95 % interval over draws of pairs; where it reaches 0, the sign may be
chance. Where all of it is below 0 there is a !, which of forty that are really 0 one gets by chance."""


def names_of(paths: Sequence[Path]) -> list[str]:
    """Short names that tell the paths apart.

    Raises:
        ValueError: a path is given twice.
    """
    if len(set(paths)) < len(paths):
        raise ValueError(f"{next(path for path in paths if paths.count(path) > 1)} is given twice")
    stems, folders = [path.stem for path in paths], [path.parent.name for path in paths]
    both = [f"{folder}/{stem}" for folder, stem in zip(folders, stems)]
    for names in (stems, folders if len(set(stems)) == 1 else both, both):
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in paths]


def measure(
    run: Evaluation,
    models: Sequence[str],
    data: Mapping[str, tuple[np.ndarray, np.ndarray]],
    chosen: Mapping[str, Sequence[float]],
) -> Curves:
    """Perturb, extract, score: every rank runs the networks, and gets the same curves.

    Args:
        models: names, in the order of the run's.
        data: set -> images and issame, as of `choose_pairs`.
        chosen: perturbation -> amounts, the clean one first.
    """
    perturbed = np.s_[1::2] if run.args.one_side else np.s_[:]
    curves = {model: {name: {} for name in data} for model in models}
    for name, (images, issame) in data.items():
        clean = [np.stack(run.features(images, index)) for index in range(len(models))]  # (2, 2P, D) each
        for kind, amounts in chosen.items():
            views = [[features] for features in clean]
            for amount in amounts[1:]:
                faces = PERTURBATIONS[kind].apply(images[perturbed], amount, run.args.seed)
                for index in range(len(models)):
                    features = clean[index].copy()
                    features[:, perturbed] = run.features(faces, index)
                    views[index].append(features)
            for model, own in zip(models, views):
                curves[model][name][kind] = robustness_curve(amounts, own, issame, perturbed, run.args.seed)
    return curves


def calibrations_of(
    run: Evaluation, models: Sequence[str], data: Mapping[str, tuple[np.ndarray, np.ndarray]]
) -> dict[str, Calibration]:
    """The cosines at FAR of each model on each clean set, on every rank; the features are in the cache."""
    return {
        f"{model} {name}": calibration(*run.features(images, index), issame, run.args.seed)
        for name, (images, issame) in data.items()
        for index, model in enumerate(models)
    }


# ------------------------------------------------------------------------------------ tables, words, numbers


def accuracy_table(curves: Curves, kind: str) -> PrettyTable:
    """Accuracy at each amount of one perturbation, one row a model and set."""
    lines = [(model, name, kinds[kind]) for model, sets in curves.items() for name, kinds in sets.items()]
    amounts = [f"{amount:g}{PERTURBATIONS[kind].unit}" for amount in lines[0][2].amounts]
    rows = PrettyTable(["model", "set", *amounts, "norm ρ"], align="r")
    rows.align["model"] = rows.align["set"] = "l"
    for model, name, curve in lines:
        shares = zip(100 * curve.accuracy, 100 * curve.standard_error)
        accuracy = [f"{share:.1f} ± {error:.1f}" for share, error in shares]
        rows.add_row([model, name, *accuracy, marked(curve.correlation)])
    return rows


def norm_table(
    clean: Mapping[str, Mapping[str, np.ndarray]], between: Mapping[str, Correlation]
) -> PrettyTable:
    """The median norm of each clean set, and the correlation between sets if there is one; a row a model."""
    sets = next(iter(clean.values()))
    rows = PrettyTable(["model", *sets, *(["ρ between sets"] if between else [])], align="r")
    rows.align["model"] = "l"
    for model, norms in clean.items():
        median = [f"{np.median(own):.4g}" for own in norms.values()]
        rows.add_row([model, *median, *([marked(between[model])] if between else [])])
    return rows


def in_words(correlation: Correlation) -> str:
    """Such as +0.63 ± 0.05."""
    return f"{correlation.rho:+.2f} ± {correlation.half_width:.2f}"


def marked(correlation: Correlation) -> str:
    """With a mark where it contradicts the hypothesis, and not by chance."""
    return f"{in_words(correlation)}{' !' if correlation.is_negative else ''}"


def warnings(curves: Curves, between: Mapping[str, Correlation]) -> list[str]:
    """A paragraph for each model whose norm is longer for worse images."""
    said = []
    for model, sets in curves.items():
        found = {f"{k} of {name}": kinds[k].correlation for name, kinds in sets.items() for k in kinds}
        if model in between:
            found[f"from {' to '.join(sets)}"] = between[model]
        where = [f"{what} (ρ {in_words(rho)})" for what, rho in found.items() if rho.is_negative]
        if where:
            said.append(
                f"Warning: {model} gives worse images longer features: {', '.join(where)}. There its norm "
                "does not measure quality, as AdaFace and NDR take it to do."
            )
    return said


def write_report(run: Evaluation, curves: Curves, num_pairs: Mapping[str, int]) -> None:
    """Tables, pictures and numbers of all curves.

    Args:
        num_pairs: set -> number of its pairs.
    """
    report, seed = run.report, run.args.seed
    clean = {
        model: {name: next(iter(kinds.values())).clean_norms for name, kinds in sets.items()}
        for model, sets in curves.items()
    }
    between = {}
    if run.args.best_first:
        between = {model: correlation_between(list(norms.values()), seed) for model, norms in clean.items()}
    report.settings |= {
        "pairs": num_pairs,
        "perturbed": "the second image of a pair" if run.args.one_side else "both images of a pair",
        "sets": "best quality first" if run.args.best_first else "in no order of quality",
        "seed": seed,
        "accuracy": "ten folds, thresholds chosen on the perturbed pairs; ± one standard error",
        "tar": f"at the false accept rate nearest to {FAR:g}",
        "interval": f"95 %, bootstrap over pairs, seed {seed}",
    }
    report.picture("robustness", robustness_figure(curves), "Accuracy over what is wrong with the faces")
    kinds = next(iter(next(iter(curves.values())).values()))
    for kind in kinds:
        report.table(accuracy_table(curves, kind), f"Accuracy %, {PERTURBATIONS[kind].label}")
    report.table(norm_table(clean, between), "Median norm of the features, clean sets")
    report.note(CONVENTIONS)
    for warning in (*order_warnings(curves), *warnings(curves, between)):
        report.note(warning)
    report.picture("norms", norm_figure(curves), "Norms of the features")
    report.numbers(
        "curves",
        {
            model: {name: {k: curve.numbers for k, curve in kinds.items()} for name, kinds in sets.items()}
            for model, sets in curves.items()
        },
    )
    if between:
        report.numbers("between_sets", {model: rho.numbers for model, rho in between.items()})
    report.write(run.out)


def main() -> None:
    data_help = ".bin files, or folders of aligned faces"
    parser = arguments(__doc__, data=data_help, several=["model", "data"])
    add = parser.add_argument
    add("--pairs", type=int, default=100, help="pairs of each set, at most (default 100)")
    kinds_help = f"only these, such as rotation=5,10 blur; of {', '.join(PERTURBATIONS)} (default all)"
    add("--only", nargs="+", default=[], metavar="NAME[=AMOUNTS]", help=kinds_help)
    add("--one-side", action="store_true", help="perturb only the second image of each pair")
    ordered_help = "the sets of --data come in falling quality: is the norm longer in better ones?"
    add("--best-first", action="store_true", help=ordered_help)
    args = parser.parse_args()
    if args.pairs < FEWEST_PAIRS:
        raise ValueError(f"--pairs is {args.pairs}, allowed: {FEWEST_PAIRS} or more, two for each fold")
    if args.baseline:
        raise ValueError("--baseline compares other evaluations: here give both networks, --model OLD NEW")
    if args.best_first and len(args.data) == 1:
        raise ValueError(f"--best-first orders several sets, --data has one: {args.data[0]}")
    chosen = parse_choices(args.only)
    models, sets = names_of(args.model), names_of(args.data)
    data = {name: choose_pairs(path, args.pairs, args.seed) for name, path in zip(sets, args.data)}

    with evaluation(args, "robustness", "Robustness") as run:
        curves = measure(run, models, data, chosen)
        calibrations = calibrations_of(run, models, data)
        if not run.is_main:
            return
        report_calibrations(run.report, calibrations, "model, clean set")
        write_report(run, curves, {name: len(issame) for name, (_, issame) in data.items()})


if __name__ == "__main__":
    run_script(main)
