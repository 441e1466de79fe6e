use super::*;

#[test]
fn reductions() {
    let x = || Ints(&[2, 3], &[1, 2, 3, 4, 5, 6]);
    let sum = node(
        13,
        "ReduceSum",
        &[x(), Ints(&[1], &[1])],
        &[attr_int("keepdims", 0)],
        1,
    );
    assert_eq!((sum.shape(0), sum.ints()), (Some(vec![2]), vec![6, 15]));
    let all = node(13, "ReduceSum", &[x()], &[], 1);
    assert_eq!((all.shape(0), all.ints()), (Some(vec![1, 1]), vec![21]));
    let none = node(
        13,
        "ReduceSum",
        &[x()],
        &[attr_int("noop_with_empty_axes", 1)],
        1,
    );
    assert_eq!(none.shape(0), Some(vec![2, 3]));
    let max = node(11, "ReduceMax", &[x()], &[attr_ints("axes", &[0])], 1);
    assert_eq!(
        (max.shape(0), max.ints()),
        (Some(vec![1, 3]), vec![4, 5, 6])
    );
    let mean = node(
        18,
        "ReduceMean",
        &[Floats(&[2, 2], &[1.0, 2.0, 3.0, 5.0]), Ints(&[1], &[-1])],
        &[],
        1,
    );
    assert_eq!(
        (mean.shape(0), mean.floats()),
        (Some(vec![2, 1]), vec![1.5, 4.0])
    );
}

#[test]
fn arg_max() {
    let x = || Ints(&[1, 4], &[3, 7, 7, 1]);
    let first = node(
        13,
        "ArgMax",
        &[x()],
        &[attr_int("axis", 1), attr_int("keepdims", 0)],
        1,
    );
    assert_eq!((first.shape(0), first.ints()), (Some(vec![1]), vec![1]));
    let last = node(
        13,
        "ArgMax",
        &[x()],
        &[attr_int("axis", -1), attr_int("select_last_index", 1)],
        1,
    );
    assert_eq!(last.ints(), [2]);
    assert_eq!(
        node(13, "ArgMin", &[x()], &[attr_int("axis", 1)], 1).ints(),
        [3]
    );
}

#[test]
fn normalisations() {
    let half = DataType::Float16;
    let found = node(
        17,
        "LayerNormalization",
        &[Input(half, &[2, 3, 4]), Input(half, &[4])],
        &[attr_int("axis", -1)],
        3,
    );
    assert_eq!(
        (found.shape(0), found.shape(1)),
        (Some(vec![2, 3, 4]), Some(vec![2, 3, 1]))
    );
    assert_eq!((found.dtype(0), found.dtype(2)), (Some(half), Some(F32)));
    assert_eq!(
        shape_of(
            "RMSNormalization",
            &[Input(F32, &[2, 3]), Input(F32, &[3])],
            &[]
        ),
        Some(vec![2, 3])
    );
    assert_eq!(
        shape_of("Softmax", &[Input(F32, &[2, 3])], &[attr_int("axis", 2)]),
        None
    );
}

#[test]
fn quantisation() {
    let found = node(13, "DynamicQuantizeLinear", &[Input(F32, &[2, 3])], &[], 3);
    assert_eq!(
        (found.shape(0), found.shape(1), found.shape(2)),
        (Some(vec![2, 3]), Some(vec![]), Some(vec![]))
    );
    assert_eq!(
        (found.dtype(0), found.dtype(1), found.dtype(2)),
        (Some(DataType::Uint8), Some(F32), Some(DataType::Uint8))
    );
    let x = Of(DataType::Uint8, &[3], &[0.0, 10.0, 20.0]);
    let found = node(
        13,
        "DequantizeLinear",
        &[x, Floats(&[], &[0.5]), Of(DataType::Uint8, &[], &[10.0])],
        &[],
        1,
    );
    assert_eq!(
        (found.dtype(0), found.floats()),
        (Some(F32), vec![-5.0, 0.0, 5.0])
    );
    let found = node(
        13,
        "QuantizeLinear",
        &[
            Input(F32, &[3]),
            Input(F32, &[]),
            Input(DataType::Int8, &[]),
        ],
        &[],
        1,
    );
    assert_eq!(found.dtype(0), Some(DataType::Int8));
}
