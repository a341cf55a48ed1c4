"""Verification accuracy on `.bin` sets: LFW, CFP-FP, AgeDB-30, CALFW, CPLFW, RFW, or a set of one's own.

    python eval/verification.py --model work_dirs/demo/model.pt --data demo_hq.bin demo_lq.bin
    torchrun --nproc_per_node=4 eval/verification.py --model r100.pth --network r100 --data ms1mv2/*.bin
    python eval/verification.py --model old.pt new.pt --data lfw.bin      # both on one page

The protocol is insightface's: feature = unit(f(x) + f(mirrored x)), squared distance, ten folds of
consecutive pairs; thresholds and ties: see kfold.py.

Writes results.json, roc.png, det.png and report.html to MODEL.verification/ or --out. Thresholds for use
elsewhere are given as cosines (distance = 2 - 2 cosine): the best, and those of all pairs at FAR .1 to 1e-6.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from eval.calibration_report import report_calibrations
from eval.kfold import VerificationResult, evaluate, load_set
from eval.readers.bin_sets import load_bin, require_bin
from eval.run import arguments, evaluation
from eval.verification_page import pairs_of, report_pairs, report_sets
from eval.verification_report import calibration, pair_cosines, report, score, summary, table, verify
from utils.command_line import run_script
from utils.files import unlike_names

# The public names: the protocol is in kfold.py, the reader in readers/bin_sets.py, the rest in
# verification_report.py and verification_page.py.
__all__ = [
    "VerificationResult", "evaluate", "load_bin", "load_set", "report", "report_sets", "score", "summary",
    "table", "verify"
]  # fmt: skip


def main() -> None:
    args = arguments(__doc__, data=".bin files", several=["data", "model"]).parse_args()
    paths = [require_bin(path) for path in args.data]  # a misspelt last one is an error before the first runs
    names = unlike_names(paths, stems=True)
    with evaluation(args, "verification", "Verification") as run:
        alone, models = len(run.models) == 1, unlike_names(run.models)
        results, reports, calibrations, pages = {}, {}, {}, {}
        for set_name, path in zip(names, paths):
            images, issame = load_set(path)
            for model, model_name in enumerate(models):
                name = set_name if alone else f"{set_name} {model_name}"
                views = run.features(images, model)
                results[name] = score(*views, issame)
                reports[name] = report(results[name], path, len(issame))
                reports[name] |= {} if alone else {"model": model_name}
                if run.is_main:
                    calibrations[name] = calibration(*views, issame, args.seed)
                    pages[name] = pairs_of(images, issame, pair_cosines(*views), results[name])
        if not run.is_main:
            return
        report_sets(run.report, results, reports)
        report_calibrations(run.report, calibrations)
        for name, pairs in pages.items():
            report_pairs(run.report, name, pairs)
        run.write_report()


if __name__ == "__main__":
    run_script(main)
