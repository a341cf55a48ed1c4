"""The README.md of a released network, as model hubs read it: YAML at its head, then text for people."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from backbones.backbone import Backbone
from utils.files import read_json
from utils.run_info import git_state

HEADLINES = {"accuracy", "auc", "rank", "tar", "tpir", "tpr", "val"}  # of results.json
CARD = """---
library_name: lqface
pipeline_tag: image-feature-extraction
license: other
license_name: fill-in
tags:
- face-recognition
model-index: {index}
---

# {name}

Embeddings of faces: `{network}`, {num_features} numbers, made with lqface{commit}.

| input, output | |
|---|---|
| image | 112×112, aligned by five landmarks to insightface's template |
| colour order | {input_order} |
| normalisation | (v − 127.5) / 127.5 of bytes v |
| embedding | {num_features} numbers, not normalised: compare by cosine; a short one speaks of a bad image |

    from backbones import load_backbone
    network = load_backbone("{name}/model.safetensors")

## Measured

{measured}

## Before it is used

The licence above is to be filled in: that of the code does not cover weights, which follow from the images
they were trained on and their conditions. Choose the threshold on photographs of the place where it will be
used (`tools/calibrate.py`): error rates differ between cameras and between groups of people. In many
countries the law restricts the identification of people by their faces, or forbids it.
"""


def model_card(name: str, backbone: Backbone, results: Iterable[Path]) -> str:
    """The card of a network.

    Args:
        name: of the release.
        results: results.json of evaluation scripts.
    Raises:
        FileNotFoundError, ValueError: a file of results is not there, or is none.
    """
    commit = git_state()["commit"]
    rows = [row for path in results for row in headlines(path)]
    lines = [f"| {title} | {number} | {value:.4g} |" for title, number, value in rows]
    head = ["| protocol | number | value |", "|---|---|---|"]
    entries = [
        {
            "task": {"type": "face-recognition"},
            "dataset": {"name": title, "type": title},
            "metrics": [{"name": number, "type": number.split()[-1], "value": value}],
        }
        for title, number, value in rows
    ]
    return CARD.format(
        name=name,
        network=backbone.network,
        num_features=backbone.num_features,
        input_order=backbone.input_order,
        commit=f" at commit {commit[:12]}" if commit else "",
        index=json.dumps([{"name": name, "results": entries}] if rows else []),  # JSON is YAML too
        measured="\n".join(head + lines) if rows else "Nothing was measured when this was written.",
    )


def headlines(path: Path) -> list[tuple[str, str, float]]:
    """(protocol, number, value) of the main numbers in a results.json.

    Raises:
        FileNotFoundError, ValueError: it is not there, or is none.
    """
    try:
        content = read_json(path)
        title = content["title"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is no results.json of an evaluation script") from error
    return [(title, " ".join(names), value) for names, value in numbers_in(content)]


def numbers_in(value, names: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], float]]:
    """Each number below a headline with the keys that lead to it; not those of lists, which are curves."""
    if isinstance(value, dict):
        for key, entry in value.items():
            yield from numbers_in(entry, (*names, key))
    elif isinstance(value, float) and HEADLINES & set(names[-2:]) and "interval" not in names:
        yield names, value
