"""Checks the CUDA operators on a machine with a GPU, unattended, and ends in one table. `cargo xtask gpu-check` provisions and runs it.

    python tools/gpu_check.py --library libvcc_ops.so --converter vcc-convert [--only STEP,..] [--minutes N] [--table FILE] [--list]

Every step runs in a process of its own under a time limit; one that crashes, hangs or lacks something is a line of the table. The table is
printed whatever happens: also when the time of all steps is over, or somebody interrupts or ends this program.
Exit code: 0 all well, 1 something failed or the steps were cut short, 3 no GPU.
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
import time
from pathlib import Path

from gpu import checks, speed
from gpu.common import ROW, Setup

# What runs, in this order, with its limit in seconds. The slowest are last, which tell least if what comes before them is well.
STEPS = {
    "status": (checks.status, 120),
    "operators": (checks.operators, 900),
    "models": (checks.models, 900),
    "copies": (checks.copies, 600),
    "graph": (checks.graph, 600),
    "bandwidth": (speed.bandwidth, 600),
    **{name: (speed.table_row(name), 2400) for name in speed.TABLE},
    "memcheck": (checks.memcheck, 900),
    "racecheck": (checks.racecheck, 900),
    "synccheck": (checks.synccheck, 900),
    "initcheck": (checks.initcheck, 900),
}


class Ended(BaseException):
    """Somebody ends this program."""


def end(*_):
    raise Ended


def run(name, arguments, seconds):
    """The rows of one step: what, outcome, and whether it is well (None: it could not run here)."""
    libraries = [str(folder) for folder in nvidia_libraries()] + [os.environ.get("LD_LIBRARY_PATH", "")]
    environment = {**os.environ, "LD_LIBRARY_PATH": os.pathsep.join(filter(None, libraries)), "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, *sys.argv, "--work", arguments.work, "--step", name]
    started = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", start_new_session=True
    )
    try:
        output, _ = started.communicate(timeout=seconds)
        ended = f"ended with code {started.returncode}"
    except subprocess.TimeoutExpired:
        kill(started)
        output, _ = started.communicate()
        ended = f"took more than {seconds:.0f} s"
    except BaseException:
        kill(started)
        raise
    lines = output.splitlines()
    rows = [json.loads(line[len(ROW) :]) for line in lines if line.startswith(ROW)]
    if started.returncode != 0:
        said = [line for line in lines if line.strip() and not line.startswith(ROW)]
        rows.append(["", f"{ended}: {said[-1] if said else 'no output'}", False])
        print("\n".join(f"    {line}" for line in said[-30:]), file=sys.stderr)
    return rows


def kill(process):
    """A step, and all that it started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def nvidia_libraries():
    """Where the wheels of this Python have CUDA and cuDNN."""
    found = importlib.util.find_spec("nvidia")
    return [folder for place in (found.submodule_search_locations if found else []) for folder in Path(place).glob("*/lib")]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--library", help="libvcc_ops.so with CUDA kernels")
    parser.add_argument("--converter", help="vcc-convert")
    parser.add_argument("--only", help="these steps, joined with commas")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="for all steps together; what is left over does not run")
    parser.add_argument("--table", type=Path, help="a file for the table, written after each step")
    parser.add_argument("--list", action="store_true", help="name the steps")
    # Run one step in this process.
    parser.add_argument("--step", help=argparse.SUPPRESS)
    parser.add_argument("--work", help=argparse.SUPPRESS)
    # For tests of this script itself: small models on the CPU execution provider.
    parser.add_argument("--stand-in", action="store_true", help=argparse.SUPPRESS)
    # The same with a CUDA execution provider of which only our operators are to be believed.
    parser.add_argument("--junk", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.list:
        print("\n".join(STEPS))
        return 0
    if not arguments.library or not arguments.converter:
        parser.error("--library and --converter are needed")
    if arguments.step:
        paths = (Path(path).absolute() for path in (arguments.library, arguments.converter, arguments.work))
        setup = Setup(*paths, arguments.stand_in, arguments.junk)
        STEPS[arguments.step][0](setup)
        return 0
    names = arguments.only.split(",") if arguments.only else list(STEPS)
    unknown = [name for name in names if name not in STEPS]
    if unknown:
        parser.error(f"there is no step {', '.join(unknown)}; --list names them")
    if not (arguments.stand_in or arguments.junk) and not glob.glob("/dev/nvidia[0-9]*") and not glob.glob("/dev/dxg"):
        print("no GPU here; nothing was checked")
        return 3
    table, until, short = [], time.monotonic() + 60 * arguments.minutes, False
    # Told now, and not after the first step.
    if problem := save(table, arguments.table):
        parser.error(problem)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, end)
    try:
        with tempfile.TemporaryDirectory() as work:
            arguments.work = work
            for name in names:
                print(f"==> {name}", file=sys.stderr, flush=True)
                started, left = time.monotonic(), until - time.monotonic()
                if left > 5:
                    rows = run(name, arguments, min(STEPS[name][1], left))
                else:
                    rows, short = [["", "no time is left", None]], True
                for what, outcome, well in rows:
                    table.append((name, what, {True: "ok", False: "FAILED", None: "not run"}[well], " ".join(outcome.split())))
                    print("    " + " | ".join(table[-1][1:]), file=sys.stderr, flush=True)
                print(f"    {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
                if problem := save(table, arguments.table):
                    print(problem, file=sys.stderr, flush=True)
    except Ended:
        short = True
        done = {row[0] for row in table}
        table += [(name, "", "not run", "ended from outside") for name in names if name not in done]
    print(text(table))
    return 1 if short or any(row[2] == "FAILED" for row in table) or not any(row[2] == "ok" for row in table) else 0


def save(table, path):
    """Writes the table, if to a file at all. Returns what is wrong with that."""
    try:
        if path:
            path.write_text(text(table))
        return None
    except OSError as error:
        return f"--table {path}: {error.strerror}"


def text(table):
    lines = ["| step | what | | outcome |", "|---|---|---|---|"]
    lines += ["| " + " | ".join(cell.replace("|", "/") for cell in row) + " |" for row in table]
    lines.append(", ".join(f"{sum(row[2] == kind for row in table)} {kind}" for kind in ("ok", "FAILED", "not run")))
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
