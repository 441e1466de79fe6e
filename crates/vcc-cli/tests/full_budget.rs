//! What the manifest says of a fixture is so, and with everything refined a converted model equals its original in every element of every
//! output, padding included; so does a model with a small budget at lengths below it.
//!
//! A test for every model, by its name. Batch 1 and 3, lengths around the segment size and one that nothing divides, all kinds of padding, all
//! kinds of VIP sets, with the library and with function bodies. The VIP set and the form take turns over the cases; for one model of
//! each family of position code all combinations are run. The many models of the zoo have fewer lengths and options.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test"
)]

mod common;

use std::process::ExitCode;

use common::record::record_full_budget;
use common::tolerance::Precision;
use common::{
    Engine, Fixture, Rng, codes, convert, difference, everything, open_at, run, try_convert,
};
use libtest_mimic::{Arguments, Failed, Trial};
use onnx_model::Model;
use vcc_passes::{Error, Form};
use vcc_run::{Array, Inputs, Optimization, Outputs, Padding, RandomOptions, Session};

/// The models with all VIP sets in all cases.
const ALL_VIP_SETS: [&str; 3] = [
    "bert__ts17_sdpa",
    "t5_encoder__ts17_eager",
    "modernbert__ts17_sdpa",
];

fn main() -> ExitCode {
    let models = everything();
    assert!(models.len() >= 42, "fixtures are missing");
    let trials = models
        .into_iter()
        .map(|m| Trial::test(m.name.clone(), move || check(&m)));
    libtest_mimic::run(&Arguments::from_args(), trials.collect()).exit_code()
}

fn check(model: &Fixture) -> Result<(), Failed> {
    let codes = codes(model)?;
    let all = codes.concat();
    let converts = all.contains(&None);
    let is_as_expected = match model.expect.as_str() {
        "convert" => converts && all.iter().all(Option::is_none),
        "partial" => converts && all.iter().any(Option::is_some),
        _ => !converts,
    };
    if !is_as_expected {
        return Err(format!("{} is expected, the blocks are {codes:?}", model.expect).into());
    }
    let error = match model.expect.strip_prefix("refuse:") {
        Some(code) => {
            is_refused(model, code)?;
            None
        }
        None => Some(at_full_budget(model)?),
    };
    record_full_budget(&model.name, &codes, error);
    Ok(())
}

/// The conversion ends in an error that names the code, that of the first block if there are some.
fn is_refused(model: &Fixture, code: &str) -> Result<(), Failed> {
    match try_convert(&model.path, "refine=all", Form::Functions) {
        Err(Error::NothingToConvert(text))
            if text.contains(&format!("{code}:")) || text.contains(&format!("{code} ")) =>
        {
            Ok(())
        }
        Err(e) => Err(format!("{code} is expected, not {e}").into()),
        Ok(_) => Err("it converts".into()),
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

/// An original, and what its conversions make of the same cases.
struct Comparison<'a> {
    model: &'a Fixture,
    original: Session,
    optimization: Optimization,
    limit: f64,
    /// The largest error of any run.
    worst: f64,
    runs: usize,
    /// Runs that agree as well as those of float32.
    close: usize,
    wrong: Vec<String>,
}

/// A converted model with both ways to run it.
struct Converted {
    options: &'static str,
    sessions: [(Engine, Session); 2],
}

impl Comparison<'_> {
    fn convert(&self, options: &'static str) -> Converted {
        let bytes = convert(&self.model.path, options, Form::Functions);
        let open = |engine| {
            (
                engine,
                open_at(&self.model.name, &bytes, engine, self.optimization),
            )
        };
        Converted {
            options,
            sessions: [open(Engine::Library), open(Engine::Bodies)],
        }
    }

    fn compare(
        &mut self,
        converted: &mut Converted,
        engines: &[usize],
        case: &Case,
        expected: &Outputs,
    ) {
        for &i in engines {
            let (engine, session) = &mut converted.sessions[i];
            let (output, error) = worst(expected, &run(session, &case.inputs));
            self.runs += 1;
            self.close += usize::from(error <= 1e-4);
            self.worst = self.worst.max(error);
            if error.is_nan() || error > self.limit {
                self.wrong.push(format!(
                    "{output} is off by {error:.1e} of {:.1e} with {}, {engine:?}, at {}",
                    self.limit, converted.options, case.what
                ));
            }
        }
    }

    /// The largest error, if all is well.
    fn verdict(mut self) -> Result<f64, Failed> {
        if 2 * self.close < self.runs && self.optimization == Optimization::Off {
            self.wrong.push(format!(
                "only {} of {} runs are close",
                self.close, self.runs
            ));
        }
        if self.wrong.is_empty() {
            // Whether a value of a quantised model goes to the other step differs between machines; how much that may do does not.
            let is_quantised = self.optimization == Optimization::Off;
            return Ok(if is_quantised { self.limit } else { self.worst });
        }
        let more = self.wrong.len().saturating_sub(8);
        self.wrong.truncate(8);
        Err(format!("{}\n(and {more} more)", self.wrong.join("\n")).into())
    }
}

/// The output with the largest error.
fn worst(expected: &Outputs, got: &Outputs) -> (String, f64) {
    assert_eq!(expected.len(), got.len());
    let errors = expected
        .iter()
        .map(|(name, a)| (name.to_owned(), difference(a, got.get(name).unwrap())));
    errors.max_by(|a, b| a.1.total_cmp(&b.1)).unwrap()
}

struct Case {
    what: String,
    inputs: Inputs,
    batch: usize,
    n: usize,
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
            let paddings = match (has_mask, model.in_zoo, batch) {
                (false, ..) => &PADDINGS[..1],
                (true, false, _) => &PADDINGS[..],
                (true, true, 1) => &[
                    Padding::None,
                    Padding::Left,
                    Padding::Right,
                    Padding::EmptyRow,
                ],
                (true, true, _) => &[Padding::Left, Padding::Ragged, Padding::EmptyRow],
            };
            for &padding in paddings {
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
                    inputs: model.inputs(ports, options),
                    batch,
                    n: model.tokens(length),
                });
            }
        }
    }
    cases
}

/// The largest error at full budget.
fn at_full_budget(model: &Fixture) -> Result<f64, Failed> {
    let bytes = std::fs::read(&model.path)?;
    let precision = Precision::of(&Model::open(&model.path)?);
    let optimization = precision.optimization();
    let mut original = open_at(&model.name, &bytes, Engine::Bodies, optimization);
    // k and every length around it; 37 leaves segments of empty slots in deep ladders too.
    let lengths: &[usize] = if model.in_zoo {
        &[1, 16, 17, 37]
    } else {
        &[1, 15, 16, 17, 37]
    };
    let all = cases(model, &original, lengths);
    let expected: Vec<Outputs> = all.iter().map(|c| run(&mut original, &c.inputs)).collect();
    let runs: Vec<_> = all.iter().map(|c| &c.inputs).zip(&expected).collect();
    let mut comparison = Comparison {
        model,
        limit: precision.limit(&model.name, &bytes, &runs),
        original,
        optimization,
        worst: 0.0,
        runs: 0,
        close: 0,
        wrong: Vec::new(),
    };
    let every = ALL_VIP_SETS.contains(&model.name.as_str()) || all.len() < 8;

    // VIP sets from outside; as many slots as the fullest row needs, or too few.
    for options in [
        "vip=input:vip ladder=16,1 refine=all",
        "vip=input:vip vip-capacity=4 ladder=8,4,1 refine=all",
    ] {
        let mut converted = comparison.convert(options);
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
                let engines = if every { &[0, 1] } else { &turn[..] };
                comparison.compare(&mut converted, engines, &case, expected);
            }
        }
    }
    if !model.in_zoo {
        for options in [
            // More VIP tokens than slots, every time.
            "vip=first:10 vip-capacity=4 ladder=16,1 refine=all",
            "vip=first:2 vip-capacity=2 ladder=16,1 refine=all device=cuda",
        ] {
            let mut converted = comparison.convert(options);
            for (i, (case, expected)) in all.iter().zip(&expected).enumerate() {
                comparison.compare(&mut converted, &[i % 2], case, expected);
            }
        }
        below_the_budget(&mut comparison);
    }
    comparison.verdict()
}

/// Two refined segments of 16 and one VIP token: exact up to 33 tokens, compressed above.
fn below_the_budget(comparison: &mut Comparison) {
    let model = comparison.model;
    let mut converted = comparison.convert("vip=first:1 ladder=16,1 refine=2");
    if model.length.is_none_or(|n| n <= 33) {
        for case in cases(model, &comparison.original, &[2, 20, 33]) {
            let expected = run(&mut comparison.original, &case.inputs);
            comparison.compare(&mut converted, &[0, 1], &case, &expected);
        }
    }
    // Above it there is a difference: the converted blocks are really in use.
    if model.length.is_none_or(|n| n > 33) {
        let cases = cases(model, &comparison.original, &[80]);
        let case = cases.iter().find(|c| c.what.contains("None")).unwrap();
        let expected = run(&mut comparison.original, &case.inputs);
        let got = run(&mut converted.sessions[0].1, &case.inputs);
        if worst(&expected, &got).1 <= comparison.limit {
            comparison
                .wrong
                .push(format!("{} is not compressed", case.what));
        }
    }
}
