//! Compressed results: whoever runs the operators they are the same, and they depend on nothing that they should not depend on.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test"
)]

mod common;

use std::sync::atomic::{AtomicUsize, Ordering};

use common::gap::smallest_gap;
use common::record::record_small_budget;
use common::tolerance::{Precision, sensitivity};
use common::{
    Engine, Fixture, Rng, complaints, convert, difference, everything, fixture, i64s, open,
    open_at, relative, run, with_outputs,
};
use onnx_model::{DataType, Model, Node};
use vcc_passes::Form;
use vcc_run::{Array, Inputs, Outputs, Padding, RandomOptions, Session, random_inputs};

const N: usize = 90;

fn inputs(session: &Session, model: &Fixture, seed: u64, padding: Padding) -> Inputs {
    let options = RandomOptions {
        seed,
        batch: 3,
        length: N,
        ids: (2, model.vocab),
        padding,
        ..Default::default()
    };
    random_inputs(session.inputs(), &options).unwrap()
}

/// The largest relative error of all outputs; `keep` tells which tokens `[B, n]` count in outputs that have a row per token.
fn error(a: &Outputs, b: &Outputs, keep: &[bool]) -> f64 {
    let kept = |array: &Array| -> Vec<f64> {
        let all = array.data().to_f64s();
        let width = all.len() / keep.len();
        let rows = all.chunks(width).zip(keep).filter(|(_, keep)| **keep);
        rows.flat_map(|(row, _)| row.to_vec()).collect()
    };
    let errors = a.iter().map(|(name, x)| {
        let y = b.get(name).unwrap();
        assert_eq!(x.shape(), y.shape());
        if x.shape().len() == 3 {
            relative(&kept(x), &kept(y))
        } else {
            relative(&x.data().to_f64s(), &y.data().to_f64s())
        }
    });
    errors.fold(0.0, f64::max)
}

fn all(outputs: &Outputs) -> Vec<bool> {
    let shape = outputs.iter().next().unwrap().1.shape();
    vec![true; shape[0] * shape[1]]
}

/// A level that refines nothing leaves none to the level below.
#[test]
fn a_level_may_refine_nothing() {
    let model = fixture("bert__ts17_sdpa");
    let results = ["ladder=8,4,1 refine=0,2", "ladder=8,1 refine=0"].map(|options| {
        let bytes = convert(&model.path, options, Form::Functions);
        let mut session = open(&model.name, &bytes, Engine::Library);
        let inputs = inputs(&session, &model, 0, Padding::Right);
        run(&mut session, &inputs)
    });
    assert!(error(&results[0], &results[1], &all(&results[0])) < 1e-5);
}

/// Library, bodies and inlined bodies, over ladders, budgets (nothing refined, too) and paddings. A result that differs by more than
/// rounding is a near-tie of two segments; there may be few of them.
#[test]
fn engines_agree() {
    let (mut runs, mut ties) = (0, 0);
    for name in [
        "bert__ts17_sdpa",
        "t5_encoder__ts17_eager",
        "modernbert__dyn18_sdpa",
        "deberta_v3__ts17_eager",
        "bart_encoder__ts17_sdpa",
    ] {
        let model = fixture(name);
        for options in [
            "vip=first:3 refine=2",
            "vip=first:1 ladder=8,4,1 refine=3,2",
            "vip=input:vip ladder=16,4,2,1 refine=40%,1,50%",
            "vip=last:2 ladder=8,4,1 refine=1,0",
            "vip=first:1 ladder=16,1 refine=1 reselect-every=2",
        ] {
            let functions = convert(&model.path, options, Form::Functions);
            let inline = convert(&model.path, options, Form::Inline);
            let mut library = open(name, &functions, Engine::Library);
            let mut others = [
                open(name, &functions, Engine::Bodies),
                open(name, &inline, Engine::Bodies),
            ];
            for (seed, padding) in [
                Padding::None,
                Padding::Left,
                Padding::Right,
                Padding::EmptyRow,
            ]
            .into_iter()
            .enumerate()
            {
                let inputs = inputs(&library, &model, seed as u64, padding);
                let a = run(&mut library, &inputs);
                for other in &mut others {
                    runs += 1;
                    let error = error(&a, &run(other, &inputs), &all(&a));
                    assert!(error < 1.0, "{name}, {options}, {padding:?}: {error}");
                    if error > 1e-5 {
                        let gap = smallest_gap(name, &functions, &inputs);
                        println!("{name}, {options}, {padding:?}: error {error:e}, gap {gap:e}");
                        assert!(
                            gap < 1e-5,
                            "{name}, {options}, {padding:?}: off by {error:e}, but the gap is {gap:e}"
                        );
                        ties += 1;
                    }
                }
            }
        }
    }
    assert!(20 * ties <= runs, "{ties} of {runs} runs differ");
}

/// A model that is converted for a GPU has numbers made in another way, and gives the same on a CPU.
#[test]
fn devices_agree() {
    for name in [
        "albert__ts17_sdpa",
        "bart_encoder__ts17_sdpa",
        "bert__ts17_sdpa",
        "bert_crossenc__ts17_sdpa",
        "deberta_v3__ts17_eager",
        "marian_encoder__ts17_eager",
        "modernbert__ts17_sdpa",
        "mpnet__ts17_eager",
        "roberta__dyn18_sdpa",
        "t5_encoder__ts17_eager",
    ] {
        let model = fixture(name);
        for (form, engine) in [
            (Form::Functions, Engine::Library),
            (Form::Inline, Engine::Bodies),
        ] {
            let [cpu, cuda] = ["cpu", "cuda"].map(|device| {
                let options = format!("vip=first:2 ladder=8,2,1 refine=3,4 device={device}");
                convert(&model.path, &options, form)
            });
            let made = |node: &Node| node.op_type == "Range" && node.name.starts_with("vcc/device");
            let parsed = Model::from_bytes(cuda.clone().into(), None).unwrap();
            let mut nodes = parsed.graph.node_ids();
            assert!(nodes.any(|id| made(parsed.graph.node(id))), "{name}");
            let [mut cpu, mut cuda] = [cpu, cuda].map(|bytes| open(name, &bytes, engine));
            for padding in [Padding::None, Padding::Left, Padding::EmptyRow] {
                let inputs = inputs(&cpu, &model, 7, padding);
                let (a, b) = (run(&mut cpu, &inputs), run(&mut cuda, &inputs));
                let error = error(&a, &b, &all(&a));
                assert!(error < 1e-6, "{name}, {padding:?}: {error:e}");
            }
        }
    }
}

/// A ladder, the number of VIP slots, and what is refined at each level: so many segments, or that part of them in percent.
struct Budget {
    options: &'static str,
    vips: usize,
    ladder: &'static [usize],
    refine: &'static [i64],
}

const BUDGETS: [Budget; 2] = [
    Budget {
        options: "vip=first:2 ladder=8,1 refine=1",
        vips: 2,
        ladder: &[8, 1],
        refine: &[1],
    },
    Budget {
        options: "vip=first:1 ladder=8,4,1 refine=50%,1",
        vips: 1,
        ladder: &[8, 4, 1],
        refine: &[-50, 1],
    },
];

impl Budget {
    /// The rows that blocks work on, by its definition.
    fn rows(&self, n: usize) -> usize {
        let vips = self.vips.clamp(1, n);
        let mut segments = (n - vips).div_ceil(self.ladder[0]).max(1);
        let mut rows = vips;
        for (sizes, &refine) in self.ladder.windows(2).zip(self.refine) {
            let refined = match usize::try_from(refine) {
                Ok(number) => number.min(segments),
                Err(_) => (segments * refine.unsigned_abs() as usize).div_ceil(100),
            };
            rows += segments - refined;
            segments = refined * (sizes[0] / sizes[1]);
        }
        rows + segments
    }
}

/// The names of the lists of rows that blocks end with, and of the VIP slots.
fn row_lists(model: &[u8]) -> (Vec<String>, String) {
    let parsed = Model::from_bytes(model.to_vec().into(), None).unwrap();
    let graph = &parsed.graph;
    let nodes = graph.node_ids().map(|id| graph.node(id));
    let ends: Vec<&Node> = nodes.filter(|n| n.op_type == "VccDecompress").collect();
    let name = |n: &Node, i: usize| graph.value(n.inputs[i].unwrap()).name.clone();
    let mut items: Vec<String> = ends.iter().map(|n| name(n, 3)).collect();
    items.sort();
    items.dedup();
    (items, name(ends[0], 5))
}

/// Every fixture that converts, with few rows: as many as were asked for, finite outputs, the same from library, bodies and inlined bodies.
#[test]
fn every_fixture() {
    let mut models = everything();
    models.retain(|m| !m.is_refused());
    let (runs, ties) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let wrong = complaints(&models, |model| {
        let mut compared = Compared::default();
        for budget in &BUDGETS {
            compared.at(model, budget);
        }
        record_small_budget(&model.name, compared.worst);
        runs.fetch_add(compared.runs, Ordering::Relaxed);
        ties.fetch_add(compared.ties, Ordering::Relaxed);
        compared.wrong
    });
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let (runs, ties) = (runs.into_inner(), ties.into_inner());
    println!("{ties} near-ties in {runs} runs");
    assert!(20 * ties <= runs, "{ties} of {runs} runs differ");
}

#[derive(Default)]
struct Compared {
    /// The largest difference of two forms, near-ties apart.
    worst: f64,
    runs: usize,
    ties: usize,
    wrong: Vec<String>,
}

impl Compared {
    fn at(&mut self, model: &Fixture, budget: &Budget) {
        let name = &model.name;
        let original = std::fs::read(&model.path).unwrap();
        let precision = Precision::of(&Model::open(&model.path).unwrap());
        let open = |bytes: &[u8], engine| open_at(name, bytes, engine, precision.optimization());
        let functions = convert(&model.path, budget.options, Form::Functions);
        let inline = convert(&model.path, budget.options, Form::Inline);
        let (items, vote) = row_lists(&functions);
        let mut shown: Vec<(&str, i32)> = items
            .iter()
            .map(|n| (n.as_str(), DataType::Int64 as i32))
            .collect();
        shown.push((&vote, DataType::Bool as i32));
        let mut library = open(&with_outputs(&functions, &shown), Engine::Library);
        let mut others = [
            ("bodies", open(&functions, Engine::Bodies)),
            ("inlined", open(&inline, Engine::Bodies)),
        ];
        let mut original_session = open(&original, Engine::Bodies);
        let has_mask = library.inputs().iter().any(|p| p.name.contains("mask"));
        let paddings = [Padding::None, Padding::Left, Padding::EmptyRow];
        for padding in &paddings[..if has_mask { 3 } else { 1 }] {
            let options = RandomOptions {
                batch: 3,
                length: 60,
                ids: (2, model.vocab),
                padding: *padding,
                ..Default::default()
            };
            let inputs = model.inputs(library.inputs(), options);
            let what = format!("{name}, {}, {padding:?}", budget.options);
            let expected = run(&mut original_session, &inputs);
            let a = run(&mut library, &inputs);
            for items in &items {
                let rows = a.get(&vote).unwrap().shape()[1] + a.get(items).unwrap().shape()[1];
                let asked = budget.rows(model.tokens(60));
                if rows != asked {
                    self.wrong
                        .push(format!("{what}: {rows} rows instead of {asked}"));
                }
            }
            for (form, other) in &mut others {
                self.runs += 1;
                let b = run(other, &inputs);
                let mut error = 0.0f64;
                for (output, y) in b.iter() {
                    let is_finite = |x: &Array| x.data().to_f64s().iter().all(|x| x.is_finite());
                    if is_finite(expected.get(output).unwrap()) && !is_finite(y) {
                        self.wrong
                            .push(format!("{what}, {form}: {output} is not finite"));
                    }
                    error = error.max(difference(a.get(output).unwrap(), y));
                }
                let runs = [(&inputs, &expected)];
                let tolerance = match precision {
                    // All scores of a row of padding stand behind the mask's number and are rounded like it.
                    Precision::Single if error > 1e-5 && *padding == Padding::EmptyRow => {
                        let runs = [(&inputs, &b)];
                        sensitivity(name, &inline, &runs, -23, precision.optimization()).max(1e-5)
                    }
                    Precision::Single => 1e-5,
                    Precision::Half => precision.limit(name, &original, &runs).max(2e-3),
                    Precision::Quantised => precision.limit(name, &original, &runs),
                };
                if error <= tolerance {
                    self.worst = self.worst.max(error);
                } else if precision == Precision::Single
                    && smallest_gap(name, &functions, &inputs) < 1e-5
                {
                    self.ties += 1;
                } else {
                    self.wrong.push(format!(
                        "{what}: the library and {form} differ by {error:.1e}"
                    ));
                }
            }
        }
    }
}

fn vip_mask(
    ids: &[i64],
    types: &[i64],
    valid: &[i64],
    is_vip: impl Fn(usize, &[i64], &[i64], &[i64]) -> bool,
) -> Array {
    let rows = ids.chunks(N).zip(types.chunks(N)).zip(valid.chunks(N));
    let mask = rows.flat_map(|((ids, types), valid)| {
        (0..N)
            .map(|t| is_vip(t, ids, types, valid))
            .collect::<Vec<_>>()
    });
    Array::new([3, N], mask.collect::<Vec<_>>()).unwrap()
}

/// Every way to name VIP tokens gives what the same tokens give as an input.
#[test]
fn vip_specifications_are_their_masks() {
    type Rule = fn(usize, &[i64], &[i64], &[i64]) -> bool;
    let specifications: [(&str, Rule); 7] = [
        ("first:5", |t, _, _, valid| {
            valid[..=t].iter().sum::<i64>() <= 5
        }),
        ("last:5", |t, _, _, valid| {
            valid[t..].iter().sum::<i64>() <= 5
        }),
        ("token-type:1", |t, _, types, _| types[t] == 1),
        ("tokens:7,50,99", |t, ids, _, _| {
            [7, 50, 99].contains(&ids[t])
        }),
        ("through-token:7", |t, ids, _, valid| {
            (0..N)
                .find(|&i| ids[i] == 7 && valid[i] == 1)
                .is_some_and(|first| t <= first)
        }),
        ("through-token:1", |_, _, _, _| false),
        ("first:2+tokens:9", |t, ids, _, valid| {
            ids[t] == 9 || valid[..=t].iter().sum::<i64>() <= 2
        }),
    ];
    let model = fixture("bert__ts17_sdpa");
    let common = "vip-capacity=12 refine=1";
    let as_input = convert(
        &model.path,
        &format!("vip=input:vip {common}"),
        Form::Functions,
    );
    let mut as_input = open(&model.name, &as_input, Engine::Library);
    let none = Array::new([3, N], vec![false; 3 * N]).unwrap();
    for (specification, rule) in specifications {
        let bytes = convert(
            &model.path,
            &format!("vip={specification} {common}"),
            Form::Functions,
        );
        let mut session = open(&model.name, &bytes, Engine::Library);
        for (seed, padding) in [
            Padding::None,
            Padding::Left,
            Padding::Right,
            Padding::EmptyRow,
        ]
        .into_iter()
        .enumerate()
        {
            let mut inputs = inputs(&session, &model, seed as u64, padding);
            let got = run(&mut session, &inputs);
            let [ids, types, valid] = ["input_ids", "token_type_ids", "attention_mask"]
                .map(|n| i64s(inputs.get(n).unwrap()));
            let mask = vip_mask(ids, types, valid, rule);
            inputs.insert("vip", mask);
            let expected = run(&mut as_input, &inputs);
            assert!(
                expected == got,
                "{specification}, {padding:?}: {:e}",
                error(&expected, &got, &all(&got))
            );
            // The tokens matter.
            if !specification.ends_with(":1") || specification == "token-type:1" {
                inputs.insert("vip", none.clone());
                assert!(
                    run(&mut as_input, &inputs) != got,
                    "{specification}, {padding:?}"
                );
            }
        }
    }
}

/// What stands in padding shows in no row of a valid token; neither do the other rows of the batch, given a fixed capacity.
#[test]
fn padding_and_neighbours_do_not_show() {
    for (name, options) in [
        ("bert__ts17_sdpa", "vip=first:2 refine=2"),
        ("roberta_vcc", "vip=first:3 ladder=8,4,1 refine=4,3"),
        ("t5_encoder__ts17_eager", "vip=last:2 refine=2"),
        ("modernbert__ts17_sdpa", "vip=first:1 refine=1"),
        ("bart_encoder__ts17_sdpa", "vip=first:1 refine=1"),
    ] {
        let model = fixture(name);
        let bytes = convert(&model.path, options, Form::Functions);
        for engine in [Engine::Library, Engine::Bodies] {
            let mut session = open(name, &bytes, engine);
            for padding in [Padding::Left, Padding::Right, Padding::Ragged] {
                let mut before = inputs(&session, &model, 1, padding);
                if padding == Padding::Ragged {
                    // The second row is longer than the first: it must not have that row's mask.
                    let mask = i64s(before.get("attention_mask").unwrap());
                    let (full, shorter) = mask.split_at(N);
                    let mask = [&shorter[..N], full, &shorter[N..]].concat();
                    before.insert("attention_mask", Array::new([3, N], mask).unwrap());
                }
                let valid: Vec<bool> = i64s(before.get("attention_mask").unwrap())
                    .iter()
                    .map(|m| *m == 1)
                    .collect();
                let expected = run(&mut session, &before);

                let mut rng = Rng(5);
                let mut changed = before.clone();
                for name in ["input_ids", "token_type_ids"] {
                    if let Some(array) = before.get(name) {
                        let most = if name == "input_ids" {
                            model.vocab as usize
                        } else {
                            2
                        };
                        let other = i64s(array)
                            .iter()
                            .zip(&valid)
                            .map(|(&id, valid)| if *valid { id } else { rng.below(most) as i64 });
                        changed
                            .insert(name, Array::new([3, N], other.collect::<Vec<_>>()).unwrap());
                    }
                }
                assert!(changed != before);
                // Pooled outputs read a token that may be padding.
                let rows = |o: Outputs| -> Outputs {
                    o.iter()
                        .filter(|(_, a)| a.shape().len() == 3)
                        .map(|(n, a)| (n.to_owned(), a.clone()))
                        .collect()
                };
                let expected = rows(expected);
                let got = rows(run(&mut session, &changed));
                let e = error(&expected, &got, &valid);
                assert!(
                    e <= 1e-5,
                    "{name}, {engine:?}, {padding:?}: padding shows, {e:e}"
                );

                // The second row alone.
                let alone: Inputs = before
                    .iter()
                    .map(|(n, a)| {
                        (
                            n.to_owned(),
                            Array::new([1, N], i64s(a)[N..2 * N].to_vec()).unwrap(),
                        )
                    })
                    .collect();
                let got = rows(run(&mut session, &alone));
                let second: Outputs = expected
                    .iter()
                    .map(|(n, a)| {
                        let all = common::f32s(a);
                        let size = all.len() / 3;
                        let shape = [1, N, a.shape()[2]];
                        (
                            n.to_owned(),
                            Array::new(shape, all[size..2 * size].to_vec()).unwrap(),
                        )
                    })
                    .collect();
                let e = error(&second, &got, &valid[N..2 * N]);
                assert!(
                    e <= 1e-5,
                    "{name}, {engine:?}, {padding:?}: neighbours show, {e:e}"
                );
            }
        }
    }
}
