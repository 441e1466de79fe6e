"""Runs models in turns (A B C A B C ..), each in a process of its own."""

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

WORKER = Path(__file__).with_name("worker.py")
TICK = os.sysconf("SC_CLK_TCK")


class Worker:
    def __init__(self, job, folder, name):
        path = folder / f"{name}.job.json"
        path.write_text(json.dumps(job))
        environment = os.environ | {"OMP_NUM_THREADS": str(job["threads"]), "OMP_WAIT_POLICY": "passive"}
        self.process = subprocess.Popen(
            [sys.executable, WORKER, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self.name = name
        self.answer()

    def answer(self):
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name}: the process ended, exit status {self.process.wait()}")
        return json.loads(line)

    def run(self):
        """Seconds, seconds of processor time, and how many cores everything else on the machine kept busy meanwhile."""
        busy, began = busy_seconds(), time.perf_counter()
        self.process.stdin.write("run\n")
        self.process.stdin.flush()
        run = self.answer()
        wall = time.perf_counter() - began
        return run | {"others": max(0.0, (busy_seconds() - busy - run["cpu"]) / wall)}

    def end(self):
        self.process.stdin.close()
        peak = self.answer()["peak_mb"]
        self.process.wait()
        return peak


def busy_seconds():
    """Processor time that the machine has spent on anything since it started."""
    user, nice, system, _, _, *interrupts = (int(x) for x in Path("/proc/stat").read_text().split("\n")[0].split()[1:8])
    return (user + nice + system + sum(interrupts)) / TICK


def take_turns(jobs, rounds, folder):
    """Loads all models, runs each once to warm up, then `rounds` times in turns; returns the figures by name."""
    workers = [Worker(job, folder, name) for name, job in jobs.items()]
    for worker in workers:
        run = worker.run()
        print(f"    {worker.name}: warm-up {run['seconds']:.2f} s", flush=True)
    runs = {name: [] for name in jobs}
    for _ in range(rounds):
        for worker in workers:
            # What the last one left spinning comes to rest.
            time.sleep(0.3)
            runs[worker.name].append(worker.run())
        print("    " + ", ".join(f"{name} {of[-1]['seconds']:.3f} s" for name, of in runs.items()), flush=True)
    return {
        worker.name: {
            "seconds": statistics.median(run["seconds"] for run in runs[worker.name]),
            "cpu": statistics.median(run["cpu"] for run in runs[worker.name]),
            "runs": runs[worker.name],
            "peak_mb": worker.end(),
        }
        for worker in workers
    }
