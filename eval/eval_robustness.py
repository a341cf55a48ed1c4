"""How much a network minds bad alignment and bad images, and whether its feature norm knows quality.

    python eval/eval_robustness.py --model work_dirs/demo/model.pt --data demo_hq.bin demo_lq.bin
    python eval/eval_robustness.py --model arcface.pt aroface.pt --data lfw.bin survface_training/ \\
        --only rotation=5,10,15,20 shift --pairs 1000

The question is that of ARoFace's first figure: what do alignment errors cost on good and on bad faces?
M. S. E. Saadabadi, S. R. Malakshan, A. Dabouei, N. M. Nasrabadi, ARoFace: Alignment Robustness to Improve
Low-Quality Face Recognition, ECCV 2024, https://arxiv.org/abs/2407.14972

Data: `.bin` sets, or folders of aligned faces, DATA/<identity>/*.jpg, of which pairs are drawn, half of them
of the same person. The set of the best quality comes first, the worst one last.

Both images of a pair are perturbed, each in its own direction (`--one-side`: the second only). Directions,
noise and drawn pairs follow from --seed. `eval/perturbations.py` has units and ranges of the amounts.

Accuracy is that of eval/verification.py, ten folds, with thresholds chosen on the perturbed pairs: what is
left to tell people apart by. results.json also has the accuracy at the threshold of the clean set, which a
system that was tuned on good images meets, and the true accept rate nearest to a false accept rate of 0.1.

Norm and quality: AdaFace and NDR take the norm of the raw feature for the quality of an image. Norm: mean
over image and mirror image. Within an image: Spearman's correlation of norm and mildness over all amounts,
the clean one included, then the mean over the perturbed images. Between sets: of norm and place of the set,
over all clean images. A norm that never changes has correlation 0; a negative one is marked with ! and
warned of.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from prettytable import PrettyTable

from eval.pairs import read_pairs
from eval.perturbations import PERTURBATIONS, parse_choices
from eval.robustness import FAR, Curve, Curves, correlation_between, robustness_curve
from eval.robustness_pictures import norm_figure, robustness_figure
from eval.script import Evaluation, arguments, evaluation
from utils.command_line import run_script

FEWEST_PAIRS = 20  # two a fold
CONVENTIONS = """Accuracy: ten folds, thresholds chosen on the perturbed pairs. Norm ρ: Spearman's correlation
of an image's feature norm and how little it is perturbed, mean over the images; between sets, of the norm and
the order of --data, the best quality first."""


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
        data: set -> images and issame, as of `read_pairs`.
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
                curves[model][name][kind] = robustness_curve(amounts, own, issame, perturbed)
    return curves


# ---------------------------------------------------------------------------------------------- what is said


def accuracy_table(curves: Curves, kind: str) -> PrettyTable:
    """Accuracy at each amount of one perturbation, one row a model and set."""
    lines = [(model, name, kinds[kind]) for model, sets in curves.items() for name, kinds in sets.items()]
    amounts = [f"{amount:g}{PERTURBATIONS[kind].unit}" for amount in lines[0][2].amounts]
    rows = PrettyTable(["model", "set", *amounts, "norm ρ"], align="r")
    rows.align["model"] = rows.align["set"] = "l"
    for model, name, curve in lines:
        accuracy = [f"{100 * share:.1f}" for share in curve.accuracy]
        rows.add_row([model, name, *accuracy, marked(curve.correlation)])
    return rows


def norm_table(clean: Mapping[str, Mapping[str, np.ndarray]]) -> PrettyTable:
    """The median norm of each set, clean, and the correlation between several sets; one row a model."""
    sets = list(next(iter(clean.values())))
    rows = PrettyTable(["model", *sets, *(["ρ between sets"] if len(sets) > 1 else [])], align="r")
    rows.align["model"] = "l"
    for model, norms in clean.items():
        median = [f"{np.median(own):.4g}" for own in norms.values()]
        between = [marked(correlation_between(list(norms.values())))] if len(sets) > 1 else []
        rows.add_row([model, *median, *between])
    return rows


def marked(correlation: float) -> str:
    """With a mark where it contradicts the hypothesis."""
    return f"{correlation:+.2f}{' !' if correlation < 0 else ''}"


def warnings(curves: Curves, clean: Mapping[str, Mapping[str, np.ndarray]]) -> list[str]:
    """A paragraph for each model whose norm is longer for worse images."""
    said = []
    for model, sets in curves.items():
        where = [f"{k} of {name}" for name, kinds in sets.items() for k in kinds if kinds[k].correlation < 0]
        if len(sets) > 1 and correlation_between(list(clean[model].values())) < 0:
            where.append(f"from {' to '.join(sets)}")
        if where:
            said.append(
                f"Warning: {model} gives worse images longer features: {', '.join(where)}. There its norm "
                "does not measure quality, as AdaFace and NDR take it to do."
            )
    return said


def numbers(curve: Curve) -> dict:
    """What results.json keeps of a curve."""
    return {
        "amounts": curve.amounts,
        "accuracy": curve.accuracy,
        "std": curve.std,
        "accuracy_at_clean_threshold": curve.fixed_accuracy,
        "tar_at_far": curve.tar,
        "median_norm": np.median(curve.norms, axis=1),
        "norm_quality_correlation": curve.correlation,
    }


def tell(run: Evaluation, curves: Curves, num_pairs: Mapping[str, int]) -> None:
    """Fill the report and write it."""
    report = run.report
    clean = {
        model: {name: next(iter(kinds.values())).clean_norms for name, kinds in sets.items()}
        for model, sets in curves.items()
    }
    report.settings |= {
        "pairs": num_pairs,
        "perturbed": "the second image of a pair" if run.args.one_side else "both images of a pair",
        "seed": run.args.seed,
        "accuracy": "ten folds, thresholds chosen on the perturbed pairs",
        "tar": f"at the false accept rate nearest to {FAR:g}",
    }
    report.picture("robustness", robustness_figure(curves), "Accuracy over what is wrong with the faces")
    kinds = next(iter(next(iter(curves.values())).values()))
    for kind in kinds:
        report.table(accuracy_table(curves, kind), f"Accuracy %, {PERTURBATIONS[kind].label}")
    report.table(norm_table(clean), "Median norm of the features, clean sets")
    fewest = min(num_pairs.values())
    error = 100 * (0.9 * 0.1 / fewest) ** 0.5
    report.note(
        f"{CONVENTIONS} With {fewest} pairs an accuracy of 90 % has a standard error of {error:.1f} points."
    )
    for warning in warnings(curves, clean):
        report.note(warning)
    report.picture("norms", norm_figure(curves), "Norms of the features")
    report.numbers(
        "curves",
        {
            model: {name: {k: numbers(curve) for k, curve in kinds.items()} for name, kinds in sets.items()}
            for model, sets in curves.items()
        },
    )
    if len(num_pairs) > 1:
        between = {model: correlation_between(list(norms.values())) for model, norms in clean.items()}
        report.numbers("norm_quality_correlation_between_sets", between)
    report.write(run.out)


def main() -> None:
    data_help = ".bin files, or folders of aligned faces; the best quality first"
    parser = arguments(__doc__, data=data_help, several=["model", "data"])
    add = parser.add_argument
    add("--pairs", type=int, default=100, help="pairs of each set, at most (default 100)")
    kinds_help = f"only these, such as rotation=5,10 blur; of {', '.join(PERTURBATIONS)} (default all)"
    add("--only", nargs="+", default=[], metavar="NAME[=AMOUNTS]", help=kinds_help)
    add("--one-side", action="store_true", help="perturb only the second image of each pair")
    args = parser.parse_args()
    if args.pairs < FEWEST_PAIRS:
        raise ValueError(f"--pairs is {args.pairs}, allowed: {FEWEST_PAIRS} or more, two for each fold")
    chosen = parse_choices(args.only)
    models, sets = names_of(args.model), names_of(args.data)
    data = {name: read_pairs(path, args.pairs, args.seed) for name, path in zip(sets, args.data)}

    with evaluation(args, "eval_robustness", "Robustness") as run:
        curves = measure(run, models, data, chosen)
        if run.is_main:
            tell(run, curves, {name: len(issame) for name, (_, issame) in data.items()})


if __name__ == "__main__":
    run_script(main)
