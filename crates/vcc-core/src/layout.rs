//! Where slots and segments lie among the items of a batch row.
//!
//! Invariants: items are `v` VIP slots, `m = nb * s_0` context slots, then the segments level by level, coarse first; all products
//! fit in `usize`, so the arithmetic here cannot overflow.

use crate::{Error, Ladder};

/// An item taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Item {
    /// A VIP slot or, from `v` on, a context slot.
    Slot(usize),
    /// A segment.
    Segment {
        /// Its level, `0..L`.
        level: usize,
        /// Its position among the segments of the level.
        index: usize,
    },
}

/// The sizes of one batch row: ladder, VIP slots and coarsest segments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    ladder: Ladder,
    vips: usize,
    roots: usize,
    /// Item id of the first segment of each level, then the number of items.
    starts: Vec<usize>,
}

impl Layout {
    /// The layout of rows of `tokens` tokens with `vips` VIP slots.
    ///
    /// # Errors
    /// [`Error::NoTokens`]; [`Error::TooLarge`] if the number of items does not fit in an `i64`.
    pub fn for_tokens(ladder: Ladder, tokens: usize, vips: usize) -> Result<Self, Error> {
        if tokens == 0 {
            return Err(Error::NoTokens);
        }
        let vips = vips.clamp(1, tokens);
        let segment = ladder.coarsest();
        let roots = (tokens - vips).div_ceil(segment).max(1);
        Self::build(ladder, vips, roots).ok_or(Error::TooLarge { tokens, segment })
    }

    /// The layout of rows of `items` items with `vips` VIP slots: how an operator finds it from the shapes of its inputs.
    ///
    /// # Errors
    /// [`Error::ItemTotal`] if no number of coarsest segments gives `items`.
    pub fn from_items(ladder: Ladder, vips: usize, items: usize) -> Result<Self, Error> {
        let error = Error::ItemTotal {
            items,
            vips,
            sizes: ladder.sizes().to_vec(),
        };
        // Overflow: `per_tree` is one root's slots and segments, at most 2 * s_0 + L.
        let per_tree = (0..=ladder.levels())
            .try_fold(0usize, |sum, level| sum.checked_add(ladder.per_root(level)));
        let roots = match (per_tree, items.checked_sub(vips)) {
            (Some(per_tree), Some(rest)) if rest % per_tree == 0 => rest / per_tree,
            _ => return Err(error),
        };
        if vips == 0 || roots == 0 {
            return Err(error);
        }
        Self::build(ladder, vips, roots).ok_or(error)
    }

    fn build(ladder: Ladder, vips: usize, roots: usize) -> Option<Self> {
        let mut next = roots.checked_mul(ladder.coarsest())?.checked_add(vips)?;
        let mut starts = vec![next];
        for level in 0..ladder.levels() {
            next = roots
                .checked_mul(ladder.per_root(level))?
                .checked_add(next)?;
            starts.push(next);
        }
        i64::try_from(next).ok()?;
        Some(Self {
            ladder,
            vips,
            roots,
            starts,
        })
    }

    /// The ladder.
    pub fn ladder(&self) -> &Ladder {
        &self.ladder
    }

    /// VIP slots, `v`.
    pub fn vips(&self) -> usize {
        self.vips
    }

    /// Coarsest segments, `nb`.
    pub fn roots(&self) -> usize {
        self.roots
    }

    /// Context slots, `m`.
    pub fn context(&self) -> usize {
        self.roots * self.ladder.coarsest()
    }

    /// VIP and context slots, `v + m`.
    pub fn slots(&self) -> usize {
        self.vips + self.context()
    }

    /// Segments of all levels, `N`.
    pub fn segments(&self) -> usize {
        self.items() - self.slots()
    }

    /// Slots and segments, `P`.
    pub fn items(&self) -> usize {
        self.starts[self.ladder.levels()]
    }

    /// Item ids of the segments of a level.
    pub fn level(&self, level: usize) -> std::ops::Range<usize> {
        self.starts[level]..self.starts[level + 1]
    }

    /// Takes an item id apart; `None` if it is not one.
    pub fn item(&self, id: i64) -> Option<Item> {
        let id = usize::try_from(id).ok()?;
        if id < self.slots() {
            return Some(Item::Slot(id));
        }
        let level = (0..self.ladder.levels()).find(|&level| id < self.starts[level + 1])?;
        Some(Item::Segment {
            level,
            index: id - self.starts[level],
        })
    }

    /// Row in `scale` and `offset` of segment `index` of level `level`.
    pub fn map_row(&self, level: usize, index: usize) -> usize {
        self.starts[level] - self.slots() + index
    }

    /// Rows in `scale` and `offset` of the ancestors of `count` context slots starting at `slot` (counted from the first context
    /// slot) that are coarser than `level`, the finest first.
    pub(crate) fn ancestors(&self, slot: usize, level: usize) -> impl Iterator<Item = usize> + '_ {
        (0..level)
            .rev()
            .map(move |above| self.map_row(above, slot / self.ladder.sizes()[above]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_layout_again_from_the_number_of_items() {
        for sizes in [&[16, 1][..], &[64, 16, 1], &[8, 4, 2, 1]] {
            let ladder = Ladder::new(sizes).unwrap();
            for tokens in [1, 7, 16, 17, 500] {
                for vips in [0, 1, 3, 600] {
                    let layout = Layout::for_tokens(ladder.clone(), tokens, vips).unwrap();
                    assert_eq!(
                        Layout::from_items(ladder.clone(), layout.vips(), layout.items()),
                        Ok(layout.clone())
                    );
                    assert!(
                        Layout::from_items(ladder.clone(), layout.vips(), layout.items() + 1)
                            .is_err()
                    );
                    assert!(
                        layout.slots() >= tokens && layout.slots() < tokens + 2 * ladder.coarsest()
                    );
                }
            }
        }
    }

    #[test]
    fn ids_and_items_agree() {
        let layout = Layout::for_tokens(Ladder::new(&[8, 2, 1]).unwrap(), 19, 3).unwrap();
        assert_eq!(
            (
                layout.roots(),
                layout.slots(),
                layout.segments(),
                layout.items()
            ),
            (2, 19, 10, 29)
        );
        assert_eq!(layout.item(18), Some(Item::Slot(18)));
        assert_eq!(layout.item(20), Some(Item::Segment { level: 0, index: 1 }));
        assert_eq!(layout.item(21), Some(Item::Segment { level: 1, index: 0 }));
        assert_eq!(layout.item(28), Some(Item::Segment { level: 1, index: 7 }));
        assert_eq!((layout.item(29), layout.item(-1)), (None, None));
        assert_eq!(layout.ancestors(13, 2).collect::<Vec<_>>(), [2 + 6, 1]);
    }

    #[test]
    fn sizes_that_overflow_are_refused() {
        let ladder = Ladder::new(&[1 << 62, 1]).unwrap();
        assert!(
            matches!(
                Layout::for_tokens(ladder.clone(), 100, 1),
                Err(Error::TooLarge { .. })
            ) || ladder.coarsest() > 0
        );
        assert!(Layout::for_tokens(Ladder::new(&[i64::MAX, 1]).unwrap(), 100, 1).is_err());
        assert!(Layout::from_items(ladder, 1, 100).is_err());
    }
}
