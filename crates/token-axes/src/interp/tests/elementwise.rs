use super::*;

#[test]
fn binary_operators_broadcast_and_keep_their_type() {
    let found = node(
        18,
        "Add",
        &[Ints(&[2, 1], &[1, 2]), Ints(&[3], &[10, 20, 30])],
        &[],
        1,
    );
    assert_eq!(found.shape(0), Some(vec![2, 3]));
    assert_eq!(found.ints(), [11, 21, 31, 12, 22, 32]);
    let found = node(18, "Less", &[Ints(&[2], &[1, 2]), Ints(&[], &[2])], &[], 1);
    assert_eq!(found.content(), Some(Content::Bool(vec![true, false])));
    assert_eq!(found.dtype(0), Some(DataType::Bool));
}

#[test]
fn int32_wraps_and_f16_rounds() {
    let max = [f64::from(i32::MAX)];
    let found = node(
        18,
        "Add",
        &[
            Of(DataType::Int32, &[1], &max),
            Of(DataType::Int32, &[1], &[1.0]),
        ],
        &[],
        1,
    );
    assert_eq!(found.ints(), [i64::from(i32::MIN)]);
    let half = [
        Of(DataType::Float16, &[1], &[2048.0]),
        Of(DataType::Float16, &[1], &[1.0]),
    ];
    assert_eq!(node(18, "Add", &half, &[], 1).floats(), [2048.0]);
    assert_eq!(
        node(
            18,
            "Mul",
            &[Of(F32, &[1], &[1e30]), Of(F32, &[1], &[1e30])],
            &[],
            1
        )
        .floats(),
        [f64::INFINITY]
    );
}

#[test]
fn casts() {
    let to = |t: DataType| [attr_int("to", i64::from(t as i32))];
    let x = [Floats(&[4], &[-1.9, 0.0, 2.7, 3e38])];
    assert_eq!(
        node(18, "Cast", &x, &to(I64), 1).ints(),
        [-1, 0, 2, i64::MAX]
    );
    let found = node(18, "Cast", &x, &to(DataType::Bool), 1);
    assert_eq!(
        found.content(),
        Some(Content::Bool(vec![true, false, true, true]))
    );
    assert_eq!(
        node(18, "Cast", &[Bools(&[2], &[true, false])], &to(F32), 1).floats(),
        [1.0, 0.0]
    );
    let like = node(
        18,
        "CastLike",
        &[Ints(&[1], &[3]), Input(F32, &[7])],
        &[],
        1,
    );
    assert_eq!((like.dtype(0), like.floats()), (Some(F32), vec![3.0]));
}

#[test]
fn where_chooses_by_condition() {
    let found = node(
        18,
        "Where",
        &[
            Bools(&[2, 1], &[true, false]),
            Ints(&[2], &[1, 2]),
            Ints(&[], &[-1]),
        ],
        &[],
        1,
    );
    assert_eq!(found.shape(0), Some(vec![2, 2]));
    assert_eq!(found.ints(), [1, 2, -1, -1]);
    assert_eq!(found.dtype(0), Some(I64));
}

#[test]
fn clip_by_inputs_and_by_attributes() {
    let found = node(
        13,
        "Clip",
        &[Ints(&[3], &[-5, 0, 9]), Nothing, Ints(&[], &[4])],
        &[],
        1,
    );
    assert_eq!(found.ints(), [-5, 0, 4]);
    let found = node(
        6,
        "Clip",
        &[Floats(&[2], &[-5.0, 9.0])],
        &[("min".to_owned(), AttrValue::Float(0.0))],
        1,
    );
    assert_eq!(found.floats(), [0.0, 9.0]);
}

#[test]
fn variadic_operators_fold() {
    let found = node(
        13,
        "Max",
        &[Ints(&[1], &[2]), Ints(&[2], &[1, 3]), Ints(&[], &[0])],
        &[],
        1,
    );
    assert_eq!(found.ints(), [2, 3]);
}

#[test]
fn a_training_dropout_is_not_followed() {
    let x = || Ints(&[2], &[1, 2]);
    assert_eq!(node(13, "Dropout", &[x()], &[], 2).ints(), [1, 2]);
    let trains = node(
        13,
        "Dropout",
        &[x(), Floats(&[], &[0.5]), Bools(&[], &[true])],
        &[],
        2,
    );
    assert_eq!((trains.shape(0), trains.content()), (Some(vec![2]), None));
}
