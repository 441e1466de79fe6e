//! Any bytes give a model or an error.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;
use common::*;
use onnx_model::Model;
use proptest::prelude::*;

/// Everything that reads what a file says.
fn exercise(bytes: Vec<u8>) {
    let Ok(mut model) = Model::from_bytes(bytes.clone().into(), None) else {
        return;
    };
    assert_eq!(model.to_vec().unwrap(), bytes);
    let _ = model.verify();
    let text = model.to_string();
    assert!(!text.is_empty());
    for v in model.graph.value_ids().collect::<Vec<_>>() {
        if let Some(tensor) = model.graph.initializer(v) {
            let _ = (tensor.len(), tensor.to_i64s(), tensor.to_f64s());
        }
        let _ = model.graph.tensor(v);
    }
    for node in model.graph.node_ids().collect::<Vec<_>>() {
        let _ = (
            model.graph.node(node).attributes(),
            model.graph.node(node).metadata(),
        );
        let copy = model.graph.clone_node(node, "copy");
        let input = model.graph.inputs().first().copied();
        model.graph.set_input(copy, 0, input);
        let _ = model.inline_call(copy);
    }
    model.graph.sort().unwrap();
    model.graph.remove_dead();
    let _ = model.to_vec().unwrap();
}

#[test]
fn cut_short_anywhere() {
    let bytes = rich();
    for end in 0..bytes.len() {
        exercise(bytes[..end].to_vec());
    }
    exercise(bytes);
}

#[test]
fn cut_short_it_says_so() {
    let whole = model(&rich_graph());
    assert_eq!(code(whole[..whole.len() - 3].to_vec()), "E-ONNX-TRUNCATED");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn changed_bytes(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)) {
        let mut bytes = rich();
        for (index, value) in changes {
            let at = index.index(bytes.len());
            bytes[at] = value;
        }
        exercise(bytes);
    }

    #[test]
    fn cut_out(range in (any::<prop::sample::Index>(), 1usize..40)) {
        let mut bytes = rich();
        let from = range.0.index(bytes.len());
        bytes.drain(from..(from + range.1).min(bytes.len()));
        exercise(bytes);
    }

    #[test]
    fn noise(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        exercise([int(1, 8), len(7, &bytes), bytes.clone()].concat());
        exercise(bytes);
    }
}

#[test]
fn no_onnx_file() {
    assert_eq!(code(vec![]), "E-ONNX-NOT-ONNX");
    for text in [
        "Hello, world.\n",
        "<html><body>404</body></html>",
        "{\"a\": 1}",
        "version https://git-lfs.github.com/spec/v1\n",
    ] {
        assert_eq!(code(text.as_bytes().to_vec()), "E-ONNX-NOT-ONNX", "{text}");
    }
    assert_eq!(code(vec![0; 100]), "E-ONNX-NOT-ONNX");
    assert_eq!(code(int(1, 8)), "E-ONNX-NOT-ONNX");
    assert_eq!(code([int(1, 8), vec![0, 0]].concat()), "E-ONNX-MALFORMED");
    assert_eq!(
        code([int(1, 8), vec![0x0e, 0]].concat()),
        "E-ONNX-MALFORMED"
    );
    let error = Model::open(std::path::Path::new("/no/such/file.onnx")).unwrap_err();
    assert_eq!(error.code(), "E-ONNX-IO");
    assert_eq!(
        Model::open(std::path::Path::new("/")).unwrap_err().code(),
        "E-ONNX-IO"
    );
}

#[test]
fn names_that_do_not_resolve() {
    let relu = |input: &str, output: &str| len(1, node("Relu", "r", &[input], &[output], &[]));
    let input = len(11, value_info("x"));
    assert_eq!(code(model(&relu("nothing", "y"))), "E-ONNX-UNDEFINED");
    assert_eq!(
        code(model(&[input.clone(), relu("x", "x")].concat())),
        "E-ONNX-DUPLICATE-NAME"
    );
    assert_eq!(
        code(model(
            &[input.clone(), relu("x", "y"), relu("x", "y")].concat()
        )),
        "E-ONNX-DUPLICATE-NAME"
    );
    assert_eq!(
        code(model(&[input.clone(), input.clone()].concat())),
        "E-ONNX-DUPLICATE-NAME"
    );
    assert_eq!(
        code(model(
            &[input.clone(), len(12, value_info("gone"))].concat()
        )),
        "E-ONNX-UNDEFINED"
    );
    assert_eq!(
        code(model(&[relu("b", "a"), relu("a", "b")].concat())),
        "E-ONNX-CYCLE"
    );
    let tensor = len(5, [int(2, 1), len(8, "y")].concat());
    assert_eq!(
        code(model(&[tensor.clone(), tensor.clone()].concat())),
        "E-ONNX-DUPLICATE-NAME"
    );
    assert_eq!(
        code(model(&[input.clone(), relu("x", "y"), tensor].concat())),
        "E-ONNX-DUPLICATE-NAME"
    );
    assert_eq!(
        code(model(&len(
            1,
            node("Relu", "r", &[], &["\u{0}"], &len(3, [0xff]))
        ))),
        "E-ONNX-UTF8"
    );
}

#[test]
fn a_cycle_through_a_subgraph() {
    let body = [
        len(1, node("Identity", "", &["z"], &["t"], &[])),
        len(12, value_info("t")),
    ]
    .concat();
    let outer = node(
        "If",
        "if",
        &["c"],
        &["z"],
        &graph_attr("then_branch", &body),
    );
    assert_eq!(
        code(model(&[len(11, value_info("c")), len(1, outer)].concat())),
        "E-ONNX-CYCLE"
    );
    let body = [
        len(1, node("Identity", "", &["nowhere"], &["t"], &[])),
        len(12, value_info("t")),
    ]
    .concat();
    let outer = node(
        "If",
        "if",
        &["c"],
        &["z"],
        &graph_attr("then_branch", &body),
    );
    assert_eq!(
        code(model(&[len(11, value_info("c")), len(1, outer)].concat())),
        "E-ONNX-UNDEFINED"
    );
}

#[test]
fn sizes_that_do_not_exist() {
    let tensor = |dims: &[i64]| {
        let dims: Vec<u8> = dims.iter().flat_map(|d| int(1, *d)).collect();
        model(&len(5, [dims, int(2, 1), len(8, "w"), len(9, "")].concat()))
    };
    for dims in [
        &[-1][..],
        &[i64::MAX, i64::MAX],
        &[1 << 40, 1 << 40, 0, -1],
        &[i64::MIN],
    ] {
        assert_eq!(code(tensor(dims)), "E-ONNX-TENSOR", "{dims:?}");
    }
    // Possible, but the file does not have that many elements.
    let model = read(tensor(&[1 << 40]));
    let w = model.graph.find_value("w").unwrap();
    assert!(model.graph.tensor(w).unwrap().to_f64s().is_none());
    assert_eq!(
        model
            .graph
            .tensor(w)
            .unwrap()
            .read_raw()
            .unwrap_err()
            .code(),
        "E-ONNX-TENSOR"
    );
}

#[test]
fn nested_too_deep() {
    let nested = |depth: usize| {
        let mut graph = len(1, node("Relu", "", &["x"], &["y"], &[]));
        for _ in 0..depth {
            graph = len(1, node("If", "", &[], &[], &graph_attr("b", &graph)));
        }
        model(&[len(11, value_info("x")), graph].concat())
    };
    exercise(nested(onnx_model::limits::MAX_NESTING));
    read(nested(onnx_model::limits::MAX_NESTING));
    assert_eq!(
        code(nested(onnx_model::limits::MAX_NESTING + 1)),
        "E-ONNX-TOO-DEEP"
    );
    assert_eq!(code(nested(2000)), "E-ONNX-TOO-DEEP");
    let groups = (0..5000).fold(vec![], |inside, _| group(9, inside));
    assert_eq!(code([int(1, 8), groups].concat()), "E-ONNX-MALFORMED");
}

#[test]
fn too_many_of_anything() {
    let many = [0x0a, 0].repeat(onnx_model::limits::MAX_FIELDS + 1);
    assert_eq!(code(model(&many)), "E-ONNX-TOO-MANY");
    assert_eq!(code(model(&len(1, &many))), "E-ONNX-TOO-MANY");
    assert_eq!(
        code(
            [
                model(&[]),
                [0x72, 0].repeat(onnx_model::limits::MAX_FIELDS + 1)
            ]
            .concat()
        ),
        "E-ONNX-TOO-MANY"
    );
    let shape = [0x0a, 0].repeat(onnx_model::limits::MAX_RANK + 1);
    let info = [len(1, "x"), len(2, len(1, len(2, shape)))].concat();
    assert_eq!(code(model(&len(11, info))), "E-ONNX-TOO-MANY");
    let dims = vec![1; onnx_model::limits::MAX_RANK + 1];
    assert_eq!(
        code(model(&len(5, [len(1, dims), int(2, 1)].concat()))),
        "E-ONNX-TOO-MANY"
    );
}

#[test]
fn long_chains_need_no_stack() {
    let mut graph = len(11, value_info("v0"));
    for i in (0..200_000).rev() {
        graph.extend(len(
            1,
            node(
                "Relu",
                "",
                &[&format!("v{i}")],
                &[&format!("v{}", i + 1)],
                &[],
            ),
        ));
    }
    let mut model = read(model(&graph));
    model.graph.sort().unwrap();
    model.verify().unwrap();
    assert_eq!(model.graph.remove_dead(), 200_000);
}

#[test]
fn functions_that_call_themselves() {
    let function = |name: &str, callee: &str| {
        let inner = node(callee, "", &["a"], &["b"], &len(7, "f"));
        let opset = len(9, [len(1, "f"), int(2, 1)].concat());
        len(
            25,
            [
                len(1, name),
                len(4, "a"),
                len(5, "b"),
                len(7, inner),
                opset,
                len(10, "f"),
            ]
            .concat(),
        )
    };
    assert_eq!(
        code([model(&[]), function("A", "A")].concat()),
        "E-ONNX-CYCLE"
    );
    assert_eq!(
        code([model(&[]), function("A", "B"), function("B", "A")].concat()),
        "E-ONNX-CYCLE"
    );
    read([model(&[]), function("A", "B"), function("B", "C")].concat());
}
