//! The plan: what is converted and how. It is data: printed, written, replayed, and recorded in the converted file.

mod rows;

use crate::error::Error;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// The plan of a file: one entry per encoder that has a block to convert, in the order in which they were found.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// The encoders.
    #[serde(rename = "encoder")]
    pub encoders: Vec<EncoderPlan>,
}

/// The plan of one encoder.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EncoderPlan {
    /// Which tokens stay exact.
    #[serde(with = "text")]
    pub vip: VipSpec,
    /// How many slots they have.
    #[serde(with = "text")]
    pub vip_capacity: Capacity,
    /// Segment sizes, coarse to fine.
    #[serde(with = "text")]
    pub ladder: Ladder,
    /// Segments refined per level.
    #[serde(with = "text")]
    pub refine: Refinements,
    /// Compress once for this many neighbouring blocks.
    #[serde(default = "one")]
    pub reselect_every: usize,
    /// The budget is a graph input; `refine` is its default.
    #[serde(default)]
    pub runtime_budget: bool,
    /// What it will run on.
    #[serde(default, skip_serializing_if = "Device::is_cpu")]
    pub device: Device,
    /// Factor of log(count) in the attention's bias.
    #[serde(default = "unit")]
    pub count_weight: f32,
    /// The graph input, or the value made of inputs, that is the padding mask; empty for none.
    #[serde(default)]
    pub mask_input: String,
    /// Whether 0 marks a valid token in the mask.
    #[serde(default)]
    pub mask_zero_is_valid: bool,
    /// What happens to each block.
    #[serde(with = "text_list")]
    pub blocks: Vec<BlockMode>,
}

fn one() -> usize {
    1
}

fn unit() -> f32 {
    1.0
}

/// What a converted model is written for. It runs on either, with the same results.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Device {
    /// Windows one after the other, attentions as ONNX Runtime's CPU kernels are fastest.
    #[default]
    Cpu,
    /// All windows at once, attentions in the forms that its CUDA kernels know, no control flow.
    Cuda,
}

impl Device {
    fn is_cpu(&self) -> bool {
        *self == Device::Cpu
    }
}

impl FromStr for Device {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        match text {
            "cpu" => Ok(Device::Cpu),
            "cuda" => Ok(Device::Cuda),
            _ => Err(Error::Usage(format!(
                "The device '{text}' is not known; it is cpu or cuda."
            ))),
        }
    }
}

/// What happens to a block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BlockMode {
    /// Runs on the compressed sequence.
    Vcc,
    /// Stays as it is.
    Full,
    /// Attention inside windows of this many tokens (`None`: one window of the whole length).
    Local(Option<i64>),
}

/// VIP tokens: the union of the terms.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VipSpec(pub Vec<VipTerm>);

/// One term of a VIP specification.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum VipTerm {
    /// The first valid tokens.
    First(i64),
    /// The last valid tokens.
    Last(i64),
    /// Tokens whose token type is this.
    TokenType(i64),
    /// Tokens with one of these ids.
    Tokens(Vec<i64>),
    /// All valid tokens up to and including the first with this id.
    ThroughToken(i64),
    /// A new boolean graph input `[B, n]`.
    Input(String),
}

/// VIP slots.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Capacity {
    /// The largest number of VIP tokens in the batch.
    Auto,
    /// This many.
    Fixed(i64),
}

/// Segment sizes, coarse to fine, each dividing the one before, the last 1.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ladder(pub Vec<i64>);

/// Segments refined per level.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refinements(pub Vec<Refine>);

/// Segments refined at one level.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refine {
    /// This many.
    Count(i64),
    /// This percentage of the candidates, rounded up.
    Percent(i64),
}

impl Refine {
    /// All candidates.
    pub const ALL: Refine = Refine::Percent(100);

    /// The budget operand of VccSelect.
    pub fn budget(self) -> i64 {
        match self {
            Refine::Count(h) => h,
            Refine::Percent(p) => -p,
        }
    }
}

impl EncoderPlan {
    /// The same plan with everything refined and every window the whole length: equal to the original.
    pub fn at_full_budget(&self) -> EncoderPlan {
        let mut plan = self.clone();
        plan.refine = Refinements(vec![Refine::ALL; plan.ladder.levels()]);
        for mode in &mut plan.blocks {
            if let BlockMode::Local(_) = mode {
                *mode = BlockMode::Local(None);
            }
        }
        plan
    }
}

impl Plan {
    /// The plan at full budget.
    pub fn at_full_budget(&self) -> Plan {
        Plan {
            encoders: self
                .encoders
                .iter()
                .map(EncoderPlan::at_full_budget)
                .collect(),
        }
    }

    /// Reads a plan from TOML.
    pub fn from_toml(text: &str) -> Result<Plan, Error> {
        toml::from_str(text).map_err(|e| Error::Plan(e.to_string()))
    }

    /// The plan as TOML.
    pub fn to_toml(&self) -> Result<String, Error> {
        toml::to_string(self).map_err(|e| Error::Plan(e.to_string()))
    }
}

impl Ladder {
    /// The number of levels of segments.
    pub fn levels(&self) -> usize {
        self.0.len().saturating_sub(1)
    }
}

/// The default capacity of a specification: known for `first` and `last`, otherwise the largest count.
impl VipSpec {
    /// See DESIGN: N for `first:N` and `last:N` alone, else auto.
    pub fn default_capacity(&self) -> Capacity {
        match self.0[..] {
            [VipTerm::First(n) | VipTerm::Last(n)] => Capacity::Fixed(n.max(1)),
            _ => Capacity::Auto,
        }
    }
}

fn number(text: &str, what: &str, min: i64) -> Result<i64, Error> {
    text.trim()
        .parse::<i64>()
        .ok()
        .filter(|&n| n >= min && n <= i64::from(i32::MAX))
        .ok_or_else(|| {
            Error::Usage(format!(
                "{what} '{text}' is not a whole number from {min} to {}.",
                i32::MAX
            ))
        })
}

impl FromStr for VipSpec {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let term = |t: &str| -> Result<VipTerm, Error> {
            let (kind, value) = t.split_once(':').ok_or_else(|| {
                Error::Usage(format!(
                    "VIP term '{t}' has no value. Terms are first:N, last:N, token-type:V, tokens:ID,.., through-token:ID, input:NAME."
                ))
            })?;
            Ok(match kind {
                "first" => VipTerm::First(number(value, "The count of first", 1)?),
                "last" => VipTerm::Last(number(value, "The count of last", 1)?),
                "token-type" => VipTerm::TokenType(number(value, "The token type", 0)?),
                "through-token" => VipTerm::ThroughToken(number(value, "The token id", 0)?),
                "tokens" => VipTerm::Tokens(
                    value
                        .split(',')
                        .map(|v| number(v, "The token id", 0))
                        .collect::<Result<_, _>>()?,
                ),
                "input" if !value.is_empty() => VipTerm::Input(value.to_owned()),
                _ => {
                    return Err(Error::Usage(format!(
                        "VIP term '{t}' is not known. Terms are first:N, last:N, token-type:V, tokens:ID,.., through-token:ID, input:NAME."
                    )));
                }
            })
        };
        Ok(VipSpec(
            text.split('+')
                .map(|t| term(t.trim()))
                .collect::<Result<_, _>>()?,
        ))
    }
}

impl fmt::Display for VipSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, term) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str("+")?;
            }
            match term {
                VipTerm::First(n) => write!(f, "first:{n}")?,
                VipTerm::Last(n) => write!(f, "last:{n}")?,
                VipTerm::TokenType(v) => write!(f, "token-type:{v}")?,
                VipTerm::Tokens(ids) => {
                    let ids: Vec<String> = ids.iter().map(i64::to_string).collect();
                    write!(f, "tokens:{}", ids.join(","))?;
                }
                VipTerm::ThroughToken(id) => write!(f, "through-token:{id}")?,
                VipTerm::Input(name) => write!(f, "input:{name}")?,
            }
        }
        Ok(())
    }
}

impl FromStr for Capacity {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        if text == "auto" {
            Ok(Capacity::Auto)
        } else {
            Ok(Capacity::Fixed(number(text, "The VIP capacity", 1)?))
        }
    }
}

impl fmt::Display for Capacity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Capacity::Auto => f.write_str("auto"),
            Capacity::Fixed(n) => write!(f, "{n}"),
        }
    }
}

impl FromStr for Ladder {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let sizes: Vec<i64> = text
            .split(',')
            .map(|s| number(s, "The segment size", 1))
            .collect::<Result<_, _>>()?;
        let divides = sizes.windows(2).all(|w| w[0] > w[1] && w[0] % w[1] == 0);
        if sizes.len() < 2 || sizes.last() != Some(&1) || !divides {
            return Err(Error::Usage(format!(
                "The ladder '{text}' must have at least two sizes, each dividing the one before, the last 1 (for example 16,1)."
            )));
        }
        Ok(Ladder(sizes))
    }
}

impl fmt::Display for Ladder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sizes: Vec<String> = self.0.iter().map(i64::to_string).collect();
        f.write_str(&sizes.join(","))
    }
}

impl FromStr for Refine {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        if text == "all" {
            return Ok(Refine::ALL);
        }
        match text.strip_suffix('%') {
            Some(p) => number(p, "The percentage", 0).and_then(|p| {
                if (1..=100).contains(&p) {
                    Ok(Refine::Percent(p))
                } else {
                    Err(Error::Usage(format!(
                        "The percentage '{text}' is not between 1% and 100%."
                    )))
                }
            }),
            None => Ok(Refine::Count(number(
                text,
                "The number of refined segments",
                0,
            )?)),
        }
    }
}

impl fmt::Display for Refine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refine::Percent(100) => f.write_str("all"),
            Refine::Percent(p) => write!(f, "{p}%"),
            Refine::Count(h) => write!(f, "{h}"),
        }
    }
}

impl FromStr for Refinements {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        Ok(Refinements(
            text.split(',')
                .map(|t| t.trim().parse())
                .collect::<Result<_, _>>()?,
        ))
    }
}

impl fmt::Display for Refinements {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all: Vec<String> = self.0.iter().map(Refine::to_string).collect();
        f.write_str(&all.join(","))
    }
}

impl FromStr for BlockMode {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        match text {
            "vcc" => Ok(BlockMode::Vcc),
            "full" => Ok(BlockMode::Full),
            "local:all" => Ok(BlockMode::Local(None)),
            _ => match text.strip_prefix("local:") {
                Some(size) => Ok(BlockMode::Local(Some(number(size, "The window", 1)?))),
                None => Err(Error::Usage(format!(
                    "The block mode '{text}' is not vcc, full or local:SEG."
                ))),
            },
        }
    }
}

impl fmt::Display for BlockMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BlockMode::Vcc => f.write_str("vcc"),
            BlockMode::Full => f.write_str("full"),
            BlockMode::Local(Some(size)) => write!(f, "local:{size}"),
            BlockMode::Local(None) => f.write_str("local:all"),
        }
    }
}

/// A list of ranges with modes, such as `0-3=local:512,4-=vcc`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BlockSpec(Vec<(usize, Option<usize>, BlockMode)>);

impl FromStr for BlockSpec {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let entry = |part: &str| -> Result<(usize, Option<usize>, BlockMode), Error> {
            let (range, mode) = part.split_once('=').ok_or_else(|| {
                Error::Usage(format!(
                    "'{part}' in --blocks is not RANGE=MODE (for example 0-3=local:512)."
                ))
            })?;
            let index = |t: &str| number(t, "The block number", 0).map(|n| n as usize);
            let (first, last) = match range.split_once('-') {
                None => (index(range)?, Some(index(range)?)),
                Some((first, "")) => (index(first)?, None),
                Some((first, last)) => (index(first)?, Some(index(last)?)),
            };
            if last.is_some_and(|l| l < first) {
                return Err(Error::Usage(format!(
                    "The range '{range}' in --blocks runs backwards."
                )));
            }
            Ok((first, last, mode.parse()?))
        };
        Ok(BlockSpec(
            text.split(',')
                .map(|p| entry(p.trim()))
                .collect::<Result<_, _>>()?,
        ))
    }
}

impl BlockSpec {
    /// The blocks that are named by their own number.
    pub(crate) fn single(&self) -> impl Iterator<Item = usize> + '_ {
        let named = |&(first, last, _): &(usize, Option<usize>, BlockMode)| {
            (last == Some(first)).then_some(first)
        };
        self.0.iter().filter_map(named)
    }

    /// The modes of `count` blocks; later entries win, blocks that are not named are `vcc`.
    pub fn modes(&self, count: usize) -> Result<Vec<BlockMode>, Error> {
        let mut modes = vec![BlockMode::Vcc; count];
        for &(first, last, mode) in &self.0 {
            let last = last.unwrap_or(count.saturating_sub(1));
            if first >= count || last >= count {
                return Err(Error::Usage(format!(
                    "--blocks names block {}, but the encoder has blocks 0 to {}.",
                    first.max(last),
                    count.saturating_sub(1)
                )));
            }
            modes[first..=last].fill(mode);
        }
        Ok(modes)
    }
}

/// Serde as text.
mod text {
    use serde::{Deserialize, Deserializer, Serializer};
    use std::fmt::Display;
    use std::str::FromStr;

    pub(super) fn serialize<T: Display, S: Serializer>(
        value: &T,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        to.collect_str(value)
    }

    pub(super) fn deserialize<'de, T, D>(from: D) -> Result<T, D::Error>
    where
        T: FromStr<Err = crate::error::Error>,
        D: Deserializer<'de>,
    {
        String::deserialize(from)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

/// Serde of a list as texts.
mod text_list {
    use super::BlockMode;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(value: &[BlockMode], to: S) -> Result<S::Ok, S::Error> {
        value
            .iter()
            .map(BlockMode::to_string)
            .collect::<Vec<_>>()
            .serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Vec<BlockMode>, D::Error> {
        Vec::<String>::deserialize(from)?
            .iter()
            .map(|t| t.parse().map_err(serde::de::Error::custom))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn block_specs() {
        let spec: BlockSpec = "0-3=local:512,4-=vcc".parse().unwrap();
        let modes = spec.modes(6).unwrap();
        assert_eq!(modes[..4], [BlockMode::Local(Some(512)); 4]);
        assert_eq!(modes[4..], [BlockMode::Vcc; 2]);
        assert_eq!(
            "0=full".parse::<BlockSpec>().unwrap().modes(2).unwrap(),
            [BlockMode::Full, BlockMode::Vcc]
        );
        assert!("7=full".parse::<BlockSpec>().unwrap().modes(2).is_err());
        assert!("3-1=full".parse::<BlockSpec>().is_err());
        assert!("full".parse::<BlockSpec>().is_err());
    }

    #[test]
    fn texts_round_trip() {
        for text in [
            "first:1",
            "last:3+tokens:4,5",
            "through-token:102+input:important",
            "token-type:1",
        ] {
            assert_eq!(text.parse::<VipSpec>().unwrap().to_string(), text);
        }
        for text in ["51", "25%", "all", "8,50%"] {
            assert_eq!(text.parse::<Refinements>().unwrap().to_string(), text);
        }
        for bad in ["first", "first:0", "some:1", "input:", "tokens:1,x"] {
            assert!(bad.parse::<VipSpec>().is_err(), "{bad}");
        }
        for bad in ["16", "16,3,1", "1,16", "16,16,1", "16,2"] {
            assert!(bad.parse::<Ladder>().is_err(), "{bad}");
        }
        for bad in ["-1", "0%", "101%", "x"] {
            assert!(bad.parse::<Refinements>().is_err(), "{bad}");
        }
    }
}
