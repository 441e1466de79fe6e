//! Arithmetic on rows of channels, in f32, one pass over memory.

use crate::Element;

/// Channels handled at a time: the accumulators stay in the first-level cache and every loop has a long fixed trip count.
const PIECE: usize = 64;

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

/// Cuts `0..channels` into pieces.
fn pieces(channels: usize) -> impl Iterator<Item = std::ops::Range<usize>> {
    (0..channels)
        .step_by(PIECE)
        .map(move |start| start..(start + PIECE).min(channels))
}

/// A map `x -> scale * x + offset` per channel, as it is stored.
pub(crate) type Map<'a, T> = (&'a [T], &'a [T]);

/// `to = maps applied to from`, the first map first.
pub(crate) fn apply<T: Element>(from: &[T], maps: &[Map<'_, T>], to: &mut [T]) {
    if maps.is_empty() {
        to.copy_from_slice(from);
        return;
    }
    let (mut x, mut s, mut o) = ([0f32; PIECE], [0f32; PIECE], [0f32; PIECE]);
    for piece in pieces(from.len()) {
        let len = piece.len();
        T::widen(&from[piece.clone()], &mut x[..len]);
        for (scale, offset) in maps {
            T::widen(&scale[piece.clone()], &mut s[..len]);
            T::widen(&offset[piece.clone()], &mut o[..len]);
            for i in 0..PIECE {
                x[i] = s[i] * x[i] + o[i];
            }
        }
        T::narrow(&x[..len], &mut to[piece]);
    }
}

/// `sum += weight * from`, or `sum = weight * from` for the first row.
pub(crate) fn add<T: Element>(from: &[T], weight: f32, first: bool, sum: &mut [f32]) {
    let mut x = [0f32; PIECE];
    for piece in pieces(from.len()) {
        let len = piece.len();
        T::widen(&from[piece.clone()], &mut x[..len]);
        for (sum, x) in sum[piece].iter_mut().zip(&x[..len]) {
            *sum = if first { weight * x } else { *sum + weight * x };
        }
    }
}

/// `to = sum / total`.
pub(crate) fn store_mean<T: Element>(sum: &[f32], total: f32, to: &mut [T]) {
    let mut x = [0f32; PIECE];
    for piece in pieces(to.len()) {
        let len = piece.len();
        for (x, sum) in x[..len].iter_mut().zip(&sum[piece.clone()]) {
            *x = sum / total;
        }
        T::narrow(&x[..len], &mut to[piece]);
    }
}

/// A composition of maps, in f32.
pub(crate) struct Path<'a> {
    pub(crate) scale: &'a mut [f32],
    pub(crate) offset: &'a mut [f32],
}

impl Path<'_> {
    /// The map that changes nothing.
    pub(crate) fn set_identity(&mut self) {
        self.scale.fill(1.0);
        self.offset.fill(0.0);
    }

    /// `self = above after map`: first the map, then the path above it.
    pub(crate) fn compose<T: Element>(&mut self, above: &Path<'_>, map: Map<'_, T>) {
        let (mut s, mut o) = ([0f32; PIECE], [0f32; PIECE]);
        for piece in pieces(map.0.len()) {
            let len = piece.len();
            T::widen(&map.0[piece.clone()], &mut s[..len]);
            T::widen(&map.1[piece.clone()], &mut o[..len]);
            let above = above.scale[piece.clone()]
                .iter()
                .zip(&above.offset[piece.clone()]);
            let own = self.scale[piece.clone()]
                .iter_mut()
                .zip(&mut self.offset[piece]);
            for (((own_s, own_o), (above_s, above_o)), (s, o)) in
                own.zip(above).zip(s.iter().zip(&o))
            {
                *own_s = above_s * s;
                *own_o = above_s * o + above_o;
            }
        }
    }
}

/// What a listed segment goes through: its current value `x` becomes `gain * x + update`, and the map pending below it `gain` times
/// the old path plus `update`.
pub(crate) fn update_segment<T: Element>(
    path: &Path<'_>,
    gain: &[T],
    update: &[T],
    value: &mut [T],
    scale: &mut [T],
    offset: &mut [T],
) {
    let zero = [0f32; PIECE];
    let (mut x, mut s, mut o, mut g, mut u) = (zero, zero, zero, zero, zero);
    for piece in pieces(value.len()) {
        let len = piece.len();
        T::widen(&value[piece.clone()], &mut x[..len]);
        T::widen(&scale[piece.clone()], &mut s[..len]);
        T::widen(&offset[piece.clone()], &mut o[..len]);
        T::widen(&gain[piece.clone()], &mut g[..len]);
        T::widen(&update[piece.clone()], &mut u[..len]);
        let (above_s, above_o) = (&path.scale[piece.clone()], &path.offset[piece.clone()]);
        for i in 0..len {
            let (a, b) = (above_s[i], above_o[i]);
            x[i] = g[i] * (a * x[i] + b) + u[i];
            o[i] = g[i] * (a * o[i] + b) + u[i];
            s[i] = g[i] * (a * s[i]);
        }
        T::narrow(&x[..len], &mut value[piece.clone()]);
        T::narrow(&s[..len], &mut scale[piece.clone()]);
        T::narrow(&o[..len], &mut offset[piece]);
    }
}
