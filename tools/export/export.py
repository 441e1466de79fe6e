#!/usr/bin/env python3
"""Exports small random-weight models with PyTorch, in the forms that users' files come in.

    python -m venv target/export && target/export/bin/pip install -r tools/export/requirements.txt
    target/export/bin/python tools/export/export.py -o target/exported bert__ts17_sdpa vit__dyn18_sdpa
    cargo xtask fixtures --from target/exported

A name is ARCHITECTURE__[AFTER_]EXPORTER[_ATTENTION]:
    ARCHITECTURE  one of models.py, text.py, senses.py, written.py
    AFTER         what happens after the export, one of after.py; or static: fixed sizes instead
    EXPORTER      ts11 .. ts18: TorchScript at that opset; dyn18, dyn20, dyn23: torch.export at that opset
    ATTENTION     eager or sdpa
With the versions in requirements.txt this remakes the fixtures with the same weights and operators, except where
fixtures/manifest.toml says otherwise; names inside the files vary, so the bytes need not be the same. Each export is run and
compared with PyTorch; that of longformer is known to be wrong (the exporter's fault), and is reported so.
"""

import argparse
import copy
import os
import re

import numpy as np
import onnx
import senses  # noqa: F401
import text  # noqa: F401
import torch
import written  # noqa: F401
from after import AFTER, strip_traces
from models import ARCHITECTURES

BATCH, LENGTH = 2, 17
NAME = re.compile(rf"(?P<arch>\w+?)__(?:(?P<after>static|{'|'.join(AFTER)})_)?(?P<kind>ts|dyn)(?P<opset>\d+)(?:_(?P<attention>eager|sdpa))?")


class Tuple(torch.nn.Module):
    """A module whose inputs are positional and whose outputs are the tensors that are wanted, in order."""

    def __init__(self, module, inputs, outputs):
        super().__init__()
        self.module, self.names, self.outputs = module, list(inputs), outputs

    def forward(self, *values):
        result = self.module(**dict(zip(self.names, values)))
        if isinstance(result, tuple):
            return result
        picked = [result[name] for name in self.outputs if not re.fullmatch(r"(hs|att)\d+", name)]
        states = result.hidden_states if "hs0" in self.outputs else ()
        attentions = result.attentions if "att0" in self.outputs else ()
        return (*picked, *states, *attentions)


def example(kind, batch, length):
    """A value for an input of that kind, for about `length` tokens where the number is free."""
    shapes = {
        "pixels": (3, 32, 32),
        "picture": (3, 4, 4 * length),
        "frames": (4, 3, 32, 32),
        "wave": (10 * length + 10,),
        "mel": (8, 48),
        "spectrum": (40, 16),
        "series": (32, 3),
    }
    if kind in shapes:
        return torch.randn(batch, *shapes[kind])
    if kind == "ids":
        return torch.randint(3, 118, (batch, length))
    if kind == "types":
        return (torch.arange(length) >= length // 2).long().expand(batch, length).contiguous()
    if kind == "positions":
        return torch.arange(length).expand(batch, length).contiguous()
    if kind == "boxes":
        return torch.randint(0, 50, (batch, length, 4)) + torch.tensor([0, 0, 50, 50])
    mask = torch.ones(batch, 10 * length + 10 if kind == "wave_mask" else length, dtype=torch.long)
    if kind == "global":
        mask[:, 1:] = 0
    else:
        mask[0, -3:] = 0
    return mask


def free_axes(name, kind):
    """Axes of an input that have no fixed size, and their names."""
    if kind in ("pixels", "frames", "mel", "spectrum", "series"):
        return {0: "batch"}
    if kind == "picture":
        return {0: "batch", 3: "width"}
    other = "dec_seq" if name.startswith("decoder") else "text_seq" if name.startswith("text") else "seq"
    return {0: "batch", 1: other}


def export(name, path):
    match = NAME.fullmatch(name)
    if not match or match["arch"] not in ARCHITECTURES:
        raise SystemExit(f"{name}: not a name of the form ARCHITECTURE__[AFTER_]EXPORTER[_ATTENTION]; see --help")
    torch.manual_seed(0)
    torch.backends.mha.set_fastpath_enabled(False)
    static = match["after"] == "static"
    batch, length = (1, 48) if static else (BATCH, 32 if match["arch"].startswith("long") else LENGTH)
    if static and match["arch"] == "bert":
        length = 128
    module, inputs, outputs = ARCHITECTURES[match["arch"]](match["attention"] or "eager")
    values = tuple(example(kind, batch, length) for kind in inputs.values())
    model = Tuple(module, inputs, outputs).eval()
    common = dict(input_names=list(inputs), output_names=outputs, opset_version=int(match["opset"]))
    axes = {of: free_axes(of, kind) for of, kind in inputs.items()}
    with torch.no_grad():
        expected = copy.deepcopy(model)(*values)  # some models keep tables of the first length that they see
        if match["kind"] == "ts":
            dynamic = {} if static else dict(axes)
            for of, value in zip(outputs, expected):
                if not static:
                    lengthwise = value.dim() == 3 or "logits" in of and value.shape[-1] == length
                    dynamic[of] = {0: "batch", 1: "oseq"} if lengthwise else {0: "batch"}
            torch.onnx.export(model, values, path, dynamic_axes=dynamic, dynamo=False, **common)
        else:
            shapes = tuple({axis: torch.export.Dim.DYNAMIC for axis in axes[of]} for of in inputs)
            torch.onnx.export(model, values, path, dynamic_shapes=None if static else (shapes,), dynamo=True, external_data=False, **common)
            strip_traces(path)
    compare(path, inputs, values, expected)
    if match["after"] and not static:
        AFTER[match["after"]](path, inputs)


def compare(path, inputs, values, expected):
    """The export must do what the PyTorch model does."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    wanted = [port.name for port in session.get_inputs()]
    feeds = {name: value.numpy() for name, value in zip(inputs, values) if name in wanted}
    got = session.run(None, feeds)
    for mine, theirs in zip(got, expected, strict=True):
        worst = np.abs(mine - theirs.numpy()).max()
        assert worst < 1e-4 * max(1, theirs.abs().max()), f"{path}: differs from PyTorch by {worst}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", required=True, help="folder for the exported files")
    parser.add_argument("names", nargs="+")
    args = parser.parse_args()
    os.makedirs(args.output, exist_ok=True)
    failed = []
    for number, name in enumerate(args.names, 1):
        print(f"[{number}/{len(args.names)}] {name}", flush=True)
        path = os.path.join(args.output, f"{name}.onnx")
        try:
            export(name, path)
        except Exception as error:  # an exporter may refuse one model; the others should still be made
            print(f"    {type(error).__name__}: {str(error)[:300]}")
            failed.append(name)
            if os.path.exists(path):
                os.replace(path, path + ".failed")
    if failed:
        raise SystemExit(f"not exported: {', '.join(failed)}")


if __name__ == "__main__":
    main()
