"""Hand-made files: what stands around the blocks of an encoder, where they begin and end, and what the inputs look like.

    python crates/vcc-cli/tests/file_forms.py --converter vcc-convert --library libvcc_ops.so

Each file says how many of its blocks convert and with which codes the others are refused. What converts equals the original at
full budget, every output, with library and bodies.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile

import numpy as np
import onnx
import onnxruntime as ort
from forms import CHANNELS, HEADS, LENGTHS, SIZE, TOLERANCE, Graph, causal_with_slope, padding, scores
from onnx import TensorProto, helper

F32, I64 = TensorProto.FLOAT, TensorProto.INT64
STREAM = ("batch", "tokens", CHANNELS)
FILES = {}


class File(Graph):
    """A graph with its own inputs and outputs."""

    def __init__(self, opset=17):
        super().__init__(opset)
        self.inputs, self.outputs = {}, []

    def input(self, name, dtype, *shape):
        self.inputs[name] = (dtype, shape)
        return name

    def output(self, value, dtype=F32):
        self.outputs.append((value, dtype))

    def weight(self, *shape):
        return self.const(self.random.standard_normal(shape) / np.sqrt(shape[-1]))

    def blocks(self, x, number=2, **parts):
        for _ in range(number):
            x = self.block(x, **parts)
        return x

    def either(self, condition, then, otherwise):
        """An If whose branches read values of the graph around it."""
        result = f"if_{len(self.nodes)}"
        branches = {}
        for name, value in (("then_branch", then), ("else_branch", otherwise)):
            node = helper.make_node("Identity", [value], [f"{result}_{name}"], name=f"{result}_{name}")
            out = helper.make_tensor_value_info(f"{result}_{name}", F32, None)
            branches[name] = helper.make_graph([node], name, [], [out])
        self.nodes.append(helper.make_node("If", [condition], [result], name=result, **branches))
        return result

    def model(self):
        inputs = [helper.make_tensor_value_info(n, t, s) for n, (t, s) in self.inputs.items()]
        outputs = [helper.make_tensor_value_info(v, *(self.inputs.get(v) or (t, None))) for v, t in self.outputs]
        graph = helper.make_graph(self.nodes, "file", inputs, outputs, self.weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)])
        model.ir_version = 8
        # The outputs' shapes.
        model = onnx.shape_inference.infer_shapes(model)
        del model.graph.value_info[:]
        onnx.checker.check_model(model)
        return model

    def feeds(self, batch, length):
        """Inputs of one size."""
        sizes = {"batch": batch, "tokens": length, "samples": 2 * length + 2, "late": length // 2 + 1}
        feeds = {}
        for name, (dtype, shape) in self.inputs.items():
            random = np.random.default_rng(length)
            shape = [sizes.get(d, d) for d in shape]
            if dtype == F32:
                feeds[name] = random.standard_normal(shape).astype(np.float32)
            elif name == "ids":
                feeds[name] = random.integers(1, 50, shape)
            else:
                feeds[name] = np.ones(shape, np.int64)
                feeds[name][:, shape[-1] - shape[-1] // 3 :] = 0
        return feeds


def file(expected, lengths=LENGTHS, batches=(1, 3)):
    """Registers a file: for each stream what becomes of its blocks, a code or `vcc`."""

    def register(make):
        FILES[make.__name__] = (make, expected, lengths, batches)
        return make

    return register


VCC = "vcc"
PAIR = [[VCC, VCC]]


# --- what stands around the blocks


@file(PAIR)
def inputs_are_outputs(f):
    x, mask = f.input("x", F32, *STREAM), f.input("mask", I64, "batch", "tokens")
    y = f.blocks(x, **scores(padding)(f, x))
    f.output(y)
    f.output(mask, I64)
    f.output(f.op("Identity", x))
    f.output(x)


@file(PAIR)
def hidden_states_are_outputs(f):
    x = f.input("x", F32, *STREAM)
    f.output(x)
    for _ in range(2):
        x = f.block(x)
        f.output(x)
    f.output(f.op("ReduceMean", f.norm(x), axes=[1]))


@file(PAIR)
def an_if_reads_the_stream(f):
    x = f.input("x", F32, *STREAM)
    many = f.op("Squeeze", f.op("Greater", f.length(x), f.ints(15)), f.ints(0))
    x = f.either(many, f.op("Relu", x), x)
    y = f.blocks(x)
    f.output(f.either(many, f.op("ReduceMax", y, axes=[1], keepdims=0), f.op("ReduceMean", x, axes=[1], keepdims=0)))


@file([["R-EXPOSED", VCC]])
def an_if_reads_the_inside_of_a_block(f):
    """The first layer of the feed-forward is captured by a branch."""
    x = f.input("x", F32, *STREAM)
    many = f.op("Squeeze", f.op("Greater", f.length(x), f.ints(15)), f.ints(0))
    y = f.block(x)
    inner = next(n.output[0] for n in f.nodes if n.op_type == "Relu")
    y = f.block(y)
    f.output(y)
    f.output(f.either(many, inner, inner))


@file([[VCC, VCC, "R-MANY-ATTENTIONS"], ["R-CAUSAL"]])
def encoder_and_decoder(f):
    x, later = f.input("x", F32, *STREAM), f.input("y", F32, "batch", "late", CHANNELS)
    memory = f.norm(f.blocks(x))
    y = later
    for _ in range(2):
        y = f.op("Add", y, f.attention(f.norm(y), **scores(causal_with_slope)(f, later)))
        y = f.op("Add", y, cross_attention(f, f.norm(y), memory))
        y = f.op("Add", y, f.linear(f.op("Relu", f.linear(f.norm(y), CHANNELS, 8)), 8, CHANNELS))
    f.output(y)


def cross_attention(f, queries, memory):
    q, k, v = (f.heads(f.linear(s, CHANNELS, CHANNELS)) for s in (queries, memory, memory))
    s = f.op("MatMul", q, f.op("Transpose", k, perm=[0, 1, 3, 2]))
    y = f.op("MatMul", f.op("Softmax", s, axis=-1), v)
    return f.linear(f.op("Reshape", f.op("Transpose", y, perm=[0, 2, 1, 3]), f.ints(0, 0, CHANNELS)), CHANNELS, CHANNELS)


@file([[VCC, "R-NOT-SELF-ATTENTION"]], lengths=(16,))
def learned_queries_attend_to_the_tokens(f):
    """And go on to be refined, as a detector's objects are."""
    x = f.input("x", F32, "batch", 16, CHANNELS)
    memory = f.norm(f.block(x))
    one = f.op("Expand", f.weight(1, 5, CHANNELS), f.op("Concat", f.op("Gather", f.op("Shape", x), f.ints(0)), f.ints(1, 1), axis=0))
    objects = f.op("Add", one, cross_attention(f, f.norm(one), memory))
    f.output(f.op("Add", objects, f.linear(f.op("Relu", f.linear(f.norm(objects), CHANNELS, 8)), 8, CHANNELS)))


# --- sizes of the inputs


def strided(f):
    """Two samples a token, [batch, tokens, channels]."""
    wave = f.input("wave", F32, "batch", 1, "samples")
    y = f.op("Conv", wave, f.weight(CHANNELS, 1, 4), strides=[2], kernel_shape=[4])
    return f.op("Transpose", y, perm=[0, 2, 1])


@file(PAIR)
def a_mask_for_what_a_convolution_leaves(f):
    x, _ = strided(f), f.input("mask", I64, "batch", "tokens")
    f.output(f.blocks(x, **scores(padding)(f, x)))


@file(PAIR)
def a_mask_by_computed_lengths(f):
    """Over pairs, with the lowest number: one token more than the mask has ones."""
    x, mask = f.input("x", F32, *STREAM), f.input("mask", I64, "batch", "tokens")
    count = f.op("Add", f.op("ReduceSum", mask, f.ints(1), keepdims=1), f.ints(1))
    valid = f.op("Unsqueeze", f.op("Less", f.positions(x), count), f.ints(1, 2))
    low = f.op("Where", valid, f.const(0.0), f.const(np.finfo(np.float32).min))
    n = f.length(x)
    pairs = f.op("Expand", low, f.op("Concat", f.ints(1, 1), n, n, axis=0))
    f.output(f.blocks(x, scores=lambda s: f.op("Add", s, pairs)))


@file([["R-CAUSAL", "R-CAUSAL"]])
def a_causal_mask_of_lowest_numbers(f):
    x = f.input("x", F32, *STREAM)
    future = f.op("Greater", f.difference(x), f.const(0, np.int64))
    low = f.op("Where", future, f.const(np.finfo(np.float32).min), f.const(0.0))
    f.output(f.blocks(x, scores=lambda s: f.op("Add", s, low)))


@file(PAIR)
def positions_for_what_a_convolution_leaves(f):
    x, positions = strided(f), f.input("positions", I64, "batch", "tokens")
    f.output(f.blocks(f.op("Add", x, f.op("Gather", f.weight(64, CHANNELS), positions))))


@file([["R-BAKED-LENGTH", "R-BAKED-LENGTH"]])
def a_traced_table_of_positions(f):
    x = f.input("x", F32, *STREAM)
    f.output(f.blocks(f.op("Add", x, f.weight(1, 17, CHANNELS))))


@file([["R-BAKED-LENGTH", "R-BAKED-LENGTH"]])
def a_table_of_17_positions(f):
    """It is cut to the length, but there is no more of it."""
    x = f.input("x", F32, *STREAM)
    table = f.op("Slice", f.weight(1, 17, CHANNELS), f.ints(0), f.length(x), f.ints(1))
    f.output(f.blocks(f.op("Add", x, table)))


@file([["R-BAKED-LENGTH", "R-BAKED-LENGTH"]])
def a_table_of_17_angles(f):
    """The same for a value that the blocks read."""
    x = f.input("x", F32, *STREAM)
    table = f.op("Slice", f.weight(1, 1, 17, SIZE), f.ints(0), f.length(x), f.ints(2))
    f.output(f.blocks(x, turn=lambda y: f.op("Mul", y, table)))


@file([[VCC]])
def one_block_from_ids_with_a_mask_from_ids(f):
    ids = f.input("ids", I64, "batch", "tokens")
    x = f.op("Gather", f.weight(50, CHANNELS), ids)
    valid = f.op("Unsqueeze", f.op("Greater", ids, f.const(9, np.int64)), f.ints(1, 2))
    bias = f.op("Where", valid, f.const(0.0), f.const(-1e9))
    f.output(f.blocks(x, 1, scores=lambda s: f.op("Add", s, bias)))


# --- where blocks begin and end


@file([[VCC, VCC, "R-NOT-SELF-ATTENTION"]])
def a_query_pools_the_tokens(f):
    x = f.input("x", F32, *STREAM)
    y = f.norm(f.blocks(x))
    query = f.op("Expand", f.weight(1, 1, CHANNELS), f.op("Concat", f.op("Gather", f.op("Shape", x), f.ints(0)), f.ints(1, 1), axis=0))
    packed = f.linear(y, CHANNELS, 2 * CHANNELS)
    k, v = f.op("Slice", packed, f.ints(0), f.ints(CHANNELS), f.ints(2)), f.op("Slice", packed, f.ints(CHANNELS), f.ints(2 * CHANNELS), f.ints(2))
    s = f.op("MatMul", f.heads(f.linear(query, CHANNELS, CHANNELS)), f.op("Transpose", f.heads(k), perm=[0, 1, 3, 2]))
    pooled = f.op("MatMul", f.op("Softmax", s, axis=-1), f.heads(v))
    f.output(f.op("Reshape", pooled, f.ints(0, CHANNELS)))


@file([[VCC, VCC]])
def the_first_token_before_the_last_norm(f):
    x = f.input("x", F32, *STREAM)
    y = f.blocks(x)
    f.output(f.linear(f.norm(f.op("Gather", y, f.const(0, np.int64), axis=1)), CHANNELS, 5))


@file([[VCC, "R-TOKEN-MIXING"]])
def the_first_token_goes_to_all(f):
    """In the last block. The stream's shape is there again behind it: this is no head."""
    x = f.block(f.input("x", F32, *STREAM))
    x = f.op("Add", x, f.attention(f.norm(x)))
    x = f.op("Add", x, f.linear(f.op("Gather", x, f.ints(0), axis=1), CHANNELS, CHANNELS))
    f.output(f.op("Add", x, f.linear(f.op("Relu", f.linear(f.norm(x), CHANNELS, 24)), 24, CHANNELS)))


@file([[VCC], [VCC]])
def channels_become_more(f):
    """The second encoder is wider, and reads its own shapes."""
    x = f.block(f.input("x", F32, *STREAM))
    x = f.linear(f.norm(x), CHANNELS, 2 * CHANNELS)
    y = f.linear(x, 2 * CHANNELS, CHANNELS)
    y = f.attention(y)
    wide = f.op("Add", x, f.op("Reshape", f.linear(y, CHANNELS, 2 * CHANNELS), f.op("Shape", x)))
    f.output(f.op("Add", wide, f.linear(f.op("Relu", f.linear(wide, 2 * CHANNELS, 24)), 24, 2 * CHANNELS)))


def channels_first(f, x, mixing=False):
    """A block over [batch, channels, tokens] with norms over [batch, tokens, channels]; returns both forms."""

    def project(y, outputs, kernel=1):
        return f.op("Conv", y, f.weight(outputs, CHANNELS, kernel), kernel_shape=[kernel], pads=[kernel // 2] * 2)

    def normed(y):
        y = f.norm(f.op("Transpose", y, perm=[0, 2, 1]))
        return f.op("Transpose", y, perm=[0, 2, 1]), y

    q, k, v = (f.op("Reshape", project(x, CHANNELS), f.ints(0, HEADS, SIZE, -1)) for _ in range(3))
    s = f.op("MatMul", f.op("Transpose", q, perm=[0, 1, 3, 2]), k)
    y = f.op("MatMul", v, f.op("Transpose", f.op("Softmax", s, axis=-1), perm=[0, 1, 3, 2]))
    y = project(f.op("Reshape", y, f.ints(0, CHANNELS, -1)), CHANNELS)
    x, _ = normed(f.op("Add", x, y))
    y = f.op("Relu", project(x, CHANNELS, 3 if mixing else 1))
    return normed(f.op("Add", x, project(y, CHANNELS)))


@file(PAIR)
def the_last_block_leaves_in_another_order(f):
    x = f.op("Transpose", f.input("x", F32, *STREAM), perm=[0, 2, 1])
    x, _ = channels_first(f, x)
    f.output(channels_first(f, x)[1])


@file([[VCC, "R-TOKEN-MIXING"]])
def a_convolution_in_the_last_block(f):
    x = f.op("Transpose", f.input("x", F32, *STREAM), perm=[0, 2, 1])
    x, _ = channels_first(f, x)
    f.output(channels_first(f, x, mixing=True)[1])


# --- a batch of one


def batch_of_one(f, x, tokens, mixing=False):
    """As torch.nn.MultiheadAttention is traced: tokens first, the batch of one merged with the heads, the output a Gemm."""
    y = f.op("Transpose", f.norm(x), perm=[1, 0, 2])
    heads = f.ints(tokens, HEADS, SIZE)
    q, k, v = (f.op("Transpose", f.op("Reshape", f.linear(y, CHANNELS, CHANNELS), heads), perm=[1, 0, 2]) for _ in range(3))
    q, k, v = (f.op("Reshape", y, f.ints(1, HEADS, tokens, SIZE)) for y in (q, k, v))
    s = f.op("MatMul", q, f.op("Transpose", k, perm=[0, 1, 3, 2]))
    y = f.op("MatMul", f.op("Softmax", s, axis=-1), v)
    y = f.op("Reshape", f.op("Transpose", y, perm=[2, 0, 1, 3]), f.ints(tokens, CHANNELS))
    if mixing:
        y = f.op("Gemm", f.weight(tokens, tokens), y, f.weight(CHANNELS))
    y = f.op("Gemm", y, f.weight(CHANNELS, CHANNELS), f.weight(CHANNELS), transB=1)
    y = f.op("Transpose", f.op("Reshape", y, f.ints(tokens, 1, CHANNELS)), perm=[1, 0, 2])
    x = f.op("Add", x, y)
    return f.op("Add", x, f.linear(f.op("Relu", f.linear(f.norm(x), CHANNELS, 24)), 24, CHANNELS))


@file(PAIR, lengths=(48,), batches=(1,))
def a_batch_of_one_merged_with_heads(f):
    x = f.input("x", F32, 1, 48, CHANNELS)
    f.output(batch_of_one(f, batch_of_one(f, x, 48), 48))


@file(PAIR, lengths=(CHANNELS,), batches=(1,))
def a_batch_of_one_and_as_many_tokens_as_channels(f):
    x = f.input("x", F32, 1, CHANNELS, CHANNELS)
    f.output(batch_of_one(f, batch_of_one(f, x, CHANNELS), CHANNELS))


@file([["R-TOKEN-MIXING", VCC]], lengths=(CHANNELS,), batches=(1,))
def a_product_over_the_tokens_of_a_batch_of_one(f):
    x = f.input("x", F32, 1, CHANNELS, CHANNELS)
    f.output(batch_of_one(f, batch_of_one(f, x, CHANNELS, mixing=True), CHANNELS))


# --- how they are checked


def outcome(report):
    """For every stream what became of its blocks."""
    with open(report, encoding="utf-8") as text:
        encoders = json.load(text)["encoders"]
    return [[block["refusal"]["code"] if block["refusal"] else block["mode"] for block in encoder["blocks"]] for encoder in encoders]


def difference(a, b):
    return 0.0 if np.array_equal(a, b) else float(np.abs(a - b).max() / np.abs(a).max())


def judge(arguments, folder, name):
    """What is wrong with a file; None if it is as expected."""
    make, expected, lengths, batches = FILES[name]
    f = File()
    make(f)
    path, out, report = (os.path.join(folder, name + end) for end in (".onnx", ".vcc.onnx", ".json"))
    onnx.save(f.model(), path)
    command = [arguments.converter, path, "-o", out, "--refine", "all", "--report", report]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    codes = [code for stream in expected for code in stream if code != VCC]
    if not any(VCC in stream for stream in expected):
        refused = result.returncode == 3 and all(code in result.stderr for code in codes) and not os.path.exists(out)
        return None if refused else f"exit {result.returncode}, expected {codes}: {result.stderr[:300]}"
    if result.returncode != 0:
        return f"exit {result.returncode}: {result.stderr[:300]}"
    found = outcome(report)
    if found != expected[: len(found)] or any(VCC in stream for stream in expected[len(found) :]):
        return f"{found}, expected {expected}: {result.stderr[:600]}"
    original = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    for library in (arguments.library, None):
        options = ort.SessionOptions()
        if library:
            options.register_custom_ops_library(library)
        converted = ort.InferenceSession(out, options, providers=["CPUExecutionProvider"])
        for batch in batches:
            for length in lengths:
                feeds = f.feeds(batch, length)
                pairs = zip(original.run(None, feeds), converted.run(None, feeds), strict=True)
                worst = max(difference(a, b) for a, b in pairs)
                if not worst <= TOLERANCE:
                    return f"differs by {worst:.2e} at {batch} x {length} {'with' if library else 'without'} the library"
    return None


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--converter", required=True)
    parser.add_argument("--library", required=True)
    arguments = parser.parse_args()
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        for name in FILES:
            wrong = judge(arguments, folder, name)
            if wrong:
                failed += 1
                print(f"FAILED {name}: {wrong}")
    print(f"{len(FILES) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
