"""The weights of an encoder, read from its ONNX file by the names of its modules, as PyTorch tensors."""

import re

import numpy as np
import onnx
import torch
from onnx import numpy_helper

# What a layer's parts are called, in the files that are read here: as tools/make_roberta.py writes them, as the golden vectors'
# pre-norm RoBERTa has them, and as transformers' T5 has them.
ROBERTA = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "out": "attention.output.dense",
    "up": "intermediate.dense",
    "down": "output.dense",
}
PRE_NORM = ROBERTA | {"norm1": "attention.LayerNorm", "norm2": "intermediate.LayerNorm"}
POST_NORM = ROBERTA | {"norm1": "attention.output.LayerNorm", "norm2": "output.LayerNorm"}
GOLDEN = {
    "query": "attention.query",
    "key": "attention.key",
    "value": "attention.value",
    "out": "attention.dense",
    "up": "FFN.1",
    "down": "FFN.3",
    "norm1": "attention.LayerNorm",
    "norm2": "FFN.0",
}
T5 = {
    "query": "layer.0.SelfAttention.q",
    "key": "layer.0.SelfAttention.k",
    "value": "layer.0.SelfAttention.v",
    "out": "layer.0.SelfAttention.o",
    "up": "layer.1.DenseReluDense.wi",
    "down": "layer.1.DenseReluDense.wo",
    "norm1": "layer.0.layer_norm",
    "norm2": "layer.1.layer_norm",
}


class Weights:
    """`tables`, and one dictionary of (matrix, bias) for each layer; the bias is None where there is none."""

    def __init__(self, path):
        graph = onnx.load(path).graph
        arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
        # Exporters transpose the matrices of products and name them anew; their modules show in the names of the nodes.
        self.matrices = {
            module_of(node.name): arrays[node.input[1]]
            for node in graph.node
            if node.op_type == "MatMul" and node.input[1] in arrays
        }
        self.arrays = arrays
        self.t5 = any("SelfAttention" in name for name in self.matrices)
        stem, names = self.naming()
        self.post_norm = names is POST_NORM
        count = 1 + max(int(i) for name in self.matrices for i in re.findall(rf"\.{stem}\.(\d+)\.", name))
        self.layers = [{part: self.part(f"{stem}.{i}.{name}", part) for part, name in names.items()} for i in range(count)]
        self.last_norm = None if self.post_norm else self.part("final_layer_norm" if self.t5 else "encoder.LayerNorm", "norm")

    def naming(self):
        if self.t5:
            return "block", T5
        if any(name.endswith("layer.0.attention.LayerNorm.weight") for name in self.arrays):
            return "layer", PRE_NORM if any(".self.query" in name for name in self.matrices) else GOLDEN
        return "layer", POST_NORM

    def part(self, name, kind):
        matrix = self.array(f"{name}.weight") if "norm" in kind else tensor(the_one(self.matrices, name))
        biases = [key for key in self.arrays if key.endswith(f".{name}.bias")]
        return matrix, self.array(f"{name}.bias") if biases else None

    def array(self, name):
        return tensor(the_one(self.arrays, name))


def module_of(node):
    """`/encoder/layer.0/FFN/FFN.1/MatMul` belongs to encoder.layer.0.FFN.1."""
    path = node.rsplit("/", 1)[0].strip("/").replace("/", ".")
    return re.sub(r"\b(\w+)\.\1\.", r"\1.", path)


def the_one(values, name):
    found = [key for key in values if key == name or key.endswith(f".{name}")]
    if len(found) != 1:
        raise SystemExit(f"the model has {len(found)} weights that are called {name}, not one")
    return values[found[0]]


def tensor(array):
    return torch.from_numpy(np.array(array))
