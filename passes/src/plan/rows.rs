//! How long the compressed sequence of a plan is.

use super::{Capacity, EncoderPlan};

impl EncoderPlan {
    /// Rows at a length with `vips` VIP tokens: `v + sum of what each level leaves + refined tokens`.
    pub fn rows(&self, tokens: i64, vips: i64) -> i64 {
        let capacity = match self.vip_capacity {
            Capacity::Auto => vips,
            Capacity::Fixed(n) => n,
        };
        let v = capacity.clamp(1, tokens.max(1));
        let sizes = &self.ladder.0;
        let coarsest = sizes.first().copied().unwrap_or(1).max(1);
        let mut candidates = ((tokens - v + coarsest - 1) / coarsest).max(1);
        let mut rows = v;
        for (pair, refine) in sizes.windows(2).zip(&self.refine.0) {
            let budget = refine.budget();
            let refined = if budget < 0 {
                (candidates * -budget + 99) / 100
            } else {
                budget.min(candidates)
            };
            rows += candidates - refined;
            candidates = refined * (pair[0] / pair[1]);
        }
        rows + candidates
    }
}

#[cfg(test)]
mod tests {
    use super::super::Plan;

    fn rows(capacity: &str, ladder: &str, refine: &str, tokens: i64, vips: i64) -> i64 {
        let text = format!(
            "[[encoder]]\nvip = \"first:1\"\nvip_capacity = \"{capacity}\"\nladder = \"{ladder}\"\nrefine = \"{refine}\"\nblocks = [\"vcc\"]\n"
        );
        let plan = Plan::from_toml(&text).unwrap().encoders.remove(0);
        plan.rows(tokens, vips)
    }

    #[test]
    fn rows_of_the_published_settings() {
        // r of the authors' configurations.
        assert_eq!(rows("256", "16,1", "80", 4096, 0), 1696);
        assert_eq!(rows("48", "16,1", "90", 16384, 0), 2419);
        assert_eq!(rows("64", "64,1", "30", 65536, 0), 2977);
        // r = v + h*k + nb - h, with nb = ceil(4095 / 16) = 256
        assert_eq!(rows("1", "16,1", "51", 4096, 0), 1022);
        assert!(rows("1", "16,1", "51", 800, 0) >= 800);
        assert_eq!(rows("1", "16,1", "all", 100, 0), 1 + 7 * 16);
        assert_eq!(
            rows("auto", "8,4,1", "2,1", 33, 1),
            1 + (4 - 2) + (4 - 1) + 4
        );
    }
}
