//! What the tools print, kept as text: a change of it is seen in a review.
//!
//! `snapshots/MODEL.txt` holds what `vcc inspect` finds, what a conversion says, and the changes and the plan that `vcc diff` shows;
//! `snapshots/passes/` the whole graph of a model of one block after each pass. To write them anew:
//!
//!     VCC_SNAPSHOTS=write cargo test -p vcc-cli --test snapshots
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test"
)]

mod common;

use common::fixture;
use onnx_model::{AttrValue, DataType, Dimension, Model, NewNode, Tensor, ValueId};
use std::path::{Path, PathBuf};
use std::process::Command;
use vcc_passes::pipeline::PASSES;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/snapshots")
}

/// Compares a text with the one that is kept, or writes it.
fn keep(name: &str, text: &str) {
    let path = folder().join(name);
    if std::env::var_os("VCC_SNAPSHOTS").is_some_and(|v| v == "write") {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        return;
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    let differs = kept.lines().zip(text.lines()).position(|(a, b)| a != b);
    let at = differs.unwrap_or(kept.lines().count().min(text.lines().count()));
    assert!(
        kept == text,
        "{name} differs from line {} on:\nkept: {}\nnow:  {}\n(VCC_SNAPSHOTS=write writes it anew)",
        at + 1,
        kept.lines().nth(at).unwrap_or("(end)"),
        text.lines().nth(at).unwrap_or("(end)"),
    );
}

/// Runs a tool in a folder: the command, what it prints, and its exit code if it is not 0.
fn run(folder: &Path, tool: &str, arguments: &str) -> String {
    let program = match tool {
        "vcc" => env!("CARGO_BIN_EXE_vcc"),
        _ => env!("CARGO_BIN_EXE_vcc-convert"),
    };
    let out = Command::new(program)
        .args(arguments.split_whitespace())
        .current_dir(folder)
        .output()
        .unwrap();
    let mut text = format!("$ {tool} {arguments}\n");
    text += &String::from_utf8(out.stdout).unwrap();
    text += &String::from_utf8(out.stderr).unwrap();
    match out.status.code() {
        Some(0) => {}
        code => text += &format!("exit code {}\n", code.unwrap()),
    }
    text.lines()
        .map(|l| l.trim_end().to_owned() + "\n")
        .collect()
}

fn check(name: &str, model: &str, options: &str) {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let folder = folder.path();
    std::fs::copy(fixture(model).path, folder.join("model.onnx")).unwrap();
    let convert = format!("model.onnx {options}");
    let mut parts = vec![
        format!("{model}\n"),
        run(folder, "vcc", "inspect model.onnx"),
        run(folder, "vcc-convert", convert.trim_end()),
    ];
    if folder.join("model.vcc.onnx").is_file() {
        // It prints the plan too.
        parts.push(run(folder, "vcc", "diff model.onnx model.vcc.onnx"));
    }
    keep(&format!("{name}.txt"), &parts.join("\n"));
}

macro_rules! snapshots {
    ($($name:ident: $model:literal $options:literal;)*) => {
        $(#[test] fn $name() { check(stringify!($name), $model, $options); })*
    };
}

snapshots! {
    bert: "bert__ts17_sdpa" "";
    bert_dynamo: "bert__dyn18_sdpa" "";
    bert_fused: "bert__ortfused_ts17_sdpa" "";
    bert_inline: "bert__ts17_sdpa" "--inline";
    bert_three_levels: "bert__ts17_sdpa" "--ladder 64,16,1 --refine 16,32";
    bert_short_ladder: "bert__ts17_sdpa" "--ladder 4,1 --refine 25% --vip first:2+token-type:1";
    bert_windows: "bert__ts17_sdpa" "--blocks 0=local:16,1=vcc";
    bert_windows_cuda: "bert__fp16_ts17_sdpa" "--device cuda --blocks 0=local:16,1=vcc --vip first:2+token-type:1 --vip-capacity 4";
    t5: "t5_encoder__ts17_eager" "";
    vit: "vit__ts17_sdpa" "";
    deberta_v2: "deberta_v2__ts17_eager" "";
    gpt2: "gpt2__ts17_sdpa" "";
    longformer: "longformer__ts14_eager" "";
    longt5: "longt5_encoder__ts17_eager" "";
}

/// One pre-norm block without biases, one head: `x + softmax(q k^T) v w` with `q = k = v = norm(x)`.
fn one_block() -> Model {
    let mut model = Model::new(8, &[("", 17)]);
    let graph = &mut model.graph;
    let dims = ["batch", "tokens"].map(|d| Dimension::Param(d.to_owned()));
    let dims = [&dims[..], &[Dimension::Value(4)]].concat();
    let x = graph.add_input("x", DataType::Float, &dims).unwrap();
    let ones = graph.add_initializer("gain", Tensor::from_f32s(&[4], &[1.0; 4]));
    let w = graph.add_initializer("weight", Tensor::from_f32s(&[4, 4], &[0.5; 16]));
    let mut node = |op: &str, inputs: &[ValueId], attributes: &[(&str, AttrValue)]| {
        let output = graph.new_value(&op.to_lowercase());
        graph.add_node(NewNode {
            op_type: op.to_owned(),
            name: op.to_owned(),
            inputs: inputs.iter().copied().map(Some).collect(),
            outputs: vec![Some(output)],
            attributes: attributes
                .iter()
                .map(|(name, value)| ((*name).to_owned(), value.clone()))
                .collect(),
            ..NewNode::default()
        });
        output
    };
    let norm = node("LayerNormalization", &[x, ones], &[]);
    let perm = AttrValue::Ints(vec![0, 2, 1]);
    let keys = node("Transpose", &[norm], &[("perm", perm)]);
    let scores = node("MatMul", &[norm, keys], &[]);
    let weights = node("Softmax", &[scores], &[("axis", AttrValue::Int(-1))]);
    let mixed = node("MatMul", &[weights, norm], &[]);
    let update = node("MatMul", &[mixed, w], &[]);
    let y = node("Add", &[x, update], &[]);
    graph.add_output(y);
    model
}

#[test]
fn every_pass_on_one_block() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    one_block().save(&folder.path().join("block.onnx")).unwrap();
    for (number, pass) in PASSES.iter().enumerate() {
        // Without bodies, and up to that pass: what follows does not matter.
        let arguments = format!(
            "block.onnx --ops-only --print-after {0} --stop-after {0}",
            pass.name
        );
        let text = run(folder.path(), "vcc-convert", &arguments);
        keep(
            &format!("passes/{:02}-{}.txt", number + 1, pass.name),
            &text,
        );
    }
}
