//! Functions of a model: reading, adding, inlining.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;
use common::*;
use onnx_model::{AttrKind, AttrValue, Function, FunctionNode, Model, NewNode};

fn fnode(
    op_type: &str,
    inputs: &[&str],
    outputs: &[&str],
    attributes: Vec<(String, AttrValue)>,
) -> FunctionNode {
    let names = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect();
    FunctionNode {
        op_type: op_type.into(),
        inputs: names(inputs),
        outputs: names(outputs),
        attributes,
        ..Default::default()
    }
}

fn reference(name: &str, kind: AttrKind) -> AttrValue {
    AttrValue::Ref {
        name: name.into(),
        kind,
    }
}

/// out, copy, again = Softmax(x + bias, axis = @axis), x, out
fn function() -> Function {
    Function {
        name: "Masked".into(),
        domain: "dom".into(),
        inputs: vec!["x".into(), "bias".into()],
        outputs: vec!["out".into(), "x".into(), "out".into()],
        attributes: vec!["axis".into(), "left_out".into()],
        defaults: vec![("alpha".into(), AttrValue::Float(0.5))],
        opsets: vec![("".into(), 17)],
        nodes: vec![
            fnode(
                "Add",
                &["x", "bias"],
                &["y"],
                vec![("z".into(), reference("left_out", AttrKind::Int))],
            ),
            fnode(
                "Elu",
                &["y", ""],
                &["h", ""],
                vec![("alpha".into(), reference("alpha", AttrKind::Float))],
            ),
            fnode(
                "Softmax",
                &["h"],
                &["out"],
                vec![("axis".into(), reference("axis", AttrKind::Int))],
            ),
        ],
        ..Default::default()
    }
}

fn calling(function: Function, attributes: Vec<(String, AttrValue)>) -> Model {
    let mut model = read(rich());
    let (x, y) = (
        model.graph.find_value("x").unwrap(),
        model.graph.find_value("y").unwrap(),
    );
    let outputs = ["p", "q", "r"].map(|n| Some(model.graph.new_value(n)));
    model.graph.add_node(NewNode {
        op_type: function.name.clone(),
        domain: "dom".into(),
        name: "call".into(),
        inputs: vec![Some(x), Some(y)],
        outputs: outputs[..function.outputs.len()].to_vec(),
        attributes,
        ..Default::default()
    });
    model.add_function(function);
    read(model.to_vec().unwrap())
}

#[test]
fn a_function_is_written_and_read() {
    let model = calling(function(), vec![]);
    model.verify().unwrap();
    assert_eq!(model.functions().len(), 2);
    assert_eq!(format!("{:?}", model.functions()[1].nodes.len()), "3");
    let (ours, read) = (function(), &model.functions()[1]);
    assert_eq!(ours.to_string(), read.to_string());
    let mut model = model;
    let before = model.to_vec().unwrap();
    model.retain_functions(|f| f.name != "Masked");
    assert_eq!(model.functions().len(), 1);
    assert!(model.to_vec().unwrap().len() < before.len());
    model.add_function(function());
    assert_eq!(
        common::read(model.to_vec().unwrap()).functions()[1].to_string(),
        ours.to_string()
    );
}

#[test]
fn a_call_becomes_the_nodes_of_the_function() {
    let mut model = calling(function(), vec![("axis".into(), AttrValue::Int(-1))]);
    let call = model.graph.node_ids().last().unwrap();
    let nodes = model.inline_call(call).unwrap();
    model.verify().unwrap();
    let text: Vec<String> = model
        .graph
        .to_string()
        .lines()
        .map(|l| l.trim().to_owned())
        .collect();
    let tail = &text[text.len() - 8..text.len() - 3];
    assert_eq!(
        tail,
        [
            "%call/y = Add(%x, %y)    # call/Add",
            "%call/h, _ = Elu(%call/y, _) {alpha = 0.5}    # call/Elu",
            "%p = Softmax(%call/h) {axis = -1}    # call/Softmax",
            "%q = Identity(%x)    # call/x",
            "%r = Identity(%p)    # call/out",
        ]
    );
    assert_eq!(nodes.len(), 5);
    read(model.to_vec().unwrap()).verify().unwrap();
}

#[test]
fn calls_in_calls_stay_and_names_do_not_clash() {
    let mut outer = function();
    outer.name = "Outer".into();
    outer.opsets.push(("dom".into(), 1));
    outer.outputs = vec!["out".into()];
    outer.nodes = vec![FunctionNode {
        domain: "dom".into(),
        ..fnode("Masked", &["x", "bias"], &["out"], vec![])
    }];
    let mut model = calling(outer, vec![]);
    model.add_function(function());
    let call = model.graph.node_ids().last().unwrap();
    let twin = model.graph.clone_node(call, "call");
    for call in [call, twin] {
        let inner = model.inline_call(call).unwrap();
        assert_eq!(model.graph.node(inner[0]).op_type, "Masked");
        model.inline_call(inner[0]).unwrap();
    }
    model.verify().unwrap();
    read(model.to_vec().unwrap()).verify().unwrap();
}

#[test]
fn subgraphs_follow() {
    // A body that reads an input of the function, one of its values, and one that the call leaves out; it defines
    // a name that the graph has too, and refers to an attribute from two levels down.
    let cast = len(5, [len(1, "to"), int(20, 2), len(21, "to")].concat());
    let deeper = [
        len(1, node("Cast", "", &["inner"], &["deep"], &cast)),
        len(12, value_info("deep")),
    ]
    .concat();
    let body = [
        len(1, node("Sum", "", &["a", "h", "missing"], &["inner"], &[])),
        len(5, [int(2, 1), len(8, "w"), fixed32(4, 1.0)].concat()),
        len(1, node("Add", "", &["inner", "w"], &["y"], &[])),
        len(
            1,
            node(
                "If",
                "",
                &["c"],
                &["res"],
                &graph_attr("then_branch", &deeper),
            ),
        ),
        len(12, value_info("res")),
        len(13, value_info("y")),
    ]
    .concat();
    let function = [
        len(1, "G"),
        [
            len(4, "a"),
            len(4, "c"),
            len(4, "missing"),
            len(5, "out"),
            len(6, "to"),
        ]
        .concat(),
        len(7, node("Relu", "", &["a"], &["h"], &[])),
        len(
            7,
            node(
                "If",
                "cond",
                &["c"],
                &["out"],
                &graph_attr("then_branch", &body),
            ),
        ),
        len(9, [int(2, 17)].concat()),
        len(10, "dom"),
    ]
    .concat();
    let call = node(
        "G",
        "g",
        &["x", "c"],
        &["result"],
        &[
            len(7, "dom"),
            len(5, [len(1, "to"), int(3, 9), int(20, 2)].concat()),
        ]
        .concat(),
    );
    let graph = [rich_graph(), len(1, call)].concat();
    let bytes = [
        model(&graph),
        len(8, [len(1, "dom"), int(2, 1)].concat()),
        len(25, function),
    ]
    .concat();
    let mut model = read(bytes);
    model.verify().unwrap();
    let call = model.graph.node_ids().last().unwrap();
    let nodes = model.inline_call(call).unwrap();
    model.retain_functions(|_| false);
    model.verify().unwrap();
    let again = read(model.to_vec().unwrap());
    again.verify().unwrap();
    let cond = again.graph.node_ids().last().unwrap();
    let captures: Vec<_> = again
        .graph
        .node(cond)
        .captures()
        .iter()
        .map(|v| again.graph.value(*v).name.clone())
        .collect();
    assert_eq!(captures, ["x", "g/h", "c"]);
    assert_eq!(model.graph.node(nodes[1]).captures().len(), 3);
    let text = again.to_vec().unwrap();
    let has = |bytes: &[u8]| text.windows(bytes.len()).any(|w| w == bytes);
    assert!(has(&len(
        1,
        node("Sum", "", &["x", "g/h", ""], &["g/inner"], &[])
    )));
    assert!(has(&len(
        1,
        node("Add", "", &["g/inner", "g/w"], &["g/y"], &[])
    )));
    let bound = len(5, [len(1, "to"), int(3, 9), int(20, 2)].concat());
    assert!(has(&len(
        1,
        node("Cast", "", &["g/inner"], &["g/deep"], &bound)
    )));
    assert!(has(&len(12, value_info("g/res"))) && has(&len(13, value_info("g/y"))));
}

#[test]
fn what_the_call_gives_goes_before_the_default() {
    let mut model = calling(function(), vec![("alpha".into(), AttrValue::Float(0.25))]);
    let call = model.graph.node_ids().last().unwrap();
    let nodes = model.inline_call(call).unwrap();
    assert_eq!(model.graph.node(nodes[1]).attr_float("alpha"), Some(0.25));
    assert!(
        model.graph.node(nodes[2]).attr("axis").is_none(),
        "left out"
    );
}

#[test]
fn broken_calls_are_refused_and_change_nothing() {
    let refused = |function: Function| {
        let mut model = calling(function, vec![]);
        let call = model.graph.node_ids().last().unwrap();
        let before = model.to_vec().unwrap();
        let error = model.inline_call(call).unwrap_err();
        assert_eq!(error.code(), "E-ONNX-FUNCTION");
        assert_eq!(model.to_vec().unwrap(), before);
        error.to_string()
    };
    assert!(
        refused(Function {
            inputs: vec!["x".into()],
            ..function()
        })
        .contains("2 inputs")
    );
    assert!(
        refused(Function {
            opsets: vec![("".into(), 18)],
            ..function()
        })
        .contains("version 18")
    );
    let mut broken = function();
    broken.nodes.remove(1);
    assert!(refused(broken).contains("`h`"));
    let mut twice = function();
    twice.nodes[1].outputs = vec!["y".into()];
    assert!(refused(twice).contains("defines `y` again"));
    let mut model = read(rich());
    let relu = model.graph.node_ids().next().unwrap();
    assert!(
        model
            .inline_call(relu)
            .unwrap_err()
            .to_string()
            .contains("no such function")
    );
}

#[test]
fn overloads_are_told_apart() {
    let mut model = read(rich());
    let other = Function {
        overload: "2".into(),
        ..function()
    };
    model.add_function(function());
    model.add_function(other);
    model.verify().unwrap();
    model.add_function(function());
    assert!(model.verify().is_err());
}
