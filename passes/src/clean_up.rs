//! Pass `clean-up`: drops what nothing reads any more, restores the order, and records in the metadata how the file was made.

use crate::conversion::{Conversion, Form};
use crate::error::Error;

/// Metadata key of the tool's version.
pub const TOOL: &str = "vcc.tool";
/// Metadata key of the plan (TOML).
pub const PLAN: &str = "vcc.plan";
/// Metadata key of the form of the operators.
pub const FORM: &str = "vcc.form";

pub(crate) fn run(c: &mut Conversion) -> Result<(), Error> {
    c.model.graph.remove_dead();
    c.model.graph.sort()?;
    let plan = c.plan.to_toml()?;
    c.model
        .set_metadata(TOOL, concat!("vcc-convert ", env!("CARGO_PKG_VERSION")));
    c.model.set_metadata(PLAN, &plan);
    c.model.set_metadata(FORM, c.form.as_str());
    Ok(())
}

impl Form {
    /// The form as it is recorded.
    pub fn as_str(self) -> &'static str {
        match self {
            Form::Functions => "functions",
            Form::Inline => "inline",
            Form::OpsOnly => "ops-only",
        }
    }

    /// The form of that name.
    pub fn named(name: &str) -> Option<Form> {
        [Form::Functions, Form::Inline, Form::OpsOnly]
            .into_iter()
            .find(|f| f.as_str() == name)
    }
}
