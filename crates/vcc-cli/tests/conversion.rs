//! What a conversion leaves as it was and what it adds: bytes, opsets, domains, metadata.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test"
)]

mod common;

use std::collections::BTreeSet;

use common::{
    Engine, Fixture, codes, convert, fixture, library, manifest, message, open, options, relative,
    run, runtime, try_convert,
};
use onnx_model::{AttrValue, Model, NewNode};
use vcc_passes::bodies::DOMAIN;
use vcc_passes::pipeline::Hooks;
use vcc_passes::plan::Plan;
use vcc_passes::{Form, PASSES, Request};
use vcc_run::{RandomOptions, Session, SessionOptions, random_inputs};

const FORMS: [Form; 3] = [Form::Functions, Form::Inline, Form::OpsOnly];

fn converting() -> Vec<Fixture> {
    let mut all = manifest();
    all.retain(|m| !m.is_refused() && !m.in_zoo);
    assert!(all.len() > 25);
    all
}

fn parse(bytes: Vec<u8>) -> Model {
    Model::from_bytes(bytes.into(), None).unwrap()
}

fn domains(model: &Model) -> BTreeSet<String> {
    model
        .graph
        .node_ids()
        .map(|id| model.graph.node(id).domain.clone())
        .collect()
}

fn is_contrib(opset: &(String, i64)) -> bool {
    opset.0 == "com.microsoft"
}

#[test]
fn two_conversions_give_the_same_bytes_and_keep_versions() {
    for fixture in converting() {
        let original = Model::open(&fixture.path).unwrap();
        for form in FORMS {
            let name = format!("{}, {form:?}", fixture.name);
            let text = "ladder=8,4,1 refine=2,3";
            let bytes = convert(&fixture.path, text, form);
            assert!(
                bytes == convert(&fixture.path, text, form),
                "{name}: not the same bytes"
            );

            let converted = parse(bytes);
            let mut opsets = converted.opsets();
            let ours: Vec<_> = opsets
                .iter()
                .filter(|(d, _)| d == DOMAIN)
                .cloned()
                .collect();
            // An attention on compressed rows may become ONNX Runtime's.
            let fused = form != Form::Inline && !original.opsets().iter().any(is_contrib);
            opsets.retain(|o| o.0 != DOMAIN && !(fused && is_contrib(o)));
            assert_eq!(opsets, original.opsets(), "{name}");
            let expected = if form == Form::Inline {
                vec![]
            } else {
                vec![(DOMAIN.to_owned(), 1)]
            };
            assert_eq!(ours, expected, "{name}");

            let ir = match form {
                Form::Functions => original.ir_version().max(8),
                Form::Inline | Form::OpsOnly => original.ir_version(),
            };
            assert_eq!(converted.ir_version(), ir, "{name}");

            let mut expected = domains(&original);
            if form != Form::Inline {
                expected.insert(DOMAIN.to_owned());
                expected.insert("com.microsoft".to_owned());
            }
            assert!(
                domains(&converted).is_subset(&expected),
                "{name}: {:?}",
                domains(&converted)
            );

            let bodies: BTreeSet<String> = converted
                .functions()
                .iter()
                .filter(|f| f.domain == DOMAIN)
                .map(|f| f.name.clone())
                .collect();
            let used: BTreeSet<String> = converted
                .graph
                .node_ids()
                .map(|id| converted.graph.node(id))
                .filter(|n| n.domain == DOMAIN)
                .map(|n| n.op_type.clone())
                .collect();
            match form {
                Form::Functions => assert_eq!(bodies, used, "{name}"),
                Form::Inline => assert!(bodies.is_empty() && used.is_empty(), "{name}"),
                Form::OpsOnly => assert!(bodies.is_empty() && !used.is_empty(), "{name}"),
            }
        }
    }
}

#[test]
fn inputs_and_outputs_stay() {
    for fixture in converting() {
        let original = Model::open(&fixture.path).unwrap();
        for form in FORMS {
            let converted = parse(convert(&fixture.path, "refine=2", form));
            let ports = |m: &Model| {
                let all = m.graph.inputs().iter().chain(m.graph.outputs());
                all.map(|&v| {
                    (
                        m.graph.value(v).name.clone(),
                        m.graph.value(v).info().cloned(),
                    )
                })
                .collect::<Vec<_>>()
            };
            assert_eq!(ports(&original), ports(&converted), "{}", fixture.name);
            assert_eq!(
                original.graph.inputs().len(),
                converted.graph.inputs().len()
            );
        }
    }
    let with_vip = parse(convert(
        &fixture("bert__ts17_sdpa").path,
        "vip=input:important",
        Form::Functions,
    ));
    let names: Vec<_> = with_vip
        .graph
        .inputs()
        .iter()
        .map(|&v| with_vip.graph.value(v).name.as_str())
        .collect();
    assert_eq!(
        names,
        ["input_ids", "attention_mask", "token_type_ids", "important"]
    );
}

#[test]
fn what_the_tool_does_not_know_survives() {
    let path = fixture("bert__ts17_sdpa").path;
    let mut original = Model::open(&path).unwrap();
    original.set_metadata("owner", "somebody");
    let mut bytes = original.to_vec().unwrap();
    // Fields that no version of the format has, in the model and in its graph.
    bytes.extend(message(2000, b"unknown to the model"));
    bytes.extend(message(7, &message(2001, b"unknown to the graph")));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.onnx");
    std::fs::write(&path, &bytes).unwrap();
    for form in FORMS {
        let converted = convert(&path, "refine=2", form);
        for text in ["unknown to the model", "unknown to the graph"] {
            let found = converted.windows(text.len()).any(|w| w == text.as_bytes());
            assert!(found, "{text}, {form:?}");
        }
        let converted = parse(converted);
        assert_eq!(converted.metadata("owner"), Some("somebody"));
    }
}

#[test]
fn the_file_says_how_it_was_made() {
    for form in FORMS {
        let path = fixture("t5_full__ts17_eager").path;
        let conversion = try_convert(&path, "refine=3 vip=last:2", form).unwrap();
        let plan = conversion.model.metadata("vcc.plan").unwrap();
        assert_eq!(Plan::from_toml(plan).unwrap(), conversion.plan);
        assert_eq!(
            conversion.model.metadata("vcc.form").and_then(Form::named),
            Some(form)
        );
        let tool = conversion.model.metadata("vcc.tool").unwrap();
        assert!(tool.starts_with("vcc-convert "), "{tool}");

        // The recorded plan gives the same file again.
        let mut hooks = Hooks {
            verify_each: true,
            after: &mut |_, _| {},
            stop_after: None,
        };
        let request = Request::Plan(Plan::from_toml(plan).unwrap());
        let again =
            vcc_passes::convert(Model::open(&path).unwrap(), request, form, &mut hooks).unwrap();
        assert!(again.model.to_vec().unwrap() == conversion.model.to_vec().unwrap());
    }
}

#[test]
fn a_graph_is_well_formed_wherever_the_pipeline_stops() {
    for name in [
        "bert__ts17_sdpa",
        "bert__dyn23_sdpa",
        "deberta_v2__ts17_eager",
        "t5_full__ts17_eager",
        "vit__dyn18_sdpa",
    ] {
        let path = fixture(name).path;
        for pass in PASSES {
            for form in FORMS {
                let mut last = "";
                let mut after = |p: &vcc_passes::Pass, _: &vcc_passes::Conversion| last = p.name;
                let mut hooks = Hooks {
                    verify_each: true,
                    after: &mut after,
                    stop_after: Some(pass.name),
                };
                let request =
                    Request::Options(options("ladder=8,4,1 refine=2"), Default::default());
                let conversion =
                    vcc_passes::convert(Model::open(&path).unwrap(), request, form, &mut hooks)
                        .unwrap_or_else(|e| panic!("{name}: {e}"));
                assert_eq!(last, pass.name);
                conversion
                    .model
                    .verify()
                    .unwrap_or_else(|v| panic!("{name} after {}: {v:?}", pass.name));
                // What is written can be read.
                parse(conversion.model.to_vec().unwrap()).verify().unwrap();
            }
        }
    }
}

/// A token that is taken out of a block and read by nothing is not what the block computes.
#[test]
fn what_nothing_reads_is_no_reason() {
    let path = fixture("xlmr_class__ts17_eager").path;
    let mut model = Model::open(&path).unwrap();
    let graph = &mut model.graph;
    let taken = graph.node_ids().find(|&id| {
        let node = graph.node(id);
        node.op_type == "Gather" && node.attr_int("axis") == Some(1)
    });
    let inputs = graph.node(taken.unwrap()).inputs.clone();
    let nothing = graph.new_value("nothing");
    graph.add_node(NewNode {
        op_type: "Gather".into(),
        inputs,
        outputs: vec![Some(nothing)],
        attributes: vec![("axis".into(), AttrValue::Int(1))],
        ..NewNode::default()
    });
    let mut hooks = Hooks {
        verify_each: true,
        after: &mut |_, _| {},
        stop_after: Some("blocks"),
    };
    let found =
        vcc_passes::convert(model, Request::default(), Form::Functions, &mut hooks).unwrap();
    let blocks = &found.analysis.unwrap().streams[0].blocks;
    assert!(blocks.len() > 1 && blocks.iter().all(|b| b.axes.is_ok()));
}

#[test]
fn a_partial_conversion_leaves_the_refused_block() {
    let codes = codes(&fixture("deberta_v2__ts17_eager")).unwrap();
    assert_eq!(codes, [[Some("R-TOKEN-MIXING"), None]]);
}

/// Operators of a model as ONNX Runtime runs it.
fn runs_as(bytes: &[u8], library: Option<std::path::PathBuf>) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("optimized.onnx");
    let options = SessionOptions {
        threads: 1,
        ops_library: library,
        optimized_model: Some(path.clone()),
        ..Default::default()
    };
    Session::from_bytes(&runtime(), "model", bytes, &options).unwrap();
    let optimized = Model::open(&path).unwrap();
    let graph = &optimized.graph;
    graph
        .node_ids()
        .map(|id| graph.node(id))
        .filter(|n| n.domain == DOMAIN)
        .map(|n| n.op_type.clone())
        .collect()
}

/// With the library its kernels run, not the bodies that the file carries too; without it nothing of ours does.
#[test]
fn the_library_takes_the_place_of_the_bodies() {
    let path = fixture("bert__ts17_sdpa").path;
    let bytes = convert(&path, "refine=2", Form::Functions);
    let converted = parse(bytes.clone());
    let graph = &converted.graph;
    let ours = graph
        .node_ids()
        .filter(|&id| graph.node(id).domain == DOMAIN)
        .count();
    assert!(ours > 5);
    assert_eq!(runs_as(&bytes, Some(library())).len(), ours);
    assert_eq!(runs_as(&bytes, None), Vec::<String>::new());
    let inline = convert(&path, "refine=2", Form::Inline);
    assert_eq!(runs_as(&inline, Some(library())), Vec::<String>::new());

    // Operators alone: the same result, and no session without the library.
    let alone = convert(&path, "refine=2", Form::OpsOnly);
    let mut session = open("operators alone", &alone, Engine::Library);
    let inputs = random_inputs(
        session.inputs(),
        &RandomOptions {
            length: 80,
            ..Default::default()
        },
    )
    .unwrap();
    let a = run(&mut session, &inputs);
    let b = run(&mut open("with bodies", &bytes, Engine::Library), &inputs);
    for (name, x) in a.iter() {
        let y = b.get(name).unwrap();
        assert_eq!(
            relative(&x.data().to_f64s(), &y.data().to_f64s()),
            0.0,
            "{name}"
        );
    }
    let options = SessionOptions::default();
    assert!(Session::from_bytes(&runtime(), "operators alone", &alone, &options).is_err());
}

/// One thread or two: the same bits from a whole converted model.
#[test]
fn threads_do_not_show() {
    let bytes = convert(
        &fixture("roberta_vcc").path,
        "refine=3 vip=first:4",
        Form::Functions,
    );
    let results = [1, 2].map(|threads| {
        let mut session = common::open_with("roberta_vcc", &bytes, Engine::Library, threads);
        let options = RandomOptions {
            batch: 3,
            length: 200,
            ..Default::default()
        };
        let inputs = random_inputs(session.inputs(), &options).unwrap();
        run(&mut session, &inputs)
    });
    assert_eq!(results[0], results[1]);
}

/// Attentions with masks that depend on the key alone become one operator, with relative positions in its bias; others keep their softmax.
#[test]
fn key_biases_go_into_a_fused_attention() {
    let count = |name: &str, form: Form, op: &str| {
        let converted = parse(convert(&fixture(name).path, "ladder=8,1 refine=2", form));
        let graph = &converted.graph;
        let nodes = graph.node_ids().filter(|&id| graph.node(id).op_type == op);
        nodes.count()
    };
    for name in [
        "bert__ts17_sdpa",
        "bert__ts17_eager",
        "vit__ts17_sdpa",
        "roberta__dyn18_sdpa",
        "bart_encoder__ts17_sdpa",
        "t5_encoder__ts17_eager",
        "t5_encoder__dyn18_eager",
        "mpnet__ts17_eager",
    ] {
        assert_eq!(
            count(name, Form::Functions, "MultiHeadAttention"),
            2,
            "{name}"
        );
        assert_eq!(count(name, Form::Functions, "Softmax"), 0, "{name}");
        assert_eq!(count(name, Form::Inline, "MultiHeadAttention"), 0, "{name}");
    }
    // Scores that are computed from positions, 16-bit floats, an operator that comes back.
    for name in [
        "deberta_v3__ts17_eager",
        "bert__fp16_ts17_sdpa",
        "bert__dyn23_sdpa",
    ] {
        assert_eq!(
            count(name, Form::Functions, "MultiHeadAttention"),
            0,
            "{name}"
        );
    }
}
