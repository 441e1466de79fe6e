"""Runs converted models beside their originals in the ONNX Runtime of this Python.

    python tools/run_converted.py FOLDER [--library libvcc_ops.so]

FOLDER holds pairs NAME.onnx and NAME.vcc.onnx, converted at full budget: every output must be equal, with the operator
library (if it is given) and without it, in batches of 1 and 3 and at lengths around the segment size. Two runs of each
session: a defect of memory reuse shows in the second. Models that this runtime is too old for are counted, not hidden.
"""

import argparse
import glob
import os
import sys

import numpy as np
import onnx
import onnxruntime as ort

TOLERANCE = 1e-4
# Where the stream itself is float16, the order of rounded sums changes.
TOLERANCE_F16 = 5e-3
LENGTHS = (1, 16, 17, 37)
TYPES = {
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(bool)": bool,
}


def feeds(session, batch, length, rng):
    """Random inputs: token ids away from the special ones, masks with padding on the right of all rows but the first."""
    out = {}
    for port in session.get_inputs():
        shape = [d if isinstance(d, int) else (batch if i == 0 else length) for i, d in enumerate(port.shape)]
        name = port.name
        if "mask" in name:
            value = np.ones(shape)
            for row in range(1, shape[0]):
                value[row, max(1, shape[1] - row * shape[1] // 4) :] = 0
        elif "type" in name:
            value = np.broadcast_to(np.arange(shape[1]) > shape[1] // 2, shape)
        elif "float" in port.type:
            value = rng.standard_normal(shape)
        else:
            value = rng.integers(5, 100, shape)
        out[name] = np.asarray(value).astype(TYPES[port.type])
    return out


def open_session(path, library, half=False):
    options = ort.SessionOptions()
    options.log_severity_level = 4
    # Up to 1.18 ONNX Runtime leaves unused casts behind when it runs float16 models on a CPU, and then shares their memory
    # with values in use from the second run on.
    old = tuple(int(x) for x in ort.__version__.split(".")[:2]) < (1, 19)
    options.enable_mem_pattern = not (half and old)
    if library:
        options.register_custom_ops_library(library)
    # Where ONNX Runtime was built with CUDA and there is no GPU, it says so and takes the CPU.
    wanted = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    return ort.InferenceSession(path, options, providers=[name for name in wanted if name in ort.get_available_providers()])


def worst_difference(original, converted):
    worst = 0.0
    for batch in (1, 3):
        for length in LENGTHS:
            inputs = feeds(original, batch, length, np.random.default_rng(length))
            expected = original.run(None, inputs)
            for _ in range(2):
                got = converted.run(None, inputs)
                for a, b in zip(expected, got, strict=True):
                    if a.shape != b.shape or not np.isfinite(b.astype(np.float64)).all():
                        return float("inf")
                    a, b = a.astype(np.float64), b.astype(np.float64)
                    worst = max(worst, np.abs(a - b).max() / max(np.abs(a).max(), 1e-30))
    return worst


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder")
    parser.add_argument("--library")
    arguments = parser.parse_args()
    passed = failed = too_new = 0
    for path in sorted(glob.glob(os.path.join(arguments.folder, "*.vcc.onnx"))):
        name = os.path.basename(path)[: -len(".vcc.onnx")]
        try:
            original = open_session(os.path.join(arguments.folder, name + ".onnx"), None)
        except Exception:  # noqa: BLE001 - whatever the old runtime says of a newer model
            too_new += 1
            continue
        weights = onnx.load(os.path.join(arguments.folder, name + ".onnx")).graph.initializer
        half = any(w.data_type == onnx.TensorProto.FLOAT16 for w in weights)
        tolerance = TOLERANCE_F16 if half else TOLERANCE
        for library in [None] + ([arguments.library] if arguments.library else []):
            try:
                worst = worst_difference(original, open_session(path, library, half))
                outcome = f"{worst:.2e}"
            except Exception as error:  # noqa: BLE001 - a failure to run is a failed case
                worst, outcome = float("inf"), str(error)
            if worst <= tolerance:
                passed += 1
            else:
                failed += 1
                print(f"FAILED {name} {'with' if library else 'without'} the library: {outcome}")
    print(f"onnxruntime {ort.__version__}: {passed} passed, {failed} failed, {too_new} originals are too new for it")
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main())
