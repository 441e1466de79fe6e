//! Attention and the fused operators.

use super::*;

#[test]
fn standard_attention() {
    let four = [
        Input(F32, &[2, 8, 5, 16]),
        Input(F32, &[2, 4, 7, 16]),
        Input(F32, &[2, 4, 7, 12]),
    ];
    let found = node(23, "Attention", &four, &[], 4);
    assert_eq!(found.shape(0), Some(vec![2, 8, 5, 12]));
    assert_eq!(found.shape(1), Some(vec![2, 4, 7, 16]));
    assert_eq!(found.shape(3), Some(vec![2, 8, 5, 7]));
    let heads = [attr_int("q_num_heads", 8), attr_int("kv_num_heads", 4)];
    let three = || {
        [
            Input(F32, &[2, 5, 128]),
            Input(F32, &[2, 7, 64]),
            Input(F32, &[2, 7, 48]),
        ]
    };
    let found = node(23, "Attention", &three(), &heads, 2);
    assert_eq!(
        (found.shape(0), found.shape(1)),
        (Some(vec![2, 5, 96]), Some(vec![2, 4, 7, 16]))
    );
    assert_eq!(node(23, "Attention", &three(), &[], 1).shape(0), None);
    let mut masked = three().to_vec_with(Input(F32, &[2, 1, 3, 7]));
    assert_eq!(node(23, "Attention", &masked, &heads, 1).shape(0), None);
    masked = three().to_vec_with(Input(F32, &[2, 1, 1, 7]));
    assert_eq!(
        node(23, "Attention", &masked, &heads, 1).shape(0),
        Some(vec![2, 5, 96])
    );
}

trait ToVecWith<'a> {
    fn to_vec_with(self, more: In<'a>) -> Vec<In<'a>>;
}

impl<'a> ToVecWith<'a> for [In<'a>; 3] {
    fn to_vec_with(self, more: In<'a>) -> Vec<In<'a>> {
        self.into_iter().chain([more]).collect()
    }
}

#[test]
fn packed_attention() {
    let heads = attr_int("num_heads", 4);
    let operands = || {
        [
            Input(F32, &[2, 5, 32]),
            Input(F32, &[32, 96]),
            Input(F32, &[96]),
        ]
    };
    let found = node(
        17,
        "com.microsoft:Attention",
        &operands(),
        std::slice::from_ref(&heads),
        2,
    );
    assert_eq!(
        (found.shape(0), found.shape(1)),
        (Some(vec![2, 5, 32]), Some(vec![2, 2, 4, 5, 8]))
    );
    let sizes = attr_ints("qkv_hidden_sizes", &[40, 40, 16]);
    let found = node(
        17,
        "com.microsoft:Attention",
        &operands(),
        &[heads, sizes],
        1,
    );
    assert_eq!(found.shape(0), Some(vec![2, 5, 16]));
    let u8 = DataType::Uint8;
    let quantised = [
        Input(u8, &[2, 5, 32]),
        Input(u8, &[32, 96]),
        Input(F32, &[96]),
        Input(F32, &[]),
    ];
    let found = node(
        17,
        "com.microsoft:QAttention",
        &quantised,
        &[attr_int("num_heads", 4)],
        1,
    );
    assert_eq!(
        (found.shape(0), found.dtype(0)),
        (Some(vec![2, 5, 32]), Some(F32))
    );
}

#[test]
fn multi_head_attention() {
    let mha = |operands: &[In]| {
        shape_of(
            "com.microsoft:MultiHeadAttention",
            operands,
            &[attr_int("num_heads", 4)],
        )
    };
    assert_eq!(
        mha(&[
            Input(F32, &[2, 5, 32]),
            Input(F32, &[2, 7, 32]),
            Input(F32, &[2, 7, 48])
        ]),
        Some(vec![2, 5, 48])
    );
    assert_eq!(mha(&[Input(F32, &[2, 5, 4, 3, 8])]), Some(vec![2, 5, 32]));
    assert_eq!(
        mha(&[Input(F32, &[2, 5, 32]), Input(F32, &[2, 7, 4, 2, 8])]),
        Some(vec![2, 5, 32])
    );
    assert_eq!(
        mha(&[
            Input(F32, &[2, 5, 32]),
            Input(F32, &[2, 4, 7, 8]),
            Input(F32, &[2, 4, 7, 8])
        ]),
        Some(vec![2, 5, 32])
    );
}

#[test]
fn fused_normalisations() {
    let x = || Input(F32, &[2, 5, 32]);
    let found = node(
        17,
        "com.microsoft:SkipLayerNormalization",
        &[x(), x(), Input(F32, &[32])],
        &[],
        4,
    );
    assert_eq!(
        (found.shape(0), found.shape(1), found.shape(3)),
        (
            Some(vec![2, 5, 32]),
            Some(vec![2, 5, 1]),
            Some(vec![2, 5, 32])
        )
    );
    let i32 = DataType::Int32;
    let half = DataType::Float16;
    let ids = [
        Input(i32, &[2, 5]),
        Input(i32, &[2, 5]),
        Input(half, &[100, 32]),
        Input(half, &[64, 32]),
    ];
    let found = node(17, "com.microsoft:EmbedLayerNormalization", &ids, &[], 3);
    assert_eq!(
        (found.shape(0), found.shape(1), found.shape(2)),
        (Some(vec![2, 5, 32]), Some(vec![2]), Some(vec![2, 5, 32]))
    );
    assert_eq!((found.dtype(0), found.dtype(1)), (Some(half), Some(i32)));
}

#[test]
fn packed_weights() {
    let found = node(
        17,
        "com.microsoft:MatMulNBits",
        &[
            Input(F32, &[2, 5, 32]),
            Input(DataType::Uint8, &[64, 1, 16]),
        ],
        &[attr_int("N", 64)],
        1,
    );
    assert_eq!(
        (found.shape(0), found.dtype(0)),
        (Some(vec![2, 5, 64]), Some(F32))
    );
}
