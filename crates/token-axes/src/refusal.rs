//! Why a block cannot be converted: a stable code, the place, and what the model's owner can do.

use serde::Serialize;

/// The stable code of a refusal.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
pub enum Code {
    /// Attention may not look at later tokens; a segment mean would leak the future.
    #[serde(rename = "R-CAUSAL")]
    Causal,
    /// Whether a mask is causal could not be decided.
    #[serde(rename = "R-MASK-UNDECIDED")]
    MaskUndecided,
    /// Tokens are cut into blocks (block-local, strided or sparse attention).
    #[serde(rename = "R-BLOCK-LOCAL")]
    BlockLocal,
    /// An operator other than the attention mixes tokens.
    #[serde(rename = "R-TOKEN-MIXING")]
    TokenMixing,
    /// The length is a literal inside the block though the model declares it dynamic.
    #[serde(rename = "R-BAKED-LENGTH")]
    BakedLength,
    /// A value inside the block is read outside it or is a graph output.
    #[serde(rename = "R-EXPOSED")]
    Exposed,
    /// An operator on the token path that the analysis does not know.
    #[serde(rename = "R-UNKNOWN-OP")]
    UnknownOp,
    /// A shape on the token path is not known.
    #[serde(rename = "R-UNKNOWN-SHAPE")]
    UnknownShape,
    /// Axes that meet in an operator do not agree.
    #[serde(rename = "R-AXES")]
    Axes,
    /// The part of the graph between two cuts holds more than one attention.
    #[serde(rename = "R-MANY-ATTENTIONS")]
    ManyAttentions,
    /// The attention is not self-attention over one residual stream (cross-attention, or no cut around it).
    #[serde(rename = "R-NOT-SELF-ATTENTION")]
    NotSelfAttention,
    /// The residual stream has a data type that the operators do not take.
    #[serde(rename = "R-DATA-TYPE")]
    DataType,
    /// An external value whose rows for the compressed sequence cannot be derived.
    #[serde(rename = "R-EXTERNAL")]
    External,
    /// The analysis contradicts itself: a defect of this program.
    #[serde(rename = "R-INTERNAL")]
    Internal,
}

impl Code {
    /// The code as it is printed.
    pub fn as_str(self) -> &'static str {
        match self {
            Code::Causal => "R-CAUSAL",
            Code::MaskUndecided => "R-MASK-UNDECIDED",
            Code::BlockLocal => "R-BLOCK-LOCAL",
            Code::TokenMixing => "R-TOKEN-MIXING",
            Code::BakedLength => "R-BAKED-LENGTH",
            Code::Exposed => "R-EXPOSED",
            Code::UnknownOp => "R-UNKNOWN-OP",
            Code::UnknownShape => "R-UNKNOWN-SHAPE",
            Code::Axes => "R-AXES",
            Code::ManyAttentions => "R-MANY-ATTENTIONS",
            Code::NotSelfAttention => "R-NOT-SELF-ATTENTION",
            Code::DataType => "R-DATA-TYPE",
            Code::External => "R-EXTERNAL",
            Code::Internal => "R-INTERNAL",
        }
    }

    /// What the owner of the model can do about it.
    pub fn remedy(self) -> &'static str {
        match self {
            Code::Causal => {
                "Only bidirectional encoders can be compressed this way; a decoder cannot."
            }
            Code::MaskUndecided => {
                "Export the model with a mask that is built from attention_mask, or with a dynamic length."
            }
            Code::BlockLocal => {
                "Export the model with full attention, if it has that option (BigBird: attention_type=original_full)."
            }
            Code::TokenMixing => {
                "This block must stay as it is; the others can still be converted."
            }
            Code::BakedLength => {
                "The exporter traced one length into the graph. Export again with the dynamo exporter, or with a static length."
            }
            Code::Exposed => {
                "Export the model without this output (for example output_attentions=False)."
            }
            Code::UnknownOp => "Inline the operator, or export with standard operators.",
            Code::UnknownShape => {
                "Run the exporter's shape inference, or give the graph inputs named dynamic dimensions."
            }
            Code::Axes => {
                "Give dimensions of the model's inputs that are always equal one name, and keep batch, tokens and channels in axes of their own."
            }
            Code::ManyAttentions => {
                "The attentions share one residual step; this block must stay as it is."
            }
            Code::NotSelfAttention => {
                "Cross-attention is not compressed; the encoder's own blocks can be."
            }
            Code::DataType => "Export the model in float32, float16 or bfloat16.",
            Code::External => {
                "Export the model so that masks and position biases are built from its inputs."
            }
            Code::Internal => {
                "This is a defect of vcc-convert: please report it with the model's graph."
            }
        }
    }
}

/// One refusal.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Refusal {
    /// The stable code.
    pub code: Code,
    /// The node it was found at, as `name (Op)`.
    pub node: String,
    /// What was found, in one sentence.
    pub reason: String,
    /// How the analysis got there: the nodes followed before, with the layouts of their outputs.
    #[serde(skip)]
    pub trail: Vec<String>,
}

impl Refusal {
    /// A refusal at a node.
    pub fn new(code: Code, node: impl Into<String>, reason: impl Into<String>) -> Refusal {
        Refusal {
            code,
            node: node.into(),
            reason: reason.into(),
            trail: Vec::new(),
        }
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} at {}: {} {}",
            self.code.as_str(),
            self.node,
            self.reason,
            self.code.remedy()
        )
    }
}
