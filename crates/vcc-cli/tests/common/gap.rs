//! Near-ties of a selection: two segments that score alike, of which rounding decides which one is refined.

use super::{Engine, i64s, open, run, with_outputs};
use onnx_model::{DataType, Model, Node};
use std::collections::BTreeMap;
use vcc_core::reference::{Rows, Tree, select};
use vcc_run::Inputs;

/// How clear the least clear selection of a run is: the relative gap between the last segment that is refined and the first that is not.
pub(crate) fn smallest_gap(name: &str, model: &[u8], inputs: &Inputs) -> f64 {
    let parsed = Model::from_bytes(model.to_vec().into(), None).unwrap();
    let graph = &parsed.graph;
    let selects: Vec<&Node> = graph
        .node_ids()
        .map(|id| graph.node(id))
        .filter(|n| n.op_type == "VccSelect")
        .collect();
    let value = |node: &Node, i: usize| graph.value(node.inputs[i].unwrap()).name.clone();
    let types = [
        DataType::Float,
        DataType::Int64,
        DataType::Int64,
        DataType::Bool,
    ]
    .map(|t| t as i32);
    let mut shown = BTreeMap::new();
    for node in &selects {
        shown.extend((0..4).map(|i| (value(node, i), types[i])));
    }
    let shown: Vec<(&str, i32)> = shown.iter().map(|(n, t)| (n.as_str(), *t)).collect();
    let outputs = run(
        &mut open(name, &with_outputs(model, &shown), Engine::Library),
        inputs,
    );
    let mut smallest = f64::INFINITY;
    for node in selects {
        let [scores, candidates, counts, vote] =
            [0, 1, 2, 3].map(|i| outputs.get(&value(node, i)).unwrap());
        let &[batch, heads, v, count] = scores.shape() else {
            panic!("{:?}", scores.shape())
        };
        let budget = graph
            .tensor(node.inputs[4].unwrap())
            .unwrap()
            .to_i64s()
            .unwrap()[0];
        let h = if budget < 0 {
            (count * budget.unsigned_abs() as usize).div_ceil(100)
        } else {
            count.min(budget as usize)
        };
        let sizes: Vec<usize> = node
            .attr_ints("ladder")
            .unwrap()
            .iter()
            .map(|&s| s as usize)
            .collect();
        let items = counts.shape()[1];
        let tree = Tree::from_items(&sizes, v, items).unwrap();
        let (scores, vote) = (scores.data().to_f64s(), vote.data().to_f64s());
        for b in 0..batch {
            let row =
                |i: usize, j: usize| scores[((b * heads + i) * v + j) * count..][..count].to_vec();
            let rows: Vec<Rows> = (0..heads)
                .map(|i| (0..v).map(|j| row(i, j)).collect())
                .collect();
            let vote: Vec<bool> = vote[b * v..][..v].iter().map(|x| *x == 1.0).collect();
            let chosen = select(
                &tree,
                &rows,
                &i64s(candidates)[b * count..][..count],
                &i64s(counts)[b * items..][..items],
                &vote,
                h,
            );
            smallest = smallest.min(chosen.gap);
        }
    }
    smallest
}
