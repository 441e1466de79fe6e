//! Order of nodes, and removal of those that nothing needs.

use crate::error::Error;
use crate::graph::{Graph, NodeId};

impl Graph {
    /// The nodes that make what the node reads.
    fn producers(&self, id: NodeId) -> Vec<NodeId> {
        let node = self.node(id);
        let read = node.inputs.iter().flatten().chain(&node.captures);
        read.filter_map(|v| Some(self.value(*v).producer()?.0))
            .collect()
    }

    /// The nodes in an order in which each follows what it reads, and else as they are.
    pub(crate) fn topological_order(&self) -> Result<Vec<NodeId>, Error> {
        let producers = |index: usize| {
            let producers = self.producers(NodeId(index as u32));
            producers.iter().map(|id| id.0 as usize).collect()
        };
        let roots = self.order.iter().map(|id| id.0 as usize);
        let on_cycle = |index| Error::Cycle {
            node: self.node(NodeId(index as u32)).title(),
        };
        let sorted = topological(self.nodes.len(), roots, producers).map_err(on_cycle)?;
        Ok(sorted
            .into_iter()
            .map(|index| NodeId(index as u32))
            .collect())
    }

    /// Puts every node behind what it reads (captures of subgraphs included). Stable: a node moves only as far as it
    /// must.
    ///
    /// # Errors
    /// `E-ONNX-CYCLE` if there is no such order.
    pub fn sort(&mut self) -> Result<(), Error> {
        let order = self.topological_order()?;
        if order != self.order {
            self.order = order;
            self.edited = true;
        }
        Ok(())
    }

    /// Removes the nodes none of whose outputs is used (by the graph's outputs, a node that stays, or a subgraph),
    /// the initializers that lost their last use by that or by an earlier edit, and the declared types of values that
    /// are gone. Returns the number of nodes removed.
    pub fn remove_dead(&mut self) -> usize {
        let mut work: Vec<NodeId> = self.order.clone();
        let mut dead = vec![false; self.nodes.len()];
        let mut count = 0;
        while let Some(id) = work.pop() {
            let used = |graph: &Graph| {
                graph
                    .node(id)
                    .outputs
                    .iter()
                    .flatten()
                    .any(|v| graph.value(*v).used())
            };
            if dead[id.0 as usize] || used(self) {
                continue;
            }
            work.extend(self.producers(id));
            dead[id.0 as usize] = true;
            count += 1;
            self.detach(id);
        }
        if count > 0 {
            self.order.retain(|id| !dead[id.0 as usize]);
        }
        self.remove_orphans();
        count
    }

    fn remove_orphans(&mut self) {
        let (mut gone, values) = (false, &mut self.values);
        self.initializer_fields.retain(|(id, _)| {
            let value = &mut values[id.0 as usize];
            let remove = value.orphan && !value.used() && !value.kind.input;
            if remove {
                value.kind.initializer = None;
                gone = true;
            }
            !remove
        });
        let before = self.value_info_fields.len();
        self.value_info_fields
            .retain(|(id, _)| id.is_none_or(|id| values[id.0 as usize].exists()));
        self.edited |= gone || before != self.value_info_fields.len();
    }
}

/// What is reachable from `roots` among `count` things, each behind what it needs, and else in the order of `roots`.
/// An error is a thing that needs itself. Without recursion: chains may be as long as the model.
pub(crate) fn topological(
    count: usize,
    roots: impl Iterator<Item = usize>,
    needs: impl Fn(usize) -> Vec<usize>,
) -> Result<Vec<usize>, usize> {
    #[derive(Clone, Copy, PartialEq)]
    enum State {
        New,
        Open,
        Done,
    }
    let mut state = vec![State::New; count];
    let mut out = Vec::with_capacity(count);
    let mut stack: Vec<(usize, std::vec::IntoIter<usize>)> = Vec::new();
    for root in roots {
        if state[root] == State::New {
            state[root] = State::Open;
            stack.push((root, needs(root).into_iter()));
        }
        while let Some((thing, needed)) = stack.last_mut() {
            match needed.next() {
                None => {
                    state[*thing] = State::Done;
                    out.push(*thing);
                    stack.pop();
                }
                Some(next) => match state[next] {
                    State::Done => {}
                    State::Open => return Err(next),
                    State::New => {
                        state[next] = State::Open;
                        stack.push((next, needs(next).into_iter()));
                    }
                },
            }
        }
    }
    Ok(out)
}
