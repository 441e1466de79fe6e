//! The pipeline, in one place.

use crate::conversion::{Conversion, Form};
use crate::error::Error;
use crate::planning::Request;
use crate::{
    attention, blocks, canonical, clean_up, externals, functions, insert, operators, partition,
    planning, restore, select, shapes, transfers, transposes, windows,
};
use onnx_model::{Model, Violation};

/// One pass.
pub struct Pass {
    /// Its name on the command line.
    pub name: &'static str,
    /// What it does, in one line.
    pub about: &'static str,
    run: fn(&mut Conversion) -> Result<(), Error>,
}

/// All passes, in order.
pub const PASSES: &[Pass] = &[
    Pass {
        name: "functions",
        about: "inline calls of the model's own functions",
        run: functions::run,
    },
    Pass {
        name: "canonical",
        about: "take fused attentions and residual norms apart, one operator for softmaxes that are written out",
        run: canonical::run,
    },
    Pass {
        name: "blocks",
        about: "follow the token axes, find the blocks",
        run: blocks::run,
    },
    Pass {
        name: "plan",
        about: "decide what happens to each block",
        run: planning::run,
    },
    Pass {
        name: "partition",
        about: "VIP and valid masks, and the order of the tokens",
        run: partition::run,
    },
    Pass {
        name: "insert",
        about: "run the blocks on compressed rows or windows",
        run: insert::run,
    },
    Pass {
        name: "externals",
        about: "take masks, biases and rotary tables at the rows' tokens",
        run: externals::run,
    },
    Pass {
        name: "shapes",
        about: "rebuild shape operands for the number of rows",
        run: shapes::run,
    },
    Pass {
        name: "select",
        about: "score the segments with the block's own queries and keys",
        run: select::run,
    },
    Pass {
        name: "attention",
        about: "add key biases once, or hold them in channels of a fused attention",
        run: attention::run,
    },
    Pass {
        name: "restore",
        about: "put fused attentions back, with the count bias in their bias input",
        run: restore::run,
    },
    Pass {
        name: "transposes",
        about: "in 16-bit floats, multiply by weights before the batch is moved",
        run: transposes::run,
    },
    Pass {
        name: "windows",
        about: "run blocks of mode local window by window",
        run: windows::run,
    },
    Pass {
        name: "operators",
        about: "attach or inline the operators' bodies",
        run: operators::run,
    },
    Pass {
        name: "transfers",
        about: "on a GPU, bring numbers that follow from shapes to the device without a copy",
        run: transfers::run,
    },
    Pass {
        name: "clean-up",
        about: "drop what nothing reads, restore the order",
        run: clean_up::run,
    },
];

/// What happens between passes.
pub struct Hooks<'a> {
    /// Run the graph verifier after each pass (it always runs after the last).
    pub verify_each: bool,
    /// Called after each pass.
    pub after: &'a mut dyn FnMut(&Pass, &Conversion),
    /// Stop after this pass.
    pub stop_after: Option<&'a str>,
}

/// Converts a model. The result is complete unless `hooks.stop_after` names an earlier pass than the last.
pub fn convert(
    model: Model,
    request: Request,
    form: Form,
    hooks: &mut Hooks<'_>,
) -> Result<Conversion, Error> {
    let mut conversion = Conversion::new(model, request, form);
    check_original(&mut conversion.model)?;
    for (index, pass) in PASSES.iter().enumerate() {
        (pass.run)(&mut conversion)?;
        let last = index + 1 == PASSES.len() || hooks.stop_after == Some(pass.name);
        if hooks.verify_each || last || cfg!(debug_assertions) {
            conversion.model.graph.sort()?;
            verify(&conversion, pass.name)?;
        }
        (hooks.after)(pass, &conversion);
        if last {
            break;
        }
    }
    Ok(conversion)
}

/// What the verifier finds later is a defect of the passes; what it finds now is the model's.
fn check_original(model: &mut Model) -> Result<(), Error> {
    model.graph.sort()?;
    model.verify().map_err(|violations| {
        Error::Unsupported(format!(
            "E-MODEL: The model is not well-formed: {}. Export it again.",
            listed(&violations)
        ))
    })
}

fn verify(conversion: &Conversion, pass: &'static str) -> Result<(), Error> {
    conversion
        .model
        .verify()
        .map_err(|violations| Error::Verifier {
            pass,
            violations: listed(&violations),
        })
}

fn listed(violations: &[Violation]) -> String {
    let text: Vec<String> = violations
        .iter()
        .take(5)
        .map(Violation::to_string)
        .collect();
    text.join("; ")
}
