"""The library's CUDA operators inside ONNX Runtime, with a stand-in for the driver that runs the real kernels on the CPU.

    python cuda_mock.py LIBRARY MOCK FOLDER

MOCK is made from mock_driver.cpp. FOLDER holds converted models (NAME.vcc.onnx), which must give with the CUDA operators what they give with
the CPU operators. Each case below runs in a process of its own, as the library decides once per process what it registers.
"""

import ctypes
import glob
import os
import subprocess
import sys
import tempfile

import numpy as np
import onnxruntime as ort

sys.dont_write_bytecode = True  # no cache beside the sources
from host import VERSION, node, pipeline, refused, session

LIBRARY, MOCK, FOLDER = sys.argv[1:4]
TOLERANCE = {np.dtype(np.float32): 1e-5, np.dtype(np.float16): 2e-3}


class Counts(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int) for name in ("loads", "launches", "copies", "synchronisations")]


def mock():
    driver = ctypes.CDLL(MOCK)
    driver.vcc_mock_counts.restype = Counts
    driver.vcc_mock_context.argtypes = [ctypes.c_uint64]
    return driver


def status():
    """What the library says of CUDA."""
    library = ctypes.CDLL(LIBRARY)
    library.VccCudaStatus.restype = ctypes.c_char_p
    return library.VccCudaStatus().decode()


def block(capacity=8):
    """Three blocks of a model, and its inputs."""
    n, d = 300, 32
    rng = np.random.default_rng(1)
    vip, valid = np.arange(n)[None] % 50 == 0, np.arange(n)[None] < 280
    slots = capacity or 6
    inputs = {"x": rng.standard_normal((1, n, d)).astype(np.float32), "vip": vip, "valid": valid}
    inputs["scores"] = rng.standard_normal((1, 2, slots, -(-(n - slots) // 16))).astype(np.float32)
    nodes, constants = pipeline(d, np.float32, blocks=3, budget=5)
    nodes[0] = node("VccPartition", ["vip", "valid"], ["token", "count", "slot", "vote", "roots"], ladder=[16, 1], capacity=capacity)
    return session(nodes, inputs, {"out": np.float32}, 1, constants), inputs


# The cases.


def nothing_but_launches():
    driver = mock()
    made, inputs = block()
    counts = driver.vcc_mock_counts()
    assert (counts.loads, counts.launches) == (1, 0), "the kernels are loaded when the nodes are made"
    auto, auto_inputs = block(capacity=0)
    assert driver.vcc_mock_counts().loads == 0, "the second session loads them again"
    for _ in range(2):
        made.run(None, inputs)
        counts = driver.vcc_mock_counts()
        assert counts.launches > 10 and counts.loads == counts.synchronisations == 0, [getattr(counts, name) for name, _ in Counts._fields_]
        if VERSION >= (1, 18):
            assert counts.copies == 0, "the state is copied"
    auto.run(None, auto_inputs)
    counts = driver.vcc_mock_counts()
    assert counts.synchronisations == 1, "auto waits once"


def graph_capture():
    driver = mock()
    (made, inputs), (auto, auto_inputs) = block(), block(capacity=0)
    driver.vcc_mock_capture(1)
    made.run(None, inputs)
    refused(lambda: auto.run(None, auto_inputs), "VccPartition node", "CUDA graph", "--vip-capacity")


def contexts():
    driver = mock()
    made, inputs = block()
    (want,) = made.run(None, inputs)
    driver.vcc_mock_counts()
    driver.vcc_mock_context(2)
    (got,) = made.run(None, inputs)
    assert got.tobytes() == want.tobytes() and driver.vcc_mock_counts().loads == 1, "a second device has its own kernels"
    block()
    driver.vcc_mock_context(1)
    made.run(None, inputs)
    assert driver.vcc_mock_counts().loads == 0, "kernels are loaded once per context"
    driver.vcc_mock_context(0)
    refused(lambda: made.run(None, inputs), "no CUDA context is current: CUDA_ERROR_INVALID_CONTEXT (201)")
    made, inputs = block()
    driver.vcc_mock_context(1)
    assert made.run(None, inputs)[0].tobytes() == want.tobytes(), "made before there was a context"


def block_too_large():
    made, inputs = block()
    refused(
        lambda: made.run(None, inputs),
        "VccPartition node 'VccPartition_of_token'", "kernel vcc_partition_tokens, grid [1, 1, 1], block 512",
        "CUDA_ERROR_INVALID_VALUE (1)", "vip [1, 300]",
    )  # fmt: skip


def kernels_too_new():
    refused(block, "VccPartition node", "CUDA_ERROR_UNSUPPORTED_PTX_VERSION (222)", "the driver is of CUDA 13.0")


def cpu_instead():
    """The driver is missing or too old: the CPU operators run, and the mock nothing."""
    made, inputs = block()
    made.run(None, inputs)
    if os.path.exists(os.environ["VCC_CUDA_MOCK"]):
        assert mock().vcc_mock_counts().launches == 0
    print(status())


def models(out):
    """Runs all converted models."""
    results = {}
    for path in sorted(glob.glob(os.path.join(FOLDER, "*.vcc.onnx"))):
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.register_custom_ops_library(LIBRARY)
        made = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        assert all(port.type == "tensor(int64)" for port in made.get_inputs()), f"{path}: inputs that are not token ids and masks"
        for length in (37, 120):
            rng = np.random.default_rng(length)
            feeds = {}
            for port in made.get_inputs():
                value = rng.integers(5, 100, (2, length))
                if "mask" in port.name:
                    value = np.arange(length)[None] < np.array([[length], [length - length // 4]])
                elif "type" in port.name:
                    value = np.broadcast_to(np.arange(length) > length // 2, (2, length))
                feeds[port.name] = np.asarray(value).astype(np.int64)
            for output, value in zip(made.get_outputs(), made.run(None, feeds)):
                results[f"{os.path.basename(path)} {length} {output.name}"] = value
    if "VCC_CUDA_MOCK" in os.environ:
        assert mock().vcc_mock_counts().launches > 0
    np.savez(out, **results)


# Running them.


def child(case, *arguments, **variables):
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("VCC_CUDA", "VCC_MOCK"))}
    command = [sys.executable, __file__, LIBRARY, MOCK, FOLDER, case.__name__, *arguments]
    done = subprocess.run(command, env={**environment, **variables}, capture_output=True, text=True)
    assert done.returncode == 0, f"{case.__name__}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def main():
    mocked = {"VCC_CUDA_MOCK": MOCK}
    child(nothing_but_launches, **mocked)
    child(graph_capture, **mocked)
    child(contexts, **mocked)
    child(block_too_large, **mocked, VCC_MOCK_BLOCK="64")
    child(kernels_too_new, **mocked, VCC_MOCK_LOAD="222")
    old = child(cpu_instead, **mocked, VCC_MOCK_VERSION="12040")
    for text in (old.stdout, old.stderr):
        assert "the driver is of CUDA 12.4; they need CUDA 13.0 (driver 580) or newer" in text, text
    assert old.stderr.count("vcc_ops:") == 1, "a warning, once"
    missing = child(cpu_instead, VCC_CUDA_MOCK="/no/such/driver.so")
    assert "/no/such/driver.so cannot be used" in missing.stderr, missing.stderr
    operators = subprocess.run([sys.executable, os.path.join(os.path.dirname(__file__), "host.py"), LIBRARY], env={**os.environ, **mocked})
    assert operators.returncode == 0, "the operators"
    print("  loads, waits, copies, contexts, capture; what a driver may refuse", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        files = [os.path.join(folder, name) for name in ("cpu.npz", "cuda.npz")]
        child(models, files[0])
        child(models, files[1], **mocked)
        cpu, cuda = (np.load(file) for file in files)
        assert cpu.files == cuda.files and cpu.files, "no models"
        worst = 0.0
        for name in cpu.files:
            a, b = cpu[name].astype(np.float64), cuda[name].astype(np.float64)
            error = np.abs(a - b).max() / np.abs(a).max()
            assert error <= TOLERANCE[cpu[name].dtype], f"{name}: {error:.2e}"
            worst = max(worst, error)
    print(f"  {len(cpu.files)} outputs of converted models: as on the CPU, {worst:.1e} apart at most", flush=True)
    print("ok", flush=True)


if __name__ == "__main__":
    if len(sys.argv) > 4:
        globals()[sys.argv[4]](*sys.argv[5:])
    else:
        main()
