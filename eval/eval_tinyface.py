"""TinyFace: faces of 20 pixels searched among 158 thousand; rank-1, rank-5 and rank-20.

    python eval/eval_tinyface.py --model r100.pth --network r100 --data /data/faces
    python eval/eval_tinyface.py --model adaface.ckpt --data /data/faces --aligned my_alignment

Z. Cheng, X. Zhu, S. Gong, Low-Resolution Face Recognition, ACCV 2018, https://arxiv.org/abs/1811.08965

Tree: DATA/tinyface/Testing_Set/{Probe,Gallery_Match,Gallery_Distractor} as published, with two .mat lists;
the same three folders of 112x112 faces in DATA/aligned_pad_0.1_pad_high (or --aligned), matched by folder and
stem.

The protocol is that of AdaFace's, CVLface's and NDR's code: closed-set identification against single images.
Feature = unit(f(x) + f(mirrored x)), in the colour order that the network was trained on; score = cosine. The
identity is the first field of the file name; distractors are nobody. A probe counts at rank k if any image of
its person is among the k best of Gallery_Match and Gallery_Distractor. This is not the mAP of the paper.

Ties go against the probe: an image of another person that scores as high as the mate stands before it (the
public code leaves this to an unstable sort). ±: 95 % interval over people drawn with replacement.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from prettytable import PrettyTable

from eval.baseline import Outcomes, outcomes_at
from eval.bootstrap import bootstrap_means
from eval.calibration import Calibration, calibrate_search
from eval.calibration_report import report_calibrations
from eval.figures import cmc_figure
from eval.identification import search
from eval.metrics import cmc
from eval.readers.faces import AlignedFaces
from eval.readers.image_sets import check_enrolled, check_lists, identities, read_set
from eval.report import in_percent
from eval.run import arguments, evaluation, list_faults_in_file
from eval.templates import fuse
from utils.command_line import run_script

ALIGNED = "aligned_pad_0.1_pad_high"
RANKS = np.array([1, 5, 20])
CMC_RANKS = np.arange(1, 101)
DISTRACTOR = -100  # nobody's identity


@dataclass(frozen=True)
class TinyFace:
    """The images: probes, then gallery, then distractors."""

    paths: list[Path]
    probe_ids: np.ndarray  # (P,)
    gallery_ids: np.ndarray  # (G,), the distractors' last
    lists: list[str]  # the .mat files that were there, and agree


@dataclass(frozen=True)
class TinyFaceResult:
    """Shares of the probes, in [0, 1]."""

    rate: np.ndarray  # (3,) identified at RANKS
    interval: np.ndarray  # (3,) half width of the 95 % interval
    cmc: np.ndarray  # (100,) identified at CMC_RANKS
    calibration: Calibration
    outcomes: dict[str, Outcomes]  # what the rates are means of


def read_tree(root: Path, aligned: Path | None = None) -> TinyFace:
    """Find and check everything that the protocol needs.

    Args:
        root: folder that holds `tinyface/`.
        aligned: folder of the aligned images; None: the published one.
    Raises:
        FileNotFoundError: a folder or aligned images are not there.
        ValueError: two images of one name, a name without an identity, lists that contradict the folders, a
            probe without a mate.
    """
    originals, aligned = root / "tinyface" / "Testing_Set", aligned or root / ALIGNED
    probes, gallery, distractors = (
        read_set(originals / name, aligned / name)
        for name in ("Probe", "Gallery_Match", "Gallery_Distractor")
    )
    lists = check_lists(
        [
            (probes, originals / "probe_img_ID_pairs.mat", "probe_set", "probe_ids"),
            (gallery, originals / "gallery_match_img_ID_pairs.mat", "gallery_set", "gallery_ids"),
        ]
    )
    probe_ids, gallery_ids = identities(probes), identities(gallery)
    check_enrolled(probes, probe_ids, gallery_ids, gallery.folder)
    return TinyFace(
        paths=[*probes.aligned, *gallery.aligned, *distractors.aligned],
        probe_ids=probe_ids,
        gallery_ids=np.concatenate([gallery_ids, np.full(len(distractors), DISTRACTOR)]),
        lists=lists,
    )


def evaluate(
    probes: np.ndarray, gallery: np.ndarray, probe_ids: np.ndarray, gallery_ids: np.ndarray, seed: int = 0
) -> TinyFaceResult:
    """Rank every probe's person among the gallery images; memory grows with P and G, never with P x G.

    Args:
        probes, gallery: `(P, D)` and `(G, D)`, unit rows (or zero).
        probe_ids, gallery_ids: `(P,)` and `(G,)`; every probe's identity is in the gallery.
        seed: of the bootstrap.
    """
    found = search(probes, gallery, probe_ids, gallery_ids)
    within = found.mate_rank <= RANKS[:, None]
    return TinyFaceResult(
        rate=cmc(found, RANKS),
        interval=bootstrap_means(within, probe_ids, seed),
        outcomes=outcomes_at([f"rank-{rank}" for rank in RANKS], within, probe_ids),
        cmc=cmc(found, CMC_RANKS),
        calibration=calibrate_search(probes, gallery, probe_ids, gallery_ids, seed=seed),
    )


def main() -> None:
    parser = arguments(__doc__, data="folder that holds tinyface/ as published")
    parser.add_argument("--aligned", type=Path, help=f"folder of the aligned images; default: DATA/{ALIGNED}")
    args = parser.parse_args()
    with list_faults_in_file(args, "tinyface"):
        tree = read_tree(args.data, args.aligned)
        faces = AlignedFaces(tree.paths)

    with evaluation(args, "tinyface", "TinyFace") as run:
        plain, flip = run.features(faces)
        if not run.is_main:
            return
        unit = fuse(plain, flip, keep_norm=False)
        num_probes = len(tree.probe_ids)
        result = evaluate(unit[:num_probes], unit[num_probes:], tree.probe_ids, tree.gallery_ids, args.seed)

        report = run.report
        num_distractors = int(np.sum(tree.gallery_ids == DISTRACTOR))
        report.settings |= {
            "aligned": args.aligned or args.data / ALIGNED,
            "lists": tree.lists,
            "features": "unit(plain + mirrored), so the norm does not count",
            "protocol": "closed set against single images, ties against the probe",
            "interval": f"95 %, bootstrap over people, seed {args.seed}",
        }
        sizes = {
            "probes": num_probes,
            "gallery": len(tree.gallery_ids) - num_distractors,
            "distractors": num_distractors,
            "people": len(np.unique(tree.probe_ids)),
        }
        table = PrettyTable([*sizes, *(f"rank-{rank} %" for rank in RANKS)], align="r")
        table.add_row([*sizes.values(), *in_percent(result.rate, result.interval)])
        report.table(table, "TinyFace, closed-set identification")
        report.numbers("sizes", sizes)
        report.numbers("rank", {f"{rank}": rate for rank, rate in zip(RANKS, result.rate)})
        report.numbers("interval", {f"{rank}": half for rank, half in zip(RANKS, result.interval)})
        report.numbers("cmc", result.cmc)
        report.keep_outcomes(result.outcomes)
        report_calibrations(report, {"TinyFace": result.calibration})
        curves = {run.models[0].name: (CMC_RANKS, result.cmc)}
        report.picture("cmc", cmc_figure(curves, "TinyFace"), "Identified within so many ranks")
        run.write_report()


if __name__ == "__main__":
    run_script(main)
