//! Wall time of several models side by side, and operator counts.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::error::RunError;
use crate::session::Session;
use crate::tensors::Inputs;

/// The wall times of a model's runs, in the order they were made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timing {
    /// One per run.
    pub runs: Vec<Duration>,
}

impl Timing {
    /// The median; the mean of the middle two if their number is even, zero without runs.
    pub fn median(&self) -> Duration {
        let mut sorted = self.runs.clone();
        sorted.sort_unstable();
        let middle = sorted.len() / 2;
        match (
            sorted.get(middle),
            middle.checked_sub(1).and_then(|i| sorted.get(i)),
        ) {
            (Some(&high), Some(&low)) if sorted.len().is_multiple_of(2) => (low + high) / 2,
            (Some(&high), _) => high,
            (None, _) => Duration::ZERO,
        }
    }

    /// The shortest; zero without runs.
    pub fn min(&self) -> Duration {
        self.runs.iter().min().copied().unwrap_or_default()
    }
}

/// Runs each model `warm_up` times, then all of them `runs` times in turn (A B A B ..), so that a change of the machine's
/// speed meets all alike. Copying outputs out of ONNX Runtime is not part of the time.
pub fn time_interleaved(
    models: &mut [(&mut Session, &Inputs)],
    warm_up: usize,
    runs: usize,
) -> Result<Vec<Timing>, RunError> {
    for (session, inputs) in models.iter_mut() {
        for _ in 0..warm_up {
            session.run_only(inputs)?;
        }
    }
    let mut timings = vec![
        Timing {
            runs: Vec::with_capacity(runs)
        };
        models.len()
    ];
    for _ in 0..runs {
        for ((session, inputs), timing) in models.iter_mut().zip(&mut timings) {
            let start = Instant::now();
            session.run_only(inputs)?;
            timing.runs.push(start.elapsed());
        }
    }
    Ok(timings)
}

/// How often each operator occurs, by name.
pub fn count_operators<S: Into<String>>(
    op_types: impl IntoIterator<Item = S>,
) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for op in op_types {
        *counts.entry(op.into()).or_insert(0) += 1;
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        let timing = |ms: &[u64]| Timing {
            runs: ms.iter().map(|&m| Duration::from_millis(m)).collect(),
        };
        assert_eq!(timing(&[9, 1, 5]).median(), Duration::from_millis(5));
        assert_eq!(timing(&[9, 1, 5, 7]).median(), Duration::from_millis(6));
        assert_eq!(timing(&[4]).median(), Duration::from_millis(4));
        assert_eq!(timing(&[]).median(), Duration::ZERO);
        assert_eq!(timing(&[9, 1, 5]).min(), Duration::from_millis(1));
    }

    #[test]
    fn operators_are_counted_by_name() {
        let counts = count_operators(["Add", "MatMul", "Add"]);
        assert_eq!(
            counts,
            BTreeMap::from([("Add".to_owned(), 2), ("MatMul".to_owned(), 1)])
        );
    }
}
