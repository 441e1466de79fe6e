//! How kernels split their work, without knowing who runs it.

use std::sync::{Mutex, PoisonError};

/// Calls the given function once for every index below the given number, on any threads, and returns when all calls have.
pub type Parallel<'a> = &'a dyn Fn(usize, &(dyn Fn(usize) + Sync));

/// The [`Parallel`] of one thread.
pub fn sequential(tasks: usize, run: &(dyn Fn(usize) + Sync)) {
    for task in 0..tasks {
        run(task);
    }
}

/// Elements of work worth a task of its own: large against the cost of handing a task to a thread, small against a tensor.
const TASK_ELEMENTS: usize = 1 << 16;

/// Rows of `channels` elements in one task.
pub(crate) fn task_rows(channels: usize) -> usize {
    (TASK_ELEMENTS / channels.max(1)).max(1)
}

/// Runs `run` once on every task. Each task owns what it writes, so the split cannot show in the result.
pub(crate) fn for_each<W: Send>(parallel: Parallel<'_>, tasks: Vec<W>, run: impl Fn(W) + Sync) {
    if tasks.len() < 2 {
        tasks.into_iter().for_each(run);
        return;
    }
    let cells: Vec<Mutex<Option<W>>> = tasks
        .into_iter()
        .map(|task| Mutex::new(Some(task)))
        .collect();
    parallel(cells.len(), &|index| {
        let task = cells
            .get(index)
            .and_then(|cell| cell.lock().unwrap_or_else(PoisonError::into_inner).take());
        if let Some(task) = task {
            run(task);
        }
    });
}

/// Copies a slice of the same length.
pub fn copy<T: Copy + Send + Sync>(from: &[T], to: &mut [T], parallel: Parallel<'_>) {
    let tasks = from
        .chunks(TASK_ELEMENTS)
        .zip(to.chunks_mut(TASK_ELEMENTS))
        .collect();
    for_each(parallel, tasks, |(from, to): (&[T], &mut [T])| {
        to.copy_from_slice(from)
    });
}
