//! What is not edited keeps its bytes, however the file encodes it.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;
use common::*;
use onnx_model::{AttrValue, Dimension, Model, NewNode, Tensor, ValueInfo};

/// The fields of a message as bytes, tag included. Written apart from the crate's own walker.
fn split(mut bytes: &[u8]) -> Vec<(u64, Vec<u8>)> {
    fn take_varint(bytes: &mut &[u8]) -> u64 {
        let (mut value, mut shift) = (0u64, 0);
        loop {
            let byte = bytes[0];
            *bytes = &bytes[1..];
            value |= u64::from(byte & 0x7f) << shift;
            shift += 7;
            if byte < 0x80 {
                return value;
            }
        }
    }
    let mut out = Vec::new();
    while !bytes.is_empty() {
        let start = bytes;
        let tag = take_varint(&mut bytes);
        match tag & 7 {
            0 => _ = take_varint(&mut bytes),
            1 => bytes = &bytes[8..],
            2 => {
                let len = take_varint(&mut bytes) as usize;
                bytes = &bytes[len..];
            }
            5 => bytes = &bytes[4..],
            other => panic!("wire type {other}"),
        }
        out.push((tag >> 3, start[..start.len() - bytes.len()].to_vec()));
    }
    out
}

/// The graph's fields in a model.
fn graph_fields(model: &[u8]) -> Vec<(u64, Vec<u8>)> {
    let graph = split(model)
        .into_iter()
        .find(|(number, _)| *number == 7)
        .unwrap()
        .1;
    split(&graph[1..].to_vec().split_off(varint_len(&graph[1..])))
}

fn varint_len(bytes: &[u8]) -> usize {
    bytes.iter().position(|b| b & 0x80 == 0).unwrap() + 1
}

#[test]
fn odd_encodings_survive() {
    let strange = [
        long_len(7, rich_graph()),
        group(40, [int(3, 1), group(41, len(1, "x"))].concat()),
        [long_varint(1 << 3, 2), long_varint(8, 4)].concat(),
        // The same field again: the last one counts.
        int(1, 9),
        // A known number with another wire type is an unknown field.
        len(1, "not a version"),
        int(7, 3),
        long_len(8, [len(1, ""), int(2, 17)].concat()),
        varint(600 << 3 | 1),
        vec![1; 8],
    ]
    .concat();
    let model = read(strange.clone());
    assert_eq!(model.to_vec().unwrap(), strange);
    assert_eq!((model.ir_version(), model.opset("ai.onnx")), (9, Some(17)));
    assert_eq!(model.graph.node_ids().count(), 5);
}

#[test]
fn a_graph_in_two_parts_is_one_graph() {
    let graph = rich_graph();
    let fields = split(&graph);
    let half = |range: &[(u64, Vec<u8>)]| {
        len(
            7,
            range
                .iter()
                .flat_map(|(_, b)| b.clone())
                .collect::<Vec<_>>(),
        )
    };
    let bytes = [half(&fields[..7]), int(1, 8), half(&fields[7..])].concat();
    let mut model = read(bytes.clone());
    assert_eq!(model.to_vec().unwrap(), bytes);
    assert_eq!(model.graph.node_ids().count(), 5);
    // Edited, it is written once, with every field.
    model.graph.add_initializer("new", Tensor::scalar_i64(1));
    let written = model.to_vec().unwrap();
    assert_eq!(
        split(&written)
            .iter()
            .filter(|(number, _)| *number == 7)
            .count(),
        1
    );
    assert_eq!(graph_fields(&written).len(), fields.len() + 1);
}

#[test]
fn an_edit_changes_its_field_and_no_other() {
    let bytes = rich();
    let before = graph_fields(&bytes);
    let mut model = read(bytes);
    let last = model.graph.node_ids().last().unwrap();
    let k = model.graph.find_value("k").unwrap();
    model.graph.set_input(last, 1, Some(k));
    let written = model.to_vec().unwrap();
    let after = graph_fields(&written);
    assert_eq!(before.len(), after.len());
    for (index, (before, after)) in before.iter().zip(&after).enumerate() {
        assert_eq!(
            before == after,
            index != before_last(&graph_fields(&written)),
            "field {index}"
        );
    }
    // Within the edited node: the inputs changed, the unknown field is there.
    let expected = len(
        1,
        node(
            "Concat",
            "last",
            &["y", "k", "d"],
            &["last"],
            &fixed32(1234, 2.0),
        ),
    );
    assert_eq!(after.last().unwrap().1, expected);

    // Taken back, it has the same content; attribute edits and metadata keep the rest too.
    let cast = model.graph.node_ids().nth(2).unwrap();
    model.graph.set_attr(cast, "to", &AttrValue::Int(1));
    model.graph.set_attr(cast, "saturate", &AttrValue::Int(1));
    model.graph.remove_attr(cast, "to");
    model.set_metadata("vcc", "1");
    model.import_opset("new", 3);
    let again = read(model.to_vec().unwrap());
    let cast = again.graph.node(again.graph.node_ids().nth(2).unwrap());
    assert_eq!(
        (cast.attr_int("to"), cast.attr_int("saturate")),
        (None, Some(1))
    );
    assert_eq!(
        (again.metadata("vcc"), again.metadata("key")),
        (Some("1"), Some("value"))
    );
    assert_eq!(again.opset("new"), Some(3));
    let top = |model: &Model| {
        split(&model.to_vec().unwrap())
            .into_iter()
            .filter(|(n, _)| *n != 7)
            .collect::<Vec<_>>()
    };
    let (old, new) = (top(&read(rich())), top(&again));
    assert!(old.iter().all(|field| new.contains(field)));
    assert_eq!(new.len(), old.len() + 2);
}

fn before_last(fields: &[(u64, Vec<u8>)]) -> usize {
    fields.len() - 1
}

#[test]
fn declared_types_and_versions_are_edited_alone() {
    let mut model = read(rich());
    let before = graph_fields(&rich());
    let info = ValueInfo {
        dtype: None,
        dims: Some(vec![Dimension::Unknown, Dimension::Param("m".into())]),
    };
    for name in ["x", "y", "z", "c"] {
        let v = model.graph.find_value(name).unwrap();
        model.graph.set_info(v, Some(info.clone()));
    }
    model.set_ir_version(10);
    let written = model.to_vec().unwrap();
    let changed = before
        .iter()
        .zip(&graph_fields(&written))
        .filter(|(a, b)| a != b)
        .count();
    // Input x, outputs y and z, value_info c. The value_info of y, an output, is another field.
    assert_eq!(changed, 4);
    let again = read(written);
    assert_eq!(again.ir_version(), 10);
    for name in ["x", "y", "z", "c"] {
        let v = again.graph.find_value(name).unwrap();
        assert_eq!(again.graph.value(v).info(), Some(&info));
    }
}

#[test]
fn dimensions_that_say_nothing_are_unknown() {
    let shape = [
        len(1, len(2, "")),
        len(1, int(1, -1)),
        len(1, []),
        len(1, int(1, 0)),
    ]
    .concat();
    let declared = |kind: u64| len(2, len(kind, [int(1, 1), len(2, &shape)].concat()));
    let graph = [
        len(11, [len(1, "x"), declared(1)].concat()),
        len(11, [len(1, "sequence"), declared(4)].concat()),
        len(11, len(1, "untyped")),
    ]
    .concat();
    let model = read(model(&graph));
    let infos: Vec<_> = model
        .graph
        .inputs()
        .iter()
        .map(|v| model.graph.value(*v).info().cloned().unwrap())
        .collect();
    let unknown = Dimension::Unknown;
    assert_eq!(
        infos[0].dims,
        Some(vec![
            unknown.clone(),
            unknown.clone(),
            unknown,
            Dimension::Value(0)
        ])
    );
    assert_eq!(infos[1..], [ValueInfo::default(), ValueInfo::default()]);
}

#[test]
fn new_entries_go_behind_the_old_ones() {
    let mut model = read(rich());
    let x = model.graph.find_value("x").unwrap();
    let out = model.graph.new_value("out");
    model.graph.add_node(NewNode {
        op_type: "Identity".into(),
        inputs: vec![Some(x)],
        outputs: vec![Some(out)],
        metadata: vec![("why".into(), "test".into())],
        ..Default::default()
    });
    model
        .graph
        .add_initializer("w", Tensor::from_bools(&[1], &[true]));
    let written = model.to_vec().unwrap();
    let (before, after) = (graph_fields(&rich()), graph_fields(&written));
    assert_eq!(after.len(), before.len() + 2);
    let kept: Vec<_> = after
        .iter()
        .filter(|field| before.contains(field))
        .cloned()
        .collect();
    assert_eq!(kept, before);
    let again = read(written);
    let node = again.graph.node(again.graph.node_ids().last().unwrap());
    assert_eq!(node.metadata(), [("why".to_owned(), "test".to_owned())]);
    let added = again.graph.find_value("w_1").unwrap();
    assert_eq!(again.graph.tensor(added).unwrap().to_i64s().unwrap(), [1]);
}

#[test]
fn saving_over_the_file_is_atomic_and_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.onnx");
    std::fs::write(&path, rich()).unwrap();
    let mut model = Model::open(&path).unwrap();
    model.set_metadata("a", "b");
    model.save(&path).unwrap();
    // The map of the old file is still good.
    let bytes = model.to_vec().unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), bytes);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    #[cfg(unix)]
    {
        // Readable by others as far as the user's mask allows, as any new file.
        use std::os::unix::fs::PermissionsExt;
        let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode();
        let plain = dir.path().join("plain");
        std::fs::write(&plain, "").unwrap();
        assert_eq!(mode(&path), mode(&plain));
    }
    let error = model
        .save(&dir.path().join("no/such/place.onnx"))
        .unwrap_err();
    assert_eq!(error.code(), "E-ONNX-WRITE");
}

#[test]
fn saving_copies_weights_from_the_file_and_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.onnx");
    let mut model = read(rich());
    let weight = |of: u8| {
        let bytes: Vec<u8> = (0..1 << 20).map(|i: u32| (i % 251) as u8 ^ of).collect();
        Tensor::from_bytes(onnx_model::DataType::Uint8, &[1 << 20], bytes.into())
    };
    for (of, count) in [(1, 1 << 20), (2, 3), (3, 1 << 20), (4, 1 << 20)] {
        let tensor = weight(of).raw().unwrap().slice(..count);
        let tensor = Tensor::from_bytes(onnx_model::DataType::Uint8, &[count as i64], tensor);
        let value = model.graph.add_initializer("weight", tensor);
        let copied = model.graph.new_value("copied");
        model.graph.add_node(NewNode {
            op_type: "Identity".into(),
            inputs: vec![Some(value)],
            outputs: vec![Some(copied)],
            ..NewNode::default()
        });
    }
    std::fs::write(&path, model.to_vec().unwrap()).unwrap();

    // Unedited; with a weight between others replaced, so that the file goes in two stretches; and over the file itself.
    let unedited = Model::open(&path).unwrap();
    let copy = folder.path().join("copy.onnx");
    unedited.save(&copy).unwrap();
    assert!(std::fs::read(&copy).unwrap() == std::fs::read(&path).unwrap());
    let mut edited = unedited.clone();
    let old = edited.graph.find_value("weight_2").unwrap();
    let new = edited.graph.add_initializer("other", weight(9));
    edited.graph.replace_uses(old, new);
    let last = edited.graph.node_ids().last().unwrap();
    edited.graph.set_attr(last, "note", &AttrValue::Int(1));
    let expected = edited.to_vec().unwrap();
    assert!(expected != unedited.to_vec().unwrap());
    for target in [&copy, &path, &path] {
        edited.save(target).unwrap();
        assert!(std::fs::read(target).unwrap() == expected);
    }
}
