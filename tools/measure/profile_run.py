"""What a model spends its time on, by ONNX Runtime's profile, and its products and attentions cut out as models of their own.

    profile_run.py JOB.json FOLDER

Writes FOLDER/profile.json: the seconds per run of each operator type, and the pieces with how often each is run.
"""

import json
import sys
from collections import Counter, defaultdict
from pathlib import Path

import onnx
import sessions
from onnx import TensorProto, helper

PRODUCTS = ("MatMul", "FusedMatMul", "Gemm")
FUSED = ("Attention", "MultiHeadAttention", "GroupQueryAttention", "PackedMultiHeadAttention")
BETWEEN = ("Add", "Sub", "Mul", "Div", "Where", "Max")  # a product of queries and keys, and its softmax
TYPES = {"float": TensorProto.FLOAT, "bool": TensorProto.BOOL, "int32": TensorProto.INT32, "int64": TensorProto.INT64}
RUNS = 2


def profile(job, folder):
    """The optimised graph, and the events of RUNS runs after a first one."""
    settings = sessions.options(job["threads"], job.get("library"))
    settings.optimized_model_filepath = str(folder / "optimised.onnx")
    settings.enable_profiling = True
    settings.profile_file_prefix = str(folder / "events")
    session = sessions.onnxruntime.InferenceSession(job["model"], settings, providers=["CPUExecutionProvider"])
    feeds = sessions.feeds(session, job["inputs"])
    for _ in range(1 + RUNS):
        session.run(None, feeds)
    path = Path(session.end_profiling())
    events = [e for e in json.loads(path.read_text()) if e["name"].endswith("_kernel_time")]
    path.unlink()
    first = len(events) // (1 + RUNS)
    return onnx.load(folder / "optimised.onnx").graph, events[first:], feeds


def with_bodies(graph):
    """The graph and the bodies of its Scans, whose nodes have an event for each turn."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from with_bodies(attribute.g)


class Pieces:
    """Cuts an optimised graph into its attentions and its other products."""

    def __init__(self, graph, events, feeds):
        graphs = list(with_bodies(graph))
        self.nodes = [node for g in graphs for node in g.node]
        self.constants = {tensor.name: tensor for g in graphs for tensor in g.initializer}
        self.producer = {value: node for node in self.nodes for value in node.output if value}
        self.readers = defaultdict(list)
        for node in self.nodes:
            for value in node.input:
                self.readers[value].append(node)
        seen = {e["name"].removesuffix("_kernel_time"): e["args"] for e in events}
        calls = Counter(e["name"].removesuffix("_kernel_time") for e in events)
        self.calls = {name: count // RUNS for name, count in calls.items()}
        self.values = {name: ("int64", list(array.shape)) for name, array in feeds.items()}
        self.missed = [node.name for node in self.nodes if node.name not in seen]
        # The optimiser's names are unique in one graph only: what a product reads is told by its own event, after all others.
        known = [node for node in self.nodes if node.name in seen]
        for node in known:
            self.note(node.output, seen[node.name]["output_type_shape"])
        for node in known:
            if node.op_type in (*PRODUCTS, *FUSED):
                self.note(node.input, seen[node.name]["input_type_shape"])

    def note(self, values, typed):
        for value, entry in zip([v for v in values if v], typed):
            ((kind, shape),) = entry.items()
            self.values[value] = (kind, shape)

    def shape(self, value):
        return list(self.constants[value].dims) if value in self.constants else self.values[value][1]

    def scores(self, node):
        """The nodes from a product to this one that make scores of the same shape, or none."""
        if node.op_type in PRODUCTS:
            return [node]
        shape = self.shape(node.output[0])
        for value in node.input:
            before = self.producer.get(value)
            if before and before.op_type in (*BETWEEN, *PRODUCTS) and self.shape(value) == shape and (chain := self.scores(before)):
                return [*chain, node]
        return []

    def attention(self, softmax):
        """The nodes from the product of queries and keys to that with the values, or none."""
        chain, after = self.scores(softmax), self.readers[softmax.output[0]]
        return [*chain, *after] if chain and len(after) == 1 and after[0].op_type in PRODUCTS else []

    def cut(self):
        attentions = [chain for node in self.nodes if node.op_type == "Softmax" and (chain := self.attention(node))]
        taken = {node.output[0] for chain in attentions for node in chain}
        single = [[n] for n in self.nodes if n.op_type in (*PRODUCTS, *FUSED) and n.output[0] not in taken]
        return attentions + single

    def model(self, chain, opsets):
        """The nodes as a model with fixed shapes, its values named in order, so that equal pieces are equal bytes."""
        names, inputs, weights, nodes = {"": ""}, [], [], []
        for node in chain:
            for value in node.input:
                if value in names:
                    continue
                names[value] = f"v{len(names)}"
                if value in self.constants:
                    weights.append(self.constants[value])
                else:
                    kind, shape = self.values[value]
                    inputs.append(helper.make_tensor_value_info(names[value], TYPES[kind], shape))
            for value in node.output:
                names.setdefault(value, f"v{len(names)}")
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            copy.name = ""
            copy.input[:] = [names[v] for v in node.input]
            copy.output[:] = [names[v] for v in node.output]
            nodes.append(copy)
        last = chain[-1].output[0]
        kind, shape = self.values[last]
        output = helper.make_tensor_value_info(names[last], TYPES[kind], shape)
        graph = helper.make_graph(nodes, "piece", inputs, [output])
        key = (graph.SerializeToString(deterministic=True), tuple((w.data_type, *w.dims) for w in weights))
        for weight in weights:
            graph.initializer.add().CopyFrom(weight)
            graph.initializer[-1].name = names[weight.name]
        return key, helper.make_model(graph, opset_imports=opsets, ir_version=10)


def main():
    job, folder = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2])
    graph, events, feeds = profile(job, folder)
    opsets = onnx.load(folder / "optimised.onnx", load_external_data=False).opset_import
    seconds = Counter()
    calls = Counter()
    for event in events:
        if event["args"]["op_name"] == "Scan":
            continue  # the time of the nodes in its body
        seconds[event["args"]["op_name"]] += event["dur"] * 1e-6 / RUNS
        calls[event["args"]["op_name"]] += 1
    pieces = Pieces(graph, events, feeds)
    counts, files = Counter(), {}
    for chain in pieces.cut():
        if any(node.name in pieces.missed for node in chain):
            continue
        key, model = pieces.model(chain, opsets)
        counts[key] += pieces.calls[chain[0].name]
        if key not in files:
            files[key] = str(folder / f"piece{len(files)}.onnx")
            onnx.save(model, files[key])
    (folder / "optimised.onnx").unlink()
    report = {
        "operators": {name: {"seconds": s, "calls": calls[name] // RUNS} for name, s in seconds.most_common()},
        "pieces": [[files[key], count] for key, count in counts.items()],
        "not_in_the_profile": pieces.missed,
    }
    (folder / "profile.json").write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
