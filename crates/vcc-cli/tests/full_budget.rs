//! With everything refined a converted model equals its original in every element of every output, padding included; so does a model
//! with a small budget at lengths below it.
//!
//! Every model of the manifest that converts and every golden original, at batch 1 and 3, lengths around the segment size and one that
//! nothing divides, all kinds of padding, all kinds of VIP sets, with the library and with function bodies. The VIP set and the form
//! take turns over the cases; for one model of each family of position code all combinations are run.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    non_snake_case,
    reason = "a test; its functions have the names of the fixtures"
)]

mod common;

use common::{Engine, Fixture, Rng, convert, fixture, manifest, open, relative, run};
use vcc_passes::Form;
use vcc_run::{
    Array, Dim, ElementType, Inputs, Outputs, Padding, PortInfo, RandomOptions, Session,
    random_inputs,
};

/// The models with all VIP sets in all cases.
const ALL_VIP_SETS: [&str; 3] = [
    "bert__ts17_sdpa",
    "t5_encoder__ts17_eager",
    "modernbert__ts17_sdpa",
];

macro_rules! models {
    ($($name:ident),* $(,)?) => {
        $(#[test] fn $name() { check(stringify!($name)); })*
        const LISTED: &[&str] = &[$(stringify!($name)),*];
    };
}

models!(
    albert__ts17_sdpa,
    bart_encoder__ts17_sdpa,
    bert__dyn18_sdpa,
    bert__dyn23_sdpa,
    bert__fp16_ts17_sdpa,
    bert__int8_ts17_sdpa,
    bert__optimum,
    bert__ortext_ts17_sdpa,
    bert__ortfused_ts17_sdpa,
    bert__static_ts17_sdpa,
    bert__ts14_eager,
    bert__ts17_eager,
    bert__ts17_sdpa,
    bert_crossenc__ts17_sdpa,
    bert_hs__ts17_sdpa,
    bert_qa__ts17_sdpa,
    deberta_v2__ts17_eager,
    deberta_v3__ts17_eager,
    distilbert__dyn18_sdpa,
    distilbert__ts17_eager,
    modernbert__dyn18_sdpa,
    modernbert__ortfused_ts17_sdpa,
    modernbert__ts17_sdpa,
    mpnet__ts17_eager,
    roberta__dyn18_sdpa,
    roberta__ts17_sdpa,
    t5_encoder__dyn18_eager,
    t5_encoder__ts17_eager,
    t5_full__ts17_eager,
    torchenc_preln__dyn18,
    vit__dyn18_sdpa,
    vit__ts17_sdpa,
    roberta_vcc,
    roberta_vcc_short_vip,
    roberta_local_vcc,
    t5_vcc,
);

#[test]
fn every_model_that_converts_has_a_test() {
    for model in manifest() {
        let listed = LISTED.contains(&model.name.as_str());
        assert_eq!(
            listed,
            !model.expect.starts_with("refuse:"),
            "{}",
            model.name
        );
    }
}

/// Which tokens the input `vip` names, padding among them.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Vips {
    None,
    First,
    Scattered,
    All,
}

const VIP_SETS: [Vips; 4] = [Vips::None, Vips::First, Vips::Scattered, Vips::All];

impl Vips {
    fn mask(self, batch: usize, n: usize) -> Array {
        let mut rng = Rng(n as u64);
        let mask: Vec<bool> = (0..batch * n)
            .map(|i| match self {
                Vips::None => false,
                Vips::First => i % n == 0,
                Vips::Scattered => rng.chance(4),
                Vips::All => true,
            })
            .collect();
        Array::new([batch, n], mask).unwrap()
    }
}

const PADDINGS: [Padding; 5] = [
    Padding::None,
    Padding::Left,
    Padding::Right,
    Padding::Ragged,
    Padding::EmptyRow,
];

/// A converted model with both ways to run it.
struct Converted {
    model: String,
    options: &'static str,
    sessions: [(Engine, Session); 2],
}

impl Converted {
    fn new(model: &Fixture, options: &'static str) -> Converted {
        let bytes = convert(&model.path, options, Form::Functions);
        let open = |engine| (engine, open(&model.name, &bytes, engine));
        Converted {
            model: model.name.clone(),
            options,
            sessions: [open(Engine::Library), open(Engine::Bodies)],
        }
    }

    /// The output with the largest error, and the error in units of its tolerance.
    fn worst(&mut self, engine: usize, case: &Case, expected: &Outputs) -> (String, f64) {
        let got = run(&mut self.sessions[engine].1, &case.inputs);
        assert_eq!(got.len(), expected.len(), "{}", self.model);
        let errors = expected.iter().map(|(name, a)| {
            let b = got.get(name).unwrap();
            let same = a.shape() == b.shape() && a.element_type() == b.element_type();
            assert!(
                same,
                "{}, {name}: {:?} became {:?}",
                self.model,
                a.shape(),
                b.shape()
            );
            let (mut x, mut y) = (a.data().to_f64s(), b.data().to_f64s());
            if a.shape().last() == Some(&1) {
                // A single logit comes out near 0 at times; it is measured against its usual size.
                x.push(0.01);
                y.push(0.01);
            }
            let error = relative(&x, &y);
            (name.to_owned(), error / tolerance(&self.model, a))
        });
        errors.max_by(|a, b| a.1.total_cmp(&b.1)).unwrap()
    }

    fn check(&mut self, engines: &[usize], case: &Case, expected: &Outputs) {
        for &i in engines {
            let (output, error) = self.worst(i, case, expected);
            let what = format!(
                "{} [{}], {:?}",
                self.model, self.options, self.sessions[i].0
            );
            assert!(
                error <= 1.0,
                "{what}: {output} is off by {error} tolerances at {}",
                case.what
            );
        }
    }
}

fn tolerance(model: &str, output: &Array) -> f64 {
    // Dynamic quantisation rounds a difference in the last bit up to a step of 1/255.
    if model.contains("int8") {
        return 2e-2;
    }
    match output.element_type() {
        ElementType::F16 => 4e-3,
        // Outputs in f32 of a model that computes in f16.
        _ if model.contains("fp16") => 4e-3,
        _ => 1e-4,
    }
}

struct Case {
    what: String,
    inputs: Inputs,
    batch: usize,
    n: usize,
}

/// The number of tokens: of the first input with open or fixed second axis; image patches for pictures.
fn tokens(model: &Fixture, ports: &[PortInfo], length: usize) -> usize {
    match (model.length, ports[0].dims.get(1)) {
        (Some(n), _) => n,
        (None, Some(Dim::Fixed(n))) => *n,
        _ => length,
    }
}

/// Batches, lengths and paddings; what a model fixes is left at its value.
fn cases(model: &Fixture, original: &Session, lengths: &[usize]) -> Vec<Case> {
    let ports = original.inputs();
    let has_mask = ports.iter().any(|p| p.name.contains("mask"));
    let lengths = match model.length {
        Some(n) => vec![n],
        None => lengths.to_vec(),
    };
    let batches = model.batch.map_or(vec![1, 3], |b| vec![b]);
    let mut cases = Vec::new();
    for (seed, &length) in lengths.iter().enumerate() {
        for &batch in &batches {
            for &padding in if has_mask {
                &PADDINGS[..]
            } else {
                &PADDINGS[..1]
            } {
                let options = RandomOptions {
                    seed: seed as u64,
                    batch,
                    length,
                    ids: (0, model.vocab),
                    padding,
                    ..Default::default()
                };
                cases.push(Case {
                    what: format!("batch {batch}, length {length}, {padding:?}"),
                    inputs: random_inputs(ports, &options).unwrap(),
                    batch,
                    n: tokens(model, ports, length),
                });
            }
        }
    }
    cases
}

fn check(name: &str) {
    let model = fixture(name);
    let original = std::fs::read(&model.path).unwrap();
    let mut original = open(name, &original, Engine::Bodies);
    // k and every length around it; 37 leaves segments of empty slots in deep ladders too.
    let all = cases(&model, &original, &[1, 15, 16, 17, 37]);
    let expected: Vec<Outputs> = all.iter().map(|c| run(&mut original, &c.inputs)).collect();
    let every = ALL_VIP_SETS.contains(&name);

    // VIP sets from outside; as many slots as the fullest row needs, or too few.
    for options in [
        "vip=input:vip ladder=16,1 refine=all",
        "vip=input:vip vip-capacity=4 ladder=8,4,1 refine=all",
    ] {
        let mut converted = Converted::new(&model, options);
        for (i, (case, expected)) in all.iter().zip(&expected).enumerate() {
            let turn = [VIP_SETS[i % 4]];
            for &vips in if every { &VIP_SETS[..] } else { &turn[..] } {
                let mut inputs = case.inputs.clone();
                inputs.insert("vip", vips.mask(case.batch, case.n));
                let case = Case {
                    what: format!("{}, VIP {vips:?}", case.what),
                    inputs,
                    ..*case
                };
                // The engines take turns, with another rhythm than the VIP sets.
                let turn = [i / 4 % 2];
                converted.check(if every { &[0, 1] } else { &turn }, &case, expected);
            }
        }
    }
    // More VIP tokens than slots, every time.
    let mut converted =
        Converted::new(&model, "vip=first:10 vip-capacity=4 ladder=16,1 refine=all");
    for (i, (case, expected)) in all.iter().zip(&expected).enumerate() {
        converted.check(&[i % 2], case, expected);
    }

    below_the_budget(&model, &mut original);
}

/// Two refined segments of 16 and one VIP token: exact up to 33 tokens, compressed above.
fn below_the_budget(model: &Fixture, original: &mut Session) {
    let options = "vip=first:1 ladder=16,1 refine=2";
    let mut converted = Converted::new(model, options);
    if model.length.is_none_or(|n| n <= 33) {
        for case in cases(model, original, &[2, 20, 33]) {
            let expected = run(original, &case.inputs);
            converted.check(&[0, 1], &case, &expected);
        }
    }
    // Above it there is a difference: the converted blocks are really in use.
    if model.length.is_none_or(|n| n > 33) {
        let cases = cases(model, original, &[80]);
        let case = cases.iter().find(|c| c.what.contains("None")).unwrap();
        let expected = run(original, &case.inputs);
        let (_, error) = converted.worst(0, case, &expected);
        assert!(
            error > 1.0,
            "{}: {} is not compressed",
            model.name,
            case.what
        );
    }
}
