//! Equality at full budget where attentions look at few tokens: in models with small random weights a position or a mask that is taken at
//! the wrong token hardly shows.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test"
)]

mod common;

use common::{Engine, convert, manifest, open, relative, run, scratch, sharp, three};
use vcc_passes::Form;
use vcc_run::Padding;

#[test]
fn every_model_with_sharp_attention() {
    let mut checked = 0;
    let mut wrong = Vec::new();
    for model in manifest() {
        // Their numbers are too coarse for sharp attention, or their masks the lowest number there is, or the softmax is not to be seen.
        let unfit = ["fp16", "int8", "deberta", "ortfused", "dyn23"];
        if model.expect.starts_with("refuse:") || unfit.iter().any(|u| model.name.contains(u)) {
            continue;
        }
        checked += 1;
        let bytes = sharp(&model.path);
        let path = scratch(&bytes);
        let options = "vip=last:2 ladder=8,2,1 refine=all";
        let converted = convert(path.path(), options, Form::Functions);
        let mut original = open(&model.name, &bytes, Engine::Bodies);
        let mut converted = open(&model.name, &converted, Engine::Library);
        for (length, padding) in [
            (37, Padding::None),
            (37, Padding::Left),
            (50, Padding::Ragged),
        ] {
            let inputs = three(&model, original.inputs(), length, padding);
            let (expected, got) = (run(&mut original, &inputs), run(&mut converted, &inputs));
            for (name, a) in expected.iter() {
                let b = got.get(name).unwrap();
                let error = relative(&a.data().to_f64s(), &b.data().to_f64s());
                let is_finite = a.data().to_f64s().iter().all(|x| x.is_finite());
                assert!(is_finite || padding != Padding::None, "{}", model.name);
                if error.is_nan() || error > 1e-4 {
                    wrong.push(format!(
                        "{} {name} {length} {padding:?}: {error:.1e}",
                        model.name
                    ));
                }
            }
        }
    }
    assert!(checked >= 20, "only {checked} models");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
