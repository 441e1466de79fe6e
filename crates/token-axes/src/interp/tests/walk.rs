//! The walk over a graph, and the search for sizes.

use super::*;
use crate::interp::{Fill, Sample, complete, evaluate};

const IDS: [&str; 2] = ["batch", "seq"];

#[test]
fn a_shape_is_followed_through_arithmetic() {
    let mut net = Net::new(17);
    let ids = net.input("ids", I64, &IDS);
    let table = net.operand(&Floats(&[40, 8], &[0.5; 320])).unwrap();
    let x = net.op("Gather", &[table, ids]);
    let dims = net.op("Shape", &[x]);
    let (zero, one) = (net.ints(&[0]), net.ints(&[1]));
    let (batch, seq) = (
        net.op("Gather", &[dims, zero]),
        net.op("Gather", &[dims, one]),
    );
    let (heads, width) = (net.ints(&[2]), net.ints(&[4]));
    let parts = [batch, seq, heads, width].map(Some);
    let target = net.add("Concat", &parts, &[attr_int("axis", 0)], 1)[0];
    let y = net.op("Reshape", &[x, target]);
    let found = net.explore();
    assert_eq!(found.facts.len(), 4);
    for (sample, facts) in found.samples.iter().zip(&found.facts) {
        let (b, n) = (sample.dims["batch"], sample.dims["seq"]);
        assert_eq!(facts.shape(y), Some(&[b, n, 2, 4][..]));
        assert!(!facts.assumed(target) && !facts.constant(target) && facts.constant(heads));
        assert!(facts.assumed(x), "the rows of the table depend on the ids");
    }
}

#[test]
fn sizes_are_distinct_and_no_numbers_of_the_model() {
    let mut net = Net::new(17);
    let ids = net.input("ids", I64, &IDS);
    let table = net.operand(&Floats(&[11, 3], &[0.5; 33])).unwrap();
    net.op("Gather", &[table, ids]);
    let found = net.explore();
    let sizes =
        |symbol: &str| -> Vec<i64> { found.samples.iter().map(|s| s.dims[symbol]).collect() };
    let (batch, seq) = (sizes("batch"), sizes("seq"));
    assert!(batch.iter().zip(&seq).all(|(b, n)| b != n));
    for mut all in [batch, seq] {
        assert!(!all.contains(&11) && !all.contains(&3));
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 4);
    }
}

#[test]
fn symbols_that_are_added_are_equal() {
    let mut net = Net::new(17);
    let a = net.input("a", I64, &["batch", "seq"]);
    let b = net.input("b", I64, &["?", "other"]);
    let sum = net.op("Add", &[a, b]);
    let found = net.explore();
    assert_eq!(found.symbols["other"], "seq");
    assert_eq!(found.symbols["b:0"], "batch");
    for (sample, facts) in found.samples.iter().zip(&found.facts) {
        assert_eq!(
            facts.shape(sum),
            Some(&[sample.dims["batch"], sample.dims["seq"]][..])
        );
    }
}

#[test]
fn a_conflict_is_an_error_of_a_single_evaluation() {
    let mut net = Net::new(17);
    let a = net.input("a", I64, &["n"]);
    let b = net.input("b", I64, &["m"]);
    net.op("Add", &[a, b]);
    let dims = [("n".to_owned(), 5), ("m".to_owned(), 7)].into();
    let sample = Sample {
        dims,
        fill: Fill::Ones,
        features: [].into(),
    };
    let conflict = evaluate(&net.model, &sample).expect_err("5 is not 7");
    assert_eq!((conflict.a.as_str(), conflict.b.as_str()), ("n", "m"));
}

#[test]
fn a_coincidence_at_one_sample_merges_nothing() {
    let build = |more: i64| {
        let mut net = Net::new(17);
        let x = net.input("x", F32, &["n"]);
        let y = net.input("y", F32, &["m"]);
        let z = net.input("z", F32, &["k"]);
        let pads = net.ints(&[0, more]);
        let longer = net.op("Pad", &[x, pads]);
        let sum = net.op("Add", &[longer, y]);
        (net.explore(), sum, z)
    };
    let (found, ..) = build(1000);
    let size = |symbol: &str| found.samples[0].dims[symbol];
    // n and some zeros are as long as k, by chance, and meet m.
    let (found, sum, _) = build(size("k") - size("n"));
    assert_eq!(
        found.samples[0].dims["n"] + size("k") - size("n"),
        found.samples[0].dims["k"]
    );
    assert!(
        found.symbols.iter().all(|(symbol, root)| symbol == root),
        "{:?}",
        found.symbols
    );
    assert_eq!(found.facts[0].shape(sum), None);
}

#[test]
fn encoder_and_decoder_lengths_stay_apart() {
    let mut net = Net::new(17);
    let a = net.input("a", F32, &["batch", "seq", "8"]);
    let b = net.input("b", F32, &["batch", "dec", "8"]);
    let turned = net.add("Transpose", &[Some(b)], &[attr_ints("perm", &[0, 2, 1])], 1)[0];
    let scores = net.op("MatMul", &[a, turned]);
    let found = net.explore();
    assert_eq!(found.symbols["dec"], "dec");
    let dims = &found.samples[1].dims;
    assert_eq!(
        found.facts[1].shape(scores),
        Some(&[dims["batch"], dims["seq"], dims["dec"]][..])
    );
}

#[test]
fn a_full_index_merges_the_symbols_of_index_and_table() {
    let mut net = Net::new(17);
    let ids = net.input("ids", I64, &["b", "n"]);
    let mask = net.input("mask", I64, &["c", "m"]);
    let dims = net.op("Shape", &[ids]);
    let at = net.ints(&[1]);
    let n = net.op("Gather", &[dims, at]);
    let n = net.op("Squeeze", &[n]);
    let (zero, one) = (
        net.operand(&Ints(&[], &[0])).unwrap(),
        net.operand(&Ints(&[], &[1])).unwrap(),
    );
    let range = net.op("Range", &[zero, n, one]);
    net.add(
        "Gather",
        &[Some(mask), Some(range)],
        &[attr_int("axis", 1)],
        1,
    );
    let found = net.explore();
    assert_eq!(found.symbols["n"], found.symbols["m"]);
    assert_ne!(found.symbols["b"], found.symbols["c"]);
}

#[test]
fn a_baked_size_is_told() {
    let mut net = Net::new(17);
    let x = net.input("x", F32, &["seq", "batch", "8"]);
    let dims = net.op("Shape", &[x]);
    let at = net.ints(&[1]);
    let batch = net.op("Gather", &[dims, at]);
    let (seq, width) = (net.ints(&[23]), net.ints(&[8]));
    let target = net.add(
        "Concat",
        &[Some(seq), Some(batch), Some(width)],
        &[attr_int("axis", 0)],
        1,
    )[0];
    let y = net.op("Reshape", &[x, target]);
    let z = net.op("Relu", &[y]);
    let found = net.explore();
    for facts in &found.facts {
        assert_eq!(facts.shape(y), None);
        assert_eq!(facts.baked().len(), 1);
        assert_eq!(
            (facts.baked()[0].symbol.as_str(), facts.baked()[0].literal),
            ("seq", 23)
        );
        assert_eq!(facts.unknown(z).and_then(|u| u.from), Some(y));
    }
}

#[test]
fn the_channels_of_an_image_are_a_number() {
    let mut net = Net::new(17);
    let image = net.input("pixels", F32, &["batch", "channels", "height", "width"]);
    let kernel = net.operand(&Floats(&[8, 3, 4, 4], &[0.5; 384])).unwrap();
    let strides = [attr_ints("strides", &[4, 4])];
    let patches = net.add("Conv", &[Some(image), Some(kernel)], &strides, 1)[0];
    let found = net.explore();
    assert_eq!(found.numbers.get("channels"), Some(&3));
    for (sample, facts) in found.samples.iter().zip(&found.facts) {
        let d = &sample.dims;
        assert_eq!(
            facts.shape(patches),
            Some(&[d["batch"], 8, d["height"] / 4, d["width"] / 4][..])
        );
        assert_ne!(d["height"], d["width"]);
    }
}

/// What a convolution reads may be audio of thousands of samples, or one value per token: then a table need not be as long.
#[test]
fn audio_is_as_short_as_it_may_be() {
    let cut = |rows: usize, stride: i64| {
        let mut net = Net::new(17);
        let wave = net.input("wave", F32, &["batch", "1", "samples"]);
        let kernel = net.operand(&Floats(&[8, 1, 4], &[0.5; 32])).unwrap();
        let strides = [attr_ints("strides", &[stride])];
        let x = net.add("Conv", &[Some(wave), Some(kernel)], &strides, 1)[0];
        let dims = net.op("Shape", &[x]);
        let at = net.ints(&[2]);
        let n = net.op("Gather", &[dims, at]);
        let table = Floats(&[8, rows as i64], &vec![0.5; 8 * rows]);
        let table = net.operand(&table).unwrap();
        let (zero, axis) = (net.ints(&[0]), net.ints(&[1]));
        let positions = net.op("Slice", &[table, zero, n, axis]);
        let sum = net.op("Add", &[x, positions]);
        let found = net.explore();
        let shapes = found
            .facts
            .iter()
            .map(|f| f.shape(sum).map(<[i64]>::to_vec));
        let shapes: Option<Vec<_>> = shapes.collect();
        shapes.map(|s| s.iter().map(|s| s[2]).collect::<Vec<i64>>())
    };
    let few = cut(77, 2).expect("77 rows are enough");
    assert!(few.iter().all(|n| (5..77).contains(n)), "{few:?}");
    let subsampled = cut(77, 100).expect("77 rows are enough");
    assert!(
        subsampled.iter().all(|n| (2..77).contains(n)) && subsampled.is_sorted_by(|a, b| a != b),
        "{subsampled:?}"
    );
    assert_eq!(cut(5, 2), None, "a table that is shorter than any text");
}

/// A mask has the tokens that a convolution leaves of the samples: its symbol is no size of its own.
#[test]
fn a_symbol_takes_the_size_that_it_meets() {
    let mut net = Net::new(17);
    let wave = net.input("wave", F32, &["batch", "1", "samples"]);
    let mask = net.input("mask", F32, &["batch", "1", "tokens"]);
    let kernel = net.operand(&Floats(&[8, 1, 4], &[0.5; 32])).unwrap();
    let strides = [attr_ints("strides", &[2])];
    let x = net.add("Conv", &[Some(wave), Some(kernel)], &strides, 1)[0];
    let masked = net.op("Mul", &[x, mask]);
    let found = net.explore();
    for (sample, facts) in found.samples.iter().zip(&found.facts) {
        let tokens = (sample.dims["samples"] - 4) / 2 + 1;
        assert_eq!(sample.dims["tokens"], tokens);
        assert_eq!(
            facts.shape(masked),
            Some(&[sample.dims["batch"], 8, tokens][..])
        );
        assert!(facts.baked().is_empty());
    }
    let mut sample = found.samples[0].clone();
    sample.dims.insert("samples".to_owned(), 50);
    complete(&net.model, &found, &mut sample);
    assert_eq!(sample.dims["tokens"], 24);
}

/// No size is its own convolution.
#[test]
fn a_size_that_is_computed_from_itself_stays_unknown() {
    let mut net = Net::new(17);
    let x = net.input("x", F32, &["batch", "8", "n"]);
    let kernel = net.operand(&Floats(&[8, 8, 3], &[0.5; 192])).unwrap();
    let y = net.op("Conv", &[x, kernel]);
    let sum = net.op("Add", &[x, y]);
    let found = net.explore();
    assert!(found.facts.iter().all(|f| f.shape(sum).is_none()));
}

/// A table that is too short for some of the samples.
#[test]
fn a_largest_size_is_told() {
    let mut net = Net::new(17);
    let x = net.input("x", I64, &["batch", "n"]);
    let dims = net.op("Shape", &[x]);
    let at = net.ints(&[1]);
    let n = net.op("Gather", &[dims, at]);
    let table = net.operand(&Ints(&[17], &[1; 17])).unwrap();
    let zero = net.ints(&[0]);
    let cut = net.op("Slice", &[table, zero, n]);
    let sum = net.op("Add", &[x, cut]);
    let found = net.explore();
    let baked: Vec<_> = found.facts.iter().flat_map(|f| f.baked()).collect();
    assert!(!baked.is_empty() && baked.iter().all(|b| b.symbol == "n" && b.literal == 17));
    let cause = found
        .facts
        .iter()
        .find_map(|f| f.cause(sum))
        .expect("unknown");
    assert_eq!(
        cause.node,
        net.model.graph.value(sum).producer().map(|(n, _)| n)
    );
}

#[test]
fn the_lengths_of_a_second_encoder_are_short() {
    let mut net = Net::new(17);
    let inputs = ["a", "b", "c"].map(|n| net.input(n, I64, &["batch", n]));
    let found = net.explore();
    for (sample, facts) in found.samples.iter().zip(&found.facts) {
        let sizes = inputs.map(|v| facts.shape(v).map(|s| s[1]).expect("declared"));
        assert_eq!(sizes, ["a", "b", "c"].map(|n| sample.dims[n]));
        assert!(sizes.iter().all(|&n| n < 40), "{sizes:?}");
    }
}

#[test]
fn an_image_of_a_baked_size_is_found() {
    let mut net = Net::new(17);
    let image = net.input("pixels", F32, &["batch", "3", "height", "width"]);
    let kernel = net.operand(&Floats(&[8, 3, 4, 4], &[0.5; 384])).unwrap();
    let strides = [attr_ints("strides", &[4, 4])];
    let patches = net.add("Conv", &[Some(image), Some(kernel)], &strides, 1)[0];
    let target = net.ints(&[0, 8, -1]);
    let rows = net.op("Reshape", &[patches, target]);
    // 36 patches of 4 by 4: an image of 24 by 24.
    let positions = net.operand(&Floats(&[1, 8, 36], &[0.5; 288])).unwrap();
    let sum = net.op("Add", &[rows, positions]);
    let found = net.explore();
    assert_eq!(
        (found.numbers.get("height"), found.numbers.get("width")),
        (Some(&24), Some(&24))
    );
    for (sample, facts) in found.samples.iter().zip(&found.facts) {
        assert_eq!(facts.shape(sum), Some(&[sample.dims["batch"], 8, 36][..]));
    }
}

#[test]
fn tokens_in_windows_get_a_multiple_of_the_window() {
    let mut net = Net::new(17);
    let x = net.input("x", F32, &["batch", "seq", "4"]);
    let target = net.ints(&[0, -1, 8, 4]);
    let y = net.op("Reshape", &[x, target]);
    let found = net.explore();
    for (sample, facts) in found.samples.iter().zip(&found.facts) {
        assert_eq!(
            facts.shape(y),
            Some(&[sample.dims["batch"], sample.dims["seq"] / 8, 8, 4][..])
        );
    }
}

#[test]
fn contents_stop_where_the_budget_ends() {
    let mut net = Net::new(17);
    let dims = net.ints(&[1 << 16]);
    let all: Vec<_> = (0..300)
        .map(|_| net.op("ConstantOfShape", &[dims]))
        .collect();
    let found = net.explore();
    let facts = &found.facts[0];
    assert!(all.iter().all(|&v| facts.shape(v).is_some()));
    assert_eq!(
        all.iter().filter(|&&v| facts.content(v).is_some()).count(),
        256
    );
}

#[test]
fn many_symbols_are_no_burden() {
    let mut net = Net::new(17);
    let inputs: Vec<_> = (0..300)
        .map(|i| net.input(&format!("x{i}"), F32, &["?", "?"]))
        .collect();
    let sum = net.op("Sum", &inputs);
    let found = net.explore();
    assert_eq!(found.facts.len(), 4);
    assert!(found.facts[0].dtype(sum).is_some());
}

#[test]
fn an_unknown_operator_takes_the_declared_shape() {
    let mut net = Net::new(17);
    let x = net.input("x", F32, &["batch", "seq"]);
    let y = net.op("other.domain:Mystery", &[x]);
    let dims = vec![Dimension::Param("seq".to_owned()), Dimension::Value(4)];
    let info = onnx_model::ValueInfo {
        dtype: Some(F32),
        dims: Some(dims),
    };
    let z = net.op("other.domain:Mystery", &[x]);
    net.model.graph.set_info(y, Some(info));
    let found = net.explore();
    let facts = &found.facts[0];
    assert_eq!(facts.shape(y), Some(&[found.samples[0].dims["seq"], 4][..]));
    assert_eq!(facts.dtype(y), Some(F32));
    assert_eq!(facts.unknown(y), None);
    let why = facts.unknown(z).expect("nothing is known");
    assert!(
        why.reason.contains("other.domain.Mystery"),
        "{}",
        why.reason
    );
}

#[test]
fn a_declared_size_that_is_wrong_is_noted() {
    let mut net = Net::new(17);
    let x = net.input("x", F32, &["2", "3"]);
    let y = net.op("Relu", &[x]);
    let dims = vec![Dimension::Value(2), Dimension::Value(4)];
    net.model.graph.set_info(
        y,
        Some(onnx_model::ValueInfo {
            dtype: Some(F32),
            dims: Some(dims),
        }),
    );
    let found = net.explore();
    assert_eq!(found.facts[0].shape(y), Some(&[2, 3][..]));
    let [mismatch] = found.facts[0].mismatches() else {
        panic!("one mismatch")
    };
    assert_eq!(
        (mismatch.axis, mismatch.declared, mismatch.computed),
        (1, 4, 3)
    );
}

#[test]
fn the_samples_fill_the_inputs() {
    let mut net = Net::new(17);
    let mask = net.input("mask", I64, &["1", "6"]);
    let other = net.input("flags", DataType::Bool, &["2"]);
    let found = net.explore();
    let content = |k: usize, v| found.facts[k].content(v).cloned();
    assert_eq!(content(0, mask), Some(Content::Int(vec![1; 6])));
    assert_eq!(content(2, mask), Some(Content::Int(vec![0; 6])));
    assert_eq!(content(3, mask), Some(Content::Int(vec![1, 1, 1, 1, 0, 0])));
    assert_eq!(content(2, other), Some(Content::Bool(vec![false; 2])));
    assert!(found.facts[0].assumed(mask));
}

#[test]
fn wrong_nodes_are_unknown_and_never_a_panic() {
    // Every operator with no inputs, scalars, and matrices of the wrong kind.
    let operators = [
        "Add",
        "Where",
        "Clip",
        "Cast",
        "Reshape",
        "Squeeze",
        "Unsqueeze",
        "Flatten",
        "Split",
        "Concat",
        "Slice",
        "Pad",
        "Tile",
        "Expand",
        "Transpose",
        "Gather",
        "GatherElements",
        "GatherND",
        "ScatterND",
        "ScatterElements",
        "CumSum",
        "Trilu",
        "OneHot",
        "NonZero",
        "TopK",
        "Range",
        "ConstantOfShape",
        "Shape",
        "Size",
        "EyeLike",
        "MatMul",
        "Gemm",
        "Einsum",
        "Conv",
        "ConvInteger",
        "MaxPool",
        "Resize",
        "ReduceSum",
        "ArgMax",
        "Softmax",
        "LayerNormalization",
        "BatchNormalization",
        "GlobalAveragePool",
        "DequantizeLinear",
        "Attention",
        "LSTM",
        "DepthToSpace",
        "If",
        "Loop",
        "QLinearMatMul",
        "PRelu",
        "Max",
        "Constant",
        "com.microsoft:Attention",
        "com.microsoft:MultiHeadAttention",
        "com.microsoft:EmbedLayerNormalization",
        "com.microsoft:SkipLayerNormalization",
        "com.microsoft:FusedMatMul",
        "com.microsoft:GroupQueryAttention",
        "com.microsoft:MatMulNBits",
        "com.microsoft:QLinearAdd",
    ];
    let extreme = [i64::MIN, i64::MAX];
    for operator in operators {
        for opset in [1, 11, 13, 18, 23] {
            let scalar = || Ints(&[], &[-7]);
            let matrix = || Floats(&[0, 3], &[]);
            let large = || Input(F32, &[i64::MAX, 2, 3]);
            let wild = || Ints(&[2], &extreme);
            let cases: [Vec<In>; 6] = [
                vec![],
                vec![Nothing, Nothing, Nothing, Nothing, Nothing],
                vec![scalar(), scalar(), scalar(), scalar(), scalar()],
                vec![matrix(), scalar(), matrix(), wild(), scalar()],
                vec![large(), wild(), wild(), wild(), wild()],
                vec![
                    Ints(&[1, 2], &extreme),
                    wild(),
                    wild(),
                    Ints(&[2], &[0, 1]),
                    wild(),
                ],
            ];
            for operands in &cases {
                for attributes in [
                    vec![],
                    vec![
                        attr_int("axis", i64::MIN),
                        attr_int("num_heads", 1),
                        attr_int("group", -1),
                    ],
                ] {
                    node(opset, operator, operands, &attributes, 2);
                }
            }
        }
    }
}
