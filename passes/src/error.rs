//! What can go wrong in a conversion.

/// An error of a conversion; each says what was found and what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A wrong option value.
    #[error("{0}")]
    Usage(String),
    /// A plan that cannot be read, or does not fit the model.
    #[error("The plan cannot be used: {0}")]
    Plan(String),
    /// No block can be converted.
    #[error("{0}")]
    NothingToConvert(String),
    /// The model is in a form that is not supported at all.
    #[error("{0}")]
    Unsupported(String),
    /// The model itself.
    #[error(transparent)]
    Model(#[from] onnx_model::Error),
    /// The graph verifier found the graph broken after a pass: a defect of this tool.
    #[error(
        "After pass '{pass}' the graph is not well-formed; this is a defect of vcc-convert, please report it. {violations}"
    )]
    Verifier {
        /// The pass.
        pass: &'static str,
        /// What the verifier found.
        violations: String,
    },
    /// A block that the analysis accepted could not be rewritten.
    #[error("Block {block} could not be rewritten: {reason}")]
    Rewrite {
        /// The block.
        block: String,
        /// Why.
        reason: String,
    },
}
