// VccPartition, with the number of VIP slots known: tokens to slots, then segments from slots.
//
// A token's slot follows from how many VIP tokens, other valid tokens and padding tokens lie before it and in the whole row. A block
// places 4096 tokens; it counts the whole row by itself, so that blocks need nothing from each other.
#pragma once
#include "device.cuh"

// What a row holds: VIP tokens and other valid tokens, those before the block's first token, and the first of either.
struct RowCounts {
  int vips, others, vips_before, others_before, first_vip, first_other;
};

VCC_DEVICE void count_token(RowCounts& counts, int token, int before, bool vip, bool valid) {
  const int is_vip = vip && valid ? 1 : 0, is_other = !vip && valid ? 1 : 0, early = token < before ? 1 : 0;
  counts.vips += is_vip;
  counts.others += is_other;
  counts.vips_before += is_vip & early;
  counts.others_before += is_other & early;
  if (is_vip != 0) counts.first_vip = smaller(counts.first_vip, token);
  if (is_other != 0) counts.first_other = smaller(counts.first_other, token);
}

// Counts the row; every thread gets the result. `shared` has room for 6 numbers of every warp.
VCC_DEVICE RowCounts count_row(const uint8_t* vip, const uint8_t* valid, int n, int before, int* shared) {
  RowCounts counts = {0, 0, 0, 0, n, n};
  const bool vectors = ((uintptr_t)vip | (uintptr_t)valid) % 16 == 0;
  const int whole = vectors ? n / 16 * 16 : 0;
  for (int base = (int)threadIdx.x * 16; base < whole; base += VCC_PARTITION_THREADS * 16) {
    const Vector<uint8_t, 16> vips = load<uint8_t, 16>(vip + base), valids = load<uint8_t, 16>(valid + base);
#pragma unroll
    for (int i = 0; i < 16; i++) count_token(counts, base + i, before, vips.at[i] != 0, valids.at[i] != 0);
  }
  for (int token = whole + (int)threadIdx.x; token < n; token += VCC_PARTITION_THREADS) {
    count_token(counts, token, before, vip[token] != 0, valid[token] != 0);
  }
  constexpr int kWarps = VCC_PARTITION_THREADS / 32;
  int* const own = shared + warp_id();
  const int numbers[6] = {warp_sum(counts.vips),          warp_sum(counts.others),     warp_sum(counts.vips_before),
                          warp_sum(counts.others_before), warp_min(counts.first_vip), warp_min(counts.first_other)};
  if (lane_id() == 0) {
#pragma unroll
    for (int i = 0; i < 6; i++) own[i * kWarps] = numbers[i];
  }
  __syncthreads();
  counts = {0, 0, 0, 0, n, n};
  for (int warp = 0; warp < kWarps; warp++) {
    counts.vips += shared[warp];
    counts.others += shared[kWarps + warp];
    counts.vips_before += shared[2 * kWarps + warp];
    counts.others_before += shared[3 * kWarps + warp];
    counts.first_vip = smaller(counts.first_vip, shared[4 * kWarps + warp]);
    counts.first_other = smaller(counts.first_other, shared[5 * kWarps + warp]);
  }
  __syncthreads();
  return counts;
}

VCC_KERNEL(VCC_PARTITION_THREADS)
vcc_partition_tokens(const uint8_t* vip, const uint8_t* valid, int64_t* item_token, int64_t* item_count, int64_t* token_slot,
                     uint8_t* vote, int64_t* roots, VCC_LAYOUT layout, int n) {
  VCC_SHARED(int, shared);
  const size_t batch = blockIdx.z;
  vip += batch * n;
  valid += batch * n;
  item_token += batch * layout.items;
  item_count += batch * layout.items;
  token_slot += batch * n;
  const int begin = (int)blockIdx.x * VCC_PARTITION_TOKENS, end = smaller(n, begin + VCC_PARTITION_TOKENS);
  const RowCounts row = count_row(vip, valid, n, begin, shared);

  // Who sits in the VIP slots: VIP tokens, then other valid tokens, then padding.
  const int v = layout.vips, voting = smaller(row.vips, v), others = smaller(row.others, v - voting), padding = v - voting - others;
  int vips_before = row.vips_before, others_before = row.others_before;
  for (int base = begin; base < end; base += VCC_PARTITION_THREADS) {
    const int token = base + (int)threadIdx.x;
    const bool inside = token < end, is_valid = inside && valid[token] != 0, is_vip = is_valid && vip[token] != 0;
    const unsigned vip_lanes = __ballot_sync(kAll, is_vip), other_lanes = __ballot_sync(kAll, is_valid && !is_vip);
    if (lane_id() == 0) shared[warp_id()] = __popc(vip_lanes) << 16 | __popc(other_lanes);
    __syncthreads();
    int vips = vips_before, rest = others_before;
    for (int warp = 0; warp < VCC_PARTITION_THREADS / 32; warp++) {
      const int counted = shared[warp];
      vips_before += counted >> 16;
      others_before += counted & 0xffff;
      if (warp < warp_id()) {
        vips += counted >> 16;
        rest += counted & 0xffff;
      }
    }
    __syncthreads();
    const unsigned below = (1u << lane_id()) - 1;
    vips += __popc(vip_lanes & below);
    rest += __popc(other_lanes & below);
    if (!inside) continue;
    const int pads = token - vips - rest;
    int slot = v + token - smaller(vips, voting) - smaller(rest, others) - smaller(pads, padding);
    if (is_vip) {
      if (vips < voting) slot = vips;
    } else if (is_valid) {
      if (rest < others) slot = voting + rest;
    } else if (pads < padding) {
      slot = voting + others + pads;
    }
    token_slot[token] = slot;
    item_token[slot] = token;
    item_count[slot] = is_valid ? 1 : 0;
  }

  const int first = (int)(blockIdx.x * VCC_PARTITION_THREADS + threadIdx.x), step = (int)gridDim.x * VCC_PARTITION_THREADS;
  const int slot_0 = row.vips > 0 ? row.first_vip : row.others > 0 ? row.first_other : 0;
  for (int slot = n + first; slot < layout.slots; slot += step) {
    item_token[slot] = slot_0;
    item_count[slot] = -1;
  }
  for (int slot = first; slot < v; slot += step) vote[batch * v + slot] = slot < voting ? 1 : 0;
  for (int root = first; root < layout.roots; root += step) roots[batch * layout.roots + root] = layout.slots + root;
}

// sum / count, rounded to nearest, halves to even.
VCC_DEVICE int64_t round_half_even(int64_t sum, int64_t count) {
  const int64_t quotient = sum / count, twice = 2 * (sum % count);
  return quotient + (twice > count || (twice == count && quotient % 2 == 1) ? 1 : 0);
}

// A warp for 8 neighbouring segments of a level. Where their tokens follow each other, the first and the last tell all of them; else each
// slot is asked for its token.
VCC_KERNEL(VCC_SEGMENT_THREADS)
vcc_partition_segments(const uint8_t* valid, int64_t* item_token, int64_t* item_count, VCC_LAYOUT layout, int n) {
  int group = (int)blockIdx.x * (VCC_SEGMENT_THREADS / 32) + warp_id(), level = 0;
  for (; level < layout.levels; level++) {
    const int groups = blocks_of(layout.start[level + 1] - layout.start[level], VCC_SEGMENT_GROUP);
    if (group < groups) break;
    group -= groups;
  }
  if (level == layout.levels) return;
  const size_t batch = blockIdx.z;
  valid += batch * n;
  item_token += batch * layout.items;
  item_count += batch * layout.items;
  const int size = layout.size[level], first_item = layout.start[level] + group * VCC_SEGMENT_GROUP;
  const int items = smaller(VCC_SEGMENT_GROUP, layout.start[level + 1] - first_item);
  // The first n slots hold tokens.
  const int begin = layout.vips + group * VCC_SEGMENT_GROUP * size, end = n - begin < items * size ? n : begin + items * size;
  const int64_t slot_0 = item_token[0], first_token = begin < end ? item_token[begin] : slot_0;
  const bool in_a_row = begin < end && item_token[end - 1] - first_token == end - 1 - begin;
  const auto token_of = [&](int slot) { return in_a_row ? first_token + (slot - begin) : item_token[slot]; };

  for (int i = 0; i < items; i++) {
    const int first = begin + i * size, tokens = larger(0, smaller(size, end - first));
    int64_t sum = 0;
    int count = 0;
    for (int at = lane_id(); at < tokens; at += 32) {
      const int64_t token = token_of(first + at);
      if (valid[token] != 0) {
        sum += token;
        count++;
      }
    }
    sum = warp_sum(sum);
    count = warp_sum(count);
    int64_t token = tokens > 0 ? token_of(first) : slot_0;
    if (count > 0) {
      token = round_half_even(sum, count);
      if (valid[token] == 0) {
        // The nearest valid token, the lower one on ties: distances from the middle, twice, and one more to the right.
        int64_t nearest = INT64_MAX;
        for (int at = lane_id(); at < tokens; at += 32) {
          const int64_t other = token_of(first + at);
          if (valid[other] == 0) continue;
          const int64_t away = other - token, distance = away > 0 ? 2 * away + 1 : -2 * away;
          nearest = distance < nearest ? distance : nearest;
        }
        nearest = warp_min(nearest);
        token += nearest % 2 == 1 ? nearest / 2 : -(nearest / 2);
      }
    }
    if (lane_id() == 0) {
      item_token[first_item + i] = token;
      item_count[first_item + i] = tokens > 0 ? count : -1;
    }
  }
}
