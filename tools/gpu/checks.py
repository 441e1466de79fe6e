"""The steps that say right or wrong: operators, sanitizers, models, copies, graphs."""

import ctypes
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort

from .common import ROOT, attempt, feeds, hold, row

HOST = ROOT / "crates/vcc-ops/tests/host.py"
# Sums in another order; sums in another order of numbers of 16 bits.
TOLERANCE, TOLERANCE_F16 = 1e-4, 1e-2
MODELS = ("bert__ts17_sdpa", "bert__fp16_ts17_sdpa", "roberta__ts17_sdpa", "t5_encoder__ts17_eager", "vit__ts17_sdpa")
FIXED = ("--vip", "first:2", "--ladder", "8,2,1")
PLANS = {
    "full budget": (*FIXED, "--refine", "all"),
    "small budget": (*FIXED, "--refine", "3,4"),
    "local block": (*FIXED, "--refine", "3,4", "--blocks", "0=local:16,1-=vcc"),
    "runtime budget": (*FIXED, "--refine", "all", "--runtime-budget"),
}


def status(setup):
    library = ctypes.CDLL(str(setup.library))
    library.VccCudaStatus.restype = ctypes.c_char_p
    said = library.VccCudaStatus().decode()
    row("library", said, said.startswith("CUDA kernels") and "no device" not in said)
    row("ONNX Runtime", f"{ort.__version__}: {', '.join(ort.get_available_providers())}", setup.provider in ort.get_available_providers())
    smi = shutil.which("nvidia-smi")
    if smi:
        query = "--query-gpu=name,driver_version,memory.total,clocks.max.memory"
        attempt("device", lambda: subprocess.run([smi, query, "--format=csv,noheader"], capture_output=True, text=True, check=True).stdout)
    else:
        row("device", "there is no nvidia-smi", None)
    attempt("provider", lambda: setup.session(fixture(setup, MODELS[0]), ours=False).get_providers()[0])


def fixture(setup, name):
    path = setup.work / f"{name}.onnx"
    shutil.copy(ROOT / f"fixtures/models/{name}.onnx", path)
    return path


# The operators alone, against NumPy.


def host_test(setup, wrapper=(), cases=None):
    command = [*wrapper, sys.executable, HOST, setup.library, "0", *([str(cases)] if cases else [])]
    environment = {**os.environ, "VCC_PROVIDER": setup.provider, **({"VCC_ONLY_OURS": "1"} if setup.junk else {})}
    return subprocess.run([str(part) for part in command], env=environment, capture_output=True, text=True, errors="replace")


def operators(setup):
    done = host_test(setup, cases=3 if setup.small else None)
    lines = [line.strip() for line in (done.stdout if done.returncode == 0 else done.stderr).splitlines() if line.strip()]
    row("against NumPy: f32, f16, bf16", "; ".join(lines) if done.returncode == 0 else lines[-1], done.returncode == 0)


def sanitizer():
    """A compute-sanitizer that runs a program here, or why there is none: that of the machine's toolkit, or the wheel nvidia-cuda-sanitizer-api."""
    places = [Path(place) for place in os.environ.get("PATH", "").split(os.pathsep) if place]
    places += [Path("/usr/local/cuda/bin"), *(Path(place) / "nvidia/cu13/bin" for place in sys.path)]
    found = [place / "compute-sanitizer" for place in places if (place / "compute-sanitizer").is_file()]
    said = "there is none: install nvidia-cuda-sanitizer-api, or the CUDA toolkit"
    # It is made for some drivers, and not for every kind of virtual machine.
    program = "import ctypes; c = ctypes.CDLL('libcuda.so.1'); p = ctypes.c_void_p(); "
    program += "raise SystemExit(c.cuInit(0) or c.cuDevicePrimaryCtxRetain(ctypes.byref(p), 0))"
    for path in dict.fromkeys(found):
        try:
            done = subprocess.run([path, sys.executable, "-c", program], capture_output=True, text=True, errors="replace", timeout=120)
        except (OSError, subprocess.TimeoutExpired) as error:
            said = f"{path} does not run: {error}"
            continue
        if done.returncode == 0:
            return path, ""
        lines = [line.strip("= ") for line in (done.stdout + done.stderr).splitlines() if "rror" in line]
        said = f"{path} runs no program here: {'; '.join(lines)[:200]}"
    return None, said


def sanitized(tool):
    def step(setup):
        program, why = (None, "needs a GPU") if setup.small else sanitizer()
        if not program:
            row("operators", f"compute-sanitizer: {why}", None)
            return
        # Calls that fail are told by who made them; some may.
        wrapper = [program, "--tool", tool, "--error-exitcode", "9", "--report-api-errors", "no"]
        # ONNX Runtime's own kernels are not ours to check. But initcheck has to see what they write.
        everything = tool == "initcheck"
        wrapper += ["--print-limit", "10000"] if everything else ["--kernel-name", "kernel_substring=vcc_"]
        done = host_test(setup, wrapper, cases=6)
        said = [line.strip("= ") for line in done.stdout.splitlines() if line.startswith("=========") and line.strip("= ")]
        well = "ok" in done.stdout.splitlines()
        if not well:
            said.append(done.stderr.strip()[-300:])
        if everything and done.returncode == 9:
            well = well and not any("vcc_" in line for line in said)
        else:
            well = well and done.returncode == 0
        row("operators", said[-1] if said else f"code {done.returncode}", well)

    return step


memcheck, racecheck, initcheck, synccheck = map(sanitized, ("memcheck", "racecheck", "initcheck", "synccheck"))


# Converted models.


def each_model(setup, plans, check):
    for name in MODELS:
        original = fixture(setup, name)
        for plan in plans:

            def work(plan=plan):
                return check(setup.convert(original, f"{name} {plan}".replace(" ", "_"), "--vip-capacity", "2", *PLANS[plan]), "fp16" in name)

            attempt(f"{name}, {plan}", work)


def models(setup):
    """The device beside the CPU. Equal scores may be refined in another order: one input of eight may differ where not all are refined."""

    def check(path, half):
        cpu = setup.session(path, provider="CPUExecutionProvider")
        # Products in full: TF32 has 10 bits.
        device = setup.session(path, use_tf32=0)
        errors = []
        for seed in range(2 if setup.small else 8):
            inputs = inputs_of(cpu, 3, (37, 120)[seed % 2], seed)
            if "runtime" in path.name:
                inputs["vcc_budget"] = np.array([3, 4])
            errors.append(setup.difference(cpu.run(None, inputs), device.run(None, inputs)))
        limit = TOLERANCE_F16 if half else TOLERANCE
        outside = sum(error > limit for error in errors)
        said = f"{sorted(errors)[len(errors) // 2]:.1e} from the CPU, {max(errors):.1e} at most"
        assert outside <= (0 if "full" in path.name else 1), said
        return said

    each_model(setup, PLANS, check)


def inputs_of(session, batch, length, seed=0):
    if any(port.name == "input_ids" for port in session.get_inputs()):
        return feeds(session, batch, length, seed)
    (port,) = session.get_inputs()
    shape = [size if isinstance(size, int) else 2 for size in port.shape]
    return {port.name: np.random.default_rng(seed).standard_normal(shape).astype(np.float32)}


def copies(setup):
    """Where ONNX Runtime runs our operators, what it copies between host and device, and what it computes on the host."""
    each_text_model(setup, lambda path, _: placement(setup, path))


# Numbers in the largest shape.
SIZES = 16


def placement(setup, path):
    with tempfile.TemporaryDirectory() as folder:
        config = [("enable_profiling", True), ("profile_file_prefix", f"{folder}/profile")]
        session = setup.session(path, optimized=f"{folder}/optimized.onnx", config=config)
        session.run(None, inputs_of(session, 1, 120))
        with open(session.end_profiling()) as file:
            events = [event["args"] for event in json.load(file) if event.get("cat") == "Node" and "provider" in event.get("args", {})]
        nodes = onnx.load(f"{folder}/optimized.onnx", load_external_data=False).graph.node
    ours = [node.name for node in nodes if node.op_type.startswith("Vcc")]
    assert ours, "none of our operators is left"
    elsewhere = {event["op_name"] for event in events if event["op_name"].startswith("Vcc") and event["provider"] != setup.provider}
    assert not elsewhere, f"not on the device: {', '.join(sorted(elsewhere))}"
    # One anywhere is in the way of a CUDA graph.
    copied = [node.input[0] for node in nodes if node.op_type.startswith("Memcpy")]
    assert not copied, f"{len(copied)} copies between host and device: {', '.join(copied[:5])}"
    if setup.stand_in:
        return f"{len(ours)} operators on {setup.provider}"
    hosted = [event for event in events if event["provider"] == "CPUExecutionProvider"]
    large = {event["op_name"] for event in hosted if max(map(elements, event["output_type_shape"]), default=0) > SIZES}
    assert not large, f"on the host: {', '.join(sorted(large))}"
    return f"{len(ours)} operators on {setup.provider}, no copies, {len(hosted)} of {len(events)} nodes on the host: sizes"


def elements(output):
    """Of a profile's `{type: shape}`."""
    return max((math.prod(shape) for shape in output.values()), default=0)


def each_text_model(setup, check):
    for name in MODELS[:-1]:
        for plan in ("small budget", "local block"):
            path = setup.convert(fixture(setup, name), f"{name} {plan}".replace(" ", "_"), "--vip-capacity", "2", *PLANS[plan])
            attempt(f"{name}, {plan}", lambda path=path, half="fp16" in name: check(path, half))


def graph(setup):
    """The first run captures a graph, the others replay it with other inputs in the same memory."""

    def check(path, half):
        captured, plain = setup.session(path, enable_cuda_graph=1, use_tf32=0), setup.session(path, use_tf32=0)
        inputs = feeds(plain, 1, 120)
        held = hold(setup, inputs)
        binding = captured.io_binding()
        for name, value in held.items():
            binding.bind_ortvalue_input(name, value)
        outputs = dict(zip([port.name for port in captured.get_outputs()], plain.run(None, inputs)))
        for name, value in hold(setup, outputs).items():
            binding.bind_ortvalue_output(name, value)
        worst = 0.0
        for shift in range(4):
            inputs["input_ids"] = (inputs["input_ids"] + shift) % 100
            held["input_ids"].update_inplace(inputs["input_ids"])
            captured.run_with_iobinding(binding)
            worst = max(worst, setup.difference(plain.run(None, inputs), binding.copy_outputs_to_cpu()))
        assert worst <= (TOLERANCE_F16 if half else TOLERANCE), f"a replay differs by {worst:.1e}"
        return f"4 runs of one graph, {worst:.1e} from runs without"

    each_text_model(setup, check)
