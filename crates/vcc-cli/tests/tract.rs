//! The second engine: tract runs the fixtures and their inlined conversions, which agree, and agrees with ONNX Runtime.
//!
//! What tract itself cannot run, or runs wrongly, is listed with its reason; the lists fail when tract learns it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test"
)]

mod common;

use common::gap::smallest_gap;
use common::{Engine, Fixture, convert, fixture, manifest, open, options, relative, run, scratch};
use onnx_model::Model;
use std::path::Path;
use std::process::Command;
use vcc_passes::pipeline::Hooks;
use vcc_passes::{EncoderOptions, Form, Request};
use vcc_run::{Array, Inputs, Outputs, Padding, PortInfo, RandomOptions, RunError, TractModel};

/// Models that tract cannot run, and in its words why.
const LIMITS: [(&str, &str); 4] = [
    ("bert__dyn23_sdpa", "no operator ai.onnx.Attention"),
    (
        "bert__ortext_ts17_sdpa",
        "no operator com.microsoft.FusedGemm",
    ),
    (
        "bert__ortfused_ts17_sdpa",
        "no operator com.microsoft.EmbedLayerNormalization",
    ),
    // It multiplies a float32 into a float16 Gemm.
    ("bert__fp16_ts17_sdpa", "tensor is F16, accessed as F32"),
];

/// Products of unsigned and signed 8-bit numbers: on processors without VNNI instructions ONNX Runtime adds pairs of them up in 16 bits, and sums that
/// do not fit are cut off. There the original's outputs are far from tract's; what is converted still agrees with it within one engine.
const CUT_OFF: [&str; 1] = ["bert__int8_ts17_sdpa"];

fn is_cut_off(model: &Fixture) -> bool {
    let exact = is_x86_feature_detected!("avx512vnni") || is_x86_feature_detected!("avxvnni");
    !exact && CUT_OFF.contains(&model.name.as_str())
}

const PADDINGS: [Padding; 3] = [Padding::None, Padding::Left, Padding::EmptyRow];

/// Of what tract computes once with itself, and once with ONNX Runtime.
const TOLERANCE: f64 = 1e-4;
/// Of the same file in two engines.
const ENGINES: f64 = 1e-5;

fn tract(path: &Path) -> TractModel {
    TractModel::open(path).unwrap_or_else(|e| panic!("{e}"))
}

fn inputs(model: &Fixture, ports: &[PortInfo], length: usize, padding: Padding) -> Inputs {
    let options = RandomOptions {
        batch: 2,
        length,
        ids: (2, model.vocab),
        padding,
        ..RandomOptions::default()
    };
    model.inputs(ports, options)
}

fn error(a: &Outputs, b: &Outputs) -> f64 {
    assert_eq!(a.len(), b.len());
    let pairs = a.iter().zip(b.iter());
    let errors = pairs.map(|((name, x), (other, y))| {
        let what = |name, x: &Array| (name, x.shape().to_vec(), x.element_type());
        assert_eq!(what(name, x), what(other, y));
        relative(&x.data().to_f64s(), &y.data().to_f64s())
    });
    errors.fold(0.0, f64::max)
}

fn convertible() -> impl Iterator<Item = Fixture> {
    let runs = |m: &Fixture| !LIMITS.iter().any(|(name, _)| *name == m.name);
    manifest()
        .into_iter()
        .filter(move |m| !m.in_zoo && !m.is_refused() && runs(m))
}

/// The original and the conversion, both in tract; and the original in ONNX Runtime, so that tract is known to run it.
#[test]
fn full_budget() {
    for model in convertible() {
        let bytes = convert(
            &model.path,
            "vip=first:2 ladder=8,4,1 refine=all",
            Form::Inline,
        );
        let mut converted = tract(scratch(&bytes).path());
        let mut original = tract(&model.path);
        let mut reference = open(
            &model.name,
            &std::fs::read(&model.path).unwrap(),
            Engine::Bodies,
        );
        for (i, padding) in PADDINGS.into_iter().enumerate() {
            let inputs = inputs(&model, original.inputs(), 21 + i, padding);
            let what = format!("{}, {padding:?}", model.name);
            let a = original.run(&inputs).unwrap();
            let e = error(&a, &converted.run(&inputs).unwrap());
            assert!(e <= TOLERANCE, "{what}: off by {e:e}");
            let e = error(&run(&mut reference, &inputs), &a);
            assert_eq!(
                e > TOLERANCE,
                is_cut_off(&model),
                "{what}: the original differs by {e:e} between the engines"
            );
        }
    }
}

#[test]
fn what_tract_cannot_run() {
    for (name, reason) in LIMITS {
        let model = fixture(name);
        let refusal = TractModel::open(&model.path).and_then(|mut original| {
            let inputs = inputs(&model, original.inputs(), 21, Padding::None);
            original.run(&inputs)
        });
        let refusal = refusal.err().unwrap_or_else(|| panic!("{name} runs"));
        assert!(refusal.to_string().contains(reason), "{refusal}");
    }
}

/// The same inlined file in both engines, compressed. A larger difference is a near-tie of two segments; there may be few.
#[test]
fn small_budget() {
    let (mut runs, mut ties) = (0, 0);
    for model in convertible().filter(|m| !is_cut_off(m)) {
        let options = "vip=first:2 ladder=8,4,1 refine=3,2";
        let bytes = convert(&model.path, options, Form::Inline);
        let mut ours = tract(scratch(&bytes).path());
        let mut reference = open(&model.name, &bytes, Engine::Bodies);
        for (i, padding) in PADDINGS.into_iter().enumerate() {
            let inputs = inputs(&model, ours.inputs(), 45 + i, padding);
            let e = error(&run(&mut reference, &inputs), &ours.run(&inputs).unwrap());
            runs += 1;
            if e > ENGINES {
                let functions = convert(&model.path, options, Form::Functions);
                let gap = smallest_gap(&model.name, &functions, &inputs);
                let what = format!("{}, {padding:?}", model.name);
                assert!(
                    gap < ENGINES,
                    "{what}: off by {e:e}, but the gap is {gap:e}"
                );
                ties += 1;
            }
        }
    }
    assert!(20 * ties <= runs, "{ties} of {runs} runs differ");
}

/// As many VIP slots as the fullest text of a batch needs: sizes depend on what the inputs hold.
#[test]
fn slots_by_contents() {
    for name in ["bert__ts17_sdpa", "t5_encoder__dyn18_eager"] {
        let model = fixture(name);
        let bytes = convert(
            &model.path,
            "vip=input:vip ladder=8,1 refine=2",
            Form::Inline,
        );
        let mut ours = tract(scratch(&bytes).path());
        let mut reference = open(name, &bytes, Engine::Bodies);
        for length in [40, 57] {
            let inputs = inputs(&model, ours.inputs(), length, Padding::Left);
            let e = error(&run(&mut reference, &inputs), &ours.run(&inputs).unwrap());
            assert!(e <= ENGINES, "{name}: off by {e:e}");
        }
    }
}

/// The budget as an input with a default.
#[test]
fn a_budget_chosen_per_call() {
    let model = fixture("bert__ts17_sdpa");
    let mut hooks = Hooks {
        verify_each: true,
        after: &mut |_, _| {},
        stop_after: None,
    };
    let options = EncoderOptions {
        runtime_budget: true,
        ..options("vip=first:1 ladder=8,1 refine=2")
    };
    let request = Request::Options(options, Default::default());
    let original = Model::open(&model.path).unwrap();
    let converted = vcc_passes::convert(original, request, Form::Inline, &mut hooks).unwrap();
    let bytes = converted.model.to_vec().unwrap();
    let mut ours = tract(scratch(&bytes).path());
    let mut reference = open(&model.name, &bytes, Engine::Bodies);
    let mut inputs = inputs(&model, ours.inputs(), 50, Padding::Right);
    let mut all = Vec::new();
    for budget in [None, Some(1_i64), Some(4), Some(-100)] {
        if let Some(budget) = budget {
            inputs.insert("vcc_budget", Array::new([1], vec![budget]).unwrap());
        }
        let got = ours.run(&inputs).unwrap();
        let e = error(&run(&mut reference, &inputs), &got);
        assert!(e <= ENGINES, "budget {budget:?}: off by {e:e}");
        assert!(!all.contains(&got), "budget {budget:?} changes nothing");
        all.push(got);
    }
}

/// What is no model, or asks for more than a model can, is an error and no more.
#[test]
fn damaged_models() {
    let bytes = std::fs::read(fixture("bert__ts17_sdpa").path).unwrap();
    for cut in [1, 100, bytes.len() / 2, bytes.len() - 1] {
        let refusal = TractModel::open(scratch(&bytes[..cut]).path())
            .err()
            .unwrap();
        assert!(matches!(refusal, RunError::Open { .. }), "{refusal}");
    }
}

/// `vcc verify`, where there is no ONNX Runtime.
fn verify(arguments: &[&str]) -> (Option<i32>, String) {
    let out = Command::new(env!("CARGO_BIN_EXE_vcc"))
        .arg("verify")
        .args(arguments)
        .env("ORT_DYLIB_PATH", "/nowhere/libonnxruntime.so")
        .output()
        .unwrap();
    let said = [out.stdout, out.stderr].concat();
    (out.status.code(), String::from_utf8(said).unwrap())
}

#[test]
fn verify_without_onnx_runtime() {
    let model = fixture("roberta__ts17_sdpa");
    let original = model.path.to_str().unwrap();
    let converted = |form| {
        // The command line records what it needs to rebuild the model.
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let path = folder.path().join("model.onnx");
        let done = Command::new(env!("CARGO_BIN_EXE_vcc-convert"))
            .args([original, "--ladder", "8,1", "--refine", "3", "-o"])
            .arg(&path)
            .args(form)
            .output()
            .unwrap();
        assert!(done.status.success(), "{done:?}");
        (path.to_str().unwrap().to_owned(), folder)
    };
    let (inline, _kept) = converted(Some("--inline"));
    let (code, said) = verify(&[
        original,
        &inline,
        "--engine",
        "tract",
        "--lengths",
        "60",
        "--json",
    ]);
    assert_eq!(code, Some(0), "{said}");
    let report: serde_json::Value = serde_json::from_str(said.trim()).unwrap();
    assert_eq!(report["engine"], "tract");
    assert_eq!(report["cases"][0]["compressed"], true);
    let exact = [
        original,
        &inline,
        "--engine",
        "tract",
        "--exact",
        "--lengths",
        "1,15,37",
    ];
    let (code, said) = verify(&exact);
    assert_eq!(code, Some(0), "{said}");
    assert!(
        said.contains("rebuilt from its record: identical"),
        "{said}"
    );
    let (code, said) = verify(&[original, &inline]);
    assert_eq!(code, Some(5), "{said}");

    let (functions, _kept) = converted(None);
    let (code, said) = verify(&[original, &functions, "--engine", "tract"]);
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("--inline"), "{said}");
    let (code, said) = verify(&[original, &inline, "--engine", "tract", "--threads", "2"]);
    assert_eq!(code, Some(2), "{said}");
    // What it is compared with need not be its own original.
    let fused = fixture("bert__ortfused_ts17_sdpa").path;
    let (code, said) = verify(&[fused.to_str().unwrap(), &inline, "--engine", "tract"]);
    assert_eq!(code, Some(4), "{said}");
    assert!(
        said.contains("com.microsoft.EmbedLayerNormalization"),
        "{said}"
    );
    assert!(said.contains("--engine ort"), "{said}");
}
