use super::*;

#[test]
fn transpose() {
    let x = || [Ints(&[2, 3], &[1, 2, 3, 4, 5, 6])];
    let found = node(18, "Transpose", &x(), &[], 1);
    assert_eq!(
        (found.shape(0), found.ints()),
        (Some(vec![3, 2]), vec![1, 4, 2, 5, 3, 6])
    );
    let y = [Input(F32, &[2, 3, 4, 5])];
    assert_eq!(
        shape_of("Transpose", &y, &[attr_ints("perm", &[0, 2, 1, 3])]),
        Some(vec![2, 4, 3, 5])
    );
    assert_eq!(
        shape_of("Transpose", &x(), &[attr_ints("perm", &[0, 0])]),
        None
    );
}

#[test]
fn expand_is_two_way() {
    let found = node(
        18,
        "Expand",
        &[Ints(&[2, 1], &[1, 2]), Ints(&[1], &[3])],
        &[],
        1,
    );
    assert_eq!(
        (found.shape(0), found.ints()),
        (Some(vec![2, 3]), vec![1, 1, 1, 2, 2, 2])
    );
    assert_eq!(
        shape_of(
            "Expand",
            &[Input(F32, &[3, 4]), Ints(&[3], &[2, 1, 1])],
            &[]
        ),
        Some(vec![2, 3, 4])
    );
    assert_eq!(
        shape_of("Expand", &[Input(F32, &[3, 4]), Ints(&[1], &[5])], &[]),
        None
    );
}

#[test]
fn tile() {
    let found = node(
        18,
        "Tile",
        &[Ints(&[1, 2], &[1, 2]), Ints(&[2], &[2, 2])],
        &[],
        1,
    );
    assert_eq!(
        (found.shape(0), found.ints()),
        (Some(vec![2, 4]), vec![1, 2, 1, 2, 1, 2, 1, 2])
    );
}

#[test]
fn concat() {
    let (a, b) = (|| Ints(&[2, 1], &[1, 2]), || Ints(&[2, 2], &[3, 4, 5, 6]));
    let found = node(18, "Concat", &[a(), b()], &[attr_int("axis", -1)], 1);
    assert_eq!(
        (found.shape(0), found.ints()),
        (Some(vec![2, 3]), vec![1, 3, 4, 2, 5, 6])
    );
    let empty = node(
        18,
        "Concat",
        &[Ints(&[0], &[]), Ints(&[1], &[7]), Ints(&[0], &[])],
        &[attr_int("axis", 0)],
        1,
    );
    assert_eq!(empty.ints(), [7]);
    assert_eq!(
        shape_of("Concat", &[a(), b()], &[attr_int("axis", 0)]),
        None
    );
}

#[test]
fn slices() {
    let x = || Ints(&[2, 4], &[0, 1, 2, 3, 4, 5, 6, 7]);
    let cut = |starts: &[i64], ends: &[i64], axes: &[i64], steps: &[i64]| {
        let n = [starts.len() as i64];
        node(
            13,
            "Slice",
            &[
                x(),
                Ints(&n, starts),
                Ints(&n, ends),
                Ints(&n, axes),
                Ints(&n, steps),
            ],
            &[],
            1,
        )
    };
    assert_eq!(cut(&[1], &[i64::MAX], &[1], &[2]).ints(), [1, 3, 5, 7]);
    let backwards = cut(&[-1], &[i64::MIN], &[-1], &[-1]);
    assert_eq!(
        (backwards.shape(0), backwards.ints()),
        (Some(vec![2, 4]), vec![3, 2, 1, 0, 7, 6, 5, 4])
    );
    assert_eq!(cut(&[0, 1], &[1, 3], &[0, 1], &[1, 1]).ints(), [1, 2]);
    assert_eq!(cut(&[3], &[1], &[1], &[1]).shape(0), Some(vec![2, 0]));
    assert_eq!(cut(&[0], &[1], &[1], &[0]).shape(0), None);
    let old = node(
        9,
        "Slice",
        &[x()],
        &[attr_ints("starts", &[0, 2]), attr_ints("ends", &[2, 4])],
        1,
    );
    assert_eq!(old.ints(), [2, 3, 6, 7]);
}

#[test]
fn a_slice_of_a_large_integer_table_is_known() {
    let table: Vec<i64> = (0..100_000).collect();
    let found = node(
        13,
        "Slice",
        &[
            Ints(&[1, 100_000], &table),
            Ints(&[1], &[5]),
            Ints(&[1], &[8]),
            Ints(&[1], &[1]),
        ],
        &[],
        1,
    );
    assert_eq!(found.ints(), [5, 6, 7]);
}

#[test]
fn pads() {
    let x = || Ints(&[1, 2], &[1, 2]);
    let found = node(
        13,
        "Pad",
        &[x(), Ints(&[4], &[1, 0, 0, 1]), Ints(&[], &[9])],
        &[],
        1,
    );
    assert_eq!(
        (found.shape(0), found.ints()),
        (Some(vec![2, 3]), vec![9, 9, 9, 1, 2, 9])
    );
    let crop = node(13, "Pad", &[x(), Ints(&[4], &[0, -1, 0, 0])], &[], 1);
    assert_eq!(crop.ints(), [2]);
    let axes = node(
        18,
        "Pad",
        &[x(), Ints(&[2], &[1, 1]), Nothing, Ints(&[1], &[-1])],
        &[],
        1,
    );
    assert_eq!(axes.ints(), [0, 1, 2, 0]);
    let old = node(
        2,
        "Pad",
        &[Input(F32, &[2, 2])],
        &[attr_ints("pads", &[0, 1, 0, 1])],
        1,
    );
    assert_eq!(old.shape(0), Some(vec![2, 4]));
    let edge = node(
        13,
        "Pad",
        &[x(), Ints(&[4], &[0, 1, 0, 0])],
        &[attr_str("mode", "edge")],
        1,
    );
    assert_eq!((edge.shape(0), edge.content()), (Some(vec![1, 3]), None));
}

#[test]
fn triangles() {
    let x = || Ints(&[2, 3], &[1, 2, 3, 4, 5, 6]);
    assert_eq!(node(14, "Trilu", &[x()], &[], 1).ints(), [1, 2, 3, 0, 5, 6]);
    assert_eq!(
        node(14, "Trilu", &[x(), Ints(&[], &[1])], &[], 1).ints(),
        [0, 2, 3, 0, 0, 6]
    );
    assert_eq!(
        node(14, "Trilu", &[x()], &[attr_int("upper", 0)], 1).ints(),
        [1, 0, 0, 4, 5, 0]
    );
}
