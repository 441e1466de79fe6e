//! Which rule and which data types belong to which operator: the one table.

use onnx_model::DataType;

use super::op::{Op, Outs};
use super::{
    attention, contrib, conv, elementwise, gather, matmul, moves, quantise, reduce, shape_ops,
};

/// The data type of an output.
#[derive(Clone, Copy)]
pub(super) enum Type {
    /// That of the input with this index.
    Of(usize),
    /// Always this one.
    Is(DataType),
    /// Found in the node.
    Found(fn(&Op) -> Option<DataType>),
}

impl Type {
    pub(super) fn resolve(self, op: &Op) -> Option<DataType> {
        match self {
            Type::Of(i) => op.dtype(i),
            Type::Is(dtype) => Some(dtype),
            Type::Found(find) => find(op),
        }
    }
}

/// Shapes and contents of an operator's outputs.
pub(super) type Rule = fn(&Op) -> Outs;

/// The data types of an operator's outputs; the last one stands for all further outputs.
pub(super) type Types = &'static [Type];

use Type::{Found, Is, Of};
const SAME: Types = &[Of(0)];
const SECOND: Types = &[Of(1)];
const BOOL: Types = &[Is(DataType::Bool)];
const INT64: Types = &[Is(DataType::Int64)];
const INT32: Types = &[Is(DataType::Int32)];
const QUANTIZED: Types = &[Found(quantized_type)];
const NORM: Types = &[Of(0), Is(DataType::Float), Is(DataType::Float), Of(0)];

/// The rule of an operator, if there is one.
pub(super) fn rule(domain: &str, operator: &str) -> Option<(Rule, Types)> {
    match domain {
        "" => standard(operator),
        "com.microsoft" => microsoft(operator).or_else(|| standard(operator)),
        _ => None,
    }
}

fn standard(operator: &str) -> Option<(Rule, Types)> {
    Some(match operator {
        // One input, element by element.
        "Identity" | "Neg" | "Abs" | "Sign" | "Relu" | "BitwiseNot" | "Sqrt" | "Exp" | "Log"
        | "Sin" | "Cos" | "Tan" | "Tanh" | "Ceil" | "Floor" | "Round" | "Reciprocal"
        | "Sigmoid" | "Softplus" => (elementwise::unary, SAME),
        "Not" | "IsNaN" => (elementwise::unary, BOOL),
        "IsInf" => (elementwise::same, BOOL),
        "Erf" | "Gelu" | "Elu" | "Selu" | "Celu" | "Mish" | "HardSwish" | "HardSigmoid"
        | "LeakyRelu" | "Softsign" | "ThresholdedRelu" | "Shrink" | "Swish" | "Acos" | "Acosh"
        | "Asin" | "Asinh" | "Atan" | "Atanh" | "Sinh" | "Cosh" => (elementwise::same, SAME),
        "Clip" => (elementwise::clip, SAME),
        "PRelu" => (elementwise::prelu, SAME),
        "Dropout" => (elementwise::dropout, &[Of(0), Is(DataType::Bool)]),
        "Cast" | "CastLike" => (elementwise::cast, &[Found(elementwise::cast_target)]),
        "BitCast" => (elementwise::same, &[Found(elementwise::cast_target)]),
        // Several inputs, broadcast.
        "Add" | "Sub" | "Mul" | "Div" | "Mod" | "Pow" | "BitwiseAnd" | "BitwiseOr"
        | "BitwiseXor" | "BitShift" => (elementwise::binary, SAME),
        "Equal" | "Less" | "Greater" | "LessOrEqual" | "GreaterOrEqual" | "And" | "Or" | "Xor" => {
            (elementwise::binary, BOOL)
        }
        "Min" | "Max" | "Sum" | "Mean" => (elementwise::variadic, SAME),
        "Where" => (elementwise::select, SECOND),
        // Shapes.
        "Shape" => (shape_ops::shape, INT64),
        "Size" => (shape_ops::size, INT64),
        "Reshape" => (shape_ops::reshape, SAME),
        "Flatten" => (shape_ops::flatten, SAME),
        "Squeeze" => (shape_ops::squeeze, SAME),
        "Unsqueeze" => (shape_ops::unsqueeze, SAME),
        "ConstantOfShape" => (shape_ops::constant_of_shape, &[Found(constant_type)]),
        "Range" => (shape_ops::range, SAME),
        "EyeLike" | "Bernoulli" => (elementwise::same, &[Found(own_type)]),
        "Split" => (shape_ops::split, SAME),
        // Moving elements.
        "Transpose" => (moves::transpose, SAME),
        "Expand" => (moves::expand, SAME),
        "Tile" => (moves::tile, SAME),
        "Concat" => (moves::concat, SAME),
        "Slice" => (moves::slice, SAME),
        "Pad" => (moves::pad, SAME),
        "Trilu" => (moves::trilu, SAME),
        "ReverseSequence" => (elementwise::same, SAME),
        // Indices.
        "Gather" => (gather::gather, SAME),
        "GatherElements" => (gather::gather_elements, SAME),
        "GatherND" => (gather::gather_nd, SAME),
        "ScatterElements" | "Scatter" => (gather::scatter_elements, SAME),
        "ScatterND" => (gather::scatter_nd, SAME),
        "CumSum" => (gather::cum_sum, SAME),
        "OneHot" => (gather::one_hot, &[Of(2)]),
        "NonZero" => (gather::non_zero, INT64),
        "TopK" => (gather::top_k, &[Of(0), Is(DataType::Int64)]),
        // Products.
        "MatMul" => (matmul::matmul, SAME),
        "MatMulInteger" => (matmul::matmul, INT32),
        "QLinearMatMul" => (matmul::qlinear_matmul, &[Of(7)]),
        "Gemm" => (matmul::gemm, SAME),
        "Einsum" => (matmul::einsum, SAME),
        // Windows.
        "Conv" => (conv::conv, SAME),
        "ConvInteger" => (conv::conv, INT32),
        "QLinearConv" => (conv::qlinear_conv, &[Of(7)]),
        "MaxPool" => (conv::pool, &[Of(0), Is(DataType::Int64)]),
        "AveragePool" | "LpPool" => (conv::pool, SAME),
        "GlobalAveragePool" | "GlobalMaxPool" | "GlobalLpPool" => (reduce::global_pool, SAME),
        "Resize" | "Upsample" => (conv::resize, SAME),
        "DepthToSpace" | "SpaceToDepth" => (conv::block_shuffle, SAME),
        // Reductions and normalisations.
        "ReduceSum" | "ReduceMean" | "ReduceMax" | "ReduceMin" | "ReduceProd" | "ReduceL1"
        | "ReduceL2" | "ReduceLogSum" | "ReduceLogSumExp" | "ReduceSumSquare" => {
            (reduce::reduce, SAME)
        }
        "ArgMax" | "ArgMin" => (reduce::arg, INT64),
        "Softmax" | "LogSoftmax" | "Hardmax" => (reduce::along_axis, SAME),
        "LayerNormalization" | "RMSNormalization" | "SimplifiedLayerNormalization" => {
            (reduce::layer_norm, NORM)
        }
        "InstanceNormalization"
        | "GroupNormalization"
        | "LpNormalization"
        | "LRN"
        | "MeanVarianceNormalization" => (elementwise::same, SAME),
        "BatchNormalization" => (reduce::batch_norm, SAME),
        // Quantisation.
        "QuantizeLinear" => (quantise::quantize, QUANTIZED),
        "DequantizeLinear" => (quantise::dequantize, SECOND),
        "DynamicQuantizeLinear" => (
            quantise::dynamic_quantize,
            &[
                Is(DataType::Uint8),
                Is(DataType::Float),
                Is(DataType::Uint8),
            ],
        ),
        // Sequence models.
        "Attention" => (attention::attention, &[Of(0), Of(1), Of(2), Of(0)]),
        "RotaryEmbedding" => (attention::rotary, SAME),
        "LSTM" | "GRU" | "RNN" => (attention::recurrent, SAME),
        // ONNX Runtime writes this one into the default domain too.
        "SkipLayerNormalization" | "SkipSimplifiedLayerNormalization" => {
            (contrib::skip_layer_norm, NORM)
        }
        _ => return None,
    })
}

/// com.microsoft; operators of the standard set that ONNX Runtime also has there are found in [`standard`].
fn microsoft(operator: &str) -> Option<(Rule, Types)> {
    Some(match operator {
        "BiasGelu" | "FastGelu" | "QuickGelu" | "BiasDropout" | "BiasSoftmax" | "GroupNorm" => {
            (elementwise::same, SAME)
        }
        "EmbedLayerNormalization" => (
            contrib::embed_layer_norm,
            &[Of(2), Is(DataType::Int32), Of(2)],
        ),
        "Attention" | "LongformerAttention" => (contrib::packed_attention, SAME),
        "QAttention" => (contrib::packed_attention, &[Of(3)]),
        "MultiHeadAttention" => (contrib::multi_head_attention, SAME),
        "GroupQueryAttention" => (contrib::group_query_attention, SAME),
        "FusedMatMul" => (matmul::fused_matmul, SAME),
        "FusedGemm" => (matmul::gemm, SAME),
        "FusedConv" => (conv::conv, SAME),
        "MatMulNBits" | "MatMulBnb4" => (contrib::packed_matmul, SAME),
        "DynamicQuantizeMatMul" => (matmul::matmul, SAME),
        "MatMulIntegerToFloat" => (matmul::matmul, &[Of(2)]),
        "QLinearAdd" | "QLinearMul" => (contrib::qlinear_binary, SAME),
        "QGemm" => (contrib::qgemm, &[Found(qgemm_type)]),
        "QLinearConcat" => (contrib::qlinear_concat, &[Of(2)]),
        "QLinearWhere" => (contrib::qlinear_where, SECOND),
        "QLinearSigmoid" | "QLinearLeakyRelu" | "QLinearSoftmax" => (elementwise::same, SAME),
        _ => return None,
    })
}

/// Codes if there is a zero point for them, else numbers.
fn qgemm_type(op: &Op) -> Option<DataType> {
    if op.has(8) {
        op.dtype(8)
    } else {
        Some(DataType::Float)
    }
}

fn attr_type(op: &Op, name: &str) -> Option<DataType> {
    op.node
        .attr_int(name)
        .filter(|&t| t != 0)
        .and_then(|t| i32::try_from(t).ok())
        .and_then(DataType::from_i32)
}

fn constant_type(op: &Op) -> Option<DataType> {
    Some(
        op.node
            .attr_tensor("value")
            .map_or(DataType::Float, |t| t.dtype()),
    )
}

fn own_type(op: &Op) -> Option<DataType> {
    attr_type(op, "dtype").or_else(|| op.dtype(0))
}

fn quantized_type(op: &Op) -> Option<DataType> {
    if op.has(2) {
        op.dtype(2)
    } else {
        Some(attr_type(op, "output_dtype").unwrap_or(DataType::Uint8))
    }
}
