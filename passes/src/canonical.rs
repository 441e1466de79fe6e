//! Pass `canonical`: takes ai.onnx Attention (opset 23 and newer) apart into products and a softmax.
//!
//! The count bias and selection need the scores before the softmax. Attention nodes that use what a block can't have anyway
//! (caches, causal masking, softcap) stay as they are and are refused by the analysis.

use crate::conversion::Conversion;
use crate::emit::{Emit, Size};
use crate::error::Error;
use onnx_model::{AttrValue, DataType, Graph, NodeId, ValueId};
use token_axes::Samples;

pub(crate) fn run(c: &mut Conversion) -> Result<(), Error> {
    let attentions: Vec<NodeId> = c
        .model
        .graph
        .node_ids()
        .filter(|&id| {
            let node = c.model.graph.node(id);
            node.domain.is_empty() && node.op_type == "Attention"
        })
        .collect();
    if attentions.is_empty() {
        return Ok(());
    }
    c.model.graph.sort()?;
    let samples = Samples(token_axes::interp::evaluate_samples(&c.model));
    let opset = c.opset();
    for id in attentions {
        take_apart(&mut c.model.graph, opset, &samples, id);
    }
    Ok(())
}

/// One operand as `[B, heads, n, head size]`.
struct Heads {
    value: ValueId,
    head_size: i64,
}

fn take_apart(graph: &mut Graph, opset: i64, samples: &Samples, id: NodeId) -> Option<()> {
    let node = graph.node(id).clone();
    let input = |i: usize| node.inputs.get(i).copied().flatten();
    let flag = |name: &str| node.attr_int(name).unwrap_or(0);
    let only_first_output = node.outputs.iter().skip(1).all(Option::is_none);
    let softcap = node.attr_float("softcap").unwrap_or(0.0);
    if flag("is_causal") != 0
        || softcap != 0.0
        || (4..7).any(|i| input(i).is_some())
        || !only_first_output
    {
        return None;
    }
    let (q, k, v) = (input(0)?, input(1)?, input(2)?);
    let dtype = samples.dtype(q)?;
    let output = node.outputs.first().copied().flatten()?;
    let (q_heads, kv_heads) = (flag("q_num_heads"), flag("kv_num_heads"));
    let rank = samples.shape(q)?.len();
    let mask_is_bool = input(3).map(|m| samples.dtype(m) == Some(DataType::Bool));
    let mut e = Emit::new(
        graph,
        opset,
        if node.name.is_empty() {
            "attention"
        } else {
            &node.name
        },
    );
    let (query, key, value) = match rank {
        4 => {
            let heads = |value: ValueId| -> Option<Heads> {
                Some(Heads {
                    value,
                    head_size: samples.shape(value)?.get(3)?.constant()?,
                })
            };
            let same = samples.shape(q)?.get(1)? == samples.shape(k)?.get(1)?;
            if !same {
                return None;
            }
            (heads(q)?, heads(k)?, heads(v)?)
        }
        3 if q_heads > 0 && q_heads == kv_heads => {
            let mut heads = |value: ValueId| -> Option<Heads> {
                let head_size = samples.shape(value)?.get(2)?.constant()? / q_heads;
                let split = e.reshape(
                    value,
                    &[
                        Size::Const(0),
                        Size::Const(0),
                        Size::Const(q_heads),
                        Size::Const(head_size),
                    ],
                );
                Some(Heads {
                    value: e.transpose(split, &[0, 2, 1, 3]),
                    head_size,
                })
            };
            (heads(q)?, heads(k)?, heads(v)?)
        }
        _ => return None,
    };
    let scale = node
        .attr_float("scale")
        .map_or_else(|| 1.0 / (query.head_size as f64).sqrt(), f64::from);
    let scale = e.float(dtype, scale);
    let key = e.transpose(key.value, &[0, 1, 3, 2]);
    let query = e.op("Mul", &[query.value, scale], &[]);
    let mut scores = e.op("MatMul", &[query, key], &[]);
    if let (Some(mask), Some(is_bool)) = (input(3), mask_is_bool) {
        scores = if is_bool {
            let blocked = e.float(dtype, f64::NEG_INFINITY);
            e.op("Where", &[mask, scores, blocked], &[])
        } else {
            e.op("Add", &[scores, mask], &[])
        };
    }
    let weights = e.op("Softmax", &[scores], &[("axis", AttrValue::Int(-1))]);
    let mut result = e.op("MatMul", &[weights, value.value], &[]);
    if rank == 3 {
        let merged = e.transpose(result, &[0, 2, 1, 3]);
        result = e.reshape(
            merged,
            &[
                Size::Const(0),
                Size::Const(0),
                Size::Const(q_heads * value.head_size),
            ],
        );
    }
    let graph = e.graph;
    let (producer, index) = graph.value(result).producer()?;
    graph.remove_node(id);
    graph.set_output(producer, index, Some(output));
    Some(())
}
