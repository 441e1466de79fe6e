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
from forms import CHANNELS, HEADS, LENGTHS, SIZE, TOLERANCE, Graph, masks
from onnx import TensorProto, helper, numpy_helper

EQUAL, WRITTEN = "equal", "equal without the optimiser"
STEP, HALF = "equal without the optimiser but for steps of weights", "equal as float16 is"
# A mask of -10000 leaves three decimals of a score in float32. A row of padding only has nothing else, and which ones it has
# depends on the order of the sums in the product.
MASKED = "equal but for the rounding under a mask of -10000"
TOLERANCES = {EQUAL: TOLERANCE, WRITTEN: TOLERANCE, MASKED: 1e-3, STEP: 2e-2, HALF: 2e-3}
MICROSOFT = "com.microsoft"


class Fused(Graph):
    """Adds quantisation and operators of other domains or with several outputs."""

    weight_type = np.float32

    def const(self, value, dtype=None):
        return super().const(value, dtype or self.weight_type)

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


def prenorm(attention, feed_forward=None, half=False):
    """Two blocks with an attention of their own: `attention(g, normed x)`."""

    def build(g):
        x = "x"
        if half:
            g.weight_type = np.float16
            x = g.op("Cast", x, to=TensorProto.FLOAT16)
        for _ in range(2):
            x = g.op("Add", x, attention(g, g.norm(x)))
            if feed_forward:
                x = g.op("Add", x, feed_forward(g, g.norm(x)))
            else:
                hidden = g.op("Relu", g.linear(g.norm(x), CHANNELS, 2 * CHANNELS))
                x = g.op("Add", x, g.linear(hidden, 2 * CHANNELS, CHANNELS))
        x = g.norm(x)
        return g.op("Cast", x, to=TensorProto.FLOAT) if half else x

    return build


# The masks of the fused attentions, int32.


def mask_tokens(g):
    return g.op("Cast", "mask", to=TensorProto.INT32)


def mask_pairs(g):
    """[B, n, n]: valid tokens see valid tokens."""
    rows, columns = (g.op("Unsqueeze", "mask", g.ints(axis)) for axis in (2, 1))
    return g.op("Cast", g.op("Mul", rows, columns), to=TensorProto.INT32)


def mask_ends(g):
    return g.op("Cast", g.op("ReduceSum", "mask", g.ints(1), keepdims=0), to=TensorProto.INT32)


def mask_ends_and_starts(g):
    """[2B]: the last and the first token in sight, whatever is between them."""
    end = g.op("Squeeze", g.length("x"), g.ints(0))
    position = g.op("Range", g.const(1, np.int64), g.op("Add", end, g.const(1, np.int64)), g.const(1, np.int64))
    last = g.op("ReduceMax", g.op("Mul", "mask", position), axes=[1], keepdims=0)
    first = g.op("ArgMax", "mask", axis=1, keepdims=0)
    return g.op("Cast", g.op("Concat", last, first, axis=0), to=TensorProto.INT32)


def mask_ends_and_cumulated(g):
    """[3B + 2]"""
    ends, two = mask_ends(g), g.const([0, 0], np.int32)
    return g.op("Concat", ends, ends, ends, two, axis=0)


def multi_head(mask=None, bias=None, with_bias=True, packed=False, half=False):
    def attention(g, x):
        weights = [g.random_weight(CHANNELS, CHANNELS) for _ in range(3)]
        q, k, v = (g.op("MatMul", x, weight) for weight in weights)
        if packed:
            parts = (g.op("Unsqueeze", g.op("Reshape", y, g.ints(0, 0, HEADS, SIZE)), g.ints(3)) for y in (q, k, v))
            q, k, v = g.op("Concat", *parts, axis=3), "", ""
        inputs = [q, k, v, g.random_weight(3 * CHANNELS) if with_bias else ""]
        inputs += [mask(g) if mask else "", bias(g) if bias else ""]
        while not inputs[-1]:
            inputs.pop()
        y = g.contrib("MultiHeadAttention", *inputs, num_heads=HEADS)
        return g.linear(y, CHANNELS, CHANNELS)

    return prenorm(attention, half=half)


def packed_attention(mask=None, half=False, **attributes):
    def attention(g, x):
        weight, bias = g.random_weight(CHANNELS, 3 * CHANNELS), g.random_weight(3 * CHANNELS)
        inputs = [x, weight, bias] + ([mask(g)] if mask else [])
        return g.linear(g.contrib("Attention", *inputs, num_heads=HEADS, **attributes), CHANNELS, CHANNELS)

    return prenorm(attention, half=half)


def distance_of_heads(g):
    """[1, heads, n, n]"""
    far = g.op("Cast", g.op("Abs", g.difference("x")), to=TensorProto.FLOAT)
    return g.op("Mul", far, g.const(-0.1 * (1 + np.arange(HEADS)).reshape(1, HEADS, 1, 1)))


LOWEST = {"mask_filter_value": -3.4028234663852886e38}


def group_query(g, x):
    q, k, v = (g.linear(x, CHANNELS, CHANNELS) for _ in range(3))
    length = g.op("Cast", g.op("Sub", g.length("x"), g.ints(1)), to=TensorProto.INT32)
    batch = g.op("Gather", g.op("Shape", "x"), g.ints(0), axis=0)
    lengths = g.op("Expand", length, batch)
    total = g.op("Cast", g.op("Squeeze", g.length("x"), g.ints(0)), to=TensorProto.INT32)
    y = g.contrib("GroupQueryAttention", q, k, v, "", "", lengths, total, num_heads=HEADS, kv_num_heads=HEADS)
    return g.linear(y, CHANNELS, CHANNELS)


def batch_between(g, x):
    """The first axis of a factor becomes its rows, the second its batch: tokens in front, as PyTorch's attention has them."""
    x = g.op("Transpose", x, perm=[1, 0, 2])
    q, k, v = (g.op("Reshape", g.linear(x, CHANNELS, CHANNELS), g.ints(0, -1, SIZE)) for _ in range(3))
    s = g.contrib("FusedMatMul", q, k, transBatchA=1, transBatchB=1, transB=1, alpha=SIZE**-0.5)
    y = g.contrib("FusedMatMul", g.op("Softmax", s, axis=-1), v, transBatchB=1)
    y = g.op("Reshape", g.op("Transpose", y, perm=[1, 0, 2]), g.ints(0, -1, CHANNELS))
    return g.op("Transpose", g.linear(y, CHANNELS, CHANNELS), perm=[1, 0, 2])


class Products(Fused):
    """All projections are one quantised product or another."""

    def linear(self, x, rows, columns):
        bias = self.random_weight(columns)
        return type(self).project(self, x, rows, columns, bias)


def four_bits(g, x, rows, columns, bias):
    blocks = rows // 16
    weight = g.random.integers(0, 256, (columns, blocks, 8)).astype(np.uint8)
    scales = 0.1 + 0.05 * g.random.random((columns, blocks))
    inputs = x, g.const(weight, np.uint8), g.const(scales)
    y = g.contrib("MatMulNBits", *inputs, K=rows, N=columns, bits=4, block_size=16)
    return g.op("Add", y, bias)


def codes_of_weight(g, rows, columns):
    weight = g.random.integers(0, 256, (rows, columns)).astype(np.uint8)
    return g.const(weight, np.uint8), g.const(0.01), g.const(128, np.uint8)


def dynamic(g, x, rows, columns, bias):
    weight, scale, zero = codes_of_weight(g, rows, columns)
    return g.contrib("DynamicQuantizeMatMul", x, weight, scale, zero, bias)


def integer_to_float(g, x, rows, columns, bias):
    weight, scale, zero = codes_of_weight(g, rows, columns)
    names = [f"codes_{len(g.nodes)}_{i}" for i in range(3)]
    g.nodes.append(helper.make_node("DynamicQuantizeLinear", [x], names))
    codes, x_scale, x_zero = names
    return g.contrib("MatMulIntegerToFloat", codes, weight, x_scale, scale, x_zero, zero, bias)


def products(project):
    return type(project.__name__, (Products,), {"project": staticmethod(project)})


class Codes(Fused):
    """QLinear operators; a value is a name with a scale and a zero point."""

    def parameters(self, scale, zero, dtype=np.uint8):
        return self.const(scale), self.const(zero, dtype)

    def binary(self, op, a, b, scale, zero, dtype=np.uint8):
        result = self.parameters(scale, zero, dtype)
        return (self.contrib(op, *a, *b, *result), *result)

    def product(self, a, b, scale, zero=128):
        result = self.parameters(scale, zero)
        return (self.op("QLinearMatMul", *a, *b, *result), *result)

    def linear_codes(self, x, rows, columns, scale=0.03):
        weight = codes_of_weight(self, rows, columns)
        bias = self.const(self.random.integers(0, 256, columns), np.uint8), *self.parameters(0.001, 128)
        return self.binary("QLinearAdd", self.product(x, weight, scale), bias, scale, 128)

    def codes(self, x, scale=0.03, zero=128):
        parameters = self.parameters(scale, zero)
        return (self.op("QuantizeLinear", x, *parameters), *parameters)


def qlinear(g):
    """Attention and feed-forward on codes only; the residual stream is codes too."""
    x = g.codes("x")
    for _ in range(2):
        normed = g.codes(g.norm(g.op("DequantizeLinear", *x)))
        heads = []
        for perm in ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3]):
            y, *parameters = g.linear_codes(normed, CHANNELS, CHANNELS)
            y = g.op("Reshape", y, g.ints(0, 0, HEADS, SIZE))
            heads.append((g.op("Transpose", y, perm=perm), *parameters))
        q, k, v = heads
        s = g.product(q, k, 0.05)
        blocked = g.codes(padding_codes(g), 10.0, 200)
        s = g.binary("QLinearAdd", s, blocked, 0.1, 255)
        p = g.parameters(1 / 256, 3)
        weights = (g.contrib("QLinearSoftmax", *s, *p, axis=-1, opset=13), *p)
        y, *parameters = g.product(weights, v, 0.02)
        y = g.op("Reshape", g.op("Transpose", y, perm=[0, 2, 1, 3]), g.ints(0, 0, CHANNELS))
        x = g.binary("QLinearAdd", g.linear_codes((y, *parameters), CHANNELS, CHANNELS), x, 0.04, 128)
        normed = g.codes(g.norm(g.op("DequantizeLinear", *x)))
        left = g.linear_codes(normed, CHANNELS, CHANNELS)
        right = g.linear_codes(normed, CHANNELS, CHANNELS)
        slope = g.parameters(0.03, 30)
        left = (g.contrib("QLinearLeakyRelu", *left, *slope, alpha=0.1), *slope)
        gate = g.parameters(1 / 256, 0)
        gate = (g.contrib("QLinearSigmoid", *right, *gate), *gate)
        right = g.binary("QLinearMul", right, gate, 0.03, 40)
        whole = g.parameters(0.03, 50)
        hidden = (g.contrib("QLinearConcat", *whole, *left, *right, axis=2), *whole)
        x = g.binary("QLinearAdd", g.linear_codes(hidden, 2 * CHANNELS, CHANNELS), x, 0.04, 128)
    return g.op("DequantizeLinear", *x)


def padding_codes(g):
    valid = g.op("Cast", g.op("Unsqueeze", "mask", g.ints(1, 2)), to=TensorProto.BOOL)
    return g.op("Where", valid, g.const(0.0), g.const(-1000.0))


plain = blocks(lambda g, x: {})
MODELS.update(
    {
        "multi_head": (Fused, multi_head(), (), EQUAL),
        "multi_head_mask": (Fused, multi_head(mask_tokens), ("mask",), EQUAL),
        "multi_head_mask_of_pairs": (Fused, multi_head(mask_pairs), ("mask",), EQUAL),
        "multi_head_ends": (Fused, multi_head(mask_ends), ("mask",), EQUAL),
        "multi_head_cumulated": (Fused, multi_head(mask_ends_and_cumulated, with_bias=False), ("mask",), EQUAL),
        "multi_head_bias": (Fused, multi_head(mask_tokens, distance_of_heads), ("mask",), MASKED),
        "multi_head_packed": (Fused, multi_head(packed=True, with_bias=False), (), "R-UNKNOWN-OP"),
        "multi_head_half": (Fused, multi_head(mask_tokens, half=True), ("mask",), HALF),
        "attention_mask": (Fused, packed_attention(mask_tokens), ("mask",), EQUAL),
        "attention_mask_of_pairs": (Fused, packed_attention(mask_pairs), ("mask",), EQUAL),
        "attention_ends": (Fused, packed_attention(mask_ends), ("mask",), EQUAL),
        "attention_ends_and_starts": (Fused, packed_attention(mask_ends_and_starts), ("mask",), EQUAL),
        "attention_lowest_mask": (Fused, packed_attention(mask_tokens, **LOWEST), ("mask",), EQUAL),
        "attention_half": (Fused, packed_attention(mask_tokens, half=True), ("mask",), HALF),
        "attention_half_lowest_mask": (Fused, packed_attention(mask_tokens, half=True, **LOWEST), ("mask",), HALF),
        "attention_causal": (Fused, packed_attention(unidirectional=1), (), "R-CAUSAL"),
        "group_query": (Fused, prenorm(group_query), (), "R-CAUSAL"),
        "batch_between_axes": (Fused, prenorm(batch_between), (), EQUAL),
        "four_bits": (products(four_bits), plain, (), WRITTEN),
        "dynamic": (products(dynamic), plain, (), WRITTEN),
        "integer_to_float": (products(integer_to_float), plain, (), WRITTEN),
        "qlinear": (Codes, qlinear, ("mask",), STEP),
    }
)


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
    if expected not in TOLERANCES:
        refused = result.returncode == 3 and expected in result.stderr and not os.path.exists(out)
        return None if refused else f"exit {result.returncode}, expected {expected}: {result.stderr[:300]}"
    if result.returncode != 0:
        return f"exit {result.returncode}: {result.stderr[:300]}"
    if "refused" in result.stdout + result.stderr:
        return f"not all blocks: {result.stdout[:300]} {result.stderr[:300]}"
    optimised = expected in (EQUAL, MASKED, HALF)
    original = session(path, None, optimised)
    for library in (arguments.library, None):
        worst = worst_difference(original, session(out, library, optimised), extra)
        if not worst <= TOLERANCES[expected]:
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
