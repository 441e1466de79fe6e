#!/usr/bin/env python3
"""Times one model at one length in a process of its own and prints {"seconds": best of the runs, "peak_mib": peak memory}.

    bench_onnx.py MODEL --length 4096 [--runs 3] [--threads N] [--library libvcc_ops.so] [--inputs F.npz]

The peak is that of the whole process: runtime, weights and activations. Without --inputs, token ids are drawn below 1000
and every token is valid.
"""

import argparse
import json
import resource
import time

import numpy as np
import onnxruntime as ort


def inputs(session, length, path):
    if path:
        given = np.load(path)
        return {value.name: given[value.name][:, :length] for value in session.get_inputs()}
    random = np.random.default_rng(0)
    values = {}
    for value in session.get_inputs():
        if "mask" in value.name:
            values[value.name] = np.ones((1, length), np.int64)
        elif "type" in value.name:
            values[value.name] = np.zeros((1, length), np.int64)
        else:
            values[value.name] = random.integers(5, 1000, (1, length))
    return values


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--length", type=int, required=True)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=0, help="0: as many as the runtime takes by itself")
    parser.add_argument("--library")
    parser.add_argument("--inputs")
    args = parser.parse_args()

    options = ort.SessionOptions()
    options.intra_op_num_threads = args.threads
    if args.library:
        options.register_custom_ops_library(args.library)
    session = ort.InferenceSession(args.model, options, providers=["CPUExecutionProvider"])
    feed = inputs(session, args.length, args.inputs)
    session.run(None, feed)
    best = float("inf")
    for _ in range(args.runs):
        start = time.perf_counter()
        session.run(None, feed)
        best = min(best, time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": best, "peak_mib": peak}))


if __name__ == "__main__":
    main()
