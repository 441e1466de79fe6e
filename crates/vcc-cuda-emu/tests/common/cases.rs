//! Random shapes, masks and numbers.

/// Reproducible numbers.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0xD1B5_4A32_D192_ED03)
    }

    fn next(&mut self) -> u64 {
        // splitmix64
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        x ^ (x >> 31)
    }

    pub(crate) fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }

    pub(crate) fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())].clone()
    }

    /// In -limit..limit.
    pub(crate) fn number(&mut self, limit: f64) -> f64 {
        ((self.next() >> 11) as f64 / (1u64 << 52) as f64 - 1.0) * limit
    }

    pub(crate) fn numbers(&mut self, len: usize, limit: f64) -> Vec<f64> {
        (0..len).map(|_| self.number(limit)).collect()
    }

    fn mask(&mut self, n: usize) -> Vec<bool> {
        let (kind, cut) = (self.below(6), self.below(n + 1));
        (0..n)
            .map(|t| match kind {
                0 => false,
                1 => true,
                2 => t == cut,
                3 => self.below(3) == 0,
                4 => t >= cut,
                _ => t <= cut,
            })
            .collect()
    }
}

/// The sizes and masks of a batch.
#[derive(Debug, Clone)]
pub(crate) struct Case {
    pub(crate) seed: u64,
    pub(crate) batch: usize,
    pub(crate) n: usize,
    pub(crate) channels: usize,
    pub(crate) heads: usize,
    pub(crate) ladder: Vec<i64>,
    pub(crate) capacity: usize,
    pub(crate) vip: Vec<Vec<bool>>,
    pub(crate) valid: Vec<Vec<bool>>,
    pub(crate) budgets: Vec<i64>,
    pub(crate) count_weight: f32,
    /// Bytes by which buffers miss the alignment of vectors.
    pub(crate) shift: usize,
    /// Whether the list of items is out of the order in which selections make it.
    pub(crate) shuffled: bool,
    /// Whether padding rows hold NaN.
    pub(crate) nan: bool,
}

/// A case with at most `longest` tokens and `widest` channels.
pub(crate) fn random_case(seed: u64, longest: usize, widest: usize) -> Case {
    let mut random = Random::new(seed);
    let ladders: &[&[i64]] = &[
        &[2, 1],
        &[3, 1],
        &[5, 1],
        &[16, 1],
        &[40, 1],
        &[4, 2, 1],
        &[8, 4, 1],
        &[16, 4, 1],
        &[64, 16, 1],
        &[12, 6, 2, 1],
        &[32, 16, 8, 4, 1],
        &[72, 36, 1],
        &[256, 128, 64, 32, 16, 8, 4, 2, 1],
    ];
    let longest = random.pick(&[4, 20, longest]);
    let (batch, n) = (1 + random.below(3), 1 + random.below(longest));
    let channels = match random.below(3) {
        0 => 1 + random.below(9),
        1 => 8 * (1 + random.below(widest / 8)),
        _ => 1 + random.below(widest),
    };
    let masks =
        |random: &mut Random| -> Vec<Vec<bool>> { (0..batch).map(|_| random.mask(n)).collect() };
    let vip = masks(&mut random);
    let valid = match random.below(3) {
        0 => vec![vec![true; n]; batch],
        _ => masks(&mut random),
    };
    let budgets = (0..8)
        .map(|_| match random.below(6) {
            0 => 0,
            1 => -100,
            2 => 1000,
            3 => -(random.below(100) as i64),
            _ => random.below(6) as i64,
        })
        .collect();
    Case {
        seed,
        batch,
        n,
        channels,
        heads: random.below(4),
        ladder: random.pick(ladders).to_vec(),
        capacity: match random.below(3) {
            0 => 0,
            1 => 1 + random.below(4),
            _ => random.below(n + 5),
        },
        vip,
        valid,
        budgets,
        count_weight: random.pick(&[1.0, 0.5]),
        shift: random.pick(&[0, 0, 0, 8]),
        shuffled: random.below(4) == 0,
        nan: random.below(4) == 0,
    }
}
