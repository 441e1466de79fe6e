#!/usr/bin/env python3
"""Writes a T5-shaped encoder with random weights, as an ONNX graph in the form that TorchScript exporters write.

    make_t5.py -o t5.onnx [--layers 12 --width 768 --heads 12 --vocab 8000 --fused]

Inputs input_ids and attention_mask [batch, sequence] (int64), output last_hidden_state [batch, sequence, width] (float32).
Root-mean-square norms, 32 buckets of relative positions that all layers share, ReLU, no scale in the attention; opset 17. Uses no PyTorch.
With --fused the attentions are ONNX Runtime's MultiHeadAttention, with the same weights; its fuser does not find them in this form.
"""

import argparse
import math

import numpy as np
import onnx
from make_roberta import Graph, key_bias
from onnx import TensorProto, helper

BUCKETS, FARTHEST = 32, 128


def norm(g, x, width, scope):
    gain = g.weight(f"{scope}.weight", 1 + 0.02 * g.random.standard_normal(width, dtype=np.float32))
    square = g.op("ReduceMean", [g.op("Pow", [x, g.constant(2.0, scope, np.float32)], scope)], scope, axes=[-1])
    root = g.op("Sqrt", [g.op("Add", [square, g.constant(1e-6, scope, np.float32)], scope)], scope)
    return g.op("Mul", [gain, g.op("Div", [x, root], scope)], scope)


def relative_positions(g, heads):
    """[1, heads, sequence, sequence]: a number of a table for each distance of two tokens."""
    scope, half = "/relative", BUCKETS // 2
    count = g.size("input_ids", 1, scope)
    positions = g.op("Range", [g.constant(0, scope), count, g.constant(1, scope)], scope)
    of_keys = g.op("Unsqueeze", [positions, g.constant([0], scope)], scope)
    of_queries = g.op("Unsqueeze", [positions, g.constant([1], scope)], scope)
    distance = g.op("Sub", [of_keys, of_queries], scope)
    behind = g.op("Cast", [g.op("Greater", [distance, g.constant(0, scope)], scope)], scope, to=TensorProto.INT64)
    behind = g.op("Mul", [behind, g.constant(half, scope)], scope)
    distance = g.op("Abs", [distance], scope)
    near = g.op("Less", [distance, g.constant(half // 2, scope)], scope)
    # Distances from half // 2 on share buckets, ever more of them.
    share = g.op("Div", [g.op("Cast", [distance], scope, to=TensorProto.FLOAT), g.constant(half // 2, scope, np.float32)], scope)
    share = g.op("Div", [g.op("Log", [share], scope), g.constant(math.log(FARTHEST / (half // 2)), scope, np.float32)], scope)
    share = g.op("Mul", [share, g.constant(half - half // 2, scope, np.float32)], scope)
    far = g.op("Add", [g.op("Cast", [share], scope, to=TensorProto.INT64), g.constant(half // 2, scope)], scope)
    far = g.op("Min", [far, g.constant(half - 1, scope)], scope)
    bucket = g.op("Add", [behind, g.op("Where", [near, distance, far], scope)], scope)
    table = g.normal("relative_attention_bias.weight", (BUCKETS, heads), 0.1)
    bias = g.op("Transpose", [g.op("Gather", [table, bucket], scope)], scope, perm=[2, 0, 1])
    return g.op("Unsqueeze", [bias, g.constant([0], scope)], scope)


def linear(g, x, width_in, width_out, scope):
    return g.op("MatMul", [x, g.normal(f"{scope}.weight", (width_in, width_out), width_in**-0.5)], scope)


def attention(g, x, bias, width, heads, layer, fused):
    scope = f"encoder.block.{layer}.layer.0"
    inner = norm(g, x, width, f"{scope}.layer_norm")
    parts = {}
    for part in "qkv":
        y = linear(g, inner, width, width, f"{scope}.SelfAttention.{part}")
        if fused:
            parts[part] = y
            continue
        y = g.reshape(y, [g.size(y, 0, scope), -1, heads, width // heads], scope)
        parts[part] = g.op("Transpose", [y], scope, perm=[0, 2, 3, 1] if part == "k" else [0, 2, 1, 3])
    # Queries of random weights are as long as those of a trained T5 are not.
    scale = (width // heads) ** -0.5
    if fused:
        inputs = [*parts.values(), "", "", bias]
        context = g.op("MultiHeadAttention", inputs, scope, domain="com.microsoft", num_heads=heads, scale=scale)
        return g.op("Add", [x, linear(g, context, width, width, f"{scope}.SelfAttention.o")], scope)
    queries = g.op("Mul", [parts["q"], g.constant(scale, scope, np.float32)], scope)
    scores = g.op("Add", [g.op("MatMul", [queries, parts["k"]], scope), bias], scope)
    shares = g.op("Softmax", [scores], scope, axis=-1)
    context = g.op("Transpose", [g.op("MatMul", [shares, parts["v"]], scope)], scope, perm=[0, 2, 1, 3])
    context = g.reshape(context, [g.size(context, 0, scope), -1, width], scope)
    return g.op("Add", [x, linear(g, context, width, width, f"{scope}.SelfAttention.o")], scope)


def feed_forward(g, x, width, layer):
    scope = f"encoder.block.{layer}.layer.1"
    inner = norm(g, x, width, f"{scope}.layer_norm")
    inner = g.op("Relu", [linear(g, inner, width, 4 * width, f"{scope}.DenseReluDense.wi")], scope)
    return g.op("Add", [x, linear(g, inner, 4 * width, width, f"{scope}.DenseReluDense.wo")], scope)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", required=True)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--heads", type=int, default=12)
    parser.add_argument("--vocab", type=int, default=8000)
    parser.add_argument("--fused", action="store_true", help="attentions as one operator of ONNX Runtime each")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    g = Graph(args.seed)
    x = g.op("Gather", [g.normal("shared.weight", (args.vocab, args.width), 1.0), "input_ids"], "/shared")
    bias = g.op("Add", [relative_positions(g, args.heads), key_bias(g)], "/mask")
    for layer in range(args.layers):
        x = attention(g, x, bias, args.width, args.heads, layer, args.fused)
        x = feed_forward(g, x, args.width, layer)
    norm(g, x, args.width, "encoder.final_layer_norm")
    g.nodes[-1].output[0] = "last_hidden_state"
    tokens = ["batch", "sequence"]
    graph = helper.make_graph(
        g.nodes,
        "main_graph",
        [helper.make_tensor_value_info(name, TensorProto.INT64, tokens) for name in ("input_ids", "attention_mask")],
        [helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, [*tokens, args.width])],
        g.weights,
    )
    opsets = [helper.make_opsetid("", 17), *([helper.make_opsetid("com.microsoft", 1)] if args.fused else [])]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8, producer_name="make_t5")
    onnx.save(model, args.output)


if __name__ == "__main__":
    main()
