"""What happens to a file after its export: other number formats, fused operators, other places for weights.

Each takes the path of a model, which it replaces, and its inputs with their kinds.
"""

import os
import re
import tempfile

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

AFTER = {}


def after(function):
    AFTER[function.__name__] = function
    return function


def strip_traces(path):
    """Drops stack traces, which name the exporting machine's files, from a torch.export model."""
    model = onnx.load(path)
    for node in model.graph.node:
        kept = [(p.key, p.value) for p in node.metadata_props if "stack_trace" not in p.key]
        del node.metadata_props[:]
        node.metadata_props.extend(onnx.StringStringEntryProto(key=key, value=value) for key, value in kept)
    onnx.save(model, path)


def through_file(path, work):
    """Runs `work(source, target)` on a copy, for tools that read one file and write another."""
    with tempfile.TemporaryDirectory() as folder:
        source = os.path.join(folder, "model.onnx")
        onnx.save(onnx.load(path), source)
        work(source, path)


@after
def fp16(path, inputs):
    from onnxconverter_common import float16

    onnx.save(float16.convert_float_to_float16(onnx.load(path), keep_io_types=True), path)


@after
def fp16io(path, inputs):
    """float16 at the outputs too."""
    from onnxconverter_common import float16

    onnx.save(float16.convert_float_to_float16(onnx.load(path)), path)


@after
def int8(path, inputs):
    from onnxruntime.quantization import quantize_dynamic

    through_file(path, quantize_dynamic)


@after
def int8pc(path, inputs):
    """Signed weights with a scale for each channel, MatMul only."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    def work(source, target):
        quantize_dynamic(source, target, op_types_to_quantize=["MatMul"], per_channel=True, weight_type=QuantType.QInt8)

    through_file(path, work)


def static_quantisation(path, inputs, **more):
    from export import example
    from onnxruntime.quantization import CalibrationDataReader, quantize_static

    class Random(CalibrationDataReader):
        def __init__(self):
            self.left = [{name: example(kind, 2, 40).numpy() for name, kind in inputs.items()} for _ in range(4)]

        def get_next(self):
            return self.left.pop() if self.left else None

    through_file(path, lambda source, target: quantize_static(source, target, Random(), **more))


@after
def qdq(path, inputs):
    static_quantisation(path, inputs)


@after
def qdqmm(path, inputs):
    """Only products, weights with a scale for each channel."""
    static_quantisation(path, inputs, op_types_to_quantize=["MatMul"], per_channel=True)


@after
def qop(path, inputs):
    from onnxruntime.quantization import QuantFormat

    static_quantisation(path, inputs, quant_format=QuantFormat.QOperator)


@after
def nbits(path, inputs):
    """4-bit weights in com.microsoft MatMulNBits."""
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    quantizer = MatMulNBitsQuantizer(onnx.load(path), block_size=16, is_symmetric=False)
    quantizer.process()
    onnx.save(quantizer.model.model, path)


@after
def nbitsqdq(path, inputs):
    """4-bit weights behind a blocked DequantizeLinear (opset 21)."""
    from onnxruntime.quantization import QuantFormat
    from onnxruntime.quantization.matmul_nbits_quantizer import DefaultWeightOnlyQuantConfig, MatMulNBitsQuantizer

    config = DefaultWeightOnlyQuantConfig(block_size=16, is_symmetric=True, quant_format=QuantFormat.QDQ)
    quantizer = MatMulNBitsQuantizer(onnx.load(path), algo_config=config)
    quantizer.process()
    onnx.save(quantizer.model.model, path)


@after
def castw8(path, inputs):
    """Weights of products as int8 behind a Cast and a Mul."""
    model = onnx.load(path)
    graph = model.graph
    read = {name for node in graph.node if node.op_type in ("MatMul", "Gemm") for name in node.input[:2]}
    before = []
    for tensor in list(graph.initializer):
        if tensor.name not in read or tensor.data_type != TensorProto.FLOAT or len(tensor.dims) != 2:
            continue
        weight = numpy_helper.to_array(tensor)
        scale = np.abs(weight).max(0, keepdims=True) / 127
        graph.initializer.remove(tensor)
        integers = np.round(weight / scale).astype(np.int8)
        graph.initializer.append(numpy_helper.from_array(integers, tensor.name + ".int8"))
        graph.initializer.append(numpy_helper.from_array(scale.astype(np.float32), tensor.name + ".scale"))
        before.append(helper.make_node("Cast", [tensor.name + ".int8"], [tensor.name + ".cast"], to=TensorProto.FLOAT))
        before.append(helper.make_node("Mul", [tensor.name + ".cast", tensor.name + ".scale"], [tensor.name]))
    nodes = before + list(graph.node)
    del graph.node[:]
    graph.node.extend(nodes)
    onnx.save(model, path)


@after
def consts(path, inputs):
    """No initializers: every weight is a Constant node with a name like those of the PaddlePaddle exporter."""
    model = onnx.load(path)
    graph = model.graph
    weights = [helper.make_node("Constant", [], [t.name], name=f"p2o.Constant.{i}", value=t) for i, t in enumerate(graph.initializer)]
    for i, node in enumerate(graph.node):
        node.name = f"p2o.{node.op_type}.{i}"
    nodes = weights + list(graph.node)
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    model.producer_name = "PaddlePaddle"
    onnx.save(model, path)


def fused(path, kind="bert", **options):
    """Saved by ONNX Runtime's tool for transformers, with its defaults but for these options."""
    from onnxruntime.transformers import optimizer
    from onnxruntime.transformers.fusion_options import FusionOptions

    choice = FusionOptions(kind)
    for name, value in options.items():
        if name == "use_raw_attention_mask":
            choice.use_raw_attention_mask(value)
        else:
            assert hasattr(choice, name), name
            setattr(choice, name, value)
    return optimizer.optimize_model(path, kind, num_heads=4, hidden_size=32, opt_level=0, optimization_options=choice)


@after
def ortfused(path, inputs):
    fused(path).save_model_to_file(path)


@after
def ortraw(path, inputs):
    """The mask as it is, in place of its sums."""
    fused(path, use_raw_attention_mask=True).save_model_to_file(path)


@after
def ortmha(path, inputs):
    """MultiHeadAttention instead of Attention."""
    fused(path, use_multi_head_attention=True).save_model_to_file(path)


@after
def ortgelu(path, inputs):
    """The approximate GELU, no fused embeddings."""
    fused(path, enable_gelu_approximation=True, enable_embed_layer_norm=False).save_model_to_file(path)


@after
def ortnorm(path, inputs):
    """Fused norms and activations, attention left apart."""
    fused(path, enable_attention=False, enable_embed_layer_norm=False).save_model_to_file(path)


@after
def ortvit(path, inputs):
    fused(path, "vit").save_model_to_file(path)


@after
def ortbart(path, inputs):
    fused(path, "bart").save_model_to_file(path)


@after
def ortclip(path, inputs):
    fused(path, "clip").save_model_to_file(path)


@after
def ortfp16(path, inputs):
    """Fused, then float16."""
    model = fused(path)
    model.convert_float_to_float16(keep_io_types=True)
    model.save_model_to_file(path)


def saved_by_session(path, level):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = level
    options.optimized_model_filepath = path
    onnxruntime.InferenceSession(onnx.load(path).SerializeToString(), options, providers=["CPUExecutionProvider"])


@after
def ortext(path, inputs):
    import onnxruntime

    saved_by_session(path, onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED)


@after
def ortbasic(path, inputs):
    import onnxruntime

    saved_by_session(path, onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC)


@after
def int8ext(path, inputs):
    """Quantised, then saved by ONNX Runtime at its extended level: fused integer operators."""
    int8(path, inputs)
    ortext(path, inputs)


@after
def qdqext(path, inputs):
    qdq(path, inputs)
    ortext(path, inputs)


@after
def functions(path, inputs):
    """Layers as functions of the model, each with its attention as a function inside (TorchScript names)."""
    model = onnx.load(path)
    layers = sorted({found[1] for node in model.graph.node if (found := re.match(r"(/.*?layers?\.\d+)/", node.name))}, key=len)
    for layer in layers:
        inner = outline(model.graph.node, model, layer + "/attention/", f"Attention{layer.rsplit('.')[-1]}", model.graph)
        outer = outline(model.graph.node, model, layer + "/", f"Layer{layer.rsplit('.')[-1]}", model.graph, inner)
        assert inner and outer, f"{layer} is not in one piece"
    model.opset_import.append(helper.make_opsetid("project.functions", 1))
    model.ir_version = max(model.ir_version, 8)
    onnx.checker.check_model(model)
    onnx.save(model, path)


def outline(nodes, model, prefix, name, graph, inner=None):
    """Moves the nodes whose names begin so into a function; what they read or give is its inputs and outputs."""
    moved = [n for n in nodes if n.name.startswith(prefix) or inner and n.op_type == inner]
    made = {value for n in moved for value in n.output}
    read = list(dict.fromkeys(v for n in moved for v in n.input if v and v not in made))
    others = [n for n in nodes if n not in moved]
    wanted = {v for n in others for v in n.input} | {o.name for o in graph.output}
    given = [v for n in moved for v in n.output if v in wanted]
    imports = [helper.make_opsetid(o.domain, o.version) for o in model.opset_import]
    if inner:
        imports.append(helper.make_opsetid("project.functions", 1))
    model.functions.append(helper.make_function("project.functions", name, read, given, moved, imports))
    call = helper.make_node(name, read, given, domain="project.functions", name=f"call_{name}")
    ready = max((i for i, n in enumerate(others) if set(n.output) & set(read)), default=-1)
    others.insert(ready + 1, call)
    del graph.node[:]
    graph.node.extend(others)
    return name
