//! Bodies of the `ai.vcc` operators in standard ONNX operators: what runs where our library is not registered.
//!
//! A file can hold one body per operator name, so a body serves every node of that name in the file: the ladder and the opset
//! are built in, everything that differs between nodes is read from the node's attributes by reference.
//!
//! Invariants of all bodies:
//! - only operator forms that the opset defines; the lowest common form (opset 11) wherever a newer one saves nothing;
//! - no Loop, If or Sequence, no optional inputs; sizes come from Shape, so one body serves all lengths;
//! - indices and positions are int64 throughout; floats only where the operator is about floats, summed in float32;
//! - values that must not count are replaced with Where before any sum: a NaN in a padding token stays there.

mod build;
mod coarsen;
mod compress;
mod decompress;
mod expand;
mod partition;
mod select;
mod tree;
mod val;

use build::Body;
use onnx_model::Function;

/// The domain of the operators.
pub const DOMAIN: &str = "ai.vcc";

/// The version of [`DOMAIN`] that the bodies implement.
pub const DOMAIN_VERSION: i64 = 1;

/// The lowest opset of the default domain that the bodies can be written for.
pub const MIN_OPSET: i64 = 11;

/// An operator of [`DOMAIN`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operator {
    /// Masks to the order of slots and items.
    Partition,
    /// Token rows to the state.
    Coarsen,
    /// Attention scores to the segments that are refined.
    Select,
    /// State to the compressed sequence.
    Compress,
    /// A block's result back into the state.
    Decompress,
    /// State to token rows.
    Expand,
}

impl Operator {
    /// Every operator, in the order of the specification.
    pub const ALL: [Operator; 6] = [
        Operator::Partition,
        Operator::Coarsen,
        Operator::Select,
        Operator::Compress,
        Operator::Decompress,
        Operator::Expand,
    ];

    /// The operator's `op_type`.
    pub fn name(self) -> &'static str {
        match self {
            Operator::Partition => "VccPartition",
            Operator::Coarsen => "VccCoarsen",
            Operator::Select => "VccSelect",
            Operator::Compress => "VccCompress",
            Operator::Decompress => "VccDecompress",
            Operator::Expand => "VccExpand",
        }
    }

    /// Names of the inputs, in order.
    pub fn inputs(self) -> &'static [&'static str] {
        match self {
            Operator::Partition => &["vip", "valid"],
            Operator::Coarsen => &["x", "item_token", "item_count", "token_slot", "vote"],
            Operator::Select => &["scores", "candidates", "item_count", "vote", "budget"],
            Operator::Compress => &[
                "value",
                "scale",
                "offset",
                "items",
                "item_token",
                "item_count",
                "vote",
            ],
            Operator::Decompress => &[
                "value",
                "scale",
                "offset",
                "items",
                "item_count",
                "vote",
                "y",
                "update",
                "gain",
            ],
            Operator::Expand => &["value", "scale", "offset", "token_slot", "vote"],
        }
    }

    /// Names of the outputs, in order.
    pub fn outputs(self) -> &'static [&'static str] {
        match self {
            Operator::Partition => &["item_token", "item_count", "token_slot", "vote", "roots"],
            Operator::Coarsen => &["value", "scale", "offset"],
            Operator::Select => &["children", "rest", "sums"],
            Operator::Compress => &["rows", "row_token", "row_bias"],
            Operator::Decompress => &["new_value", "new_scale", "new_offset"],
            Operator::Expand => &["x"],
        }
    }

    /// Names of the attributes that a node carries; none has a default, so a node carries all of them.
    pub fn attributes(self) -> &'static [&'static str] {
        match self {
            Operator::Partition => &["ladder", "capacity", "dim_prefix"],
            Operator::Select => &["ladder", "level", "dim_prefix"],
            Operator::Compress => &["ladder", "count_weight", "dtype", "dim_prefix"],
            Operator::Coarsen | Operator::Decompress | Operator::Expand => {
                &["ladder", "dtype", "dim_prefix"]
            }
        }
    }
}

/// What is built into a body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BodyParams {
    /// Opset of the default domain that the body is written for, at least [`MIN_OPSET`]: the opset of the model.
    pub opset: i64,
    /// Segment sizes, coarse to fine: strictly decreasing, each divides the one before, the last is 1, at least two.
    pub ladder: Vec<i64>,
    /// The capacity of `VccPartition`, where the body is for one node only. Engines that want to know all sizes before they
    /// run a model then see that it depends on nothing but the number of tokens, unless it is 0.
    pub capacity: Option<i64>,
}

/// The body of `op`, with the operator's inputs, outputs and attributes under the names of the specification
/// (the state that `VccDecompress` returns is called `new_value`, `new_scale`, `new_offset`).
///
/// The caller adds it to the model once, imports [`DOMAIN`], and sees to an `ir_version` of at least 8.
pub fn function(op: Operator, params: &BodyParams) -> Function {
    debug_assert!(
        params.opset >= MIN_OPSET,
        "opset {} is too old",
        params.opset
    );
    let body = Body::new(params.opset, op.inputs());
    let ladder = &params.ladder;
    let outputs = match op {
        Operator::Partition => partition::build(&body, ladder, params.capacity),
        Operator::Coarsen => coarsen::build(&body, ladder),
        Operator::Select => select::build(&body, ladder),
        Operator::Compress => compress::build(&body, ladder),
        Operator::Decompress => decompress::build(&body, ladder),
        Operator::Expand => expand::build(&body, ladder),
    };
    body.finish(op, &outputs)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use onnx_model::AttrValue;

    use super::*;

    fn all_bodies() -> impl Iterator<Item = (Operator, BodyParams)> {
        let ladders = [vec![16, 1], vec![8, 4, 1], vec![64, 16, 4, 1]];
        let params = ladders.into_iter().flat_map(|ladder| {
            (MIN_OPSET..=25).map(move |opset| BodyParams {
                opset,
                ladder: ladder.clone(),
                capacity: None,
            })
        });
        params.flat_map(|params| Operator::ALL.map(|op| (op, params.clone())))
    }

    /// Names are defined once and before use, every node serves an output, only declared attributes are referred to.
    #[test]
    fn bodies_are_well_formed() {
        for (op, params) in all_bodies() {
            let function = function(op, &params);
            let mut known: BTreeSet<&str> = function.inputs.iter().map(String::as_str).collect();
            let mut unused = BTreeSet::new();
            for node in &function.nodes {
                for input in &node.inputs {
                    assert!(
                        known.contains(input.as_str()),
                        "{op:?} {params:?}: {input} of {}",
                        node.name
                    );
                    unused.remove(input.as_str());
                }
                for output in &node.outputs {
                    assert!(known.insert(output), "{op:?} {params:?}: {output} twice");
                }
                // A node's first output is the one in use (TopK has two).
                unused.extend(node.outputs.first().map(String::as_str));
                for (_, value) in &node.attributes {
                    if let AttrValue::Ref { name, .. } = value {
                        assert!(
                            op.attributes().contains(&name.as_str()),
                            "{op:?}: attribute {name}"
                        );
                    }
                }
            }
            assert_eq!(function.outputs, op.outputs());
            assert!(
                unused.iter().all(|name| op.outputs().contains(name)),
                "{op:?} {params:?}: {unused:?}"
            );
        }
    }

    /// Everything that differs between nodes must reach the body: a body that bakes it in would be wrong for the others.
    #[test]
    fn bodies_read_their_nodes_attributes() {
        for (op, params) in all_bodies() {
            let function = function(op, &params);
            let attributes = function.nodes.iter().flat_map(|node| &node.attributes);
            let referred: BTreeSet<&str> = attributes
                .filter_map(|(_, value)| match value {
                    AttrValue::Ref { name, .. } => Some(name.as_str()),
                    _ => None,
                })
                .collect();
            let fixed = ["ladder", "dim_prefix"];
            let expected: BTreeSet<&str> = op
                .attributes()
                .iter()
                .copied()
                .filter(|name| !fixed.contains(name))
                .collect();
            assert_eq!(referred, expected, "{op:?} {params:?}");
        }
    }
}
