"""The steps that measure: bandwidth of the operators beside the card's, and converted models beside their originals in float16."""

import ctypes
import json
import os
import subprocess
import sys
import time

import numpy as np
import onnx
from onnx import TensorProto, helper

from .common import ROOT, attempt, feeds, hold, row

KINDS = {np.dtype(np.float16): TensorProto.FLOAT16, np.dtype(np.int64): TensorProto.INT64, np.dtype(bool): TensorProto.BOOL,
         np.dtype(np.float32): TensorProto.FLOAT}  # fmt: skip


def best_time(setup, session, inputs, rounds=20):
    """Seconds of one run, inputs and outputs on the device; the fastest of some."""
    binding = session.io_binding()
    held = hold(setup, inputs)
    for name, value in held.items():
        binding.bind_ortvalue_input(name, value)
    for port in session.get_outputs():
        binding.bind_output(port.name, setup.device)
    return fastest(session, binding, rounds)


def replay_time(setup, path, inputs, rounds, ours=True):
    """As best_time, of a CUDA graph, whose inputs and outputs stay where they are. The first run says how large the outputs are."""
    plain = setup.session(path, ours)
    outputs = dict(zip([port.name for port in plain.get_outputs()], plain.run(None, inputs)))
    del plain  # and the memory that it holds
    session = setup.session(path, ours, enable_cuda_graph=1)
    binding = session.io_binding()
    held = [hold(setup, inputs), hold(setup, outputs)]
    for name, value in held[0].items():
        binding.bind_ortvalue_input(name, value)
    for name, value in held[1].items():
        binding.bind_ortvalue_output(name, value)
    return fastest(session, binding, rounds)


def fastest(session, binding, rounds):
    times = []
    for _ in range(3 + rounds):
        start = time.perf_counter()
        session.run_with_iobinding(binding)
        binding.synchronize_outputs()
        times.append(time.perf_counter() - start)
    return min(times[3:])


# Bandwidth.


def copy_bandwidth(setup):
    """Bytes read and written per second when memory of the device is copied, timed by CUDA's events."""
    if setup.stand_in:
        source, target = np.ones(1 << 24, np.uint8), np.empty(1 << 24, np.uint8)
        start = time.perf_counter()
        np.copyto(target, source)
        return 2 * source.nbytes / (time.perf_counter() - start)
    cuda, size = ctypes.CDLL("libcuda.so.1"), 1 << (24 if setup.junk else 30)

    def call(name, *arguments):
        code = getattr(cuda, name)(*arguments)
        assert code == 0, f"{name}: error {code}"

    pointer, number = ctypes.c_void_p, ctypes.c_uint64
    device, context, start, stop = ctypes.c_int(), pointer(), pointer(), pointer()
    call("cuInit", 0)
    call("cuDeviceGet", ctypes.byref(device), 0)
    call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
    call("cuCtxSetCurrent", context)
    memory = [number(), number()]
    for address in memory:
        call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(size))
    for event in (start, stop):
        call("cuEventCreate", ctypes.byref(event), 0)
    best = float("inf")
    for _ in range(10):
        call("cuEventRecord", start, None)
        call("cuMemcpyDtoDAsync_v2", memory[0], memory[1], ctypes.c_size_t(size), None)
        call("cuEventRecord", stop, None)
        call("cuEventSynchronize", stop)
        passed = ctypes.c_float()
        call("cuEventElapsedTime", ctypes.byref(passed), start, stop)
        best = min(best, passed.value / 1e3)
    for address in memory:
        call("cuMemFree_v2", address)
    return 2 * size / best


def operators(n, d):
    """For each operator its inputs, outputs, attributes, and the bytes that it cannot do without. Ladder 16,1; 48 VIP slots."""
    rng, half = np.random.default_rng(0), np.float16
    ladder, v, refined, heads = [16, 1], 48, 90, 12
    segments = -(-(n - v) // 16)
    slots = v + 16 * segments
    items = slots + segments
    data = lambda *shape: rng.standard_normal(shape, dtype=np.float32).astype(half)
    # As VccPartition orders them where the first tokens are VIP and nothing is padding.
    token = np.concatenate([np.minimum(np.arange(slots), n - 1), v + 16 * np.arange(segments)])[None].astype(np.int64)
    count = np.concatenate([np.arange(slots) < n, np.minimum(16, n - v - 16 * np.arange(segments))])[None].astype(np.int64)
    slot, vote = np.arange(n)[None].astype(np.int64), np.ones((1, v), bool)
    roots = np.arange(slots, items)[None].astype(np.int64)
    state = {"value": data(1, items, d), "scale": np.ones((1, segments, d), half), "offset": data(1, segments, d)}
    fine = (v + np.arange(16 * refined))[None]
    listed = np.concatenate([fine, roots[:, refined:]], 1).astype(np.int64)
    rows = v + listed.shape[1]
    scores = rng.standard_normal((1, heads, v, segments)).astype(np.float32)
    typed, floats = {"ladder": ladder, "dtype": TensorProto.FLOAT16}, 2 * d
    masks = {"vip": np.arange(n)[None] < v, "valid": np.ones((1, n), bool)}
    tokens = {"item_token": token, "item_count": count}
    whole = {"value2": half, "scale2": half, "offset2": half}
    parts = {"item_token": np.int64, "item_count": np.int64, "token_slot": np.int64, "vote": bool, "roots": np.int64}
    made = 8 * (2 * items + n + segments) + v
    listing = 8 * listed.size
    return {
        "VccPartition": (masks, parts, {"ladder": ladder, "capacity": v}, 2 * n + made),
        "VccCoarsen": ({"x": data(1, n, d), **tokens, "token_slot": slot, "vote": vote}, whole, typed, floats * (n + items + 2 * segments)),
        "VccSelect": (
            {"scores": scores, "candidates": roots, "item_count": count, "vote": vote, "budget": np.array([refined], np.int64)},
            {"children": np.int64, "rest": np.int64, "sums": np.float32},
            {"ladder": ladder, "level": 0},
            scores.nbytes + 2 * 8 * segments + listing,
        ),
        "VccCompress": (
            {**state, "items": listed, **tokens, "vote": vote},
            {"rows": half, "row_token": np.int64, "row_bias": np.float32},
            {**typed, "count_weight": 1.0},
            # Each refined row takes the scale and the offset of its segment too.
            floats * (2 * rows + 2 * refined) + 2 * listing,
        ),
        "VccDecompress": (
            {**state, "items": listed, "item_count": count, "vote": vote, "y": data(1, rows, d), "update": data(1, rows, d), "gain": data(d)},
            whole,
            typed,
            # Rows of tokens are replaced; a segment's mean, scale and offset are read and written.
            floats * ((v + 16 * refined) * 2 + (segments - refined) * (2 + 2 * 2 + 1)) + listing,
        ),
        "VccExpand": ({**state, "token_slot": slot, "vote": vote}, {"x": half}, typed, floats * (2 * n + 2 * segments) + 8 * n),
    }


# Data of all the operators in a model: several times a device's cache, so that none is read from there.
ENOUGH_BYTES, MOST_NODES = 256 << 20, 32


def bandwidth(setup):
    """Each operator several times in one model, and three times as often; what more of them cost, without what a run costs in any case.

    The runs are CUDA graphs, or the host's work on each node would be measured. Each node has inputs and outputs of its own; only the
    state of VccDecompress, which is updated in place, goes from one to the next. What moves little, as VccPartition and VccSelect of 4096
    tokens do, stays in the device's cache, and is bound by the start of its kernels.
    """
    sizes = [(600, 32)] if setup.small else [(4096, 768), (16384, 768), (131072, 768)]
    peak = copy_bandwidth(setup)
    row("copy within the device", f"{peak / 1e9:.0f} GB/s read and written")
    for n, d in sizes:
        for name, (inputs, outputs, attributes, least) in operators(n, d).items():

            def work(name=name, inputs=inputs, outputs=outputs, attributes=attributes, least=least):
                few = 1 if setup.small else min(max(2, -(-ENOUGH_BYTES // least)), MOST_NODES)
                times = {}
                for count in (few, 3 * few):
                    path = setup.work / f"{name}.onnx"
                    model = repeated(name, inputs, outputs, attributes, count)
                    onnx.save(model, path)
                    fed = {port.name: inputs[port.name.rsplit("_", 1)[0]] for port in model.graph.input}
                    times[count] = replay_time(setup, path, fed, 2 if setup.small else 20)
                each = max((times[3 * few] - times[few]) / (2 * few), 1e-9)
                return f"{each * 1e6:.1f} us for {least / 1e6:.2f} MB: {least / each / 1e9:.0f} GB/s, {100 * least / each / peak:.0f} % of a copy"

            attempt(f"{name}, {n} tokens of {d}, f16", work)


def repeated(name, inputs, outputs, attributes, count):
    """A model with the operator so often, each time on inputs of its own, but for a state that is updated in place."""
    nodes, ports, results, constants = [], [], [], []
    # ONNX Runtime gives an operator the memory of its input only if that is no input of the graph and nobody else reads it.
    state = dict(zip(inputs, outputs)) if name == "VccDecompress" else {}
    state = {key: made for key, made in state.items() if key in ("value", "scale", "offset")}
    for i in range(count):
        own = [f"{state[key]}_{i - 1}" if key in state and i > 0 else f"{key}_{i}" for key in inputs]
        attributes = {**attributes, "dim_prefix": f"{name}_{i}"}
        nodes.append(helper.make_node(name, own, [f"{key}_{i}" for key in outputs], f"{name}_{i}", domain="ai.vcc", **attributes))
        for key, value in inputs.items():
            if key == "budget":
                constants.append(helper.make_tensor(f"{key}_{i}", TensorProto.INT64, [1], value))
            elif key not in state or i == 0:
                ports.append(helper.make_tensor_value_info(f"{key}_{i}", KINDS[value.dtype], value.shape))
        if not state or i == count - 1:
            results += [helper.make_tensor_value_info(f"{key}_{i}", KINDS[np.dtype(kind)], None) for key, kind in outputs.items()]
    graph = helper.make_graph(nodes, "repeated", ports, results, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("ai.vcc", 1)], ir_version=8)


# The paper's table.

# Model, tokens, and how the model is converted; VIP tokens, ladder, budget, and whether the first four blocks are local. Budgets are those of
# docs/performance.md, or a little more, so that rows come in eights: only then ONNX Runtime takes its fast attention with a bias in float16.
TABLE = {
    "roberta-4k": ("roberta", 4096, 256, "16,1", "80", True),
    "t5-4k": ("t5", 4096, 256, "16,1", "80", True),
    "t5-16k": ("t5", 16384, 48, "16,1", "93", True),
    "ladder-16k": ("roberta", 16384, 48, "64,8,1", "92,156", False),
    "ladder-64k": ("roberta", 65536, 48, "64,8,1", "124,180", False),
    "ladder-128k": ("roberta", 131072, 48, "64,8,1", "105,183", False),
}
# ONNX Runtime has a fast attention only for what its fuser makes without a mask, or with a bias; no token is padding here, so a model
# without the mask computes the same. The fuser does not find the attentions of a T5: tools/make_t5.py writes them fused.
ORIGINALS = {"roberta": ("as it is", "fused", "fused, no mask"), "t5": ("as it is", "fused")}
OURS = ("converted", "converted, CUDA graph", "converted, attention without cuDNN")
# From compute capability 9.0 on ONNX Runtime gives attentions in 16 bits to cuDNN; 3 is its own, flash and memory-efficient.
WITHOUT_CUDNN = {"sdpa_kernel": 3}


def table_row(name):
    """A row of the table. Each model runs in a process of its own: some do not fit into the memory."""

    def step(setup):
        kind = os.environ.get("VCC_GPU_KIND")
        if kind:
            print(json.dumps(timed(setup, name, kind)))
            return
        times = {}
        originals = ORIGINALS[TABLE[name][0]]
        # What does not run at all may take its time to say so.
        for kind in (*OURS, *reversed(originals)):
            command = [sys.executable, *sys.argv]
            try:
                done = subprocess.run(
                    command, env={**os.environ, "VCC_GPU_KIND": kind}, capture_output=True, text=True, errors="replace", timeout=300
                )
                if done.returncode == 0:
                    times[kind] = json.loads(done.stdout.splitlines()[-1])
                    row(f"{kind}, f16", f"{times[kind] * 1e3:.2f} ms")
                    continue
                said = (done.stderr.strip().splitlines() or [f"code {done.returncode}"])[-1]
            except subprocess.TimeoutExpired as error:
                said = f"took more than {error.timeout:.0f} s"
            # That an original does not fit is what this tool is for.
            row(f"{kind}, f16", f"does not run: {said[:300]}", False if "converted" in kind else None)
        best = min((times[kind], kind) for kind in originals if kind in times) if any(kind in times for kind in originals) else None
        for kind in (kind for kind in OURS if best and kind in times):
            row(f"{kind}, beside the fastest original", f"{best[0] / times[kind]:.1f}x ({best[1]})")

    return step


def timed(setup, name, kind):
    model, n, vip, ladder, refine, local = TABLE[name]
    if setup.small:
        n, vip, refine = 640, 8, ",".join("3" for _ in refine.split(","))
    path = made(setup, model, n, kind)
    if kind in OURS:
        blocks = ["--blocks", f"0-{0 if setup.small else 3}=local:512,{1 if setup.small else 4}-=vcc"] if local else []
        options = ["--vip", f"first:{vip}", "--vip-capacity", str(vip), "--ladder", ladder, "--refine", refine, *blocks]
        path = setup.convert(path, f"{path.stem}-{name}", *options)
    rounds = 2 if setup.small else 10
    settings = WITHOUT_CUDNN if "cuDNN" in kind else {}
    session = setup.session(path, ours=kind in OURS, **settings)
    inputs = feeds(session, 1, n)
    if "graph" not in kind:
        return best_time(setup, session, inputs, rounds)
    del session  # and the memory that it holds
    return replay_time(setup, path, inputs, rounds)


def made(setup, model, n, kind):
    """The original in float16, with random weights; made once."""
    from onnxruntime.transformers import float16, optimizer

    width, heads, layers = (64, 4, 2) if setup.small else (768, 12, 12)
    fused, no_mask = "fused" in kind, "no mask" in kind
    written = fused and model == "t5"
    stem = f"{model}-{131072 if n > 4096 and model == 'roberta' else 4096}{'-written' if written else ''}"
    path = setup.work / f"{stem}{'-fused' if fused else ''}{'-no-mask' if no_mask else ''}-f16.onnx"
    if path.exists():
        return path
    single = setup.work / f"{stem}.onnx"
    if not single.exists():
        draft = single.with_suffix(".draft")
        command = [sys.executable, ROOT / f"tools/make_{model}.py", "-o", draft, "--layers", layers, "--width", width, "--heads", heads]
        if model == "roberta":
            command += ["--length", stem.split("-")[1], "--pre-norm"]
        subprocess.run([str(part) for part in [*command, *(["--fused"] if written else [])]], check=True)
        draft.rename(single)
    if fused and not written:
        found = optimizer.optimize_model(str(single), model_type="bert", num_heads=heads, hidden_size=width, opt_level=0)
        assert found.get_fused_operator_statistics()["Attention"] == layers, "its attentions are not fused"
        graph = found.model
        if not any(opset.domain == "com.microsoft" for opset in graph.opset_import):
            graph.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    else:
        graph = onnx.load(single)
    if no_mask:
        for node in graph.graph.node:
            if node.op_type == "Attention":
                node.input[3] = ""
    half = float16.convert_float_to_float16(graph, max_finite_val=65504.0, disable_shape_infer=fused)
    draft = path.with_suffix(".draft")
    onnx.save(half, draft)
    draft.rename(path)
    return path
