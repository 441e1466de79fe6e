//! Reachability over data edges: all edges but those into Shape and Size.

use onnx_model::{Graph, NodeId, ValueId};
use std::collections::{BTreeMap, BTreeSet};

/// Topological positions and liveness of a graph's nodes.
pub struct Reach {
    order: Vec<NodeId>,
    position: BTreeMap<NodeId, usize>,
    live: BTreeSet<NodeId>,
}

/// Whether a node reads only the shape of its inputs.
pub fn reads_shape_only(graph: &Graph, id: NodeId) -> bool {
    let node = graph.node(id);
    node.domain.is_empty() && matches!(node.op_type.as_str(), "Shape" | "Size")
}

impl Reach {
    /// Indexes a graph whose nodes are in topological order.
    pub fn new(graph: &Graph) -> Reach {
        let order: Vec<NodeId> = graph.node_ids().collect();
        let position = order.iter().enumerate().map(|(i, &n)| (n, i)).collect();
        let mut needed: BTreeSet<ValueId> = graph.outputs().iter().copied().collect();
        let mut live = BTreeSet::new();
        for &id in order.iter().rev() {
            let node = graph.node(id);
            if node.outputs.iter().flatten().any(|v| needed.contains(v)) {
                live.insert(id);
                if !reads_shape_only(graph, id) {
                    needed.extend(node.inputs.iter().flatten());
                    needed.extend(node.captures());
                }
            }
        }
        Reach {
            order,
            position,
            live,
        }
    }

    /// The place of a node in the order.
    pub fn position(&self, id: NodeId) -> usize {
        self.position.get(&id).copied().unwrap_or(0)
    }

    /// Whether a graph output depends on a node's values, not only on their shapes.
    pub fn is_live(&self, id: NodeId) -> bool {
        self.live.contains(&id)
    }

    /// The values that a value is computed from over data edges, itself included.
    pub fn ancestors(&self, graph: &Graph, value: ValueId) -> BTreeSet<ValueId> {
        let mut seen = BTreeSet::from([value]);
        let mut queue = vec![value];
        while let Some(value) = queue.pop() {
            let Some((producer, _)) = graph.value(value).producer() else {
                continue;
            };
            if reads_shape_only(graph, producer) {
                continue;
            }
            let node = graph.node(producer);
            for &input in node.inputs.iter().flatten().chain(node.captures()) {
                if seen.insert(input) {
                    queue.push(input);
                }
            }
        }
        seen
    }

    /// Nodes that are computed from given nodes but on which nothing but shapes depends, in topological order.
    pub fn satellites(&self, graph: &Graph, of: &[NodeId]) -> Vec<NodeId> {
        let inside: BTreeSet<NodeId> = of.iter().copied().collect();
        let mut seen: BTreeSet<usize> = BTreeSet::new();
        let mut queue: Vec<NodeId> = of.to_vec();
        while let Some(id) = queue.pop() {
            for &(reader, _) in graph
                .node(id)
                .outputs
                .iter()
                .flatten()
                .flat_map(|&v| graph.value(v).uses())
            {
                let apart = !inside.contains(&reader)
                    && !self.is_live(reader)
                    && !reads_shape_only(graph, reader);
                if apart && seen.insert(self.position(reader)) {
                    queue.push(reader);
                }
            }
        }
        seen.into_iter()
            .filter_map(|i| self.order.get(i).copied())
            .collect()
    }

    /// The nodes on data paths from one value to another, in topological order.
    pub fn between(&self, graph: &Graph, from: ValueId, to: ValueId) -> Vec<NodeId> {
        let start = graph
            .value(from)
            .producer()
            .map_or(0, |(n, _)| self.position(n) + 1);
        let Some(end) = graph.value(to).producer().map(|(n, _)| self.position(n)) else {
            return Vec::new();
        };
        if end < start {
            return Vec::new();
        }
        let window = &self.order[start..=end];
        let mut reached: BTreeSet<ValueId> = BTreeSet::from([from]);
        let mut forward = Vec::new();
        for &id in window {
            let node = graph.node(id);
            if !reads_shape_only(graph, id)
                && node
                    .inputs
                    .iter()
                    .flatten()
                    .chain(node.captures())
                    .any(|v| reached.contains(v))
            {
                forward.push(id);
                reached.extend(node.outputs.iter().flatten());
            }
        }
        let mut needed: BTreeSet<ValueId> = BTreeSet::from([to]);
        let mut nodes = Vec::new();
        for &id in forward.iter().rev() {
            let node = graph.node(id);
            if node.outputs.iter().flatten().any(|v| needed.contains(v)) {
                nodes.push(id);
                needed.extend(
                    node.inputs
                        .iter()
                        .flatten()
                        .chain(node.captures())
                        .filter(|v| reached.contains(v)),
                );
            }
        }
        nodes.reverse();
        nodes
    }

    /// The values that every data path from `source` to `sink` crosses, both included.
    pub fn cuts(&self, graph: &Graph, source: ValueId, sink: ValueId) -> Vec<ValueId> {
        let nodes = self.between(graph, source, sink);
        let inside: BTreeSet<NodeId> = nodes.iter().copied().collect();
        // Values that have been produced and are still to be read.
        let readers = |value: ValueId| {
            graph
                .value(value)
                .uses()
                .iter()
                .filter(|(n, _)| inside.contains(n))
                .count()
                + graph
                    .value(value)
                    .captured_by()
                    .iter()
                    .filter(|n| inside.contains(n))
                    .count()
        };
        let mut open: BTreeMap<ValueId, usize> = BTreeMap::from([(source, readers(source))]);
        let mut cuts = vec![source];
        for &id in &nodes {
            let node = graph.node(id);
            for value in node.inputs.iter().flatten().chain(node.captures()) {
                if let Some(left) = open.get_mut(value) {
                    *left = left.saturating_sub(1);
                    if *left == 0 {
                        open.remove(value);
                    }
                }
            }
            for &value in node.outputs.iter().flatten() {
                let count = readers(value);
                if count > 0 || value == sink {
                    open.insert(value, count.max(usize::from(value == sink)));
                }
            }
            if let (1, Some((&value, _))) = (open.len(), open.first_key_value()) {
                if cuts.last() != Some(&value) && node.outputs.contains(&Some(value)) {
                    cuts.push(value);
                }
                if value == sink {
                    break;
                }
            }
        }
        cuts
    }
}
