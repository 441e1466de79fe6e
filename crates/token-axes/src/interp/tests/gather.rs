use super::*;

#[test]
fn gather_on_an_axis() {
    let x = || Ints(&[2, 3], &[0, 1, 2, 10, 11, 12]);
    let found = node(
        13,
        "Gather",
        &[x(), Ints(&[2], &[2, -3])],
        &[attr_int("axis", 1)],
        1,
    );
    assert_eq!(
        (found.shape(0), found.ints()),
        (Some(vec![2, 2]), vec![2, 0, 12, 10])
    );
    let scalar = node(13, "Gather", &[x(), Ints(&[], &[1])], &[], 1);
    assert_eq!(
        (scalar.shape(0), scalar.ints()),
        (Some(vec![3]), vec![10, 11, 12])
    );
    let outside = node(13, "Gather", &[x(), Ints(&[1], &[2])], &[], 1);
    assert_eq!(
        (outside.shape(0), outside.content()),
        (Some(vec![1, 3]), None)
    );
    let far = node(
        13,
        "Gather",
        &[x(), Ints(&[2], &[i64::MIN, i64::MAX])],
        &[],
        1,
    );
    assert_eq!((far.shape(0), far.content()), (Some(vec![2, 3]), None));
}

#[test]
fn gather_elements_and_scatter_back() {
    let x = || Ints(&[2, 2], &[1, 2, 3, 4]);
    let at = || Ints(&[2, 2], &[0, 0, 1, -2]);
    let found = node(
        13,
        "GatherElements",
        &[x(), at()],
        &[attr_int("axis", 1)],
        1,
    );
    assert_eq!(found.ints(), [1, 1, 4, 3]);
    let found = node(
        18,
        "ScatterElements",
        &[x(), Ints(&[1, 2], &[1, 0]), Ints(&[1, 2], &[8, 9])],
        &[],
        1,
    );
    assert_eq!(found.ints(), [1, 9, 8, 4]);
    let sum = [attr_str("reduction", "add")];
    let found = node(
        18,
        "ScatterElements",
        &[x(), Ints(&[1, 2], &[1, 0]), Ints(&[1, 2], &[8, 9])],
        &sum,
        1,
    );
    assert_eq!((found.shape(0), found.content()), (Some(vec![2, 2]), None));
}

#[test]
fn gather_nd() {
    let x = || Ints(&[2, 3], &[0, 1, 2, 10, 11, 12]);
    let found = node(
        13,
        "GatherND",
        &[x(), Ints(&[2, 2], &[0, 1, -1, -1])],
        &[],
        1,
    );
    assert_eq!((found.shape(0), found.ints()), (Some(vec![2]), vec![1, 12]));
    let rows = node(13, "GatherND", &[x(), Ints(&[1, 1], &[1])], &[], 1);
    assert_eq!(
        (rows.shape(0), rows.ints()),
        (Some(vec![1, 3]), vec![10, 11, 12])
    );
    let batched = node(
        13,
        "GatherND",
        &[x(), Ints(&[2, 1], &[2, 0])],
        &[attr_int("batch_dims", 1)],
        1,
    );
    assert_eq!(
        (batched.shape(0), batched.ints()),
        (Some(vec![2]), vec![2, 10])
    );
    assert_eq!(
        node(13, "GatherND", &[x(), Ints(&[1, 3], &[0, 0, 0])], &[], 1).shape(0),
        None
    );
    assert_eq!(
        node(13, "GatherND", &[x(), Ints(&[], &[0])], &[], 1).shape(0),
        None
    );
}

#[test]
fn scatter_nd() {
    let x = || Ints(&[2, 2], &[1, 2, 3, 4]);
    let found = node(
        13,
        "ScatterND",
        &[x(), Ints(&[1, 1], &[1]), Ints(&[1, 2], &[8, 9])],
        &[],
        1,
    );
    assert_eq!(found.ints(), [1, 2, 8, 9]);
    let found = node(
        13,
        "ScatterND",
        &[x(), Ints(&[2, 2], &[0, 0, 1, 1]), Ints(&[2], &[8, 9])],
        &[],
        1,
    );
    assert_eq!(found.ints(), [8, 2, 3, 9]);
}

#[test]
fn cumulative_sums() {
    let x = || Ints(&[2, 3], &[1, 2, 3, 4, 5, 6]);
    let sum = |attributes: &[(String, AttrValue)]| {
        node(14, "CumSum", &[x(), Ints(&[], &[1])], attributes, 1).ints()
    };
    assert_eq!(sum(&[]), [1, 3, 6, 4, 9, 15]);
    assert_eq!(sum(&[attr_int("exclusive", 1)]), [0, 1, 3, 0, 4, 9]);
    assert_eq!(sum(&[attr_int("reverse", 1)]), [6, 5, 3, 15, 11, 6]);
    assert_eq!(
        node(14, "CumSum", &[x(), Ints(&[], &[-2])], &[], 1).ints(),
        [1, 2, 3, 5, 7, 9]
    );
}

#[test]
fn shapes_that_depend_on_content() {
    let known = node(13, "NonZero", &[Ints(&[2, 2], &[1, 0, 0, 5])], &[], 1);
    assert_eq!(
        (known.shape(0), known.ints()),
        (Some(vec![2, 2]), vec![0, 1, 0, 1])
    );
    assert!(!known.facts.assumed_shape(known.outputs[0]));
    let assumed = node(13, "NonZero", &[Input(I64, &[2, 2])], &[], 1);
    assert_eq!(assumed.shape(0), Some(vec![2, 4]));
    assert!(assumed.facts.assumed_shape(assumed.outputs[0]));
    assert_eq!(
        node(13, "NonZero", &[Input(I64, &[1000, 1000])], &[], 1).shape(0),
        None
    );
}

#[test]
fn one_hot_and_top_k() {
    let hot = |axis| {
        shape_of(
            "OneHot",
            &[Input(I64, &[2, 3]), Ints(&[], &[5]), Input(F32, &[2])],
            &[attr_int("axis", axis)],
        )
    };
    assert_eq!(hot(-1), Some(vec![2, 3, 5]));
    assert_eq!(hot(0), Some(vec![5, 2, 3]));
    let top = node(11, "TopK", &[Input(F32, &[2, 9]), Ints(&[1], &[4])], &[], 2);
    assert_eq!(
        (top.shape(0), top.shape(1)),
        (Some(vec![2, 4]), Some(vec![2, 4]))
    );
    assert_eq!((top.dtype(0), top.dtype(1)), (Some(F32), Some(I64)));
}
