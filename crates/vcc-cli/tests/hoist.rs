//! Masks and biases are built for the rows, not for all pairs of tokens.
//!
//! No value of a converted model has two axes of the sequence's length; a model whose masks cannot be followed to their source
//! (an operator that is not followed is put behind them) gives the same bits, and is told to keep them.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    non_snake_case,
    reason = "a test; its functions have the names of the fixtures"
)]

mod common;
#[path = "hoist/random.rs"]
mod random;

use common::{Engine, fixture, message, open, options, relative, run};
use onnx_model::{AttrValue, Model, NewNode, Tensor, ValueId};
use std::collections::BTreeSet;
use token_axes::Samples;
use vcc_passes::pipeline::Hooks;
use vcc_passes::{Conversion, Error, Form, Request, pairs};
use vcc_run::{Inputs, Padding, RandomOptions, Session, random_inputs};

/// 2 VIP tokens, 2 * 4 refined ones and 23 segments at 101 tokens.
const SMALL: &str = "vip=first:2 ladder=4,1 refine=2";
const GROUPED: &str = "vip=first:2 ladder=4,1 refine=2 reselect-every=2";
const WINDOWS: &str = "vip=first:2 ladder=4,1 refine=2 blocks=0=local:8";
const LENGTH: usize = 101;

macro_rules! models {
    ($($name:ident),* $(,)?) => { $(#[test] fn $name() { check(stringify!($name)); })* };
}

models!(
    albert__ts17_sdpa,
    bart_encoder__ts17_sdpa,
    bert__dyn18_sdpa,
    bert__dyn23_sdpa,
    bert__fp16_ts17_sdpa,
    bert__int8_ts17_sdpa,
    bert__ts17_eager,
    bert__ts17_sdpa,
    deberta_v3__ts17_eager,
    distilbert__dyn18_sdpa,
    distilbert__ts17_eager,
    modernbert__dyn18_sdpa,
    modernbert__ts17_sdpa,
    mpnet__ts17_eager,
    roberta__dyn18_sdpa,
    roberta__ts17_sdpa,
    t5_encoder__dyn18_eager,
    t5_encoder__ts17_eager,
    torchenc_preln__dyn18,
);

fn check(name: &str) {
    let fixture = fixture(name);
    let original = || Model::open(&fixture.path).unwrap();
    for plan in [SMALL, GROUPED, WINDOWS] {
        let converted = convert(original(), plan);
        if plan == SMALL {
            let kept = &pairs::after(&converted, 16384)[0].kept;
            assert!(kept.is_empty(), "{name} keeps {kept:?}");
            no_pairs(name, &converted.model);
        }
        // The same with the gathers held up before they reach the source.
        let mut stopped = original();
        let values = pair_externals(&stopped);
        for &value in &values {
            hold_up(&mut stopped, value);
        }
        let plain = convert(stopped.clone(), plan);
        assert_eq!(
            pairs::after(&plain, 16384)[0].kept.len(),
            values.len(),
            "{name}"
        );
        if !values.is_empty() {
            // A relative bias and a mask that are one sum in the model are added to the scores in another order.
            let limit = if name == "t5_encoder__dyn18_eager" {
                1e-6
            } else {
                0.0
            };
            same(name, &apart(original(), plan), &apart(stopped, plan), limit);
        }
    }
}

/// Biases that a generator makes up, in place of a model's mask: taken at their source or as they stand, the outputs are the same.
#[test]
fn random_biases() {
    let path = fixture("bert__ts17_sdpa").path;
    let mut followed = 0;
    for seed in 0..40 {
        let mut model = Model::open(&path).unwrap();
        let mask = model.graph.find_value("attention_mask").unwrap();
        let external = pair_externals(&model).into_iter().next().unwrap();
        let readers = model.graph.value(external).uses().to_vec();
        let bias = random::Builder::new(&mut model.graph, mask, seed).bias();
        for (node, input) in readers {
            model.graph.set_input(node, input, Some(bias));
        }
        model.graph.remove_dead();
        model.graph.sort().unwrap();
        // A bias that tells earlier from later tokens in a way that looks causal is refused.
        let Ok(converted) = try_plan(model.clone(), SMALL, Form::Functions) else {
            continue;
        };
        hold_up(&mut model, bias);
        let plain = convert(model.clone(), SMALL);
        // Functions such as Sin may round the last elements of a vector in another way than those before.
        let name = format!("seed {seed}");
        same(&name, &converted.model, &plain.model, 1e-6);
        followed += 1;
    }
    assert!(followed >= 20, "only {followed} biases were taken");
}

/// A reader of a mask's shape does not keep the mask alive.
#[test]
fn shapes_of_masks() {
    let fixture = fixture("bert__ts17_sdpa");
    let mut model = Model::open(&fixture.path).unwrap();
    let external = pair_externals(&model).into_iter().next().unwrap();
    let graph = &mut model.graph;
    let output = graph.find_value("pooler_output").unwrap();
    let last = graph.value(output).producer().unwrap().0;
    let pooled = graph.node(last).inputs[0].unwrap();
    let mut op = |op: &str, inputs: &[ValueId], attributes: Vec<(String, AttrValue)>| {
        let value = graph.new_value("shape");
        graph.add_node(NewNode {
            op_type: op.into(),
            domain: String::new(),
            name: "shape".into(),
            inputs: inputs.iter().map(|&v| Some(v)).collect(),
            outputs: vec![Some(value)],
            attributes,
            metadata: Vec::new(),
        });
        value
    };
    // The longer the mask, the smaller the output.
    let shape = op("Shape", &[external], Vec::new());
    let sizes = op("Cast", &[shape], vec![("to".into(), AttrValue::Int(1))]);
    let keep = vec![("keepdims".into(), AttrValue::Int(0))];
    let size = op("ReduceMax", &[sizes], keep);
    let scaled = op("Div", &[pooled, size], Vec::new());
    graph.set_input(last, 0, Some(scaled));
    graph.sort().unwrap();
    let converted = convert(model.clone(), SMALL);
    no_pairs("shapes_of_masks", &converted.model);
    let followed = apart(model.clone(), SMALL);
    hold_up(&mut model, external);
    same("shapes_of_masks", &followed, &apart(model, SMALL), 0.0);
}

/// What `vcc inspect` prints.
#[test]
fn sizes_of_pairs() {
    let mut model = Model::open(&fixture("bert__ts17_sdpa").path).unwrap();
    let external = pair_externals(&model).into_iter().next().unwrap();
    let mut hooks = Hooks {
        verify_each: false,
        after: &mut |_, _| {},
        stop_after: Some("blocks"),
    };
    let request = Request::default();
    let found = vcc_passes::convert(model.clone(), request, Form::OpsOnly, &mut hooks).unwrap();
    // The scores of 4 heads in f32.
    let before = pairs::before(&found, 16384);
    assert_eq!(before[0].as_ref().unwrap().bytes, 4 * 16384 * 16384 * 4);
    // A fused attention has no scores in memory.
    let fused = pairs::after(&convert(model.clone(), ""), 16384).remove(0);
    assert!(fused.largest.is_none());
    let left = |model: Model| {
        let converted = try_plan(model, "", Form::Inline).unwrap();
        pairs::after(&converted, 16384).remove(0)
    };
    let all = left(model.clone());
    assert_eq!((all.rows, all.kept.len()), (1790, 0));
    assert_eq!(all.largest.unwrap().bytes, 4 * 1790 * 1790 * 4);
    // A mask that is not followed stays, in f32; so does what it is made of, the largest part of that in int64.
    hold_up(&mut model, external);
    let held = left(model);
    assert_eq!(held.largest.unwrap().bytes, 16384 * 16384 * 8);
    assert_eq!(held.kept[0].bytes, 16384 * 16384 * 4);
    assert!(held.kept[0].reason.as_ref().unwrap().contains("(Tile)"));
}

fn convert(model: Model, plan: &str) -> Conversion {
    try_plan(model, plan, Form::Functions).unwrap()
}

/// With attentions in operators of ONNX: a mask that is held up may keep the queries' axis, and its attention is not fused then.
fn apart(model: Model, plan: &str) -> Model {
    try_plan(model, plan, Form::Inline).unwrap().model
}

fn try_plan(model: Model, plan: &str, form: Form) -> Result<Conversion, Error> {
    let mut hooks = Hooks {
        verify_each: true,
        after: &mut |_, _| {},
        stop_after: None,
    };
    let request = Request::Options(options(plan), Default::default());
    vcc_passes::convert(model, request, form, &mut hooks)
}

/// The externals with two token axes.
fn pair_externals(model: &Model) -> BTreeSet<ValueId> {
    let mut hooks = Hooks {
        verify_each: false,
        after: &mut |_, _| {},
        stop_after: Some("blocks"),
    };
    let found = vcc_passes::convert(
        model.clone(),
        Request::default(),
        Form::Functions,
        &mut hooks,
    )
    .unwrap();
    let mut values = BTreeSet::new();
    for axes in found
        .analysis
        .unwrap()
        .streams
        .iter()
        .flat_map(|s| s.convertible())
    {
        for external in axes.flows.values().flat_map(|f| &f.externals) {
            let tokens = external
                .frame
                .iter()
                .filter(|a| a.present && token_axes::layout::has_tokens(&a.axis));
            if tokens.count() == 2 {
                values.insert(external.value);
            }
        }
    }
    // Passes before the analysis may have made values of their own; by name they are found in the file.
    values
        .into_iter()
        .filter_map(|v| model.graph.find_value(&found.model.graph.value(v).name))
        .collect()
}

/// Puts an operator that does nothing and is not followed behind a value: a Tile by 1.
fn hold_up(model: &mut Model, value: ValueId) {
    let samples = Samples(token_axes::interp::evaluate_samples(model));
    let rank = samples.shape(value).unwrap().len();
    let graph = &mut model.graph;
    let held = graph.new_value("held");
    graph.replace_uses(value, held);
    let ones = graph.add_initializer("ones", Tensor::vector_i64(&vec![1; rank]));
    graph.add_node(NewNode {
        op_type: "Tile".into(),
        domain: String::new(),
        name: "hold".into(),
        inputs: vec![Some(value), Some(ones)],
        outputs: vec![Some(held)],
        attributes: Vec::new(),
        metadata: Vec::new(),
    });
    graph.sort().unwrap();
}

fn feeds(session: &Session, batch: usize) -> Inputs {
    let options = RandomOptions {
        seed: 7,
        batch,
        length: LENGTH,
        ids: (5, 100),
        padding: Padding::Ragged,
        ..RandomOptions::default()
    };
    random_inputs(session.inputs(), &options).unwrap()
}

/// No value has two axes of the sequence's length.
fn no_pairs(name: &str, model: &Model) {
    let (mut names, mut outputs) = (Vec::new(), Vec::new());
    let graph = &model.graph;
    for id in graph.node_ids() {
        for &value in graph.node(id).outputs.iter().flatten() {
            if !graph.is_output(value) {
                names.push(graph.value(value).name.clone());
            }
        }
    }
    for name in &names {
        // Of a type that ONNX Runtime infers.
        outputs.extend(message(12, &message(1, name.as_bytes())));
    }
    let bytes = [model.to_vec().unwrap(), message(7, &outputs)].concat();
    let mut session = open(name, &bytes, Engine::Library);
    let inputs = feeds(&session, 2);
    let values = run(&mut session, &inputs);
    assert!(
        values.len() > names.len(),
        "{name}: not all values were seen"
    );
    for (value, array) in values.iter() {
        let long = array.shape().iter().filter(|&&s| s == LENGTH).count();
        assert!(long < 2, "{name}: {value} has shape {:?}", array.shape());
    }
}

/// Both models give the same outputs.
fn same(name: &str, a: &Model, b: &Model, tolerance: f64) {
    let mut a = open(name, &a.to_vec().unwrap(), Engine::Library);
    let mut b = open(name, &b.to_vec().unwrap(), Engine::Library);
    for batch in [1, 3] {
        let inputs = feeds(&a, batch);
        let (left, right) = (run(&mut a, &inputs), run(&mut b, &inputs));
        for (output, array) in left.iter() {
            let other = right.get(output).unwrap();
            let error = relative(&array.data().to_f64s(), &other.data().to_f64s());
            assert!(error <= tolerance, "{name}: {output} differs by {error}");
        }
    }
}
