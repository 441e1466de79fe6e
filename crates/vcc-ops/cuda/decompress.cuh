// VccDecompress: a block's result into the state, in place, in O(r) rows.
//
// The first kernel gives a warp 8 rows of the list. A listed segment is updated from its own row and the maps above it, which nobody
// writes in this kernel. Slots come as the children of a refined segment of the finest level: the warp that meets the first of them
// handles them all, and the segment. The second kernel refines the segments of one level above: the warp that meets the one listed item
// that covers a segment's first slot takes the mean of its children. It is launched for each level, the finest first.
#pragma once
#include "tree.cuh"

template <class T, int V>
struct Decompress {
  const VccLayout& layout;
  T* value;  // Batch row, at this lane's channels.
  T* scale;
  T* offset;
  const int64_t* items;       // Batch row.
  const int64_t* item_count;  // Batch row.
  int q, d;
  bool active;

  static constexpr int kAhead = 4;

  // Writes a refined segment: the mean, and the identity below it.
  VCC_DEVICE void refine(int segment, const float (&sum)[V], int total) const {
    if (!active || total == 0) return;
    const size_t map = (size_t)(segment - layout.slots) * d;
    store<T, V>(value + (size_t)segment * d, mean<T, V>(sum, (float)total));
    store<T, V>(scale + map, filled<T, V>(1.f));
    store<T, V>(offset + map, filled<T, V>(0.f));
  }

  // The position of an item in the list, for every lane its own `wanted`. `guess` is right in a list as VccSelect makes it; what is
  // elsewhere is searched by the whole warp. -1 if there is none.
  VCC_DEVICE int position(bool wants, int wanted, int guess) const {
    const bool found = wants && guess < q && items[guess] == wanted;
    int at = found ? guess : -1;
    for (unsigned missing = __ballot_sync(kAll, wants && !found); missing != 0; missing &= missing - 1) {
      const int who = __ffs((int)missing) - 1, item = __shfl_sync(kAll, wanted, who);
      int best = -1;
      for (int i = lane_id(); i < q; i += 32) {
        if (items[i] == item) best = i;
      }
      best = warp_max(best);
      if (lane_id() == who) at = best;
    }
    return at;
  }

  // The slots of a segment of the finest level take their rows of y, and the segment their mean. `at` is the first slot's position.
  VCC_DEVICE void finest(const T* y, int first, int at) const {
    const int level = layout.levels - 1, size = layout.size[level], segment = segment_of(layout, level, first);
    const int64_t count = item_count[segment];
    if (count < 0) return;
    float sum[V] = {};
    int total = 0;
    for (int chunk = 0; chunk < size; chunk += 32) {
      // Lane i knows slot i of the chunk.
      const bool inside = chunk + lane_id() < size;
      const int slot = layout.vips + first + chunk + lane_id();
      const int own = inside ? (int)item_count[slot] : -1;
      const int from = position(own >= 0, slot, at + chunk + lane_id());
      for (int base = 0; base < 32 && chunk + base < size; base += kAhead) {
        Vector<T, V> row[kAhead];
        int rows[kAhead];
#pragma unroll
        for (int i = 0; i < kAhead; i++) {
          rows[i] = __shfl_sync(kAll, from, base + i);
          if (active && rows[i] >= 0) row[i] = load<T, V>(y + (size_t)(layout.vips + rows[i]) * d);
        }
#pragma unroll
        for (int i = 0; i < kAhead; i++) {
          const int slot_count = __shfl_sync(kAll, own, base + i);
          if (rows[i] < 0) continue;
          const bool counts = slot_count >= (count > 0 ? 1 : 0);
          total += counts ? 1 : 0;
          if (!active) continue;
          store<T, V>(value + (size_t)(layout.vips + first + chunk + base + i) * d, row[i]);
#pragma unroll
          for (int v = 0; v < V; v++) sum[v] = counts ? sum[v] + to_float(row[i].at[v]) : sum[v];
        }
      }
    }
    refine(segment, sum, total);
  }

  // A listed segment: x becomes gain*x + update, and the map below it gain times the old path plus update.
  VCC_DEVICE void listed(int segment, const Path<V>& path, const Vector<T, V>& gain, const T* update) const {
    const size_t at = (size_t)segment * d, map = (size_t)(segment - layout.slots) * d;
    Vector<T, V> x = load<T, V>(value + at), s = load<T, V>(scale + map), o = load<T, V>(offset + map);
    const Vector<T, V> u = load<T, V>(update);
#pragma unroll
    for (int v = 0; v < V; v++) {
      const float g = to_float(gain.at[v]), add = to_float(u.at[v]), above = path.scale[v], shift = path.offset[v];
      from_float(fmaf(g, fmaf(above, to_float(x.at[v]), shift), add), x.at[v]);
      from_float(fmaf(g, fmaf(above, to_float(o.at[v]), shift), add), o.at[v]);
      from_float(g * (above * to_float(s.at[v])), s.at[v]);
    }
    store<T, V>(value + at, x);
    store<T, V>(scale + map, s);
    store<T, V>(offset + map, o);
  }

  VCC_DEVICE void rows(const ListRows& own, const T* y, const T* update, const T* gain) const {
    // Lane i knows row i.
    int item = -1, count = -1;
    if (lane_id() < own.rows) {
      const int at = own.first + lane_id();
      item = own.vips ? at : checked_item(layout, items[at]);
      count = item < 0 ? -1 : (int)item_count[item];
    }
    const Maps<T, V> maps = {scale, offset, d};
    Path<V> path = no_path<V>();
    Vector<T, V> gains = filled<T, V>(1.f);
    bool have_gains = false;
    for (int i = 0; i < own.rows; i++) {
      const int id = __shfl_sync(kAll, item, i), id_count = __shfl_sync(kAll, count, i);
      const size_t row = (size_t)(own.first + i + (own.vips ? 0 : layout.vips)) * d;
      if (own.vips) {
        if (active) store<T, V>(value + (size_t)id * d, load<T, V>(y + row));
      } else if (id >= layout.slots) {
        if (!active || id_count < 0) continue;
        if (!have_gains) gains = load<T, V>(gain);
        have_gains = true;
        maps.follow(layout, id, path);
        listed(id, path, gains, update + row);
      } else if (id >= 0 && (id - layout.vips) % layout.size[layout.levels - 1] == 0) {
        finest(y, id - layout.vips, own.first + i);
      }
    }
  }

  // Context slots that are not empty: those are the first ones.
  VCC_DEVICE int tokens() const {
    int low = layout.vips, high = layout.slots;
    while (low < high) {
      const int middle = low + (high - low) / 2;
      if (item_count[middle] >= 0) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    return low - layout.vips;
  }

  // Refines the segment of `level` that covers context slot `first`, from its children, which are segments.
  VCC_DEVICE void coarser(int level, int first) const {
    const int segment = segment_of(layout, level, first), size = layout.size[level + 1], children = layout.size[level] / size;
    const int64_t count = item_count[segment];
    if (count < 0) return;
    const int child = segment_of(layout, level + 1, first), all = count > 0 ? 0 : tokens();
    float sum[V] = {};
    int total = 0;
    for (int chunk = 0; chunk < children; chunk += 32) {
      // Lane i knows child i of the chunk: what it counts for is its valid tokens, or all if the segment has no valid one.
      int weight = 0;
      if (chunk + lane_id() < children) {
        const int own = chunk + lane_id();
        weight = larger(0, count > 0 ? (int)item_count[child + own] : smaller(size, all - first - own * size));
      }
      for (int base = 0; base < 32 && chunk + base < children; base += kAhead) {
        Vector<T, V> row[kAhead];
        int weights[kAhead];
#pragma unroll
        for (int i = 0; i < kAhead; i++) {
          weights[i] = __shfl_sync(kAll, weight, base + i);
          if (active && weights[i] > 0) row[i] = load<T, V>(value + (size_t)(child + chunk + base + i) * d);
        }
#pragma unroll
        for (int i = 0; i < kAhead; i++) {
          total += weights[i];
          if (!active || weights[i] == 0) continue;
#pragma unroll
          for (int v = 0; v < V; v++) sum[v] = fmaf((float)weights[i], to_float(row[i].at[v]), sum[v]);
        }
      }
    }
    refine(segment, sum, total);
  }

  VCC_DEVICE void one_level(const ListRows& own, int level) const {
    int item = -1;
    if (lane_id() < own.rows) item = checked_item(layout, items[own.first + lane_id()]);
    for (int i = 0; i < own.rows; i++) {
      const int id = __shfl_sync(kAll, item, i);
      if (id < 0) continue;
      const Place place = place_of(layout, id);
      if (place.level > level && place.first % layout.size[level] == 0) coarser(level, place.first);
    }
  }
};

template <class T, int V>
VCC_DEVICE Decompress<T, V> decompress(T* value, T* scale, T* offset, const int64_t* items, const int64_t* item_count,
                                       const VccLayout& layout, int q, int d, const Warp& warp) {
  const size_t batch = warp.batch, segments = batch * layout.segments * d + warp.channel;
  return {layout,
          value + batch * layout.items * d + warp.channel,
          scale + segments,
          offset + segments,
          items + batch * q,
          item_count + batch * layout.items,
          q,
          d,
          warp.active};
}

template <class T, int V>
VCC_DEVICE void decompress_rows(T* value, T* scale, T* offset, const int64_t* items, const int64_t* item_count, const T* y,
                                const T* update, const T* gain, const VccLayout& layout, int q, int d) {
  const Warp warp = this_warp<V>(d);
  const ListRows own = list_rows(layout, q, warp.unit);
  const size_t row = (size_t)warp.batch * (layout.vips + q) * d + warp.channel;
  decompress<T, V>(value, scale, offset, items, item_count, layout, q, d, warp).rows(own, y + row, update + row, gain + warp.channel);
}

template <class T, int V>
VCC_DEVICE void decompress_level(T* value, T* scale, T* offset, const int64_t* items, const int64_t* item_count, const VccLayout& layout,
                                 int q, int d, int level) {
  const Warp warp = this_warp<V>(d);
  const int first = warp.unit * VCC_LIST_ROWS;
  const ListRows own = {false, first, smaller(VCC_LIST_ROWS, q - first)};
  decompress<T, V>(value, scale, offset, items, item_count, layout, q, d, warp).one_level(own, level);
}
