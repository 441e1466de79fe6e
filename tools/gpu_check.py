"""Checks the CUDA operators on a machine with a GPU, unattended, and ends in a table.

    python tools/gpu_check.py LIBRARY FOLDER [--provider NAME]

Needs onnxruntime-gpu with CUDA and cuDNN, and a LIBRARY with CUDA kernels (`cargo xtask cuda`, `cargo build --release`). FOLDER holds converted
models (NAME.vcc.onnx) whose inputs are token ids and masks, converted with --vip-capacity. Each is compared with the CPU, run as a CUDA graph,
searched for copies between host and device, and timed beside its original (NAME.onnx). Exit code: 0 all well, 1 something failed, 3 no GPU.
--provider CPUExecutionProvider tries this script itself where there is no GPU.
"""

import argparse
import ctypes
import glob
import os
import shutil
import subprocess
import sys
import tempfile
import time

import numpy as np
import onnx
import onnxruntime as ort

TOLERANCE = 2e-3


def open_session(path, library, provider, optimized=None, **settings):
    options = ort.SessionOptions()
    options.log_severity_level = 4
    if library:
        options.register_custom_ops_library(library)
    if optimized:
        options.optimized_model_filepath = optimized
    session = ort.InferenceSession(path, options, providers=[(provider, {key: str(value) for key, value in settings.items()})])
    if provider not in session.get_providers():
        raise RuntimeError(f"{provider} is not to be had")
    return session


def feeds(session, batch, length):
    """Random tokens; the last row is padded by a quarter."""
    rng, out = np.random.default_rng(length), {}
    for port in session.get_inputs():
        value = rng.integers(5, 100, (batch, length))
        if "mask" in port.name:
            value = np.ones((batch, length))
            value[-1, length - length // 4 :] = 0
        elif "type" in port.name:
            value = np.zeros((batch, length))
        out[port.name] = value.astype(np.int64)
    return out


def bind(session, inputs, device):
    binding = session.io_binding()
    for name, value in inputs.items():
        binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(value, device, 0))
    for output in session.get_outputs():
        binding.bind_output(output.name, device)
    return binding


def check_result(path, library, provider):
    cpu, gpu = open_session(path, library, "CPUExecutionProvider"), open_session(path, library, provider)
    worst = 0.0
    for length in (37, 120):
        inputs = feeds(cpu, 2, length)
        for a, b in zip(cpu.run(None, inputs), gpu.run(None, inputs), strict=True):
            a, b = a.astype(np.float64), b.astype(np.float64)
            worst = max(worst, np.abs(a - b).max() / np.abs(a).max())
    assert worst <= TOLERANCE, f"differs from the CPU by {worst:.1e}"
    return f"{worst:.1e} from the CPU"


def check_copies(path, library, provider):
    """Copies between host and device that ONNX Runtime put between the first operator of ours and the last."""
    with tempfile.TemporaryDirectory() as folder:
        optimized = os.path.join(folder, "optimized.onnx")
        open_session(path, library, provider, optimized)
        kinds = [node.op_type for node in onnx.load(optimized, load_external_data=False).graph.node]
    ours = [at for at, kind in enumerate(kinds) if kind.startswith("Vcc")]
    assert ours, "none of our operators is left"
    copies = sum(kind.startswith("Memcpy") for kind in kinds[ours[0] : ours[-1]])
    assert copies == 0, f"{copies} copies between host and device"
    return f"{len(ours)} operators, no copies"


def check_graph(path, library, provider):
    """The first run captures a graph, the others replay it with other inputs."""
    cuda = provider == "CUDAExecutionProvider"
    session = open_session(path, library, provider, **({"enable_cuda_graph": 1} if cuda else {}))
    plain = open_session(path, library, provider)
    device = "cuda" if cuda else "cpu"
    inputs = feeds(session, 1, 120)
    held = {name: ort.OrtValue.ortvalue_from_numpy(value, device, 0) for name, value in inputs.items()}
    binding = session.io_binding()
    for name, value in held.items():
        binding.bind_ortvalue_input(name, value)
    for output, value in zip(session.get_outputs(), plain.run(None, inputs)):
        binding.bind_ortvalue_output(output.name, ort.OrtValue.ortvalue_from_numpy(value, device, 0))
    for shift in range(3):
        inputs["input_ids"] = (inputs["input_ids"] + shift) % 100
        held["input_ids"].update_inplace(inputs["input_ids"])
        session.run_with_iobinding(binding)
        for a, b in zip(plain.run(None, inputs), binding.copy_outputs_to_cpu(), strict=True):
            assert np.abs(a.astype(np.float64) - b).max() <= TOLERANCE * np.abs(a).max(), f"replay {shift} differs"
    return "3 runs of one graph"


def check_time(path, library, provider):
    device = "cuda" if provider == "CUDAExecutionProvider" else "cpu"
    original = path[: -len(".vcc.onnx")] + ".onnx"
    times = []
    for name, ops in ((original, None), (path, library)):
        session = open_session(name, ops, provider)
        binding = bind(session, feeds(session, 1, 120), device)
        samples = []
        for _ in range(7):
            start = time.perf_counter()
            session.run_with_iobinding(binding)
            binding.synchronize_outputs()
            samples.append(time.perf_counter() - start)
        times.append(sorted(samples[2:])[2])
    return f"{times[0] * 1e3:.2f} -> {times[1] * 1e3:.2f} ms"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("library")
    parser.add_argument("folder")
    parser.add_argument("--provider", default="CUDAExecutionProvider")
    arguments = parser.parse_args()
    if arguments.provider == "CUDAExecutionProvider":
        if not shutil.which("nvidia-smi") or subprocess.run(["nvidia-smi"], capture_output=True).returncode:
            print("no GPU here: nvidia-smi is missing or finds none; nothing was checked")
            return 3
    library = ctypes.CDLL(os.path.abspath(arguments.library))
    library.VccCudaStatus.restype = ctypes.c_char_p
    rows, failed = [("library", "status", library.VccCudaStatus().decode())], 0
    paths = sorted(glob.glob(os.path.join(arguments.folder, "*.vcc.onnx")))
    if not paths:
        parser.error("no converted models in the folder")
    for path in paths:
        for check in (check_result, check_copies, check_graph, check_time):
            try:
                outcome = check(path, os.path.abspath(arguments.library), arguments.provider)
            except Exception as error:  # noqa: BLE001 - whatever goes wrong is a line of the table
                outcome, failed = f"FAILED: {error}", failed + 1
            rows.append((os.path.basename(path)[: -len(".vcc.onnx")], check.__name__[len("check_") :], " ".join(outcome.split())))
    print(f"| model | check | outcome ({arguments.provider}, ONNX Runtime {ort.__version__}) |\n|---|---|---|")
    for row in rows:
        print("| " + " | ".join(row) + " |")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
