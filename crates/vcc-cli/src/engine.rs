//! The engine that `vcc verify` runs both models in: ONNX Runtime, or tract, which runs a model with no ONNX Runtime at all.

use crate::exit::Usage;
use crate::verify::RuntimeOptions;
use anyhow::Result;
use clap::ValueEnum;
use std::path::{Path, PathBuf};
use vcc_run::{Inputs, Outputs, PortInfo, RunError, Runtime, Session};
#[cfg(feature = "tract")]
use vcc_run::{TRACT_VERSION, TractModel};

/// `--engine`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum EngineName {
    /// ONNX Runtime, found or named by --ort
    #[default]
    Ort,
    /// tract, which is part of this program if it was built with the feature `tract`; for models converted with --inline
    Tract,
}

/// An engine that is there.
pub(crate) enum Engine {
    Ort {
        runtime: Runtime,
        library: Option<PathBuf>,
    },
    #[cfg(feature = "tract")]
    Tract,
}

impl Engine {
    /// Loads what `options` ask for.
    pub(crate) fn load(options: &RuntimeOptions, name: EngineName) -> Result<Engine> {
        match name {
            EngineName::Ort => Ok(Engine::Ort {
                runtime: options.load()?,
                library: options.library()?,
            }),
            EngineName::Tract if options.only_for_ort() => Err(Usage(
                "--ort, --library, --no-library and --threads are for --engine ort; tract has no such thing.".into(),
            )
            .into()),
            #[cfg(feature = "tract")]
            EngineName::Tract => Ok(Engine::Tract),
            #[cfg(not(feature = "tract"))]
            EngineName::Tract => Err(Usage(
                "This program was built without tract. Build it with `cargo build --release --features tract`.".into(),
            )
            .into()),
        }
    }

    pub(crate) fn name(&self) -> &'static str {
        match self {
            Engine::Ort { .. } => "ort",
            #[cfg(feature = "tract")]
            Engine::Tract => "tract",
        }
    }

    pub(crate) fn version(&self) -> String {
        match self {
            Engine::Ort { runtime, .. } => runtime.version().to_owned(),
            #[cfg(feature = "tract")]
            Engine::Tract => TRACT_VERSION.to_owned(),
        }
    }

    /// The operator library that converted models run with.
    pub(crate) fn library(&self) -> Option<&Path> {
        match self {
            Engine::Ort { library, .. } => library.as_deref(),
            #[cfg(feature = "tract")]
            Engine::Tract => None,
        }
    }

    /// Opens a model; the operator library is registered for a converted one.
    pub(crate) fn open(
        &self,
        options: &RuntimeOptions,
        path: &Path,
        is_converted: bool,
    ) -> Result<Runner, RunError> {
        match self {
            Engine::Ort { runtime, library } => {
                let library = library.clone().filter(|_| is_converted);
                Session::open(runtime, path, &options.session(library)).map(Runner::Ort)
            }
            #[cfg(feature = "tract")]
            Engine::Tract => TractModel::open(path).map(Runner::Tract),
        }
    }
}

/// A model opened in an engine.
pub(crate) enum Runner {
    Ort(Session),
    #[cfg(feature = "tract")]
    Tract(TractModel),
}

impl Runner {
    pub(crate) fn inputs(&self) -> &[PortInfo] {
        match self {
            Runner::Ort(session) => session.inputs(),
            #[cfg(feature = "tract")]
            Runner::Tract(model) => model.inputs(),
        }
    }

    /// Whether a run that fails may fail by the engine's own limits, and not by the inputs.
    pub(crate) fn has_limits(&self) -> bool {
        !matches!(self, Runner::Ort(_))
    }

    pub(crate) fn run(&mut self, inputs: &Inputs) -> Result<Outputs, RunError> {
        match self {
            Runner::Ort(session) => session.run(inputs),
            #[cfg(feature = "tract")]
            Runner::Tract(model) => model.run(inputs),
        }
    }
}
