//! Tensors of a body under construction, so that a body reads like a formula: `a + b`, `x.gather(..)` and so on append the node
//! that computes the result. The form of a node is the one that the body's opset defines (axes as attribute or as input).

use std::ops::{Add, Div, Mul, Neg, Sub};

use onnx_model::{AttrKind, AttrValue, DataType};

use super::build::{Body, reference};

/// A tensor of a [`Body`].
#[derive(Clone, Copy)]
pub(super) struct Val<'b> {
    pub(super) body: &'b Body,
    pub(super) id: usize,
}

/// Broadcasting arithmetic; a plain number stands for an int64 size.
impl<'b> Val<'b> {
    /// Calls the value `name` in the file (made unique with a number).
    pub(super) fn named(self, name: &str) -> Val<'b> {
        let mut state = self.body.state.borrow_mut();
        let mut unique = name.to_owned();
        let mut number = 1;
        while state.names.contains(&unique) {
            number += 1;
            unique = format!("{name}_{number}");
        }
        state.names[self.id] = unique;
        self
    }

    fn op(self, op_type: &'static str, others: &[Val<'b>]) -> Val<'b> {
        self.op_with(op_type, others, vec![])
    }

    fn op_with(
        self,
        op_type: &'static str,
        others: &[Val<'b>],
        attributes: Vec<(&'static str, AttrValue)>,
    ) -> Val<'b> {
        let mut inputs = vec![self];
        inputs.extend_from_slice(others);
        self.body.op_with(op_type, &inputs, attributes)
    }

    /// An operator whose axes are an attribute before opset `since` and an input from then on.
    fn op_axes(
        self,
        op_type: &'static str,
        axes: &[i64],
        since: i64,
        mut attributes: Vec<(&'static str, AttrValue)>,
    ) -> Val<'b> {
        if self.body.opset >= since {
            return self.op_with(op_type, &[self.body.ints(axes)], attributes);
        }
        attributes.insert(0, ("axes", AttrValue::Ints(axes.to_vec())));
        self.op_with(op_type, &[], attributes)
    }

    pub(super) fn less(self, other: impl Operand<'b>) -> Val<'b> {
        self.op("Less", &[other.val(self.body)])
    }

    pub(super) fn greater(self, other: impl Operand<'b>) -> Val<'b> {
        self.op("Greater", &[other.val(self.body)])
    }

    pub(super) fn equal(self, other: impl Operand<'b>) -> Val<'b> {
        self.op("Equal", &[other.val(self.body)])
    }

    pub(super) fn and(self, other: Val<'b>) -> Val<'b> {
        self.op("And", &[other])
    }

    pub(super) fn or(self, other: Val<'b>) -> Val<'b> {
        self.op("Or", &[other])
    }

    pub(super) fn not(self) -> Val<'b> {
        self.op("Not", &[])
    }

    pub(super) fn is_nan(self) -> Val<'b> {
        self.op("IsNaN", &[])
    }

    /// `yes` where this condition holds, else `no`.
    pub(super) fn select(self, yes: impl Operand<'b>, no: impl Operand<'b>) -> Val<'b> {
        self.op("Where", &[yes.val(self.body), no.val(self.body)])
    }

    /// The smaller one (int64; Min takes no integers before opset 12).
    pub(super) fn min(self, other: impl Operand<'b>) -> Val<'b> {
        let other = other.val(self.body);
        self.less(other).select(self, other)
    }

    /// The larger one (int64; Max takes no integers before opset 12).
    pub(super) fn max(self, other: impl Operand<'b>) -> Val<'b> {
        let other = other.val(self.body);
        self.greater(other).select(self, other)
    }

    pub(super) fn modulo(self, other: impl Operand<'b>) -> Val<'b> {
        self.op("Mod", &[other.val(self.body)])
    }

    pub(super) fn abs(self) -> Val<'b> {
        self.op("Abs", &[])
    }

    pub(super) fn log(self) -> Val<'b> {
        self.op("Log", &[])
    }

    pub(super) fn softmax(self, axis: i64) -> Val<'b> {
        self.op_with("Softmax", &[], vec![("axis", AttrValue::Int(axis))])
    }

    fn cast(self, to: AttrValue) -> Val<'b> {
        self.op_with("Cast", &[], vec![("to", to)])
    }

    pub(super) fn int(self) -> Val<'b> {
        self.cast(AttrValue::Int(DataType::Int64 as i64))
    }

    pub(super) fn float(self) -> Val<'b> {
        self.cast(AttrValue::Int(DataType::Float as i64))
    }

    /// Cast to the data type in the node's attribute `dtype`.
    pub(super) fn to_dtype(self) -> Val<'b> {
        self.cast(reference("dtype", AttrKind::Int))
    }

    /// Rows `[.., .., d]` in that type, as the model reads them. The Reshape changes nothing: ONNX Runtime's fusion of a norm that is
    /// written out takes a Cast in front of it along, and a norm of two types then does not load.
    pub(super) fn to_model(self) -> Val<'b> {
        let same = self.body.ints(&[0, 0, -1]);
        self.to_dtype().op("Reshape", &[same])
    }

    /// The size of `axis`, of shape [1].
    pub(super) fn dim(self, axis: i64) -> Val<'b> {
        self.op("Shape", &[]).gather(self.body.int(axis), 0)
    }

    pub(super) fn gather(self, indices: Val<'b>, axis: i64) -> Val<'b> {
        self.op_with("Gather", &[indices], vec![("axis", AttrValue::Int(axis))])
    }

    pub(super) fn gather_elements(self, indices: Val<'b>, axis: i64) -> Val<'b> {
        self.op_with(
            "GatherElements",
            &[indices],
            vec![("axis", AttrValue::Int(axis))],
        )
    }

    pub(super) fn scatter_elements(self, indices: Val<'b>, updates: Val<'b>, axis: i64) -> Val<'b> {
        self.op_with(
            "ScatterElements",
            &[indices, updates],
            vec![("axis", AttrValue::Int(axis))],
        )
    }

    pub(super) fn reshape(self, shape: &[Val<'b>]) -> Val<'b> {
        self.op("Reshape", &[self.body.concat(shape, 0)])
    }

    pub(super) fn expand(self, shape: &[Val<'b>]) -> Val<'b> {
        self.op("Expand", &[self.body.concat(shape, 0)])
    }

    pub(super) fn squeeze(self, axes: &[i64]) -> Val<'b> {
        self.op_axes("Squeeze", axes, 13, vec![])
    }

    pub(super) fn unsqueeze(self, axes: &[i64]) -> Val<'b> {
        self.op_axes("Unsqueeze", axes, 13, vec![])
    }

    /// The sum over `axes`, which stay with size 1.
    pub(super) fn sum(self, axes: &[i64]) -> Val<'b> {
        self.op_axes("ReduceSum", axes, 13, keep())
    }

    /// The maximum over `axes`, which stay with size 1.
    pub(super) fn reduce_max(self, axes: &[i64]) -> Val<'b> {
        self.op_axes("ReduceMax", axes, 18, keep())
    }

    /// The minimum over `axes`, which stay with size 1.
    pub(super) fn reduce_min(self, axes: &[i64]) -> Val<'b> {
        self.op_axes("ReduceMin", axes, 18, keep())
    }

    /// Running sums along `axis`, each including its own element.
    pub(super) fn cumsum(self, axis: i64) -> Val<'b> {
        self.op("CumSum", &[self.body.int_scalar(axis)])
    }

    /// The `count` largest elements along `axis`, the largest first. There must be no NaN, of which the operator's definition
    /// says nothing; nor is it asked for positions, in which engines differ where elements are equal.
    pub(super) fn top(self, count: Val<'b>, axis: i64) -> Val<'b> {
        let (largest, positions) = (self.body.value("largest"), self.body.value("positions"));
        let attributes = vec![("axis", AttrValue::Int(axis))];
        self.body
            .node("TopK", &[self, count], &[largest, positions], attributes);
        largest
    }

    /// Elements `start .. end` along `axis`.
    pub(super) fn slice(
        self,
        axis: i64,
        start: impl Operand<'b>,
        end: impl Operand<'b>,
    ) -> Val<'b> {
        let (start, end) = (start.val(self.body), end.val(self.body));
        self.op("Slice", &[start, end, self.body.int(axis)])
    }
}

fn keep() -> Vec<(&'static str, AttrValue)> {
    vec![("keepdims", AttrValue::Int(1))]
}

/// What may stand on the right of an operation: a tensor, an int64 or a float32 constant.
pub(super) trait Operand<'b> {
    fn val(self, body: &'b Body) -> Val<'b>;
}

impl<'b> Operand<'b> for Val<'b> {
    fn val(self, _: &'b Body) -> Val<'b> {
        self
    }
}

impl<'b> Operand<'b> for i64 {
    fn val(self, body: &'b Body) -> Val<'b> {
        body.int(self)
    }
}

impl<'b> Operand<'b> for f32 {
    fn val(self, body: &'b Body) -> Val<'b> {
        body.float(self)
    }
}

macro_rules! arithmetic {
    ($($name:ident $method:ident $op_type:literal),*) => {$(
        impl<'b, O: Operand<'b>> $name<O> for Val<'b> {
            type Output = Val<'b>;
            fn $method(self, other: O) -> Val<'b> {
                self.op($op_type, &[other.val(self.body)])
            }
        }
    )*};
}

arithmetic!(Add add "Add", Sub sub "Sub", Mul mul "Mul", Div div "Div");

impl<'b> Neg for Val<'b> {
    type Output = Val<'b>;
    fn neg(self) -> Val<'b> {
        self.op("Neg", &[])
    }
}
