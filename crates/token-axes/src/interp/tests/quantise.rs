use super::*;

#[test]
fn quantised_per_tensor_rounds_half_to_even_and_saturates() {
    let x = Floats(&[6], &[0.5, 1.5, -0.5, 1000.0, -1000.0, 0.0]);
    let zero = Of(DataType::Uint8, &[], &[3.0]);
    let found = node(
        17,
        "QuantizeLinear",
        &[x, Floats(&[], &[1.0]), zero],
        &[],
        1,
    );
    assert_eq!(found.ints(), [3, 5, 3, 255, 0, 3]);
    assert_eq!(found.dtype(0), Some(DataType::Uint8));
}

#[test]
fn dequantised_per_axis_and_per_block() {
    let codes = Of(DataType::Int32, &[2, 2], &[1.0, 2.0, 3.0, 4.0]);
    let scales = [Floats(&[2], &[10.0, 100.0]), Nothing];
    let [scale, nothing] = scales;
    let axis = |a: i64| attr_int("axis", a);
    let found = node(
        21,
        "DequantizeLinear",
        &[codes, scale, nothing],
        &[axis(0)],
        1,
    );
    assert_eq!(found.floats(), [10.0, 20.0, 300.0, 400.0]);
    let codes = Of(DataType::Uint8, &[4, 1], &[1.0, 2.0, 3.0, 4.0]);
    let scale = Floats(&[2, 1], &[1.0, 0.5]);
    let zero = Of(DataType::Uint8, &[2, 1], &[1.0, 0.0]);
    let block = [axis(0), attr_int("block_size", 2)];
    let found = node(21, "DequantizeLinear", &[codes, scale, zero], &block, 1);
    assert_eq!(found.floats(), [0.0, 1.0, 1.5, 2.0]);
}

#[test]
fn parameters_of_another_length_are_not_followed() {
    let codes = Of(DataType::Uint8, &[4], &[1.0, 2.0, 3.0, 4.0]);
    let scale = Floats(&[2], &[1.0, 0.5]);
    let found = node(
        21,
        "DequantizeLinear",
        &[codes, scale],
        &[attr_int("axis", 0)],
        1,
    );
    assert_eq!((found.shape(0), found.content()), (Some(vec![4]), None));
}
