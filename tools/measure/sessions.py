"""Sessions of ONNX Runtime, all with the same settings."""

import numpy as np
import onnxruntime


def options(threads, library=None, optimise=True):
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads
    settings.log_severity_level = 3
    settings.enable_mem_pattern = False  # as README advises: a block of memory for all values comes on top of what the first run took
    if not optimise:
        settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    if library:
        settings.register_custom_ops_library(library)
    return settings


def open_session(path, threads, library=None, optimise=True):
    return onnxruntime.InferenceSession(path, options(threads, library, optimise), providers=["CPUExecutionProvider"])


def feeds(session, inputs):
    arrays = np.load(inputs)
    types = {"tensor(int64)": np.int64, "tensor(int32)": np.int32}
    return {port.name: arrays[port.name].astype(types[port.type]) for port in session.get_inputs()}
