"""Writes the models and the arrays that the tests of crates/vcc-run read (at most 2 KB each). Needs the `onnx` package.

    python tools/make_test_models.py crates/vcc-run/tests/data
"""

import pathlib
import sys

import numpy as np
from onnx import TensorProto, checker, helper, numpy_helper


def save(directory, name, nodes, inputs, outputs, initializers=()):
    graph = helper.make_graph(nodes, name, inputs, outputs, initializer=list(initializers))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    model.producer_name = ""
    checker.check_model(model)
    (directory / f"{name}.onnx").write_bytes(model.SerializeToString(deterministic=True))


def embed(directory):
    """hidden[b, t] = table[ids[b, t]] * mask[b, t] * gain, table[i, j] = i + j/4; gain is an input with the default 1."""
    table = np.arange(16, dtype=np.float32)[:, None] + np.arange(4, dtype=np.float32) / 4
    tokens = ["batch", "seq"]
    save(
        directory,
        "embed",
        [
            helper.make_node("Gather", ["table", "input_ids"], ["rows"], name="gather"),
            helper.make_node("Cast", ["attention_mask"], ["mask"], name="cast", to=TensorProto.FLOAT),
            helper.make_node("Unsqueeze", ["mask", "last"], ["column"], name="unsqueeze"),
            helper.make_node("Mul", ["rows", "column"], ["masked"], name="mask_rows"),
            helper.make_node("Mul", ["masked", "gain"], ["hidden"], name="scale"),
            helper.make_node("ReduceSum", ["hidden", "middle"], ["pooled"], name="pool", keepdims=0),
        ],
        [
            helper.make_tensor_value_info("input_ids", TensorProto.INT64, tokens),
            helper.make_tensor_value_info("attention_mask", TensorProto.INT64, tokens),
            helper.make_tensor_value_info("gain", TensorProto.FLOAT, [1]),
        ],
        [
            helper.make_tensor_value_info("hidden", TensorProto.FLOAT, [*tokens, 4]),
            helper.make_tensor_value_info("pooled", TensorProto.FLOAT, ["batch", 4]),
        ],
        [
            numpy_helper.from_array(table, "table"),
            numpy_helper.from_array(np.array([-1]), "last"),
            numpy_helper.from_array(np.array([1]), "middle"),
            numpy_helper.from_array(np.array([1], dtype=np.float32), "gain"),
        ],
    )


def types(directory):
    """One Identity for each element type that can be fed and read."""
    kinds = {
        "f32": TensorProto.FLOAT,
        "f64": TensorProto.DOUBLE,
        "f16": TensorProto.FLOAT16,
        "i64": TensorProto.INT64,
        "i32": TensorProto.INT32,
        "i8": TensorProto.INT8,
        "u8": TensorProto.UINT8,
        "bool": TensorProto.BOOL,
    }
    save(
        directory,
        "types",
        [helper.make_node("Identity", [k], [f"{k}_out"], name=k) for k in kinds],
        [helper.make_tensor_value_info(k, t, [f"{k}_n"]) for k, t in kinds.items()],
        [helper.make_tensor_value_info(f"{k}_out", t, [f"{k}_n"]) for k, t in kinds.items()],
    )


def outer(directory):
    """y[i, j] = x[i] * x[j]: n squared floats, for measuring memory and time, and one node that any optimisation removes."""
    save(
        directory,
        "outer",
        [
            helper.make_node("Identity", ["x"], ["copy"], name="copy"),
            helper.make_node("Unsqueeze", ["copy", "last"], ["column"], name="column"),
            helper.make_node("Mul", ["column", "x"], ["y"], name="outer"),
        ],
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", "n"])],
        [numpy_helper.from_array(np.array([-1]), "last")],
    )


def arrays(directory):
    """An .npz of every supported type, as NumPy writes it."""
    np.savez_compressed(
        directory / "numpy.npz",
        scalar=np.float32(1.5),
        ids=np.arange(6, dtype=np.int64).reshape(2, 3) - 2,
        half=np.array([0.5, np.inf], np.float16),
        double=np.array([[1e300]]),
        int=np.array([-7], np.int32),
        byte=np.array([-1, 1], np.int8),
        ubyte=np.array([255], np.uint8),
        flag=np.array([True, False]),
        zeros=np.zeros((64, 64), np.float32),
    )


if __name__ == "__main__":
    target = pathlib.Path(sys.argv[1])
    target.mkdir(parents=True, exist_ok=True)
    for make in (embed, types, outer, arrays):
        make(target)
