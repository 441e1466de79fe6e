"""The built operator library in ONNX Runtime, against NumPy.

    python host.py [LIBRARY [SEED [CASES]]]

LIBRARY defaults to the environment variable VCC_OPS_LIB. With VCC_CUDA_MOCK (see cuda_mock.py), or on a GPU with
VCC_PROVIDER=CUDAExecutionProvider, the CUDA operators run instead. With CASES so many random cases run, and nothing else. With
VCC_ONLY_OURS (see cuda_provider.py) ONNX Runtime's own operators compute nothing: bf16 data come and go without them.

Needs numpy, onnx and onnxruntime (1.17 or newer). Every operator runs alone, in f32, f16 and bf16, with one thread and with two, and is
compared with spec.py. Then: what must be refused, what shape inference promises, whether the state is really updated in place, and
the same library in many sessions at once.
"""

import ctypes
import os
import sys
import threading
import time

import numpy as np
import onnxruntime as ort
from onnx import TensorProto as TP
from onnx import helper

sys.dont_write_bytecode = True  # no cache beside the sources
from spec import current, spec_coarsen, spec_compress, spec_decompress, spec_partition, spec_select

LIBRARY = sys.argv[1] if len(sys.argv) > 1 else os.environ["VCC_OPS_LIB"]
PROVIDER = os.environ.get("VCC_PROVIDER", "CPUExecutionProvider")
# CUDA operators do not look at indices, which are on the device; emulated, they are slow.
MOCKED = "VCC_CUDA_MOCK" in os.environ
ON_CUDA = MOCKED or PROVIDER == "CUDAExecutionProvider"
VERSION = tuple(int(part) for part in ort.__version__.split(".")[:2])
KINDS = {np.dtype(np.float32): TP.FLOAT, np.dtype(np.float16): TP.FLOAT16, np.dtype(np.int64): TP.INT64, np.dtype(bool): TP.BOOL}
TOLERANCE = {np.dtype(np.float32): 1e-5, np.dtype(np.float16): 2e-3}
TOLERANCE_BF16 = 1.6e-2
# What a selection gives; its sums are memory of the CUDA kernels.
SELECTED = {"children": np.int64, "rest": np.int64, "sums": np.float32}
LADDERS = [[2, 1], [5, 1], [16, 1], [4, 2, 1], [12, 6, 2, 1], [16, 4, 1]]


# Running one operator.


def session(nodes, inputs, outputs, threads=1, initializers=(), **shapes):
    infos = [helper.make_tensor_value_info(name, KINDS[a.dtype], shapes.get(name, list(a.shape))) for name, a in inputs.items()]
    results = [helper.make_tensor_value_info(name, KINDS[np.dtype(kind)], None) for name, kind in outputs.items()]
    values = [helper.make_tensor(name, KINDS[a.dtype], a.shape, a.tobytes(), raw=True) for name, a in initializers]
    graph = helper.make_graph(nodes, "g", infos, results, values)
    return open_model(graph, threads)


def open_model(graph, threads):
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13), helper.make_opsetid("ai.vcc", 1)], ir_version=8)
    options = ort.SessionOptions()
    options.register_custom_ops_library(LIBRARY)
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    made = ort.InferenceSession(model.SerializeToString(), options, providers=[PROVIDER])
    assert PROVIDER in made.get_providers(), f"ONNX Runtime cannot make {PROVIDER}"
    made.disable_fallback()
    return made


def node(op, inputs, outputs, **attributes):
    own = f"{op}_of_{outputs[0]}"
    attributes = {"dim_prefix": own, "name": own, **attributes}
    return helper.make_node(op, inputs, outputs, domain="ai.vcc", **{k: a for k, a in attributes.items() if a is not None})


def run(name, inputs, outputs, **attributes):
    """Runs one operator with symbolic shapes; one thread and two must agree to the bit. In bf16 the data come and go as f32."""
    dims = {key: [f"{key}_{axis}" for axis in range(a.ndim)] for key, a in inputs.items()}
    attributes = {"name": f"the_{name}", **attributes}
    before, after, ins, outs = [], [], list(inputs), list(outputs)
    if attributes.get("dtype") == TP.BFLOAT16:
        wide = [key for key, a in inputs.items() if a.dtype == np.float32]
        ins = [f"{key}_narrow" if key in wide else key for key in inputs]
        before = [helper.make_node("Cast", [key], [f"{key}_narrow"], to=TP.BFLOAT16) for key in wide]
        wide = [key for key, kind in outputs.items() if np.dtype(kind) == np.float32 and key != "row_bias"]
        outs = [f"{key}_narrow" if key in wide else key for key in outputs]
        after = [helper.make_node("Cast", [f"{key}_narrow"], [key], to=TP.FLOAT) for key in wide]
    if "VCC_ONLY_OURS" in os.environ and attributes.get("dtype") == TP.BFLOAT16:
        return run_bf16(node(name, list(inputs), list(outputs), **attributes), inputs, outputs)
    nodes = [*before, node(name, ins, outs, **attributes), *after]
    make = lambda threads: session(nodes, inputs, outputs, threads, **dims)
    one, two = (make(threads).run(None, inputs) for threads in (1, 2))
    for a, b, output in zip(one, two, outputs):
        assert a.tobytes() == b.tobytes(), f"{name}: {output} depends on the thread count"
        assert a.dtype == np.dtype(outputs[output]), (name, output, a.dtype)
    return one


def run_bf16(made, inputs, outputs):
    """Runs one node with data in bf16, which NumPy does not have: they come and go as their bits."""
    narrow = lambda name, kind: np.dtype(kind) == np.float32 and name != "row_bias"
    kind_of = lambda name, kind: TP.BFLOAT16 if narrow(name, kind) else KINDS[np.dtype(kind)]
    info = lambda name, kind, dims: helper.make_tensor_value_info(name, kind_of(name, kind), dims)
    ports = [info(name, a.dtype, [f"{name}_{axis}" for axis in range(a.ndim)]) for name, a in inputs.items()]
    graph = helper.make_graph([made], "g", ports, [info(name, kind, None) for name, kind in outputs.items()])
    session = open_model(graph, 1)
    binding = session.io_binding()
    for name, a in inputs.items():
        bits = (a.view(np.uint32) >> 16).astype(np.uint16) if narrow(name, a.dtype) else a
        value = ort.OrtValue.ortvalue_from_numpy_with_onnx_type(bits, kind_of(name, a.dtype))
        binding.bind_ortvalue_input(name, value)
    for name in outputs:
        binding.bind_output(name, "cpu")
    session.run_with_iobinding(binding)
    results = []
    for value, (name, kind) in zip(binding.get_outputs(), outputs.items()):
        if narrow(name, kind):
            data = ctypes.string_at(value.data_ptr(), 2 * int(np.prod(value.shape())))
            bits = np.frombuffer(data, np.uint16).astype(np.uint32) << 16
            results.append(bits.view(np.float32).reshape(value.shape()))
        else:
            results.append(value.numpy())
    return results


def close(what, got, want, tolerance=None):
    got, want = got, np.asarray(want)
    assert got.shape == want.shape, f"{what}: shape {got.shape} instead of {want.shape}"
    if got.dtype in TOLERANCE:
        finite = np.abs(want[np.isfinite(want)])
        limit = (tolerance or TOLERANCE[got.dtype]) * max(1.0, finite.max(initial=0.0))
        with np.errstate(invalid="ignore"):
            bad = ~((got == want) | (np.isnan(got) & np.isnan(want)) | (np.abs(got.astype(np.float64) - want) <= limit))
        assert not bad.any(), f"{what}: {got[bad][:3]} instead of {want[bad][:3]}"
    else:
        assert (got == want).all(), f"{what}: {got} instead of {want}"


def mask(rng, kind, n):
    cut = int(rng.integers(0, n + 1))
    return {
        "none": np.zeros(n, bool),
        "all": np.ones(n, bool),
        "random": rng.random(n) < 0.5,
        "left": np.arange(n) >= cut,
        "right": np.arange(n) < cut,
    }[kind]


class Case:
    """Random sizes, masks and data."""

    def __init__(self, rng, kind, bf16=False):
        """`bf16`: the data are f32 numbers that bf16 has too."""
        self.rng, self.kind, self.bf16 = rng, np.dtype(kind), bf16
        self.ladder = LADDERS[rng.integers(len(LADDERS))]
        self.batch, self.d = int(rng.integers(1, 4)), int(rng.choice([1, 3, 8, 64, 65, 130]))
        self.n = int(rng.choice([1, 2, self.ladder[0] - 1 or 1, self.ladder[0], self.ladder[0] + 1, rng.integers(1, 90)]))
        self.capacity = int(rng.choice([0, 1, 3, 200]))
        pick = lambda names: np.stack([mask(rng, rng.choice(names), self.n) for _ in range(self.batch)])
        self.vip = pick(["none", "all", "random", "left", "right"])
        self.valid = pick(["all", "all", "none", "random", "left", "right"])
        parts, self.tree = spec_partition(self.vip, self.valid, self.ladder, self.capacity)
        self.token, self.count, self.slot, self.vote, self.roots = parts
        self.items, self.segments = len(self.tree.items), len(self.tree.items) - self.tree.slots

    def data(self, *shape):
        data = self.rng.standard_normal(shape).astype(self.kind)
        return (data.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32) if self.bf16 else data

    def state(self):
        """Any numbers: what the operators do with them is specified."""
        value, scale, offset = (self.data(self.batch, k, self.d) for k in (self.items, self.segments, self.segments))
        # NaN in padding must stay there.
        value[:, : self.tree.slots][self.count[:, : self.tree.slots] == 0] = np.nan
        return value, scale, offset

    def choose(self):
        """A random list that covers the context once, in any order; as long for every batch row."""
        tree, rng = self.tree, self.rng
        listed = [list(tree.level(0)) for _ in range(self.batch)]
        for level in range(len(self.ladder) - 1):
            count = int(rng.integers(0, 1 + sum(tree.items[i][2] == level for i in listed[0])))
            for row in listed:
                here = [i for i in row if tree.items[i][2] == level]
                for i in rng.permutation(here)[:count]:
                    row.remove(i)
                    row += tree.children(i)
                rng.shuffle(row)
        return np.array(listed, np.int64)


def check_operators(case):
    b, kind, ladder, tree = range(case.batch), case.kind, case.ladder, case.tree
    common = {"ladder": ladder}
    typed = {"ladder": ladder, "dtype": TP.BFLOAT16 if case.bf16 else KINDS[kind]}
    wide = lambda tensors: [tensor.astype(np.float64) for tensor in tensors]
    near = TOLERANCE_BF16 if case.bf16 else None

    names = ["item_token", "item_count", "token_slot", "vote", "roots"]
    kinds = [np.int64, np.int64, np.int64, bool, np.int64]
    got = run("VccPartition", {"vip": case.vip, "valid": case.valid}, dict(zip(names, kinds)), capacity=case.capacity, **common)
    for name, a, want in zip(names, got, (case.token, case.count, case.slot, case.vote, case.roots)):
        close(name, a, want)

    x = case.data(case.batch, case.n, case.d)
    x[~case.valid] = np.nan
    inputs = {"x": x, "item_token": case.token, "item_count": case.count, "token_slot": case.slot, "vote": case.vote}
    state_names = {"value": kind, "scale": kind, "offset": kind}
    got = run("VccCoarsen", inputs, state_names, **typed)
    want = [spec_coarsen(tree, x[i].astype(np.float64), case.token[i], case.count[i]) for i in b]
    for at, name in enumerate(state_names):
        close(f"coarsen {name}", got[at], np.stack([row[at] for row in want]), near)

    state = case.state()
    items = case.choose()
    weight = float(case.rng.choice([1.0, 0.5]))
    inputs = {**dict(zip(state_names, state)), "items": items, "item_token": case.token, "item_count": case.count, "vote": case.vote}
    outputs = {"rows": kind, "row_token": np.int64, "row_bias": np.float32}
    got = run("VccCompress", inputs, outputs, count_weight=weight if weight != 1.0 else None, **typed)
    rows = [wide(tensor[i] for tensor in state) for i in b]
    want = [spec_compress(tree, rows[i], items[i], case.token[i], case.count[i], weight) for i in b]
    for at, name in enumerate(outputs):
        close(f"compress {name}", got[at], np.stack([row[at] for row in want]), near if name == "rows" else None)

    r = tree.v + items.shape[1]
    y, update, gain = case.data(case.batch, r, case.d), case.data(case.batch, r, case.d), case.data(case.d)
    inputs = {**dict(zip(state_names, state)), "items": items, "item_count": case.count, "vote": case.vote}
    inputs.update(y=y, update=update, gain=gain)
    inputs["vote"] = case.vote
    got = run("VccDecompress", inputs, {"v2": kind, "s2": kind, "o2": kind}, **typed)
    want = [spec_decompress(tree, rows[i], items[i], case.count[i], *wide([y[i], update[i], gain])) for i in b]
    for at, name in enumerate(state_names):
        close(f"decompress {name}", got[at], np.stack([row[at] for row in want]), near)

    inputs = {**dict(zip(state_names, state)), "token_slot": case.slot, "vote": case.vote}
    (got,) = run("VccExpand", inputs, {"x": kind}, **typed)
    close("expand", got, np.stack([np.stack([current(tree, rows[i], s) for s in case.slot[i]]) for i in b]), near)

    return check_select(case)


def check_select(case):
    level = int(case.rng.integers(len(case.ladder) - 1))
    here = case.tree.level(level)
    c, heads = int(case.rng.integers(1, len(here) + 1)), int(case.rng.integers(1, 4))
    candidates = np.stack([case.rng.permutation(here)[:c] for _ in range(case.batch)]).astype(np.int64)
    scores = case.data(case.batch, heads, case.tree.v, c) * 3
    if case.rng.random() < 0.2:
        scores = np.round(scores)  # ties
    if case.rng.random() < 0.2:
        scores[case.rng.random(scores.shape) < 0.1] = case.rng.choice([np.nan, np.inf, -np.inf])
    budget = int(case.rng.choice([0, 1, 2, -1, -33, -100, 1000]))
    refine = min(c, budget if budget >= 0 else -(-c * -budget // 100))
    fan = case.ladder[level] // case.ladder[level + 1]
    inputs = {"scores": scores, "candidates": candidates, "item_count": case.count, "vote": case.vote}
    inputs["budget"] = np.array([budget], np.int64)
    got = run("VccSelect", inputs, SELECTED, ladder=case.ladder, level=level)
    for i in range(case.batch):
        with np.errstate(invalid="ignore"):
            children, rest, near = spec_select(case.tree, scores[i].astype(np.float64), candidates[i], case.count[i], case.vote[i], refine)
        if near:
            return 1
        assert got[0].shape == (case.batch, refine * fan) and got[1].shape == (case.batch, c - refine)
        close("children", got[0][i], np.array(children, np.int64))
        close("rest", got[1][i], np.array(rest, np.int64))
    return 0


# A whole block, large enough for several tasks per operator.


def pipeline(d, kind, ladder=(16, 1), blocks=1, budget=20):
    """A region of `blocks` blocks with y = 1.5 * rows."""
    kind = np.dtype(kind)
    typed = {"ladder": list(ladder), "dtype": KINDS[kind]}
    nodes = [
        node("VccPartition", ["vip", "valid"], ["token", "count", "slot", "vote", "roots"], ladder=list(ladder), capacity=8),
        node("VccCoarsen", ["x", "token", "count", "slot", "vote"], ["v0", "s0", "o0"], **typed),
    ]
    for i in range(blocks):
        state, new = [f"{s}{i}" for s in "vso"], [f"{s}{i + 1}" for s in "vso"]
        nodes += [
            node("VccSelect", ["scores", "roots", "count", "vote", "budget"], [f"ch{i}", f"re{i}", f"sums{i}"], ladder=list(ladder), level=0),
            helper.make_node("Concat", [f"ch{i}", f"re{i}"], [f"items{i}"], axis=1),
            node("VccCompress", [*state, f"items{i}", "token", "count", "vote"], [f"rows{i}", f"rt{i}", f"rb{i}"], **typed),
            helper.make_node("Mul", [f"rows{i}", "factor"], [f"y{i}"]),
            helper.make_node("Sub", [f"y{i}", f"rows{i}"], [f"u{i}"]),
            node("VccDecompress", [*state, f"items{i}", "count", "vote", f"y{i}", f"u{i}", "gain"], new, **typed),
        ]
    nodes.append(node("VccExpand", [f"{s}{blocks}" for s in "vso"] + ["slot", "vote"], ["out"], **typed))
    constants = [("factor", np.array(1.5, kind)), ("gain", np.ones(d, kind)), ("budget", np.array([budget], np.int64))]
    return nodes, constants


def check_threads(rng):
    for kind in (np.float32, np.float16):
        n, d = 2000, 24 if MOCKED else 256
        x = rng.standard_normal((2, n, d)).astype(kind)
        vip = np.zeros((2, n), bool)
        vip[:, :5] = True
        valid = np.arange(n)[None] < np.array([[n], [n - 700]])
        inputs = {"x": x, "vip": vip, "valid": valid, "scores": rng.standard_normal((2, 4, 8, 125)).astype(np.float32)}
        nodes, constants = pipeline(d, kind, blocks=3)
        results = []
        for threads in (1, 2, 3):
            s = session(nodes, inputs, {"out": kind, "rows2": kind}, threads, constants)
            results += [s.run(None, inputs) for _ in range(2)]
        for result in results:
            assert all(a.tobytes() == b.tobytes() for a, b in zip(result, results[0])), "the thread count shows"
        nodes, constants = pipeline(d, kind, blocks=3, budget=-100)
        (full,) = session(nodes, inputs, {"out": kind}, 2, constants).run(None, inputs)
        want = x
        for _ in range(3):
            want = want * np.array(1.5, kind)
        assert (full == want).all(), "full budget is not exact"


def check_sessions(rng):
    """Many sessions and many runs at once."""
    x = rng.standard_normal((1, 300, 32)).astype(np.float32)
    vip, valid = np.zeros((1, 300), bool), np.ones((1, 300), bool)
    inputs = {"x": x, "vip": vip, "valid": valid, "scores": rng.standard_normal((1, 2, 8, 19)).astype(np.float32)}
    nodes, constants = pipeline(32, np.float32, blocks=2, budget=5)
    sessions = [session(nodes, inputs, {"out": np.float32}, 2, constants) for _ in range(3)]
    want = sessions[0].run(None, inputs)[0].tobytes()
    wrong = []

    def work(s):
        for _ in range(40):
            if s.run(None, inputs)[0].tobytes() != want:
                wrong.append(s)

    workers = [threading.Thread(target=work, args=(s,)) for s in sessions * 2]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong, "runs at the same time disturb each other"
    for _ in range(20):
        session(nodes, inputs, {"out": np.float32}, 1, constants)


# What must be refused.


def refused(call, *words):
    try:
        call()
    except Exception as error:  # noqa: BLE001: the runtime has one exception class per code
        text = str(error)
        missing = [word for word in words if word not in text]
        assert not missing, f"{missing} not in: {text}"
    else:
        raise AssertionError(f"accepted, instead of refused with {words}")


def check_refusals():
    masks = {"vip": np.zeros((2, 9), bool), "valid": np.ones((2, 9), bool)}
    outputs = dict(zip(["item_token", "item_count", "token_slot", "vote", "roots"], [np.int64, np.int64, np.int64, bool, np.int64]))
    make = lambda **attributes: lambda: run("VccPartition", masks, outputs, **{"ladder": [4, 1], "capacity": 1, **attributes})
    make()()
    for ladder in ([4], [1], [1, 4], [4, 4, 1], [6, 4, 1], [4, 2], [0, 1], [-4, 1]):
        refused(make(ladder=ladder), "VccPartition node 'the_VccPartition'", "bad-ladder")
    refused(make(ladder=None), "VccPartition node 'the_VccPartition'", "ladder")
    refused(make(ladder=3.5), "VccPartition", "ladder")
    refused(make(capacity=-1), "VccPartition node 'the_VccPartition'", "bad-capacity")
    refused(make(capacity=None), "VccPartition node 'the_VccPartition'", "capacity")
    refused(make(dim_prefix=None), "VccPartition node 'the_VccPartition'", "dim_prefix")
    refused(make(ladder=[2**62, 1]), "VccPartition")
    refused(make(ladder=[2**42, 1]), "VccPartition")
    wrong = {"vip": np.zeros((2, 9), bool), "valid": np.ones((2, 8), bool)}
    refused(
        lambda: run("VccPartition", wrong, outputs, ladder=[4, 1], capacity=1),
        "VccPartition node 'the_VccPartition'", "input valid has shape [2, 8] instead of [2, 9]", "vip [2, 9], valid [2, 8]",
    )
    empty = {"vip": np.zeros((2, 0), bool), "valid": np.ones((2, 0), bool)}
    refused(lambda: run("VccPartition", empty, outputs, ladder=[4, 1], capacity=1), "no-tokens")

    case = Case(np.random.default_rng(5), np.float32)
    case.ladder, case.batch, case.n, case.d, case.capacity = [4, 2, 1], 2, 9, 3, 1
    case.vip, case.valid = masks["vip"], masks["valid"]
    parts, case.tree = spec_partition(case.vip, case.valid, case.ladder, 1)
    case.token, case.count, case.slot, case.vote, case.roots = parts
    case.items, case.segments = len(case.tree.items), len(case.tree.items) - case.tree.slots
    # Slots 0..9; level 0: 9, 10; level 1: 11..15.
    state = dict(zip(["value", "scale", "offset"], case.state()))
    typed = {"ladder": case.ladder, "dtype": TP.FLOAT}
    kind = np.float32

    coarsen = {"x": case.data(2, 9, 3), "item_token": case.token, "item_count": case.count, "token_slot": case.slot, "vote": case.vote}
    compress = {**state, "items": case.roots, "item_token": case.token, "item_count": case.count, "vote": case.vote}
    decompress = {**state, "items": case.roots, "item_count": case.count, "vote": case.vote}
    decompress.update(y=case.data(2, 3, 3), update=case.data(2, 3, 3), gain=case.data(3))
    expand = {**state, "token_slot": case.slot, "vote": case.vote}
    select = {"scores": case.data(2, 2, 1, 2), "candidates": case.roots, "item_count": case.count, "vote": case.vote}
    select["budget"] = np.array([1], np.int64)
    operators = {
        "VccCoarsen": (coarsen, {"value2": kind, "scale2": kind, "offset2": kind}, typed),
        "VccCompress": (compress, {"rows": kind, "row_token": np.int64, "row_bias": np.float32}, typed),
        "VccDecompress": (decompress, {"value2": kind, "scale2": kind, "offset2": kind}, typed),
        "VccExpand": (expand, {"x": kind}, typed),
        "VccSelect": (select, SELECTED, {"ladder": case.ladder, "level": 0}),
    }
    # Axes of which any size is right.
    free = [("VccCoarsen", "x", 2), ("VccCompress", "items", 1), ("VccExpand", "token_slot", 1), ("VccSelect", "scores", 1)]
    for name, (inputs, outputs, attributes) in operators.items():
        title = f"{name} node 'the_{name}'"
        change = lambda **tensors: lambda: run(name, {**inputs, **tensors}, outputs, **attributes)
        change()()
        refused(lambda: run(name, inputs, outputs, **{**attributes, "ladder": [4, 3, 1]}), title, "bad-ladder")
        refused(lambda: run(name, inputs, outputs, **attributes, dim_prefix=None), title, "dim_prefix")
        if "dtype" in attributes:
            refused(lambda: run(name, inputs, outputs, **{**attributes, "dtype": TP.FLOAT16}), title, "dtype")
            refused(lambda: run(name, inputs, outputs, **{**attributes, "dtype": None}), title, "dtype")
        for key, tensor in inputs.items():
            # One more or less along each axis must not fit, the batch of a single input included.
            for axis in range(tensor.ndim):
                if (name, key, axis) in free:
                    continue
                shape = list(tensor.shape)
                shape[axis] += 1
                bigger = np.zeros(shape, tensor.dtype)
                refused(change(**{key: bigger}), title, "(inputs: ", f"{key} {shape}")
            if tensor.dtype == np.int64 and key not in ("item_count", "budget") and not ON_CUDA:
                for bad in (-1, 10**6, -(2**63), 2**63 - 1):
                    broken = tensor.copy()
                    broken[-1, -1] = bad
                    if name == "VccCoarsen" and key == "token_slot":
                        continue  # only its shape is used
                    if name == "VccCompress" and key == "item_token":
                        continue  # handed through
                    refused(change(**{key: broken}), title, key if key != "budget" else "", str(bad))
    if not ON_CUDA:
        twice = np.array([[9, 9], [9, 10]], np.int64)
        refused(lambda: run("VccDecompress", {**decompress, "items": twice}, operators["VccDecompress"][1], **typed), "bad-cover")
        level = {**select, "candidates": np.array([[9, 11], [9, 10]], np.int64)}
        refused(lambda: run("VccSelect", level, operators["VccSelect"][1], ladder=case.ladder, level=0), "candidates", "11")
    for bad in (-1, 2, 2**40):
        refused(lambda: run("VccSelect", select, operators["VccSelect"][1], ladder=case.ladder, level=bad), "bad-level")


# Shape inference.


def check_shapes():
    x, mask = np.zeros((2, 40, 8), np.float32), np.ones((2, 40), bool)
    inputs = {"x": x, "vip": mask, "valid": mask, "scores": np.zeros((2, 1, 8, 2), np.float32)}
    nodes, constants = pipeline(8, np.float32)
    names = ["token", "count", "slot", "vote", "roots", "v0", "s0", "o0", "ch0", "re0", "rows0", "rt0", "rb0", "v1", "s1", "o1", "out"]
    kinds = [np.int64] * 3 + [bool, np.int64] + [np.float32] * 3 + [np.int64] * 2 + [np.float32, np.int64] + [np.float32] * 5
    outputs = dict(zip(names, kinds))
    s = session(nodes, inputs, outputs, 1, constants)
    shapes = {o.name: o.shape for o in s.get_outputs()}
    # v = 8, two segments of 16: 8 + 32 slots, 42 items. Known from the static shapes of the inputs.
    known = {"token": [2, 42], "count": [2, 42], "slot": [2, 40], "vote": [2, 8], "roots": [2, 2], "out": [2, 40, 8]}
    known.update(v0=[2, 42, 8], s0=[2, 2, 8], o0=[2, 2, 8], v1=[2, 42, 8], s1=[2, 2, 8], o1=[2, 2, 8])
    for name, shape in known.items():
        assert shapes[name] == shape, (name, shapes[name], shape)
    assert shapes["rows0"][::2] == [2, 8] and shapes["rows0"][1] == shapes["rt0"][1] == shapes["rb0"][1], shapes

    dims = {key: ["B", "n", 8] if key == "x" else ["B", "n"] for key in ("x", "vip", "valid")}
    s = session(nodes, inputs, outputs, 1, constants, scores=["B", "H", "v", "C"], **dims)
    shapes = {o.name: o.shape for o in s.get_outputs()}
    assert shapes["out"] == ["B", "n", 8] and shapes["slot"] == ["B", "n"], shapes
    assert shapes["v1"] == shapes["v0"] and shapes["s1"] == shapes["s0"] == shapes["o1"], shapes
    for name, shape in shapes.items():
        assert None not in shape and "" not in shape and -1 not in shape, (name, shape)
    # Names are the node's own, and of one node only.
    assert shapes["token"][1].startswith("VccPartition_of_token_") and shapes["ch0"][1].startswith("VccSelect_of_ch0_"), shapes
    assert len({str(shapes[name][1]) for name in ("token", "slot", "vote", "roots", "s0", "ch0", "re0", "rows0")}) == 8, shapes
    for got, shape in zip(s.run(None, inputs), shapes.values()):
        assert got.ndim == len(shape)


# In place.


def check_in_place(rng):
    """Time per operator in a chain, against copying the state once."""
    ladder, nb, d, v = [16, 1], 60 if MOCKED else 6000, 128, 1
    tree_items = v + nb * 17
    state = [rng.standard_normal((1, k, d)).astype(np.float32) for k in (tree_items, nb, nb)]
    items = np.arange(v + nb * 16, tree_items)[None]
    few = {"items": items, "count": np.where(np.arange(tree_items) < v + nb * 16, 1, 16)[None], "vote": np.ones((1, 1), bool)}
    r = v + nb
    rows = {"y": np.zeros((1, r, d), np.float32), "u": np.ones((1, r, d), np.float32), "gain": np.ones(d, np.float32)}
    inputs = {"v0": state[0], "s0": state[1], "o0": state[2], **few, **rows}
    times = {}
    for length in (1, 9):
        nodes = [
            node(
                "VccDecompress",
                [f"{s}{i}" for s in "vso"] + ["items", "count", "vote", "y", "u", "gain"],
                [f"{s}{i + 1}" for s in "vso"],
                ladder=ladder, dtype=TP.FLOAT,
            )
            for i in range(length)
        ]
        nodes.append(helper.make_node("Slice", [f"v{length}", "from", "to", "axis"], ["some"]))
        slices = [(name, np.array([value], np.int64)) for name, value in (("from", tree_items - 1), ("to", tree_items), ("axis", 1))]
        s = session(nodes, inputs, {"some": np.float32, f"o{length}": np.float32}, 1, slices)
        before = [tensor.copy() for tensor in state]
        some, offset = s.run(None, inputs)
        assert np.allclose(some[0, 0], state[0][0, -1] + length, atol=1e-4) and np.allclose(offset, state[2] + length, atol=1e-4)
        assert all((a == b).all() for a, b in zip(before, state)), "the caller's arrays were changed"
        best = min(timed(lambda: s.run(None, inputs)) for _ in range(7))
        times[length] = best
    copy = min(timed(lambda: [tensor.copy() for tensor in state]) for _ in range(7))
    each = (times[9] - times[1]) / 8
    print(f"  VccDecompress: {each * 1e3:.2f} ms; copying the state takes {copy * 1e3:.2f} ms", flush=True)
    if VERSION >= (1, 18) and not ON_CUDA:
        assert each < 0.6 * copy, "the state is copied"

    # What may not be updated in place: graph inputs, initializers, values with other readers, values that are outputs.
    small = Case(np.random.default_rng(11), np.float32)
    tree = small.tree
    state = [np.nan_to_num(tensor) for tensor in small.state()]
    items = small.roots
    r = tree.v + items.shape[1]
    y, update, gain = small.data(small.batch, r, small.d), small.data(small.batch, r, small.d), small.data(small.d)
    want = [state]
    for _ in range(2):
        rows = [[tensor[i].astype(np.float64) for tensor in want[-1]] for i in range(small.batch)]
        new = [spec_decompress(tree, rows[i], items[i], small.count[i], y[i], update[i], gain) for i in range(small.batch)]
        want.append([np.stack([row[at] for row in new]) for at in range(3)])
    typed = {"ladder": small.ladder, "dtype": TP.FLOAT}
    rest = ["items", "count", "vote", "y", "u", "gain"]
    nodes = [
        node("VccDecompress", ["v0", "s0", "o0", *rest], ["v1", "s1", "o1"], **typed),
        node("VccDecompress", ["v1", "s1", "o1", *rest], ["v2", "s2", "o2"], **typed),
        node("VccDecompress", ["v1", "s1", "o1", *rest], ["v3", "s3", "o3"], **typed),
        helper.make_node("Add", ["v1", "v1"], ["twice"]),
    ]
    others = {"items": items, "count": small.count, "vote": small.vote, "y": y, "u": update, "gain": gain}
    outputs = {name: np.float32 for name in ("v1", "s2", "v2", "v3", "o3", "twice", "o2")}
    named = dict(zip(["v0", "s0", "o0"], state))
    as_inputs = session(nodes, {**named, **others}, outputs)
    as_constants = session(nodes, others, outputs, 1, list(named.items()))
    for s, feeds in ((as_inputs, {**named, **others}), (as_constants, others)):
        for _ in range(3):
            v1, s2, v2, v3, o3, twice, o2 = s.run(None, feeds)
            close("v1", v1, want[1][0])
            close("2 v1", twice, 2 * want[1][0])
            close("v2", v2, want[2][0])
            close("v3", v3, want[2][0])
            close("s2", s2, want[2][1])
            close("o3", o3, want[2][2])
            close("o2", o2, want[2][2])


def timed(call):
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def main():
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    rng = np.random.default_rng(seed)
    print(f"onnxruntime {ort.__version__}, seed {seed}{', CUDA operators' if ON_CUDA else ''}", flush=True)
    cases, near = int(sys.argv[3]) if len(sys.argv) > 3 else 60, 0
    for i in range(cases):
        seed = int(rng.integers(2**31))
        try:
            kind, bf16 = ((np.float32, False), (np.float16, False), (np.float32, True))[i % 3]
            near += check_operators(Case(np.random.default_rng(seed), kind, bf16))
        except Exception:
            print(f"  in the case of seed {seed}, {('f32', 'f16', 'bf16')[i % 3]}", flush=True)
            raise
    assert near <= cases // 20 + 1, f"{near} near-ties in {cases} cases"
    print(f"  {cases} random cases of all operators, {near} near-ties", flush=True)
    if len(sys.argv) > 3:
        print("ok", flush=True)
        return
    check_threads(rng)
    check_sessions(rng)
    print("  the same bits for 1, 2 and 3 threads; sessions side by side", flush=True)
    check_refusals()
    print("  refusals", flush=True)
    check_shapes()
    print("  shape inference", flush=True)
    check_in_place(rng)
    print("ok", flush=True)


if __name__ == "__main__":
    main()
