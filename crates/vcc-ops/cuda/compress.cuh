// VccCompress: the VIP slots and a list of items out of the state. A warp takes 8 rows, which are mostly siblings.
#pragma once
#include "tree.cuh"

template <class T, int V>
VCC_DEVICE void compress(const T* value, const T* scale, const T* offset, const int64_t* items, const int64_t* item_token,
                         const int64_t* item_count, T* rows, int64_t* row_token, float* row_bias, const VccLayout& layout, int q, int d,
                         float count_weight) {
  const Warp warp = this_warp<V>(d);
  const ListRows own = list_rows(layout, q, warp.unit);
  if (own.rows <= 0) return;
  const size_t batch = warp.batch, row = batch * (layout.vips + q) + own.first + (own.vips ? 0 : layout.vips);
  // Lane i knows row i.
  int item = 0;
  if (lane_id() < own.rows) {
    const int at = own.first + lane_id();
    item = own.vips ? at : larger(0, checked_item(layout, items[batch * q + at]));
    const int64_t count = item_count[batch * layout.items + item];
    if (blockIdx.y == 0) {
      row_token[row + lane_id()] = item_token[batch * layout.items + item];
      row_bias[row + lane_id()] = count < 0 ? -INFINITY : item < layout.slots ? 0.f : count_weight * logf((float)(count > 1 ? count : 1));
    }
    // An empty row holds slot 0.
    if (count < 0) item = 0;
  }
  const size_t segments = batch * layout.segments * d;
  write_current<T, V>(layout, warp, value + batch * layout.items * d, scale + segments, offset + segments, d, item, own.rows,
                      rows + row * d);
}
