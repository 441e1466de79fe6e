//! Pass `blocks`: the analysis of crate `token-axes`; streams whose batch and tokens share an axis are given two first.

use crate::conversion::Conversion;
use crate::error::Error;
use crate::joined;
use token_axes::Analysis;

/// The lowest opset whose operators the inserted nodes can be written in.
const MIN_OPSET: i64 = crate::bodies::MIN_OPSET;
/// The newest opset that was published when this was written: a later one may give an operator another meaning.
const MAX_OPSET: i64 = 26;

pub(crate) fn run(c: &mut Conversion) -> Result<(), Error> {
    let opset = c.opset();
    if opset < MIN_OPSET {
        return Err(Error::Unsupported(format!(
            "E-OPSET: The model uses opset {opset} of ai.onnx; converted blocks need {MIN_OPSET} or newer. Export the model again, or raise its opset with onnx.version_converter."
        )));
    }
    if opset > MAX_OPSET {
        return Err(Error::Unsupported(format!(
            "E-OPSET: The model uses opset {opset} of ai.onnx; this version of vcc-convert knows the operators up to {MAX_OPSET}. Export the model for an older opset."
        )));
    }
    if c.model
        .graph
        .node_ids()
        .any(|id| c.model.graph.node(id).domain == crate::bodies::DOMAIN)
    {
        return Err(Error::Usage(
            "E-CONVERTED: The model has operators of ai.vcc: it is converted already. Convert the original instead.".into(),
        ));
    }
    c.model.graph.sort()?;
    let analysis = Analysis::of(&c.model);
    c.analysis = Some(joined::split(c, analysis)?);
    Ok(())
}
