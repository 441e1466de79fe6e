//! What this crate reads and writes against an independent protobuf implementation with the official schema.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use onnx_model::{AttrValue, DataType, Dimension, Graph, Model, NewNode, Tensor, ValueInfo};
use onnx_protobuf::attribute_proto::AttributeType;
use onnx_protobuf::tensor_shape_proto::dimension;
use onnx_protobuf::{self as pb, Message, type_proto};

fn fixtures() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures");
    let folders = ["models", "golden"].map(|folder| std::fs::read_dir(root.join(folder)).unwrap());
    let files = folders
        .into_iter()
        .flatten()
        .map(|entry| entry.unwrap().path());
    let files: Vec<PathBuf> = files
        .filter(|path| path.extension().is_some_and(|e| e == "onnx"))
        .collect();
    assert!(files.len() > 10, "fixtures are missing");
    files
}

/// `ai.onnx` is the empty domain.
fn domain(name: &str) -> &str {
    if name == "ai.onnx" { "" } else { name }
}

fn check_model(model: &Model, official: &pb::ModelProto) {
    assert_eq!(model.ir_version(), official.ir_version);
    let opsets = official
        .opset_import
        .iter()
        .map(|o| (domain(&o.domain).to_owned(), o.version));
    assert_eq!(model.opsets(), opsets.collect::<Vec<_>>());
    for entry in &official.metadata_props {
        assert_eq!(model.metadata(&entry.key), Some(entry.value.as_str()));
    }
    assert_eq!(model.functions().len(), official.functions.len());
    for (function, official) in model.functions().iter().zip(&official.functions) {
        assert_eq!(
            (&function.name, &function.domain),
            (&official.name, &official.domain)
        );
        assert_eq!(
            (&function.inputs, &function.outputs),
            (&official.input, &official.output)
        );
        assert_eq!(function.attributes, official.attribute);
        assert_eq!(function.nodes.len(), official.node.len());
        for (node, official) in function.nodes.iter().zip(&official.node) {
            assert_eq!(
                (&node.op_type, &node.inputs, &node.outputs),
                (&official.op_type, &official.input, &official.output)
            );
            check_attributes(&node.attributes, &official.attribute);
        }
        check_attributes(&function.defaults, &official.attribute_proto);
    }
    check_graph(&model.graph, &official.graph);
}

fn check_graph(graph: &Graph, official: &pb::GraphProto) {
    assert_eq!(graph.name(), official.name);
    let name = |v: &onnx_model::ValueId| graph.value(*v).name.clone();
    let names = |values: &[Option<onnx_model::ValueId>]| {
        values
            .iter()
            .map(|v| v.as_ref().map(name).unwrap_or_default())
            .collect::<Vec<_>>()
    };
    assert_eq!(
        graph.inputs().iter().map(name).collect::<Vec<_>>(),
        official
            .input
            .iter()
            .map(|i| i.name.clone())
            .collect::<Vec<_>>()
    );
    assert_eq!(
        graph.outputs().iter().map(name).collect::<Vec<_>>(),
        official
            .output
            .iter()
            .map(|i| i.name.clone())
            .collect::<Vec<_>>()
    );
    assert_eq!(graph.node_ids().count(), official.node.len());
    let mut uses: BTreeMap<String, usize> = BTreeMap::new();
    for (id, official) in graph.node_ids().zip(&official.node) {
        let node = graph.node(id);
        assert_eq!(
            (&node.name, &node.op_type),
            (&official.name, &official.op_type)
        );
        assert_eq!(node.domain, domain(&official.domain));
        assert_eq!(names(&node.inputs), official.input);
        assert_eq!(names(&node.outputs), official.output);
        check_attributes(&node.attributes(), &official.attribute);
        let metadata: Vec<_> = official
            .metadata_props
            .iter()
            .map(|e| (e.key.clone(), e.value.clone()))
            .collect();
        assert_eq!(node.metadata(), metadata);
        official
            .input
            .iter()
            .for_each(|n| *uses.entry(n.clone()).or_default() += 1);
    }
    for v in graph.value_ids() {
        assert_eq!(
            graph.value(v).uses().len(),
            uses.get(&graph.value(v).name).copied().unwrap_or(0)
        );
    }
    for official in &official.initializer {
        let v = graph.find_value(&official.name).unwrap();
        assert!(graph.is_initializer(v));
        check_tensor(&graph.initializer(v).unwrap(), official);
    }
    for official in official
        .value_info
        .iter()
        .chain(&official.input)
        .chain(&official.output)
    {
        if let Some(v) = graph.find_value(&official.name) {
            check_info(graph.value(v).info().unwrap(), &official.type_);
        }
    }
}

fn check_info(info: &ValueInfo, official: &pb::TypeProto) {
    let Some(type_proto::Value::TensorType(tensor)) = &official.value else {
        assert_eq!(info, &ValueInfo::default());
        return;
    };
    assert_eq!(info.dtype.map_or(0, |d| d as i32), tensor.elem_type);
    let dims = tensor.shape.as_ref().map(|shape| {
        let dims = shape.dim.iter().map(|d| match &d.value {
            Some(dimension::Value::DimValue(v)) => Dimension::Value(*v),
            Some(dimension::Value::DimParam(p)) => Dimension::Param(p.clone()),
            _ => Dimension::Unknown,
        });
        dims.collect::<Vec<_>>()
    });
    assert_eq!(info.dims, dims);
}

fn check_attributes(attributes: &[(String, AttrValue)], official: &[pb::AttributeProto]) {
    assert_eq!(attributes.len(), official.len());
    for ((name, value), official) in attributes.iter().zip(official) {
        assert_eq!(name, &official.name);
        let kind = official.type_.enum_value().unwrap();
        match (value, kind) {
            (AttrValue::Ref { name, .. }, _) => assert_eq!(name, &official.ref_attr_name),
            (AttrValue::Int(v), AttributeType::INT) => assert_eq!(*v, official.i),
            (AttrValue::Float(v), AttributeType::FLOAT) => {
                assert_eq!(v.to_bits(), official.f.to_bits())
            }
            (AttrValue::Str(v), AttributeType::STRING) => assert_eq!(v.as_bytes(), official.s),
            (AttrValue::Ints(v), AttributeType::INTS) => assert_eq!(v, &official.ints),
            (AttrValue::Floats(v), AttributeType::FLOATS) => assert_eq!(v, &official.floats),
            (AttrValue::Strs(v), AttributeType::STRINGS) => {
                assert_eq!(
                    v.iter().map(|s| s.clone().into_bytes()).collect::<Vec<_>>(),
                    official.strings
                );
            }
            (AttrValue::Tensor(v), AttributeType::TENSOR) => check_tensor(v, &official.t),
            (AttrValue::Opaque(_), AttributeType::GRAPH) => {}
            other => panic!("{name}: {other:?}"),
        }
    }
}

fn check_tensor(tensor: &Tensor, official: &pb::TensorProto) {
    assert_eq!(
        (tensor.dtype() as i32, tensor.dims()),
        (official.data_type, &official.dims[..])
    );
    let raw = &official.raw_data;
    let f64s = match tensor.dtype() {
        DataType::Float if raw.is_empty() => {
            official.float_data.iter().map(|v| f64::from(*v)).collect()
        }
        DataType::Float => raw
            .chunks(4)
            .map(|b| f64::from(f32::from_le_bytes(b.try_into().unwrap())))
            .collect(),
        DataType::Int64 if raw.is_empty() => {
            official.int64_data.iter().map(|v| *v as f64).collect()
        }
        DataType::Int64 => raw
            .chunks(8)
            .map(|b| i64::from_le_bytes(b.try_into().unwrap()) as f64)
            .collect(),
        DataType::Double if raw.is_empty() => official.double_data.clone(),
        DataType::Int32 | DataType::Bool | DataType::Int8 | DataType::Uint8 if raw.is_empty() => {
            official.int32_data.iter().map(|v| f64::from(*v)).collect()
        }
        DataType::Bool | DataType::Uint8 => raw.iter().map(|b| f64::from(*b)).collect(),
        DataType::Int8 => raw.iter().map(|b| f64::from(*b as i8)).collect(),
        DataType::Int32 => raw
            .chunks(4)
            .map(|b| f64::from(i32::from_le_bytes(b.try_into().unwrap())))
            .collect(),
        DataType::Float16 if !raw.is_empty() => raw.chunks(2).map(half_to_f64).collect::<Vec<_>>(),
        _ => return,
    };
    let ours = tensor.to_f64s().unwrap();
    assert_eq!(ours.len(), f64s.len());
    for (a, b) in ours.iter().zip(&f64s) {
        assert!(a == b || (a.is_nan() && b.is_nan()), "{a} {b}");
    }
}

/// By the definition of the format: sign, 5 bits of exponent, 10 bits of fraction.
fn half_to_f64(bytes: &[u8]) -> f64 {
    let bits = u16::from_le_bytes(bytes.try_into().unwrap());
    let (sign, exponent, fraction) = (
        bits >> 15,
        i32::from(bits >> 10 & 31),
        f64::from(bits & 1023),
    );
    let magnitude = match exponent {
        31 if fraction == 0.0 => f64::INFINITY,
        31 => f64::NAN,
        0 => fraction * 2f64.powi(-24),
        _ => (1024.0 + fraction) * 2f64.powi(exponent - 25),
    };
    if sign == 1 { -magnitude } else { magnitude }
}

#[test]
fn fixtures_read_alike() {
    for path in fixtures() {
        let bytes = std::fs::read(&path).unwrap();
        let official = pb::ModelProto::parse_from_bytes(&bytes).unwrap();
        check_model(&Model::open(&path).unwrap(), &official);
    }
}

#[test]
fn edited_fixtures_read_alike() {
    for path in fixtures() {
        let mut model = Model::open(&path).unwrap();
        let nodes: Vec<_> = model.graph.node_ids().collect();
        for id in nodes.into_iter().step_by(7) {
            let copy = model.graph.clone_node(id, "copy");
            model
                .graph
                .set_attr(copy, "note", &AttrValue::Strs(vec!["a".into(), "".into()]));
            let (Some(&Some(old)), Some(&Some(new))) = (
                model.graph.node(id).outputs.first(),
                model.graph.node(copy).outputs.first(),
            ) else {
                continue;
            };
            model.graph.replace_uses(old, new);
        }
        model.graph.sort().unwrap();
        model.graph.remove_dead();
        model
            .verify()
            .unwrap_or_else(|v| panic!("{}: {v:?}", path.display()));
        let bytes = model.to_vec().unwrap();
        let official = pb::ModelProto::parse_from_bytes(&bytes).unwrap();
        check_model(&model, &official);
        check_model(&common::read(bytes), &official);
    }
}

#[test]
fn a_model_made_here_reads_alike() {
    let mut model = common::small();
    let x = model.graph.inputs()[0];
    let tensors = [
        Tensor::from_i64s(&[2, 2], &[1, -2, i64::MAX, i64::MIN]),
        Tensor::from_bools(&[2], &[true, false]),
        Tensor::scalar_f32(f32::NAN),
        Tensor::from_f64s(DataType::Float16, &[3], &[1.5, -65504.0, 6e-8]).unwrap(),
        Tensor::from_f64s(DataType::Double, &[0, 3], &[]).unwrap(),
    ];
    for tensor in &tensors {
        model.graph.add_initializer("t", tensor.clone());
    }
    let out = model.graph.new_value("out");
    model.graph.add_node(NewNode {
        op_type: "Op".into(),
        domain: "dom".into(),
        name: "name".into(),
        inputs: vec![Some(x), None, Some(x)],
        outputs: vec![None, Some(out)],
        attributes: vec![
            ("a".into(), AttrValue::Ints(vec![3, -1])),
            ("b".into(), AttrValue::Float(-0.5)),
            ("c".into(), AttrValue::Str("text".into())),
            ("d".into(), AttrValue::Floats(vec![1.0, 2.0])),
            ("e".into(), AttrValue::Tensor(tensors[0].clone())),
        ],
        metadata: vec![("k".into(), "v".into())],
    });
    model.graph.set_info(
        out,
        Some(ValueInfo {
            dtype: Some(DataType::Int64),
            dims: Some(vec![Dimension::Unknown]),
        }),
    );
    model.import_opset("dom", 1);
    model.set_metadata("key", "value");
    model.graph.sort().unwrap();
    let bytes = model.to_vec().unwrap();
    let official = pb::ModelProto::parse_from_bytes(&bytes).unwrap();
    check_model(&model, &official);
    check_model(&common::read(bytes), &official);
}

#[test]
fn every_way_to_store_elements() {
    let mut tensors = Vec::new();
    let mut tensor = |data_type: i32, dims: &[i64], fill: &dyn Fn(&mut pb::TensorProto)| {
        let mut proto = pb::TensorProto {
            data_type,
            dims: dims.to_vec(),
            name: format!("t{}", tensors.len()),
            ..Default::default()
        };
        fill(&mut proto);
        tensors.push(proto);
    };
    tensor(1, &[2], &|t| t.float_data = vec![1.5, f32::INFINITY]);
    tensor(11, &[2], &|t| t.double_data = vec![1e300, -0.0]);
    tensor(7, &[2], &|t| t.int64_data = vec![-1, i64::MAX]);
    tensor(6, &[2], &|t| t.int32_data = vec![-7, i32::MIN]);
    tensor(3, &[2], &|t| t.int32_data = vec![-128, 127]);
    tensor(2, &[2], &|t| t.int32_data = vec![0, 255]);
    tensor(5, &[1], &|t| t.int32_data = vec![-32768]);
    tensor(4, &[1], &|t| t.int32_data = vec![65535]);
    tensor(9, &[2], &|t| t.int32_data = vec![1, 0]);
    tensor(10, &[2], &|t| t.int32_data = vec![0x3c00, 0xc000]);
    tensor(16, &[2], &|t| t.int32_data = vec![0x3f80, 0xc000]);
    tensor(12, &[1], &|t| t.uint64_data = vec![4_294_967_295]);
    tensor(13, &[1], &|t| t.uint64_data = vec![1 << 63]);
    tensor(22, &[3], &|t| t.int32_data = vec![0x7f, 0x08]);
    tensor(21, &[3], &|t| t.raw_data = vec![0x7f, 0x08]);
    tensor(16, &[2], &|t| t.raw_data = vec![0x80, 0x3f, 0x00, 0xc0]);
    tensor(1, &[], &|t| t.float_data = vec![2.0]);
    tensor(7, &[0], &|_| {});
    let expected: [&[f64]; 18] = [
        &[1.5, f64::INFINITY],
        &[1e300, -0.0],
        &[-1.0, i64::MAX as f64],
        &[-7.0, i32::MIN as f64],
        &[-128.0, 127.0],
        &[0.0, 255.0],
        &[-32768.0],
        &[65535.0],
        &[1.0, 0.0],
        &[1.0, -2.0],
        &[1.0, -2.0],
        &[4_294_967_295.0],
        &[9.223_372_036_854_776e18],
        &[-1.0, 7.0, -8.0],
        &[15.0, 7.0, 8.0],
        &[1.0, -2.0],
        &[2.0],
        &[],
    ];
    let mut graph = pb::GraphProto::new();
    graph.initializer = tensors;
    let mut proto = pb::ModelProto {
        ir_version: 8,
        ..Default::default()
    };
    proto.graph = Some(graph).into();
    // As the official schema writes them, and with lists that are not packed.
    let packed = proto.write_to_bytes().unwrap();
    let mut unpacked = Vec::new();
    for (index, t) in proto.graph.initializer.iter().enumerate() {
        let mut bytes = [
            common::int(2, i64::from(t.data_type)),
            common::len(8, format!("t{index}")),
        ]
        .concat();
        t.dims.iter().for_each(|v| bytes.extend(common::int(1, *v)));
        t.float_data
            .iter()
            .for_each(|v| bytes.extend(common::fixed32(4, *v)));
        t.int32_data
            .iter()
            .for_each(|v| bytes.extend(common::int(5, i64::from(*v))));
        t.int64_data
            .iter()
            .for_each(|v| bytes.extend(common::int(7, *v)));
        t.uint64_data
            .iter()
            .for_each(|v| bytes.extend(common::int(11, *v as i64)));
        t.double_data.iter().for_each(|v| {
            bytes.extend([common::varint(10 << 3 | 1), v.to_le_bytes().to_vec()].concat())
        });
        if !t.raw_data.is_empty() {
            bytes.extend(common::len(9, &t.raw_data));
        }
        unpacked.extend(common::len(5, bytes));
    }
    for bytes in [packed, common::model(&unpacked)] {
        let mut model = common::read(bytes);
        for (index, expected) in expected.iter().enumerate() {
            let v = model.graph.find_value(&format!("t{index}")).unwrap();
            let tensor = model.graph.tensor(v).unwrap();
            let got = tensor.to_f64s().unwrap();
            assert_eq!(&got, expected, "t{index}");
            let integral = !matches!(
                tensor.dtype(),
                DataType::Float | DataType::Double | DataType::Float16 | DataType::Bfloat16
            );
            assert_eq!(tensor.to_i64s().is_some(), integral, "t{index}");
            // Stored again under another name, it stays the same.
            model
                .graph
                .add_initializer(&format!("again{index}"), tensor);
        }
        let again = common::read(model.to_vec().unwrap());
        for (index, expected) in expected.iter().enumerate() {
            let v = again.graph.find_value(&format!("again{index}")).unwrap();
            assert_eq!(&again.graph.tensor(v).unwrap().to_f64s().unwrap(), expected);
        }
    }
}
