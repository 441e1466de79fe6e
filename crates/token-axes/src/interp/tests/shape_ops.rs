use super::*;

#[test]
fn shape_of_a_part() {
    let x = || [Input(F32, &[2, 3, 4])];
    assert_eq!(node(18, "Shape", &x(), &[], 1).ints(), [2, 3, 4]);
    assert_eq!(
        node(
            18,
            "Shape",
            &x(),
            &[attr_int("start", 1), attr_int("end", -1)],
            1
        )
        .ints(),
        [3]
    );
    assert_eq!(
        node(
            18,
            "Shape",
            &x(),
            &[attr_int("start", 2), attr_int("end", 1)],
            1
        )
        .ints(),
        [0i64; 0]
    );
    assert_eq!(node(18, "Size", &x(), &[], 1).ints(), [24]);
    // What a graph input holds is assumed, its shape is not.
    let found = node(18, "Shape", &x(), &[], 1);
    assert!(!found.facts.assumed(found.outputs[0]));
}

#[test]
fn reshape_targets() {
    let x = || Input(F32, &[2, 3, 4]);
    let to =
        |target: &[i64]| shape_of("Reshape", &[x(), Ints(&[target.len() as i64], target)], &[]);
    assert_eq!(to(&[0, -1]), Some(vec![2, 12]));
    assert_eq!(to(&[-1, 0, 2]), Some(vec![4, 3, 2]));
    assert_eq!(to(&[24]), Some(vec![24]));
    assert_eq!(to(&[5, -1]), None);
    assert_eq!(to(&[-1, -1]), None);
    assert_eq!(to(&[7]), None);
    assert_eq!(to(&[-2, 12]), None);
    let empty = |allow: i64| {
        shape_of(
            "Reshape",
            &[Input(F32, &[0, 3]), Ints(&[2], &[3, 0])],
            &[attr_int("allowzero", allow)],
        )
    };
    assert_eq!(empty(1), Some(vec![3, 0]));
    assert_eq!(empty(0), None);
    assert_eq!(
        node(4, "Reshape", &[x()], &[attr_ints("shape", &[6, 4])], 1).shape(0),
        Some(vec![6, 4])
    );
}

#[test]
fn an_unknown_target_gives_a_reason() {
    let found = node(
        18,
        "Reshape",
        &[Input(F32, &[2, 3]), Input(F32, &[2])],
        &[],
        1,
    );
    assert_eq!(found.shape(0), None);
    assert!(
        found.reason().contains("content of input 1"),
        "{}",
        found.reason()
    );
}

#[test]
fn squeeze_and_unsqueeze() {
    let x = || Input(F32, &[1, 3, 1]);
    assert_eq!(shape_of("Squeeze", &[x()], &[]), Some(vec![3]));
    assert_eq!(
        shape_of("Squeeze", &[x(), Ints(&[1], &[-1])], &[]),
        Some(vec![1, 3])
    );
    assert_eq!(shape_of("Squeeze", &[x(), Ints(&[1], &[1])], &[]), None);
    assert_eq!(
        node(11, "Squeeze", &[x()], &[attr_ints("axes", &[0])], 1).shape(0),
        Some(vec![3, 1])
    );
    assert_eq!(
        shape_of("Unsqueeze", &[x(), Ints(&[2], &[0, -1])], &[]),
        Some(vec![1, 1, 3, 1, 1])
    );
    assert_eq!(
        node(11, "Unsqueeze", &[x()], &[attr_ints("axes", &[3])], 1).shape(0),
        Some(vec![1, 3, 1, 1])
    );
    assert_eq!(
        shape_of("Unsqueeze", &[x(), Ints(&[2], &[0, 0])], &[]),
        None
    );
}

#[test]
fn flatten() {
    let x = || [Input(F32, &[2, 3, 4])];
    assert_eq!(shape_of("Flatten", &x(), &[]), Some(vec![2, 12]));
    assert_eq!(
        shape_of("Flatten", &x(), &[attr_int("axis", 0)]),
        Some(vec![1, 24])
    );
    assert_eq!(
        shape_of("Flatten", &x(), &[attr_int("axis", 3)]),
        Some(vec![24, 1])
    );
    assert_eq!(
        shape_of("Flatten", &x(), &[attr_int("axis", -1)]),
        Some(vec![6, 4])
    );
}

#[test]
fn ranges() {
    let int = |a, b, c| {
        node(
            18,
            "Range",
            &[Ints(&[], &[a]), Ints(&[], &[b]), Ints(&[], &[c])],
            &[],
            1,
        )
    };
    assert_eq!(int(0, 5, 2).ints(), [0, 2, 4]);
    assert_eq!(int(5, 0, -2).ints(), [5, 3, 1]);
    assert_eq!(int(5, 0, 2).ints(), [0i64; 0]);
    assert_eq!(int(0, 5, 0).shape(0), None);
    // Longer than any content, but of known length.
    assert_eq!(int(0, i64::MAX, 1).shape(0), Some(vec![i64::MAX]));
    let float = node(
        18,
        "Range",
        &[
            Floats(&[], &[0.0]),
            Floats(&[], &[1.0]),
            Floats(&[], &[0.25]),
        ],
        &[],
        1,
    );
    assert_eq!(float.floats(), [0.0, 0.25, 0.5, 0.75]);
}

#[test]
fn constants_of_a_shape() {
    let found = node(18, "ConstantOfShape", &[Ints(&[2], &[2, 1])], &[], 1);
    assert_eq!(
        (found.shape(0), found.floats()),
        (Some(vec![2, 1]), vec![0.0, 0.0])
    );
    let seven = (
        "value".to_owned(),
        AttrValue::Tensor(Tensor::from_i64s(&[1], &[7])),
    );
    let found = node(18, "ConstantOfShape", &[Ints(&[1], &[3])], &[seven], 1);
    assert_eq!((found.dtype(0), found.ints()), (Some(I64), vec![7, 7, 7]));
    assert_eq!(shape_of("ConstantOfShape", &[Ints(&[1], &[-1])], &[]), None);
    // Too large to hold.
    let found = node(
        18,
        "ConstantOfShape",
        &[Ints(&[2], &[1 << 20, 1 << 20])],
        &[],
        1,
    );
    assert_eq!(
        (found.shape(0), found.content()),
        (Some(vec![1 << 20, 1 << 20]), None)
    );
}

#[test]
fn splits() {
    let x = || Ints(&[5], &[1, 2, 3, 4, 5]);
    let found = node(18, "Split", &[x()], &[attr_int("num_outputs", 2)], 2);
    assert_eq!(
        (found.shape(0), found.shape(1)),
        (Some(vec![3]), Some(vec![2]))
    );
    assert_eq!(
        found.facts.content(found.outputs[1]),
        Some(&Content::Int(vec![4, 5]))
    );
    let found = node(13, "Split", &[x(), Ints(&[2], &[1, 4])], &[], 2);
    assert_eq!(
        (found.shape(0), found.shape(1)),
        (Some(vec![1]), Some(vec![4]))
    );
    let found = node(11, "Split", &[x()], &[attr_ints("split", &[2, 3])], 2);
    assert_eq!(found.ints(), [1, 2]);
    assert_eq!(
        node(13, "Split", &[x(), Ints(&[2], &[1, 1])], &[], 2).shape(0),
        None
    );
}
