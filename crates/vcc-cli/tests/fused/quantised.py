"""Quantised encoders: weights, inputs, products, the residual stream; and one of bfloat16."""

import numpy as np
from forms import CHANNELS, HEADS, SIZE
from onnx import TensorProto, helper

from .graph import BFLOAT16, EQUAL, STEP, WIDENED, WRITTEN, Fused, blocks, codes_of_weight, distance_of_heads, plain


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


def brain_floats(g):
    g.weight_type = BFLOAT16
    x = g.op("Cast", "x", to=BFLOAT16)
    for _ in range(2):
        x = g.block(x, scores=lambda s: g.op("Add", s, g.op("Cast", distance_of_heads(g), to=BFLOAT16)))
    return g.op("Cast", g.norm(x), to=TensorProto.FLOAT)


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


def qlinear(g, weight_zero=None):
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
        weights = g.contrib("QLinearSoftmax", *s, *p, axis=-1, opset=13)
        weights = (weights, *(p if weight_zero is None else g.parameters(1 / 256, weight_zero)))
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


MODELS = {
    # name: (graph, its nodes, more inputs, expectation)
    "stream_per_tensor": (Fused, stream(lambda g, x: g.quantised(x, 0.05, 3)), (), WRITTEN),
    "stream_per_channel": (Fused, stream(lambda g, x: g.quantised(x, 5 * CHANNEL_SCALES, np.zeros(CHANNELS), axis=-1)), (), WRITTEN),
    "stream_two_readers": (Fused, stream(two_readers), (), WRITTEN),
    "weights_per_axis": (stored(per_axis), blocks(lambda g, x: {}), (), WRITTEN),
    "weights_per_block": (stored(per_block, 21), blocks(lambda g, x: {}), (), WRITTEN),
    "weights_cast_and_scaled": (stored(cast_and_scaled), blocks(lambda g, x: {}), (), EQUAL),
    "brain_floats": (Fused, brain_floats, (), WIDENED),
    "four_bits": (products(four_bits), plain, (), WRITTEN),
    "dynamic": (products(dynamic), plain, (), WRITTEN),
    "integer_to_float": (products(integer_to_float), plain, (), WRITTEN),
    "qlinear_other_zero_point": (Codes, lambda g: qlinear(g, 4), ("mask",), "R-TOKEN-MIXING"),
    "qlinear": (Codes, qlinear, ("mask",), STEP),
}
MODELS.update({name: (Fused, blocks(form), *rest) for name, (form, *rest) in FORMS.items()})
