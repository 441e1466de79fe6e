"""Hand-made encoders with quantised and fused operators: each converts and equals the original at full budget, or is refused.

    python crates/vcc-cli/tests/fused_forms.py --converter vcc-convert --library libvcc_ops.so

The models are those of forms.py with other parts. ONNX Runtime's optimiser replaces quantised operators by others that round
elsewhere, at places that depend on the nodes around them. So a quantised model is compared as it is written, without the
optimiser (`WRITTEN`); a difference of one step of a scale there is a defect.
"""

import argparse
import os
import subprocess
import sys
import tempfile

import numpy as np
import onnx
import onnxruntime as ort
from forms import CHANNELS, HEADS, LENGTHS, SIZE, TOLERANCE, Graph, masks
from onnx import TensorProto, helper, numpy_helper

EQUAL, WRITTEN = "equal", "equal without the optimiser"
MICROSOFT = "com.microsoft"


class Fused(Graph):
    """Adds quantisation and operators of other domains or with several outputs."""

    def contrib(self, op, *inputs, outputs=1, **attributes):
        names = [f"{op.lower()}_{len(self.nodes)}_{i}" for i in range(outputs)]
        node = helper.make_node(op, list(inputs), names, name=names[0], domain=MICROSOFT, **attributes)
        self.nodes.append(node)
        return names[0] if outputs == 1 else names

    def random_weight(self, *shape):
        return self.const(self.random.standard_normal(shape) / np.sqrt(shape[0]))

    def quantised(self, x, scale, zero, dtype=np.int8, back=None, **attributes):
        """x to codes and back; `back` is another zero point for the way back."""
        scale, zero = self.const(scale), self.const(zero, dtype)
        codes = self.op("QuantizeLinear", x, scale, zero, **attributes)
        zero = zero if back is None else self.const(back, dtype)
        return self.op("DequantizeLinear", codes, scale, zero, **attributes)


def quantised_weights(zero, dtype, scale=1 / 255, **other):
    return lambda g, x: {"weights": lambda p: g.quantised(p, scale, zero, dtype, **other)}


def quantised_input(scale, zero, **attributes):
    return lambda g, x: {"before": lambda y: g.quantised(y, scale, zero, **attributes)}


def softmax_over_heads(g, x):
    """0 becomes an equal share: no weights any more."""
    return {"weights": lambda p: g.op("Softmax", p, axis=1)}


CHANNEL_SCALES = 0.01 + 0.002 * np.arange(CHANNELS)

FORMS = {
    # name: (what the blocks have, more inputs, expectation)
    "weights_int8": (quantised_weights(-128, np.int8), (), WRITTEN),
    "weights_uint8": (quantised_weights(0, np.uint8), (), WRITTEN),
    "weights_int8_around_zero": (quantised_weights(0, np.int8, 1 / 127), (), WRITTEN),
    "weights_uint8_from_seven": (quantised_weights(7, np.uint8, 1 / 240), (), WRITTEN),
    "weights_with_another_zero_point": (quantised_weights(-128, np.int8, back=-127), (), "R-TOKEN-MIXING"),
    "weights_softmax_over_heads": (softmax_over_heads, (), "E-ALL-REFUSED"),
    "input_per_tensor": (quantised_input(0.03, 5), (), WRITTEN),
    "input_per_channel": (quantised_input(CHANNEL_SCALES, np.zeros(CHANNELS), axis=2), (), WRITTEN),
}


def blocks(form):
    def build(g):
        x = "x"
        for _ in range(2):
            x = g.block(x, **form(g, "x"))
        return g.norm(x)

    return build


def stream(build_between):
    """A quantisation on the residual stream between all its steps."""

    def build(g):
        x = "x"
        for _ in range(2):
            inner = build_between(g, x)
            x = g.op("Add", inner, g.attention(g.norm(inner)))
            inner = build_between(g, x)
            hidden = g.op("Relu", g.linear(g.norm(inner), CHANNELS, 2 * CHANNELS))
            x = g.op("Add", inner, g.linear(hidden, 2 * CHANNELS, CHANNELS))
        return g.norm(x)

    return build


def two_readers(g, x):
    """A dequantisation for each reader, as ONNX Runtime writes it: the codes are all that reaches the next step."""
    scale, zero = g.const(0.05), g.const(3, np.int8)
    codes = g.op("QuantizeLinear", x, scale, zero)
    first, second = (g.op("DequantizeLinear", codes, scale, zero) for _ in range(2))
    return g.op("Add", g.op("Mul", first, g.const(0.5)), g.op("Mul", second, g.const(0.5)))


class Stored(Fused):
    """Weights are stored as int8 in one of several ways."""

    way = None

    def linear(self, x, rows, columns):
        weight = self.random.integers(-127, 128, (rows, columns)).astype(np.int8)
        scale = 0.02 / np.sqrt(rows) * (1 + 0.1 * np.arange(columns))
        weight = self.way(self, weight, scale)
        return self.op("Add", self.op("MatMul", x, weight), self.const(self.random.standard_normal(columns) * 0.1))


def per_axis(g, weight, scale):
    zero = g.const(np.zeros(weight.shape[1]), np.int8)
    return g.op("DequantizeLinear", g.const(weight, np.int8), g.const(scale), zero, axis=1)


def per_block(g, weight, scale):
    scale = np.repeat(scale[None], weight.shape[0] // 8, 0)
    return g.op("DequantizeLinear", g.const(weight, np.int8), g.const(scale), axis=0, block_size=8)


def cast_and_scaled(g, weight, scale):
    return g.op("Mul", g.op("Cast", g.const(weight, np.int8), to=TensorProto.FLOAT), g.const(scale))


def stored(way, opset=17):
    def make():
        g = Stored(opset)
        g.way = way
        return g

    return make


MODELS = {
    # name: (graph, its nodes, more inputs, expectation)
    "stream_per_tensor": (Fused, stream(lambda g, x: g.quantised(x, 0.05, 3)), (), WRITTEN),
    "stream_per_channel": (Fused, stream(lambda g, x: g.quantised(x, 5 * CHANNEL_SCALES, np.zeros(CHANNELS), axis=-1)), (), WRITTEN),
    "stream_two_readers": (Fused, stream(two_readers), (), WRITTEN),
    "weights_per_axis": (stored(per_axis), blocks(lambda g, x: {}), (), WRITTEN),
    "weights_per_block": (stored(per_block, 21), blocks(lambda g, x: {}), (), WRITTEN),
    "weights_cast_and_scaled": (stored(cast_and_scaled), blocks(lambda g, x: {}), (), EQUAL),
}
MODELS.update({name: (Fused, blocks(form), *rest) for name, (form, *rest) in FORMS.items()})


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
    optimised = expected == EQUAL
    original = session(path, None, optimised)
    if expected not in (EQUAL, WRITTEN):
        refused = result.returncode == 3 and expected in result.stderr and not os.path.exists(out)
        return None if refused else f"exit {result.returncode}, expected {expected}: {result.stderr[:300]}"
    if result.returncode != 0:
        return f"exit {result.returncode}: {result.stderr[:300]}"
    if "refused" in result.stdout + result.stderr:
        return f"not all blocks: {result.stdout[:300]} {result.stderr[:300]}"
    for library in (arguments.library, None):
        worst = worst_difference(original, session(out, library, optimised), extra)
        if not worst <= TOLERANCE:
            return f"differs by {worst:.2e} {'with' if library else 'without'} the library"
    return None


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
