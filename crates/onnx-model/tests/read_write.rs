//! Reading, editing and writing small models.
use onnx_model::{AttrValue, DataType, Dimension, Model, NewNode, Tensor};

fn small() -> Model {
    let mut model = Model::new(8, &[("", 17)]);
    let g = &mut model.graph;
    let x = g
        .add_input(
            "x",
            DataType::Float,
            &[Dimension::Param("n".into()), Dimension::Value(4)],
        )
        .unwrap();
    let w = g.add_initializer("w", Tensor::from_f32s(&[4], &[1.0, 2.0, 3.0, 4.0]));
    let y = g.new_value("y");
    let z = g.new_value("z");
    g.add_node(NewNode {
        op_type: "Softmax".into(),
        inputs: vec![Some(y)],
        outputs: vec![Some(z)],
        attributes: vec![("axis".into(), AttrValue::Int(-1))],
        ..Default::default()
    });
    g.add_node(NewNode {
        op_type: "Add".into(),
        inputs: vec![Some(x), Some(w)],
        outputs: vec![Some(y)],
        ..Default::default()
    });
    model
}

#[test]
fn build_sort_write_read() {
    let mut model = small();
    model.graph.sort().unwrap();
    let bytes = model.to_vec().unwrap();
    let again = Model::from_bytes(bytes.clone().into(), None).unwrap();
    let ops: Vec<_> = again
        .graph
        .node_ids()
        .map(|n| again.graph.node(n).op_type.clone())
        .collect();
    assert_eq!(ops, ["Add", "Softmax"]);
    assert_eq!(again.to_vec().unwrap(), bytes);
    let w = again.graph.find_value("w").unwrap();
    assert_eq!(
        again.graph.tensor(w).unwrap().to_f64s().unwrap(),
        [1.0, 2.0, 3.0, 4.0]
    );
    let softmax = again.graph.node_ids().last().unwrap();
    assert_eq!(again.graph.node(softmax).attr_int("axis"), Some(-1));
}
