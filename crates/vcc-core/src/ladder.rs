//! Segment sizes, coarse to fine.
//!
//! Invariants: at least two sizes; strictly decreasing; each divides the one before; the last is 1.

use crate::Error;

/// A checked list of segment sizes `s_0 > s_1 > .. > s_L = 1`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ladder {
    sizes: Vec<usize>,
}

impl Ladder {
    /// Checks the sizes.
    ///
    /// # Errors
    /// [`Error::Ladder`] if they break an invariant of this module.
    pub fn new(sizes: &[i64]) -> Result<Self, Error> {
        let bad = || Error::Ladder {
            sizes: sizes.to_vec(),
        };
        let checked: Vec<usize> = sizes
            .iter()
            .map(|&s| usize::try_from(s).map_err(|_| bad()))
            .collect::<Result<_, _>>()?;
        let falls = checked
            .windows(2)
            .all(|pair| pair[1] > 0 && pair[0] > pair[1] && pair[0] % pair[1] == 0);
        if checked.len() < 2 || checked.last() != Some(&1) || !falls {
            return Err(bad());
        }
        Ok(Self { sizes: checked })
    }

    /// All sizes, the final 1 included.
    pub fn sizes(&self) -> &[usize] {
        &self.sizes
    }

    /// Levels of segments, `L`; level `L` itself is the slots.
    pub fn levels(&self) -> usize {
        self.sizes.len() - 1
    }

    /// Size of the coarsest segment, `s_0`.
    pub fn coarsest(&self) -> usize {
        self.sizes[0]
    }

    /// Children of a segment of level `level < L`.
    pub fn children(&self, level: usize) -> usize {
        self.sizes[level] / self.sizes[level + 1]
    }

    /// Segments (or, at level `L`, slots) of level `level <= L` in one segment of level 0.
    pub fn per_root(&self, level: usize) -> usize {
        self.sizes[0] / self.sizes[level]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_what_is_not_a_ladder() {
        for bad in [
            &[][..],
            &[1],
            &[16],
            &[16, 2],
            &[1, 16],
            &[16, 16, 1],
            &[16, 6, 1],
            &[16, 0, 1],
            &[-4, 1],
            &[4, 2, 1, 1],
        ] {
            assert_eq!(
                Ladder::new(bad),
                Err(Error::Ladder {
                    sizes: bad.to_vec()
                })
            );
        }
    }

    #[test]
    fn counts_levels_and_children() {
        let ladder = Ladder::new(&[64, 16, 1]).unwrap();
        assert_eq!((ladder.levels(), ladder.coarsest()), (2, 64));
        assert_eq!((ladder.children(0), ladder.children(1)), (4, 16));
        assert_eq!(
            (ladder.per_root(0), ladder.per_root(1), ladder.per_root(2)),
            (1, 4, 64)
        );
    }
}
