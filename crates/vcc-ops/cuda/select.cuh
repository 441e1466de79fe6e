// VccSelect: which segments the VIP slots look at.
//
// A row of scores, one for each head and VIP slot, is a softmax over the candidates. A team of warps takes a row at a time, 8 candidates in the
// registers of each thread, so that every score is read once. The sums over a team's rows stay in registers; at the end those of all
// teams are added up in shared memory. One block does all that and chooses: `select`. Where it would take one block long, `parts` blocks
// share the rows of a batch row (`select_scores`) and leave their sums in the operator's output `sums`; another adds them up and chooses
// (`select_top`).
//
// A block has registers for 8192 candidates. Rows that are longer are read three times, each by a whole block, and go the second way.
//
// The h-th best score is found by its bits from the top: a histogram of 8 bits at a time, in integers.
#pragma once
#include "tree.cuh"

constexpr int kEach = VCC_SELECT_EACH, kSpan = 32 * kEach, kWarps = VCC_SELECT_THREADS / 32, kMost = kWarps * kSpan;

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

// The inputs of one batch row.
template <class T>
struct Scores {
  const T* scores;
  const int64_t* candidates;
  const int64_t* item_count;
  const uint8_t* vote;
  int vips, rows, count;
};

template <class T>
VCC_DEVICE Scores<T> scores_of(const T* scores, const int64_t* candidates, const int64_t* item_count, const uint8_t* vote,
                               const VccLayout& layout, int heads, int count) {
  const size_t batch = blockIdx.z;
  const int rows = heads * layout.vips;
  return {scores + batch * rows * count,
          candidates + batch * count,
          item_count + batch * layout.items,
          vote + batch * layout.vips,
          layout.vips,
          rows,
          count};
}

// A bit for each candidate: whether it takes part in the softmax.
template <class T>
VCC_DEVICE void mark_eligible(const Scores<T>& in, const VccLayout& layout, unsigned* eligible) {
  for (int base = warp_id() * 32; base < in.count; base += VCC_SELECT_THREADS) {
    const int at = base + lane_id(), id = at < in.count ? checked_item(layout, in.candidates[at]) : -1;
    const unsigned bits = __ballot_sync(kAll, id >= 0 && in.item_count[id] > 0);
    if (lane_id() == 0) eligible[base / 32] = bits;
  }
  __syncthreads();
}

VCC_DEVICE bool is_marked(const unsigned* eligible, int at) { return (eligible[at / 32] >> at % 32 & 1) != 0; }

// A number for each of the candidates that a thread has: V neighbours, and V more 32 * V candidates on.
template <int V>
struct Piece {
  float at[kEach];

  // How far the e-th is from the first.
  static VCC_DEVICE int step(int e) { return e / V * 32 * V + e % V; }
};

// The scores of candidates from `first` on: -inf where one is not eligible, and inf in place of NaN, as neither has a softmax.
template <class T, int V>
VCC_DEVICE Piece<V> read(const Scores<T>& in, const unsigned* eligible, int row, int first) {
  Piece<V> x;
#pragma unroll
  for (int e = 0; e < kEach; e += V) {
    const int base = first + Piece<V>::step(e);
    const bool inside = base < in.count;
    const Vector<T, V> scores = inside ? load<T, V>(in.scores + (size_t)row * in.count + base) : filled<T, V>(0.f);
    const unsigned bits = inside ? eligible[base / 32] >> base % 32 : 0;
#pragma unroll
    for (int v = 0; v < V; v++) {
      const float score = to_float(scores.at[v]);
      x.at[e + v] = (bits >> v & 1) == 0 ? -INFINITY : score == score ? score : INFINITY;
    }
  }
  return x;
}

template <int V>
VCC_DEVICE float highest_of(const Piece<V>& x) {
  float highest = x.at[0];
#pragma unroll
  for (int e = 1; e < kEach; e++) highest = x.at[e] > highest ? x.at[e] : highest;
  return highest;
}

// Replaces scores by exponentials, and returns their sum.
template <int V>
VCC_DEVICE float exponentials(Piece<V>& x, float highest) {
  float total = 0.f;
#pragma unroll
  for (int e = 0; e < kEach; e++) {
    x.at[e] = exp_nonpositive(x.at[e] - highest);
    total += x.at[e];
  }
  return total;
}

// What the warps of a team tell each other. Two numbers of every warp, used in turns: a barrier lies between two uses of the same one.
struct Team {
  int warps;
  float* highest;
  float* total;

  VCC_DEVICE int index() const { return warp_id() / warps; }
  // The first candidate of this thread.
  template <int V>
  VCC_DEVICE int first() const {
    return warp_id() % warps * kSpan + lane_id() * V;
  }

  VCC_DEVICE float max(float x) const {
    x = warp_max(x);
    return warps == 1 ? x : warp_max(exchange(highest, x, -INFINITY));
  }
  VCC_DEVICE float sum(float x) const {
    x = warp_sum(x);
    return warps == 1 ? x : warp_sum(exchange(total, x, 0.f));
  }

 private:
  // Lane i gets the number of the team's warp i.
  VCC_DEVICE float exchange(float* numbers, float own, float otherwise) const {
    if (lane_id() == 0) numbers[warp_id()] = own;
    __syncthreads();
    return lane_id() < warps ? numbers[index() * warps + lane_id()] : otherwise;
  }
};

// As few warps as have registers for a row, and a power of two of them.
VCC_DEVICE int team_warps(int count) {
  int warps = 1;
  while (warps < kWarps && warps * kSpan < count) warps *= 2;
  return warps;
}

// What the exponentials of a row are multiplied by; NaN if it has no softmax.
VCC_DEVICE float factor_of(float highest, float total) {
  return highest == INFINITY || highest == -INFINITY ? NAN : 1.f / total;
}

// The sums of rows `begin` to `end`, each row by a team.
template <class T, int V>
VCC_DEVICE Piece<V> add_rows(const Scores<T>& in, const unsigned* eligible, int begin, int end, const Team& team) {
  Piece<V> sum = {};
  for (int base = begin; base < end; base += kWarps / team.warps) {
    const int row = base + team.index();
    const bool votes = row < end && in.vote[row % in.vips] != 0;
    Piece<V> x = {};
    if (votes) x = read<T, V>(in, eligible, row, team.template first<V>());
    const float highest = team.max(votes ? highest_of(x) : -INFINITY);
    const float total = team.sum(votes ? exponentials(x, highest) : 0.f);
    if (!votes) continue;
    const float factor = factor_of(highest, total);
#pragma unroll
    for (int e = 0; e < kEach; e++) sum.at[e] = fmaf(x.at[e], factor, sum.at[e]);
  }
  return sum;
}

// Where a team's sum of a candidate stands: 16 bytes are left out after every 128, so that vectors of all lanes meet all banks.
VCC_DEVICE int padded(int at) { return at + at / 32 * 4; }

// Adds up the sums of all teams: own[i] is that of candidate i * VCC_SELECT_THREADS + threadIdx.x.
template <int V>
VCC_DEVICE void add_teams(const Piece<V>& sum, const Team& team, int count, float* area, float (&own)[kEach]) {
  constexpr int W = V < 4 ? V : 4;
  const int size = padded(team.warps * kSpan);
  float* const to = area + team.index() * size;
#pragma unroll
  for (int e = 0; e < kEach; e += W) {
    Vector<float, W> part;
#pragma unroll
    for (int w = 0; w < W; w++) part.at[w] = sum.at[e + w];
    store<float, W>(to + padded(team.template first<V>() + Piece<V>::step(e)), part);
  }
  __syncthreads();
#pragma unroll
  for (int i = 0; i < kEach; i++) {
    const int at = i * VCC_SELECT_THREADS + (int)threadIdx.x;
    own[i] = 0.f;
    for (int other = 0; other < kWarps / team.warps && at < count; other++) own[i] += area[other * size + padded(at)];
  }
}

// The sums of long rows, in memory. From the first barrier to the second, a thread reads back only what it wrote.
template <class T, int V>
VCC_DEVICE void add_long_rows(const Scores<T>& in, const unsigned* eligible, int begin, int end, const Team& team, float* sums) {
  const int first = team.template first<V>();
  for (int at = (int)threadIdx.x; at < in.count; at += VCC_SELECT_THREADS) sums[at] = 0.f;
  __syncthreads();
  for (int row = begin; row < end; row++) {
    if (in.vote[row % in.vips] == 0) continue;
    float highest = -INFINITY, total = 0.f;
    for (int base = first; base < in.count; base += kMost) {
      const float other = highest_of(read<T, V>(in, eligible, row, base));
      highest = other > highest ? other : highest;
    }
    highest = team.max(highest);
    for (int base = first; base < in.count; base += kMost) {
      Piece<V> x = read<T, V>(in, eligible, row, base);
      total += exponentials(x, highest);
    }
    const float factor = factor_of(highest, team.sum(total));
    for (int base = first; base < in.count; base += kMost) {
      Piece<V> x = read<T, V>(in, eligible, row, base);
      exponentials(x, highest);
#pragma unroll
      for (int e = 0; e < kEach; e++) {
        const int at = base + Piece<V>::step(e);
        if (at < in.count) sums[at] = fmaf(x.at[e], factor, sums[at]);
      }
    }
  }
  __syncthreads();
  for (int at = (int)threadIdx.x; at < in.count; at += VCC_SELECT_THREADS) {
    if (!is_marked(eligible, at)) sums[at] = -INFINITY;
  }
}

template <class T, int V>
VCC_DEVICE void select_scores(const T* scores, const int64_t* candidates, const int64_t* item_count, const uint8_t* vote, float* sums,
                              const VccLayout& layout, int heads, int count, int parts) {
  VCC_SHARED(float, area);
  const bool is_long = count > kMost;
  float* const numbers = area + (is_long ? 0 : padded(kMost));
  unsigned* const eligible = reinterpret_cast<unsigned*>(numbers + 2 * kWarps);
  const Scores<T> in = scores_of(scores, candidates, item_count, vote, layout, heads, count);
  const Team team = {team_warps(count), numbers, numbers + kWarps};
  const int part = (int)blockIdx.x;
  const int begin = (int)((int64_t)part * in.rows / parts), end = (int)((int64_t)(part + 1) * in.rows / parts);
  sums += ((size_t)blockIdx.z * parts + part) * count;

  mark_eligible(in, layout, eligible);
  if (is_long) {
    add_long_rows<T, V>(in, eligible, begin, end, team, sums);
    return;
  }
  float own[kEach];
  add_teams(add_rows<T, V>(in, eligible, begin, end, team), team, count, area, own);
#pragma unroll
  for (int i = 0; i < kEach; i++) {
    const int at = i * VCC_SELECT_THREADS + (int)threadIdx.x;
    if (at < count) sums[at] = is_marked(eligible, at) ? own[i] : -INFINITY;
  }
}

// Numbers in the order of the scores; NaN is as -inf.
VCC_DEVICE unsigned order_of(float score) {
  const unsigned bits = __float_as_uint(score == score ? score : -INFINITY);
  return (bits >> 31) != 0 ? ~bits : bits | 0x80000000u;
}

// The h-th highest place in the order, and how many of the candidates that have it are among the h.
struct Cut {
  unsigned order;
  int equal;
};

VCC_DEVICE Cut find_cut(const unsigned* orders, int count, int refine, int* histogram, int* found) {
  Cut cut = {0, refine};
  unsigned known = 0;
  for (int shift = 24; shift >= 0; shift -= 8) {
    if (threadIdx.x < 256) histogram[threadIdx.x] = 0;
    __syncthreads();
    for (int at = (int)threadIdx.x; at < count; at += VCC_SELECT_THREADS) {
      const unsigned order = orders[at];
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

// Writes the outputs of a batch row, from the order of each candidate's score. `shared` has room for two bits of each candidate and a histogram.
VCC_DEVICE void choose(const unsigned* orders, unsigned* shared, const int64_t* candidates, int64_t* children, int64_t* rest,
                       const VccLayout& layout, int level, int count, int refine) {
  const int words = blocks_of(count, 32), fan = layout.size[level] / layout.size[level + 1];
  unsigned *const chosen = shared, *const before = shared + words;
  int *const histogram = reinterpret_cast<int*>(before + words), *const found = histogram + 256;
  const size_t batch = blockIdx.z;
  candidates += batch * count;

  // With all or none of them, the scores do not matter.
  const bool decided = refine == 0 || refine == count;
  Cut cut = {0, 0};
  if (!decided) cut = find_cut(orders, count, refine, histogram, found);
  for (int base = warp_id() * 32; base < words * 32; base += VCC_SELECT_THREADS) {
    const int at = base + lane_id();
    bool above = decided && refine > 0 && at < count, tied = false;
    if (!decided && at < count) {
      above = orders[at] > cut.order;
      tied = orders[at] == cut.order;
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

  children += batch * refine * fan;
  rest += batch * (count - refine);
  const int first_child = level + 1 == layout.levels ? layout.vips : layout.start[level + 1];
  const int last = layout.start[level + 1] - layout.start[level] - 1;
  for (int base = warp_id() * 32; base < count; base += VCC_SELECT_THREADS) {
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

// All in one block; `refine` is not 0 and not all.
template <class T, int V>
VCC_DEVICE void select(const T* scores, const int64_t* candidates, const int64_t* item_count, const uint8_t* vote, int64_t* children,
                       int64_t* rest, const VccLayout& layout, int level, int heads, int count, int refine) {
  VCC_SHARED(float, area);
  float* const numbers = area + padded(kMost);
  unsigned* const eligible = reinterpret_cast<unsigned*>(numbers + 2 * kWarps);
  const Scores<T> in = scores_of(scores, candidates, item_count, vote, layout, heads, count);
  const Team team = {team_warps(count), numbers, numbers + kWarps};
  mark_eligible(in, layout, eligible);
  float own[kEach];
  add_teams(add_rows<T, V>(in, eligible, 0, in.rows, team), team, count, area, own);
  // The orders take the place of the sums, and what is chosen that of what is eligible.
  __syncthreads();
  unsigned* const orders = reinterpret_cast<unsigned*>(area);
#pragma unroll
  for (int i = 0; i < kEach; i++) {
    const int at = i * VCC_SELECT_THREADS + (int)threadIdx.x;
    if (at < count) orders[at] = order_of(is_marked(eligible, at) ? own[i] : -INFINITY);
  }
  __syncthreads();
  choose(orders, eligible, candidates, children, rest, layout, level, count, refine);
}

VCC_KERNEL(VCC_SELECT_THREADS)
vcc_select_top(const int64_t* candidates, float* sums, int64_t* children, int64_t* rest, VCC_LAYOUT layout, int level, int count,
               int refine, int parts) {
  VCC_SHARED(unsigned, shared);
  sums += (size_t)blockIdx.z * parts * count;
  // The orders of long rows take the place of the first sums.
  const bool is_long = count > kMost;
  unsigned* const orders = is_long ? reinterpret_cast<unsigned*>(sums) : shared;
  for (int at = (int)threadIdx.x; at < count && parts > 0; at += VCC_SELECT_THREADS) {
    float score = sums[at];
    for (int part = 1; part < parts; part++) score += sums[(size_t)part * count + at];
    orders[at] = order_of(score);
  }
  __syncthreads();
  choose(orders, shared + (is_long || parts == 0 ? 0 : count), candidates, children, rest, layout, level, count, refine);
}
