use super::*;

fn product(a: &[i64], b: &[i64]) -> Option<Vec<i64>> {
    shape_of("MatMul", &[Input(F32, a), Input(F32, b)], &[])
}

#[test]
fn shapes_of_products() {
    assert_eq!(product(&[2, 3, 4], &[4, 5]), Some(vec![2, 3, 5]));
    assert_eq!(product(&[7, 1, 3, 4], &[6, 4, 5]), Some(vec![7, 6, 3, 5]));
    assert_eq!(product(&[4], &[4, 5]), Some(vec![5]));
    assert_eq!(product(&[2, 3, 4], &[4]), Some(vec![2, 3]));
    assert_eq!(product(&[4], &[4]), Some(vec![]));
    assert_eq!(product(&[4], &[3, 4, 5]), Some(vec![3, 5]));
    assert_eq!(product(&[3, 4], &[5, 4]), None);
    assert_eq!(product(&[], &[4, 4]), None);
}

#[test]
fn contents_of_products() {
    let a = Floats(&[2, 1, 2], &[1.0, 2.0, 3.0, 4.0]);
    let b = Floats(&[2, 3], &[1.0, 0.0, 2.0, 0.0, 1.0, 3.0]);
    let found = node(13, "MatMul", &[a, b], &[], 1);
    assert_eq!(found.shape(0), Some(vec![2, 1, 3]));
    assert_eq!(found.floats(), [1.0, 2.0, 8.0, 3.0, 4.0, 18.0]);
    let found = node(
        13,
        "MatMul",
        &[Ints(&[1, 2], &[1, 2]), Ints(&[2, 1], &[3, 4])],
        &[],
        1,
    );
    assert_eq!(found.ints(), [11]);
}

#[test]
fn gemm() {
    let gemm = |attributes: &[(String, AttrValue)]| {
        shape_of(
            "Gemm",
            &[Input(F32, &[2, 3]), Input(F32, &[5, 3])],
            attributes,
        )
    };
    assert_eq!(gemm(&[attr_int("transB", 1)]), Some(vec![2, 5]));
    assert_eq!(gemm(&[]), None);
}

#[test]
fn einsum() {
    let sum = |equation: &str, a: &[i64], b: &[i64]| {
        shape_of(
            "Einsum",
            &[Input(F32, a), Input(F32, b)],
            &[attr_str("equation", equation)],
        )
    };
    assert_eq!(
        sum("bhqd,bhkd->bhqk", &[2, 3, 5, 7], &[2, 3, 11, 7]),
        Some(vec![2, 3, 5, 11])
    );
    assert_eq!(
        sum("...i, ij -> ...j", &[2, 3, 4], &[4, 5]),
        Some(vec![2, 3, 5])
    );
    assert_eq!(sum("ij,jk", &[2, 3], &[3, 5]), Some(vec![2, 5]));
    assert_eq!(sum("i,j->ij", &[2], &[3]), Some(vec![2, 3]));
    assert_eq!(sum("ij,jk->ik", &[2, 3], &[4, 5]), None);
    assert_eq!(sum("ij,jk->iz", &[2, 3], &[3, 5]), None);
    assert_eq!(sum("ijk,jk->ik", &[2, 3], &[3, 5]), None);
    let outer = [Floats(&[2], &[1.0, 2.0]), Floats(&[2], &[10.0, 20.0])];
    let found = node(13, "Einsum", &outer, &[attr_str("equation", "i,j->ij")], 1);
    assert_eq!(found.floats(), [10.0, 20.0, 20.0, 40.0]);
    let trace = [Floats(&[2, 2], &[1.0, 2.0, 3.0, 4.0])];
    assert_eq!(
        node(13, "Einsum", &trace, &[attr_str("equation", "ii->")], 1).floats(),
        [5.0]
    );
}

#[test]
fn quantised_products() {
    let u8 = DataType::Uint8;
    let found = node(
        13,
        "MatMulInteger",
        &[Input(u8, &[2, 3, 4]), Input(u8, &[4, 5])],
        &[],
        1,
    );
    assert_eq!(
        (found.shape(0), found.dtype(0)),
        (Some(vec![2, 3, 5]), Some(DataType::Int32))
    );
    let (s, z) = (|| Input(F32, &[]), || Input(DataType::Int8, &[]));
    let operands = [
        Input(u8, &[2, 4]),
        s(),
        z(),
        Input(u8, &[4, 5]),
        s(),
        z(),
        s(),
        z(),
    ];
    let found = node(13, "QLinearMatMul", &operands, &[], 1);
    assert_eq!(
        (found.shape(0), found.dtype(0)),
        (Some(vec![2, 5]), Some(DataType::Int8))
    );
}

#[test]
fn fused_products() {
    let fused = |a: &[i64], b: &[i64], attributes: &[(String, AttrValue)]| {
        shape_of(
            "com.microsoft:FusedMatMul",
            &[Input(F32, a), Input(F32, b)],
            attributes,
        )
    };
    assert_eq!(
        fused(&[2, 3, 5, 7], &[2, 3, 11, 7], &[attr_int("transB", 1)]),
        Some(vec![2, 3, 5, 11])
    );
    assert_eq!(
        fused(&[2, 7, 5], &[2, 7, 11], &[attr_int("transA", 1)]),
        Some(vec![2, 5, 11])
    );
    // [n, B, d] read as [B, n, d].
    assert_eq!(
        fused(&[5, 2, 7], &[2, 7, 11], &[attr_int("transBatchA", 1)]),
        Some(vec![2, 5, 11])
    );
    let batch = attr_int("transBatchA", 1);
    assert_eq!(
        fused(&[5, 2, 3, 7], &[2, 3, 7, 11], &[batch]),
        Some(vec![2, 3, 5, 11])
    );
}
