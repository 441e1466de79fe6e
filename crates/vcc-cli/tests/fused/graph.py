"""Graphs with quantisation and operators of other domains, and what the two files of forms share."""

import numpy as np
from forms import CHANNELS, HEADS, TOLERANCE, Graph
from onnx import TensorProto, helper

EQUAL, WRITTEN = "equal", "equal without the optimiser"
STEP, HALF = "equal without the optimiser but for steps of weights", "equal as float16 is"
# A mask of -10000 leaves three decimals of a score in float32. A row of padding only has nothing else, and which ones it has
# depends on the order of the sums in the product.
MASKED = "equal but for the rounding under a mask of -10000"
# ONNX Runtime's CPU has no products of bfloat16.
WIDENED = "equal where bfloat16 is replaced by float32 in both"
TOLERANCES = {WIDENED: TOLERANCE, EQUAL: TOLERANCE, WRITTEN: TOLERANCE, MASKED: 1e-3, STEP: 2e-2, HALF: 2e-3}
MICROSOFT = "com.microsoft"
BFLOAT16 = TensorProto.BFLOAT16


class Fused(Graph):
    """Adds quantisation and operators of other domains or with several outputs."""

    weight_type = np.float32

    def const(self, value, dtype=None):
        dtype = dtype or self.weight_type
        if dtype is not BFLOAT16:
            return super().const(value, dtype)
        value = np.asarray(value, np.float32)
        self.weights.append(helper.make_tensor(f"const_{len(self.weights)}", BFLOAT16, value.shape, value.ravel()))
        return self.weights[-1].name

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


def blocks(form):
    def build(g):
        x = "x"
        for _ in range(2):
            x = g.block(x, **form(g, "x"))
        return g.norm(x)

    return build


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


def distance_of_heads(g):
    """[1, heads, n, n]"""
    far = g.op("Cast", g.op("Abs", g.difference("x")), to=TensorProto.FLOAT)
    return g.op("Mul", far, g.const(-0.1 * (1 + np.arange(HEADS)).reshape(1, HEADS, 1, 1), np.float32))


def codes_of_weight(g, rows, columns):
    weight = g.random.integers(0, 256, (rows, columns)).astype(np.uint8)
    return g.const(weight, np.uint8), g.const(0.01), g.const(128, np.uint8)


plain = blocks(lambda g, x: {})
