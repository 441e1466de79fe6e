"""The attention of random encoders: projections, positions, masks and the two products."""

import numpy as np
from onnx import TensorProto

LONGEST = 512  # of tables of positions


class Attention:
    """The attention of one encoder. Inside, queries, keys and values are [B, heads, N, size]."""

    def __init__(self, graph, choices, tools):
        self.g, self.c, self.tools = graph, choices, tools
        self.d, self.h = choices["channels"], choices["heads"]
        self.s = self.d // self.h
        self.key_heads = {"one": 1, "half": max(1, self.h // 2)}.get(choices["key_heads"], self.h)
        # One head of keys meets all queries by broadcasting; else batch and heads may be one axis in the products.
        self.broadcast = choices["key_heads"] == "one" and self.h > 1
        self.einsum = choices["product"] == "einsum" and graph.opset >= 12 and not self.broadcast
        self.merged = choices["split_heads"] in ("merged", "sequence_merged") and not self.broadcast and not self.einsum
        # They stay one axis where nothing is added to the scores.
        self.flat = self.merged and choices["mask"] == "none" and choices["relative"] == "none" and not tools.mutation
        self.shared = {}

    def once(self, name, make):
        """What is built once for all blocks, or anew in each."""
        if self.c["built"] == "each":
            return make()
        if name not in self.shared:
            roots, self.g.roots = self.g.roots, self.tools.input_roots
            self.shared[name] = make()
            self.g.roots = roots
        return self.shared[name]

    # From the stream to heads and back

    def project(self, x, layout):
        """Queries, keys and values as [.., heads, size] on the feature axis of the layout, and their numbers of heads."""
        g, c, d, kv = self.g, self.c, self.d, self.key_heads
        linear = self.tools.linear
        packed = c["project"]
        if packed != "three" and (kv == self.h or packed in ("split", "slice")):
            y = linear(x, layout, d, (self.h + 2 * kv) * self.s)
            axis = layout.index("D")
            sizes = [self.h * self.s, kv * self.s, kv * self.s]
            if packed == "split":
                parts = g.split(y, sizes, axis)
            elif packed == "slice":
                ends = np.cumsum(sizes)
                parts = [g.slice(y, int(end - size), int(end), axis) for size, end in zip(sizes, ends)]
            else:
                shape = self.tools.shape(layout, 3 * d)
                inner = (3, d) if packed == "gather" else (self.h, 3, self.s)
                y = g.reshape(y, shape, shape[:axis] + inner + shape[axis + 1 :])
                at = axis if packed == "gather" else axis + 1
                parts = [g.op("Gather", y, g.int(i), axis=at) for i in range(3)]
                if packed == "heads_first":
                    split = shape[:axis] + (self.h, self.s) + shape[axis + 1 :]
                    parts = [g.reshape(part, split, self.tools.shape(layout, d)) for part in parts]
        else:
            parts = [linear(x, layout, d, heads * self.s) for heads in (self.h, kv, kv)]
        return list(zip(parts, (self.h, kv, kv)))

    def to_heads(self, x, layout, heads):
        g = self.g
        size = {"B": "B", "N": "N", "F": ("B", "N"), "D": heads * self.s}
        shape = tuple(size[axis] for axis in layout)
        if layout == "FD":
            return g.op("Transpose", g.reshape(x, shape, ("B", "N", heads, self.s)), perm=[0, 2, 1, 3])
        if layout == "NBD" and self.c["split_heads"] == "sequence_merged":
            y = g.reshape(x, shape, ("N", ("B", heads), self.s))
            y = g.op("Transpose", y, perm=[1, 0, 2])
            return g.reshape(y, (("B", heads), "N", self.s), ("B", heads, "N", self.s))
        axis = layout.index("D")
        y = g.reshape(x, shape, shape[:axis] + (heads, self.s) + shape[axis + 1 :])
        perm = {"BND": [0, 2, 1, 3], "NBD": [1, 2, 0, 3], "BDN": [0, 1, 3, 2]}[layout]
        return g.op("Transpose", y, perm=perm)

    def repeat(self, x, heads):
        """As many heads as the queries have."""
        g, times = self.g, self.h // heads
        if times == 1 or self.broadcast:
            return x
        y = g.unsqueeze(x, 2)
        y = g.expand(y, ("B", heads, times, "N", self.s))
        return g.reshape(y, ("B", heads, times, "N", self.s), ("B", self.h, "N", self.s))

    def from_heads(self, x, layout):
        g, d = self.g, self.d
        inner = {"BND": ("B", "N"), "NBD": ("N", "B"), "BDN": ("B", "D", "N"), "FD": ("B", "N")}[layout]
        if layout == "BDN":
            y = g.op("Transpose", x, perm=[0, 1, 3, 2])
            return g.reshape(y, ("B", self.h, self.s, "N"), ("B", d, "N"))
        y = g.op("Transpose", x, perm=[2, 0, 1, 3] if layout == "NBD" else [0, 2, 1, 3])
        to = (("B", "N"), d) if layout == "FD" else (*inner, d)
        return g.reshape(y, (*inner, self.h, self.s), to)

    # Positions

    def indices(self):
        """0 .. N as [N], int64."""
        g, kind = self.g, self.c["indices"]
        if kind == "table":
            return g.slice(g.const(np.arange(LONGEST), np.int64), 0, g.size("N"), 0)
        if kind == "nonzero":
            ones = g.op("Expand", g.ints(1), g.size("N"))
            return g.squeeze(g.op("NonZero", ones), 0)
        if kind == "cumsum":
            ones = g.op("Expand", g.ints(1), g.size("N"))
            return g.op("Sub", g.op("CumSum", ones, g.int(0)), g.int(1))
        return g.op("Range", g.int(0), g.squeeze(g.size("N"), 0), g.int(1))

    def difference(self):
        """Key index minus query index, [N, N]."""
        g, p = self.g, self.indices()
        return g.op("Sub", g.unsqueeze(p, 0), g.unsqueeze(p, 1))

    def rotary(self):
        """Cosines and sines of half the head size, [1 or B, 1, N, size / 2]."""
        g, half, source = self.g, self.rotated() // 2, self.c["rotary_from"]
        frequencies = 1.0 / 50.0 ** (np.arange(half) / half)
        if source in ("table", "gathered"):
            angles = np.arange(LONGEST)[:, None] * frequencies
            tables = [g.const(f(angles)) for f in (np.cos, np.sin)]
            if source == "table":
                taken = [g.slice(t, 0, g.size("N"), 0) for t in tables]
            else:
                p = self.indices()
                taken = [g.op("Gather", t, p, axis=0) for t in tables]
            return [g.unsqueeze(t, 0, 1) for t in taken]
        if source == "given":
            p = g.op("Cast", self.tools.positions(), to=TensorProto.FLOAT)
            angles = g.op("Mul", g.unsqueeze(p, 1, 3), g.const(frequencies, np.float32))
        else:
            p = g.op("Cast", self.indices(), to=TensorProto.FLOAT)
            if self.c["rotary"] == "einsum_angles" and g.opset >= 12:
                angles = g.op("Einsum", p, g.const(frequencies, np.float32), equation="i,j->ij")
            else:
                angles = g.op("Mul", g.unsqueeze(p, 1), g.const(frequencies, np.float32))
            angles = g.unsqueeze(angles, 0, 1)
        return [g.cast(g.op(f, angles)) for f in ("Cos", "Sin")]

    def rotated(self):
        """How many of the channels of a head are turned."""
        return self.s // 2 if self.c["rotary"] == "partial" and self.s % 4 == 0 else self.s

    def turn(self, x, cos, sin, heads):
        g, c, size = self.g, self.c, self.rotated()
        whole = x
        if size < self.s:
            x = g.slice(whole, 0, size, 3)
        if c["rotary"] == "interleaved":
            pairs = g.reshape(x, ("B", heads, "N", size), ("B", heads, "N", size // 2, 2))
            a, b = (g.op("Gather", pairs, g.int(i), axis=4) for i in range(2))
        else:
            a, b = g.split(x, [size // 2] * 2, 3)
        turned = [g.op("Sub", g.op("Mul", a, cos), g.op("Mul", b, sin)), g.op("Add", g.op("Mul", b, cos), g.op("Mul", a, sin))]
        if c["rotary"] == "interleaved":
            y = g.op("Concat", *(g.unsqueeze(t, 4) for t in turned), axis=-1)
            y = g.reshape(y, ("B", heads, "N", size // 2, 2), ("B", heads, "N", size))
        else:
            y = g.op("Concat", *turned, axis=-1)
        if size < self.s:
            y = g.op("Concat", y, g.slice(whole, size, self.s, 3), axis=3)
        return y

    def relative(self, q):
        """What the relative position adds to the scores [B, heads, N, N]; None for nothing."""
        g, h, kind = self.g, self.h, self.c["relative"]
        if kind in ("shaw", "gather_elements"):
            return self.relative_of(q)
        if kind == "none":
            return None
        return self.once("relative", getattr(self, f"relative_{kind}"))

    def relative_alibi(self):
        g = self.g
        far = g.cast(g.op("Abs", self.difference()))
        return g.op("Mul", far, g.const(-(2.0 ** -np.arange(1, self.h + 1)).reshape(1, self.h, 1, 1)))

    def relative_alibi_key(self):
        """The older form, equal up to what a softmax does not see: a slope times the key's index."""
        g = self.g
        keys = g.unsqueeze(g.cast(self.indices()), 0, 1, 2)
        return g.op("Mul", keys, g.const((0.1 / np.arange(1, self.h + 1)).reshape(1, self.h, 1, 1)))

    def relative_buckets(self):
        """As T5: half of the buckets exact, the others logarithmic, another half for keys behind."""
        g, half, exact = self.g, 8, 4
        difference = self.difference()
        behind = g.op("Mul", g.op("Cast", g.op("Greater", difference, g.int(0)), to=TensorProto.INT64), g.int(half))
        far = g.op("Abs", difference)
        number = g.op("Cast", far, to=TensorProto.FLOAT)
        number = g.op("Max", number, g.const(1.0, np.float32))
        number = g.op("Log", g.op("Div", number, g.const(exact, np.float32)))
        number = g.op("Mul", number, g.const((half - exact) / np.log(32 / exact), np.float32))
        large = g.op("Add", g.op("Cast", number, to=TensorProto.INT64), g.int(exact))
        large = g.op("Where", g.op("Less", large, g.int(half)), large, g.int(half - 1))
        bucket = g.op("Add", behind, g.op("Where", g.op("Less", far, g.int(exact)), far, large))
        values = g.op("Gather", g.floats(2 * half, self.h), bucket, axis=0)
        return g.unsqueeze(g.op("Transpose", values, perm=[2, 0, 1]), 0)

    def relative_table(self):
        """A row for every difference, taken by index."""
        g = self.g
        index = g.op("Add", self.difference(), g.int(LONGEST))
        values = g.op("Gather", g.floats(2 * LONGEST, self.h), index, axis=0)
        return g.unsqueeze(g.op("Transpose", values, perm=[2, 0, 1]), 0)

    def relative_table_index(self):
        """As vision models: a constant table of indices, cut to the length, flattened, looked up and unflattened."""
        g = self.g
        p = np.arange(LONGEST)
        index = g.const(p[None] - p[:, None] + LONGEST, np.int64)
        index = g.slice(g.slice(index, 0, g.size("N"), 0), 0, g.size("N"), 1)
        flat = g.op("Reshape", index, g.ints(-1))
        values = g.op("Gather", g.floats(2 * LONGEST, self.h), flat, axis=0)
        values = g.op("Reshape", values, g.shape(("N", "N", self.h)))
        return g.unsqueeze(g.op("Transpose", values, perm=[2, 0, 1]), 0)

    def relative_learned(self):
        """A constant bias for every pair of positions."""
        g = self.g
        return g.slice(g.slice(g.floats(1, self.h, LONGEST, LONGEST), 0, g.size("N"), 2), 0, g.size("N"), 3)

    def clipped(self, limit):
        g = self.g
        difference = self.difference()
        difference = g.op("Where", g.op("Less", difference, g.int(-limit)), g.int(-limit), difference)
        difference = g.op("Where", g.op("Greater", difference, g.int(limit)), g.int(limit), difference)
        return g.op("Add", difference, g.int(limit))

    def relative_of(self, q):
        g, limit = self.g, 6
        index = self.once("clipped", lambda: self.clipped(limit))
        if self.c["relative"] == "shaw" and g.opset >= 12:
            rows = g.op("Gather", g.floats(2 * limit + 1, self.s, scale=0.3), index, axis=0)
            return g.op("Einsum", q, rows, equation="bhqd,qkd->bhqk")
        # As DeBERTa: scores against every relative position, then taken by index.
        table = g.floats(1, self.h, self.s, 2 * limit + 1, scale=0.3)
        scores = g.op("MatMul", q, table)
        index = g.op("Expand", g.unsqueeze(index, 0, 1), g.shape(("B", self.h, "N", "N")))
        return g.op("GatherElements", scores, index, axis=3)

    # Masks

    def lowest(self):
        value = self.c["mask_value"]
        if value == "lowest":
            return float(np.finfo(self.g.numpy).min)
        if value == "-inf":
            return -np.inf
        return max(value, -6e4) if self.g.numpy == np.float16 else value

    def valid(self):
        """True where a key may be seen, [B or 1, 1, 1 or N, N], and the axes left out."""
        g, c = self.g, self.c
        kind = c["mask_shape"]
        if kind == "bias":
            return None
        if kind == "lengths":
            lengths = g.unsqueeze(self.tools.mask(), 1)
            valid = g.op("Less", g.unsqueeze(self.indices(), 0), lengths)
            return g.unsqueeze(valid, 1, 2)
        if kind == "segments":
            segments = self.tools.mask()
            return g.unsqueeze(g.op("Equal", g.unsqueeze(segments, 1), g.unsqueeze(segments, 2)), 1)
        if kind == "ids":
            valid = g.op("Not", g.op("Equal", self.tools.mask(), g.int(0)))
        else:
            valid = self.tools.mask()
            if c["mask_type"] != "bool":
                valid = g.op("Cast", valid, to=TensorProto.BOOL)
        return g.unsqueeze(valid, *((0, 1, 2) if kind == "N" else (1, 2)))

    def mask(self):
        """How it is applied ('add', 'fill' or 'multiply') and with what."""
        g, c, low = self.g, self.c, self.lowest()
        if c["mask_shape"] == "bias":
            return "add", g.unsqueeze(self.tools.mask(), 1, 2)
        valid, form = self.valid(), c["mask_form"]
        if form == "query_key" and c["mask_shape"] != "segments":
            valid = g.op("And", valid, g.op("Transpose", valid, perm=[0, 1, 3, 2]))
        if form == "and":
            valid = g.op("And", valid, g.op("Expand", g.const(True, np.bool_), g.shape((1, 1, "N", "N"))))
        how, value = self.mask_value(valid, low)
        spread = c["mask_spread"]
        if spread in ("query", "heads"):
            heads = self.h if spread == "heads" else 1
            value = g.op("Expand", value, g.shape(("B", heads, "N", "N")))
        elif spread == "cut" and g.opset >= 13:
            value = g.slice(value, 0, g.size("N"), 3)
        elif spread == "if":
            many = g.op("Greater", g.squeeze(g.size("N"), 0), g.int(7))
            value = g.either(many, value, TensorProto.BOOL if how.startswith("fill") else g.type)
        return how, value

    def mask_value(self, valid, low):
        g, form = self.g, self.c["mask_form"]
        if form in ("fill", "and", "query_key"):
            return "fill", valid
        if form == "fill_not":
            return "fill_not", g.op("Not", valid)
        if form == "weights":
            return "multiply", g.cast(valid)
        if form == "log":
            return "add", g.op("Max", g.op("Log", g.cast(valid)), g.const(max(low, -1e4)))
        if form == "where":
            return "add", g.op("Where", valid, g.const(0.0), g.const(low))
        if np.isinf(low):  # 0 * inf is not a number
            low = -1e4
        return "add", g.op("Mul", g.op("Sub", g.const(1.0), g.cast(valid)), g.const(low))

    def apply(self, scores, mask):
        g = self.g
        how, value = mask
        if how == "add":
            return g.op("Add", scores, value)
        if how == "fill":
            return g.op("Where", value, scores, g.const(self.lowest()))
        if how == "fill_not":
            return g.op("Where", value, g.const(self.lowest()), scores)
        return scores

    # The two products

    def __call__(self, x, layout):
        g, c, kv = self.g, self.c, self.key_heads
        q, k, v = (self.to_heads(y, layout, heads) for y, heads in self.project(x, layout))
        q, k = self.normalise(q), self.normalise(k)
        if c["rotary"] != "none" and self.s % 2 == 0:
            cos, sin = self.once("rotary", self.rotary)
            q, k = self.turn(q, cos, sin, self.h), self.turn(k, cos, sin, kv)
        k, v = self.repeat(k, kv), self.repeat(v, kv)
        if c["scale"] == "query":
            q = g.number(q, "Mul", self.s**-0.5)
        elif c["scale"] == "both":
            q, k = (g.number(y, "Mul", self.s**-0.25) for y in (q, k))
        scores = self.scores(q, k)
        bias = self.relative(q)
        if bias is not None:
            scores = g.op("Add", scores, bias)
        mask = self.once("mask", self.mask) if c["mask"] == "given" else ("none", None)
        scores = self.tools.mutated("scores", self.apply(scores, mask))
        weights = self.tools.mutated("weights", self.after(self.softmax(scores), mask))
        self.tools.expose("weights", weights, "BHNN")
        y = self.values(weights, v)
        y = self.from_heads(g.noise(y), layout)
        return self.tools.linear(y, layout, self.d, self.d)

    def normalise(self, x):
        g, kind = self.g, self.c["normalised"]
        if kind == "cosine":
            return g.op("Div", x, g.number(g.reduce("L2", x, -1), "Add", 1e-3))
        if kind == "queries_keys":
            mean = g.reduce("Mean", g.op("Mul", x, x), -1)
            return g.op("Div", x, g.op("Sqrt", g.number(mean, "Add", 1e-3)))
        return x

    def merge(self, x, features):
        return self.g.reshape(x, ("B", self.h, "N", features), (("B", self.h), "N", features))

    def apart(self, x, features):
        return self.g.reshape(x, (("B", self.h), "N", features), ("B", self.h, "N", features))

    def scores(self, q, k):
        g, c = self.g, self.c
        if self.einsum:
            y = g.op("Einsum", q, k, equation="bhid,bhjd->bhij")
        elif self.merged:
            y = g.op("MatMul", self.merge(q, self.s), g.op("Transpose", self.merge(k, self.s), perm=[0, 2, 1]))
            y = y if self.flat else self.apart(y, "N")
        elif c["product"] == "transposed_scores":
            y = g.op("MatMul", k, g.op("Transpose", q, perm=[0, 1, 3, 2]))
            y = g.op("Transpose", y, perm=[0, 1, 3, 2])
        else:
            y = g.op("MatMul", q, g.op("Transpose", k, perm=[0, 1, 3, 2]))
        if c["scale"] == "scores":
            y = g.number(y, "Mul", self.s**-0.5)
        elif c["scale"] == "divide":
            y = g.number(y, "Div", self.s**0.5)
        elif c["scale"] == "shape":
            size = g.slice(g.op("Shape", q), -1, 2**31, 0)
            y = g.op("Div", y, g.op("Sqrt", g.cast(size)))
        if c["softcap"] == "tanh":
            y = g.number(g.op("Tanh", g.number(y, "Div", 5.0)), "Mul", 5.0)
        return y

    def softmax(self, x):
        g, kind, rank = self.g, self.c["softmax"], 3 if self.flat else 4
        if kind == "decomposed":
            y = g.op("Exp", g.op("Sub", x, g.reduce("Max", x, -1)))
            return g.op("Div", y, g.reduce("Sum", y, -1))
        if kind == "f32":
            return g.cast(g.softmax(g.op("Cast", x, to=TensorProto.FLOAT), rank=rank))
        if kind == "log" and g.opset >= 13:
            return g.op("Exp", g.op("LogSoftmax", x, axis=-1))
        return g.softmax(x, rank=rank)

    def after(self, p, mask):
        g, kind = self.g, self.c["after"]
        if mask[0] == "multiply":
            p = g.op("Mul", p, mask[1])
            p = g.op("Div", p, g.number(g.reduce("Sum", p, -1), "Add", 1e-4))
        if kind == "dropout":
            return g.op("Dropout", p)
        if kind == "is_nan":
            return g.op("Where", g.op("IsNaN", p), g.const(0.0), p)
        if kind == "scaled":
            return g.number(p, "Mul", 0.5)
        if kind == "gate" and not self.flat:
            return g.op("Mul", p, g.const(1.0 / np.arange(1, self.h + 1).reshape(1, self.h, 1, 1)))
        return p

    def values(self, p, v):
        g = self.g
        if self.einsum:
            return g.op("Einsum", p, v, equation="bhij,bhjd->bhid")
        if self.merged:
            p = p if self.flat else self.merge(p, "N")
            return self.apart(g.op("MatMul", p, self.merge(v, self.s)), self.s)
        return g.op("MatMul", p, v)
