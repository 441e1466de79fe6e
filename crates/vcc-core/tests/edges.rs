//! Selection at its edges, and inputs that are refused.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use vcc_core::reference::{self, Tree};
use vcc_core::{
    Dims, Error, Ladder, Layout, Selection, StateMut, Update, refined, select, sequential,
};

#[test]
fn budgets() {
    let cases = [
        (0, 7, 0),
        (3, 7, 3),
        (9, 7, 7),
        (-100, 7, 7),
        (-1, 7, 1),
        (-50, 7, 4),
        (-14, 7, 1),
        (-15, 7, 2),
        (-101, 7, 7),
        (5, 0, 0),
    ];
    for (budget, candidates, want) in cases {
        assert_eq!(
            refined(budget, candidates),
            want,
            "{budget} of {candidates}"
        );
    }
    assert_eq!(refined(i64::MIN, usize::MAX), usize::MAX);
    assert_eq!(refined(i64::MAX, 3), 3);
}

/// One batch row, ladder 2,1, one VIP slot.
fn choose(
    scores: &[f32],
    heads: usize,
    counts: &[i64],
    vote: bool,
    refine: usize,
) -> (Vec<i64>, Vec<i64>) {
    let c = counts.len();
    let layout = Layout::for_tokens(Ladder::new(&[2, 1]).unwrap(), 1 + 2 * c, 1).unwrap();
    let item_count = [vec![1; layout.slots()], counts.to_vec()].concat();
    let candidates: Vec<i64> = layout.level(0).map(|id| id as i64).collect();
    let (mut children, mut rest) = (vec![0; 2 * refine], vec![0; c - refine]);
    let selection = Selection {
        level: 0,
        scores,
        heads,
        candidates: &candidates,
        item_count: &item_count,
        vote: &[vote],
        batch: 1,
        refine,
    };
    select(&layout, selection, &mut children, &mut rest, &sequential).unwrap();

    let tree = Tree::new(&[2, 1], 1, c);
    let rows: Vec<Vec<Vec<f64>>> = scores
        .chunks(c)
        .map(|row| vec![row.iter().map(|&x| f64::from(x)).collect()])
        .collect();
    let want = reference::select(&tree, &rows, &candidates, &item_count, &[vote], refine);
    assert_eq!((&children, &rest), (&want.children, &want.rest));
    // As positions among the candidates.
    let chosen = children.chunks(2).map(|pair| (pair[0] - 1) / 2).collect();
    (
        chosen,
        rest.iter().map(|id| id - layout.slots() as i64).collect(),
    )
}

#[test]
fn ties_go_to_the_lower_position() {
    let rows = [2.0, 5.0, 5.0, 5.0];
    assert_eq!(
        choose(&rows, 1, &[2, 2, 2, 2], true, 2),
        (vec![1, 2], vec![0, 3])
    );
    assert_eq!(
        choose(&[0.0; 4], 1, &[2, 2, 2, 2], true, 3),
        (vec![0, 1, 2], vec![3])
    );
}

#[test]
fn without_a_vote_all_scores_are_equal() {
    assert_eq!(
        choose(&[0.0, 1.0, 9.0], 1, &[2, 2, 2], false, 1),
        (vec![0], vec![1, 2])
    );
    assert_eq!(
        choose(&[0.0, 1.0, 9.0], 1, &[0, 2, 2], false, 1),
        (vec![1], vec![0, 2])
    );
}

#[test]
fn candidates_without_a_valid_token_come_last_and_do_not_weigh() {
    assert_eq!(
        choose(&[9.0, 1.0, 2.0, f32::NAN], 1, &[0, 2, 1, -1], true, 1),
        (vec![2], vec![0, 1, 3])
    );
    // The first two are left when the eligible ones are gone, the lower first.
    assert_eq!(
        choose(&[9.0, 1.0, 9.0, 9.0], 1, &[0, 2, 0, -1], true, 2),
        (vec![0, 1], vec![2, 3])
    );
    assert_eq!(
        choose(&[1.0, 2.0], 1, &[-1, 0], true, 1),
        (vec![0], vec![1])
    );
}

#[test]
fn a_row_without_a_softmax_counts_as_minus_infinity() {
    for bad in [f32::NAN, f32::INFINITY] {
        assert_eq!(
            choose(&[0.0, bad, 5.0, 1.0, 2.0, 3.0], 2, &[2, 2, 2], true, 1),
            (vec![0], vec![1, 2])
        );
    }
    assert_eq!(
        choose(&[f32::NEG_INFINITY; 3], 1, &[2, 2, 2], true, 2),
        (vec![0, 1], vec![2])
    );
    assert_eq!(
        choose(&[f32::NEG_INFINITY, 1.0, f32::MIN], 1, &[2, 2, 2], true, 1),
        (vec![1], vec![0, 2])
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    /// Few distinct scores, so that ties are everywhere, with NaN and infinities among them.
    #[test]
    fn selection_with_ties_is_the_reference(
        scores in prop::collection::vec(prop::sample::select(vec![0.0f32, 1.0, -3.0, 60.0, f32::NEG_INFINITY, f32::NAN]), 40),
        counts in prop::collection::vec(-1..3i64, 1..40),
        refine in 0..40usize,
    ) {
        choose(&scores[..counts.len()], 1, &counts, true, refine.min(counts.len()));
    }
}

fn small() -> (Layout, Dims) {
    (
        Layout::for_tokens(Ladder::new(&[4, 2, 1]).unwrap(), 9, 1).unwrap(),
        Dims {
            batch: 1,
            channels: 2,
        },
    )
}

fn decompress(items: &[i64]) -> Result<(), Error> {
    let (layout, dims) = small();
    let r = (layout.vips() + items.len()) * 2;
    let (mut value, mut scale, mut offset) = (
        vec![3f32; layout.items() * 2],
        vec![1f32; layout.segments() * 2],
        vec![0f32; layout.segments() * 2],
    );
    let before = value.clone();
    let state = StateMut {
        value: &mut value,
        scale: &mut scale,
        offset: &mut offset,
    };
    let update = Update {
        y: &vec![1f32; r],
        update: &vec![1f32; r],
        gain: &[1.0, 1.0],
    };
    let result = vcc_core::decompress(
        &layout,
        dims,
        items,
        &vec![1; layout.items()],
        update,
        state,
        &sequential,
    );
    assert!(
        result.is_ok() || value == before,
        "written in spite of {result:?}"
    );
    result
}

#[test]
fn items_must_cover_the_context_once() {
    // Slots 1..9; level 0: 9, 10; level 1: 11, 12, 13, 14.
    assert_eq!(decompress(&[9, 10]), Ok(()));
    assert_eq!(decompress(&[10, 9]), Ok(()));
    assert_eq!(decompress(&[13, 9, 8, 7]), Ok(()));
    let cover = |slot| Err(Error::Cover { row: 0, slot });
    assert_eq!(decompress(&[9]), cover(4));
    assert_eq!(decompress(&[]), cover(0));
    assert_eq!(decompress(&[10]), cover(0));
    assert_eq!(decompress(&[9, 9, 10]), cover(0));
    assert_eq!(decompress(&[9, 11, 10]), cover(0));
    assert_eq!(decompress(&[9, 13]), cover(6));
    for bad in [0, -1, 15, i64::MAX, i64::MIN] {
        assert_eq!(
            decompress(&[9, bad]),
            Err(Error::Index {
                name: "items",
                at: 1,
                value: bad,
                low: 1,
                high: 15
            })
        );
    }
}

#[test]
fn candidates_must_be_of_the_level() {
    let (layout, _) = small();
    let run = |level: usize, candidates: &[i64]| {
        let selection = Selection {
            level,
            scores: &vec![0f32; candidates.len()],
            heads: 1,
            candidates,
            item_count: &vec![1; layout.items()],
            vote: &[true],
            batch: 1,
            refine: 0,
        };
        select(
            &layout,
            selection,
            &mut [],
            &mut vec![0; candidates.len()],
            &sequential,
        )
    };
    assert_eq!(run(0, &[9, 10]), Ok(()));
    assert_eq!(run(1, &[14, 11]), Ok(()));
    assert_eq!(
        run(0, &[9, 11]),
        Err(Error::Index {
            name: "candidates",
            at: 1,
            value: 11,
            low: 9,
            high: 11
        })
    );
    assert_eq!(
        run(1, &[10]),
        Err(Error::Index {
            name: "candidates",
            at: 0,
            value: 10,
            low: 11,
            high: 15
        })
    );
    assert_eq!(
        run(2, &[1]),
        Err(Error::Level {
            level: 2,
            levels: 2
        })
    );
}

#[test]
fn indices_and_lengths_are_checked_before_anything_is_written() {
    let (layout, dims) = small();
    let (mut value, mut scale, mut offset) = (
        vec![7f32; layout.items() * 2],
        vec![7f32; layout.segments() * 2],
        vec![7f32; layout.segments() * 2],
    );
    let mut coarsen = |token: &[i64], x: &[f32]| {
        let state = StateMut {
            value: &mut value,
            scale: &mut scale,
            offset: &mut offset,
        };
        vcc_core::coarsen(
            &layout,
            dims,
            x,
            token,
            &vec![1; layout.items()],
            state,
            &sequential,
        )
    };
    let mut token = vec![0; layout.items()];
    token[5] = 9;
    assert_eq!(
        coarsen(&token, &[0.0; 18]),
        Err(Error::Index {
            name: "item_token",
            at: 5,
            value: 9,
            low: 0,
            high: 9
        })
    );
    assert_eq!(
        coarsen(&token[1..], &[0.0; 18]),
        Err(Error::Length {
            name: "item_token",
            got: 14,
            want: 15
        })
    );
    assert_eq!(
        coarsen(&token, &[0.0; 17]),
        Err(Error::Length {
            name: "x",
            got: 17,
            want: 16
        })
    );
    assert!(value.iter().chain(&scale).chain(&offset).all(|&x| x == 7.0));
}
