//! One case through all operators: the kernels, the f64 reference and the Rust kernels on the same inputs.
//!
//! Every operator gets the inputs that the Rust kernels made, so that a difference is that operator's own.

use vcc_core::reference::{self, Rows, Tree};
use vcc_core::{Dims, Element, Ladder, Layout, sequential};
use vcc_ops::launch::{self, Pointer, Type};

use super::cases::{Case, Random};
use super::device::{Device, Plain, Run};

/// A type of rows.
pub(crate) trait Number: Element + Plain {
    const TYPE: Type;
    /// What a result may differ by, relative to the largest: a rounding or two of the type.
    const TOLERANCE: f64;
}

impl Number for f32 {
    const TYPE: Type = Type::F32;
    const TOLERANCE: f64 = 1e-5;
}
impl Number for half::f16 {
    const TYPE: Type = Type::F16;
    const TOLERANCE: f64 = 2e-3;
}
impl Number for half::bf16 {
    const TYPE: Type = Type::Bf16;
    const TOLERANCE: f64 = 1.6e-2;
}

pub(crate) fn narrow<T: Element>(values: &[f64]) -> Vec<T> {
    values.iter().map(|&x| T::narrow(x as f32)).collect()
}

pub(crate) fn f64s<T: Element>(values: &[T]) -> Vec<f64> {
    values.iter().map(|x| f64::from(x.widen())).collect()
}

fn rows_of(flat: &[f64], channels: usize) -> Rows {
    flat.chunks(channels).map(<[f64]>::to_vec).collect()
}

/// Equal within the tolerance of the largest magnitude (at least 1), infinities and NaN where the other has them.
#[track_caller]
fn assert_close(what: &str, got: &[f64], want: &[f64], tolerance: f64) {
    assert_eq!(got.len(), want.len(), "{what}: length");
    let finite = want.iter().filter(|x| x.is_finite());
    let size = finite.fold(1f64, |max, x| max.max(x.abs()));
    for (at, (got, want)) in got.iter().zip(want).enumerate() {
        let same = got == want
            || (got.is_nan() && want.is_nan())
            || (got - want).abs() <= tolerance * size;
        assert!(same, "{what}[{at}]: {got} instead of {want}");
    }
}

/// What the operators share: the partition of the Rust kernels.
struct Shared<'a> {
    case: &'a Case,
    layout: Layout,
    dims: Dims,
    trees: Vec<Tree>,
    item_token: Vec<i64>,
    item_count: Vec<i64>,
    token_slot: Vec<i64>,
    vote: Vec<bool>,
    roots: Vec<i64>,
    runner: &'a dyn Run,
}

/// A state: value, scale and offset.
type State<T> = [Vec<T>; 3];

/// Runs the case. Returns false if a selection was too close to call.
pub(crate) fn check<T: Number>(case: &Case, runner: &dyn Run) -> bool {
    let shared = Shared::partition(case, runner);
    let mut random = Random::new(case.seed ^ 77);
    let mut x = random.numbers(case.batch * case.n * case.channels, 2.0);
    if case.nan {
        let valid = case.valid.concat();
        for (row, _) in x
            .chunks_mut(case.channels)
            .zip(valid)
            .filter(|(_, valid)| !valid)
        {
            row.fill(f64::NAN);
        }
    }
    let x: Vec<T> = narrow(&x);
    let mut state = shared.coarsen(&x);
    for _ in 0..2 {
        let Some(items) = shared.choose::<T>(&mut random) else {
            return false;
        };
        let rows = shared.compress(&state, &items);
        state = shared.decompress(&state, &items, &rows, &mut random);
        shared.expand(&state);
    }
    true
}

/// Partition and selections only: for many candidates. Returns false if a selection was too close to call.
pub(crate) fn check_selections<T: Number>(case: &Case, runner: &dyn Run) -> bool {
    let shared = Shared::partition(case, runner);
    let mut random = Random::new(case.seed ^ 77);
    shared.choose::<T>(&mut random).is_some()
}

impl<'a> Shared<'a> {
    fn device(&self) -> Device<'a> {
        Device::new(self.runner, self.case.shift)
    }

    fn partition(case: &'a Case, runner: &'a dyn Run) -> Self {
        let (vip, valid) = (case.vip.concat(), case.valid.concat());
        let (batch, n) = (case.batch, case.n);
        let v = vcc_core::vip_slots(&vip, &valid, batch, n, case.capacity as i64).unwrap();
        let layout = Layout::for_tokens(Ladder::new(&case.ladder).unwrap(), n, v).unwrap();
        let sizes: Vec<usize> = case.ladder.iter().map(|&size| size as usize).collect();
        let mut this = Self {
            case,
            dims: Dims {
                batch,
                channels: case.channels,
            },
            trees: vec![Tree::from_items(&sizes, v, layout.items()).unwrap(); batch],
            item_token: vec![0; batch * layout.items()],
            item_count: vec![0; batch * layout.items()],
            token_slot: vec![0; batch * n],
            vote: vec![false; batch * v],
            roots: vec![0; batch * layout.roots()],
            layout,
            runner,
        };
        let out = vcc_core::Partition {
            item_token: &mut this.item_token,
            item_count: &mut this.item_count,
            token_slot: &mut this.token_slot,
            vote: &mut this.vote,
            roots: &mut this.roots,
        };
        vcc_core::partition(&this.layout, &vip, &valid, batch, n, out).unwrap();

        let device = this.device();
        let bytes = |mask: &[bool]| -> Vec<u8> { mask.iter().map(|&x| u8::from(x)).collect() };
        let (vip, valid) = (device.input(&bytes(&vip)), device.input(&bytes(&valid)));
        let out = launch::Partition {
            item_token: device.output::<i64>(this.item_token.len()),
            item_count: device.output::<i64>(this.item_count.len()),
            token_slot: device.output::<i64>(this.token_slot.len()),
            vote: device.output::<u8>(this.vote.len()),
            roots: device.output::<i64>(this.roots.len()),
        };
        device.run(launch::partition(&this.layout, batch, n, vip, valid, out));
        let read = |pointer: Pointer| device.read::<i64>(pointer);
        assert_eq!(read(out.item_count), this.item_count, "item_count");
        assert_eq!(read(out.item_token), this.item_token, "item_token");
        assert_eq!(read(out.token_slot), this.token_slot, "token_slot");
        assert_eq!(read(out.roots), this.roots, "roots");
        assert_eq!(device.read::<u8>(out.vote), bytes(&this.vote), "vote");
        // The Rust kernel is not its own witness.
        let items = this.layout.items();
        for b in 0..batch {
            let want = reference::partition(&sizes, v, &case.vip[b], &case.valid[b]);
            assert_eq!(read(out.item_count)[b * items..][..items], want.item_count);
            assert_eq!(read(out.item_token)[b * items..][..items], want.item_token);
            assert_eq!(read(out.token_slot)[b * n..][..n], want.token_slot);
        }
        this
    }

    fn count(&self, b: usize) -> &[i64] {
        &self.item_count[b * self.layout.items()..][..self.layout.items()]
    }

    fn token(&self, b: usize) -> &[i64] {
        &self.item_token[b * self.layout.items()..][..self.layout.items()]
    }

    /// A batch row of a tensor of rows.
    fn rows<T: Element>(&self, tensor: &[T], b: usize) -> Rows {
        let per_row = tensor.len() / self.case.batch;
        rows_of(&f64s(&tensor[b * per_row..][..per_row]), self.case.channels)
    }

    fn reference_state<T: Element>(&self, state: &State<T>, b: usize) -> reference::State {
        let [value, scale, offset] = state;
        reference::State {
            value: self.rows(value, b),
            scale: self.rows(scale, b),
            offset: self.rows(offset, b),
        }
    }

    /// Compares a state with the reference's.
    fn assert_state<T: Number>(&self, what: &str, got: &State<T>, want: &[reference::State]) {
        let flat = |of: fn(&reference::State) -> &Rows| -> Vec<f64> {
            want.iter().flat_map(|state| of(state).concat()).collect()
        };
        let want = [flat(|s| &s.value), flat(|s| &s.scale), flat(|s| &s.offset)];
        for ((got, want), name) in got.iter().zip(&want).zip(["value", "scale", "offset"]) {
            assert_close(&format!("{what}: {name}"), &f64s(got), want, T::TOLERANCE);
        }
    }

    fn state_buffers<T: Number>(device: &Device<'_>, state: &State<T>) -> [Pointer; 3] {
        [0, 1, 2].map(|part| device.input(&state[part]))
    }

    fn read_only<T>([value, scale, offset]: &State<T>) -> vcc_core::State<'_, T> {
        vcc_core::State {
            value,
            scale,
            offset,
        }
    }

    fn coarsen<T: Number>(&self, x: &[T]) -> State<T> {
        let (items, segments, d) = (
            self.layout.items(),
            self.layout.segments(),
            self.case.channels,
        );
        let sizes = [items, segments, segments].map(|rows| self.case.batch * rows * d);
        let mut state = sizes.map(|len| vec![T::ZERO; len]);
        let [value, scale, offset] = &mut state;
        let out = vcc_core::StateMut {
            value,
            scale,
            offset,
        };
        vcc_core::coarsen(
            &self.layout,
            self.dims,
            x,
            &self.item_token,
            &self.item_count,
            out,
            &sequential,
        )
        .unwrap();

        let device = self.device();
        let (rows, token, count) = (
            device.input(x),
            device.input(&self.item_token),
            device.input(&self.item_count),
        );
        let out = sizes.map(|len| device.output::<T>(len));
        device.run(launch::coarsen(
            T::TYPE,
            &self.layout,
            self.dims,
            self.case.n,
            rows,
            token,
            count,
            out,
        ));
        let got = out.map(|pointer| device.read::<T>(pointer));
        let want: Vec<_> = (0..self.case.batch)
            .map(|b| {
                reference::coarsen(
                    &self.trees[b],
                    &self.rows(x, b),
                    self.token(b),
                    self.count(b),
                )
            })
            .collect();
        self.assert_state("coarsen", &got, &want);
        self.assert_state("coarsen in Rust", &state, &want);
        state
    }

    /// Selects level by level with random scores; `None` at a near-tie.
    fn choose<T: Number>(&self, random: &mut Random) -> Option<Vec<i64>> {
        let (batch, v) = (self.case.batch, self.layout.vips());
        let mut lists: Vec<Vec<i64>> = vec![vec![]; batch];
        let mut candidates = self.roots.clone();
        for level in 0..self.layout.ladder().levels() {
            let c = candidates.len() / batch;
            let (refine, fan) = (
                vcc_core::refined(self.case.budgets[level], c),
                self.layout.ladder().children(level),
            );
            let mut scores: Vec<f64> = random.numbers(batch * self.case.heads * v * c, 4.0);
            // Now and then what no softmax takes, and equal scores.
            match random.below(6) {
                0 if !scores.is_empty() => {
                    let at = random.below(scores.len());
                    scores[at] = random.pick(&[f64::NAN, f64::INFINITY, f64::NEG_INFINITY]);
                }
                1 => scores.fill(0.5),
                2 => scores.iter_mut().for_each(|x| *x = x.round()),
                _ => {}
            }
            let scores: Vec<T> = narrow(&scores);
            let (mut children, mut rest) =
                (vec![0; batch * refine * fan], vec![0; batch * (c - refine)]);
            let selection = vcc_core::Selection {
                level,
                scores: &scores,
                heads: self.case.heads,
                candidates: &candidates,
                item_count: &self.item_count,
                vote: &self.vote,
                batch,
                refine,
            };
            vcc_core::select(
                &self.layout,
                selection,
                &mut children,
                &mut rest,
                &sequential,
            )
            .unwrap();
            for b in 0..batch {
                let list = &rest[b * (c - refine)..][..c - refine];
                if c > 0 {
                    let per_row = self.case.heads * v * c;
                    let flat = f64s(&scores[b * per_row..][..per_row]);
                    let heads: Vec<Vec<Vec<f64>>> =
                        flat.chunks(v * c).map(|head| rows_of(head, c)).collect();
                    let own = &candidates[b * c..][..c];
                    let want = reference::select(
                        &self.trees[b],
                        &heads,
                        own,
                        self.count(b),
                        &self.vote[b * v..][..v],
                        refine,
                    );
                    if want.gap < 1e-5 {
                        return None;
                    }
                    assert_eq!(
                        children[b * refine * fan..][..refine * fan],
                        want.children,
                        "level {level} in Rust"
                    );
                    assert_eq!(list, want.rest, "level {level} in Rust");
                }
                lists[b].extend(list);
            }
            let device = self.device();
            let vote: Vec<u8> = self.vote.iter().map(|&x| u8::from(x)).collect();
            let sizes = launch::Selection {
                level,
                heads: self.case.heads,
                candidates: c,
                refine,
            };
            let parts = launch::parts(T::TYPE, &self.layout, sizes);
            let tensors = launch::SelectionTensors {
                scores: device.input(&scores),
                candidates: device.input(&candidates),
                item_count: device.input(&self.item_count),
                vote: device.input(&vote),
                children: device.output::<i64>(children.len()),
                rest: device.output::<i64>(rest.len()),
                sums: device.output::<f32>(batch * parts * c),
            };
            device.run(launch::select(T::TYPE, &self.layout, batch, sizes, tensors));
            assert_eq!(
                device.read::<i64>(tensors.children),
                children,
                "children of level {level}"
            );
            assert_eq!(
                device.read::<i64>(tensors.rest),
                rest,
                "rest of level {level}"
            );
            candidates = children;
        }
        let q = candidates.len() / batch;
        let mut items = vec![];
        for (b, rest) in lists.into_iter().enumerate() {
            let mut list = [&candidates[b * q..][..q], &rest].concat();
            if self.case.shuffled {
                for at in (1..list.len()).rev() {
                    list.swap(at, random.below(at + 1));
                }
            }
            items.extend(list);
        }
        Some(items)
    }

    fn compress<T: Number>(&self, state: &State<T>, items: &[i64]) -> Vec<T> {
        let (batch, d) = (self.case.batch, self.case.channels);
        let q = items.len() / batch;
        let r = self.layout.vips() + q;
        let device = self.device();
        let buffers = Self::state_buffers(&device, state);
        let (list, token, count) = (
            device.input(items),
            device.input(&self.item_token),
            device.input(&self.item_count),
        );
        let out = launch::Rows {
            rows: device.output::<T>(batch * r * d),
            row_token: device.output::<i64>(batch * r),
            row_bias: device.output::<f32>(batch * r),
        };
        let weight = self.case.count_weight;
        device.run(launch::compress(
            T::TYPE,
            &self.layout,
            self.dims,
            q,
            weight,
            buffers,
            list,
            token,
            count,
            out,
        ));
        let rows = device.read::<T>(out.rows);
        let (mut own, mut own_token, mut own_bias) = (
            vec![T::ZERO; rows.len()],
            vec![0; batch * r],
            vec![0.0; batch * r],
        );
        vcc_core::compress(
            &self.layout,
            self.dims,
            Self::read_only(state),
            items,
            &self.item_token,
            &self.item_count,
            weight,
            vcc_core::Compressed {
                rows: &mut own,
                row_token: &mut own_token,
                row_bias: &mut own_bias,
            },
            &sequential,
        )
        .unwrap();
        for b in 0..batch {
            let list = &items[b * q..][..q];
            let want = reference::compress(
                &self.trees[b],
                &self.reference_state(state, b),
                list,
                self.token(b),
                self.count(b),
                f64::from(weight),
            );
            assert_close(
                "rows",
                &self.rows(&rows, b).concat(),
                &want.rows.concat(),
                T::TOLERANCE,
            );
            assert_close(
                "rows in Rust",
                &self.rows(&own, b).concat(),
                &want.rows.concat(),
                T::TOLERANCE,
            );
            assert_eq!(own_token[b * r..][..r], want.token, "row_token in Rust");
            assert_close(
                "row_bias in Rust",
                &f64s(&own_bias[b * r..][..r]),
                &want.bias,
                1e-6,
            );
            assert_eq!(
                device.read::<i64>(out.row_token)[b * r..][..r],
                want.token,
                "row_token"
            );
            assert_close(
                "row_bias",
                &f64s(&device.read::<f32>(out.row_bias)[b * r..][..r]),
                &want.bias,
                1e-6,
            );
        }
        rows
    }

    fn decompress<T: Number>(
        &self,
        state: &State<T>,
        items: &[i64],
        rows: &[T],
        random: &mut Random,
    ) -> State<T> {
        let (batch, d) = (self.case.batch, self.case.channels);
        let q = items.len() / batch;
        let gain: Vec<T> = narrow(
            &random
                .numbers(d, 0.25)
                .iter()
                .map(|x| 1.0 + x)
                .collect::<Vec<_>>(),
        );
        let y: Vec<T> = narrow(&random.numbers(rows.len(), 2.0));
        let update: Vec<T> = narrow(
            &f64s(&y)
                .iter()
                .zip(f64s(rows))
                .map(|(y, row)| y - row)
                .collect::<Vec<_>>(),
        );
        let mut own = state.clone();
        let [value, scale, offset] = &mut own;
        let result = vcc_core::decompress(
            &self.layout,
            self.dims,
            items,
            &self.item_count,
            vcc_core::Update {
                y: &y,
                update: &update,
                gain: &gain,
            },
            vcc_core::StateMut {
                value,
                scale,
                offset,
            },
            &sequential,
        );
        result.unwrap();

        let device = self.device();
        let buffers = Self::state_buffers(&device, state);
        let (list, count) = (device.input(items), device.input(&self.item_count));
        let tensors = launch::Update {
            y: device.input(&y),
            update: device.input(&update),
            gain: device.input(&gain),
        };
        device.run(launch::decompress(
            T::TYPE,
            &self.layout,
            self.dims,
            q,
            list,
            count,
            tensors,
            buffers,
        ));
        let got = buffers.map(|pointer| device.read::<T>(pointer));
        let want: Vec<_> = (0..batch)
            .map(|b| {
                let (y, update) = (self.rows(&y, b), self.rows(&update, b));
                let (before, list) = (self.reference_state(state, b), &items[b * q..][..q]);
                reference::decompress(
                    &self.trees[b],
                    &before,
                    list,
                    self.count(b),
                    &y,
                    &update,
                    &f64s(&gain),
                )
            })
            .collect();
        self.assert_state("decompress", &got, &want);
        self.assert_state("decompress in Rust", &own, &want);
        own
    }

    fn expand<T: Number>(&self, state: &State<T>) {
        let (batch, n, d) = (self.case.batch, self.case.n, self.case.channels);
        let device = self.device();
        let buffers = Self::state_buffers(&device, state);
        let (slots, x) = (
            device.input(&self.token_slot),
            device.output::<T>(batch * n * d),
        );
        device.run(launch::expand(
            T::TYPE,
            &self.layout,
            self.dims,
            n,
            buffers,
            slots,
            x,
        ));
        let got = device.read::<T>(x);
        let mut own = vec![T::ZERO; got.len()];
        vcc_core::expand(
            &self.layout,
            self.dims,
            Self::read_only(state),
            &self.token_slot,
            &mut own,
            &sequential,
        )
        .unwrap();
        for b in 0..batch {
            let want = reference::expand(
                &self.trees[b],
                &self.reference_state(state, b),
                &self.token_slot[b * n..][..n],
            );
            for (what, x) in [("x", &got), ("x in Rust", &own)] {
                assert_close(
                    what,
                    &self.rows(x, b).concat(),
                    &want.concat(),
                    T::TOLERANCE,
                );
            }
        }
    }
}
