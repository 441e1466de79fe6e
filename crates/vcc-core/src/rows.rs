//! Arithmetic on rows of channels, in f32, one pass over memory.
//!
//! The loops are compiled twice, for every x86-64 processor and for those with AVX2; which one runs is decided when it is called. Both give the
//! same bits: no multiplication and addition is fused, and no sum is reordered.

use multiversion::multiversion;

use crate::Element;

/// `rows` of a dense tensor of rows of `channels` elements.
#[inline]
pub(crate) fn row<T>(tensor: &[T], index: usize, channels: usize) -> &[T] {
    &tensor[index * channels..(index + 1) * channels]
}

/// The same, to be written.
#[inline]
pub(crate) fn row_mut<T>(tensor: &mut [T], index: usize, channels: usize) -> &mut [T] {
    &mut tensor[index * channels..(index + 1) * channels]
}

/// A map `x -> scale * x + offset` per channel, as it is stored.
pub(crate) type Map<'a, T> = (&'a [T], &'a [T]);

/// `sum += weight * from`, or `sum = weight * from` for the first row.
#[multiversion(targets("x86_64+avx2"))]
pub(crate) fn add<T: Element>(from: &[T], weight: f32, first: bool, sum: &mut [f32]) {
    let pairs = sum.iter_mut().zip(from);
    if first {
        pairs.for_each(|(sum, x)| *sum = weight * x.widen());
    } else {
        pairs.for_each(|(sum, x)| *sum += weight * x.widen());
    }
}

/// `to = sum / total`.
#[multiversion(targets("x86_64+avx2"))]
pub(crate) fn store_mean<T: Element>(sum: &[f32], total: f32, to: &mut [T]) {
    for (to, sum) in to.iter_mut().zip(sum) {
        *to = T::narrow(sum / total);
    }
}

/// A composition of maps, in f32.
pub(crate) struct Path<'a> {
    pub(crate) scale: &'a mut [f32],
    pub(crate) offset: &'a mut [f32],
}

impl<'a> Path<'a> {
    /// A path whose scale is in the first half of `buffer` and whose offset is in the second.
    pub(crate) fn new(buffer: &'a mut [f32]) -> Self {
        let (scale, offset) = buffer.split_at_mut(buffer.len() / 2);
        Self { scale, offset }
    }

    /// The map that changes nothing.
    pub(crate) fn set_identity(&mut self) {
        self.scale.fill(1.0);
        self.offset.fill(0.0);
    }

    /// `self = above after map`: first the map, then the path above it.
    pub(crate) fn compose<T: Element>(&mut self, above: &Path<'_>, map: Map<'_, T>) {
        compose(self.scale, self.offset, above.scale, above.offset, map);
    }

    /// `self = map after self`.
    pub(crate) fn then<T: Element>(&mut self, map: Map<'_, T>) {
        then(self.scale, self.offset, map);
    }

    /// `to = self applied to from`.
    pub(crate) fn apply<T: Element>(&self, from: &[T], to: &mut [T]) {
        apply(self.scale, self.offset, from, to);
    }
}

#[multiversion(targets("x86_64+avx2"))]
fn compose<T: Element>(
    own_scale: &mut [f32],
    own_offset: &mut [f32],
    above_scale: &[f32],
    above_offset: &[f32],
    (scale, offset): Map<'_, T>,
) {
    let above = above_scale.iter().zip(above_offset);
    let own = own_scale.iter_mut().zip(own_offset);
    for (((own_s, own_o), (above_s, above_o)), (s, o)) in
        own.zip(above).zip(scale.iter().zip(offset))
    {
        *own_s = above_s * s.widen();
        *own_o = above_s * o.widen() + above_o;
    }
}

#[multiversion(targets("x86_64+avx2"))]
fn then<T: Element>(own_scale: &mut [f32], own_offset: &mut [f32], (scale, offset): Map<'_, T>) {
    let own = own_scale.iter_mut().zip(own_offset);
    for ((own_s, own_o), (s, o)) in own.zip(scale.iter().zip(offset)) {
        *own_s *= s.widen();
        *own_o = s.widen() * *own_o + o.widen();
    }
}

#[multiversion(targets("x86_64+avx2"))]
fn apply<T: Element>(scale: &[f32], offset: &[f32], from: &[T], to: &mut [T]) {
    for ((to, x), (s, o)) in to.iter_mut().zip(from).zip(scale.iter().zip(offset)) {
        *to = T::narrow(s * x.widen() + o);
    }
}

/// What a listed segment goes through: its current value `x` becomes `gain * x + update`, and the map pending below it `gain` times
/// the old path plus `update`.
#[multiversion(targets("x86_64+avx2"))]
pub(crate) fn update_segment<T: Element>(
    path: &Path<'_>,
    gain: &[T],
    update: &[T],
    value: &mut [T],
    scale: &mut [T],
    offset: &mut [T],
) {
    // All of one length, so that the loop below needs no checks and becomes SIMD code.
    let len = value.len();
    let (above_s, above_o) = (&path.scale[..len], &path.offset[..len]);
    let (gain, update) = (&gain[..len], &update[..len]);
    let (scale, offset) = (&mut scale[..len], &mut offset[..len]);
    for i in 0..len {
        let (a, b) = (above_s[i], above_o[i]);
        let (g, u) = (gain[i].widen(), update[i].widen());
        value[i] = T::narrow(g * (a * value[i].widen() + b) + u);
        offset[i] = T::narrow(g * (a * offset[i].widen() + b) + u);
        scale[i] = T::narrow(g * (a * scale[i].widen()));
    }
}
