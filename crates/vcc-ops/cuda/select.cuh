// VccSelect: which segments the VIP slots look at.
//
// The first kernel shares the rows of scores, one for each head and VIP slot, among `parts` blocks; each adds up the probabilities of its
// rows for every candidate. Those sums need memory that outlives the kernel: they stand in the operator's own outputs, which have room
// for at least two sums of every candidate (kept() below). The second kernel, one block for each batch row, adds the parts up, finds the
// h-th best score by its bits from the top (a histogram of 8 bits at a time, in integers), and writes the outputs. It keeps two bits for
// each candidate in shared memory, so that its size hardly depends on their number.
#pragma once
#include "tree.cuh"

// Where part sums stand, in one batch row: the memory of `children`, then that of `rest`, as floats.
struct Kept {
  float* children;
  float* rest;
  int in_children;

  VCC_DEVICE float& at(int i) const { return i < in_children ? children[i] : rest[i - in_children]; }
};

VCC_DEVICE Kept kept(int64_t* children, int64_t* rest, size_t batch, int fan, int count, int refine) {
  const size_t in_children = (size_t)refine * fan, in_rest = count - refine;
  return {reinterpret_cast<float*>(children + batch * in_children), reinterpret_cast<float*>(rest + batch * in_rest),
          (int)(2 * in_children)};
}

VCC_DEVICE bool is_eligible(const VccLayout& layout, const int64_t* item_count, int64_t id) {
  return checked_item(layout, id) >= 0 && item_count[id] > 0;
}

// exp(x) for x <= 0 to about 1e-7, with the same bits on every target. NaN gives an unspecified number.
VCC_DEVICE float exp_nonpositive(float x) {
  if (!(x > -87.f)) return 0.f;
  // Adding and subtracting this rounds to an integer, which its bits then hold.
  constexpr float kRound = 12582912.f;
  const float shifted = fmaf(x, 1.44269504f, kRound), whole = shifted - kRound;
  // ln 2 in two parts.
  const float rest = fmaf(whole, 2.12194440e-4f, fmaf(whole, -0.693359375f, x));
  float series = 1.f / 5040;
  series = fmaf(series, rest, 1.f / 720);
  series = fmaf(series, rest, 1.f / 120);
  series = fmaf(series, rest, 1.f / 24);
  series = fmaf(series, rest, 1.f / 6);
  series = fmaf(series, rest, 0.5f);
  series = fmaf(series, rest, 1.f);
  series = fmaf(series, rest, 1.f);
  return series * __uint_as_float((__float_as_uint(shifted) - __float_as_uint(kRound) + 127u) << 23);
}

// The highest score of a row and what the exponentials are multiplied by; NaN if the row has no softmax.
struct Softmax {
  float highest, factor;
};

// `eligible` has a bit for each candidate.
template <class T, int V>
VCC_DEVICE Softmax softmax(const T* scores, const unsigned* eligible, int count) {
  float highest = -INFINITY;
  bool nan = false;
  for (int base = lane_id() * V; base < count; base += 32 * V) {
    const Vector<T, V> x = load<T, V>(scores + base);
    const unsigned bits = eligible[base / 32] >> base % 32;
#pragma unroll
    for (int v = 0; v < V; v++) {
      const float score = to_float(x.at[v]);
      if ((bits >> v & 1) == 0) continue;
      nan = nan || !(score == score);
      highest = score > highest ? score : highest;
    }
  }
  highest = warp_max(highest);
  const bool none = __ballot_sync(kAll, nan) != 0 || highest == INFINITY || highest == -INFINITY;
  float total = 0.f;
  for (int base = lane_id() * V; base < count && !none; base += 32 * V) {
    const Vector<T, V> x = load<T, V>(scores + base);
    const unsigned bits = eligible[base / 32] >> base % 32;
#pragma unroll
    for (int v = 0; v < V; v++) total += (bits >> v & 1) != 0 ? exp_nonpositive(to_float(x.at[v]) - highest) : 0.f;
  }
  total = warp_sum(total);
  return {highest, none ? NAN : 1.f / total};
}

template <class T, int V>
VCC_DEVICE void select_scores(const T* scores, const int64_t* candidates, const int64_t* item_count, const uint8_t* vote,
                              int64_t* children, int64_t* rest, const VccLayout& layout, int level, int heads, int count, int refine,
                              int parts) {
  VCC_SHARED(unsigned, eligible);
  constexpr int kWarps = VCC_SCORE_THREADS / 32;
  float* const highest = reinterpret_cast<float*>(eligible + blocks_of(count, 32));
  float* const factor = highest + kWarps;
  const size_t batch = blockIdx.z;
  const int part = (int)blockIdx.x, rows = heads * layout.vips;
  const int begin = (int)((int64_t)part * rows / parts), end = (int)((int64_t)(part + 1) * rows / parts);
  scores += batch * rows * count;
  candidates += batch * count;
  item_count += batch * layout.items;
  const Kept sums = kept(children, rest, batch, layout.size[level] / layout.size[level + 1], count, refine);

  for (int base = warp_id() * 32; base < count; base += VCC_SCORE_THREADS) {
    const int at = base + lane_id();
    const unsigned bits = __ballot_sync(kAll, at < count && is_eligible(layout, item_count, candidates[at]));
    if (lane_id() == 0) eligible[base / 32] = bits;
  }
  __syncthreads();
  // A part without rows still has sums: zeros.
  for (int first = begin; first == begin || first < end; first += kWarps) {
    const int row = first + warp_id();
    Softmax own = {0.f, 0.f};
    if (row < end && vote[batch * layout.vips + row % layout.vips] != 0) own = softmax<T, V>(scores + (size_t)row * count, eligible, count);
    if (lane_id() == 0) {
      highest[warp_id()] = own.highest;
      factor[warp_id()] = own.factor;
    }
    __syncthreads();
    for (int base = (int)threadIdx.x * V; base < count; base += VCC_SCORE_THREADS * V) {
      const unsigned bits = eligible[base / 32] >> base % 32;
      float sum[V];
#pragma unroll
      for (int v = 0; v < V; v++) sum[v] = first == begin ? 0.f : sums.at(part * count + base + v);
      for (int i = 0; i < kWarps; i++) {
        // A factor is positive or NaN; it is 0 where no slot votes.
        if (factor[i] == 0.f) continue;
        const Vector<T, V> x = load<T, V>(scores + (size_t)(first + i) * count + base);
#pragma unroll
        for (int v = 0; v < V; v++) {
          if ((bits >> v & 1) != 0) sum[v] = fmaf(exp_nonpositive(to_float(x.at[v]) - highest[i]), factor[i], sum[v]);
        }
      }
#pragma unroll
      for (int v = 0; v < V; v++) sums.at(part * count + base + v) = sum[v];
    }
    __syncthreads();
  }
}

// Numbers in the order of the scores; NaN is as -inf.
VCC_DEVICE unsigned order_of(float score) {
  const unsigned bits = __float_as_uint(score == score ? score : -INFINITY);
  return (bits >> 31) != 0 ? ~bits : bits | 0x80000000u;
}

// Replaces the part sums of each candidate by its place in the order. The mean's divisor is the same for all and left out. Each thread
// reads back only what it wrote.
VCC_DEVICE void write_orders(const Kept& sums, const VccLayout& layout, const int64_t* candidates, const int64_t* item_count, int count,
                             int parts) {
  for (int at = (int)threadIdx.x; at < count; at += VCC_TOP_THREADS) {
    float score = sums.at(at);
    for (int part = 1; part < parts; part++) score += sums.at(part * count + at);
    const bool eligible = is_eligible(layout, item_count, candidates[at]);
    sums.at(at) = __uint_as_float(order_of(eligible ? score : -INFINITY));
  }
}

// The h-th highest place in the order, and how many of the candidates that have it are among the h.
struct Cut {
  unsigned order;
  int equal;
};

VCC_DEVICE Cut find_cut(const Kept& sums, int count, int refine, int* histogram, int* found) {
  Cut cut = {0, refine};
  unsigned known = 0;
  for (int shift = 24; shift >= 0; shift -= 8) {
    if (threadIdx.x < 256) histogram[threadIdx.x] = 0;
    __syncthreads();
    for (int at = (int)threadIdx.x; at < count; at += VCC_TOP_THREADS) {
      const unsigned order = __float_as_uint(sums.at(at));
      if ((order & known) == cut.order) atomicAdd(&histogram[order >> shift & 255], 1);
    }
    __syncthreads();
    if (warp_id() == 0) {
      int above = 0;
      for (int group = 0; group < 8; group++) {
        // Lane i knows the i-th highest bin of the group.
        const int bin = 255 - group * 32 - lane_id(), own = histogram[bin], up_to = above + warp_scan(own);
        if (up_to - own < cut.equal && cut.equal <= up_to) {
          found[0] = bin;
          found[1] = cut.equal - (up_to - own);
        }
        above = __shfl_sync(kAll, up_to, 31);
      }
    }
    __syncthreads();
    cut.order |= (unsigned)found[0] << shift;
    cut.equal = found[1];
    known |= 255u << shift;
  }
  return cut;
}

// Decides about equal candidates, the lower positions first, and counts the chosen ones before each word. Before: `chosen` those above the
// cut, `before` those at it; a bit for each candidate.
VCC_DEVICE void settle_ties(unsigned* chosen, unsigned* before, int words, int equal) {
  int taken = 0, counted = 0;
  for (int base = 0; base < words; base += 32) {
    const int word = base + lane_id();
    unsigned sure = word < words ? chosen[word] : 0, tied = word < words ? before[word] : 0;
    const int ties = __popc(tied), ties_up_to = warp_scan(ties);
    const int room = larger(0, equal - taken - (ties_up_to - ties));
    while (__popc(tied) > room) tied &= ~(0x80000000u >> __clz((int)tied));
    sure |= tied;
    const int own = __popc(sure), up_to = warp_scan(own);
    if (word < words) {
      chosen[word] = sure;
      before[word] = (unsigned)(counted + up_to - own);
    }
    taken += __shfl_sync(kAll, ties_up_to, 31);
    counted += __shfl_sync(kAll, up_to, 31);
  }
}

VCC_KERNEL(VCC_TOP_THREADS)
vcc_select_top(const int64_t* candidates, const int64_t* item_count, int64_t* children, int64_t* rest, VCC_LAYOUT layout, int level,
               int count, int refine, int parts) {
  VCC_SHARED(unsigned, chosen);
  const int words = blocks_of(count, 32), fan = layout.size[level] / layout.size[level + 1];
  unsigned* const before = chosen + words;
  int* const histogram = reinterpret_cast<int*>(before + words);
  int* const found = histogram + 256;
  const size_t batch = blockIdx.z;
  candidates += batch * count;

  const bool decided = refine == 0 || refine == count;
  const Kept sums = kept(children, rest, batch, fan, count, refine);
  Cut cut = {0, 0};
  if (!decided) {
    write_orders(sums, layout, candidates, item_count + batch * layout.items, count, parts);
    cut = find_cut(sums, count, refine, histogram, found);
  }
  for (int base = warp_id() * 32; base < words * 32; base += VCC_TOP_THREADS) {
    const int at = base + lane_id();
    bool above = decided && refine > 0 && at < count, tied = false;
    if (!decided && at < count) {
      const unsigned order = __float_as_uint(sums.at(at));
      above = order > cut.order;
      tied = order == cut.order;
    }
    const unsigned above_lanes = __ballot_sync(kAll, above), tied_lanes = __ballot_sync(kAll, tied);
    if (lane_id() == 0) {
      chosen[base / 32] = above_lanes;
      before[base / 32] = tied_lanes;
    }
  }
  __syncthreads();
  if (warp_id() == 0) settle_ties(chosen, before, words, cut.equal);
  __syncthreads();

  // The sums are not needed any more.
  children += batch * refine * fan;
  rest += batch * (count - refine);
  const int first_child = level + 1 == layout.levels ? layout.vips : layout.start[level + 1];
  const int last = layout.start[level + 1] - layout.start[level] - 1;
  for (int base = warp_id() * 32; base < count; base += VCC_TOP_THREADS) {
    const int at = base + lane_id(), earlier = (int)before[base / 32];
    const unsigned bits = chosen[base / 32], below = bits & ((1u << lane_id()) - 1);
    const int64_t id = at < count ? candidates[at] : 0;
    if (at < count && (bits >> lane_id() & 1) == 0) rest[at - earlier - __popc(below)] = id;
    const int64_t place = id - layout.start[level];
    const int segment = place < 0 ? 0 : place > last ? last : (int)place;
    int rank = earlier;
    for (unsigned left = bits; left != 0; left &= left - 1, rank++) {
      const int parent = __shfl_sync(kAll, segment, __ffs((int)left) - 1);
      for (int child = lane_id(); child < fan; child += 32) {
        children[(size_t)rank * fan + child] = first_child + parent * fan + child;
      }
    }
  }
}
