#!/usr/bin/env python3
"""Measures converted encoders beside their originals and beside the VCC authors' own form, and writes tables.

    python tools/measure/run.py [--out target/measure] [--only 4k 16k ..] [--bin target/release]

A case is a set of models that take turns on the same input, each in a process of its own: the original in ONNX Runtime as it is and as
onnxruntime.transformers fuses it, the original in PyTorch with scaled_dot_product_attention, the authors' form exported to ONNX, converted
models, and the products and attentions of the converted model alone. Weights are random; all lengths are without padding.
Before anything is measured, the reconstruction of the authors' form is compared with their outputs (golden.py). The case `exact`
compares converted models with their originals at full budget.

Needs the packages of tools/export/requirements.txt: a Python that has them is used as it is, else they are installed in target/export.
Writes measure.md and measure.json into the folder, after every case; models stay in its folder `models` for the next time, all else is
removed. Needs 24 GiB of memory and 12 GB of disk; on two quiet cores everything takes about two hours, 4k eight minutes.
"""

import argparse
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def environment():
    """Goes on in a Python that has the packages."""
    if all(importlib.util.find_spec(name) for name in ("torch", "transformers", "onnx", "onnxruntime")):
        return
    folder = ROOT / "target" / "export"
    python = folder / "bin" / "python"
    if Path(sys.executable) == python:
        sys.exit(f"{folder} is not complete: remove it and start again")
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    requirements = ROOT / "tools" / "export" / "requirements.txt"
    subprocess.run([python, "-m", "pip", "install", "--disable-pip-version-check", "-r", requirements], check=True)
    os.execv(python, [python, *sys.argv])


class Bench:
    def __init__(self, arguments):
        self.out, self.binaries, self.threads = arguments.out.resolve(), arguments.bin.resolve(), arguments.threads
        self.models, self.work = self.out / "models", self.out / "work"
        for folder in (self.models, self.work):
            folder.mkdir(parents=True, exist_ok=True)

    def job(self, case, entry):
        """Makes the model of an entry; returns what a worker is told."""
        import models

        name = entry.label().replace(" ", "-").replace("'", "")
        arrays = self.work / f"{name}.npz"
        feeds = models.inputs(entry.n, entry.plan.vip if entry.plan else 0, arrays)
        original, path = models.original(case.model, self.models), self.work / f"{name}.onnx"
        job = {"engine": "onnx", "threads": self.threads, "inputs": str(arrays)}
        if entry.kind == "sdpa":
            return job | {"engine": "pytorch", "heads": models.HEADS, "model": str(original)}
        if entry.kind == "as it is":
            return job | {"model": str(original)}
        if entry.kind == "fused":
            models.fused(original, path)
        elif entry.kind == "authors":
            models.authors(original, entry.plan, feeds, path)
        else:
            models.converted(original, entry.plan, self.binaries, path)
            job["library"] = str(self.binaries / "libvcc_ops.so")
        return job | {"model": str(path)}

    def profile(self, job, label):
        """The job of running the model's pieces, and the times of its operators."""
        folder = self.work / f"{label}.pieces"
        folder.mkdir()
        path = folder / "job.json"
        path.write_text(json.dumps(job))
        subprocess.run([sys.executable, Path(__file__).with_name("profile_run.py"), path, folder], check=True)
        found = json.loads((folder / "profile.json").read_text())
        return {"engine": "pieces", "threads": self.threads, "pieces": found["pieces"]}, found["operators"]

    def measure(self, case):
        import turns

        jobs, pieces, profiles = {}, {}, {}
        for entry in case.entries:
            print(f"  preparing {entry.label()}", flush=True)
            jobs[entry.label()] = self.job(case, entry)
        converted = [entry.label() for entry in case.entries if entry.kind == "converted"]
        for label in converted[: case.profiled]:
            print(f"  profiling {label}", flush=True)
            pieces[label], profiles[label] = self.profile(jobs[label], label)
        alone = f"{converted[0]}, products and attention alone"
        figures = turns.take_turns(jobs | {alone: pieces[converted[0]]}, case.rounds, self.work)
        for label, operators in profiles.items():
            figures[label]["operators"] = operators
        figures[converted[0]]["alone"] = figures[alone]["seconds"]
        for entry in case.entries:
            plan = {"plan": str(entry.plan), "rows": entry.plan.rows(entry.n)} if entry.plan else {}
            figures[entry.label()] |= {"kind": entry.kind, "tokens": entry.n} | plan
        self.clear()
        return figures

    def exact(self):
        """Each model at the full budget, 4096 tokens: `vcc verify --exact`."""
        import models
        import onnxruntime
        from cases import WIKIHOP

        runtime = next(Path(onnxruntime.__file__).with_name("capi").glob("libonnxruntime.so*"))
        found = {}
        for name in ("pre-norm", "post-norm", "t5"):
            original, path = models.original(name, self.models), self.work / f"{name}.vcc.onnx"
            models.converted(original, WIKIHOP, self.binaries, path)
            command = [self.binaries / "vcc", "verify", "--exact", original, path, "--lengths", "4096", "--json"]
            environment = os.environ | {"ORT_DYLIB_PATH": str(runtime), "VCC_OPS_LIB": str(self.binaries / "libvcc_ops.so")}
            done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True)
            found[name] = {"status": done.returncode, "report": json.loads(done.stdout or "null")}
            self.clear()
        return found

    def clear(self):
        shutil.rmtree(self.work)
        self.work.mkdir()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "target" / "measure")
    parser.add_argument("--only", nargs="+", metavar="CASE", help="cases of cases.py, or exact")
    parser.add_argument("--bin", type=Path, help="where vcc-convert, vcc and libvcc_ops.so are; without it they are built")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, help="timed runs of each model, in place of each case's own number")
    arguments = parser.parse_args()
    environment()

    import golden
    import tables
    from cases import CASES

    names = arguments.only or [*CASES, "exact"]
    if unknown := [name for name in names if name not in (*CASES, "exact")]:
        parser.error(f"there is no case {', '.join(unknown)}; there are {', '.join(CASES)} and exact")
    if arguments.bin is None:
        subprocess.run(["cargo", "build", "--release"], cwd=ROOT, check=True)
        arguments.bin = ROOT / "target" / "release"

    bench = Bench(arguments)
    bench.clear()
    report = {"machine": tables.machine(arguments.threads), "golden": golden.check(bench.work / "golden"), "cases": {}}
    bench.clear()
    for name in names:
        print(f"{name}:", flush=True)
        if name == "exact":
            report["exact"] = bench.exact()
        else:
            case = CASES[name]
            case = case if arguments.rounds is None else case.with_rounds(arguments.rounds)
            report["cases"][name] = {"heading": case.heading, "models": bench.measure(case)}
        (bench.out / "measure.json").write_text(json.dumps(report, indent=1))
        (bench.out / "measure.md").write_text(tables.markdown(report))
    print((bench.out / "measure.md").read_text())


if __name__ == "__main__":
    main()
