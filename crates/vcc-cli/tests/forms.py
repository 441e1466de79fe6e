"""Hand-made encoders in legal but unusual forms: each converts and equals the original at full budget, or is refused with a code.

    python crates/vcc-cli/tests/forms.py --converter vcc-convert --library libvcc_ops.so

The models are random, two blocks of 16 channels. What is refused here was once accepted, or could easily be: weights for
empty rows behind the softmax, tokens shifted by a pad, masks that are causal in disguise.
"""

import argparse
import glob
import os
import subprocess
import sys
import tempfile

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

CHANNELS, HEADS, SIZE = 16, 4, 4
TOLERANCE = 1e-4
LENGTHS = (1, 15, 16, 17, 37)
LOWEST = np.finfo(np.float32).min
EQUAL = "equal"


class Graph:
    """Builds a graph node by node; every method returns the name of a value."""

    def __init__(self, opset=17):
        self.nodes, self.weights, self.opset = [], [], opset
        self.random = np.random.default_rng(0)

    def op(self, op, *inputs, **attributes):
        output = f"{op.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [output], name=output, **attributes))
        return output

    def const(self, value, dtype=np.float32):
        name = f"const_{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def ints(self, *values):
        return self.const(values, np.int64)

    def linear(self, x, rows, columns):
        weight = self.const(self.random.standard_normal((rows, columns)) / np.sqrt(rows))
        return self.op("Add", self.op("MatMul", x, weight), self.const(self.random.standard_normal(columns) * 0.1))

    def norm(self, x):
        ones = self.const(1 + 0.1 * self.random.standard_normal(CHANNELS))
        return self.op("LayerNormalization", x, ones, self.const(np.zeros(CHANNELS)), axis=-1)

    def heads(self, x):
        return self.op("Transpose", self.op("Reshape", x, self.ints(0, 0, HEADS, SIZE)), perm=[0, 2, 1, 3])

    def length(self, x):
        return self.op("Gather", self.op("Shape", x), self.ints(1), axis=0)

    def positions(self, x):
        end = self.op("Squeeze", self.length(x), self.ints(0))
        return self.op("Range", self.const(0, np.int64), end, self.const(1, np.int64))

    def difference(self, x):
        """Key position minus query position, [n, n]."""
        p = self.positions(x)
        return self.op("Sub", self.op("Unsqueeze", p, self.ints(0)), self.op("Unsqueeze", p, self.ints(1)))

    def blocked(self, condition, value=-1e9):
        return self.op("Where", condition, self.const(value), self.const(0.0))

    def attention(self, x, scores=None, weights=None, turn=None, relative=None, values=None, softmax=None):
        q, k, v = (self.heads(self.linear(x, CHANNELS, CHANNELS)) for _ in range(3))
        if turn:
            q, k = turn(q), turn(k)
        s = self.op("MatMul", q, self.op("Transpose", k, perm=[0, 1, 3, 2]))
        s = self.op("Mul", s, self.const(SIZE**-0.5))
        s = self.op("Add", s, relative(q, k)) if relative else s
        s = scores(s) if scores else s
        p = softmax(s) if softmax else self.op("Softmax", s, axis=-1)
        p = weights(p) if weights else p
        y = self.op("MatMul", p, v)
        y = self.op("Add", y, values(p)) if values else y
        y = self.op("Reshape", self.op("Transpose", y, perm=[0, 2, 1, 3]), self.ints(0, 0, CHANNELS))
        return self.linear(y, CHANNELS, CHANNELS)

    def block(self, x, before=None, **parts):
        inner = self.norm(x)
        x = self.op("Add", x, self.attention(before(inner) if before else inner, **parts))
        hidden = self.op("Relu", self.linear(self.norm(x), CHANNELS, 2 * CHANNELS))
        return self.op("Add", x, self.linear(hidden, 2 * CHANNELS, CHANNELS))


def scores(mask):
    """Adds what `mask(graph, x)` makes to the scores of every block."""
    return lambda g, x: {"scores": lambda s: g.op("Add", s, mask(g, x))}


def weights(change):
    return lambda g, x: {"weights": lambda p: change(g, p)}


def before(change):
    return lambda g, x: {"before": lambda y: change(g, y)}


def padding(g, x):
    valid = g.op("Cast", g.op("Unsqueeze", "mask", g.ints(1, 2)), to=TensorProto.BOOL)
    return g.op("Where", valid, g.const(0.0), g.const(-1e9))


def added_and_filled(value):
    """Scores of padding get an added mask, and are filled after that."""

    def parts(g, x):
        def masked(s):
            valid = g.op("Cast", g.op("Unsqueeze", "mask", g.ints(1, 2)), to=TensorProto.BOOL)
            s = g.op("Add", s, g.op("Where", valid, g.const(0.0), g.const(LOWEST)))
            return g.op("Where", valid, s, g.const(value))

        return {"scores": masked}

    return parts


def later(g, x):
    return g.op("Greater", g.difference(x), g.const(0, np.int64))


def not_later_and_counted(g, x):
    """Tokens up to the length of their batch row are seen, but for later ones: where lengths are 1 that is the first token only."""
    positions = g.op("Unsqueeze", g.positions(x), g.ints(0))
    valid = g.op("Less", positions, g.op("Unsqueeze", "lengths", g.ints(1)))
    seen = g.op("And", g.op("Unsqueeze", valid, g.ints(1, 2)), g.op("Not", later(g, x)))
    return g.op("Where", seen, g.const(0.0), g.const(-1e9))


def table(g, x):
    """A constant bias for 64 positions, cut to the length on both axes."""
    whole = g.const(g.random.standard_normal((1, HEADS, 64, 64)))
    cut = g.op("Slice", whole, g.ints(0), g.length(x), g.ints(2))
    return g.op("Slice", cut, g.ints(0), g.length(x), g.ints(3))


def rows_of_distances(g, x):
    """A vector for every distance of two tokens, [n, n, SIZE]."""
    vectors = g.const(g.random.standard_normal((129, SIZE)))
    return g.op("Gather", vectors, g.op("Add", g.difference(x), g.const(64, np.int64)), axis=0)


def merged_heads(bias):
    """A bias that is made of queries [batch * HEADS, n, SIZE]."""

    def of_query(g, x):
        def relative(q, _):
            s = bias(g, x, g.op("Reshape", q, g.op("Concat", g.ints(-1), g.length(x), g.ints(SIZE), axis=0)))
            return g.op("Reshape", s, g.op("Concat", g.ints(-1, HEADS), g.length(x), g.length(x), axis=0))

        return {"relative": relative}

    return of_query


def merged_relative_keys(g, x, q):
    return g.op("Einsum", q, rows_of_distances(g, x), equation="xqd,qkd->xqk")


def merged_keys_of_positions(g, x, q):
    vectors = g.op("Slice", g.const(g.random.standard_normal((64, SIZE))), g.ints(0), g.length(x), g.ints(0))
    return g.op("MatMul", q, g.op("Transpose", vectors, perm=[1, 0]))


def relative_keys(equation, of="q"):
    """The vectors of the distances against queries or keys."""
    return lambda g, x: {"relative": lambda q, k: g.op("Einsum", q if of == "q" else k, rows_of_distances(g, x), equation=equation)}


def relative_keys_by_products(g, x):
    """The same as products for each query: [n, batch * HEADS, SIZE] by [n, SIZE, n]."""

    def bias(q, _):
        merged = g.op("Reshape", g.op("Transpose", q, perm=[2, 0, 1, 3]), g.ints(0, -1, SIZE))
        s = g.op("MatMul", merged, g.op("Transpose", rows_of_distances(g, x), perm=[0, 2, 1]))
        apart = g.op("Concat", g.length(x), g.ints(-1, HEADS), g.length(x), axis=0)
        return g.op("Transpose", g.op("Reshape", s, apart), perm=[1, 2, 0, 3])

    return {"relative": bias}


def relative_values(g, x):
    return {"values": lambda p: g.op("Einsum", p, rows_of_distances(g, x), equation="bhqk,qkd->bhqd")}


def keys_of_positions(g, x):
    """Queries against a vector of every position, [SIZE, n]."""

    def bias(q, _):
        vectors = g.op("Slice", g.const(g.random.standard_normal((64, SIZE))), g.ints(0), g.length(x), g.ints(0))
        return g.op("MatMul", q, g.op("Transpose", vectors, perm=[1, 0]))

    return {"relative": bias}


def twice_the_length(g, x):
    return g.op("Mul", g.length(x), g.ints(2))


def vectors_of_own_length(g, x):
    """The middle 2n of 128 vectors for distances, [HEADS, SIZE, 2n]: as many as a sequence has, but one for no token."""
    first = g.op("Sub", g.ints(64), g.length(x))
    vectors = g.op("Slice", g.const(g.random.standard_normal((128, CHANNELS))), first, g.op("Add", g.length(x), g.ints(64)), g.ints(0))
    return g.op("Transpose", g.op("Reshape", vectors, g.ints(-1, HEADS, SIZE)), perm=[1, 2, 0])


def scores_of_distances(g, x):
    """As DeBERTa: queries against the vectors, then for each pair its own taken by index."""

    def bias(q, _):
        index = g.op("Add", g.difference(x), g.length(x))
        shape = g.op("Concat", g.op("Shape", q, start=0, end=2), g.length(x), g.length(x), axis=0)
        return g.op("GatherElements", g.op("MatMul", q, vectors_of_own_length(g, x)), g.op("Expand", index, shape), axis=3)

    return {"relative": bias}


def shifted_scores(g, x):
    """As Transformer-XL: the same by reading [n, 2n] as [2n, n] with the first row left out."""

    def bias(q, _):
        s = g.op("MatMul", q, vectors_of_own_length(g, x))
        turned = g.op("Concat", g.ints(0, 0), twice_the_length(g, x), g.length(x), axis=0)
        s = g.op("Slice", g.op("Reshape", s, turned), g.ints(1), g.ints(2**31), g.ints(2))
        straight = g.op("Concat", g.ints(0, 0), g.length(x), g.op("Sub", twice_the_length(g, x), g.ints(1)), axis=0)
        return g.op("Slice", g.op("Reshape", s, straight), g.ints(0), g.length(x), g.ints(3))

    return {"relative": bias}


def renormalised(g, x, mask=None, op="ReduceSum"):
    """Masked behind the softmax, and scaled to a sum of 1 again."""

    def change(p):
        p = g.op("Mul", p, mask(g, x) if mask else g.op("Cast", g.op("Unsqueeze", "mask", g.ints(1, 2)), to=TensorProto.FLOAT))
        if op == "ReduceSum":
            total = g.op(op, p, g.ints(3), keepdims=1)
        else:
            total = g.op(op, p, axes=[3], keepdims=1)
        return g.op("Div", p, g.op("Add", total, g.const(1e-9)))

    return {"weights": change}


def not_later(g, x):
    return g.op("Cast", g.op("Not", later(g, x)), to=TensorProto.FLOAT)


def weights_by_triangle(g, x):
    return {"weights": lambda p: g.op("Einsum", p, not_later(g, x), equation="bhqk,qk->bhqk")}


def written_out(maximum=True, epsilon=None, mask=False, axis=3, reciprocal=False, padded=True):
    """A softmax as exponentials and their sum."""

    def form(g, x):
        def softmax(s):
            s = g.op("Add", s, padding(g, x)) if padded else s
            if maximum:
                s = g.op("Sub", s, g.op("ReduceMax", s, axes=[axis], keepdims=1))
            e = g.op("Exp", s)
            if mask:
                e = g.op("Mul", e, g.op("Cast", g.op("Unsqueeze", "mask", g.ints(1, 2)), to=TensorProto.FLOAT))
            total = g.op("ReduceSum", e, g.ints(axis), keepdims=1)
            if epsilon:
                total = g.op("Add", total, g.const(epsilon))
            return g.op("Mul", e, g.op("Reciprocal", total)) if reciprocal else g.op("Div", e, total)

        return {"softmax": softmax}

    return form


def by_logarithms(g, x):
    return {"scores": lambda s: g.op("Add", s, padding(g, x)), "softmax": lambda s: g.op("Exp", g.op("LogSoftmax", s, axis=-1))}


def without_maximum(axes=(-1,), op="ReduceMax", take=None, factor=32.0):
    """Scores are scaled down, then their maximum is taken off (Sub), then they are scaled up again."""

    def form(g, x):
        def change(s):
            s = g.op("Mul", g.op("Add", s, padding(g, x)), g.const(1 / factor))
            most = g.op(op, s, axes=list(axes), keepdims=0) if axes else g.op(op, s, keepdims=1)
            most = g.op("Unsqueeze", most, g.ints(*axes)) if axes else most
            return g.op("Mul", g.op(take or "Sub", s, most), g.const(factor))

        return {"scores": change}

    return form


def distance(g, x, slope=-0.1):
    far = g.op("Cast", g.op("Abs", g.difference(x)), to=TensorProto.FLOAT)
    return g.op("Mul", far, g.const(slope))


def causal_with_slope(g, x):
    return g.op("Add", distance(g, x), g.blocked(later(g, x), -1e4))


def chunks(g, x):
    """Tokens see their own chunk of 4 and those before it."""
    chunk = g.op("Div", g.positions(x), g.const(4, np.int64))
    ahead = g.op("Greater", g.op("Unsqueeze", chunk, g.ints(0)), g.op("Unsqueeze", chunk, g.ints(1)))
    return g.blocked(ahead)


def given_positions(g, x):
    key, query = (g.op("Unsqueeze", "positions", g.ints(1, i)) for i in (2, 3))
    return g.blocked(g.op("Greater", key, query))


def lookup_of_given(numbers):
    """A number for the difference of two positions that are fed, cut to -8 .. 8."""

    def bias(g, x):
        key, query = (g.op("Unsqueeze", "positions", g.ints(1, i)) for i in (2, 3))
        index = g.op("Cast", g.op("Sub", key, query), to=TensorProto.FLOAT)
        index = g.op("Cast", g.op("Clip", index, g.const(-8), g.const(8)), to=TensorProto.INT64)
        return g.op("Gather", g.const(numbers), g.op("Add", index, g.const(8, np.int64)), axis=0)

    return bias


def rotary(g, x):
    angle = g.op("Mul", g.op("Cast", g.positions(x), to=TensorProto.FLOAT), g.const(0.3))
    angle = g.op("Unsqueeze", angle, g.ints(1))
    cos, sin = g.op("Cos", angle), g.op("Sin", angle)

    def turn(y):
        first, second = (g.op("Slice", y, g.ints(a), g.ints(b), g.ints(3)) for a, b in ((0, 2), (2, 4)))
        half = g.op("Concat", g.op("Neg", second), first, axis=-1)
        return g.op("Add", g.op("Mul", y, cos), g.op("Mul", half, sin))

    return {"turn": turn}


def zeros_like(g, p):
    zeros = g.op("ConstantOfShape", g.op("Shape", p))
    return g.op("Where", g.op("IsNaN", p), zeros, p)


def gemm_residual(g, y):
    """What optimisers make of a product and a residual addition over flattened tokens."""
    flat = g.op("Reshape", y, g.ints(-1, CHANNELS))
    weights = g.const(g.random.standard_normal((CHANNELS, CHANNELS)) / 4)
    return g.op("Reshape", g.op("Gemm", flat, weights, flat), g.op("Shape", y))


def pooled_tokens(g, y):
    turned = g.op("Transpose", y, perm=[0, 2, 1])
    return g.op("Add", y, g.op("Transpose", g.op("GlobalAveragePool", turned), perm=[0, 2, 1]))


def mix(op, **attributes):
    """An operator over the tokens whose result is added to them."""
    return before(lambda g, y: g.op("Add", y, g.op(op, y, **attributes)))


FORMS = {
    # name: (what the blocks have, more inputs, expectation)
    "plain": (lambda g, x: {}, (), EQUAL),
    "padding": (scores(padding), ("mask",), EQUAL),
    "padding_added_and_filled": (added_and_filled(LOWEST), ("mask",), EQUAL),
    "padding_added_and_filled_with_infinity": (added_and_filled(-np.inf), ("mask",), EQUAL),
    "table_longer_than_the_sequence": (scores(table), (), EQUAL),
    "distance_bias": (scores(distance), (), EQUAL),
    "band": (scores(lambda g, x: g.blocked(g.op("Greater", g.op("Abs", g.difference(x)), g.const(5, np.int64)))), (), EQUAL),
    "rotary": (rotary, (), EQUAL),
    "weights_scaled": (weights(lambda g, p: g.op("Mul", p, g.const(0.5))), (), EQUAL),
    "weights_guarded": (weights(lambda g, p: g.op("Where", g.op("IsNaN", p), g.const(0.0), p)), (), EQUAL),
    "weights_guarded_by_zeros_like": (weights(zeros_like), (), EQUAL),
    "weights_square_root": (weights(lambda g, p: g.op("Sqrt", p)), (), EQUAL),
    "weights_renormalised": (renormalised, ("mask",), EQUAL),
    "weights_renormalised_by_mean": (lambda g, x: renormalised(g, x, op="ReduceMean"), ("mask",), "R-TOKEN-MIXING"),
    "weights_renormalised_causal": (lambda g, x: renormalised(g, x, not_later), (), "R-CAUSAL"),
    "weights_times_triangle": (weights_by_triangle, (), "R-CAUSAL"),
    "softmax_written_out": (written_out(), ("mask",), EQUAL),
    "softmax_without_maximum": (written_out(maximum=False), ("mask",), EQUAL),
    "softmax_with_epsilon": (written_out(epsilon=1e-6), ("mask",), EQUAL),
    "softmax_of_masked_exponentials": (written_out(epsilon=1e-6, mask=True, padded=False), ("mask",), EQUAL),
    "softmax_by_reciprocal": (written_out(reciprocal=True), ("mask",), EQUAL),
    "softmax_by_logarithms": (by_logarithms, ("mask",), EQUAL),
    "softmax_less_maximum": (without_maximum(), ("mask",), EQUAL),
    "softmax_less_maximum_of_all": (without_maximum(axes=()), ("mask",), EQUAL),
    "softmax_less_mean": (without_maximum(op="ReduceMean"), ("mask",), "R-TOKEN-MIXING"),
    "softmax_less_maximum_of_queries": (without_maximum(axes=(2,)), ("mask",), "R-TOKEN-MIXING"),
    "softmax_by_maximum": (without_maximum(take="Div"), ("mask",), "R-TOKEN-MIXING"),
    "softmax_over_queries_written_out": (written_out(axis=2), ("mask",), "R-TOKEN-MIXING"),
    "one_value_joined": (before(lambda g, y: g.op("Concat", y, axis=1)), (), EQUAL),
    "relative_keys": (relative_keys("bhqd,qkd->bhqk"), (), EQUAL),
    "relative_keys_of_keys": (relative_keys("bhkd,qkd->bhqk", of="k"), (), EQUAL),
    "relative_keys_by_ellipsis": (relative_keys("...qd,qkd->...qk"), (), EQUAL),
    "relative_keys_by_products": (relative_keys_by_products, (), "R-EXTERNAL"),
    "relative_values": (relative_values, (), EQUAL),
    "relative_keys_of_merged_heads": (merged_heads(merged_relative_keys), (), EQUAL),
    "keys_of_positions_of_merged_heads": (merged_heads(merged_keys_of_positions), (), EQUAL),
    "keys_of_positions": (keys_of_positions, (), EQUAL),
    "scores_of_distances": (scores_of_distances, (), EQUAL),
    "shifted_scores": (shifted_scores, (), "R-TOKEN-MIXING"),
    "weights_plus_constant": (weights(lambda g, p: g.op("Add", p, g.const(0.01))), (), "R-TOKEN-MIXING"),
    "weights_from_one": (weights(lambda g, p: g.op("Sub", g.const(1.0), p)), (), "R-TOKEN-MIXING"),
    "weights_exp": (weights(lambda g, p: g.op("Exp", p)), (), "R-TOKEN-MIXING"),
    "weights_clipped": (weights(lambda g, p: g.op("Clip", p, g.const(0.01), g.const(1.0))), (), "R-TOKEN-MIXING"),
    "shifted_by_pads": (before(lambda g, y: g.op("Pad", y, g.ints(0, 1, 0, 0, -1, 0))), (), "R-TOKEN-MIXING"),
    "running_sum": (before(lambda g, y: g.op("CumSum", y, g.const(1, np.int64))), (), "R-TOKEN-MIXING"),
    "gemm_residual": (before(gemm_residual), (), EQUAL),
    "pooled_features": (before(lambda g, y: g.op("Sub", y, g.op("GlobalAveragePool", y))), (), EQUAL),
    "pooled_tokens": (before(pooled_tokens), (), "R-TOKEN-MIXING"),
    "mean_of_all": (mix("ReduceMean", axes=[1], keepdims=1), (), "R-TOKEN-MIXING"),
    "softmax_over_tokens": (mix("Softmax", axis=1), (), "R-MANY-ATTENTIONS"),
    "bias_of_given_positions": (scores(lookup_of_given(np.sin(np.arange(17)))), ("positions",), EQUAL),
    "causal_by_lookup": (scores(lookup_of_given(np.where(np.arange(17) > 8, -30, 0.0))), ("positions",), "R-MASK-UNDECIDED"),
    "causal": (scores(lambda g, x: g.blocked(later(g, x))), (), "R-CAUSAL"),
    "causal_moderate": (scores(lambda g, x: g.blocked(later(g, x), -100.0)), (), "R-CAUSAL"),
    "causal_faint": (scores(lambda g, x: g.blocked(later(g, x), -30.0)), (), "R-CAUSAL"),
    "causal_with_slope": (scores(causal_with_slope), (), "R-CAUSAL"),
    "causal_by_chunks": (scores(chunks), (), "R-CAUSAL"),
    "causal_with_padding": (scores(lambda g, x: g.op("Add", padding(g, x), g.blocked(later(g, x)))), ("mask",), "R-CAUSAL"),
    "causal_with_lengths": (scores(not_later_and_counted), ("lengths",), "R-CAUSAL"),
    "causal_by_given_positions": (scores(given_positions), ("positions",), "R-MASK-UNDECIDED"),
}


def build(form, extra):
    g = Graph()
    x = "x"
    for _ in range(2):
        x = g.block(x, **form(g, "x"))
    g.nodes.append(helper.make_node("Identity", [g.norm(x)], ["y"], name="last"))
    stream = ["batch", "tokens", CHANNELS]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, stream)]
    inputs += [helper.make_tensor_value_info(name, TensorProto.INT64, stream[: 1 if name == "lengths" else 2]) for name in extra]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, stream)]
    graph = helper.make_graph(g.nodes, "form", inputs, outputs, g.weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", g.opset)])
    model.ir_version = 8
    onnx.checker.check_model(model)
    return model


def masks(batch, length):
    """No padding, left, right, and a row of padding only."""
    full = np.ones((batch, length), np.int64)
    left, right, empty = full.copy(), full.copy(), full.copy()
    for row in range(batch):
        cut = (row + 1) * length // (batch + 1)
        left[row, :cut] = 0
        right[row, length - cut :] = 0
    empty[0] = 0
    return full, left, right, empty


def worst_difference(original, converted, extra):
    worst = 0.0
    for batch in (1, 3):
        for length in LENGTHS:
            x = np.random.default_rng(length).standard_normal((batch, length, CHANNELS)).astype(np.float32)
            for mask in masks(batch, length) if "mask" in extra else [None]:
                feeds = {"x": x} if mask is None else {"x": x, "mask": mask}
                if "positions" in extra:
                    feeds["positions"] = np.random.default_rng(0).integers(0, length, (batch, length))
                (a,), (b,) = original.run(None, feeds), converted.run(None, feeds)
                if not np.array_equal(np.isnan(a), np.isnan(b)):
                    return np.inf
                number = ~np.isnan(a)
                worst = max(worst, float(np.abs(a - b)[number].max() / np.abs(a[number]).max())) if number.any() else worst
    return worst


def inspected(arguments, path):
    """Where the analysis disagrees with what the model computes; None if nowhere."""
    vcc = os.path.join(os.path.dirname(arguments.converter), "vcc")
    runtime = glob.glob(os.path.join(os.path.dirname(ort.__file__), "capi", "libonnxruntime.so.*"))
    environment = {**os.environ, "ORT_DYLIB_PATH": runtime[0]}
    command = [vcc, "inspect", "--check", path]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=environment)
    return None if result.returncode == 0 else f"inspect --check: exit {result.returncode}: {(result.stdout + result.stderr)[-600:]}"


def judge(arguments, folder, name, form, extra, expected):
    """What is wrong with a form; None if it is as expected."""
    path, out = os.path.join(folder, f"{name}.onnx"), os.path.join(folder, f"{name}.vcc.onnx")
    onnx.save(build(form, extra), path)
    command = [arguments.converter, path, "-o", out, "--refine", "all"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    if expected != EQUAL:
        refused = result.returncode == 3 and expected in result.stderr and not os.path.exists(out)
        return None if refused else f"exit {result.returncode}, expected {expected}: {result.stderr[:300]}"
    if result.returncode != 0:
        return f"exit {result.returncode}: {result.stderr[:300]}"
    wrong = inspected(arguments, path)
    if wrong:
        return wrong
    original = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    for library in (arguments.library, None):
        options = ort.SessionOptions()
        if library:
            options.register_custom_ops_library(library)
        converted = ort.InferenceSession(out, options, providers=["CPUExecutionProvider"])
        worst = worst_difference(original, converted, extra)
        if not worst <= TOLERANCE:
            return f"differs by {worst:.2e} {'with' if library else 'without'} the library"
    return None


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--converter", required=True)
    parser.add_argument("--library", required=True)
    arguments = parser.parse_args()
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        for name, (form, extra, expected) in FORMS.items():
            wrong = judge(arguments, folder, name, form, extra, expected)
            if wrong:
                failed += 1
                print(f"FAILED {name}: {wrong}")
    print(f"{len(FORMS) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
