//! Random cases, and the kernels run on them.

use proptest::prelude::*;
use vcc_core::reference::{self, Rows, Tree};
use vcc_core::{
    Compressed, Dims, Element, Ladder, Layout, Parallel, Partition, Selection, State, StateMut,
    Update,
};

/// Everything that a sequence of blocks depends on.
#[derive(Debug, Clone)]
pub(crate) struct Case {
    pub(crate) batch: usize,
    pub(crate) n: usize,
    pub(crate) channels: usize,
    pub(crate) ladder: Vec<i64>,
    pub(crate) capacity: usize,
    pub(crate) vip: Vec<Vec<bool>>,
    pub(crate) valid: Vec<Vec<bool>>,
    /// `x[batch][token][channel]`
    pub(crate) x: Vec<Rows>,
    pub(crate) budgets: Vec<i64>,
    pub(crate) heads: usize,
    pub(crate) rounds: usize,
    /// Gain 1 and update y - rows.
    pub(crate) plain: bool,
    pub(crate) count_weight: f64,
    pub(crate) seed: u64,
}

impl Case {
    pub(crate) fn sizes(&self) -> Vec<usize> {
        self.ladder.iter().map(|&size| size as usize).collect()
    }
}

/// Reproducible numbers in -limit..limit.
pub(crate) fn random(seed: u64, len: usize, limit: f64) -> Vec<f64> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0xD1B5_4A32_D192_ED03;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    };
    (0..16).for_each(|_| _ = next());
    (0..len).map(|_| next() * limit).collect()
}

/// `B * rows` random rows.
pub(crate) fn random_rows(case: &Case, seed: u64, rows: usize) -> Rows {
    rows_of(
        &random(
            case.seed.wrapping_add(seed),
            case.batch * rows * case.channels,
            2.0,
        ),
        case.channels,
    )
}

pub(crate) fn rows_of(flat: &[f64], channels: usize) -> Rows {
    flat.chunks(channels).map(<[f64]>::to_vec).collect()
}

pub(crate) fn narrow<T: Element>(values: &[f64]) -> Vec<T> {
    values.iter().map(|&x| T::narrow(x as f32)).collect()
}

pub(crate) fn f64s<T: Element>(values: &[T]) -> Vec<f64> {
    values.iter().map(|x| f64::from(x.widen())).collect()
}

/// Equal within `tolerance` of the largest magnitude (at least 1), infinities and NaN where the other has them.
pub(crate) fn assert_close(what: &str, got: &[f64], want: &[f64], tolerance: f64) {
    assert_eq!(got.len(), want.len(), "{what}: length");
    let size = want
        .iter()
        .filter(|x| x.is_finite())
        .fold(1f64, |max, x| max.max(x.abs()));
    for (at, (got, want)) in got.iter().zip(want).enumerate() {
        let same = got == want
            || (got.is_nan() && want.is_nan())
            || (got - want).abs() <= tolerance * size;
        assert!(same, "{what}[{at}]: {got} instead of {want}");
    }
}

#[derive(Debug, Clone, Copy)]
enum Mask {
    None,
    All,
    One,
    Random,
    Left,
    Right,
}

fn mask(kind: Mask, n: usize, seed: u64) -> Vec<bool> {
    let numbers = random(seed, n + 1, 1.0);
    let cut = ((numbers[n] + 1.0) / 2.0 * n as f64) as usize;
    (0..n)
        .map(|t| match kind {
            Mask::None => false,
            Mask::All => true,
            Mask::One => t == cut,
            Mask::Random => numbers[t] > 0.3,
            Mask::Left => t >= cut,
            Mask::Right => t <= cut,
        })
        .collect()
}

fn masks() -> impl Strategy<Value = Mask> {
    prop_oneof![
        Just(Mask::None),
        Just(Mask::All),
        Just(Mask::One),
        Just(Mask::Random),
        Just(Mask::Left),
        Just(Mask::Right)
    ]
}

pub(crate) fn case() -> impl Strategy<Value = Case> {
    case_of(prop_oneof![1..10usize, 60..70usize], 60)
}

pub(crate) fn case_of(
    channels: impl Strategy<Value = usize>,
    longest: usize,
) -> impl Strategy<Value = Case> {
    let ladders: &[&[i64]] = &[
        &[2, 1],
        &[3, 1],
        &[5, 1],
        &[16, 1],
        &[4, 2, 1],
        &[8, 4, 1],
        &[16, 4, 1],
        &[12, 6, 2, 1],
        &[32, 16, 8, 4, 1],
    ];
    let ladder = prop::sample::select(ladders.to_vec());
    let budget = prop_oneof![
        Just(0i64),
        Just(1),
        0..5i64,
        -100..0i64,
        Just(-100),
        Just(1000)
    ];
    let n = prop_oneof![1..5usize, 1..=longest, 14..19usize];
    let shape = (
        1..4usize,
        n,
        channels,
        ladder,
        prop_oneof![Just(0usize), 1..5usize, 0..70usize],
    );
    let kinds = prop::collection::vec(
        (masks(), prop_oneof![3 => Just(Mask::All), 4 => masks()]),
        3,
    );
    let rest = (
        prop::collection::vec(budget, 4),
        1..3usize,
        1..4usize,
        any::<bool>(),
        prop_oneof![Just(1.0), Just(0.5)],
        any::<u64>(),
    );
    (shape, kinds, rest).prop_map(
        |(
            (batch, n, channels, ladder, capacity),
            kinds,
            (budgets, heads, rounds, plain, count_weight, seed),
        )| {
            let seed = seed >> 1;
            let row = |b: usize, of: u64| seed.wrapping_add(of * 10 + b as u64);
            Case {
                batch,
                n,
                channels,
                ladder: ladder.to_vec(),
                capacity,
                vip: (0..batch).map(|b| mask(kinds[b].0, n, row(b, 1))).collect(),
                valid: (0..batch).map(|b| mask(kinds[b].1, n, row(b, 2))).collect(),
                // Numbers of f16, so that all types start from the same.
                x: (0..batch)
                    .map(|b| {
                        rows_of(
                            &f64s(&narrow::<half::f16>(&random(row(b, 3), n * channels, 2.0))),
                            channels,
                        )
                    })
                    .collect(),
                budgets,
                heads,
                rounds,
                plain,
                count_weight,
                seed,
            }
        },
    )
}

/// Tasks in reverse order.
pub(crate) fn reversed(tasks: usize, run: &(dyn Fn(usize) + Sync)) {
    (0..tasks).rev().for_each(run);
}

/// Tasks on four threads.
pub(crate) fn threads(tasks: usize, run: &(dyn Fn(usize) + Sync)) {
    std::thread::scope(|scope| {
        (0..4).for_each(|thread| {
            scope.spawn(move || (thread..tasks).step_by(4).for_each(run));
        });
    });
}

/// Outputs of compress.
pub(crate) struct Rows3<T> {
    pub(crate) rows: Vec<T>,
    pub(crate) row_token: Vec<i64>,
    pub(crate) row_bias: Vec<f32>,
}

/// A partition and a state made by the kernels.
pub(crate) struct Kernels<T> {
    pub(crate) layout: Layout,
    pub(crate) vote: Vec<bool>,
    dims: Dims,
    n: usize,
    sizes: Vec<usize>,
    item_token: Vec<i64>,
    item_count: Vec<i64>,
    token_slot: Vec<i64>,
    roots: Vec<i64>,
    x: Vec<T>,
    value: Vec<T>,
    scale: Vec<T>,
    offset: Vec<T>,
}

impl<T: Element> Kernels<T> {
    /// Partition and coarsen.
    pub(crate) fn new(case: &Case, parallel: Parallel<'_>) -> Self {
        let (vip, valid) = (case.vip.concat(), case.valid.concat());
        let v =
            vcc_core::vip_slots(&vip, &valid, case.batch, case.n, case.capacity as i64).unwrap();
        let layout = Layout::for_tokens(Ladder::new(&case.ladder).unwrap(), case.n, v).unwrap();
        let dims = Dims {
            batch: case.batch,
            channels: case.channels,
        };
        let (items, segments) = (case.batch * layout.items(), case.batch * layout.segments());
        // Filled with what a correct kernel overwrites.
        let junk = narrow::<T>(&[f64::NAN])[0];
        let mut this = Self {
            vote: vec![false; case.batch * v],
            dims,
            n: case.n,
            sizes: case.sizes(),
            item_token: vec![-9; items],
            item_count: vec![-9; items],
            token_slot: vec![-9; case.batch * case.n],
            roots: vec![-9; case.batch * layout.roots()],
            x: narrow(&case.x.concat().concat()),
            value: vec![junk; items * case.channels],
            scale: vec![junk; segments * case.channels],
            offset: vec![junk; segments * case.channels],
            layout,
        };
        let out = Partition {
            item_token: &mut this.item_token,
            item_count: &mut this.item_count,
            token_slot: &mut this.token_slot,
            vote: &mut this.vote,
            roots: &mut this.roots,
        };
        vcc_core::partition(&this.layout, &vip, &valid, case.batch, case.n, out).unwrap();
        let state = StateMut {
            value: &mut this.value,
            scale: &mut this.scale,
            offset: &mut this.offset,
        };
        vcc_core::coarsen(
            &this.layout,
            dims,
            &this.x,
            &this.item_token,
            &this.item_count,
            state,
            parallel,
        )
        .unwrap();
        this
    }

    pub(crate) fn item_token(&self, b: usize) -> &[i64] {
        &self.item_token[b * self.layout.items()..][..self.layout.items()]
    }

    pub(crate) fn item_count(&self, b: usize) -> &[i64] {
        &self.item_count[b * self.layout.items()..][..self.layout.items()]
    }

    pub(crate) fn token_slot(&self, b: usize) -> &[i64] {
        &self.token_slot[b * self.n..][..self.n]
    }

    /// The input as the type holds it.
    pub(crate) fn rounded_x(&self) -> Vec<Rows> {
        let flat = f64s(&self.x);
        flat.chunks(self.n * self.dims.channels)
            .map(|row| rows_of(row, self.dims.channels))
            .collect()
    }

    pub(crate) fn trees(&self) -> Vec<Tree> {
        (0..self.dims.batch)
            .map(|_| {
                Tree::from_items(&self.sizes, self.layout.vips(), self.layout.items()).unwrap()
            })
            .collect()
    }

    /// Selects level by level with random scores; `None` at a near-tie. The reference must choose the same.
    pub(crate) fn choose(&self, case: &Case, round: usize, trees: &[Tree]) -> Option<Vec<i64>> {
        self.choose_with(case, round, trees, &vcc_core::sequential, true)
    }

    pub(crate) fn choose_with(
        &self,
        case: &Case,
        round: usize,
        trees: &[Tree],
        parallel: Parallel<'_>,
        compare: bool,
    ) -> Option<Vec<i64>> {
        let scores = |level: usize, candidates: &[i64]| {
            let seed = case.seed.wrapping_add((round * 100 + level) as u64 + 5000);
            let len = case.heads * self.layout.vips() * candidates.len();
            let scores = random(seed, len, 4.0);
            scores.into_iter().map(|x| x as f32).collect()
        };
        self.choose_by(case, trees, parallel, compare, &scores)
    }

    /// Selects level by level with the scores `[B,H,v,C]` that `scores` gives for a level and its candidates.
    pub(crate) fn choose_by(
        &self,
        case: &Case,
        trees: &[Tree],
        parallel: Parallel<'_>,
        compare: bool,
        scores: &dyn Fn(usize, &[i64]) -> Vec<f32>,
    ) -> Option<Vec<i64>> {
        let (batch, v) = (self.dims.batch, self.layout.vips());
        let mut lists: Vec<Vec<i64>> = vec![vec![]; batch];
        let mut candidates: Vec<i64> = self.roots.clone();
        for level in 0..self.layout.ladder().levels() {
            let c = candidates.len() / batch;
            let scores = scores(level, &candidates);
            let refine = vcc_core::refined(case.budgets[level % case.budgets.len()], c);
            let fan = self.layout.ladder().children(level);
            let (mut children, mut rest) = (
                vec![-9; batch * refine * fan],
                vec![-9; batch * (c - refine)],
            );
            let selection = Selection {
                level,
                scores: &scores,
                heads: case.heads,
                candidates: &candidates,
                item_count: &self.item_count,
                vote: &self.vote,
                batch,
                refine,
            };
            vcc_core::select(&self.layout, selection, &mut children, &mut rest, parallel).unwrap();
            for b in 0..batch {
                let (children, rest) = (
                    &children[b * refine * fan..][..refine * fan],
                    &rest[b * (c - refine)..][..c - refine],
                );
                lists[b].extend(rest);
                if compare && c > 0 {
                    let rows = |head: &[f32]| {
                        head.chunks(c)
                            .map(|row| row.iter().map(|&x| f64::from(x)).collect())
                            .collect()
                    };
                    let scores: Vec<Vec<Vec<f64>>> = scores[b * case.heads * v * c..]
                        [..case.heads * v * c]
                        .chunks(v * c)
                        .map(rows)
                        .collect();
                    let vote = &self.vote[b * v..][..v];
                    let want = reference::select(
                        &trees[b],
                        &scores,
                        &candidates[b * c..][..c],
                        self.item_count(b),
                        vote,
                        refine,
                    );
                    if want.gap < 1e-5 {
                        return None;
                    }
                    assert_eq!(
                        (children, rest),
                        (&want.children[..], &want.rest[..]),
                        "level {level}"
                    );
                }
            }
            candidates = children;
        }
        let q = candidates.len() / batch;
        Some(
            lists
                .into_iter()
                .enumerate()
                .flat_map(|(b, rest)| [&candidates[b * q..][..q], &rest].concat())
                .collect(),
        )
    }

    pub(crate) fn compress(&self, case: &Case, items: &[i64], parallel: Parallel<'_>) -> Rows3<T> {
        let r = self.dims.batch * self.layout.vips() + items.len();
        let mut out = Rows3 {
            rows: vec![T::ZERO; r * self.dims.channels],
            row_token: vec![0; r],
            row_bias: vec![0.0; r],
        };
        let tensors = Compressed {
            rows: &mut out.rows,
            row_token: &mut out.row_token,
            row_bias: &mut out.row_bias,
        };
        let (token, count, weight) = (&self.item_token, &self.item_count, case.count_weight as f32);
        vcc_core::compress(
            &self.layout,
            self.dims,
            self.state(),
            items,
            token,
            count,
            weight,
            tensors,
            parallel,
        )
        .unwrap();
        out
    }

    pub(crate) fn decompress(
        &mut self,
        _case: &Case,
        items: &[i64],
        y: &[T],
        update: &[T],
        gain: &[T],
        parallel: Parallel<'_>,
    ) {
        let state = StateMut {
            value: &mut self.value,
            scale: &mut self.scale,
            offset: &mut self.offset,
        };
        let update = Update { y, update, gain };
        vcc_core::decompress(
            &self.layout,
            self.dims,
            items,
            &self.item_count,
            update,
            state,
            parallel,
        )
        .unwrap();
    }

    pub(crate) fn expand(&self, case: &Case, parallel: Parallel<'_>) -> Vec<T> {
        let mut x = vec![T::ZERO; case.batch * case.n * case.channels];
        vcc_core::expand(
            &self.layout,
            self.dims,
            self.state(),
            &self.token_slot,
            &mut x,
            parallel,
        )
        .unwrap();
        x
    }

    fn state(&self) -> State<'_, T> {
        State {
            value: &self.value,
            scale: &self.scale,
            offset: &self.offset,
        }
    }

    /// Compares the three tensors.
    pub(crate) fn assert_state(&self, want: &[reference::State], tolerance: f64) {
        let flat = |of: fn(&reference::State) -> &Rows| {
            want.iter()
                .flat_map(|state| of(state).concat())
                .collect::<Vec<_>>()
        };
        assert_close(
            "value",
            &f64s(&self.value),
            &flat(|state| &state.value),
            tolerance,
        );
        assert_close(
            "scale",
            &f64s(&self.scale),
            &flat(|state| &state.scale),
            tolerance,
        );
        assert_close(
            "offset",
            &f64s(&self.offset),
            &flat(|state| &state.offset),
            tolerance,
        );
    }
}
