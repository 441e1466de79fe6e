// The state of one batch row: where items lie, and their current values.
#pragma once
#include "device.cuh"

// An item taken apart: its level (L for a slot) and the first context slot that it covers.
struct Place {
  int level, first;
};

VCC_DEVICE Place place_of(const VccLayout& layout, int item) {
  if (item < layout.slots) return {layout.levels, item - layout.vips};
  int level = 0;
  while (item >= layout.start[level + 1]) level++;
  return {level, (item - layout.start[level]) * layout.size[level]};
}

// The item id of the segment of a level that covers a context slot.
VCC_DEVICE int segment_of(const VccLayout& layout, int level, int slot) { return layout.start[level] + slot / layout.size[level]; }

// An id from a list of context items, or -1 if it is not one.
VCC_DEVICE int checked_item(const VccLayout& layout, int64_t id) {
  return id >= layout.vips && id < layout.items ? (int)id : -1;
}

// The composition of the maps pending above an item, and the segment that it starts from (-1: none, the identity).
template <int V>
struct Path {
  float scale[V], offset[V];
  int from;
};

template <int V>
VCC_DEVICE Path<V> no_path() {
  Path<V> path;
#pragma unroll
  for (int v = 0; v < V; v++) {
    path.scale[v] = 1.f;
    path.offset[v] = 0.f;
  }
  path.from = -1;
  return path;
}

// The maps of one batch row, moved to a lane's channels.
template <class T, int V>
struct Maps {
  const T* scale;
  const T* offset;
  int d;

  // Makes `path` that of the strict ancestors of an item. Siblings share theirs, so it is kept from one row to the next.
  VCC_DEVICE void follow(const VccLayout& layout, int item, Path<V>& path) const {
    const Place place = item < layout.vips ? Place{0, 0} : place_of(layout, item);
    const int from = place.level == 0 ? -1 : segment_of(layout, place.level - 1, place.first);
    if (from == path.from) return;
    path = no_path<V>();
    path.from = from;
    for (int level = place.level - 1; level >= 0; level--) {
      const size_t at = (size_t)(segment_of(layout, level, place.first) - layout.slots) * d;
      const Vector<T, V> s = load<T, V>(scale + at), o = load<T, V>(offset + at);
#pragma unroll
      for (int v = 0; v < V; v++) {
        path.offset[v] = fmaf(to_float(s.at[v]), path.offset[v], to_float(o.at[v]));
        path.scale[v] *= to_float(s.at[v]);
      }
    }
  }
};

template <class T, int V>
VCC_DEVICE Vector<T, V> apply(const Path<V>& path, Vector<T, V> x) {
  if (path.from < 0) return x;
#pragma unroll
  for (int v = 0; v < V; v++) from_float(fmaf(path.scale[v], to_float(x.at[v]), path.offset[v]), x.at[v]);
  return x;
}

// Writes the current values of `rows` <= 32 items to consecutive rows; lane i knows item i. The pointers are those of the batch row.
template <class T, int V>
VCC_DEVICE void write_current(const VccLayout& layout, const Warp& warp, const T* value, const T* scale, const T* offset, int d,
                              int item, int rows, T* to) {
  constexpr int kAhead = 4;
  const Maps<T, V> maps = {scale + warp.channel, offset + warp.channel, d};
  Path<V> path = no_path<V>();
  for (int base = 0; base < rows; base += kAhead) {
    int items[kAhead];
    Vector<T, V> x[kAhead];
#pragma unroll
    for (int i = 0; i < kAhead; i++) {
      items[i] = __shfl_sync(kAll, item, base + i);
      if (warp.active && base + i < rows) x[i] = load<T, V>(value + (size_t)items[i] * d + warp.channel);
    }
#pragma unroll
    for (int i = 0; i < kAhead; i++) {
      if (warp.active && base + i < rows) {
        maps.follow(layout, items[i], path);
        store<T, V>(to + (size_t)(base + i) * d + warp.channel, apply<T, V>(path, x[i]));
      }
    }
  }
}

// The rows of a list that a warp handles: VIP slots, which are not in the list, come first.
struct ListRows {
  bool vips;
  int first, rows;  // In the VIP slots or in the list.
};

VCC_DEVICE ListRows list_rows(const VccLayout& layout, int q, int unit) {
  const int groups = blocks_of(layout.vips, VCC_LIST_ROWS);
  const bool vips = unit < groups;
  const int first = (vips ? unit : unit - groups) * VCC_LIST_ROWS;
  return {vips, first, smaller(VCC_LIST_ROWS, (vips ? layout.vips : q) - first)};
}
