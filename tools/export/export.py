#!/usr/bin/env python3
"""Exports small random-weight models with PyTorch, in the forms that users' files come in.

    python -m venv target/export && target/export/bin/pip install -r tools/export/requirements.txt
    target/export/bin/python tools/export/export.py -o target/exported bert__ts17_sdpa vit__dyn18_sdpa
    cargo xtask fixtures --from target/exported

A name is ARCHITECTURE__[AFTER_]EXPORTER[_ATTENTION]:
    ARCHITECTURE  one of models.py
    AFTER         what happens after the export: static (fixed sizes instead), fp16, int8, ortfused, ortext
    EXPORTER      ts14, ts17: TorchScript at that opset; dyn18, dyn23: torch.export at that opset
    ATTENTION     eager or sdpa
With the versions in requirements.txt this remakes the fixtures with the same weights and operators, except where
fixtures/manifest.toml says otherwise; names inside the files vary, so the bytes need not be the same. Each export is run and
compared with PyTorch; that of longformer is known to be wrong (the exporter's fault), and is reported so.
"""

import argparse
import os
import re
import tempfile

import numpy as np
import onnx
import torch
from models import ARCHITECTURES

BATCH, LENGTH = 2, 17
NAME = re.compile(r"(?P<arch>\w+?)__(?:(?P<after>static|fp16|int8|ortfused|ortext)_)?(?P<kind>ts|dyn)(?P<opset>\d+)(?:_(?P<attention>eager|sdpa))?")


class Tuple(torch.nn.Module):
    """A module whose inputs are positional and whose outputs are the tensors that are wanted, in order."""

    def __init__(self, module, inputs, outputs):
        super().__init__()
        self.module, self.names, self.outputs = module, list(inputs), outputs

    def forward(self, *values):
        result = self.module(**dict(zip(self.names, values)))
        if isinstance(result, tuple):
            return result
        picked = [result[name] for name in self.outputs if not re.fullmatch(r"hs\d+", name)]
        return (*picked, *(result.hidden_states if "hs0" in self.outputs else ()))


def example(kind, batch, length):
    if kind == "pixels":
        return torch.rand(batch, 3, 32, 32)
    if kind == "ids":
        return torch.randint(3, 118, (batch, length))
    if kind == "types":
        return (torch.arange(length) >= length // 2).long().expand(batch, length).contiguous()
    mask = torch.ones(batch, length, dtype=torch.long)
    if kind == "mask":
        mask[0, -3:] = 0
    else:
        mask[:, 1:] = 0
    return mask


def export(name, path):
    match = NAME.fullmatch(name)
    if not match or match["arch"] not in ARCHITECTURES:
        raise SystemExit(f"{name}: not a name of the form ARCHITECTURE__[AFTER_]EXPORTER[_ATTENTION]; see --help")
    torch.manual_seed(0)
    torch.backends.mha.set_fastpath_enabled(False)
    static = match["after"] == "static"
    batch, length = (1, 128) if static else (BATCH, 32 if match["arch"].startswith("long") else LENGTH)
    module, inputs, outputs = ARCHITECTURES[match["arch"]](match["attention"] or "eager")
    values = tuple(example(kind, batch, length) for kind in inputs.values())
    model = Tuple(module, inputs, outputs).eval()
    common = dict(input_names=list(inputs), output_names=outputs, opset_version=int(match["opset"]))

    def axes(of):
        if inputs[of] == "pixels":
            return {0: "batch"}
        return {0: "batch", 1: "dec_seq" if of.startswith("decoder") else "seq"}

    with torch.no_grad():
        expected = model(*values)
        if match["kind"] == "ts":
            dynamic = {} if static else {of: axes(of) for of in inputs}
            for of, value in zip(outputs, expected):
                if not static:
                    dynamic[of] = {0: "batch", 1: "oseq"} if value.dim() == 3 or "logits" in of and value.shape[-1] == length else {0: "batch"}
            torch.onnx.export(model, values, path, dynamic_axes=dynamic, dynamo=False, **common)
        else:
            shapes = tuple({axis: torch.export.Dim.DYNAMIC for axis in axes(of)} for of in inputs)
            torch.onnx.export(model, values, path, dynamic_shapes=(shapes,), dynamo=True, external_data=False, **common)
    compare(path, inputs, values, expected)
    after(match["after"], path)


def compare(path, inputs, values, expected):
    """The export must do what the PyTorch model does."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    got = session.run(None, {name: value.numpy() for name, value in zip(inputs, values)})
    for mine, theirs in zip(got, expected, strict=True):
        worst = np.abs(mine - theirs.numpy()).max()
        assert worst < 1e-4, f"{path}: differs from PyTorch by {worst}"


def after(kind, path):
    if kind == "fp16":
        from onnxconverter_common import float16

        onnx.save(float16.convert_float_to_float16(onnx.load(path), keep_io_types=True), path)
    elif kind == "int8":
        from onnxruntime.quantization import quantize_dynamic

        with tempfile.TemporaryDirectory() as folder:
            source = os.path.join(folder, "model.onnx")
            onnx.save(onnx.load(path), source)
            quantize_dynamic(source, path)
    elif kind == "ortfused":
        from onnxruntime.transformers import optimizer

        optimizer.optimize_model(path, "bert", num_heads=4, hidden_size=32, opt_level=0).save_model_to_file(path)
    elif kind == "ortext":
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.optimized_model_filepath = path
        onnxruntime.InferenceSession(onnx.load(path).SerializeToString(), options, providers=["CPUExecutionProvider"])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", required=True, help="folder for the exported files")
    parser.add_argument("names", nargs="+")
    args = parser.parse_args()
    os.makedirs(args.output, exist_ok=True)
    failed = []
    for number, name in enumerate(args.names, 1):
        print(f"[{number}/{len(args.names)}] {name}", flush=True)
        try:
            export(name, os.path.join(args.output, f"{name}.onnx"))
        except Exception as error:  # an exporter may refuse one model; the others should still be made
            print(f"    {type(error).__name__}: {str(error)[:300]}")
            failed.append(name)
    if failed:
        raise SystemExit(f"not exported: {', '.join(failed)}")


if __name__ == "__main__":
    main()
