//! The golden cases: the model converted with a case's settings gives what the VCC authors' implementation gave on the same weights,
//! and refines the same segments, whatever runs the operators.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test"
)]

mod common;

use common::{Engine, convert, f32s, fixtures, i64s, open, run, with_outputs};
use onnx_model::{DataType, Model};
use vcc_passes::Form;
use vcc_run::{Tensors, read_npz};

struct Case {
    name: &'static str,
    settings: serde_json::Value,
    arrays: Tensors,
}

impl Case {
    fn read(name: &'static str) -> Case {
        let folder = fixtures().join("golden");
        let text = std::fs::read_to_string(folder.join(format!("{name}.json"))).unwrap();
        Case {
            name,
            settings: serde_json::from_str(&text).unwrap(),
            arrays: read_npz(&folder.join(format!("{name}.npz"))).unwrap(),
        }
    }

    fn number(&self, key: &str) -> i64 {
        self.settings[key].as_i64().unwrap()
    }

    fn text(&self, key: &str) -> &str {
        self.settings[key].as_str().unwrap()
    }

    fn ladder(&self) -> Vec<i64> {
        let sizes = self.settings["ladder"].as_array().unwrap();
        sizes.iter().map(|s| s.as_i64().unwrap()).collect()
    }

    /// The settings as options of the command line.
    fn options(&self) -> String {
        let ladder: Vec<String> = self.ladder().iter().map(i64::to_string).collect();
        format!(
            "vip={} vip-capacity={} ladder={} refine={} blocks={}",
            self.text("vip"),
            self.number("vip_capacity"),
            ladder.join(","),
            self.number("refine"),
            self.text("blocks"),
        )
    }

    fn tolerance(&self) -> f64 {
        self.settings["tolerance"].as_f64().unwrap()
    }

    /// max|a-b| / max|a| over the rows of valid tokens; NaN is never within a tolerance.
    fn error(&self, expected: &str, got: &Tensors) -> f64 {
        let expected = self.arrays.get(expected).unwrap();
        let got = got.iter().next().unwrap().1;
        assert_eq!(expected.shape(), got.shape());
        let valid = i64s(self.arrays.get("attention_mask").unwrap());
        let channels = *expected.shape().last().unwrap();
        let rows = f32s(expected)
            .chunks(channels)
            .zip(f32s(got).chunks(channels));
        let (mut difference, mut largest) = (0.0f64, 0.0f64);
        for ((a, b), _) in rows.zip(valid).filter(|(_, valid)| **valid == 1) {
            for (&x, &y) in a.iter().zip(b) {
                let d = f64::from(x - y).abs();
                assert!(d.is_finite(), "{}: {x} and {y}", self.name);
                difference = difference.max(d);
                largest = largest.max(f64::from(x).abs());
            }
        }
        difference / largest
    }

    /// The segments that a VccSelect refined, from the slots that it lists, `[B, h]` as in the file.
    fn segments(&self, children: &vcc_run::Array) -> Vec<i64> {
        let (v, k) = (self.number("vip_capacity"), self.ladder()[0]);
        let batch = children.shape()[0];
        let mut all = Vec::new();
        for row in i64s(children).chunks(children.shape()[1]) {
            let mut segments: Vec<i64> = row.iter().map(|slot| (slot - v) / k).collect();
            let whole: Vec<i64> = segments
                .iter()
                .zip(row)
                .map(|(s, slot)| v + s * k - slot)
                .collect();
            assert!(
                whole
                    .chunks(k as usize)
                    .all(|c| (0..k).zip(c).all(|(i, d)| *d == -i))
            );
            segments.sort_unstable();
            segments.dedup();
            all.extend(segments);
        }
        assert_eq!(all.len() % batch, 0);
        all
    }
}

fn reproduced(name: &'static str) {
    let case = Case::read(name);
    let path = fixtures().join("golden").join(case.text("model"));
    let bytes = convert(&path, &case.options(), Form::Functions);
    // The operators whose output tells which segments were refined, block by block.
    let model = Model::from_bytes(bytes.clone().into(), None).unwrap();
    let selected: Vec<String> = model
        .graph
        .node_ids()
        .map(|id| model.graph.node(id))
        .filter(|n| n.op_type == "VccSelect")
        .map(|n| model.graph.value(n.outputs[0].unwrap()).name.clone())
        .collect();
    let vcc_blocks = case.text("blocks").matches("=vcc").count();
    assert_eq!(
        selected.len(),
        vcc_blocks,
        "{name}: one selection per block"
    );
    let outputs: Vec<(&str, i32)> = selected
        .iter()
        .map(|n| (n.as_str(), DataType::Int64 as i32))
        .collect();

    let inline = convert(&path, &case.options(), Form::Inline);
    for (form, bytes, engine) in [
        ("library", &bytes, Engine::Library),
        ("function bodies", &bytes, Engine::Bodies),
        ("inline", &inline, Engine::Bodies),
    ] {
        // The file as it is written, and a copy that shows what it selects.
        let got = run(&mut open(name, bytes, engine), &case.arrays);
        let error = case.error("expected_vcc", &got);
        println!("{name}, {form}: {error:.2e}");
        assert!(error <= case.tolerance(), "{name}, {form}: error {error:e}");
        // The case would prove nothing if the blocks did not compress.
        assert!(case.error("expected_full", &got) > 10.0 * case.tolerance());

        let got = run(
            &mut open(name, &with_outputs(bytes, &outputs), engine),
            &case.arrays,
        );
        for (block, output) in selected.iter().enumerate() {
            let expected = case.arrays.get(&format!("refined_{block}")).unwrap();
            let refined = case.segments(got.get(output).unwrap());
            assert_eq!(
                refined,
                i64s(expected),
                "{name}, {form}: segments refined in VCC block {block}"
            );
        }
        assert!(
            case.arrays
                .get(&format!("refined_{}", selected.len()))
                .is_none()
        );
    }
}

/// The original model, as a check of the fixtures and of the runtime.
fn original(name: &'static str) {
    let case = Case::read(name);
    let path = fixtures().join("golden").join(case.text("model"));
    let bytes = std::fs::read(path).unwrap();
    let got = run(&mut open(name, &bytes, Engine::Bodies), &case.arrays);
    let error = case.error("expected_full", &got);
    assert!(error <= case.tolerance(), "{name}: error {error:e}");
}

#[test]
fn roberta() {
    reproduced("roberta_vcc");
}

#[test]
fn roberta_with_fewer_vip_tokens_than_slots_and_padding() {
    reproduced("roberta_vcc_short_vip");
}

#[test]
fn roberta_with_windows_in_the_first_block() {
    reproduced("roberta_local_vcc");
}

#[test]
fn t5() {
    reproduced("t5_vcc");
}

#[test]
fn originals() {
    for name in [
        "roberta_vcc",
        "roberta_vcc_short_vip",
        "roberta_local_vcc",
        "t5_vcc",
    ] {
        original(name);
    }
}

#[test]
fn every_case_has_a_test() {
    let mut names: Vec<String> = std::fs::read_dir(fixtures().join("golden"))
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .filter_map(|n| n.strip_suffix(".json").map(str::to_owned))
        .collect();
    names.sort();
    assert_eq!(
        names,
        [
            "roberta_local_vcc",
            "roberta_vcc",
            "roberta_vcc_short_vip",
            "t5_vcc"
        ]
    );
}
