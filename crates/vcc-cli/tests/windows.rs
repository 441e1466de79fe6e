//! Blocks in mode `local:SEG` give what the original gives on each window by itself, with that window's tokens, positions and mask.
//!
//! The originals here see positions only as an input or by distance, so that a window can be cut out of a sequence.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test"
)]

mod common;

use common::{
    Engine, Fixture, Rng, convert, f32s, fixture, i64s, open, relative, run, with_outputs,
};
use onnx_model::{DataType, Model};
use vcc_passes::Form;
use vcc_run::{Array, Inputs, Outputs, Padding, RandomOptions, Session, random_inputs};

const BATCH: usize = 3;

/// Which tokens are padding: kinds of [`Padding`], or scattered with whole windows of nothing else.
const KINDS: usize = 5;

fn inputs(session: &Session, vocab: i64, n: usize, kind: usize) -> Inputs {
    let options = RandomOptions {
        seed: n as u64,
        batch: BATCH,
        length: n,
        ids: (0, vocab),
        padding: [
            Padding::None,
            Padding::Left,
            Padding::Right,
            Padding::EmptyRow,
            Padding::None,
        ][kind],
        ..Default::default()
    };
    let mut inputs = random_inputs(session.inputs(), &options).unwrap();
    if kind == KINDS - 1 {
        let mut rng = Rng(n as u64);
        let hole = rng.below(n);
        let mask = (0..BATCH * n)
            .map(|i| i64::from(!(hole..hole + 20).contains(&(i % n)) && rng.chance(2)));
        inputs.insert(
            "attention_mask",
            Array::new([BATCH, n], mask.collect::<Vec<_>>()).unwrap(),
        );
    }
    inputs
}

/// Tokens `from..to` of every input.
fn cut(inputs: &Inputs, from: usize, to: usize) -> Inputs {
    let cut = |array: &Array| {
        let n = array.shape()[1];
        let rows = i64s(array).chunks(n).flat_map(|row| row[from..to].to_vec());
        Array::new([BATCH, to - from], rows.collect::<Vec<_>>()).unwrap()
    };
    inputs
        .iter()
        .map(|(name, a)| (name.to_owned(), cut(a)))
        .collect()
}

fn only(outputs: &Outputs) -> &Array {
    outputs.iter().next().unwrap().1
}

/// Per window of `seg` tokens and batch row: where it is, whether it has a valid token, and the rows of both.
fn windows_agree(name: &str, segs: &[usize], through: Option<&Through>) {
    let model = fixture(name);
    let mut original = open(name, &std::fs::read(&model.path).unwrap(), Engine::Bodies);
    let mut empty_windows = 0;
    let devices = segs.iter().flat_map(|&seg| [(seg, "cpu"), (seg, "cuda")]);
    for (seg, device) in devices {
        let options = format!("blocks=0-=local:{seg} device={device}");
        let bytes = convert(&model.path, &options, Form::Functions);
        // These blocks need none of our operators, and on a GPU no loop.
        let parsed = Model::from_bytes(bytes.clone().into(), None).unwrap();
        assert_eq!(parsed.opset("ai.vcc"), None);
        let mut nodes = parsed.graph.node_ids();
        let has_loop = nodes.any(|n| parsed.graph.node(n).op_type == "Scan");
        assert_eq!(has_loop, device == "cpu");
        let mut converted = open(name, &bytes, Engine::Bodies);
        for n in [2 * seg, 2 * seg + 1, 3 * seg - 1, 37, 50] {
            for kind in 0..KINDS {
                let inputs = inputs(&original, model.vocab, n, kind);
                let got = run(&mut converted, &inputs);
                let (got, d) = (f32s(only(&got)), only(&got).shape()[2]);
                let mask = i64s(inputs.get("attention_mask").unwrap());
                for from in (0..n).step_by(seg) {
                    let to = n.min(from + seg);
                    let window = cut(&inputs, from, to);
                    let expected = run(&mut original, &window);
                    let expected = f32s(only(&expected));
                    for b in 0..BATCH {
                        let size = (to - from) * d;
                        let mut expected = expected[b * size..(b + 1) * size].to_vec();
                        let valid = mask[b * n + from..b * n + to].contains(&1);
                        if !valid && n > seg {
                            let Some(through) = through else { continue };
                            empty_windows += 1;
                            expected = through.rows(&window, b);
                        }
                        let rows = &got[(b * n + from) * d..(b * n + to) * d];
                        let wide =
                            |rows: &[f32]| rows.iter().map(|&x| f64::from(x)).collect::<Vec<_>>();
                        let error = relative(&wide(&expected), &wide(rows));
                        assert!(
                            error <= 1e-4,
                            "{name}, local:{seg} for {device}, {n} tokens, padding {kind}, row {b}, window at {from}: {error:e}"
                        );
                    }
                }
            }
        }
    }
    assert!(through.is_none() || empty_windows > 20, "{empty_windows}");
}

/// The golden RoBERTa without its blocks: the embedding and the last normalisation.
struct Through {
    session: std::cell::RefCell<Session>,
    weight: Vec<f64>,
    bias: Vec<f64>,
}

const EMBEDDING: &str = "/m/embeddings/LayerNorm/LayerNormalization_output_0";

impl Through {
    fn new(model: &Fixture) -> Through {
        let bytes = std::fs::read(&model.path).unwrap();
        let parsed = Model::from_bytes(bytes.clone().into(), None).unwrap();
        let graph = &parsed.graph;
        let (last, _) = graph.value(graph.outputs()[0]).producer().unwrap();
        let last = graph.node(last);
        assert_eq!(last.op_type, "LayerNormalization");
        let tensor = |i: usize| {
            graph
                .tensor(last.inputs[i].unwrap())
                .unwrap()
                .to_f64s()
                .unwrap()
        };
        let bytes = with_outputs(&bytes, &[(EMBEDDING, DataType::Float as i32)]);
        Through {
            session: open("embedding", &bytes, Engine::Bodies).into(),
            weight: tensor(1),
            bias: tensor(2),
        }
    }

    /// The model's output for a batch row if every block passes its input through.
    fn rows(&self, inputs: &Inputs, b: usize) -> Vec<f32> {
        let outputs = run(&mut self.session.borrow_mut(), inputs);
        let x = outputs.get(EMBEDDING).unwrap();
        let &[_, n, d] = x.shape() else {
            panic!("{:?}", x.shape())
        };
        let normalised = |x: &[f32]| {
            let x: Vec<f64> = x.iter().map(|&x| f64::from(x)).collect();
            let mean = x.iter().sum::<f64>() / d as f64;
            let variance = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / d as f64;
            let scale = (variance + 1e-5).sqrt().recip();
            (0..d)
                .map(|c| ((x[c] - mean) * scale * self.weight[c] + self.bias[c]) as f32)
                .collect::<Vec<_>>()
        };
        f32s(x)[b * n * d..(b + 1) * n * d]
            .chunks(d)
            .flat_map(normalised)
            .collect()
    }
}

#[test]
fn windows_with_position_ids() {
    let through = Through::new(&fixture("roberta_vcc"));
    windows_agree("roberta_vcc", &[1, 8, 16, 25], Some(&through));
}

#[test]
fn windows_with_a_relative_bias() {
    windows_agree("t5_vcc", &[8, 16], None);
    windows_agree("t5_encoder__dyn18_eager", &[16], None);
}

#[test]
fn windows_with_rotary_positions_and_a_band_mask() {
    windows_agree("modernbert__ts17_sdpa", &[16], None);
}

/// One window as long as the sequence or longer: the original.
#[test]
fn a_sequence_of_one_window_is_the_original() {
    for (name, other) in [
        ("bert__ts17_sdpa", "local:40"),
        ("bart_encoder__ts17_sdpa", "local:37"),
        ("deberta_v3__ts17_eager", "local:100"),
        ("distilbert__dyn18_sdpa", "local:37"),
        ("modernbert__dyn18_sdpa", "local:38"),
        ("mpnet__ts17_eager", "local:512"),
        ("roberta_local_vcc", "local:384"),
        ("t5_encoder__ts17_eager", "local:37"),
        ("torchenc_preln__dyn18", "local:64"),
    ] {
        let model = fixture(name);
        let mut original = open(name, &std::fs::read(&model.path).unwrap(), Engine::Bodies);
        for blocks in [format!("0-={other}"), format!("0={other}")] {
            let options = format!("blocks={blocks} refine=all vip=first:2 ladder=8,1");
            let bytes = convert(&model.path, &options, Form::Functions);
            let mut converted = open(name, &bytes, Engine::Library);
            for n in [1, 20, 37] {
                for kind in 0..KINDS {
                    let inputs = inputs(&original, model.vocab, n, kind);
                    let (a, b) = (run(&mut original, &inputs), run(&mut converted, &inputs));
                    for (output, a) in a.iter() {
                        let b = b.get(output).unwrap();
                        assert_eq!(a.shape(), b.shape());
                        let error = relative(&a.data().to_f64s(), &b.data().to_f64s());
                        assert!(
                            error <= 1e-4,
                            "{name}, {blocks}, {n} tokens, padding {kind}: {error:e}"
                        );
                    }
                }
            }
        }
    }
}
