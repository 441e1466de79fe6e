"""What the steps of gpu_check.py share: where things are, sessions, inputs, and how a step reports."""

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort

ROW = "ROW "
ROOT = Path(__file__).resolve().parents[2]
TOKENS = 1000  # ids below


@dataclass
class Setup:
    library: Path
    converter: Path
    # A folder for models, empty at the first step.
    work: Path
    # There is no GPU: the CPU execution provider in its place, and small models.
    stand_in: bool
    # There is no GPU but a CUDA execution provider that computes nothing but our operators: what it says of anything else is not looked at.
    junk: bool = False

    @property
    def small(self):
        return self.stand_in or self.junk

    @property
    def provider(self):
        return "CPUExecutionProvider" if self.stand_in else "CUDAExecutionProvider"

    @property
    def device(self):
        return "cpu" if self.stand_in else "cuda"

    def convert(self, original, name, *options):
        """`original`, converted; made once."""
        path = self.work / f"{name}.vcc.onnx"
        if not path.exists():
            draft = path.with_suffix(".draft")
            command = [self.converter, original, "-o", draft, "--device", "cuda", *options]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                raise RuntimeError(f"vcc-convert: {done.stderr.strip()}")
            draft.rename(path)
        return path

    def session(self, path, ours=True, provider=None, optimized=None, config=(), **settings):
        """A session on the device, or on another provider. `ours`: with the operator library."""
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.enable_mem_pattern = False
        for key, value in config:
            setattr(options, key, value)
        if ours:
            options.register_custom_ops_library(str(self.library))
        if optimized:
            options.optimized_model_filepath = str(optimized)
        provider = provider or self.provider
        settings = {key: str(value) for key, value in settings.items()} if provider != "CPUExecutionProvider" else {}
        session = ort.InferenceSession(str(path), options, providers=[(provider, settings)])
        if provider not in session.get_providers():
            raise RuntimeError(f"ONNX Runtime cannot make {provider}")
        # It would take the CPU after a failure, and what then runs says nothing.
        session.disable_fallback()
        return session

    def difference(self, expected, got):
        """The largest, relative to the largest value of its output."""
        worst = 0.0
        for a, b in zip(expected, got, strict=True):
            a, b = a.astype(np.float64), b.astype(np.float64)
            if a.shape != b.shape:
                return float("inf")
            if self.junk:
                continue
            if not np.isfinite(b).all():
                return float("inf")
            worst = max(worst, np.abs(a - b).max() / max(np.abs(a).max(), 1e-30))
        return worst


def row(what, outcome, well=True):
    """A line of the table."""
    print(ROW + json.dumps([str(what), str(outcome), well]), flush=True)


def attempt(what, work):
    """A line of the table: what `work` returns, or what went wrong in it."""
    try:
        row(what, work())
    except Exception as error:  # noqa: BLE001 - whatever goes wrong is a line of the table
        row(what, f"{type(error).__name__}: {error}", False)


def feeds(session, batch, length, seed=0):
    """Random tokens; of several rows, all but the first are padded by a quarter, and the third is nothing but padding."""
    rng, out = np.random.default_rng(seed + length), {}
    for port in session.get_inputs():
        value = rng.integers(5, 100, (batch, length))
        if "mask" in port.name:
            value = np.ones((batch, length))
            value[1:, length - length // 4 :] = 0
            value[2:3] = 0
        elif "type" in port.name:
            value = np.zeros((batch, length))
        out[port.name] = value.astype(np.int64)
    return out


def hold(setup, values):
    """Arrays in the device's memory."""
    return {name: ort.OrtValue.ortvalue_from_numpy(value, setup.device, 0) for name, value in values.items()}
