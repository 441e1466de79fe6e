//! Exit codes, a contract: 0 ok, 1 comparison failed, 2 usage, 3 nothing convertible, 4 bad model file, 5 runtime not found.

use std::process::ExitCode;
use vcc_passes::Error;
use vcc_run::RunError;

/// How a subcommand that ran to its end came out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Verdict {
    Ok,
    ComparisonFailed,
}

/// A wrong option, told in one paragraph.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Usage(pub(crate) String);

const COMPARISON_FAILED: u8 = 1;
const USAGE: u8 = 2;
const NOTHING_CONVERTIBLE: u8 = 3;
const BAD_MODEL: u8 = 4;
const NO_RUNTIME: u8 = 5;

/// The exit code of a result; an error is printed.
pub(crate) fn code(result: anyhow::Result<Verdict>) -> ExitCode {
    match result {
        Ok(Verdict::Ok) => ExitCode::SUCCESS,
        Ok(Verdict::ComparisonFailed) => ExitCode::from(COMPARISON_FAILED),
        Err(error) => {
            eprintln!("error: {}", message(&error));
            ExitCode::from(of_error(&error))
        }
    }
}

/// The chain of causes; one that an outer message already tells is left out.
fn message(error: &anyhow::Error) -> String {
    let mut out = String::new();
    for cause in error.chain() {
        let text = cause.to_string();
        if out.contains(&text) {
            continue;
        }
        if !out.is_empty() {
            out.push_str(": ");
        }
        out.push_str(&text);
    }
    out
}

fn of_error(error: &anyhow::Error) -> u8 {
    for cause in error.chain() {
        if cause.is::<Usage>() {
            return USAGE;
        }
        match cause.downcast_ref::<onnx_model::Error>() {
            // Where to write is the user's choice.
            Some(onnx_model::Error::Write(_)) => return USAGE,
            Some(_) => return BAD_MODEL,
            None => {}
        }
        match cause.downcast_ref::<Error>() {
            Some(Error::Usage(_) | Error::Plan(_)) => return USAGE,
            Some(Error::NothingToConvert(_)) => return NOTHING_CONVERTIBLE,
            Some(
                Error::Unsupported(_)
                | Error::Model(_)
                | Error::Verifier { .. }
                | Error::Rewrite { .. },
            ) => {
                return BAD_MODEL;
            }
            None => {}
        }
        match cause.downcast_ref::<RunError>() {
            Some(RunError::RuntimeNotFound { .. } | RunError::RuntimeAlreadyLoaded { .. }) => {
                return NO_RUNTIME;
            }
            Some(RunError::Open { .. } | RunError::Run { .. } | RunError::Operator { .. }) => {
                return BAD_MODEL;
            }
            Some(_) => return USAGE,
            None => {}
        }
    }
    USAGE
}
