//! Kernels against the f64 reference, on random shapes, masks, ladders, budgets and rounds.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Case, Kernels, assert_close, case, case_of, f64s, random_rows, reversed, threads};
use half::{bf16, f16};
use proptest::prelude::*;
use vcc_core::reference::{self, dense};
use vcc_core::{Element, sequential};

/// Several blocks in a row: selection level by level, compress, a random result, decompress; the state is compared after each.
fn rounds<T: Element>(case: &Case, tolerance: f64) {
    let mut kernels = Kernels::<T>::new(case, &sequential);
    let trees = kernels.trees();
    let mut states: Vec<_> = (0..case.batch)
        .map(|b| {
            reference::coarsen(
                &trees[b],
                &kernels.rounded_x()[b],
                kernels.item_token(b),
                kernels.item_count(b),
            )
        })
        .collect();
    kernels.assert_state(&states, tolerance);
    let mut slots: Vec<_> = (0..case.batch)
        .map(|b| states[b].value[..trees[b].slots].to_vec())
        .collect();

    for round in 0..case.rounds {
        let Some(items) = kernels.choose(case, round, &trees) else {
            return;
        };
        let rows = kernels.compress(case, &items, &sequential);
        let r = kernels.layout.vips() + items.len() / case.batch;
        let gain: Vec<T> = common::narrow(
            &common::random(case.seed + 77, case.channels, 0.25)
                .iter()
                .map(|g| 1.0 + g)
                .collect::<Vec<_>>(),
        );
        let y: Vec<T> = common::narrow(&random_rows(case, 1000 + round as u64, r).concat());
        let update: Vec<T> = if case.plain {
            let difference = |(y, row): (&f64, &f64)| y - row;
            common::narrow(
                &f64s(&y)
                    .iter()
                    .zip(&f64s(&rows.rows))
                    .map(difference)
                    .collect::<Vec<_>>(),
            )
        } else {
            common::narrow(&random_rows(case, 2000 + round as u64, r).concat())
        };
        let gain = if case.plain {
            vec![T::ONE; case.channels]
        } else {
            gain
        };

        for b in 0..case.batch {
            let (token, count) = (
                kernels.item_token(b).to_vec(),
                kernels.item_count(b).to_vec(),
            );
            let listed = &items[b * (r - trees[b].vips)..][..r - trees[b].vips];
            let want = reference::compress(
                &trees[b],
                &states[b],
                listed,
                &token,
                &count,
                case.count_weight,
            );
            let got = f64s(&rows.rows[b * r * case.channels..][..r * case.channels]);
            assert_close("rows", &got, &want.rows.concat(), tolerance);
            assert_eq!(rows.row_token[b * r..][..r], want.token);
            assert_close(
                "row_bias",
                &f64s(&rows.row_bias[b * r..][..r]),
                &want.bias,
                1e-6,
            );

            // The same without a tree.
            let averaging = dense::averaging(&trees[b], listed, &count);
            let dense_rows = dense::compress(&averaging, &slots[b]);
            assert_close("rows, dense", &got, &dense_rows.concat(), tolerance);

            let take = |tensor: &[T]| {
                common::rows_of(
                    &f64s(&tensor[b * r * case.channels..][..r * case.channels]),
                    case.channels,
                )
            };
            let (y, update, gain) = (take(&y), take(&update), f64s(&gain));
            states[b] =
                reference::decompress(&trees[b], &states[b], listed, &count, &y, &update, &gain);
            slots[b] = dense::decompress(&trees[b], &slots[b], listed, &count, &y, &update, &gain);
        }
        kernels.decompress(case, &items, &y, &update, &gain, &sequential);
        kernels.assert_state(&states, tolerance);
        let expanded = f64s(&kernels.expand(case, &sequential));
        for b in 0..case.batch {
            let got = &expanded[b * case.n * case.channels..][..case.n * case.channels];
            let token_slot = kernels.token_slot(b);
            assert_close(
                "x",
                got,
                &reference::expand(&trees[b], &states[b], token_slot).concat(),
                tolerance,
            );
            let by_slot: Vec<_> = token_slot
                .iter()
                .map(|&slot| slots[b][slot as usize].clone())
                .collect();
            assert_close("x, dense", got, &by_slot.concat(), tolerance);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn partition_is_the_reference(case in case()) {
        let kernels = Kernels::<f32>::new(&case, &sequential);
        let v = reference::vip_slots(&case.vip, &case.valid, case.n, case.capacity);
        prop_assert_eq!(kernels.layout.vips(), v);
        for b in 0..case.batch {
            let want = reference::partition(&case.sizes(), v, &case.vip[b], &case.valid[b]);
            prop_assert_eq!(kernels.item_token(b), &want.item_token[..]);
            prop_assert_eq!(kernels.item_count(b), &want.item_count[..]);
            prop_assert_eq!(kernels.token_slot(b), &want.token_slot[..]);
            prop_assert_eq!(&kernels.vote[b * v..][..v], &want.vote[..]);
        }
    }

    #[test]
    fn rounds_are_the_reference_f32(case in case()) {
        rounds::<f32>(&case, 1e-5);
    }

    #[test]
    fn rounds_are_the_reference_f16(case in case()) {
        rounds::<f16>(&case, 1e-2);
    }

    #[test]
    fn rounds_are_the_reference_bf16(case in case()) {
        rounds::<bf16>(&case, 8e-2);
    }

    /// Everything refined, y = f(row) token by token: the expansion is f of each token, to the bit.
    #[test]
    fn full_budget_is_exact(case in case()) {
        let mut kernels = Kernels::<f32>::new(&case, &sequential);
        let f = |x: f32| (x * 1.5).tanh() - 0.25;
        let mut want = common::narrow::<f32>(&case.x.concat().concat());
        for _ in 0..case.rounds {
            let items: Vec<i64> = (0..case.batch).flat_map(|_| (kernels.layout.vips()..kernels.layout.slots()).map(|s| s as i64)).collect();
            let rows = kernels.compress(&case, &items, &sequential);
            let y: Vec<f32> = rows.rows.iter().map(|&x| f(x)).collect();
            let update: Vec<f32> = y.iter().zip(&rows.rows).map(|(y, row)| y - row).collect();
            kernels.decompress(&case, &items, &y, &update, &vec![1.0; case.channels], &sequential);
            want.iter_mut().for_each(|x| *x = f(*x));
        }
        let got = kernels.expand(&case, &sequential);
        let same = |(a, b): (&f32, &f32)| a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan());
        prop_assert!(got.iter().zip(&want).all(same));
    }

    /// The paper's update of a partial budget: X + S^+ (y - S X), by matrices.
    #[test]
    fn partial_budget_is_the_paper(case in case()) {
        let mut kernels = Kernels::<f32>::new(&case, &sequential);
        let trees = kernels.trees();
        let Some(items) = kernels.choose(&case, 0, &trees) else { return Ok(()) };
        let rows = kernels.compress(&case, &items, &sequential);
        let y: Vec<f32> = rows.rows.iter().map(|x| (x * 0.7).sin()).collect();
        let update: Vec<f32> = y.iter().zip(&rows.rows).map(|(y, row)| y - row).collect();
        kernels.decompress(&case, &items, &y, &update, &vec![1.0; case.channels], &sequential);
        let got = f64s(&kernels.expand(&case, &sequential));
        let q = items.len() / case.batch;
        for b in 0..case.batch {
            let tree = &trees[b];
            let count = kernels.item_count(b);
            let listed = &items[b * q..][..q];
            let x: Vec<_> = kernels.item_token(b)[..tree.slots].iter().map(|&t| case.x[b][t as usize].clone()).collect();
            let averaging = dense::averaging(tree, listed, count);
            let rows = dense::compress(&averaging, &x);
            let new = |t: usize| -> Vec<f64> {
                let slot = kernels.token_slot(b)[t] as usize;
                let row = if slot < tree.vips { slot } else {
                    tree.vips + listed.iter().position(|&id| tree.covers(id as usize).contains(&slot)).unwrap()
                };
                (0..case.channels).map(|c| x[slot][c] + ((rows[row][c] * 0.7).sin() - rows[row][c])).collect()
            };
            let want: Vec<f64> = (0..case.n).flat_map(new).collect();
            assert_close("x", &got[b * case.n * case.channels..][..case.n * case.channels], &want, 1e-5);
        }
    }

    /// NaN in padding reaches neither a valid token nor a segment with one.
    #[test]
    fn nan_in_padding_stays_there(case in case()) {
        let mut case = case;
        for (row, valid) in case.x.iter_mut().zip(&case.valid) {
            row.iter_mut().zip(valid).filter(|(_, valid)| !**valid).for_each(|(x, _)| x.fill(f64::NAN));
        }
        rounds::<f32>(&Case { plain: true, ..case.clone() }, 1e-5);
        let mut kernels = Kernels::<f32>::new(&case, &sequential);
        let trees = kernels.trees();
        for round in 0..case.rounds {
            let Some(items) = kernels.choose(&case, round, &trees) else { return Ok(()) };
            let rows = kernels.compress(&case, &items, &sequential);
            let r = rows.row_token.len() / case.batch;
            for (at, row) in rows.rows.chunks(case.channels).enumerate() {
                let (b, at) = (at / r, at % r);
                let id = if at < kernels.layout.vips() { at } else { items[b * (r - kernels.layout.vips()) + at - kernels.layout.vips()] as usize };
                prop_assert!(kernels.item_count(b)[id] <= 0 || row.iter().all(|x| x.is_finite()));
            }
            let y: Vec<f32> = rows.rows.iter().map(|x| x * 0.5).collect();
            let update: Vec<f32> = y.iter().zip(&rows.rows).map(|(y, row)| y - row).collect();
            kernels.decompress(&case, &items, &y, &update, &vec![1.0; case.channels], &sequential);
        }
        let x = kernels.expand(&case, &sequential);
        for (at, row) in x.chunks(case.channels).enumerate() {
            prop_assert!(!case.valid[at / case.n][at % case.n] || row.iter().all(|x| x.is_finite()));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    /// The same bits in one thread, in reverse order, and in four threads.
    #[test]
    fn the_split_does_not_show(case in case_of(1000..4000usize, 200)) {
        let run = |parallel: vcc_core::Parallel<'_>| {
            let mut kernels = Kernels::<f32>::new(&case, parallel);
            let trees = kernels.trees();
            let mut bits = vec![];
            for round in 0..case.rounds {
                let items = kernels.choose_with(&case, round, &trees, parallel, false).unwrap();
                let rows = kernels.compress(&case, &items, parallel);
                kernels.decompress(&case, &items, &rows.rows, &rows.rows, &vec![0.5; case.channels], parallel);
                bits.extend(items.iter().map(|&id| id as u32));
                bits.extend(rows.rows.iter().map(|x| x.to_bits()));
            }
            bits.extend(kernels.expand(&case, parallel).iter().map(|x| x.to_bits()));
            bits
        };
        let want = run(&sequential);
        let split = std::cell::Cell::new(0);
        let counted = |tasks: usize, run: &(dyn Fn(usize) + Sync)| {
            split.set(split.get().max(tasks));
            reversed(tasks, run);
        };
        prop_assert_eq!(&run(&counted), &want);
        prop_assert!(split.get() > 1 || case.batch * case.n * case.channels < 200_000);
        prop_assert_eq!(&run(&threads), &want);
    }
}
