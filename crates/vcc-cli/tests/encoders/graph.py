"""Writes ONNX graphs node by node, in the words of any opset from 11 to 21.

Sizes are given by name: a shape is a tuple of numbers, names ("B": batch, "N": tokens) and products of these (a tuple within).
How a size gets into a Reshape is the exporter's choice: a 0, a -1, a literal, or taken from the shape of some value.
"""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

TYPES = {"f32": (np.float32, TensorProto.FLOAT), "f16": (np.float16, TensorProto.FLOAT16)}
IR_VERSION = {19: 9, 20: 9, 21: 10}


class Graph:
    def __init__(self, opset, dtype, static, style, random):
        """static: the literal of a size by its name. style: 'reshape', 'size', 'source', 'noise', 'constants' and 'batch_of_one', see choices.py."""
        self.opset, self.static, self.style, self.random = opset, static, style, random
        self.numpy, self.type = TYPES[dtype]
        self.nodes, self.weights, self.inputs, self.outputs, self.functions = [], [], [], [], []
        self.roots, self.recorded, self.replayed = {}, {}, {}
        self.axes = {}  # of the outputs
        self.count = 0

    # Nodes and constants

    def op(self, op, *inputs, outputs=1, **attributes):
        self.count += 1
        names = [f"{op.lower()}_{self.count}" + (f"_{i}" if i else "") for i in range(outputs)]
        self.nodes.append(helper.make_node(op, list(inputs), names, name=names[0], **attributes))
        return names[0] if outputs == 1 else names

    def const(self, value, dtype=None):
        self.count += 1
        tensor = numpy_helper.from_array(np.asarray(value, dtype or self.numpy), f"const_{self.count}")
        if self.style["constants"] == "nodes":
            self.nodes.append(helper.make_node("Constant", [], [tensor.name], value=tensor))
        else:
            self.weights.append(tensor)
        return tensor.name

    def ints(self, *values):
        return self.const(values, np.int64)

    def int(self, value):
        return self.const(value, np.int64)

    def floats(self, *shape, scale=1.0, offset=0.0):
        """Random weights; those of the block before again, as long as `replayed` has some."""
        if self.replayed.get(shape):
            return self.replayed[shape].pop(0)
        name = self.const(offset + scale * self.random.standard_normal(shape))
        self.recorded.setdefault(shape, []).append(name)
        return name

    def replay(self):
        """The next weights are those made since the last call, or their replay."""
        self.replayed = {shape: list(names) for shape, names in self.recorded.items()}

    def input(self, name, dtype, shape):
        dims = [self.static.get(size) or size for size in shape]  # b_N: of the second encoder
        self.inputs.append(helper.make_tensor_value_info(name, dtype, dims))
        return name

    def output(self, x, name, axes):
        """Declares the rank only: sizes are the reader's work."""
        self.nodes.append(helper.make_node("Identity", [x], [name], name=f"to_{name}"))
        self.outputs.append(helper.make_tensor_value_info(name, self.type, [None] * len(axes)))
        self.axes[name] = axes

    def either(self, condition, value, dtype):
        """An If that takes the same value in both branches."""
        self.count += 1
        branches = []
        for branch in ("then", "else"):
            output = f"{branch}_{self.count}"
            node = helper.make_node("Identity", [value], [output])
            info = helper.make_tensor_value_info(output, dtype, None)
            branches.append(helper.make_graph([node], branch, [], [info]))
        return self.op("If", condition, then_branch=branches[0], else_branch=branches[1])

    # Operators that changed with the opset

    def _axes(self, op, x, axes, since, **attributes):
        if self.opset >= since:
            return self.op(op, x, self.ints(*axes), **attributes)
        return self.op(op, x, axes=list(axes), **attributes)

    def unsqueeze(self, x, *axes):
        return self._axes("Unsqueeze", x, axes, 13)

    def squeeze(self, x, *axes):
        return self._axes("Squeeze", x, axes, 13)

    def reduce(self, op, x, axis, keepdims=1):
        return self._axes(f"Reduce{op}", x, [axis], 13 if op == "Sum" else 18, keepdims=keepdims)

    def split(self, x, sizes, axis):
        if self.opset >= 13:
            return self.op("Split", x, self.ints(*sizes), outputs=len(sizes), axis=axis)
        return self.op("Split", x, outputs=len(sizes), axis=axis, split=list(sizes))

    def softmax(self, x, axis=-1, rank=4):
        if axis == -1 and self.opset < 13:
            axis = rank - 1  # before 13 an axis also flattens what follows
        return self.op("Softmax", x, axis=axis)

    def slice(self, x, start, end, axis):
        return self.op("Slice", x, self._bound(start), self._bound(end), self.ints(axis))

    def _bound(self, value):
        return value if isinstance(value, str) else self.ints(value)

    def cast(self, x, dtype=None):
        return self.op("Cast", x, to=dtype or self.type)

    def number(self, x, op, value):
        """An arithmetic operator with a number."""
        return self.op(op, x, self.const(value))

    # Sizes

    def root(self, x, shape):
        """Says where sizes can be read if the value at hand does not have them."""
        self.roots = self.roots | {size: (x, axis) for axis, size in enumerate(shape) if isinstance(size, str)}

    def pick(self, name):
        """The style for one place; 'mixed' is another one everywhere."""
        value = self.style[name]
        if isinstance(value, tuple):
            return value[self.random.integers(len(value))]
        return value

    def size(self, name, x=None, shape=()):
        """A size as a vector of one number."""
        if self.static.get(name) and self.pick("source") == "literal":
            return self.ints(self.static[name])
        if name in shape and self.pick("source") != "root":
            axis = shape.index(name)
        else:
            x, axis = self.roots[name]
        style = self.pick("size")
        if style == "attributes" and self.opset >= 15:
            return self.op("Shape", x, start=axis, end=axis + 1)
        whole = self.op("Shape", x)
        if style == "scalar":
            return self.unsqueeze(self.op("Gather", whole, self.int(axis), axis=0), 0)
        if style == "cast":
            scalar = self.op("Gather", whole, self.int(axis), axis=0)
            number = self.op("Cast", scalar, to=TensorProto.FLOAT)
            return self.unsqueeze(self.op("Cast", self.op("Floor", number), to=TensorProto.INT64), 0)
        if style == "slice":
            return self.slice(whole, axis, axis + 1, 0)
        return self.op("Gather", whole, self.ints(axis), axis=0)

    def shape(self, to, x=None, shape=(), zero=False, minus_one=False):
        """A vector of sizes. zero: sizes that stay where they are may be 0. minus_one: one of them may be -1."""
        style = self.pick("reshape") if minus_one else "sizes"
        items = list(to)
        if zero and style in ("zero", "zeros"):
            for axis, size in enumerate(items):
                if axis < len(shape) and size == shape[axis] and not isinstance(size, int):
                    items[axis] = 0
        free = [axis for axis, size in enumerate(items) if not isinstance(size, int)]
        if style == "features" and isinstance(items[-1], int):
            free = [len(items) - 1]
        if style != "sizes" and free:
            items[max(free, key=lambda axis: (isinstance(items[axis], tuple), items[axis] == "N"))] = -1
        vectors = []
        for size in items:
            if isinstance(size, int) and vectors and isinstance(vectors[-1], list):
                vectors[-1].append(size)
            else:
                vectors.append([size] if isinstance(size, int) else self._product(size, x, shape))
        vectors = [self.ints(*v) if isinstance(v, list) else v for v in vectors]
        return vectors[0] if len(vectors) == 1 else self.op("Concat", *vectors, axis=0)

    def _product(self, size, x, shape):
        if isinstance(size, str):
            return self.size(size, x, shape)
        factors = [self.ints(f) if isinstance(f, int) else self.size(f, x, shape) for f in size]
        result = factors[0]
        for factor in factors[1:]:
            result = self.op("Mul", result, factor)
        return result

    def reshape(self, x, shape, to):
        if self.static.get("B") == 1 and self.style["batch_of_one"] == "squeezed":
            if "B" in shape and to == (("B", "N"), *shape[2:]):
                return self.squeeze(x, shape.index("B"))
            if "B" in to and shape == (("B", "N"), *to[2:]):
                return self.unsqueeze(x, to.index("B"))
        return self.op("Reshape", x, self.shape(to, x, shape, zero=True, minus_one=True))

    def expand(self, x, to):
        return self.op("Expand", x, self.shape(to))

    def noise(self, x):
        """Operators that do nothing, as exporters leave them."""
        kind = self.pick("noise")
        if kind == "identity":
            return self.op("Identity", x)
        if kind == "dropout":
            return self.op("Dropout", x)
        if kind == "cast":
            return self.cast(self.op("Cast", x, to=TensorProto.FLOAT))
        if kind == "chain":
            return self.op("Identity", self.op("Dropout", self.cast(self.op("Identity", x))))
        return x

    def model(self):
        if self.style["constants"] == "inputs":
            # As before IR version 4, every initializer is an input too.
            listed = [helper.make_tensor_value_info(t.name, t.data_type, list(t.dims)) for t in self.weights]
        else:
            listed = []
        graph = helper.make_graph(self.nodes, "encoder", self.inputs + listed, self.outputs, self.weights)
        opsets = [helper.make_opsetid("", self.opset)]
        if self.functions:
            opsets.append(helper.make_opsetid("local", 1))
        model = helper.make_model(graph, opset_imports=opsets, functions=self.functions)
        model.ir_version = IR_VERSION.get(self.opset, 8)
        return model


def reads(node):
    """What a node reads, also in its branches."""
    yield from filter(None, node.input)
    for attribute in node.attribute:
        made = {output for inner in attribute.g.node for output in inner.output}
        for inner in attribute.g.node:
            yield from (value for value in reads(inner) if value not in made)


def outline(graph, start, end, name):
    """Puts the nodes from start to end into a model-local function."""
    nodes = graph.nodes[start:end]
    made = [output for node in nodes for output in node.output]
    inputs = list(dict.fromkeys(value for node in nodes for value in reads(node) if value not in made))
    read = {value for node in graph.nodes[end:] for value in reads(node)}
    outputs = [value for value in made if value in read]
    opsets = [helper.make_opsetid("", graph.opset), helper.make_opsetid("local", 1)]
    function = helper.make_function("local", name, inputs, outputs, nodes, opsets)
    graph.functions.append(function)
    call = helper.make_node(name, inputs, outputs, name=name.lower(), domain="local")
    graph.nodes[start:end] = [call]


def save(model, path):
    onnx.checker.check_model(model)
    onnx.save(model, path)
