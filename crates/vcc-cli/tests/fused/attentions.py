"""Encoders whose attentions, rotary embeddings, norms and activations are one operator each."""

import numpy as np
from forms import CHANNELS, HEADS, SIZE
from onnx import TensorProto, helper

from .graph import EQUAL, HALF, MASKED, WRITTEN, Fused, codes_of_weight, distance_of_heads, prenorm

LOWEST = {"mask_filter_value": -3.4028234663852886e38}


# The masks of the fused attentions, int32.


def mask_tokens(g):
    return g.op("Cast", "mask", to=TensorProto.INT32)


def mask_pairs(g):
    """[B, n, n]: valid tokens see valid tokens."""
    rows, columns = (g.op("Unsqueeze", "mask", g.ints(axis)) for axis in (2, 1))
    return g.op("Cast", g.op("Mul", rows, columns), to=TensorProto.INT32)


def earlier(g):
    """[n, n]: true for the key's own token and those before."""
    return g.op("LessOrEqual", g.difference("x"), g.const(0, np.int64))


def mask_earlier_pairs(g):
    """[B, n, n]: valid tokens see the valid ones before them."""
    seen = g.op("Cast", g.op("Unsqueeze", earlier(g), g.ints(0)), to=TensorProto.INT32)
    return g.op("Mul", mask_pairs(g), seen)


def bias_of_earlier(g):
    return g.op("Unsqueeze", g.blocked(g.op("Not", earlier(g))), g.ints(0, 1))


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


def q_attention(mask=None):
    """On codes of the normed tokens."""

    def attention(g, x):
        names = [f"codes_{len(g.nodes)}_{i}" for i in range(3)]
        g.nodes.append(helper.make_node("DynamicQuantizeLinear", [x], names))
        codes, scale, zero = names
        weight, weight_scale, weight_zero = codes_of_weight(g, CHANNELS, 3 * CHANNELS)
        bias = g.random_weight(3 * CHANNELS)
        inputs = [codes, weight, bias, scale, weight_scale, mask(g) if mask else "", zero, weight_zero]
        return g.linear(g.contrib("QAttention", *inputs, num_heads=HEADS), CHANNELS, CHANNELS)

    return prenorm(attention)


def standard_attention(mask=None, lengths=None, groups=HEADS, per_head=False, **attributes):
    """ai.onnx Attention, opset 23 and newer."""

    def attention(g, x):
        q = g.linear(x, CHANNELS, CHANNELS)
        k, v = (g.linear(x, CHANNELS, groups * SIZE) for _ in range(2))
        heads = {}
        if per_head:
            parts = ((q, HEADS), (k, groups), (v, groups))
            parts = (g.op("Reshape", y, g.ints(0, 0, count, SIZE)) for y, count in parts)
            q, k, v = (g.op("Transpose", y, perm=[0, 2, 1, 3]) for y in parts)
        else:
            heads = {"q_num_heads": HEADS, "kv_num_heads": groups}
        inputs = [q, k, v, mask(g) if mask else ""]
        inputs += ["", "", lengths(g)] if lengths else []
        while not inputs[-1]:
            inputs.pop()
        y = g.op("Attention", *inputs, **heads, **attributes)
        if per_head:
            y = g.op("Reshape", g.op("Transpose", y, perm=[0, 2, 1, 3]), g.ints(0, 0, CHANNELS))
        return g.linear(y, CHANNELS, CHANNELS)

    return prenorm(attention)


def condition(g):
    """[B, 1, n, n]: the operator does not spread it over the queries."""
    valid = g.op("Cast", g.op("Unsqueeze", "mask", g.ints(1, 2)), to=TensorProto.BOOL)
    return g.op("Expand", valid, g.op("Concat", g.ints(1, 1), g.length("x"), g.ints(1), axis=0))


def lengths(g):
    return g.op("ReduceSum", "mask", g.ints(1), keepdims=0)


def tables(g, positions=64):
    angle = np.arange(positions)[:, None] * np.array([0.3, 0.07])
    return g.const(np.cos(angle)), g.const(np.sin(angle))


def positions_of_batch(g):
    """[B, n]"""
    row = g.op("Unsqueeze", g.positions("x"), g.ints(0))
    batch = g.op("Gather", g.op("Shape", "x"), g.ints(0), axis=0)
    return g.op("Expand", row, g.op("Concat", batch, g.ints(1), axis=0))


def turned(rotary, per_head=True):
    """Queries and keys through a rotary operator, `rotary(g, y)`, per head or with the heads in the channels."""

    def attention(g, x):
        y = [g.linear(x, CHANNELS, CHANNELS) for _ in range(3)]
        if not per_head:
            y[:2] = (rotary(g, z) for z in y[:2])
        q, k, v = (g.heads(z) for z in y)
        if per_head:
            q, k = rotary(g, q), rotary(g, k)
        s = g.op("Mul", g.op("MatMul", q, g.op("Transpose", k, perm=[0, 1, 3, 2])), g.const(SIZE**-0.5))
        y = g.op("MatMul", g.op("Softmax", s, axis=-1), v)
        y = g.op("Reshape", g.op("Transpose", y, perm=[0, 2, 1, 3]), g.ints(0, 0, CHANNELS))
        return g.linear(y, CHANNELS, CHANNELS)

    return prenorm(attention)


def rotary_microsoft(positions, **attributes):
    return lambda g, y: g.contrib("RotaryEmbedding", y, positions(g), *tables(g), **attributes)


def rotary_standard(g, y):
    return g.op("RotaryEmbedding", y, *tables(g), positions_of_batch(g))


def rotary_of_tokens(g, y):
    """The tables have a row per token and no positions."""
    rows = (g.op("Gather", table, positions_of_batch(g)) for table in tables(g))
    return g.op("RotaryEmbedding", y, *rows, interleaved=1)


class Steps(Fused):
    """Norms and activations in one operator each; the stream passes through the skip norms."""

    def two_blocks(self, skip, activation):
        x = "x"
        y = self.norm(x)
        for i in range(2):
            step = self.attention(y)
            y, x = skip(self, step, x)
            hidden = activation(self, self.op("MatMul", y, self.random_weight(CHANNELS, 2 * CHANNELS)))
            y, x = skip(self, self.linear(hidden, 2 * CHANNELS, CHANNELS), x)
        return y


def skip_norm(g, step, x):
    gamma, beta, bias = (g.random_weight(CHANNELS) for _ in range(3))
    y, _, _, total = g.contrib("SkipLayerNormalization", step, x, gamma, beta, bias, outputs=4, epsilon=1e-5)
    return y, total


def skip_root_norm(g, step, x):
    gamma = g.random_weight(CHANNELS)
    y, _, _, total = g.contrib("SkipSimplifiedLayerNormalization", step, x, gamma, outputs=4, epsilon=1e-5)
    return y, total


def root_norm(g, step, x):
    total = g.op("Add", step, x)
    return g.op("RMSNormalization", total, g.random_weight(CHANNELS), axis=-1), total


def bias_gelu(g, x):
    return g.contrib("BiasGelu", x, g.random_weight(2 * CHANNELS))


def fast_gelu(g, x):
    return g.contrib("FastGelu", x, g.random_weight(2 * CHANNELS))


def steps(skip, activation):
    return lambda g: g.two_blocks(skip, activation)


def opset(number, kind=Fused):
    return lambda: kind(number)


MODELS = {
    # name: (graph, its nodes, more inputs, expectation)
    "attention_causal": (Fused, packed_attention(unidirectional=1), (), "R-CAUSAL"),
    "attention_ends": (Fused, packed_attention(mask_ends), ("mask",), EQUAL),
    "attention_ends_and_starts": (Fused, packed_attention(mask_ends_and_starts), ("mask",), EQUAL),
    "attention_half": (Fused, packed_attention(mask_tokens, half=True), ("mask",), HALF),
    "attention_half_lowest_mask": (Fused, packed_attention(mask_tokens, half=True, **LOWEST), ("mask",), HALF),
    "attention_lowest_mask": (Fused, packed_attention(mask_tokens, **LOWEST), ("mask",), EQUAL),
    "attention_mask": (Fused, packed_attention(mask_tokens), ("mask",), EQUAL),
    "attention_mask_of_pairs": (Fused, packed_attention(mask_pairs), ("mask",), EQUAL),
    "batch_between_axes": (Fused, prenorm(batch_between), (), EQUAL),
    "group_query": (Fused, prenorm(group_query), (), "R-CAUSAL"),
    "multi_head_causal_mask": (Fused, multi_head(mask_earlier_pairs), ("mask",), "R-CAUSAL"),
    "multi_head_causal_bias": (Fused, multi_head(bias=bias_of_earlier), (), "R-CAUSAL"),
    "standard_causal_mask": (opset(23), standard_attention(earlier), (), "R-CAUSAL"),
    "multi_head": (Fused, multi_head(), (), EQUAL),
    "multi_head_bias": (Fused, multi_head(mask_tokens, distance_of_heads), ("mask",), MASKED),
    "multi_head_cumulated": (Fused, multi_head(mask_ends_and_cumulated, with_bias=False), ("mask",), EQUAL),
    "multi_head_ends": (Fused, multi_head(mask_ends), ("mask",), EQUAL),
    "multi_head_half": (Fused, multi_head(mask_tokens, half=True), ("mask",), HALF),
    "multi_head_mask": (Fused, multi_head(mask_tokens), ("mask",), EQUAL),
    "multi_head_mask_of_pairs": (Fused, multi_head(mask_pairs), ("mask",), EQUAL),
    "multi_head_packed": (Fused, multi_head(packed=True, with_bias=False), (), "R-UNKNOWN-OP"),
    "q_attention": (Fused, q_attention(), (), WRITTEN),
    "q_attention_mask": (Fused, q_attention(mask_tokens), ("mask",), WRITTEN),
    "rotary_channels": (Fused, turned(rotary_microsoft(positions_of_batch, num_heads=HEADS), False), (), EQUAL),
    "rotary_first": (Fused, turned(rotary_microsoft(lambda g: g.ints(3))), (), EQUAL),
    "rotary_of_tokens": (opset(23), turned(rotary_of_tokens), (), EQUAL),
    "rotary_positions": (Fused, turned(rotary_microsoft(positions_of_batch, interleaved=1)), (), EQUAL),
    "rotary_standard": (opset(23), turned(rotary_standard), (), EQUAL),
    "standard": (opset(23), standard_attention(), (), EQUAL),
    "standard_bias": (opset(23), standard_attention(distance_of_heads, softcap=2.0), (), EQUAL),
    "standard_causal": (opset(23), standard_attention(is_causal=1), (), "R-CAUSAL"),
    "standard_lengths": (opset(24), standard_attention(lengths=lengths), ("mask",), EQUAL),
    "standard_per_head": (opset(23), standard_attention(condition, per_head=True), ("mask",), EQUAL),
    "standard_shared_keys": (opset(23), standard_attention(condition, groups=2, scale=0.4), ("mask",), EQUAL),
    "steps_layer": (Steps, steps(skip_norm, bias_gelu), (), EQUAL),
    "steps_quick": (Steps, steps(skip_norm, lambda g, x: g.contrib("QuickGelu", x, alpha=1.702)), (), EQUAL),
    "steps_root": (Steps, steps(skip_root_norm, fast_gelu), (), EQUAL),
    "steps_standard": (opset(23, Steps), steps(root_norm, lambda g, x: g.op("Gelu", x, approximate="tanh")), (), EQUAL),
}
