use super::*;

fn conv(x: &[i64], w: &[i64], attributes: &[(String, AttrValue)]) -> Option<Vec<i64>> {
    shape_of("Conv", &[Input(F32, x), Input(F32, w)], attributes)
}

#[test]
fn convolutions() {
    assert_eq!(
        conv(
            &[2, 3, 30, 30],
            &[32, 3, 6, 6],
            &[attr_ints("strides", &[6, 6])]
        ),
        Some(vec![2, 32, 5, 5])
    );
    assert_eq!(
        conv(&[2, 4, 9], &[8, 4, 3], &[attr_ints("pads", &[1, 1])]),
        Some(vec![2, 8, 9])
    );
    assert_eq!(
        conv(&[2, 4, 9], &[8, 4, 3], &[attr_ints("dilations", &[2])]),
        Some(vec![2, 8, 5])
    );
    assert_eq!(
        conv(&[2, 4, 9], &[4, 1, 3], &[attr_int("group", 4)]),
        Some(vec![2, 4, 7])
    );
    let same = [
        attr_str("auto_pad", "SAME_UPPER"),
        attr_ints("strides", &[2]),
    ];
    assert_eq!(conv(&[1, 1, 9], &[1, 1, 4], &same), Some(vec![1, 1, 5]));
    assert_eq!(conv(&[2, 5, 9], &[8, 4, 3], &[]), None);
    assert_eq!(conv(&[2, 4, 2], &[8, 4, 3], &[]), None);
    assert_eq!(conv(&[2, 4, 9], &[8, 4, 3, 3], &[]), None);
    assert_eq!(
        conv(&[2, 4, 9], &[8, 4, 3], &[attr_ints("strides", &[0])]),
        None
    );
    assert_eq!(
        conv(&[2, 4, 9], &[8, 4, 3], &[attr_ints("pads", &[1])]),
        None
    );
}

#[test]
fn pools() {
    let pool = |attributes: &[(String, AttrValue)]| {
        shape_of("MaxPool", &[Input(F32, &[1, 2, 8, 8])], attributes)
    };
    let two = || attr_ints("kernel_shape", &[3, 3]);
    assert_eq!(
        pool(&[two(), attr_ints("strides", &[2, 2])]),
        Some(vec![1, 2, 3, 3])
    );
    assert_eq!(
        pool(&[
            two(),
            attr_ints("strides", &[2, 2]),
            attr_int("ceil_mode", 1)
        ]),
        Some(vec![1, 2, 4, 4])
    );
    assert_eq!(
        shape_of("GlobalAveragePool", &[Input(F32, &[1, 2, 8, 8])], &[]),
        Some(vec![1, 2, 1, 1])
    );
}

#[test]
fn resizing() {
    let x = || Input(F32, &[1, 3, 4, 5]);
    let empty = || Floats(&[0], &[]);
    let scales = || Floats(&[4], &[1.0, 1.0, 2.0, 1.5]);
    assert_eq!(
        shape_of("Resize", &[x(), Nothing, scales()], &[]),
        Some(vec![1, 3, 8, 7])
    );
    assert_eq!(
        shape_of(
            "Resize",
            &[x(), Nothing, empty(), Ints(&[4], &[1, 3, 9, 9])],
            &[]
        ),
        Some(vec![1, 3, 9, 9])
    );
    assert_eq!(
        node(10, "Resize", &[x(), scales()], &[], 1).shape(0),
        Some(vec![1, 3, 8, 7])
    );
}

/// Against what ONNX Runtime gives.
#[test]
fn resized_contents_are_the_nearest() {
    let mode = |mode: &str, transformation: &str, nearest: &str| {
        [
            ("mode".to_owned(), AttrValue::Str(mode.into())),
            (
                "coordinate_transformation_mode".to_owned(),
                AttrValue::Str(transformation.into()),
            ),
            ("nearest_mode".to_owned(), AttrValue::Str(nearest.into())),
        ]
    };
    let count = |dims: &[i64]| {
        (0..dims.iter().product::<i64>())
            .map(|i| i as f32)
            .collect::<Vec<_>>()
    };
    let content =
        |dims: &[i64], sizes: &[i64], scales: &[f32], attributes: &[(String, AttrValue)]| {
            let x = count(dims);
            let (none, rank) = (scales.is_empty(), dims.len() as i64);
            let scales = Floats(if none { &[0] } else { &[2] }, scales);
            let sizes = if sizes.is_empty() {
                Nothing
            } else {
                Ints(&[rank], sizes)
            };
            let found = node(
                17,
                "Resize",
                &[Floats(dims, &x), Nothing, scales, sizes],
                attributes,
                1,
            );
            found.content().map(|_| found.floats())
        };
    let half = mode("nearest", "half_pixel", "floor");
    assert_eq!(
        content(&[1, 5], &[1, 3], &[], &half),
        Some(vec![0.0, 2.0, 3.0])
    );
    assert_eq!(
        content(&[1, 5], &[1, 3], &[], &[]),
        Some(vec![0.0, 2.0, 4.0])
    );
    let plain = mode("nearest", "asymmetric", "floor");
    let seven = vec![0.0, 0.0, 0.0, 1.0, 1.0, 2.0, 2.0];
    assert_eq!(content(&[1, 3], &[1, 7], &[], &plain), Some(seven));
    let ceil = mode("nearest", "asymmetric", "ceil");
    assert_eq!(
        content(&[2, 4], &[], &[1.0, 0.6], &ceil),
        Some(vec![0.0, 2.0, 4.0, 6.0])
    );
    // Other resamplings are known only where they change nothing.
    let linear = mode("linear", "half_pixel", "floor");
    assert_eq!(
        content(&[2, 2], &[2, 2], &[], &linear),
        Some(vec![0.0, 1.0, 2.0, 3.0])
    );
    assert_eq!(content(&[2, 2], &[2, 3], &[], &linear), None);
    let corners = mode("nearest", "align_corners", "floor");
    assert_eq!(content(&[2, 2], &[2, 3], &[], &corners), None);
}
