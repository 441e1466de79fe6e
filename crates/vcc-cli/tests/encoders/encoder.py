"""Builds the encoder that a vector of choices describes, and says what it is to be fed with."""

import numpy as np
from onnx import TensorProto

from .attention import LONGEST, Attention
from .choices import mixed
from .graph import Graph, outline

LAYOUTS = {"B": "B", "N": "N", "F": ("B", "N")}
MASK_TYPES = {"i64": TensorProto.INT64, "f32": TensorProto.FLOAT, "bool": TensorProto.BOOL, "i32": TensorProto.INT32}
VOCABULARY = 32


class Encoder:
    """The model of a vector of choices: `model`, and `fed`, what every graph input holds."""

    def __init__(self, choices, seed, mutation=None):
        self.choices, self.mutation = choices, mutation
        random = np.random.default_rng(seed)
        self.static = static_sizes(choices)
        style = {name: mixed(choices, name) for name in ("reshape", "size", "source", "noise", "constants", "batch_of_one")}
        g = self.graph = Graph(choices["opset"], choices["dtype"], self.static, style, random)
        self.fed, ranges = {}, []
        for tower in range(choices["towers"]):
            Tower(self, "b_" * tower, ranges, mutation).build()
        for place, (start, end, name) in enumerate(sorted(ranges, key=lambda r: (-r[0], r[1]))):
            outline(g, start, end, f"{name}{place}")
            # Ranges around this one are now shorter.
            for outer in ranges:
                if outer[0] <= start and end <= outer[1]:
                    outer[1] -= end - start - 1
        self.model = g.model()


def static_sizes(choices):
    """The sizes that are literals in the model, by name. Several may be the same number: only the axis tells them apart."""
    head_size = choices["channels"] // choices["heads"]
    numbers = {
        "number": 37,
        "channels": choices["channels"],
        "heads": choices["heads"],
        "head_size": head_size,
        "feedforward": choices["channels"] * choices["feedforward"],
        "batch": choices["batch"] or 3,
    }
    tokens = numbers.get(choices["length"])
    if tokens is not None and (tokens > 64 or tokens < 2):
        tokens = 37
    sizes = {"B": choices["batch"], "N": tokens}
    if tokens is not None:
        sizes |= {"width": image_width(tokens), "samples": wave_samples(tokens)}
    return sizes | {f"b_{name}": size for name, size in sizes.items()}


def image_width(tokens):
    """One row of patches, and the class token."""
    return 4 * (tokens - 1)


def wave_samples(tokens):
    return 2 * tokens + 2


class Tower:
    """One encoder of the model."""

    def __init__(self, encoder, prefix, ranges, mutation):
        self.g, self.c, self.fed = encoder.graph, encoder.choices, encoder.fed
        self.prefix, self.ranges, self.mutation = prefix, ranges, mutation
        self.d = self.c["channels"]
        self.width = self.d * self.c["feedforward"]
        self.current, self.exposed = 0, []  # block, outputs
        self.attention = Attention(self.g, self.c, self)

    def input(self, name, dtype, shape, kind):
        name = self.prefix + name
        if name not in self.fed:
            self.g.input(name, dtype, [self.prefix + size if isinstance(size, str) else size for size in shape])
            self.fed[name] = (kind, dtype, shape)
        return name

    # Mutations, see unsound.py

    def mutated(self, place, x, part="attention", layout="BND"):
        mutation = self.mutation
        if not mutation or not mutation.applies(place, self.current, part):
            return x
        x = self.layout(x, layout, "BND", self.d) if place == "tokens" else x
        x = mutation.make(self.g, self.attention, x)
        return self.layout(x, "BND", layout, self.d) if place == "tokens" else x

    def expose(self, what, x, axes):
        """Makes an interior value an output of the model, behind the others."""
        mutation = self.mutation
        if mutation and mutation.applies("exposed", self.current) and mutation.make(self.g, self.attention, x) == what:
            self.exposed.append((x, f"{self.prefix}exposed_{self.current}", axes))

    def shape(self, layout, features):
        return tuple(features if axis == "D" else LAYOUTS[axis] for axis in layout)

    # Layers

    def layout(self, x, before, after, features):
        """The same values with their axes in another order."""
        g = self.g
        if before == after:
            return x
        if before == "FD":
            x = g.reshape(x, (("B", "N"), features), ("B", "N", features))
            return self.layout(x, "BND", after, features)
        if after == "FD":
            x = self.layout(x, before, "BND", features)
            return g.reshape(x, ("B", "N", features), (("B", "N"), features))
        return g.op("Transpose", x, perm=[before.index(axis) for axis in after])

    def linear(self, x, layout, rows, columns):
        g, form = self.g, self.c["linear"]
        x = g.noise(x)
        scale = rows**-0.5
        if layout == "BDN":
            if form == "conv":
                return g.op("Conv", x, g.floats(columns, rows, 1, scale=scale), g.floats(columns, scale=0.1))
            weight = g.floats(columns, rows, scale=scale)
            if form == "einsum" and g.opset >= 12:
                y = g.op("Einsum", weight, x, equation="oi,bin->bon")
            else:
                y = g.op("MatMul", weight, x)
            return y if form == "no_bias" else g.op("Add", y, g.floats(columns, 1, scale=0.1))
        if form == "conv" and layout != "FD":
            y = self.layout(x, layout, "BDN", rows)
            y = g.op("Conv", y, g.floats(columns, rows, 1, scale=scale), g.floats(columns, scale=0.1))
            return self.layout(y, "BDN", layout, columns)
        if form == "gemm":
            y = g.reshape(x, self.shape(layout, rows), (("B", "N"), rows)) if layout != "FD" else x
            y = g.op("Gemm", y, g.floats(columns, rows, scale=scale), g.floats(columns, scale=0.1), transB=1)
            return g.reshape(y, (("B", "N"), columns), self.shape(layout, columns)) if layout != "FD" else y
        if form == "einsum" and g.opset >= 12:
            letters = {"BND": "bn", "NBD": "nb", "FD": "f"}[layout]
            y = g.op("Einsum", x, g.floats(rows, columns, scale=scale), equation=f"{letters}d,de->{letters}e")
        elif form == "transposed":
            y = g.op("MatMul", x, g.op("Transpose", g.floats(columns, rows, scale=scale), perm=[1, 0]))
        elif form == "int8":
            weight = g.cast(g.const(g.random.integers(-127, 128, (rows, columns)), np.int8))
            y = g.op("MatMul", x, g.number(weight, "Mul", scale / 64))
        else:
            y = g.op("MatMul", x, g.floats(rows, columns, scale=scale))
        if form == "no_bias":
            return y
        bias = g.floats(columns, scale=0.1)
        return g.op("Add", bias, y) if form == "swapped" else g.op("Add", y, bias)

    def norm(self, x, layout):
        g, d, kind, form = self.g, self.d, self.c["norm"], self.c["norm_form"]
        if kind == "none":
            return x
        if kind == "batch":
            y = x if layout == "FD" else self.layout(x, layout, "BDN", d)
            weights = [g.floats(d, scale=0.1, offset=1.0), g.floats(d, scale=0.1), g.floats(d, scale=0.1)]
            y = g.op("BatchNormalization", y, *weights, g.const(np.full(d, 1.5)))
            return y if layout == "FD" else self.layout(y, "BDN", layout, d)
        if kind == "layer" and g.opset >= 17:
            y = self.layout(x, layout, "BND", d) if layout == "BDN" else x
            y = g.op("LayerNormalization", y, g.floats(d, scale=0.1, offset=1.0), g.floats(d, scale=0.1), axis=-1)
            return self.layout(y, "BND", layout, d) if layout == "BDN" else y
        axis = layout.index("D") if layout == "BDN" else -1
        wide = form == "f32"
        y = g.op("Cast", x, to=TensorProto.FLOAT) if wide else x
        dtype = np.float32 if wide else None
        if kind != "rms":
            y = g.op("Sub", y, g.reduce("Mean", y, axis))
        square = g.op("Mul", y, y) if form == "mul_reciprocal" else g.op("Pow", y, g.const(2.0, dtype))
        root = g.op("Sqrt", g.op("Add", g.reduce("Mean", square, axis), g.const(1e-3, dtype)))
        y = g.op("Mul", y, g.op("Reciprocal", root)) if form == "mul_reciprocal" else g.op("Div", y, root)
        y = g.cast(y) if wide else y
        weight = (d, 1) if layout == "BDN" else (d,)
        y = g.op("Mul", y, g.floats(*weight, scale=0.1, offset=1.0))
        return y if kind == "rms" else g.op("Add", y, g.floats(*weight, scale=0.1))

    def activation(self, x):
        g, kind = self.g, self.c["activation"]
        if kind == "erf":
            y = g.number(g.op("Erf", g.number(x, "Div", 2**0.5)), "Add", 1.0)
            return g.number(g.op("Mul", x, y), "Mul", 0.5)
        if kind == "tanh":
            cube = g.number(g.op("Pow", x, g.const(3.0)), "Mul", 0.044715)
            y = g.op("Tanh", g.number(g.op("Add", x, cube), "Mul", (2 / np.pi) ** 0.5))
            return g.op("Mul", g.number(x, "Mul", 0.5), g.number(y, "Add", 1.0))
        if kind in ("silu", "quick"):
            inner = g.number(x, "Mul", 1.702) if kind == "quick" else x
            return g.op("Mul", x, g.op("Sigmoid", inner))
        if kind == "elu":
            return g.op("Elu", x)
        if kind == "squared":
            y = g.op("Relu", x)
            return g.op("Mul", y, y)
        if kind == "operator" and g.opset >= 14:
            return g.op("Gelu" if g.opset >= 20 else "HardSwish", x)
        return g.op("Relu", x)

    def feedforward(self, x, layout):
        g, d, f, gate = self.g, self.d, self.width, self.c["gate"]
        if gate == "split":
            both = self.linear(x, layout, d, 2 * f)
            a, b = g.split(both, [f, f], layout.index("D"))
            y = g.op("Mul", self.activation(a), b)
        elif gate == "two":
            y = g.op("Mul", self.activation(self.linear(x, layout, d, f)), self.linear(x, layout, d, f))
        elif gate == "experts" and layout != "BDN":
            # Every token decides how much of each expert it takes.
            share = g.softmax(self.linear(x, layout, d, 2), rank=len(layout))
            experts = [self.activation(self.linear(x, layout, d, f)) for _ in range(2)]
            shares = [g.slice(share, i, i + 1, layout.index("D")) for i in range(2)]
            y = g.op("Add", *(g.op("Mul", e, s) for e, s in zip(experts, shares)))
        else:
            y = self.activation(self.linear(x, layout, d, f))
        self.expose("hidden", y, layout)
        return self.linear(y, layout, f, d)

    def residual(self, x, y, layout):
        g, kind = self.g, self.c["residual"]
        weight = (self.d, 1) if layout == "BDN" else (self.d,)
        if kind == "swapped":
            return g.op("Add", y, x)
        if kind == "scaled":
            return g.op("Add", g.number(x, "Mul", 0.9), y)
        if kind == "layer_scale":
            return g.op("Add", x, g.op("Mul", g.floats(*weight, scale=0.2, offset=0.5), y))
        if kind == "gated":
            return g.op("Add", x, g.op("Mul", y, g.op("Sigmoid", self.linear(x, layout, self.d, self.d))))
        return g.op("Add", x, y)

    # The whole

    def outlined(self, part, make, *arguments):
        """Makes a part; as a function if the choices say so."""
        start, wanted = len(self.g.nodes), self.c["function"]
        y = make(*arguments)
        if wanted == part or wanted == "nested" and part in ("block", "feedforward"):
            self.ranges.append([start, len(self.g.nodes), part.capitalize()])
        return y

    def attend(self, x, layout):
        inner = self.c["attention_layout"]
        inner = layout if inner == "same" else inner
        x = self.mutated("tokens", x, "attention", layout)
        y = self.attention(self.layout(x, layout, inner, self.d), inner)
        return self.layout(y, inner, layout, self.d)

    def block(self, x, layout):
        order = self.c["order"]

        def attend(y):
            return self.outlined("attention", self.attend, y, layout)

        def feed(y):
            y = self.mutated("tokens", y, "feedforward", layout)
            return self.outlined("feedforward", self.feedforward, y, layout)

        def norm(y):
            return self.norm(y, layout)

        if order == "post":
            x = norm(self.residual(x, attend(x), layout))
            return norm(self.residual(x, feed(x), layout))
        if order == "sandwich":
            x = self.residual(x, norm(attend(norm(x))), layout)
            return self.residual(x, norm(feed(norm(x))), layout)
        if order == "parallel":
            return self.residual(x, self.g.op("Add", attend(norm(x)), feed(norm(x))), layout)
        if order == "one_norm":
            y = norm(x)
            return self.residual(x, self.g.op("Add", attend(y), feed(y)), layout)
        x = self.residual(x, attend(norm(x)), layout)
        return self.residual(x, feed(norm(x)), layout)

    def build(self):
        g, c, layout = self.g, self.c, self.c["layout"]
        g.roots = {}
        x = self.embed()
        g.recorded = {}
        for index in range(c["blocks"]):
            self.current = index
            if c["root"] == "block":
                g.root(x, self.shape(layout, self.d))
            x = self.outlined("block", self.block, x, layout)
            if c["weights"] == "shared":
                g.replay()
            if c["hidden_states"]:
                g.output(x, f"{self.prefix}hidden_{index}", layout)
        g.recorded, g.replayed = {}, {}
        g.roots = self.input_roots
        if c["order"] not in ("post",):
            x = self.norm(x, layout)
        self.head(x, layout)
        for exposed in self.exposed:
            g.output(*exposed)

    def embed(self):
        """The first value of the stream, in its layout."""
        g, c, d, kind, layout = self.g, self.c, self.d, self.c["embedding"], self.c["layout"]
        stored = "BND"
        if kind in ("ids", "ids_types"):
            ids = self.input("ids", TensorProto.INT64, "BN", "ids")
            g.root(ids, ("B", "N"))
            x = g.op("Gather", g.floats(VOCABULARY, d), ids, axis=0)
            if kind == "ids_types":
                types = self.input("types", TensorProto.INT64, "BN", "types")
                x = g.op("Add", x, g.op("Gather", g.floats(2, d), types, axis=0))
        elif kind == "patches":
            image = self.input("image", g.type, ("B", 3, 4, "width"), "image")
            y = g.op("Conv", image, g.floats(d, 3, 4, 4, scale=0.15), kernel_shape=[4, 4], strides=[4, 4])
            y = g.op("Reshape", y, g.ints(0, d, -1))
            y = g.op("Transpose", y, perm=[0, 2, 1])
            batch = g.op("Gather", g.op("Shape", image), g.ints(0), axis=0)
            first = g.op("Expand", g.floats(1, 1, d), g.op("Concat", batch, g.ints(1, d), axis=0))
            x = g.op("Concat", first, y, axis=1)
            g.root(x, ("B", "N", d))
        elif kind == "strided":
            wave = self.input("wave", g.type, ("B", 1, "samples"), "wave")
            x = g.op("Conv", wave, g.floats(d, 1, 4, scale=0.5), kernel_shape=[4], strides=[2])
            stored = "BDN"
            g.root(x, ("B", d, "N"))
        else:
            stored = "BND" if layout == "FD" else layout
            x = self.input("x", g.type, [d if axis == "D" else axis for axis in stored], "stream")
            g.root(x, self.shape(stored, d))
            if kind == "projected":
                x = self.linear(x, stored, d, d)
        self.input_roots = g.roots
        x = self.absolute(self.layout(x, stored, "BND", d)) if c["absolute"] != "none" else self.layout(x, stored, layout, d)
        return self.layout(x, "BND", layout, d) if c["absolute"] != "none" else x

    def absolute(self, x):
        """Adds what the position of every token says, to [B, N, channels]."""
        g, d, kind = self.g, self.d, self.c["absolute"]
        if kind == "sliced":
            return g.op("Add", x, g.slice(g.floats(1, LONGEST, d), 0, g.size("N"), 1))
        if kind == "given":
            return g.op("Add", x, g.op("Gather", g.floats(LONGEST, d), self.positions(), axis=0))
        if kind == "computed":
            p = g.unsqueeze(g.op("Cast", self.attention.indices(), to=TensorProto.FLOAT), 1)
            angles = g.op("Mul", p, g.const(1.0 / 30.0 ** (np.arange(d // 2) / d * 2), np.float32))
            table = g.op("Concat", g.op("Sin", angles), g.op("Cos", angles), axis=-1)
            return g.op("Add", x, g.cast(table))
        return g.op("Add", x, g.op("Gather", g.floats(LONGEST, d), self.attention.indices(), axis=0))

    def positions(self):
        return self.input("positions", TensorProto.INT64, "BN", "positions")

    def mask(self):
        """The graph input that says which tokens may be seen."""
        kind = self.c["mask_shape"]
        if kind in ("lengths", "segments"):
            return self.input(kind, TensorProto.INT64, "B" if kind == "lengths" else "BN", kind)
        if kind == "bias":
            return self.input("bias", self.g.type, "BN", "bias")
        if kind == "ids":
            return self.input("ids", TensorProto.INT64, "BN", "ids")
        shape = {"BN": "BN", "1N": (1, "N"), "N": "N"}[kind]
        return self.input("mask", MASK_TYPES[self.c["mask_type"]], shape, "mask")

    def head(self, x, layout):
        g, d, kind, prefix = self.g, self.d, self.c["head"], self.prefix
        if kind == "stream":
            g.output(x, f"{prefix}last", layout)
            return
        x = self.layout(x, layout, "BND", d)
        if kind in ("cls", "tokens_and_cls"):
            first = g.op("Gather", x, g.int(0), axis=1)
            pooled = g.op("Tanh", g.op("Gemm", first, g.floats(d, d, scale=d**-0.5), g.floats(d, scale=0.1)))
            g.output(pooled, f"{prefix}pooled", "BD")
        elif kind == "mean":
            g.output(self.mean(x), f"{prefix}mean", "BD")
        elif kind == "max":
            g.output(g.reduce("Max", x, 1, keepdims=0), f"{prefix}max", "BD")
        if kind in ("logits", "tokens_and_cls"):
            g.output(g.op("MatMul", x, g.floats(d, 5, scale=d**-0.5)), f"{prefix}logits", "BND")
        elif kind == "two":
            both = g.op("MatMul", x, g.floats(d, 2, scale=d**-0.5))
            for name, part in zip(("start", "end"), g.split(both, [1, 1], 2)):
                g.output(g.squeeze(part, 2), f"{prefix}{name}", "BN")

    def mean(self, x):
        """The mean over the tokens, over the valid ones where there is a plain mask."""
        g = self.g
        if self.c["mask"] == "none" or self.c["mask_shape"] != "BN":
            return g.reduce("Mean", x, 1, keepdims=0)
        mask = g.unsqueeze(g.cast(self.mask()), 2)
        total = g.reduce("Sum", g.op("Mul", x, mask), 1, keepdims=0)
        return g.op("Div", total, g.number(g.reduce("Sum", mask, 1, keepdims=0), "Add", 1e-3))
