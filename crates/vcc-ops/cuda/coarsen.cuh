// VccCoarsen: rows of the residual stream to the state, in one pass over them.
//
// A warp takes one segment of level 0 (or 32 VIP slots) and walks its slots in order. The sum of the segment of the finest level stays in
// registers; when that segment ends, its sum is added to that of its parent, and so on upwards while segments end. The sums of the
// levels above the finest are in shared memory, in columns that only their own thread touches.
#pragma once
#include "tree.cuh"

template <class T, int V>
struct Coarsen {
  const VccLayout& layout;
  const T* x;                 // Batch row, at this lane's channels.
  const int64_t* item_token;  // Batch row.
  const int64_t* item_count;
  T* value;  // Batch row, at this lane's channels.
  T* scale;
  T* offset;
  float* columns;
  int n, d;
  bool active;

  VCC_DEVICE int token_of(int slot) const {
    const int64_t token = item_token[slot];
    return token >= 0 && token < n ? (int)token : 0;
  }

  VCC_DEVICE float& column(int level, int v) const { return columns[(level * V + v) * VCC_ROW_THREADS + threadIdx.x]; }

  VCC_DEVICE void write(int segment, const float (&sum)[V], int total) const {
    const size_t at = (size_t)segment * d, map = (size_t)(segment - layout.slots) * d;
    store<T, V>(value + at, total > 0 ? mean<T, V>(sum, (float)total) : load<T, V>(x + (size_t)token_of(0) * d));
    store<T, V>(scale + map, filled<T, V>(1.f));
    store<T, V>(offset + map, filled<T, V>(0.f));
  }

  // The finest segment at `child` has ended, with the sum of `total` of its tokens: writes it and every segment that ends with it.
  VCC_DEVICE void end(int child, int64_t child_count, float (&sum)[V], int total) const {
    for (int level = layout.levels - 1;; level--) {
      write(layout.start[level] + child, sum, total);
      if (level == 0) return;
      const int size = layout.size[level - 1], children = size / layout.size[level];
      const int parent = child / children, place = child % children;
      const int64_t count = item_count[layout.start[level - 1] + parent];
      // Children without a valid token do not count beside one that has some.
      const bool counts = total > 0 && child_count >= (count > 0 ? 1 : 0);
#pragma unroll
      for (int v = 0; v < V; v++) {
        const float before = place == 0 ? 0.f : column(level - 1, v);
        column(level - 1, v) = sum[v] = counts ? before + sum[v] : before;
      }
      if (place + 1 < children) return;
      const int tokens = larger(0, smaller(size, n - layout.vips - parent * size));
      total = count > 0 ? (int)smaller(tokens, (int)count) : tokens;
      child = parent;
      child_count = count;
    }
  }

  // Copies `count` slots from `first` on; with `sums`, they are context slots of one segment of level 0, which is written too.
  template <bool sums>
  VCC_DEVICE void slots(int first, int count) const {
    constexpr int kAhead = 4;
    const int finest = layout.levels - 1, size = layout.size[finest];
    float sum[V];
    int total = 0, inside = 0;
    for (int chunk = 0; chunk < count; chunk += 32) {
      // Lane i knows slot i of the chunk.
      int token = 0, own = 0, whole = 0;
      if (chunk + lane_id() < count) {
        const int slot = first + chunk + lane_id();
        token = token_of(slot);
        if (sums) {
          own = (int)item_count[slot];
          whole = (int)item_count[segment_of(layout, finest, slot - layout.vips)];
        }
      }
      for (int base = 0; base < 32 && chunk + base < count; base += kAhead) {
        Vector<T, V> row[kAhead];
#pragma unroll
        for (int i = 0; i < kAhead; i++) {
          const int from = __shfl_sync(kAll, token, base + i);
          if (active && chunk + base + i < count) row[i] = load<T, V>(x + (size_t)from * d);
        }
#pragma unroll
        for (int i = 0; i < kAhead; i++) {
          const int slot_count = __shfl_sync(kAll, own, base + i), segment_count = __shfl_sync(kAll, whole, base + i);
          if (!active || chunk + base + i >= count) continue;
          const int slot = first + chunk + base + i;
          store<T, V>(value + (size_t)slot * d, row[i]);
          if (!sums) continue;
          const bool counts = slot_count >= (segment_count > 0 ? 1 : 0);
#pragma unroll
          for (int v = 0; v < V; v++) {
            const float before = inside == 0 ? 0.f : sum[v];
            sum[v] = counts ? before + to_float(row[i].at[v]) : before;
          }
          total = (inside == 0 ? 0 : total) + (counts ? 1 : 0);
          if (++inside == size) {
            end((slot - layout.vips) / size, segment_count, sum, total);
            inside = 0;
          }
        }
      }
    }
  }
};

template <class T, int V>
VCC_DEVICE void coarsen(const T* x, const int64_t* item_token, const int64_t* item_count, T* value, T* scale, T* offset,
                        const VccLayout& layout, int n, int d) {
  VCC_SHARED(float, columns);
  const Warp warp = this_warp<V>(d);
  const size_t batch = warp.batch, segments = batch * layout.segments * d + warp.channel;
  const Coarsen<T, V> rows = {layout,
                              x + batch * n * d + warp.channel,
                              item_token + batch * layout.items,
                              item_count + batch * layout.items,
                              value + batch * layout.items * d + warp.channel,
                              scale + segments,
                              offset + segments,
                              columns,
                              n,
                              d,
                              warp.active};
  if (warp.unit < layout.roots) {
    rows.template slots<true>(layout.vips + warp.unit * layout.size[0], layout.size[0]);
  } else {
    const int first = (warp.unit - layout.roots) * VCC_COPY_ROWS;
    rows.template slots<false>(first, smaller(VCC_COPY_ROWS, layout.vips - first));
  }
}
