#!/usr/bin/env python3
"""Runs the function bodies in ONNX Runtime and compares them with reference.py.

    python passes/tests/bodies.py [--opsets 11,18] [--rounds 3] [--seed 0] [--generator PATH] [--only VccSelect]

Each operator runs as a call with its function in the file, inlined, and as a call of which only one output is used (the nodes behind
the other outputs are then dead, which ONNX Runtime must cope with); the example `body_models` of crate vcc-passes puts the
bodies into the models. No operator library is registered. Needs numpy, onnx and onnxruntime.
"""

import argparse
import itertools
import os
import subprocess
import sys
import tempfile

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper

import reference

LADDERS = [[16, 1], [4, 1], [8, 4, 1], [8, 4, 2, 1]]
OPSETS = [11, 12, 13, 17, 18, 21, 23]
TYPES = {1: np.float32, 10: np.float16}
TOLERANCE = {1: 1e-5, 10: 2e-3}
WEIGHTS = [1.0, 0.5]
CAPACITIES = [0, 1, 6, 1000]


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--opsets", default=",".join(map(str, OPSETS)))
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--generator", help="the built example body_models (default: cargo run)")
    arguments.add_argument("--only", help="one operator")
    arguments.add_argument("--types", default="1,10")
    arguments = arguments.parse_args()
    generator = [arguments.generator] if arguments.generator else "cargo run -q -p vcc-passes --example body_models --".split()

    for number in range(30):
        check_reference(np.random.default_rng([arguments.seed, number]))
    cases = []
    for opset, ladder, dtype, form in itertools.product(
        map(int, arguments.opsets.split(",")), LADDERS, map(int, arguments.types.split(",")), ["call", "inline", "partial"]
    ):
        variants = [("VccPartition", {"capacity": c}) for c in CAPACITIES] if dtype == 1 else []
        variants += [("VccSelect", {"level": l}) for l in range(len(ladder) - 1)]
        variants += [("VccCompress", {"count_weight": w}) for w in WEIGHTS]
        variants += [("VccCoarsen", {}), ("VccDecompress", {}), ("VccExpand", {})]
        cases += [(op, opset, ladder, dtype, form, attrs) for op, attrs in variants if arguments.only in (None, op)]

    with tempfile.TemporaryDirectory() as folder:
        paths = [os.path.join(folder, f"{i}.onnx") for i in range(len(cases))]
        with open(os.path.join(folder, "cases"), "w") as file:
            for path, case in zip(paths, cases):
                onnx.save(bare_model(*case), path + ".bare")
                print(case[4].replace("partial", "call"), path + ".bare", path, file=file)
        subprocess.run(generator + [file.name], check=True)
        tally = Tally()
        for path, case in zip(paths, cases):
            run_case(path, case, np.random.default_rng([arguments.seed, len(path)] + [ord(c) for c in str(case)]), arguments.rounds, tally)
    print(f"onnxruntime {onnxruntime.__version__}: {len(cases)} models, {tally.runs} runs, {tally.near_ties} near-ties redrawn, "
          f"worst relative error {', '.join(f'{TYPES[t].__name__} {e:.1e}' for t, e in sorted(tally.worst.items()))}, {tally.failures} failures")
    too_many = tally.near_ties > 0.05 * max(20, tally.selections)
    if too_many:
        print("too many near-ties")
    sys.exit(1 if tally.failures or too_many else 0)


# Inputs and outputs of the operators: name, type (T: the case's float type), dimensions.
SIGNATURES = {
    "VccPartition": ("vip:bool:B,n valid:bool:B,n", "item_token:int64:B,P item_count:int64:B,P token_slot:int64:B,n vote:bool:B,v roots:int64:B,nb"),
    "VccCoarsen": (
        "x:T:B,n,d item_token:int64:B,P item_count:int64:B,P token_slot:int64:B,n vote:bool:B,v",
        "value:T:B,P,d scale:T:B,N,d offset:T:B,N,d",
    ),
    "VccSelect": (
        "scores:T:B,H,v,C candidates:int64:B,C item_count:int64:B,P vote:bool:B,v budget:int64:1",
        "children:int64:B,chosen rest:int64:B,left sums:float32:B,parts,C",
    ),
    "VccCompress": (
        "value:T:B,P,d scale:T:B,N,d offset:T:B,N,d items:int64:B,q item_token:int64:B,P item_count:int64:B,P vote:bool:B,v",
        "rows:T:B,r,d row_token:int64:B,r row_bias:float32:B,r",
    ),
    "VccDecompress": (
        "value:T:B,P,d scale:T:B,N,d offset:T:B,N,d items:int64:B,q item_count:int64:B,P vote:bool:B,v y:T:B,r,d update:T:B,r,d gain:T:d",
        "new_value:T:B,P,d new_scale:T:B,N,d new_offset:T:B,N,d",
    ),
    "VccExpand": ("value:T:B,P,d scale:T:B,N,d offset:T:B,N,d token_slot:int64:B,n vote:bool:B,v", "x:T:B,n,d"),
}


def bare_model(op, opset, ladder, dtype, form, attrs):
    """A model of one call, without the function."""
    types = {"bool": TensorProto.BOOL, "int64": TensorProto.INT64, "float32": TensorProto.FLOAT, "T": dtype}
    sides = []
    for signature in SIGNATURES[op]:
        side = []
        for name, kind, dims in (part.split(":") for part in signature.split()):
            dims = [int(dim) if dim.isdigit() else dim for dim in dims.split(",")]
            side.append(helper.make_tensor_value_info(name, types[kind], dims))
        sides.append(side)
    attrs = dict(attrs, ladder=ladder, dim_prefix="node")
    if op not in ("VccPartition", "VccSelect"):
        attrs["dtype"] = dtype
    names = [[info.name for info in side] for side in sides]
    node = helper.make_node(op, *names, domain="ai.vcc", name="node", **attrs)
    if form == "partial":
        sides[1] = [sides[1][(opset + len(ladder)) % len(sides[1])]]
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("ai.vcc", 1)]
    return helper.make_model(helper.make_graph([node], "one", *sides), opset_imports=opsets, ir_version=8)


def check_reference(rng):
    """The reference's tree of pending maps against what it stands for: the plain token rows, updated one by one."""
    ladder = LADDERS[rng.integers(len(LADDERS))]
    valid, (item_token, item_count, token_slot, vote, roots), describe = draw_partition(rng, 1, ladder)
    B, n = valid.shape
    v, d = vote.shape[1], 3
    layout = reference.Layout.of_items(ladder, item_count.shape[1], v)
    x = rng.normal(size=(B, n, d))
    state = reference.coarsen(x, item_token, item_count, token_slot, vote, ladder)
    for _ in range(4):
        everything = np.tile(np.arange(v, layout.items), (B, 1))
        rows, _, _ = reference.compress(*state, everything, item_token, item_count, vote, ladder, 1.0)
        for b in range(B):
            for item in range(layout.items):
                tokens = [t for t in range(n) if token_slot[b, t] in layout.slots(item)]
                tokens = [t for t in tokens if valid[b, t]] or tokens
                if tokens:
                    assert np.allclose(rows[b, item], x[b, tokens].mean(axis=0), rtol=1e-9, atol=1e-9), f"{describe} item {item}"
        items = draw_items(rng, 1, ladder, v, roots, item_count)
        y, update = rng.normal(size=(2, B, v + items.shape[1], d))
        gain = rng.uniform(0.5, 1.5, size=d)
        state = reference.decompress(*state, items, item_count, vote, y, update, gain, ladder)
        for b in range(B):
            for row, item in enumerate(list(range(v)) + items[b].tolist()):
                for t in (t for t in range(n) if token_slot[b, t] in layout.slots(item)):
                    x[b, t] = gain * x[b, t] + update[b, row] if layout.is_segment(item) else y[b, row]
        assert np.allclose(reference.expand(*state, token_slot, vote, ladder), x, rtol=1e-9, atol=1e-9), describe


class Tally:
    def __init__(self):
        self.runs = self.near_ties = self.selections = self.failures = 0
        self.worst = {}


def run_case(path, case, rng, rounds, tally):
    op, opset, ladder, dtype, form, attrs = case
    try:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        for number in range(rounds):
            inputs, expected, describe = CASES[op](rng, number, ladder, dtype, attrs, tally)
            results = dict(zip([output.name for output in session.get_outputs()], session.run(None, inputs)))
            tally.runs += 1
            compare(op, results, expected, dtype, tally)
    except Exception as error:  # report every failing case, whatever it is
        tally.failures += 1
        if tally.failures <= 10:
            detail = describe if "describe" in locals() else ""
            print(f"FAILED {case} {detail}: {type(error).__name__}: {str(error)[:600]}")


def compare(op, results, expected, dtype, tally):
    """Compares the outputs that there are with all expected ones."""
    declared = [part.split(":")[:2] for part in SIGNATURES[op][1].split()]
    for (name, kind), want in zip(declared, expected, strict=True):
        if name not in results:
            continue
        got = results[name]
        assert got.shape == want.shape, f"{name}: shape {got.shape}, expected {want.shape}"
        assert got.dtype == (TYPES[dtype] if kind == "T" else kind), f"{name}: type {got.dtype}"
        if kind in ("int64", "bool"):
            assert np.array_equal(got, want), f"{name}: {got.tolist()} expected {want.tolist()}"
            continue
        got = got.astype(np.float64)
        assert np.array_equal(np.isnan(got), np.isnan(want)), f"{name}: NaN in different places"
        infinite = np.isinf(want)
        assert np.array_equal(got[infinite], want[infinite]), f"{name}: infinities differ"
        finite = np.isfinite(want)
        error = np.abs(got[finite] - want[finite]).max(initial=0) / max(np.abs(want[finite]).max(initial=0), 1e-30)
        tally.worst[dtype] = max(tally.worst.get(dtype, 0), error)
        assert error <= TOLERANCE[dtype], f"{name}: relative error {error}"


# Random inputs. `number` counts the rounds of a model; the first ones take the corner cases.


def draw_masks(rng, number):
    B, n = int(rng.integers(1, 4)), int(rng.integers(1, 81))
    if number == 0:
        n = int(rng.choice([1, 2, 5, 16, 17]))
    valid = np.ones((B, n), bool)
    kind = rng.choice(["all", "left", "right", "none", "random"])
    for b in range(B):
        pad = int(rng.integers(0, n + 1))
        if kind == "left":
            valid[b, :pad] = False
        elif kind == "right":
            valid[b, n - pad:] = False
        elif kind == "random":
            valid[b] = rng.random(n) < 0.7
        elif kind == "none" and b == 0:
            valid[b] = False
    vip_kind = rng.choice(["none", "all", "random", "first", "many"])
    vip = rng.random((B, n)) < {"none": 0, "all": 1, "random": 0.1, "first": 0, "many": 0.4}[vip_kind]
    if vip_kind == "first":
        vip[:, 0] = True
    return vip, valid, f"B={B} n={n} valid={kind} vip={vip_kind}"


def draw_partition(rng, number, ladder):
    vip, valid, describe = draw_masks(rng, number)
    capacity = int(rng.choice([0, 1, 3, 8, 100]))
    return valid, reference.partition(vip, valid, ladder, capacity), f"{describe} capacity={capacity}"


def draw_items(rng, number, ladder, v, roots, item_count):
    """A partition of the context: refines random items, the same number in every batch row."""
    layout = reference.Layout.of_items(ladder, item_count.shape[1], v)
    rows = [list(row) for row in roots]
    done = [[] for _ in rows]
    for level in range(len(ladder) - 1):
        candidates = len(rows[0])
        h = int(rng.choice([0, candidates, rng.integers(0, candidates + 1)], p=[0.15, 0.25, 0.6]))
        for b, row in enumerate(rows):
            chosen = set(rng.permutation(candidates)[:h].tolist())
            done[b] += [item for c, item in enumerate(row) if c not in chosen]
            rows[b] = [child for c, item in enumerate(row) if c in chosen for child in layout.children(item)]
    items = np.array([rest + row for rest, row in zip(done, rows)], np.int64)
    if rng.random() < 0.5:  # any order will do
        items = np.stack([rng.permutation(row) for row in items])
    return items


def draw_state(rng, dtype, B, P, N, d):
    state = [rng.normal(size=(B, P, d)), rng.uniform(0.5, 1.5, size=(B, N, d)), rng.normal(size=(B, N, d))]
    return [a.astype(TYPES[dtype]) for a in state]


def partition_case(rng, number, ladder, dtype, attrs, tally):
    vip, valid, describe = draw_masks(rng, number)
    return {"vip": vip, "valid": valid}, reference.partition(vip, valid, ladder, attrs["capacity"]), describe


def coarsen_case(rng, number, ladder, dtype, attrs, tally):
    valid, (item_token, item_count, token_slot, vote, _), describe = draw_partition(rng, number, ladder)
    x = rng.normal(size=valid.shape + (int(rng.integers(1, 6)),)).astype(TYPES[dtype])
    if rng.random() < 0.5:
        x[~valid] = np.nan
        x[0, 0, 0] = np.inf
    inputs = {"x": x, "item_token": item_token, "item_count": item_count, "token_slot": token_slot, "vote": vote}
    return inputs, reference.coarsen(x.astype(np.float64), *list(inputs.values())[1:], ladder), describe


def select_case(rng, number, ladder, dtype, attrs, tally):
    level = attrs["level"]
    tally.selections += 1
    while True:
        _, (_, item_count, _, vote, roots), describe = draw_partition(rng, number, ladder)
        B, v = vote.shape
        layout = reference.Layout.of_items(ladder, item_count.shape[1], v)
        everything = np.arange(layout.count_at(level)) + layout.first[level]
        C = int(rng.integers(0 if level else 1, len(everything) + 1))
        candidates = np.stack([np.sort(rng.permutation(everything)[:C]) for _ in range(B)]).astype(np.int64)
        scores = rng.normal(size=(B, int(rng.integers(1, 4)), v, C), scale=3).astype(TYPES[dtype])
        kind = rng.choice(["plain", "equal", "nan in padding", "nan", "infinite"], p=[0.4, 0.2, 0.15, 0.15, 0.1])
        if kind == "equal":
            scores[:] = scores[..., :1]
        elif kind == "nan in padding":
            for b in range(B):
                scores[b][:, :, item_count[b, candidates[b]] <= 0] = np.nan
                scores[b][:, ~vote[b]] = np.nan
        elif kind == "nan":
            scores[0, 0] = np.nan
        elif kind == "infinite" and C:
            scores[..., 0] = -np.inf
        budget = int(rng.choice([0, 1, 3, 100, -1, -30, -50, -99, -100, -1000, np.iinfo(np.int64).min]))
        inputs = {"scores": scores, "candidates": candidates, "item_count": item_count, "vote": vote, "budget": np.array([budget])}
        children, rest, gaps = reference.select(scores.astype(np.float64), candidates, item_count, vote, budget, ladder, level)
        # Equal scores must be told apart by position; anything else this close is up to rounding.
        if kind == "equal" or all(gap > 1e-5 or gap == 0 and not vote[b].any() for b, gap in enumerate(gaps)):
            sums = np.zeros((B, 0, C), np.float32)
            return inputs, (children, rest, sums), f"{describe} scores={kind} budget={budget} C={C}"
        tally.near_ties += 1


def compress_case(rng, number, ladder, dtype, attrs, tally):
    _, (item_token, item_count, _, vote, roots), describe = draw_partition(rng, number, ladder)
    B, v = vote.shape
    layout = reference.Layout.of_items(ladder, item_count.shape[1], v)
    state = draw_state(rng, dtype, B, layout.items, layout.segments, int(rng.integers(1, 6)))
    if rng.random() < 0.3:  # keys of a lower level: any context items
        items = rng.integers(v, layout.items, size=(B, int(rng.integers(0, 20))))
    else:
        items = draw_items(rng, number, ladder, v, roots, item_count)
    if rng.random() < 0.3:
        state[0][:, :, 0][item_count == 0] = np.nan
    names = ["value", "scale", "offset", "items", "item_token", "item_count", "vote"]
    inputs = dict(zip(names, state + [items, item_token, item_count, vote]))
    return inputs, reference.compress(*inputs.values(), ladder, attrs["count_weight"]), describe


def decompress_case(rng, number, ladder, dtype, attrs, tally):
    _, (_, item_count, _, vote, roots), describe = draw_partition(rng, number, ladder)
    B, v = vote.shape
    layout = reference.Layout.of_items(ladder, item_count.shape[1], v)
    d = int(rng.integers(1, 6))
    value, scale, offset = draw_state(rng, dtype, B, layout.items, layout.segments, d)
    items = draw_items(rng, number, ladder, v, roots, item_count)
    y, update = (rng.normal(size=(B, v + items.shape[1], d)).astype(TYPES[dtype]) for _ in range(2))
    if rng.random() < 0.4:
        for b in range(B):
            listed = np.concatenate([np.arange(v), items[b]])
            y[b, item_count[b, listed] <= 0] = np.nan
            update[b, item_count[b, listed] < 0] = np.nan
        value[item_count == 0] = np.nan
    gain = rng.choice([np.ones(d), rng.uniform(0.5, 1.5, size=d)]).astype(TYPES[dtype])
    names = ["value", "scale", "offset", "items", "item_count", "vote", "y", "update", "gain"]
    inputs = dict(zip(names, [value, scale, offset, items, item_count, vote, y, update, gain]))
    doubles = {k: a.astype(np.float64) if a.dtype.kind == "f" else a for k, a in inputs.items()}
    return inputs, reference.decompress(*doubles.values(), ladder), f"{describe} items={items.tolist()}"


def expand_case(rng, number, ladder, dtype, attrs, tally):
    _, (_, item_count, token_slot, vote, _), describe = draw_partition(rng, number, ladder)
    layout = reference.Layout.of_items(ladder, item_count.shape[1], vote.shape[1])
    state = draw_state(rng, dtype, len(vote), layout.items, layout.segments, int(rng.integers(1, 6)))
    inputs = dict(zip(["value", "scale", "offset", "token_slot", "vote"], state + [token_slot, vote]))
    return inputs, [reference.expand(*inputs.values(), ladder)], describe


CASES = {
    "VccPartition": partition_case,
    "VccCoarsen": coarsen_case,
    "VccSelect": select_case,
    "VccCompress": compress_case,
    "VccDecompress": decompress_case,
    "VccExpand": expand_case,
}

if __name__ == "__main__":
    main()
