//! Runs small models in the ONNX Runtime that the documented search finds. Without one these tests fail; they are not
//! skipped. `tools/make_test_models.py` describes and writes the models.

#![allow(clippy::unwrap_used, clippy::panic)] // A failing helper fails its test.

use std::fs;
use std::path::{Path, PathBuf};

use half::f16;
use vcc_run::{
    Array, CompareOptions, Data, Dim, ElementType, Inputs, Optimization, Padding, RandomOptions,
    Runtime, Session, SessionOptions, TokenMask, compare, random_inputs, read_npz,
    time_interleaved, write_npz,
};

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data")
        .join(name)
}

fn runtime() -> Runtime {
    Runtime::load(None).unwrap_or_else(|e| panic!("{e}"))
}

fn open(name: &str) -> Session {
    let options = SessionOptions {
        threads: 1,
        ..Default::default()
    };
    Session::open(&runtime(), &data(name), &options).unwrap_or_else(|e| panic!("{e}"))
}

fn tokens(ids: &[i64], mask: &[i64]) -> Inputs {
    let array = |v: &[i64]| Array::new([1, v.len()], v.to_vec()).unwrap();
    Inputs::from_iter([
        ("attention_mask".to_owned(), array(mask)),
        ("input_ids".to_owned(), array(ids)),
    ])
}

#[test]
fn a_process_keeps_the_runtime_it_loaded() {
    let first = runtime();
    let minor: u32 = first.version().split('.').nth(1).unwrap().parse().unwrap();
    assert!(minor >= 18, "{}", first.version());
    assert_eq!(
        Runtime::load(Some(first.path())).unwrap().path(),
        first.path()
    );
    let e = Runtime::load(Some(Path::new("/elsewhere/libonnxruntime.so"))).unwrap_err();
    assert_eq!(e.code(), "runtime-already-loaded");
}

#[test]
fn a_model_says_what_it_takes_and_gives() {
    let session = open("embed.onnx");
    let batch = Dim::Symbol("batch".into());
    let seq = Dim::Symbol("seq".into());
    let ids = &session.inputs()[0];
    assert_eq!(
        (ids.name.as_str(), ids.element_type),
        ("input_ids", Some(ElementType::I64))
    );
    assert_eq!(ids.dims, [batch.clone(), seq.clone()]);
    let gain = session.inputs().last().unwrap();
    assert_eq!((gain.name.as_str(), gain.optional), ("gain", true));
    assert!(session.inputs()[..2].iter().all(|i| !i.optional));
    let outputs: Vec<_> = session.outputs().iter().map(|o| o.name.as_str()).collect();
    assert_eq!(outputs, ["hidden", "pooled"]);
    assert_eq!(session.outputs()[0].dims, [batch, seq, Dim::Fixed(4)]);
}

#[test]
fn a_model_computes_what_it_should() {
    let mut session = open("embed.onnx");
    let outputs = session.run(&tokens(&[3, 15, 7], &[1, 1, 0])).unwrap();
    let hidden = outputs.get("hidden").unwrap();
    assert_eq!(hidden.shape(), [1, 3, 4]);
    let expected = vec![
        3.0f32, 3.25, 3.5, 3.75, 15.0, 15.25, 15.5, 15.75, 0.0, 0.0, 0.0, 0.0,
    ];
    assert_eq!(hidden.data(), &Data::F32(expected));
    assert_eq!(
        outputs.get("pooled").unwrap().data(),
        &Data::F32(vec![18.0, 18.5, 19.0, 19.5])
    );
    // An input with a default may be given.
    let mut inputs = tokens(&[2], &[1]);
    inputs.insert("gain", Array::new([1], vec![-2.0f32]).unwrap());
    inputs.insert("of no concern", Array::new([1], vec![1i64]).unwrap());
    let outputs = session.run(&inputs).unwrap();
    assert_eq!(
        outputs.get("pooled").unwrap().data(),
        &Data::F32(vec![-4.0, -4.5, -5.0, -5.5])
    );
    // A model in memory.
    let bytes = fs::read(data("embed.onnx")).unwrap();
    let mut session =
        Session::from_bytes(&runtime(), "embed", &bytes, &SessionOptions::default()).unwrap();
    assert_eq!(session.run(&inputs).unwrap(), outputs);
}

#[test]
fn every_supported_type_goes_in_and_comes_out() {
    let mut session = open("types.onnx");
    let inputs = Inputs::from_iter(
        [
            ("f32", Array::new([2], vec![1.5f32, f32::NEG_INFINITY])),
            ("f64", Array::new([1], vec![1e300f64])),
            ("f16", Array::new([2], vec![f16::from_f32(0.1), f16::MAX])),
            ("i64", Array::new([2], vec![i64::MIN, 3])),
            ("i32", Array::new([1], vec![i32::MAX])),
            ("i8", Array::new([2], vec![-128i8, 127])),
            ("u8", Array::new([1], vec![255u8])),
            ("bool", Array::new([3], vec![true, false, true])),
        ]
        .map(|(n, a)| (n.to_owned(), a.unwrap())),
    );
    let outputs = session.run(&inputs).unwrap();
    assert_eq!(outputs.len(), inputs.len());
    for (name, array) in inputs.iter() {
        assert_eq!(outputs.get(&format!("{name}_out")), Some(array), "{name}");
    }
    // No elements at all.
    let empty = Inputs::from_iter(inputs.iter().map(|(n, a)| {
        (
            n.to_owned(),
            if n == "f32" {
                Array::new([0], Vec::<f32>::new()).unwrap()
            } else {
                a.clone()
            },
        )
    }));
    assert_eq!(
        session.run(&empty).unwrap().get("f32_out").unwrap().shape(),
        [0]
    );
}

#[test]
fn what_does_not_fit_the_model_is_said() {
    let mut session = open("embed.onnx");
    let mut inputs = tokens(&[1], &[1]);
    inputs.insert("input_ids", Array::new([1, 1], vec![1i32]).unwrap());
    let e = session.run(&inputs).unwrap_err();
    assert_eq!(e.code(), "input-type");
    assert!(
        e.to_string().contains("input_ids") && e.to_string().contains("i32"),
        "{e}"
    );
    let e = session.run(&Inputs::new()).unwrap_err();
    assert_eq!(e.code(), "missing-input");
    // 99 is past the table's end: ONNX Runtime's own words come through.
    let e = session.run(&tokens(&[99], &[1])).unwrap_err();
    assert_eq!(e.code(), "run-failed");
    assert!(e.to_string().contains("gather"), "{e}");
    let e =
        Session::open(&runtime(), &data("absent.onnx"), &SessionOptions::default()).unwrap_err();
    assert_eq!(e.code(), "model-not-opened");
    assert!(e.to_string().contains("absent.onnx"), "{e}");
    let options = SessionOptions {
        ops_library: Some("/absent/libvcc_ops.so".into()),
        ..Default::default()
    };
    let e = Session::open(&runtime(), &data("embed.onnx"), &options).unwrap_err();
    assert!(e.to_string().contains("/absent/libvcc_ops.so"), "{e}");
}

#[test]
fn the_optimised_model_is_written_and_the_level_matters() {
    let dir = tempfile::tempdir().unwrap();
    let identities = |optimization| {
        let path = dir.path().join("optimized.onnx");
        let optimized_model = Some(path.clone());
        let options = SessionOptions {
            optimization,
            optimized_model,
            threads: 1,
            ..Default::default()
        };
        Session::open(&runtime(), &data("outer.onnx"), &options).unwrap();
        let bytes = fs::read(path).unwrap();
        bytes.windows(8).filter(|w| w == b"Identity").count()
    };
    assert_eq!(identities(Optimization::Off), 1);
    for level in [
        Optimization::Basic,
        Optimization::Extended,
        Optimization::All,
    ] {
        assert_eq!(identities(level), 0, "{level:?}");
        assert_eq!(Optimization::from_name(level.name()), Some(level));
    }
}

#[test]
fn random_inputs_run_and_a_changed_model_is_seen() {
    let mut session = open("embed.onnx");
    let options = RandomOptions {
        batch: 3,
        length: 9,
        ids: (1, 16),
        padding: Padding::Ragged,
        seed: 5,
        ..Default::default()
    };
    let mut inputs = random_inputs(session.inputs(), &options).unwrap();
    let a = session.run(&inputs).unwrap();
    assert_eq!(a.get("hidden").unwrap().shape(), [3, 9, 4]);
    let compare_options = CompareOptions {
        valid: TokenMask::from_array(inputs.get("attention_mask").unwrap()),
        ..Default::default()
    };
    inputs.insert("gain", Array::new([1], vec![1.5f32]).unwrap());
    let b = session.run(&inputs).unwrap();
    let same = compare(&a, &a, &compare_options);
    assert!(
        same.iter()
            .all(|o| o.result.as_ref().unwrap().all.relative == 0.0)
    );
    let report = compare(&a, &b, &compare_options);
    let hidden = report[0].result.as_ref().unwrap();
    assert_eq!(hidden.all.rows, 27);
    assert!((hidden.all.relative - 0.5).abs() < 1e-12, "{hidden:?}");
    // Scaling does not turn a vector.
    assert!((hidden.all.cosine_min - 1.0).abs() < 1e-12, "{hidden:?}");
    let valid = hidden.valid.as_ref().unwrap().rows;
    assert!((9..27).contains(&valid), "{valid}");
    assert!(report[1].result.as_ref().unwrap().valid.is_none());
}

#[test]
fn models_are_timed_in_turn() {
    let (mut small, mut large) = (open("outer.onnx"), open("outer.onnx"));
    let inputs =
        |n: usize| Inputs::from_iter([("x".to_owned(), Array::new([n], vec![1.0f32; n]).unwrap())]);
    let (few, many) = (inputs(8), inputs(2048));
    let timings = time_interleaved(&mut [(&mut small, &few), (&mut large, &many)], 1, 5).unwrap();
    assert_eq!(
        timings.iter().map(|t| t.runs.len()).collect::<Vec<_>>(),
        [5, 5]
    );
    // Eight numbers squared against four million.
    assert!(timings[0].min() < timings[1].min(), "{timings:?}");
    assert!(timings[1].min() <= timings[1].median());
}

#[test]
fn arrays_that_numpy_wrote_are_read() {
    let t = read_npz(&data("numpy.npz")).unwrap();
    let check = |name: &str, shape: &[usize], data: Data| {
        assert_eq!(
            t.get(name),
            Some(&Array::new(shape, data).unwrap()),
            "{name}"
        );
    };
    check("scalar", &[], vec![1.5f32].into());
    check("ids", &[2, 3], vec![-2i64, -1, 0, 1, 2, 3].into());
    check("half", &[2], vec![f16::from_f32(0.5), f16::INFINITY].into());
    check("double", &[1, 1], vec![1e300f64].into());
    check("int", &[1], vec![-7i32].into());
    check("byte", &[2], vec![-1i8, 1].into());
    check("ubyte", &[1], vec![255u8].into());
    check("flag", &[2], vec![true, false].into());
    check("zeros", &[64, 64], vec![0f32; 4096].into());
    assert_eq!(t.len(), 9);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("copy.npz");
    write_npz(&path, &t).unwrap();
    assert_eq!(read_npz(&path).unwrap(), t);
    let e = read_npz(&data("embed.onnx")).unwrap_err();
    assert!(
        e.to_string().contains("embed.onnx") && e.to_string().contains("not an .npz"),
        "{e}"
    );
}

#[test]
fn encoders_compute_what_their_authors_implementation_computed() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/golden");
    for case in ["roberta_vcc", "roberta_local_vcc", "t5_vcc"] {
        let inputs =
            read_npz(&golden.join(format!("{case}.npz"))).unwrap_or_else(|e| panic!("{e}"));
        let mut session = Session::open(
            &runtime(),
            &golden.join(format!("{case}.onnx")),
            &SessionOptions::default(),
        )
        .unwrap();
        let outputs = session.run(&inputs).unwrap();
        let (name, _) = outputs.iter().next().unwrap();
        let expected = Inputs::from_iter([(
            name.to_owned(),
            inputs.get("expected_full").unwrap().clone(),
        )]);
        let options = CompareOptions {
            valid: TokenMask::from_array(inputs.get("attention_mask").unwrap()),
            ..Default::default()
        };
        let report = compare(&expected, &outputs, &options);
        let valid = report[0].result.as_ref().unwrap().valid.clone().unwrap();
        assert!(
            valid.rows > 0 && valid.relative < 1e-5 && valid.cosine_min > 0.999_999,
            "{case}: {valid:?}"
        );
        // Another output is noticed.
        let other =
            Inputs::from_iter([(name.to_owned(), inputs.get("expected_vcc").unwrap().clone())]);
        let report = compare(&other, &outputs, &options);
        assert!(
            report[0]
                .result
                .as_ref()
                .unwrap()
                .valid
                .clone()
                .unwrap()
                .relative
                > 1e-3,
            "{case}"
        );
    }
}
