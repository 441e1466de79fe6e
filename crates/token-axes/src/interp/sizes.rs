//! Sizes for the samples: every symbol gets others at each sample, and each sample others for all symbols.

use std::collections::{BTreeMap, BTreeSet};

/// How many samples there are.
pub(super) const SAMPLES: usize = 4;

/// What a symbol is used for; decides which sizes it gets. In the order of preference when symbols of two kinds are equal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Role {
    Batch,
    Token,
    /// Height or width of an image.
    Image,
    /// Samples or frames of audio.
    Long,
}

/// How large the samples are.
#[derive(Clone, Copy)]
pub(super) struct Scale {
    /// Numbers of tokens are multiples of this.
    pub(super) token: i64,
    /// Heights and widths are multiples of this.
    pub(super) image: i64,
    /// Lengths of audio begin here.
    pub(super) long: i64,
}

/// From one value per token to 320 samples per token, and from patches of 4 to patches of 32 pixels. The smaller the samples, the
/// more contents are computed and the fewer tables are too short for them.
pub(super) const SCALES: [Scale; 5] = {
    const fn scale(image: i64, long: i64) -> Scale {
        Scale {
            token: 1,
            image,
            long,
        }
    }
    [
        scale(4, 20),
        scale(8, 100),
        scale(16, 400),
        scale(16, 1600),
        scale(32, 4000),
    ]
};

/// Hands out sizes, each once at each sample: primes and their multiples.
pub(super) struct Primes {
    /// Numbers of the model.
    taken: BTreeSet<i64>,
    /// What was handed out at each sample.
    used: [BTreeSet<i64>; SAMPLES],
    /// Where the search by a rule goes on.
    reached: BTreeMap<(usize, i64, i64), i64>,
}

impl Primes {
    /// Sizes that are none of these numbers.
    pub(super) fn without(taken: BTreeSet<i64>) -> Primes {
        Primes {
            taken,
            used: Default::default(),
            reached: BTreeMap::new(),
        }
    }

    /// Sizes at all samples. The rule gives for each where to begin and the multiple: of the first prime that is free, as is its
    /// multiple.
    fn next(&mut self, rule: impl Fn(usize) -> (i64, i64)) -> [i64; SAMPLES] {
        let is_prime = |n: i64| (2..).take_while(|d| d * d <= n).all(|d| n % d != 0);
        let mut own = BTreeSet::new();
        std::array::from_fn(|i| {
            let (from, times) = rule(i);
            let used = &self.used[i];
            let is_free = |n: i64| !self.taken.contains(&n) && !used.contains(&n);
            let reached = self.reached.entry((i, from, times)).or_insert(from);
            let prime = (*reached..)
                .find(|&n| {
                    is_prime(n) && is_free(n) && is_free(n * times) && !own.contains(&(n * times))
                })
                .unwrap_or(from);
            *reached = prime;
            own.insert(prime * times);
            self.used[i].extend([prime, prime * times]);
            prime * times
        })
    }

    /// Sizes for a symbol of a role. One of them is even where the others are odd: else the remainder of a division by 2 would
    /// be the same at all samples.
    pub(super) fn sizes(&mut self, role: Role, scale: Scale) -> [i64; SAMPLES] {
        // Far enough apart to differ after subsampling.
        let long = |i: usize| scale.long + scale.long / 3 * i as i64;
        let last = SAMPLES - 1;
        self.next(|i| match role {
            Role::Batch => ([2, 3, 5, 7][i], 1),
            Role::Token if i == last => (7, 2 * scale.token),
            Role::Token => ([11, 13, 17, 19][i], scale.token),
            // 5 and up, so that no window is larger than the image.
            Role::Image if i == last => (3, 2 * scale.image),
            Role::Image => ([5, 7, 11, 13][i], scale.image),
            Role::Long if i == last => (long(i) / 2, 2),
            Role::Long => (long(i), 1),
        })
    }
}
