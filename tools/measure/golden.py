"""Compares the reconstruction of the authors' encoder with their implementation's outputs, and PyTorch's full encoder with the
original's, on the golden vectors: both as modules and as exported to ONNX."""

import json
import re
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from encoders import Authors, Encoder, Full
from export import export
from weights import Weights

FOLDER = Path(__file__).resolve().parents[2] / "fixtures" / "golden"
HEADS = 4


def vip(settings, arrays):
    kind, number = settings["vip"].split(":")
    if kind == "first":
        marks = np.cumsum(arrays["attention_mask"], 1) <= int(number)
    else:
        marks = arrays["token_type_ids"] == int(number)
    return (marks & (arrays["attention_mask"] > 0)).astype(np.int64)


def difference(expected, got, rows):
    return float(np.abs(expected - got)[rows].max() / np.abs(expected[rows]).max())


def case(path, folder):
    settings, arrays = json.loads(path.read_text()), dict(np.load(path.with_suffix(".npz")))
    encoder = Encoder(Weights(path.with_suffix(".onnx")), HEADS).eval()
    blocks = settings["blocks"].split(",")
    windows = [int(found[1]) for block in blocks if (found := re.search(r"local:(\d+)", block))]
    authors = Authors(encoder, len(windows), (windows or [0])[0], settings["vip_capacity"], settings["ladder"][0], settings["refine"])
    feeds = {name: arrays[name] for name in ("input_ids", "attention_mask", "token_type_ids", "position_ids") if name in arrays}
    rows = arrays["attention_mask"] > 0
    with torch.no_grad():
        full = Full(encoder)(**{name: torch.from_numpy(value) for name, value in feeds.items()}).numpy()
        feeds["vip"] = vip(settings, arrays)
        module = authors(**{name: torch.from_numpy(value) for name, value in feeds.items()}).numpy()
    exported = folder / path.with_suffix(".onnx").name
    export(authors, feeds, exported)
    session = onnxruntime.InferenceSession(exported, providers=["CPUExecutionProvider"])
    found = {
        "full": difference(arrays["expected_full"], full, rows),
        "authors": difference(arrays["expected_vcc"], module, rows),
        "authors, exported": difference(arrays["expected_vcc"], session.run(None, feeds)[0], rows),
    }
    return found, settings["tolerance"]


def check(folder):
    """The largest differences of each case; ends the program if one is beyond its case's tolerance."""
    folder.mkdir(parents=True, exist_ok=True)
    table = {}
    for path in sorted(FOLDER.glob("*.json")):
        table[path.stem], tolerance = case(path, folder)
        print(f"{path.stem}: {table[path.stem]}, tolerance {tolerance}", flush=True)
        if not max(table[path.stem].values()) <= tolerance:
            raise SystemExit(f"{path.stem}: PyTorch's encoders are not those of the golden vectors")
    return table


if __name__ == "__main__":
    check(Path(sys.argv[1]))
