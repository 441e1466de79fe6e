"""Converted models in ONNX Runtime's CUDA execution provider, on a machine without a GPU.

    python cuda_provider.py LIBRARY CONVERTER FAKE

FAKE is what fake_cuda.py builds: the provider is the real one, CUDA is not, and only our own operators compute. So this shows what ONNX Runtime
decides and what it calls: which provider runs which node, where tensors are copied between host and device, what a CUDA graph is made of,
what is allocated and waited for. Results of models are junk and not looked at; operators alone are compared with NumPy. LIBRARY has CUDA kernels.
"""

import ctypes
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
sys.path.insert(0, str(ROOT / "tools"))
LIBRARY, CONVERTER, FAKE = (Path(path).absolute() for path in sys.argv[1:4])

STEPS = "status,operators,memcheck,models,copies,graph,bandwidth,roberta-4k,t5-4k,ladder-128k"
FIRST = ("--vip", "first:2", "--vip-capacity", "2")
SMALL = (*FIRST, "--ladder", "8,2,1", "--refine", "3,4")
CUDA = (*SMALL, "--device", "cuda")
LOCAL = ("--blocks", "0=local:16,1-=vcc")
# Beside those of gpu_check.py.
FORMS = (
    "albert__ts17_sdpa", "bart_encoder__ts17_sdpa", "bert__dyn18_sdpa", "bert__dyn23_sdpa", "bert__ortfused_ts17_sdpa",
    "bert__ts14_eager", "bert_crossenc__ts17_sdpa", "bert_hs__ts17_sdpa", "deberta_v2__ts17_eager", "deberta_v3__ts17_eager",
    "distilbert__dyn18_sdpa", "modernbert__dyn18_sdpa", "modernbert__ts17_sdpa", "mpnet__ts17_eager", "roberta__dyn18_sdpa",
    "t5_encoder__dyn18_eager", "vit__dyn18_sdpa", "vit__ts17_sdpa",
)  # fmt: skip


# Each case runs in a process of its own, with a folder for its models.


def converted(setup, name, options):
    original, path = setup.work / f"{name}.onnx", setup.work / f"{name}.vcc.onnx"
    shutil.copy(ROOT / f"fixtures/models/{name}.onnx", original)
    done = subprocess.run([CONVERTER, original, "-o", path, *options], capture_output=True, text=True)
    assert done.returncode == 0, f"{name}: {done.stderr}"
    return path


class Counts(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int) for name in ("loads", "launches", "copies", "synchronisations")]


def calls():
    """What was called since the last time: of CUDA by name, and what the library did."""
    cuda = ctypes.CDLL("libcuda.so.1")
    cuda.vcc_fake_calls.restype = ctypes.c_char_p
    cuda.vcc_mock_counts.restype = Counts
    found = dict(line.split("\t") for line in cuda.vcc_fake_calls().decode().splitlines())
    return {name: int(number) for name, number in found.items()}, cuda.vcc_mock_counts()


def bound(setup, path, **settings):
    """A session, and a run of it with inputs and outputs on the device."""
    from gpu.checks import inputs_of
    from gpu.common import hold

    plain = setup.session(path)
    inputs = inputs_of(plain, 1, 120)
    outputs = dict(zip([port.name for port in plain.get_outputs()], plain.run(None, inputs)))
    session = setup.session(path, **settings) if settings else plain
    binding = session.io_binding()
    held = hold(setup, inputs), hold(setup, outputs)
    for name, value in held[0].items():
        binding.bind_ortvalue_input(name, value)
    for name, value in held[1].items():
        binding.bind_ortvalue_output(name, value)
    # The binding keeps them.
    return lambda: session.run_with_iobinding(binding)


def raises(call, *words):
    try:
        call()
    except Exception as error:  # noqa: BLE001: ONNX Runtime has a class for each code
        missing = [word for word in words if word not in str(error)]
        assert not missing, f"{missing} not in: {error}"
    else:
        raise AssertionError(f"passed, instead of {words}")


def operators(setup):
    """The provider calls our kernels in float32, float16 and bfloat16, and what they give is right."""
    variables = {"VCC_PROVIDER": setup.provider, "VCC_ONLY_OURS": "1"}
    done = subprocess.run([sys.executable, "-B", HERE / "host.py", LIBRARY, "1", "30"], env={**os.environ, **variables})
    assert done.returncode == 0


def forms(setup):
    """Placement, and a CUDA graph, of models of many exporters and kinds."""
    from gpu.checks import placement

    for name in FORMS:
        path = converted(setup, name, (*FIRST, "--ladder", "16,1", "--refine", "2", "--device", "cuda"))
        said = placement(setup, path)
        run = bound(setup, path, enable_cuda_graph=1)
        calls()
        run()
        cuda, _ = calls()
        assert cuda.get("cudaGraphLaunch") == cuda.get("cudaStreamEndCapture") == 1, f"{name}: {cuda}"
        print(f"    {name}: {said}", flush=True)


def steady(setup):
    """A run that is not the first: nothing is allocated, loaded, copied from or to the host or waited for before its end."""
    for name, options in (("bert__ts17_sdpa", ()), ("bert__fp16_ts17_sdpa", ()), ("t5_encoder__ts17_eager", ()), ("roberta__ts17_sdpa", LOCAL)):
        run = bound(setup, converted(setup, name, (*CUDA, *options)))
        run()
        calls()
        run()
        cuda, ours = calls()
        assert ours.launches > 5 and ours.loads == ours.copies == ours.synchronisations == 0, [getattr(ours, key) for key, _ in Counts._fields_]
        allocated = [key for key in cuda if "Malloc" in key or "Alloc" in key or "Free" in key]
        across = [key for key in cuda if key in ("copy HtoD", "copy DtoH", "cudaMemcpy", "cudaDeviceSynchronize", "cudaLaunchHostFunc")]
        assert not allocated + across, f"{name}: {allocated + across}"
        # ONNX Runtime's own, at the end.
        assert cuda.get("cudaStreamSynchronize", 0) <= 2, cuda
        assert not any("wrong kind" in key or "impossible" in key for key in cuda), cuda


def graphs(setup):
    """One capture, and then nothing but launches of it."""
    run = bound(setup, converted(setup, "bert__ts17_sdpa", CUDA), enable_cuda_graph=1)
    calls()
    run()
    cuda, ours = calls()
    assert cuda["cudaStreamBeginCapture"] == 1 and not any(key.startswith("refused") for key in cuda), cuda
    assert ours.loads == ours.synchronisations == 0, "loaded or waited"
    run()
    cuda, ours = calls()
    assert cuda.pop("cudaGraphLaunch") == 1 and set(cuda) <= {"cudaStreamSynchronize", "cudaSetDevice"} and ours.launches == 0, cuda


def capacity_auto(setup):
    path = converted(setup, "bert__ts17_sdpa", (*CUDA, "--vip-capacity", "auto"))
    run = bound(setup, path)
    calls()
    run()
    assert calls()[1].synchronisations == 1, "auto waits once"
    raises(bound(setup, path, enable_cuda_graph=1), "VccPartition node", "CUDA graph is captured", "--vip-capacity")


def control_flow(setup):
    """Without --device cuda a local block is a Scan."""
    path = converted(setup, "bert__ts17_sdpa", (*SMALL, *LOCAL))
    bound(setup, path)()
    raises(lambda: setup.session(path, enable_cuda_graph=1), "control flow nodes")


def runtime_budget(setup):
    from gpu.checks import inputs_of

    path = converted(setup, "bert__ts17_sdpa", (*CUDA, "--runtime-budget"))
    session = setup.session(path)
    session.run(None, {**inputs_of(session, 1, 120), "vcc_budget": np.array([3, 4])})


def inlined(setup):
    """No operators of ours: the same without a library."""
    path = converted(setup, "bert__ts17_sdpa", (*CUDA, "--inline"))
    session = setup.session(path, ours=False, enable_cuda_graph=1)
    assert setup.provider in session.get_providers()


def planted(setup):
    """What must be noticed: a model for CPUs, whose sizes are copied to the device, and operators without a CUDA kernel between ours."""
    from gpu.checks import placement

    path = converted(setup, "bert__ts17_sdpa", SMALL)
    raises(lambda: placement(setup, path), "copies between host and device", "vcc/encoder0/gather")
    raises(lambda: setup.session(path, enable_cuda_graph=1), "graph capture")
    path = converted(setup, "bert__int8_ts17_sdpa", CUDA)
    raises(lambda: placement(setup, path), "copies between host and device", "vcc/encoder0/block0/select/slice")


# Running them.


def environment(**variables):
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("VCC_CUDA", "VCC_MOCK", "VCC_PROVIDER", "LD_LIBRARY_PATH"))}
    return {**kept, "LD_LIBRARY_PATH": str(FAKE), **variables}


def child(case):
    command = [sys.executable, "-B", __file__, LIBRARY, CONVERTER, FAKE, case.__name__]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, f"{case.__name__}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    print(f"  {case.__name__}", done.stdout, sep="\n", end="", flush=True)


def gpu_check():
    """The script for machines with a GPU, from end to end."""
    command = [sys.executable, "-B", ROOT / "tools/gpu_check.py", "--library", LIBRARY, "--converter", CONVERTER, "--junk", "--only", STEPS]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True)
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in done.stdout.splitlines() if line.startswith("| ")][1:]
    assert done.returncode == 0, done.stdout + done.stderr
    left_out = [row for row in rows if row[2] != "ok"]
    assert all("nvidia-smi" in row[3] or "GPU" in row[3] or "compute-sanitizer" in row[3] or "sympy" in row[3] for row in left_out), left_out
    assert {row[0] for row in rows} == set(STEPS.split(",")), rows
    print(f"  gpu_check.py: {len(rows) - len(left_out)} lines are well, {len(left_out)} not run", flush=True)


def main():
    for case in (operators, steady, graphs, capacity_auto, control_flow, runtime_budget, inlined, planted, forms):
        child(case)
    gpu_check()
    print("ok", flush=True)


if __name__ == "__main__":
    if len(sys.argv) > 4:
        from gpu.common import Setup

        with tempfile.TemporaryDirectory() as folder:
            globals()[sys.argv[4]](Setup(LIBRARY, CONVERTER, Path(folder), stand_in=False, junk=True))
    else:
        main()
