//! What can be wrong with a caller's input.

/// An input that the specification does not allow. Nothing has been written when a kernel returns one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The ladder breaks one of its rules.
    #[error(
        "bad-ladder: {sizes:?} is not a ladder; give at least two sizes, coarse to fine, each dividing the one before, the last 1, e.g. 16,1"
    )]
    Ladder {
        /// The sizes as given.
        sizes: Vec<i64>,
    },
    /// There are no tokens.
    #[error("no-tokens: n = 0; every batch row needs at least one token")]
    NoTokens,
    /// A negative number of VIP slots.
    #[error("bad-capacity: {capacity} VIP slots; give 0 (as many as needed) or a positive number")]
    Capacity {
        /// The capacity as given.
        capacity: i64,
    },
    /// Sizes whose product does not fit the machine.
    #[error(
        "too-large: {tokens} tokens with segments of {segment} do not fit in memory; use a smaller coarsest segment"
    )]
    TooLarge {
        /// Tokens per row.
        tokens: usize,
        /// Size of the coarsest segment.
        segment: usize,
    },
    /// A number of items that no number of segments explains.
    #[error(
        "bad-items: {items} items are not {vips} VIP slots and a whole number of trees of ladder {sizes:?}"
    )]
    ItemTotal {
        /// Items per row.
        items: usize,
        /// VIP slots per row.
        vips: usize,
        /// The ladder.
        sizes: Vec<usize>,
    },
    /// A tensor of the wrong length.
    #[error("bad-length: {name} has {got} elements instead of {want}")]
    Length {
        /// The tensor.
        name: &'static str,
        /// Its length.
        got: usize,
        /// The length it should have.
        want: usize,
    },
    /// An index out of its range.
    #[error("bad-index: {name}[{at}] = {value} is not in {low}..{high}")]
    Index {
        /// The tensor.
        name: &'static str,
        /// Flat position in it.
        at: usize,
        /// The value found.
        value: i64,
        /// First allowed value.
        low: usize,
        /// One past the last allowed value.
        high: usize,
    },
    /// A list of items that does not cover every context slot exactly once.
    #[error(
        "bad-cover: the items of batch row {row} do not cover context slot {slot} exactly once"
    )]
    Cover {
        /// Batch row.
        row: usize,
        /// First context slot (counted from the first context slot) that is not covered once.
        slot: usize,
    },
    /// A level of the ladder that has no segments.
    #[error("bad-level: level {level} of a ladder with {levels} levels of segments")]
    Level {
        /// The level as given.
        level: i64,
        /// Levels of segments, `L`.
        levels: usize,
    },
}

/// Checks a tensor's length.
pub(crate) fn check_len(name: &'static str, got: usize, want: usize) -> Result<(), Error> {
    if got == want {
        Ok(())
    } else {
        Err(Error::Length { name, got, want })
    }
}

/// Checks that every element of an index tensor is in `low..high`.
pub(crate) fn check_indices(
    name: &'static str,
    values: &[i64],
    low: usize,
    high: usize,
) -> Result<(), Error> {
    let bad = |&value: &i64| usize::try_from(value).map_or(true, |i| i < low || i >= high);
    match values.iter().position(bad) {
        Some(at) => Err(Error::Index {
            name,
            at,
            value: values[at],
            low,
            high,
        }),
        None => Ok(()),
    }
}
