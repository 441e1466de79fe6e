//! Pass `transposes`: in 16-bit floats, multiplies by a matrix before the batch axis is moved instead of after it.
//!
//! `MatMul(Transpose(x), W)` and `Transpose(MatMul(x, W))` are the same where W is a matrix and the last axis stays. ONNX Runtime 1.24
//! to 1.32 (its issue 28392) crashes while loading the first on CPUs: it puts a Cast between the two, which its fusion of Transpose and
//! MatMul moves without telling the passes behind it. An original escapes where ONNX Runtime moves the Transpose away first; it no
//! longer does where compressed rows begin.

use crate::conversion::Conversion;
use crate::emit::Emit;
use crate::error::Error;
use onnx_model::{DataType, Graph, NodeId, ValueId};

pub(crate) fn run(c: &mut Conversion) -> Result<(), Error> {
    if c.encoders.is_empty() {
        return Ok(());
    }
    let opset = c.opset();
    multiply_first(&mut Emit::new(&mut c.model.graph, opset, "vcc/product"));
    Ok(())
}

fn multiply_first(e: &mut Emit<'_>) {
    let nodes: Vec<NodeId> = e.graph.node_ids().collect();
    for product in nodes {
        if let Some((x, perm)) = moved_operand(e.graph, product) {
            swap(e, product, x, &perm);
        }
    }
}

/// What a product by a 16-bit matrix reads through a Transpose that brings the first axis in front of the last.
fn moved_operand(graph: &Graph, product: NodeId) -> Option<(ValueId, Vec<usize>)> {
    let node = graph.node(product);
    let [Some(left), Some(weights)] = node.inputs[..] else {
        return None;
    };
    let (transpose, _) = graph.value(left).producer()?;
    let transpose = graph.node(transpose);
    if node.op_type != "MatMul" || transpose.op_type != "Transpose" {
        return None;
    }
    let weights = graph.tensor(weights)?;
    if weights.dtype() != DataType::Float16 || weights.dims().len() != 2 {
        return None;
    }
    let perm: Option<Vec<usize>> = transpose
        .attr_ints("perm")?
        .iter()
        .map(|&axis| usize::try_from(axis).ok())
        .collect();
    let perm = perm?;
    let last = perm.len().checked_sub(1)?;
    let batch_moved = (1..last).chain([0, last]);
    let fits = last >= 2 && perm.iter().copied().eq(batch_moved);
    Some((transpose.inputs.first().copied()??, perm)).filter(|_| fits)
}

fn swap(e: &mut Emit<'_>, product: NodeId, x: ValueId, perm: &[usize]) {
    let Some(y) = e.graph.node(product).outputs.first().copied().flatten() else {
        return;
    };
    let name = e.graph.value(y).name.clone();
    let unmoved = e.graph.new_value(&name);
    e.graph.set_input(product, 0, Some(x));
    e.graph.set_output(product, 0, Some(unmoved));
    let moved = e.transpose(unmoved, perm);
    let producer = e.graph.value(moved).producer();
    if let Some((transpose, output)) = producer {
        e.graph.set_output(transpose, output, Some(y));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test")]

    use super::*;
    use onnx_model::{AttrValue, Dimension, Model, NewNode, Tensor};

    fn node(graph: &mut Graph, op: &str, inputs: &[ValueId], perm: &[i64]) -> ValueId {
        let output = graph.new_value(&op.to_lowercase());
        let perm = (!perm.is_empty()).then(|| ("perm".to_owned(), AttrValue::Ints(perm.to_vec())));
        graph.add_node(NewNode {
            op_type: op.to_owned(),
            inputs: inputs.iter().copied().map(Some).collect(),
            outputs: vec![Some(output)],
            attributes: perm.into_iter().collect(),
            ..NewNode::default()
        });
        output
    }

    /// The operators from input to output of `Relu(MatMul(Transpose(x), W))`.
    fn rewritten(weights: DataType, perm: &[i64]) -> Vec<String> {
        let mut model = Model::new(8, &[("", 17)]);
        let graph = &mut model.graph;
        let dims = [4, 4, 4].map(Dimension::Value);
        let x = graph.add_input("x", weights, &dims).unwrap();
        let matrix = Tensor::from_f64s(weights, &[4, 4], &[0.5; 16]).unwrap();
        let matrix = graph.add_initializer("weights", matrix);
        let moved = node(graph, "Transpose", &[x], perm);
        let product = node(graph, "MatMul", &[moved, matrix], &[]);
        let y = node(graph, "Relu", &[product], &[]);
        graph.add_output(y);
        multiply_first(&mut Emit::new(graph, 17, "test"));
        graph.remove_dead();
        let mut operators = Vec::new();
        let mut value = y;
        while let Some((producer, _)) = graph.value(value).producer() {
            operators.push(graph.node(producer).op_type.clone());
            value = graph.node(producer).inputs[0].unwrap();
        }
        assert_eq!(value, x);
        operators.reverse();
        operators
    }

    #[test]
    fn a_product_behind_a_moved_batch_comes_first() {
        let order = rewritten(DataType::Float16, &[1, 0, 2]);
        assert_eq!(order, ["MatMul", "Transpose", "Relu"]);
    }

    #[test]
    fn other_products_stay() {
        for (dtype, perm) in [
            (DataType::Float, [1, 0, 2]),
            (DataType::Float16, [0, 2, 1]),
            (DataType::Float16, [1, 2, 0]),
        ] {
            assert_eq!(rewritten(dtype, &perm), ["Transpose", "MatMul", "Relu"]);
        }
    }
}
