"""Hand-made encoders with quantised and fused operators: each converts and equals the original at full budget, or is refused.

    python crates/vcc-cli/tests/fused_forms.py --converter vcc-convert --library libvcc_ops.so

The models are those of forms.py with other parts. ONNX Runtime's optimiser replaces quantised operators by others that round
elsewhere, at places that depend on the nodes around them. So a quantised model is compared as it is written, without the
optimiser (`WRITTEN`); a difference of one step of a scale there is a defect. But for QLinearSoftmax: its kernel takes up to
0.53 down where QuantizeLinear takes 0.5 up, so weights may differ by a step in a converted block (`STEP`).
"""

import argparse
import os
import subprocess
import sys
import tempfile

import numpy as np
import onnx
import onnxruntime as ort
from forms import CHANNELS, LENGTHS, masks
from fused import attentions, quantised
from fused.graph import BFLOAT16, EQUAL, HALF, MASKED, MICROSOFT, TOLERANCES, WIDENED
from onnx import TensorProto, helper, numpy_helper

MODELS = quantised.MODELS | attentions.MODELS


def write(make, nodes, extra, path):
    g = make()
    result = nodes(g)
    g.nodes.append(helper.make_node("Identity", [result], ["y"], name="last"))
    shape = ["batch", "tokens", CHANNELS]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)]
    inputs += [helper.make_tensor_value_info(name, TensorProto.INT64, shape[:2]) for name in extra]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)]
    graph = helper.make_graph(g.nodes, "form", inputs, outputs, g.weights)
    domains = [helper.make_opsetid("", g.opset), helper.make_opsetid(MICROSOFT, 1)]
    model = helper.make_model(graph, opset_imports=domains)
    model.ir_version = 10
    onnx.save(model, path)


def widen(path):
    """Replaces bfloat16 by float32 wherever a type is said."""
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        if tensor.data_type == BFLOAT16:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name))
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.name in ("to", "dtype") and attribute.i == BFLOAT16:
                attribute.i = TensorProto.FLOAT
            if attribute.t.data_type == BFLOAT16:
                value = numpy_helper.to_array(attribute.t).astype(np.float32)
                attribute.t.CopyFrom(numpy_helper.from_array(value))
    del model.graph.value_info[:]
    onnx.save(model, path)


def session(path, library, optimised):
    options = ort.SessionOptions()
    options.log_severity_level = 3
    if not optimised:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    if library:
        options.register_custom_ops_library(library)
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def worst_difference(original, converted, extra):
    worst = 0.0
    for batch in (1, 3):
        for length in LENGTHS:
            x = np.random.default_rng(length).standard_normal((batch, length, CHANNELS)).astype(np.float32)
            for mask in masks(batch, length) if "mask" in extra else [None]:
                feeds = {"x": x} if mask is None else {"x": x, "mask": mask}
                (a,), (b,) = original.run(None, feeds), converted.run(None, feeds)
                worst = max(worst, float(np.abs(a - b).max() / np.abs(a).max()))
    return worst


def judge(arguments, folder, name, make, nodes, extra, expected):
    """What is wrong with a form; None if it is as expected."""
    path, out = os.path.join(folder, f"{name}.onnx"), os.path.join(folder, f"{name}.vcc.onnx")
    write(make, nodes, extra, path)
    command = [arguments.converter, path, "-o", out, "--refine", "all"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    if expected not in TOLERANCES:
        refused = result.returncode == 3 and expected in result.stderr and not os.path.exists(out)
        return None if refused else f"exit {result.returncode}, expected {expected}: {result.stderr[:300]}"
    if result.returncode != 0:
        return f"exit {result.returncode}: {result.stderr[:300]}"
    if "refused" in result.stdout + result.stderr:
        return f"not all blocks: {result.stdout[:300]} {result.stderr[:300]}"
    optimised = expected in (EQUAL, MASKED, HALF, WIDENED)
    if expected == WIDENED:
        widen(path)
        widen(out)
    original = session(path, None, optimised)
    for library in (arguments.library, None):
        worst = worst_difference(original, session(out, library, optimised), extra)
        if not worst <= TOLERANCES[expected]:
            return f"differs by {worst:.2e} {'with' if library else 'without'} the library"
    if "_ends" in name and "starts" not in name:
        return misread(arguments, folder, path)
    return None


def misread(arguments, folder, path):
    """The model takes its mask for a number of leading tokens: where its entries are must not matter, compressed too."""
    out = os.path.join(folder, "small.vcc.onnx")
    subprocess.run([arguments.converter, path, "-o", out, "--refine", "1"], check=True, capture_output=True)
    converted = session(out, arguments.library, True)
    x = np.random.default_rng(1).standard_normal((2, 80, CHANNELS)).astype(np.float32)
    mask = np.zeros((2, 80), np.int64)
    mask[:, :40] = 1
    (a,), (b,) = (converted.run(None, {"x": x, "mask": m}) for m in (mask, mask[:, ::-1].copy()))
    return None if np.array_equal(a, b) else f"entries elsewhere change it by {np.abs(a - b).max():.2e}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--converter", required=True)
    parser.add_argument("--library", required=True)
    parser.add_argument("--only", help="the forms whose name begins with this")
    parser.add_argument("--keep", help="write the models into this folder")
    arguments = parser.parse_args()
    chosen = {n: m for n, m in MODELS.items() if n.startswith(arguments.only or "")}
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        for name, model in chosen.items():
            wrong = judge(arguments, arguments.keep or folder, name, *model)
            if wrong:
                failed += 1
                print(f"FAILED {name}: {wrong}")
    print(f"{len(chosen) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
