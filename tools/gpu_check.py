"""Checks the CUDA operators on a machine with a GPU, unattended, and ends in one table. `cargo xtask gpu-check` provisions and runs it.

    python tools/gpu_check.py --library libvcc_ops.so --converter vcc-convert [--only STEP,..] [--list]

Every step runs in a process of its own under a time limit; one that crashes, hangs or lacks something is a line of the table.
Exit code: 0 all well, 1 something failed, 3 no GPU.
"""

import argparse
import glob
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from gpu import checks, speed
from gpu.common import ROW, Setup

# What runs, in this order, with its limit in seconds.
STEPS = {
    "status": (checks.status, 120),
    "operators": (checks.operators, 900),
    "memcheck": (checks.memcheck, 900),
    "racecheck": (checks.racecheck, 900),
    "initcheck": (checks.initcheck, 900),
    "synccheck": (checks.synccheck, 900),
    "models": (checks.models, 900),
    "copies": (checks.copies, 600),
    "graph": (checks.graph, 600),
    "bandwidth": (speed.bandwidth, 600),
    **{name: (speed.table_row(name), 1800) for name in speed.TABLE},
}


def run(name, arguments):
    """The rows of one step: what, outcome, and whether it is well (None: it could not run here)."""
    libraries = [str(folder) for folder in nvidia_libraries()] + [os.environ.get("LD_LIBRARY_PATH", "")]
    environment = {**os.environ, "LD_LIBRARY_PATH": os.pathsep.join(filter(None, libraries)), "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, *sys.argv, "--work", arguments.work, "--step", name]
    started = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", start_new_session=True
    )
    try:
        output, _ = started.communicate(timeout=STEPS[name][1])
        ended = f"ended with code {started.returncode}"
    except subprocess.TimeoutExpired:
        os.killpg(started.pid, signal.SIGKILL)
        output, _ = started.communicate()
        ended = f"took more than {STEPS[name][1]} s"
    lines = output.splitlines()
    rows = [json.loads(line[len(ROW) :]) for line in lines if line.startswith(ROW)]
    if started.returncode != 0:
        said = [line for line in lines if line.strip() and not line.startswith(ROW)]
        rows.append(["", f"{ended}: {said[-1] if said else 'no output'}", False])
        print("\n".join(f"    {line}" for line in said[-30:]), file=sys.stderr)
    return rows


def nvidia_libraries():
    """Where the wheels of this Python have CUDA and cuDNN."""
    found = importlib.util.find_spec("nvidia")
    return [folder for place in (found.submodule_search_locations if found else []) for folder in Path(place).glob("*/lib")]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--library", help="libvcc_ops.so with CUDA kernels")
    parser.add_argument("--converter", help="vcc-convert")
    parser.add_argument("--only", help="these steps, joined with commas")
    parser.add_argument("--list", action="store_true", help="name the steps")
    # Run one step in this process.
    parser.add_argument("--step", help=argparse.SUPPRESS)
    parser.add_argument("--work", help=argparse.SUPPRESS)
    # For tests of this script itself: small models on the CPU execution provider.
    parser.add_argument("--stand-in", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.list:
        print("\n".join(STEPS))
        return 0
    if not arguments.library or not arguments.converter:
        parser.error("--library and --converter are needed")
    if arguments.step:
        setup = Setup(Path(arguments.library).absolute(), Path(arguments.converter).absolute(), Path(arguments.work), arguments.stand_in)
        STEPS[arguments.step][0](setup)
        return 0
    names = arguments.only.split(",") if arguments.only else list(STEPS)
    unknown = [name for name in names if name not in STEPS]
    if unknown:
        parser.error(f"there is no step {', '.join(unknown)}; --list names them")
    if not arguments.stand_in and not glob.glob("/dev/nvidia[0-9]*") and not glob.glob("/dev/dxg"):
        print("no GPU here; nothing was checked")
        return 3
    table = []
    with tempfile.TemporaryDirectory() as work:
        arguments.work = work
        for name in names:
            print(f"==> {name}", file=sys.stderr, flush=True)
            for what, outcome, well in run(name, arguments):
                table.append((name, what, {True: "ok", False: "FAILED", None: "not run"}[well], " ".join(outcome.split())))
                print("    " + " | ".join(table[-1][1:]), file=sys.stderr, flush=True)
    print("| step | what | | outcome |\n|---|---|---|---|")
    for row in table:
        print("| " + " | ".join(cell.replace("|", "/") for cell in row) + " |")
    counts = {kind: sum(row[2] == kind for row in table) for kind in ("ok", "FAILED", "not run")}
    print(", ".join(f"{count} {kind}" for kind, count in counts.items()))
    return 1 if counts["FAILED"] or not counts["ok"] else 0


if __name__ == "__main__":
    sys.exit(main())
