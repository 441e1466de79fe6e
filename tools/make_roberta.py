#!/usr/bin/env python3
"""Writes a RoBERTa-shaped encoder with random weights, as an ONNX graph in the form that TorchScript exporters write.

    make_roberta.py -o roberta.onnx [--layers 12 --width 768 --heads 12 --vocab 8000 --length 4096 --pre-norm]

Inputs input_ids and attention_mask [batch, sequence] (int64), output last_hidden_state [batch, sequence, width] (float32).
Positions are counted over the tokens that are not padding (id 1), as RoBERTa does. Post-LN, or with --pre-norm the form of
RobertaPreLayerNorm; Erf Gelu, opset 17. The same arguments give the same bytes. Uses no PyTorch: the weights only have to have
the right shapes and sizes.
"""

import argparse

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

PADDING = 1


class Graph:
    """Collects nodes and weights; every method that adds a node returns the name of its output."""

    def __init__(self, seed):
        self.nodes, self.weights = [], []
        self.random = np.random.default_rng(seed)

    def op(self, kind, inputs, scope, **attributes):
        name = f"{scope}/{kind}_{len(self.nodes)}"
        output = f"{name}_output_0"
        self.nodes.append(helper.make_node(kind, inputs, [output], name=name, **attributes))
        return output

    def constant(self, value, scope, dtype=np.int64):
        tensor = numpy_helper.from_array(np.array(value, dtype=dtype))
        return self.op("Constant", [], scope, value=tensor)

    def weight(self, name, array):
        self.weights.append(numpy_helper.from_array(array.astype(np.float32), name))
        return name

    def normal(self, name, shape, deviation):
        return self.weight(name, self.random.standard_normal(shape, dtype=np.float32) * np.float32(deviation))

    def linear(self, x, width_in, width_out, scope):
        weight = self.normal(f"{scope}.weight", (width_in, width_out), width_in**-0.5)
        bias = self.normal(f"{scope}.bias", (width_out,), 0.02)
        return self.op("Add", [bias, self.op("MatMul", [x, weight], scope)], scope)

    def norm(self, x, width, scope):
        gain = self.weight(f"{scope}.weight", 1 + 0.02 * self.random.standard_normal(width, dtype=np.float32))
        bias = self.normal(f"{scope}.bias", (width,), 0.02)
        return self.op("LayerNormalization", [x, gain, bias], scope, axis=-1, epsilon=1e-5)

    def size(self, x, axis, scope):
        return self.op("Gather", [self.op("Shape", [x], scope), self.constant(axis, scope)], scope, axis=0)

    def reshape(self, x, sizes, scope):
        parts = [
            self.op("Unsqueeze", [s, self.constant([0], scope)], scope) if isinstance(s, str) else self.constant([s], scope)
            for s in sizes
        ]
        return self.op("Reshape", [x, self.op("Concat", parts, scope, axis=0)], scope)


def embeddings(g, vocab, width, positions):
    scope = "/embeddings"
    real = g.op("Cast", [g.op("Not", [g.op("Equal", ["input_ids", g.constant(PADDING, scope)], scope)], scope)], scope,
                to=TensorProto.INT32)
    counted = g.op("CumSum", [real, g.constant(1, scope)], scope)
    counted = g.op("Cast", [g.op("Mul", [counted, real], scope)], scope, to=TensorProto.INT64)
    position = g.op("Add", [counted, g.constant(PADDING, scope)], scope)
    words = g.op("Gather", [g.normal("embeddings.word_embeddings.weight", (vocab, width), 0.1), "input_ids"], scope)
    kind = g.normal("embeddings.token_type_embeddings.weight", (1, width), 0.1)
    types = g.op("Gather", [kind, g.op("ConstantOfShape", [g.op("Shape", ["input_ids"], scope)], scope,
                                       value=helper.make_tensor("value", TensorProto.INT64, [1], [0]))], scope)
    places = g.op("Gather", [g.normal("embeddings.position_embeddings.weight", (positions, width), 0.1), position], scope)
    total = g.op("Add", [g.op("Add", [words, types], scope), places], scope)
    return g.norm(total, width, "embeddings.LayerNorm")


def key_bias(g):
    """[batch, 1, 1, sequence]: 0 where the mask is 1, the lowest float elsewhere."""
    mask = g.op("Unsqueeze", [g.op("Unsqueeze", ["attention_mask", g.constant([1], "")], ""), g.constant([2], "")], "")
    inverse = g.op("Sub", [g.constant(1.0, "", np.float32), g.op("Cast", [mask], "", to=TensorProto.FLOAT)], "")
    return g.op("Mul", [inverse, g.constant(np.finfo(np.float32).min, "", np.float32)], "")


def attention(g, x, bias, width, heads, layer, pre_norm):
    scope = f"encoder.layer.{layer}.attention"
    each = width // heads
    parts = {}
    inner = g.norm(x, width, f"{scope}.LayerNorm") if pre_norm else x
    for part in ("query", "key", "value"):
        y = g.linear(inner, width, width, f"{scope}.self.{part}")
        y = g.reshape(y, [g.size(y, 0, scope), g.size(y, 1, scope), heads, each], scope)
        parts[part] = g.op("Transpose", [y], scope, perm=[0, 2, 3, 1] if part == "key" else [0, 2, 1, 3])
    scores = g.op("MatMul", [parts["query"], parts["key"]], scope)
    scores = g.op("Div", [scores, g.constant(each**0.5, scope, np.float32)], scope)
    shares = g.op("Softmax", [g.op("Add", [scores, bias], scope)], scope, axis=-1)
    context = g.op("Transpose", [g.op("MatMul", [shares, parts["value"]], scope)], scope, perm=[0, 2, 1, 3])
    context = g.reshape(context, [g.size(context, 0, scope), g.size(context, 1, scope), width], scope)
    out = g.op("Add", [g.linear(context, width, width, f"{scope}.output.dense"), x], scope)
    return out if pre_norm else g.norm(out, width, f"{scope}.output.LayerNorm")


def feed_forward(g, x, width, layer, pre_norm):
    scope = f"encoder.layer.{layer}"
    inner = g.norm(x, width, f"{scope}.intermediate.LayerNorm") if pre_norm else x
    inner = g.linear(inner, width, 4 * width, f"{scope}.intermediate.dense")
    erf = g.op("Erf", [g.op("Div", [inner, g.constant(2**0.5, scope, np.float32)], scope)], scope)
    gelu = g.op("Mul", [inner, g.op("Add", [erf, g.constant(1.0, scope, np.float32)], scope)], scope)
    gelu = g.op("Mul", [gelu, g.constant(0.5, scope, np.float32)], scope)
    out = g.op("Add", [g.linear(gelu, 4 * width, width, f"{scope}.output.dense"), x], scope)
    return out if pre_norm else g.norm(out, width, f"{scope}.output.LayerNorm")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", required=True)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--heads", type=int, default=12)
    parser.add_argument("--vocab", type=int, default=8000)
    parser.add_argument("--length", type=int, default=4096, help="longest sequence; the position table has 2 rows more")
    parser.add_argument("--pre-norm", action="store_true", help="normalise before attention and feed-forward, and at the end")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    g = Graph(args.seed)
    bias = key_bias(g)
    x = embeddings(g, args.vocab, args.width, args.length + 2)
    for layer in range(args.layers):
        x = attention(g, x, bias, args.width, args.heads, layer, args.pre_norm)
        x = feed_forward(g, x, args.width, layer, args.pre_norm)
    if args.pre_norm:
        g.norm(x, args.width, "encoder.LayerNorm")
    g.nodes[-1].output[0] = "last_hidden_state"

    tokens = ["batch", "sequence"]
    graph = helper.make_graph(
        g.nodes,
        "main_graph",
        [helper.make_tensor_value_info(name, TensorProto.INT64, tokens) for name in ("input_ids", "attention_mask")],
        [helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, [*tokens, args.width])],
        g.weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8,
                              producer_name="make_roberta")
    onnx.save(model, args.output)


if __name__ == "__main__":
    main()
