"""IJB-S: people in surveillance and drone videos, searched in galleries of photographs and of videos.

    python eval/eval_ijbs.py --model adaface_ir101.ckpt --data /data/ijbs
    python eval/eval_ijbs.py --model r100.pth --network r100 --data /data/ijbs/aligned \\
        --protocols /data/ijbs/protocols --list image_list_mtcnn_fail_skipped_v1.csv

N. D. Kalka et al., IJB-S: IARPA Janus Surveillance Video Benchmark, BTAS 2018

Tree: DATA/<subject>/{videos_<video>_<frame>,img_<image>}.jpg, faces of 112x112; DATA/cs6_*.csv and
DATA/galleries/cs6_*.csv as published, or in the folder --protocols. Without --list every image is a frame.

Feature of a frame = f(x), raw, without the mirror image (--flip adds it). Templates, rates, ties and
intervals: see ijbs/protocol.py.
"""

import sys
from collections.abc import Mapping
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from prettytable import PrettyTable

from eval.calibration_report import report_calibrations
from eval.figures import cmc_figure, det_figure
from eval.ijbs.data import IJBS, METADATA, read_protocols
from eval.ijbs.frames import Frames, read_frames
from eval.ijbs.protocol import (
    CMC_RANKS,
    FPIRS,
    RANKS,
    IJBSResult,
    evaluate,
    sum_sightings,
    templates_of_sightings,
)
from eval.readers.errors import first_few
from eval.readers.faces import AlignedFaces
from eval.report import Report, in_percent
from eval.run import Evaluation, arguments, evaluation, list_faults_in_file
from eval.templates import is_dead
from utils.command_line import run_script

PART = 100_000  # frames whose features are in memory at a time: at D = 512 0.4 GB, both views


def sums_of_sightings(
    run: Evaluation, ijbs: IJBS, frames: Frames, faces: list[AlignedFaces]
) -> tuple[np.ndarray, bool]:
    """Run the network, part by part; sums of features over the frames of each sighting, `(S, D)`.

    And whether the network is dead: see `templates.is_dead`.
    """
    sums, start, firsts = 0, 0, []
    for part in faces:
        plain, flip = run.features(part, mirror=run.args.flip)
        features = plain + flip if run.args.flip else plain
        sighting = frames.sighting[start : start + len(part)]
        sums = sums + sum_sightings(features, sighting, len(ijbs.sightings))
        firsts.append(features[0] if is_dead(features) else None)
        start += len(part)
    dead = all(first is not None and np.array_equal(first, firsts[0]) for first in firsts)
    return sums, dead


def report_rates(report: Report, ijbs: IJBS, results: list[IJBSResult], empty: np.ndarray) -> None:
    """A row of the table, and an entry of results.json, for each protocol.

    Args:
        empty: `(T,)`, which templates have no face.
    """
    counts = ["probes", "mated", "G1", "G2", "no face"]
    rates = [*(f"rank-{rank} %" for rank in RANKS), *(f"TPIR at FPIR {100 * fpir:g} %" for fpir in FPIRS)]
    table = PrettyTable(["protocol", *counts, *rates], align="r")
    table.align["protocol"] = "l"
    for protocol, result in zip(ijbs.protocols, results):
        sizes = [len(protocol.probes), result.num_mated, *map(len, protocol.galleries)]
        faceless = [int(empty[of].sum()) for of in (protocol.probes, np.concatenate(protocol.galleries))]
        report.keep_outcomes(result.outcomes, protocol.name)
        shares = in_percent(result.rate, result.rate_interval)
        shares += in_percent(result.tpir, result.tpir_interval, result.enough_probes, "probes")
        table.add_row([protocol.name, *sizes, "{} + {}".format(*faceless), *shares])
        report.numbers(
            protocol.name,
            {
                **dict(zip(counts, sizes)),
                "without_face": dict(zip(("probes", "galleries"), faceless)),
                "rank": dict(zip(RANKS, result.rate)),
                "rank_interval": dict(zip(RANKS, result.rate_interval)),
                "tpir": dict(zip(FPIRS, result.tpir)),
                "tpir_interval": dict(zip(FPIRS, result.tpir_interval)),
                "fpir": dict(zip(FPIRS, result.fpir)),
                "enough_probes": dict(zip(FPIRS, result.enough_probes)),
                "cmc": result.cmc,
            },
        )
    report.table(table, "IJB-S; no face: probes + gallery templates without one, which score 0")


def report_oddities(report: Report, ijbs: IJBS, num_empty: int) -> None:
    """What of the lists and frames makes numbers of the public code others than these."""
    if num_empty:
        report.note(
            f"{num_empty} templates have no face and score 0 with everything, which finds nobody. AdaFace's "
            "code leaves such ties to an unstable sort: published ranks hold some lucky hits."
        )
    for name, files in ijbs.twice.items():
        report.note(
            f"{name} lists files twice: {first_few(files)}. Each is one probe here, two in AdaFace's code."
        )
    for name, files in ijbs.several.items():
        report.note(
            f"{name} lists images of several people: {first_few(files)}. Each of them is a probe here, the "
            "first alone in AdaFace's code."
        )
    report.numbers("listed_twice", ijbs.twice)
    report.numbers("of_several_people", ijbs.several)


def report_left_out(report: Report, unknown: Mapping[str, list[str]]) -> None:
    """The files of the lists of probes in which nobody is known."""
    for name, files in unknown.items():
        left_out = f"{name}: {first_few(files)}"
        report.note(f"Left out of the probes, as {METADATA} has nobody in them, {left_out}.")
    report.numbers("left_out", unknown)


def report_curves(report: Report, names: list[str], results: list[IJBSResult]) -> None:
    """A picture for each kind of curve, with a line for each protocol."""
    curves = {name: (CMC_RANKS, result.cmc) for name, result in zip(names, results)}
    report.picture("cmc", cmc_figure(curves, "IJB-S"), "Identified within so many ranks of G1 and G2")
    curves = {name: result.curve for name, result in zip(names, results)}
    figure = det_figure(curves, "IJB-S, open-set identification", "FPIR", "1 − TPIR")
    report.picture("open_set", figure, "Open-set identification, mean of G1 and G2")


def main() -> None:
    parser = arguments(__doc__, data="folder of the subjects' folders of aligned faces")
    add = parser.add_argument
    add("--protocols", type=Path, help="folder of the csv files; default: DATA")
    add("--list", type=Path, help="frames to use (csv: number, path; otherwise a path a line)")
    add("--flip", action="store_true", help="feature = f(x) + f(mirrored x)")
    args = parser.parse_args()
    with list_faults_in_file(args, "ijbs"):
        ijbs = read_protocols(args.protocols or args.data)
        frames = read_frames(args.data, ijbs.sightings, args.list)
        starts = range(0, len(frames.paths), PART)
        faces = [AlignedFaces(frames.paths[start : start + PART]) for start in starts]

    with evaluation(args, "ijbs", "IJB-S") as run:
        sums, dead = sums_of_sightings(run, ijbs, frames, faces)
        if not run.is_main:
            return
        features = templates_of_sightings(sums, ijbs.parts, ijbs.starts, dead)
        results = [evaluate(features, ijbs.subjects, protocol, args.seed) for protocol in ijbs.protocols]

        report = run.report
        report.settings |= {
            "protocols": args.protocols or args.data,
            "frames": args.list or "all images of the tree",
            "features": f"f(x){' + f(mirrored x)' * args.flip}, raw; template: unit(mean over its frames)",
            "rank-k": "G1 and G2 together, of the probes with a mate; ties against the probe",
            "TPIR": "G1 and G2 averaged; rank 1 and score >= threshold; number of false alarms rounded down; "
            "too few probes: a gallery knows all but fewer than 1 / FPIR of them",
            "interval": f"95 %, bootstrap over people, thresholds held fixed, seed {args.seed}",
        }
        num_frames = np.bincount(frames.sighting, minlength=len(ijbs.sightings))
        empty = np.add.reduceat(num_frames[ijbs.parts], ijbs.starts) == 0  # (T,) templates without a face
        sizes = {"frames": len(frames.paths), "unused": frames.num_unused, "templates": len(empty)}
        report.numbers("sizes", sizes | {"without_face": int(empty.sum())})
        report_rates(report, ijbs, results, empty)
        calibrations = (result.calibration for result in results)
        names = [protocol.name for protocol in ijbs.protocols]
        report_calibrations(report, dict(zip(names, calibrations)), "protocol")
        report_left_out(report, ijbs.unknown)
        report_oddities(report, ijbs, int(empty.sum()))
        report_curves(report, names, results)
        run.write_report()


if __name__ == "__main__":
    run_script(main)
