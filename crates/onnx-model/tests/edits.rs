//! Edits keep definitions, uses, names and order consistent.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;
use common::*;
use onnx_model::{AttrValue, DataType, Graph, Model, NewNode, NodeId, Tensor, ValueId, ValueInfo};
use proptest::prelude::*;

fn find(model: &Model, name: &str) -> ValueId {
    model.graph.find_value(name).unwrap()
}

fn ops(graph: &Graph) -> Vec<String> {
    graph
        .node_ids()
        .map(|id| graph.node(id).op_type.clone())
        .collect()
}

#[test]
fn build_sort_write_read() {
    let mut model = small();
    let y = find(&model, "y");
    assert!(model.verify().unwrap_err()[0].what.contains("before"));
    model.graph.sort().unwrap();
    model.verify().unwrap();
    assert_eq!(ops(&model.graph), ["Add", "Softmax"]);
    let (add, softmax) = (
        model.graph.node_ids().next().unwrap(),
        model.graph.node_ids().last().unwrap(),
    );
    assert_eq!(model.graph.value(y).producer(), Some((add, 0)));
    assert_eq!(model.graph.value(y).uses(), [(softmax, 0)]);
    let again = read(model.to_vec().unwrap());
    assert_eq!(ops(&again.graph), ["Add", "Softmax"]);
    assert_eq!(
        again
            .graph
            .tensor(find(&again, "w"))
            .unwrap()
            .to_f64s()
            .unwrap(),
        [1.0, 2.0, 3.0, 4.0]
    );
    assert_eq!(
        again
            .graph
            .node(again.graph.node_ids().last().unwrap())
            .attr_int("axis"),
        Some(-1)
    );
}

#[test]
fn what_is_a_constant() {
    let mut model = read(rich());
    let k = model.graph.tensor(find(&model, "k")).unwrap();
    assert_eq!((k.dims(), k.to_i64s().unwrap()), (&[2][..], vec![3, -1]));
    assert!(model.graph.tensor(find(&model, "w")).is_some());
    let (d, s, y) = (find(&model, "d"), find(&model, "s"), find(&model, "y"));
    // The default of an input can be overridden, a sparse tensor is not read, a node's output is not known.
    assert!(model.graph.tensor(d).is_none() && model.graph.initializer(d).is_some());
    assert!(model.graph.tensor(s).is_none() && model.graph.is_initializer(s));
    assert!(model.graph.tensor(y).is_none());
    assert!(model.graph.is_input(d) && model.graph.is_output(y));
    for (name, value, expected) in [
        ("value_int", AttrValue::Int(3), vec![3.0]),
        ("value_float", AttrValue::Float(0.5), vec![0.5]),
        (
            "value_floats",
            AttrValue::Floats(vec![1.0, 2.0]),
            vec![1.0, 2.0],
        ),
        ("value", AttrValue::Tensor(Tensor::scalar_i64(4)), vec![4.0]),
    ] {
        let out = model.graph.new_value("const");
        model.graph.add_node(NewNode {
            op_type: "Constant".into(),
            outputs: vec![Some(out)],
            attributes: vec![(name.into(), value)],
            ..Default::default()
        });
        assert_eq!(
            model.graph.tensor(out).unwrap().to_f64s().unwrap(),
            expected,
            "{name}"
        );
    }
}

#[test]
fn old_files_have_constants_among_their_inputs() {
    let tensor = len(5, [int(2, 1), len(8, "w"), fixed32(4, 1.0)].concat());
    let graph = [len(11, value_info("x")), len(11, value_info("w")), tensor].concat();
    let old = [int(1, 3), len(8, [int(2, 9)].concat()), len(7, graph)].concat();
    let mut model = read(old);
    let w = find(&model, "w");
    assert_eq!(model.graph.inputs().len(), 2);
    assert!(model.graph.tensor(w).is_some());
    model.set_ir_version(8);
    assert_eq!(model.graph.inputs().len(), 1);
    let again = read(model.to_vec().unwrap());
    assert!(again.graph.tensor(find(&again, "w")).is_some());
    assert_eq!((again.graph.inputs().len(), again.ir_version()), (1, 8));
    again.verify().unwrap();
}

#[test]
fn captures_are_uses() {
    let mut model = read(rich());
    let node = model.graph.node_ids().nth(3).unwrap();
    let names = |model: &Model, id: NodeId| -> Vec<String> {
        model
            .graph
            .node(id)
            .captures()
            .iter()
            .map(|v| model.graph.value(*v).name.clone())
            .collect()
    };
    // `c` through an If inside, `y` from two levels down; names that the bodies define are not captured.
    assert_eq!(names(&model, node), ["x", "w", "c", "y"]);
    assert!(model.graph.node(node).has_subgraph());
    assert_eq!(model.graph.value(find(&model, "w")).captured_by(), [node]);
    // A name that a body defines is taken.
    let fresh = model.graph.new_value("deep");
    assert_eq!(model.graph.value(fresh).name, "deep_1");
    let copy = model.graph.clone_node(node, "copy");
    assert_eq!(names(&model, copy), ["x", "w", "c", "y"]);
    assert_eq!(
        model.graph.value(find(&model, "w")).captured_by(),
        [node, copy]
    );
    assert!(
        model
            .graph
            .add_input("nested_out", DataType::Float, &[])
            .is_err()
    );
    model.graph.remove_node(copy);
    model.verify().unwrap();
    // Only the captures keep the weight.
    model.graph.remove_attr(node, "then_branch");
    model.graph.remove_attr(node, "else_branch");
    assert!(model.graph.node(node).captures().is_empty());
    assert_eq!(model.graph.remove_dead(), 2, "the Constant and the Concat");
    assert!(model.graph.find_value("w").is_none());
    model.verify().unwrap();
}

#[test]
fn sorting_minds_subgraphs_and_is_stable() {
    let body = [
        len(1, node("Identity", "", &["b"], &["t"], &[])),
        len(12, value_info("t")),
    ]
    .concat();
    let graph = [
        len(11, value_info("x")),
        len(
            1,
            node("If", "", &["x"], &["z"], &graph_attr("then_branch", &body)),
        ),
        len(1, node("Relu", "", &["x"], &["a"], &[])),
        len(1, node("Abs", "", &["x"], &["b"], &[])),
        len(1, node("Neg", "", &["x"], &["c"], &[])),
    ]
    .concat();
    let mut model = read(model(&graph));
    assert!(model.verify().is_err());
    model.graph.sort().unwrap();
    model.verify().unwrap();
    assert_eq!(ops(&model.graph), ["Abs", "If", "Relu", "Neg"]);
}

#[test]
fn dead_nodes_go_with_what_only_they_need() {
    let mut model = read(rich());
    let (x, y) = (find(&model, "x"), find(&model, "y"));
    let w1 = model.graph.add_initializer("w1", Tensor::scalar_f32(1.0));
    let w2 = model.graph.add_initializer("w2", Tensor::scalar_f32(1.0));
    let (_, a) = op(&mut model, "Add", &[x, w1], "vanishing");
    model.graph.set_info(a, Some(ValueInfo::default()));
    let (second, _) = op(&mut model, "Mul", &[a, w2], "b");
    // Unused in the file already: not ours to remove, nor are declared types of values that never were there.
    let before = model.graph.node_ids().count();
    assert_eq!(
        model.graph.remove_dead(),
        4,
        "both new ones, the Constant, and the Concat that is no output"
    );
    assert_eq!(model.graph.node_ids().count(), before - 4);
    assert!(!model.graph.contains(second));
    assert!(
        model.graph.find_value("w1").is_none() && model.graph.find_value("vanishing").is_none()
    );
    assert!(model.graph.find_value("w").is_some() && model.graph.is_output(y));
    model.verify().unwrap();
    let text = model.to_vec().unwrap();
    let has = |name: &str| text.windows(name.len()).any(|w| w == name.as_bytes());
    assert!(has("nobody") && has("idle") && !has("w1") && !has("vanishing"));
    assert_eq!(model.graph.remove_dead(), 0);
}

#[test]
fn a_value_moves_to_another_producer() {
    let mut model = read(rich());
    let (x, y) = (find(&model, "x"), find(&model, "y"));
    let (old, _) = model.graph.value(y).producer().unwrap();
    let spare = model.graph.new_value("y");
    assert_eq!(model.graph.value(spare).name, "y_1");
    model.graph.set_output(old, 0, Some(spare));
    let new = model.graph.add_node(NewNode {
        op_type: "Abs".into(),
        inputs: vec![Some(x)],
        outputs: vec![Some(y)],
        ..Default::default()
    });
    model.graph.sort().unwrap();
    model.verify().unwrap();
    assert_eq!(model.graph.value(y).producer(), Some((new, 0)));
    let again = read(model.to_vec().unwrap());
    let producer = again.graph.value(find(&again, "y")).producer().unwrap().0;
    assert_eq!(again.graph.node(producer).op_type, "Abs");
    // The subgraphs and the output follow the name.
    assert!(
        again.graph.is_output(find(&again, "y"))
            && !again
                .graph
                .value(find(&again, "y"))
                .captured_by()
                .is_empty()
    );
}

#[test]
fn names_of_nodes_are_unique() {
    let mut model = read(rich());
    let relu = model.graph.node_ids().next().unwrap();
    let copies = ["relu", "relu", "", ""].map(|hint| model.graph.clone_node(relu, hint));
    let names = copies.map(|id| model.graph.node(id).name.clone());
    assert_eq!(names, ["relu_1", "relu_2", "relu_3", "relu_4"]);
    let again = read(model.to_vec().unwrap());
    let written: Vec<_> = again
        .graph
        .node_ids()
        .map(|id| again.graph.node(id).name.clone())
        .collect();
    assert_eq!(written[5..], names);
}

#[derive(Clone, Debug)]
enum Edit {
    Input(usize, usize, Option<usize>),
    Replace(usize, usize),
    Remove(usize),
    Clone(usize),
    Add(usize, usize),
    Weight,
    Dead,
    Unset(usize),
}

fn edit() -> impl Strategy<Value = Edit> {
    let n = 0usize..1000;
    prop_oneof![
        (n.clone(), 0usize..4, prop::option::of(n.clone()))
            .prop_map(|(a, b, c)| Edit::Input(a, b, c)),
        (n.clone(), n.clone()).prop_map(|(a, b)| Edit::Replace(a, b)),
        n.clone().prop_map(Edit::Remove),
        n.clone().prop_map(Edit::Clone),
        (n.clone(), n.clone()).prop_map(|(a, b)| Edit::Add(a, b)),
        Just(Edit::Weight),
        Just(Edit::Dead),
        n.prop_map(Edit::Unset),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// After any edits nothing is wrong but what the edits themselves make wrong: values without a producer, order.
    #[test]
    fn any_edits(edits in prop::collection::vec(edit(), 1..40)) {
        let mut model = read(rich());
        for edit in edits {
            let nodes: Vec<NodeId> = model.graph.node_ids().collect();
            let values: Vec<ValueId> = model.graph.value_ids().collect();
            let g = &mut model.graph;
            let (node, value) = (|i: usize| nodes.get(i % nodes.len().max(1)).copied(), |i: usize| values[i % values.len()]);
            match edit {
                Edit::Input(n, i, v) => if let Some(n) = node(n) { g.set_input(n, i, v.map(value)) },
                Edit::Replace(a, b) => g.replace_uses(value(a), value(b)),
                Edit::Remove(n) => if let Some(n) = node(n) { g.remove_node(n) },
                Edit::Clone(n) => if let Some(n) = node(n) { _ = g.clone_node(n, "c") },
                Edit::Add(a, b) => _ = op(&mut model, "Add", &[value(a), value(b)], "x"),
                Edit::Weight => _ = g.add_initializer("w", Tensor::scalar_i64(1)),
                Edit::Dead => _ = g.remove_dead(),
                Edit::Unset(n) => if let Some(n) = node(n) {
                    let fresh = g.new_value("y");
                    g.set_output(n, 0, Some(fresh));
                },
            }
            let expected = |what: &str| what.contains("nothing defines it") || what.contains("before that is made");
            let violations = model.verify().err().unwrap_or_default();
            let surprise: Vec<_> = violations.iter().filter(|v| !expected(&v.what)).collect();
            prop_assert!(surprise.is_empty(), "{surprise:?}");
        }
        let complete = |model: &Model| model.verify().is_ok();
        if model.graph.sort().is_ok() && complete(&model) {
            let again = read(model.to_vec().unwrap());
            prop_assert!(complete(&again));
            prop_assert_eq!(again.to_string(), model.to_string());
        }
    }
}
