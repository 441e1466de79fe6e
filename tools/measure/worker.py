"""One model in a process of its own, which runs it whenever a line comes in and answers each line with one of JSON.

    worker.py JOB.json

The job names the engine (onnx, pytorch or pieces), the model, its inputs (.npz) and what the engine needs besides. The last answer,
when the input ends, holds the largest resident size that this process ever had.
"""

import json
import os
import sys
import time
from pathlib import Path

import numpy as np


def onnx(job):
    import sessions

    session = sessions.open_session(job["model"], job["threads"], job.get("library"))
    feeds = sessions.feeds(session, job["inputs"])
    return lambda: session.run(None, feeds)[0]


def pytorch(job):
    import torch
    from encoders import Encoder, Full
    from weights import Weights

    torch.set_num_threads(job["threads"])
    model = Full(Encoder(Weights(job["model"]), job["heads"])).eval()
    arrays = np.load(job["inputs"])
    feeds = [torch.from_numpy(arrays[name]) for name in ("input_ids", "attention_mask")]

    def run():
        with torch.inference_mode():
            return model(*feeds).numpy()

    return run


def pieces(job):
    """Each piece of a model (profile.py writes them) as often as the model runs it, with nothing between."""
    import sessions

    random = np.random.default_rng(0)
    calls = []
    for path, count in job["pieces"]:
        session = sessions.open_session(path, job["threads"], optimise=False)
        feeds = {port.name: values(port, random) for port in session.get_inputs()}
        calls.append((session, feeds, count))

    def run():
        for session, feeds, count in calls:
            for _ in range(count):
                session.run(None, feeds)

    return run


def values(port, random):
    if port.type == "tensor(float)":
        return random.standard_normal(port.shape, np.float32)
    return np.ones(port.shape, {"tensor(bool)": bool, "tensor(int64)": np.int64, "tensor(int32)": np.int32}[port.type])


def peak_mb():
    """Not from getrusage: that counts what the process was forked from."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def main():
    job = json.loads(Path(sys.argv[1]).read_text())
    run = {"onnx": onnx, "pytorch": pytorch, "pieces": pieces}[job["engine"]](job)
    print(json.dumps("ready"), flush=True)
    for _ in sys.stdin:
        began, cpu = time.perf_counter(), time.process_time()
        output = run()
        seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
        print(json.dumps({"seconds": seconds, "cpu": cpu}), flush=True)
        if output is not None and not np.isfinite(output).all():
            sys.exit("the output is not finite")
    print(json.dumps({"peak_mb": peak_mb()}), flush=True)
    os._exit(0)


if __name__ == "__main__":
    main()
