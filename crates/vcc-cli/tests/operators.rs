//! The four ways to run an operator agree on random cases: library kernel, function body, inlined body, and the f64 reference.
//!
//! Each operator is a model of its own, run in ONNX Runtime. Masks are of all kinds, padding holds NaN, ladders have one to three
//! levels of segments, opsets are old and new. The library gives the same bits on one thread and on two.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test"
)]

mod common;

use common::{Engine, Rng, open_with, relative, run, with_outputs};
use half::f16;
use onnx_model::{AttrValue, DataType, Dimension, Model, NewNode};
use vcc_core::reference::{self, Rows, State, Tree};
use vcc_passes::Form;
use vcc_passes::bodies::{self, BodyParams, DOMAIN, DOMAIN_VERSION, Operator};
use vcc_run::{Array, Data, ElementType, Inputs, Outputs, Session};

const LADDERS: [&[i64]; 4] = [&[16, 1], &[4, 1], &[8, 4, 1], &[8, 4, 2, 1]];
const OPSETS: [i64; 5] = [11, 13, 17, 18, 21];
/// Random cases per ladder and opset.
const CASES: usize = 8;

/// What a model of one operator is built for.
struct Setting {
    op: Operator,
    opset: i64,
    ladder: &'static [i64],
    dtype: DataType,
    level: usize,
    capacity: usize,
    count_weight: f32,
}

impl Setting {
    fn random(op: Operator, opset: i64, ladder: &'static [i64], rng: &mut Rng) -> Setting {
        Setting {
            op,
            opset,
            ladder,
            dtype: *rng.pick(&[DataType::Float, DataType::Float, DataType::Float16]),
            level: rng.below(ladder.len() - 1),
            capacity: *rng.pick(&[0, 0, 1, 3, 20, 200]),
            count_weight: *rng.pick(&[1.0, 0.5]),
        }
    }

    fn sizes(&self) -> Vec<usize> {
        self.ladder.iter().map(|&s| s as usize).collect()
    }

    fn levels(&self) -> usize {
        self.ladder.len() - 1
    }

    fn tolerance(&self) -> f64 {
        if self.dtype == DataType::Float16 {
            2e-3
        } else {
            1e-5
        }
    }

    /// Values of the data type, rounded to it.
    fn floats(&self, shape: &[usize], values: Vec<f64>) -> Array {
        let data: Data = match self.dtype {
            DataType::Float16 => Data::F16(values.into_iter().map(f16::from_f64).collect()),
            _ => Data::F32(values.into_iter().map(|x| x as f32).collect()),
        };
        Array::new(shape, data).unwrap()
    }

    /// The model: one node, all of whose inputs and outputs are the graph's.
    fn model(&self, form: Form, case: &Case) -> Vec<u8> {
        let mut model = Model::new(8, &[("", self.opset), (DOMAIN, DOMAIN_VERSION)]);
        let inputs = case.inputs.iter().map(|(name, array)| {
            let dims = vec![Dimension::Unknown; array.shape().len()];
            let dtype = data_type(array.element_type());
            Some(model.graph.add_input(name, dtype, &dims).unwrap())
        });
        let inputs: Vec<_> = inputs.collect();
        let names = self.op.outputs();
        let outputs = names
            .iter()
            .map(|n| Some(model.graph.new_value(n)))
            .collect();
        let attributes = self.op.attributes().iter().map(|&name| {
            let value = match name {
                "ladder" => AttrValue::Ints(self.ladder.to_vec()),
                "capacity" => AttrValue::Int(self.capacity as i64),
                "level" => AttrValue::Int(self.level as i64),
                "count_weight" => AttrValue::Float(self.count_weight),
                "dtype" => AttrValue::Int(self.dtype as i64),
                "dim_prefix" => AttrValue::Str("node".into()),
                other => panic!("{other}: not an attribute this test knows"),
            };
            (name.to_owned(), value)
        });
        let node = model.graph.add_node(NewNode {
            op_type: self.op.name().to_owned(),
            domain: DOMAIN.to_owned(),
            name: "node".to_owned(),
            inputs,
            outputs,
            attributes: attributes.collect(),
            metadata: Vec::new(),
        });
        let function = bodies::function(
            self.op,
            &BodyParams {
                opset: self.opset,
                ladder: self.ladder.to_vec(),
                capacity: (form == Form::Inline).then_some(self.capacity as i64),
            },
        );
        match form {
            Form::OpsOnly => {}
            Form::Functions => model.add_function(function),
            Form::Inline => {
                model.graph.inline_function(node, &function).unwrap();
                model.remove_opset(DOMAIN);
            }
        }
        model
            .verify()
            .unwrap_or_else(|v| panic!("{:?}: {v:?}", self.op));
        let types = names.iter().zip(&case.expected).map(|(name, want)| {
            let dtype = match want {
                Want::Same(array) => data_type(array.element_type()),
                Want::Close(_, _, dtype) => *dtype,
            };
            (*name, dtype as i32)
        });
        with_outputs(&model.to_vec().unwrap(), &types.collect::<Vec<_>>())
    }
}

fn data_type(element: ElementType) -> DataType {
    match element {
        ElementType::F32 => DataType::Float,
        ElementType::F16 => DataType::Float16,
        ElementType::I64 => DataType::Int64,
        ElementType::Bool => DataType::Bool,
        other => panic!("{other} is not a type of these operators"),
    }
}

/// One expected output.
enum Want {
    /// Equal.
    Same(Array),
    /// Equal up to rounding: shape, values, type.
    Close(Vec<usize>, Vec<f64>, DataType),
}

struct Case {
    inputs: Inputs,
    /// By the order of the operator's outputs.
    expected: Vec<Want>,
}

impl Case {
    fn new(op: Operator, inputs: Vec<Array>, expected: Vec<Want>) -> Case {
        let names = op.inputs().iter().map(|n| (*n).to_owned());
        assert_eq!(names.len(), inputs.len());
        assert_eq!(op.outputs().len(), expected.len());
        Case {
            inputs: names.zip(inputs).collect(),
            expected,
        }
    }
}

/// Least size and number of sizes.
struct Size {
    tokens: (usize, usize),
    channels: (usize, usize),
}

const SMALL: Size = Size {
    tokens: (1, 80),
    channels: (1, 9),
};
/// Enough for several tasks in the library's kernels.
const LARGE: Size = Size {
    tokens: (2000, 1000),
    channels: (90, 20),
};

/// Masks, and what the partition makes of them.
struct Masks {
    batch: usize,
    n: usize,
    v: usize,
    vip: Vec<Vec<bool>>,
    valid: Vec<Vec<bool>>,
    parts: Vec<reference::Partition>,
    tree: Tree,
    roots: Vec<i64>,
}

fn mask(rng: &mut Rng, n: usize) -> Vec<bool> {
    let (kind, at) = (rng.below(7), rng.below(n + 1));
    (0..n)
        .map(|t| match kind {
            0 | 1 => true,
            2 => false,
            3 => t < at,
            4 => t >= at,
            5 => rng.chance(2),
            _ => rng.chance(8),
        })
        .collect()
}

impl Masks {
    fn random(s: &Setting, rng: &mut Rng, size: &Size) -> Masks {
        let (batch, n) = (1 + rng.below(3), size.tokens.0 + rng.below(size.tokens.1));
        let mut masks = || (0..batch).map(|_| mask(rng, n)).collect::<Vec<_>>();
        let (vip, valid) = (masks(), masks());
        let sizes = s.sizes();
        let v = reference::vip_slots(&vip, &valid, n, s.capacity);
        let rows = vip.iter().zip(&valid);
        let parts: Vec<_> = rows
            .map(|(vip, valid)| reference::partition(&sizes, v, vip, valid))
            .collect();
        let tree = Tree::new(&sizes, v, (n - v).div_ceil(sizes[0]).max(1));
        assert_eq!(tree.len(), parts[0].item_count.len());
        let roots = tree.level(0);
        Masks {
            batch,
            n,
            v,
            vip,
            valid,
            parts,
            tree,
            roots,
        }
    }

    fn items(&self) -> usize {
        self.tree.len()
    }

    fn segments(&self) -> usize {
        self.tree.len() - self.tree.slots
    }

    fn item_token(&self) -> Array {
        let all = self.parts.iter().flat_map(|p| p.item_token.clone());
        Array::new([self.batch, self.items()], all.collect::<Vec<_>>()).unwrap()
    }

    fn item_count(&self) -> Array {
        let all = self.parts.iter().flat_map(|p| p.item_count.clone());
        Array::new([self.batch, self.items()], all.collect::<Vec<_>>()).unwrap()
    }

    fn token_slot(&self) -> Array {
        let all = self.parts.iter().flat_map(|p| p.token_slot.clone());
        Array::new([self.batch, self.n], all.collect::<Vec<_>>()).unwrap()
    }

    fn vote(&self) -> Array {
        let all = self.parts.iter().flat_map(|p| p.vote.clone());
        Array::new([self.batch, self.v], all.collect::<Vec<_>>()).unwrap()
    }

    /// For each level the candidates, and at the end a list that covers every context slot once; per batch row. A level may have
    /// no candidates.
    fn refine(&self, levels: usize, rng: &mut Rng) -> (Vec<Vec<Vec<i64>>>, Vec<Vec<i64>>) {
        let mut candidates = vec![vec![self.roots.clone(); self.batch]];
        let mut rest = vec![Vec::new(); self.batch];
        for level in 0..levels {
            let now = candidates[level].clone();
            let count = now[0].len();
            let h = match rng.below(3) {
                0 => count,
                _ => rng.below(count + 1),
            };
            let mut next = Vec::new();
            for (row, rest) in now.iter().zip(&mut rest) {
                let mut left = h;
                let mut children = Vec::new();
                for (i, &id) in row.iter().enumerate() {
                    if rng.below(count - i) < left {
                        left -= 1;
                        children.extend(self.tree.children(id));
                    } else {
                        rest.push(id);
                    }
                }
                next.push(children);
            }
            candidates.push(next);
        }
        let slots = candidates.pop().unwrap();
        let all = slots.into_iter().zip(rest).map(|(s, r)| [s, r].concat());
        (candidates, all.collect())
    }

    /// A state as it may be anywhere inside a region: NaN in padding slots and in the means of nothing but padding.
    fn state(&self, s: &Setting, d: usize, rng: &mut Rng) -> [Array; 3] {
        let nan = rng.chance(2);
        let mut value = Vec::new();
        for part in &self.parts {
            for &count in &part.item_count {
                value.extend((0..d).map(|_| {
                    if nan && count == 0 {
                        f64::NAN
                    } else {
                        rng.unit()
                    }
                }));
            }
        }
        let mut map = |middle: f64| {
            let all = (0..self.batch * self.segments() * d).map(|_| middle + 0.5 * rng.unit());
            s.floats(&[self.batch, self.segments(), d], all.collect())
        };
        let (scale, offset) = (map(1.0), map(0.0));
        [
            s.floats(&[self.batch, self.items(), d], value),
            scale,
            offset,
        ]
    }
}

/// `[B, rows, d]` as the reference takes it.
fn rows(array: &Array) -> Vec<Rows> {
    let &[batch, count, d] = array.shape() else {
        panic!("not a batch of rows")
    };
    let all = array.data().to_f64s();
    let row = |b: usize, i: usize| all[(b * count + i) * d..][..d].to_vec();
    (0..batch)
        .map(|b| (0..count).map(|i| row(b, i)).collect())
        .collect()
}

fn states(arrays: &[Array; 3]) -> Vec<State> {
    let [value, scale, offset] = arrays.each_ref().map(rows);
    let all = value.into_iter().zip(scale).zip(offset);
    all.map(|((value, scale), offset)| State {
        value,
        scale,
        offset,
    })
    .collect()
}

fn close(s: &Setting, shape: &[usize], batch: Vec<Rows>) -> Want {
    Want::Close(shape.to_vec(), batch.concat().concat(), s.dtype)
}

fn integers(shape: &[usize], rows: &[Vec<i64>]) -> Array {
    Array::new(shape, rows.concat()).unwrap()
}

/// A random case; `None` where selection is nearly a tie.
fn random_case(s: &Setting, rng: &mut Rng, size: &Size) -> Option<Case> {
    let m = Masks::random(s, rng, size);
    let d = size.channels.0 + rng.below(size.channels.1);
    Some(match s.op {
        Operator::Partition => partition(s, &m),
        Operator::Coarsen => coarsen(s, &m, d, rng),
        Operator::Select => return select(s, &m, rng),
        Operator::Compress => compress(s, &m, d, rng),
        Operator::Decompress => decompress(s, &m, d, rng),
        Operator::Expand => expand(s, &m, d, rng),
    })
}

fn partition(s: &Setting, m: &Masks) -> Case {
    let bools = |rows: &[Vec<bool>]| Array::new([m.batch, m.n], rows.concat()).unwrap();
    let roots = vec![m.roots.clone(); m.batch];
    let expected = [
        m.item_token(),
        m.item_count(),
        m.token_slot(),
        m.vote(),
        integers(&[m.batch, m.roots.len()], &roots),
    ];
    let inputs = vec![bools(&m.vip), bools(&m.valid)];
    Case::new(s.op, inputs, expected.map(Want::Same).into())
}

fn coarsen(s: &Setting, m: &Masks, d: usize, rng: &mut Rng) -> Case {
    let nan = rng.chance(2);
    let mut x = Vec::new();
    for valid in m.valid.iter().flatten() {
        x.extend((0..d).map(|_| if nan && !valid { f64::NAN } else { rng.unit() }));
    }
    let x = s.floats(&[m.batch, m.n, d], x);
    let each = rows(&x).into_iter().zip(&m.parts);
    let states: Vec<State> = each
        .map(|(x, p)| reference::coarsen(&m.tree, &x, &p.item_token, &p.item_count))
        .collect();
    let expected = state_of(s, m, d, states);
    let inputs = vec![x, m.item_token(), m.item_count(), m.token_slot(), m.vote()];
    Case::new(s.op, inputs, expected)
}

fn state_of(s: &Setting, m: &Masks, d: usize, states: Vec<State>) -> Vec<Want> {
    let (mut value, mut scale, mut offset) = (Vec::new(), Vec::new(), Vec::new());
    for state in states {
        value.push(state.value);
        scale.push(state.scale);
        offset.push(state.offset);
    }
    let segments = [m.batch, m.segments(), d];
    vec![
        close(s, &[m.batch, m.items(), d], value),
        close(s, &segments, scale),
        close(s, &segments, offset),
    ]
}

fn select(s: &Setting, m: &Masks, rng: &mut Rng) -> Option<Case> {
    let (candidates, _) = m.refine(s.levels(), rng);
    let candidates = &candidates[s.level];
    let (count, heads) = (candidates[0].len(), 1 + rng.below(4));
    let special = rng.below(4);
    let mut scores = vec![0.0; m.batch * heads * m.v * count];
    scores.iter_mut().for_each(|x| *x = 3.0 * rng.unit());
    for (row, score) in scores.chunks_mut(count.max(1)).enumerate() {
        let b = row / (heads * m.v);
        for at in 0..count {
            let part = &m.parts[b];
            let empty = part.item_count[candidates[b][at] as usize] <= 0;
            match special {
                // Ties: every other candidate is like the one before.
                1 if at % 2 == 1 => score[at] = score[at - 1],
                // What is computed from padding.
                2 if empty => score[at] = *[f64::NAN, f64::NEG_INFINITY, 1e4].get(row % 3).unwrap(),
                _ => {}
            }
        }
        // A VIP slot whose scores are no numbers votes NaN for all.
        if special == 3 && row % 5 == 0 && count > 0 {
            score[rng.below(count)] = f64::NAN;
        }
    }
    let scores = s.floats(&[m.batch, heads, m.v, count], scores);
    let budget = match rng.below(5) {
        0 => -(1 + rng.below(100) as i64),
        1 => -100,
        2 => [i64::MIN, i64::MIN + 1, -101][rng.below(3)],
        _ => rng.below(count + 2) as i64,
    };
    let h = if budget < 0 {
        (count * budget.unsigned_abs().min(100) as usize).div_ceil(100)
    } else {
        count.min(budget as usize)
    };
    let all = scores.data().to_f64s();
    let (mut children, mut rest) = (Vec::new(), Vec::new());
    for (b, row) in candidates.iter().enumerate() {
        let at = |head: usize, slot: usize| {
            let start = ((b * heads + head) * m.v + slot) * count;
            all[start..start + count].to_vec()
        };
        let scores: Vec<Rows> = (0..heads)
            .map(|i| (0..m.v).map(|j| at(i, j)).collect())
            .collect();
        let part = &m.parts[b];
        let chosen = reference::select(&m.tree, &scores, row, &part.item_count, &part.vote, h);
        if chosen.gap < 1e-5 {
            return None;
        }
        children.push(chosen.children);
        rest.push(chosen.rest);
    }
    let per_segment = s.sizes()[s.level] / s.sizes()[s.level + 1];
    let inputs = vec![
        scores,
        integers(&[m.batch, count], candidates),
        m.item_count(),
        m.vote(),
        Array::new([1], vec![budget]).unwrap(),
    ];
    let expected = vec![
        Want::Same(integers(&[m.batch, h * per_segment], &children)),
        Want::Same(integers(&[m.batch, count - h], &rest)),
        // Only on CUDA it has elements.
        Want::Same(Array::new([m.batch, 0, count], Vec::<f32>::new()).unwrap()),
    ];
    Some(Case::new(s.op, inputs, expected))
}

fn compress(s: &Setting, m: &Masks, d: usize, rng: &mut Rng) -> Case {
    let (candidates, partition) = m.refine(s.levels(), rng);
    // Either a whole sequence or the keys of a selection.
    let keys = candidates.into_iter().nth(rng.below(s.levels())).unwrap();
    let items = if rng.chance(3) { keys } else { partition };
    let q = items[0].len();
    let state = m.state(s, d, rng);
    let (mut rows, mut token, mut bias) = (Vec::new(), Vec::new(), Vec::new());
    for (b, state) in states(&state).iter().enumerate() {
        let p = &m.parts[b];
        let out = reference::compress(
            &m.tree,
            state,
            &items[b],
            &p.item_token,
            &p.item_count,
            f64::from(s.count_weight),
        );
        rows.push(out.rows);
        token.push(out.token);
        bias.push(out.bias);
    }
    let r = m.v + q;
    let expected = vec![
        close(s, &[m.batch, r, d], rows),
        Want::Same(integers(&[m.batch, r], &token)),
        Want::Close(vec![m.batch, r], bias.concat(), DataType::Float),
    ];
    let mut inputs: Vec<Array> = state.into();
    inputs.push(integers(&[m.batch, q], &items));
    inputs.extend([m.item_token(), m.item_count(), m.vote()]);
    Case::new(s.op, inputs, expected)
}

fn decompress(s: &Setting, m: &Masks, d: usize, rng: &mut Rng) -> Case {
    let (_, items) = m.refine(s.levels(), rng);
    let q = items[0].len();
    let state = m.state(s, d, rng);
    let r = m.v + q;
    let mut random = |shape: &[usize], middle: f64| {
        let all = (0..shape.iter().product()).map(|_| middle + rng.unit());
        s.floats(shape, all.collect())
    };
    let (y, update) = (random(&[m.batch, r, d], 0.0), random(&[m.batch, r, d], 0.0));
    let gain = random(&[d], 1.0);
    let gains = gain.data().to_f64s();
    let (ys, updates) = (rows(&y), rows(&update));
    let new = states(&state).into_iter().enumerate().map(|(b, state)| {
        let count = &m.parts[b].item_count;
        reference::decompress(
            &m.tree,
            &state,
            &items[b],
            count,
            &ys[b],
            &updates[b],
            &gains,
        )
    });
    let expected = state_of(s, m, d, new.collect());
    let mut inputs: Vec<Array> = state.into();
    inputs.push(integers(&[m.batch, q], &items));
    inputs.extend([m.item_count(), m.vote(), y, update, gain]);
    Case::new(s.op, inputs, expected)
}

fn expand(s: &Setting, m: &Masks, d: usize, rng: &mut Rng) -> Case {
    let state = m.state(s, d, rng);
    let x = states(&state).into_iter().zip(&m.parts);
    let x = x.map(|(state, p)| reference::expand(&m.tree, &state, &p.token_slot));
    let expected = vec![close(s, &[m.batch, m.n, d], x.collect())];
    let mut inputs: Vec<Array> = state.into();
    inputs.extend([m.token_slot(), m.vote()]);
    Case::new(s.op, inputs, expected)
}

fn assert_expected(s: &Setting, form: &str, case: &Case, got: &Outputs) {
    let at = || {
        let shapes: Vec<_> = case.inputs.iter().map(|(n, a)| (n, a.shape())).collect();
        format!(
            "{}, {form}, opset {}, ladder {:?}, {:?}, level {}, capacity {}, {shapes:?}",
            s.op.name(),
            s.opset,
            s.ladder,
            s.dtype,
            s.level,
            s.capacity
        )
    };
    for (want, (name, array)) in case.expected.iter().zip(got.iter()) {
        match want {
            Want::Same(want) => assert_eq!(want, array, "{}: {name}", at()),
            Want::Close(shape, values, _) => {
                assert_eq!(shape, array.shape(), "{}: {name}", at());
                let error = relative(values, &array.data().to_f64s());
                let tolerance = if array.element_type() == ElementType::F32 {
                    1e-5
                } else {
                    s.tolerance()
                };
                assert!(error <= tolerance, "{}: {name} is off by {error:e}", at());
            }
        }
    }
}

/// The bits, NaN included.
fn bits(outputs: &Outputs) -> Vec<Vec<u64>> {
    let of = |a: &Array| match a.data() {
        Data::F32(v) => v.iter().map(|x| u64::from(x.to_bits())).collect(),
        Data::F16(v) => v.iter().map(|x| u64::from(x.to_bits())).collect(),
        other => other.to_f64s().iter().map(|x| x.to_bits()).collect(),
    };
    outputs.iter().map(|(_, a)| of(a)).collect()
}

fn agree(op: Operator) {
    let mut rng = Rng(op as u64 + 1);
    let (mut drawn, mut near_ties) = (0, 0);
    for opset in OPSETS {
        for ladder in LADDERS {
            let s = Setting::random(op, opset, ladder, &mut rng);
            let mut draw = || loop {
                drawn += 1;
                match random_case(&s, &mut rng, &SMALL) {
                    Some(case) => return case,
                    None => near_ties += 1,
                }
            };
            let first = draw();
            let session = |form, engine, threads| {
                open_with(op.name(), &s.model(form, &first), engine, threads)
            };
            let mut library = session(Form::OpsOnly, Engine::Library, 1);
            let mut library_2 = session(Form::OpsOnly, Engine::Library, 2);
            let mut others: Vec<(&str, Session)> = vec![
                (
                    "library instead of body",
                    session(Form::Functions, Engine::Library, 1),
                ),
                ("function body", session(Form::Functions, Engine::Bodies, 1)),
                ("inlined body", session(Form::Inline, Engine::Bodies, 1)),
            ];
            let mut next = Some(first);
            for _ in 0..CASES {
                let case = next.take().unwrap_or_else(&mut draw);
                let got = run(&mut library, &case.inputs);
                assert_expected(&s, "library", &case, &got);
                let again = run(&mut library_2, &case.inputs);
                assert_eq!(bits(&got), bits(&again), "{op:?} on two threads");
                for (form, session) in &mut others {
                    assert_expected(&s, form, &case, &run(session, &case.inputs));
                }
            }
        }
    }
    println!("{}: {drawn} cases, {near_ties} near-ties", op.name());
    assert!(
        20 * near_ties <= drawn,
        "{near_ties} near-ties in {drawn} cases"
    );
}

/// The library alone, on tensors that are worth two threads.
fn large(op: Operator) {
    let mut rng = Rng(100 + op as u64);
    for ladder in LADDERS {
        let s = Setting::random(op, 17, ladder, &mut rng);
        let case = loop {
            if let Some(case) = random_case(&s, &mut rng, &LARGE) {
                break case;
            }
        };
        let model = s.model(Form::OpsOnly, &case);
        let runs = [1, 2].map(|threads| {
            let mut session = open_with(op.name(), &model, Engine::Library, threads);
            run(&mut session, &case.inputs)
        });
        assert_expected(&s, "library", &case, &runs[0]);
        assert_eq!(bits(&runs[0]), bits(&runs[1]), "{op:?} on two threads");
    }
}

#[test]
fn large_tensors_agree() {
    for op in Operator::ALL {
        large(op);
    }
}

#[test]
fn partition_agrees() {
    agree(Operator::Partition);
}

#[test]
fn coarsen_agrees() {
    agree(Operator::Coarsen);
}

#[test]
fn select_agrees() {
    agree(Operator::Select);
}

#[test]
fn compress_agrees() {
    agree(Operator::Compress);
}

#[test]
fn decompress_agrees() {
    agree(Operator::Decompress);
}

#[test]
fn expand_agrees() {
    agree(Operator::Expand);
}
