//! Position biases that cannot be masks: looked up in tables of the model whose numbers are too near each other to block anything.
//!
//! Such a bias is harmless whatever its index is computed from, be that positions that are fed or too many tokens to follow.

use crate::block::BlockAxes;
use crate::flow::External;
use crate::layout::Role;
use crate::masks::{BLOCKED, BLOCKED_STEP};
use onnx_model::{DataType, Graph, Node, ValueId};

/// How many numbers a table may have.
const LARGEST_TABLE: usize = 1 << 22;
/// As many different numbers as a table of masks may have; what is learned has more.
const FEW: usize = 4;
/// How many values may lie between an external and its tables.
const MOST_VALUES: usize = 100;

/// What is known of all elements of a value.
#[derive(Clone, Copy)]
struct Bounds {
    least: f64,
    most: f64,
    /// Whether one may be 0.
    zero: bool,
    /// Whether they may be a few different numbers only.
    few: bool,
}

/// Whether an external of queries and keys leaves every score about what it was.
pub(crate) fn cannot_block(
    graph: &Graph,
    axes: &BlockAxes,
    node: &Node,
    external: &External,
) -> bool {
    let Some(bounds) = of(graph, external.value, &mut 0) else {
        return false;
    };
    let of_weights = node.inputs.iter().flatten().any(|v| {
        let layout = axes.layouts.get(v);
        layout.is_some_and(|l| l.0.iter().flatten().any(|f| f.role == Role::Attended))
    });
    let range = bounds.most - bounds.least;
    let near = range < BLOCKED_STEP || (range < BLOCKED && !bounds.few);
    // A factor of 0 may block, what is added may not.
    let added = matches!(node.op_type.as_str(), "Add" | "Sub" | "Sum");
    let factor = matches!(node.op_type.as_str(), "Mul" | "MatMul" | "Einsum");
    near && !of_weights && (added || (factor && !bounds.zero))
}

fn of(graph: &Graph, value: ValueId, seen: &mut usize) -> Option<Bounds> {
    *seen += 1;
    if *seen > MOST_VALUES {
        return None;
    }
    // One that is listed as an input too holds its own values, as for all of the analysis.
    if let Some(tensor) = graph.initializer(value).or_else(|| graph.tensor(value)) {
        if !is_float(tensor.dtype()) || tensor.len()? > LARGEST_TABLE {
            return None;
        }
        return of_numbers(&tensor.to_f64s()?);
    }
    let node = graph.node(graph.value(value).producer()?.0);
    if !node.domain.is_empty() {
        return None;
    }
    let mut input = |i: usize| {
        let value = node.inputs.get(i).copied().flatten()?;
        of(graph, value, seen)
    };
    match node.op_type.as_str() {
        "Gather" | "GatherND" | "GatherElements" | "Slice" | "Split" | "Reshape" | "Flatten"
        | "Transpose" | "Squeeze" | "Unsqueeze" | "Expand" | "Tile" | "Identity" => input(0),
        "Cast" => {
            let to = i32::try_from(node.attr_int("to")?).ok()?;
            DataType::from_i32(to).filter(|&t| is_float(t))?;
            input(0)
        }
        "Concat" => (0..node.inputs.len()).try_fold(input(0)?, |all, i| Some(all.or(input(i)?))),
        "Where" => Some(input(1)?.or(input(2)?)),
        "Add" | "Sum" => {
            (1..node.inputs.len()).try_fold(input(0)?, |sum, i| Some(sum.plus(input(i)?)))
        }
        "Sub" => Some(input(0)?.plus(input(1)?.times(-1.0))),
        "Neg" => Some(input(0)?.times(-1.0)),
        "Mul" | "Div" => {
            let (a, b) = (input(0)?, input(1)?);
            if node.op_type == "Div" {
                return Some(a.times(1.0 / b.number()?));
            }
            b.number()
                .map(|x| a.times(x))
                .or_else(|| Some(b.times(a.number()?)))
        }
        _ => None,
    }
}

fn is_float(dtype: DataType) -> bool {
    use DataType::{Bfloat16, Double, Float, Float16};
    matches!(dtype, Float | Double | Float16 | Bfloat16)
}

fn of_numbers(numbers: &[f64]) -> Option<Bounds> {
    if numbers.is_empty() || numbers.iter().any(|x| !x.is_finite()) {
        return None;
    }
    let mut different: Vec<f64> = Vec::new();
    for &x in numbers {
        if !different.contains(&x) {
            different.push(x);
        }
        if different.len() > FEW {
            break;
        }
    }
    Some(Bounds {
        least: numbers.iter().copied().fold(f64::INFINITY, f64::min),
        most: numbers.iter().copied().fold(f64::NEG_INFINITY, f64::max),
        zero: numbers.contains(&0.0),
        few: different.len() <= FEW,
    })
}

impl Bounds {
    /// The number, if there is but one and it can be divided by.
    fn number(self) -> Option<f64> {
        (self.least == self.most && self.least != 0.0).then_some(self.least)
    }

    fn is_step(self) -> bool {
        self.few && self.least != self.most
    }

    fn or(self, other: Bounds) -> Bounds {
        Bounds {
            least: self.least.min(other.least),
            most: self.most.max(other.most),
            zero: self.zero || other.zero,
            few: self.few || other.few,
        }
    }

    fn plus(self, other: Bounds) -> Bounds {
        let (least, most) = (self.least + other.least, self.most + other.most);
        Bounds {
            least,
            most,
            zero: least <= 0.0 && most >= 0.0,
            // A learned table and a step make a step still; one number makes none.
            few: self.is_step() || other.is_step(),
        }
    }

    fn times(self, factor: f64) -> Bounds {
        let (a, b) = (self.least * factor, self.most * factor);
        Bounds {
            least: a.min(b),
            most: a.max(b),
            ..self
        }
    }
}
