"""Converts an encoder and compares it with its original: what must hold for every sound encoder."""

import json
import os
import re
import subprocess
from dataclasses import dataclass

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from .encoder import VOCABULARY, Encoder, image_width, wave_samples
from .graph import save

BATCHES, LENGTHS = (1, 3), (1, 15, 16, 17, 37)
# Relative to the largest value. With halves a difference counts beyond what rounding does to the original, see Original.
FULL = {"f32": 1e-4, "f16": 1e-2}
SMALL = {"f32": 1e-5, "f16": 2e-3}
ROUNDING = {"f32": 1e-6, "f16": 1e-3}
WINDOW = {"full": 512, "small": 5}  # of local blocks: as wide as any text, and narrow
DRAWS = 3  # of inputs, before a difference between forms counts: a near-tie may select another segment


class Failure(Exception):
    """What is wrong with a conversion. The kind is what a shrunken encoder must have in common."""

    def __init__(self, kind, text):
        super().__init__(kind, text)
        self.kind = kind

    def __str__(self):
        return ": ".join(self.args)


@dataclass
class Tools:
    converter: str
    library: str
    folder: str


@dataclass
class Conversion:
    code: int
    message: str
    blocks: list  # of (mode, refusal)
    path: str


def plan(choices, window):
    """The options that say what becomes of which block."""
    options, last = ["--reselect-every", str(choices["reselect"]), "--device", choices["device"]], choices["blocks"] - 1
    mode, _, where = choices["modes"].partition("_")
    if mode == "local" or mode == "full" and last > 0:
        blocks = {"": f"0-{last}", "first": "0", "last": str(last)}[where]
        for tower in range(choices["towers"]):
            options += ["--blocks", f"{tower}:{blocks}=" + (f"local:{window}" if mode == "local" else mode)]
    return options + (["--runtime-budget"] if choices["budget"] == "runtime" else [])


def convert(tools, path, choices, *options):
    out, report = path.replace(".onnx", ".vcc.onnx"), path.replace(".onnx", ".json")
    for old in (out, report):
        if os.path.exists(old):
            os.remove(old)
    command = [tools.converter, path, "-o", out, "--report", report, "--vip", vip(choices), "--ladder", choices["ladder"], *options]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except subprocess.TimeoutExpired as error:
        raise Failure("HANG", "no result after 60 s") from error
    blocks = []
    if os.path.exists(report):
        with open(report, encoding="utf-8") as file:
            done = json.load(file)
        blocks = [(b["mode"], b["refusal"]) for encoder in done["encoders"] for b in encoder["blocks"]]
    return Conversion(result.returncode, result.stderr, blocks, out)


def vip(choices):
    """Two encoders of different lengths can't share an input."""
    return "first:3" if choices["towers"] == 2 and choices["vip"] == "input:vip" else choices["vip"]


def session(tools, path, library):
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    if library:
        options.register_custom_ops_library(tools.library)
    try:
        return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise Failure("LOAD", f"{os.path.basename(path)}: {str(error)[:400]}") from error


def run(opened, feeds, what):
    wanted = {i.name for i in opened.get_inputs()}
    try:
        return opened.run(None, {name: value for name, value in feeds.items() if name in wanted})
    except Exception as error:
        shapes = {name: value.shape for name, value in feeds.items()}
        raise Failure("RUN", f"{what} with {shapes}: {str(error)[:400]}") from error


def valid_tokens(encoder, batch, length, padding):
    valid = np.ones((batch, length), bool)
    if encoder.choices["mask"] == "given" and encoder.choices["mask_shape"] in ("1N", "N"):
        return np.broadcast_to(valid_tokens_of_rows(valid[:1], padding), valid.shape)
    return valid_tokens_of_rows(valid, padding)


def valid_tokens_of_rows(valid, padding):
    batch, length = valid.shape
    for row in range(batch):
        cut = (row + 1) * length // (batch + 2)
        if padding == "left":
            valid[row, :cut] = False
        elif padding == "right":
            valid[row, length - cut :] = False
        elif padding == "empty" and row == 0:
            valid[row] = False
    return valid


def feeds(encoder, batch, length, padding, seed):
    random = np.random.default_rng(seed)
    valid = valid_tokens(encoder, batch, length, padding)
    made = {"vip": random.uniform(size=(batch, length)) < 0.15}
    for name, (kind, dtype, shape) in encoder.fed.items():
        sizes = {"B": batch, "N": length, "width": image_width(length), "samples": wave_samples(length)}
        dims = [sizes.get(size, size) for size in shape]
        dtype = helper.tensor_dtype_to_np_dtype(dtype)
        if kind in ("stream", "image", "wave"):
            value = random.standard_normal(dims)
        elif kind == "ids":
            value = np.where(valid, random.integers(1, VOCABULARY, dims), 0)
        elif kind == "types":
            value = random.integers(0, 2, dims)
        elif kind == "positions":
            value = np.broadcast_to(np.arange(length), dims)
        elif kind == "segments":
            value = np.where(valid, np.arange(length) * 2 // length + 1, 0)
        elif kind == "lengths":
            value = valid.sum(1)
        elif kind == "bias":
            value = np.where(valid, 0.0, -1e4)
        else:
            value = valid[0] if len(dims) == 1 else valid[: dims[0]]
        made[name] = np.ascontiguousarray(value).astype(dtype)
    return made


def cases(encoder):
    masked = encoder.choices["mask"] == "given" or encoder.choices["embedding"] in ("ids", "ids_types")
    shortest = 2 if encoder.choices["embedding"] == "patches" else 1
    for batch in [encoder.static["B"]] if encoder.static["B"] else BATCHES:
        for length in [encoder.static["N"]] if encoder.static["N"] else LENGTHS:
            for padding in ("none", "left", "right", "empty") if masked else ("none",):
                yield batch, max(shortest, length), padding


def difference(expected, actual):
    """The largest difference of the outputs, relative to each one's largest value; infinite where one is finite or NaN only."""
    worst = 0.0
    for a, b in zip(expected, actual, strict=True):
        if a.shape != b.shape or not np.array_equal(np.isnan(a), np.isnan(b)):
            return np.inf
        a, b = a.astype(np.float64), b.astype(np.float64)
        finite = np.isfinite(a)
        if not np.array_equal(a[~finite], b[~finite], equal_nan=True):
            return np.inf
        if finite.any():
            scale = max(np.abs(a[finite]).max(), 1e-30)
            worst = max(worst, float(np.abs(a[finite] - b[finite]).max() / scale))
    return worst


class Original:
    """The original model, and for one of halves the same encoder of floats: how far these two are apart is what rounding does."""

    def __init__(self, tools, encoder, path, seed):
        self.tools, self.path, self.opened, self.twin = tools, path, session(tools, path, False), None
        if encoder.choices["dtype"] == "f16":
            wide = os.path.join(tools.folder, "model.f32.onnx")
            save(Encoder(encoder.choices | {"dtype": "f32"}, seed, encoder.mutation).model, wide)
            self.twin = session(tools, wide, False)

    def __call__(self, fed):
        return run(self.opened, fed, "the original")

    def tolerance(self, base, fed, outputs):
        if not self.twin:
            return base
        wide = {name: value.astype(np.float32) if value.dtype == np.float16 else value for name, value in fed.items()}
        return max(base, 3 * difference(outputs, run(self.twin, wide, "the original with floats")))

    def behind_mask(self, fed):
        """What outputs change by when the numbers of masks, those of some ten thousands, are four times what they are. In a row of padding
        only that is nothing but the rounding of the scores behind them: one that is as coarse as four others, which is as many as there
        may be (a relative position, a count, the mask, their sum)."""
        model, larger = onnx.load(self.path), os.path.join(self.tools.folder, "model.larger.onnx")

        def times_four(value):
            return np.where((np.abs(value) >= 1e4) & (np.abs(value) < 1e6), value * 4, value).astype(value.dtype)

        nodes = [*model.graph.node, *(node for function in model.functions for node in function.node)]
        constants = [a.t for node in nodes if node.op_type == "Constant" for a in node.attribute if a.name == "value"]
        for tensor in [*model.graph.initializer, *constants]:
            if tensor.data_type == TensorProto.FLOAT:
                tensor.CopyFrom(numpy_helper.from_array(times_four(numpy_helper.to_array(tensor)), tensor.name))
        save(model, larger)
        other = {name: times_four(value) if value.dtype == np.float32 else value for name, value in fed.items()}
        return difference(self(fed), run(session(self.tools, larger, False), other, "the original with larger masks"))


def compare_full(tools, encoder, original, converted):
    dtype = encoder.choices["dtype"]
    for library in (True, False):
        other = session(tools, converted, library)
        what = "with the library" if library else "without the library"
        for case in cases(encoder):
            fed = feeds(encoder, *case, seed=case[1])
            outputs = {"original": original(fed), "converted": run(other, fed, what)}
            worst, limit = difference(*outputs.values()), original.tolerance(FULL[dtype], fed, outputs["original"])
            if not (worst <= limit or padding_agrees(encoder, original, case, fed, outputs, limit)):
                raise Failure("WRONG", f"{what} differs by {worst:.2e} at batch {case[0]}, length {case[1]}, padding {case[2]}")


def compare_small(tools, encoder, original, paths):
    """paths: of the converted file, the inlined one, and further ones that must give the same. Returns in how many cases selections are
    near-ties for all inputs that were drawn."""
    opened = {"library": session(tools, paths["library"], True), "bodies": session(tools, paths["library"], False)}
    opened |= {name: session(tools, path, name != "inline") for name, path in paths.items() if name != "library"}
    ties = 0
    for case in cases(encoder):
        worst = {name: np.inf for name in opened if name != "library"}
        for draw in range(DRAWS):
            fed = feeds(encoder, *case, seed=100 * draw + case[1])
            outputs = {name: run(opened[name], fed, name) for name in opened}
            expected = original(fed)
            for a, b in zip(expected, outputs["library"], strict=True):
                if a.shape != b.shape:
                    raise Failure("SHAPE", f"{b.shape} instead of {a.shape} at {case}")
                # Halves that are too large in the original may be so for other tokens.
                told = np.isfinite(a) if encoder.choices["dtype"] == "f32" else np.isfinite(a).all()
                if (told & ~np.isfinite(b)).any():
                    raise Failure("FINITE", f"a small budget gives values that are not finite at {case}")
            for name in worst:
                worst[name] = min(worst[name], difference(outputs["library"], outputs[name]))
            limit = original.tolerance(SMALL[encoder.choices["dtype"]], fed, expected)
            if max(worst.values()) <= limit or padding_agrees(encoder, original, case, fed, outputs, limit):
                break
        else:
            # The same two segments may score alike whatever is drawn: a mask of halves leaves nothing of the scores behind it.
            if not (max(worst.values()) < np.inf and smallest_gap(tools, paths["library"], fed) < 1e-5):
                raise Failure("FORMS", f"library and {worst} differ at {case}")
            ties += 1
    return ties


def smallest_gap(tools, path, fed):
    """How clear the least clear selection of a run is: the last segment that is refined against the first that is not, relative."""
    model, shown = onnx.load(path), os.path.join(tools.folder, "model.shown.onnx")
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    selections = [node for node in model.graph.node if node.op_type == "VccSelect"]
    names = dict.fromkeys(name for node in selections for name in node.input if name not in constants)
    del model.graph.output[:]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    onnx.save(model, shown)
    values = constants | dict(zip(names, run(session(tools, shown, True), fed, "selections"), strict=True))
    smallest = np.inf
    for node in selections:
        scores, candidates, counts, vote, budget = (values[name] for name in node.input)
        valid = np.take_along_axis(counts, candidates, 1) > 0
        scores = np.where(valid[:, None, None], scores.astype(np.float64), -np.inf)
        with np.errstate(invalid="ignore"):
            weights = np.exp(scores - scores.max(-1, keepdims=True))
            weights = np.where(vote[:, None, :, None], weights / weights.sum(-1, keepdims=True), 0)
        mean = weights.sum((1, 2)) / np.maximum(vote.sum(1), 1)[:, None] / scores.shape[1]
        ranked = -np.sort(-np.where(valid & ~np.isnan(mean), mean, -np.inf), axis=1)
        wanted = int(budget[0])
        if 0 < wanted < ranked.shape[1]:
            last, first = ranked[:, wanted - 1], ranked[:, wanted]
            apart = last[np.isfinite(first)] - first[np.isfinite(first)]
            smallest = min(smallest, np.min(apart / np.maximum(last[np.isfinite(first)], 1e-30), initial=np.inf))
    return smallest


def padding_agrees(encoder, original, case, fed, outputs, limit):
    """Whether forms agree but for the rounding of scores behind a mask's number, which all scores of a row of padding stand behind."""
    valid = valid_tokens(encoder, *case).any(1)
    first, *others = outputs.values()
    for number, most in ((valid, limit), (~valid, max(limit, original.behind_mask(fed)))):
        watched = np.repeat(number[:, None], case[1], axis=1)
        if number.any() and max(difference(rows(encoder, first, watched), rows(encoder, other, watched)) for other in others) > most:
            return False
    return True


def compare_rows(tools, encoder, original, converted):
    """At a small budget too, a token depends on no padding and on no other row of the batch, if that is so in the original.

    Where the original gives NaN a small budget may give numbers, and nothing is known of them: how many cases have such values."""
    dtype, other, untold = encoder.choices["dtype"], session(tools, converted, True), 0
    changes = [change for change in (other_padding, other_rows) if applies(change, encoder)]
    for case in cases(encoder):
        for change in changes:
            worst, nans = np.inf, False
            for draw in range(DRAWS):
                fed = feeds(encoder, *case, seed=100 * draw + case[1])
                changed, watched = change(encoder, fed, *case)
                expected = original(fed)
                before, after = (rows(encoder, outputs, watched) for outputs in (expected, original(changed)))
                if difference(before, after) > ROUNDING[dtype]:
                    worst = 0.0  # so it is in the original
                    break
                nans = any(np.isnan(value).any() for value in before)
                small = (rows(encoder, run(other, f, "a small budget"), watched) for f in (fed, changed))
                small = ([np.where(np.isnan(b), 0, value) for b, value in zip(before, values, strict=True)] for values in small)
                # As a part of what may be.
                worst = min(worst, difference(*small) / original.tolerance(SMALL[dtype], fed, expected))
            untold += nans
            if not worst <= 1.0:
                raise Failure("ROWS", f"{change.__name__} changes what it must not, by {worst:.1e} of the tolerance, at {case}")
    return untold


def applies(change, encoder):
    choices = encoder.choices
    if change is other_padding:
        return choices["mask"] == "given"
    # Of 'auto' slots there are as many as the batch row with most VIP tokens needs.
    return choices["vip"] in ("first:1", "first:5", "last:3") and choices["batch"] != 1


def other_padding(encoder, fed, batch, length, padding):
    """Other values where padding stands; watched: the valid tokens."""
    valid = valid_tokens(encoder, batch, length, padding)
    changed = dict(fed)
    for name, (kind, _, shape) in encoder.fed.items():
        if kind == "stream" or kind in ("ids", "types") and encoder.choices["mask_shape"] != "ids":
            last = np.moveaxis(fed[name].copy(), (shape.index("B"), shape.index("N")), (0, 1))
            last[~valid] = last[~valid] * 3 + 1 if kind == "stream" else 1
            changed[name] = np.ascontiguousarray(np.moveaxis(last, (0, 1), (shape.index("B"), shape.index("N"))))
    return changed, valid


def other_rows(encoder, fed, batch, length, padding):
    """Other values in all rows of the batch but the first, which is watched."""
    changed, other = dict(fed), feeds(encoder, batch, length, padding, seed=1000 + length)
    for name, (_, _, shape) in encoder.fed.items():
        if "B" in shape:
            first = np.arange(batch).reshape([-1 if size == "B" else 1 for size in shape]) == 0
            changed[name] = np.where(first, fed[name], other[name])
    watched = np.zeros((batch, length), bool)
    watched[0] = True
    return changed, watched


def rows(encoder, outputs, watched):
    """The watched tokens of every output; of outputs with no tokens the batch rows that have one."""
    taken = []
    for axes, value in zip(encoder.graph.axes.values(), outputs, strict=True):
        if axes == "FD":
            taken.append(value.reshape(*watched.shape, -1)[watched])
        elif "N" in axes:
            taken.append(np.moveaxis(value, (axes.index("B"), axes.index("N")), (0, 1))[watched])
        else:
            taken.append(value[watched.any(1)])
    return taken


def small_budget(choices):
    return ",".join("1" for _ in choices["ladder"].split(",")[1:])


def refusal(conversion, blocks):
    """Why not all blocks were converted; None if they were."""
    if conversion.code == 3:
        found = re.search(r"[RE]-[A-Z-]+(?= at )|E-NO-BLOCKS", conversion.message)
        return (found.group() if found else "?"), conversion.message
    refused = [why for _, why in conversion.blocks if why]
    if refused:
        return refused[0]["code"], str(refused)
    if len(conversion.blocks) != blocks:
        return "MISSING", f"{len(conversion.blocks)} blocks of {blocks} were found"
    return None


def check_unsound(tools, choices, seed, mutation):
    """Raises a Failure if a block with the mutation is converted, refused with the wrong code, or the conversion of the others is wrong."""
    encoder = Encoder(choices, seed, mutation)
    path = os.path.join(tools.folder, "model.onnx")
    save(encoder.model, path)
    full = convert(tools, path, choices, "--refine", "all")
    if full.code not in (0, 3):
        raise Failure("EXIT", f"{full.code}: {full.message[:400]}")
    touched = 1 if mutation.block is not None else choices["blocks"]
    converted = sum(mode == "vcc" for mode, _ in full.blocks)
    if converted > (choices["blocks"] - touched) * choices["towers"]:
        raise Failure("ACCEPTED", f"{converted} blocks were converted, {touched} of {choices['blocks']} must not be")
    codes = re.findall(r"[RE]-[A-Z-]+", f"{full.message} {full.blocks}")
    if not set(codes) & {*mutation.codes, "E-NO-BLOCKS"}:
        raise Failure("CODE", f"{codes}, not {mutation.codes}: {full.message[:300]}")
    original = Original(tools, encoder, path, seed)
    if full.code == 0:
        compare_full(tools, encoder, original, full.path)


def check(tools, choices, seed):
    """Raises a Failure if the encoder of these choices is refused or converted wrongly; else in how many cases selections are near-ties, and in
    how many not all could be compared."""
    encoder = Encoder(choices, seed)
    path = os.path.join(tools.folder, "model.onnx")
    save(encoder.model, path)
    full = convert(tools, path, choices, "--refine", "all", *plan(choices, WINDOW["full"]))
    if full.code not in (0, 3):
        raise Failure("EXIT", f"{full.code}: {full.message[:400]}")
    refused = refusal(full, choices["blocks"] * choices["towers"])
    original = Original(tools, encoder, path, seed)
    if full.code == 0:
        compare_full(tools, encoder, original, full.path)
    if refused:
        raise Failure(f"REFUSED {refused[0]}", refused[1][:500])
    os.replace(full.path, os.path.join(tools.folder, "model.full.onnx"))
    forms = {"library": (choices, ()), "inline": (choices, ("--inline",))}
    if choices["device"] == "cuda":
        # The same results in another way.
        forms["cpu"] = (choices | {"device": "cpu"}, ())
    paths = {}
    for name, (planned, options) in forms.items():
        small = convert(tools, path, planned, "--refine", small_budget(choices), *plan(planned, WINDOW["small"]), *options)
        if small.code != 0:
            raise Failure("EXIT", f"{small.code} at a small budget: {small.message[:400]}")
        paths[name] = os.path.join(tools.folder, f"model.small.{name}.onnx")
        os.replace(small.path, paths[name])
    ties = compare_small(tools, encoder, original, paths)
    return ties, compare_rows(tools, encoder, original, paths["library"])
