//! The text form.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;
use common::*;
use onnx_model::{AttrValue, NewNode, Tensor};

#[test]
fn every_part_shows() {
    let mut model = read(rich());
    let x = model.graph.find_value("x").unwrap();
    let odd = model.graph.new_value("odd name, \"x\"");
    model
        .graph
        .add_initializer("long", Tensor::from_i64s(&[9], &[1; 9]));
    model.graph.add_node(NewNode {
        op_type: "Op".into(),
        domain: "dom".into(),
        name: "n\nx".into(),
        inputs: vec![Some(x), None],
        outputs: vec![None, Some(odd)],
        attributes: vec![
            ("f".into(), AttrValue::Float(0.1)),
            ("s".into(), AttrValue::Str("a\"b".into())),
            (
                "t".into(),
                AttrValue::Tensor(Tensor::from_f32s(&[2], &[1.0, f32::INFINITY])),
            ),
            ("i".into(), AttrValue::Ints((0..10).collect())),
        ],
        ..Default::default()
    });
    let expected = r#"model ir_version 8
import "" 17
import "dom" 1
metadata "key" = "value"
graph "main" {
  input %x: f32[2, n]
  input %d: f32[2, n]
  initializer %w: f32[2] = 1.0, 2.0
  initializer %d: f32[2, n] = 1.0, 2.0
  initializer %idle: i64[1] = 5
  initializer %long: i64[9]
  %y: f32[2, n] = Relu(%x)    # relu
  %k = Constant() {value_ints = [3, -1]}    # k
  %c: f32[2, n] = Cast(%s) {to = 9}    # cast
  %z: f32[2, n] = If(%c) {then_branch = graph(%x, %w, %c, %y), else_branch = graph(%x, %w, %c, %y)}    # if
  %last = Concat(%y, _, %d)    # last
  _, %"odd name, \"x\"" = dom.Op(%x, _) {f = 0.1, s = "a\"b", t = f32[2] = 1.0, inf, i = [0, 1, 2, 3, 4, 5, 6, 7, ..]}    # n\nx
  output %z: f32[2, n]
  output %y: f32[2, n]
}
function dom.F(%a) -> (%b) {
  import "" 17
  %b = Identity(%a)
}
"#;
    assert_eq!(model.to_string(), expected);
}
