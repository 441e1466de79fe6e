// VccExpand: the current value of every token's slot. A warp takes 32 tokens, whose slots are mostly neighbours.
#pragma once
#include "tree.cuh"

template <class T, int V>
VCC_DEVICE void expand(const T* value, const T* scale, const T* offset, const int64_t* token_slot, T* x, const VccLayout& layout, int n,
                       int d) {
  const Warp warp = this_warp<V>(d);
  const int first = warp.unit * VCC_COPY_ROWS, rows = smaller(VCC_COPY_ROWS, n - first);
  if (rows <= 0) return;
  const size_t batch = warp.batch, token = batch * n + first;
  int slot = 0;
  if (lane_id() < rows) {
    const int64_t at = token_slot[token + lane_id()];
    slot = at >= 0 && at < layout.slots ? (int)at : 0;
  }
  const size_t segments = batch * layout.segments * d;
  write_current<T, V>(layout, warp, value + batch * layout.items * d, scale + segments, offset + segments, d, slot, rows, x + token * d);
}
