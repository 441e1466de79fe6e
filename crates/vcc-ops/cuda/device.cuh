// What all kernels are written in: the compiler or the emulator, vectors of channels, numbers, warps.
//
// Rules for kernels, so that one source serves nvcc and the emulator: shared memory is dynamic (VCC_SHARED, one per kernel); f16 and
// bf16 are storage, all arithmetic is f32 with fmaf written out (no contraction by the compiler), so that every target gives the same
// bits; warps never diverge around a shuffle, ballot or barrier.
#pragma once
#ifdef VCC_EMULATOR
#include "emulator/cuda.h"
#else
#include <cstdint>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
extern __shared__ __align__(16) unsigned char vcc_shared_bytes[];
#define VCC_SHARED(type, name) type* const name = reinterpret_cast<type*>(vcc_shared_bytes)
#endif
#include "kernels.h"

// One block on a multiprocessor is promised, more is not: with that the compiler has no reason to spill.
#define VCC_KERNEL(threads) extern "C" __global__ void __launch_bounds__(threads, 1)
#define VCC_DEVICE __device__ __forceinline__
#define VCC_LAYOUT const __grid_constant__ VccLayout

constexpr unsigned kAll = 0xffffffffu;

VCC_DEVICE float to_float(float x) { return x; }
VCC_DEVICE float to_float(__half x) { return __half2float(x); }
VCC_DEVICE float to_float(__nv_bfloat16 x) { return __bfloat162float(x); }
VCC_DEVICE void from_float(float x, float& to) { to = x; }
VCC_DEVICE void from_float(float x, __half& to) { to = __float2half_rn(x); }
VCC_DEVICE void from_float(float x, __nv_bfloat16& to) { to = __float2bfloat16_rn(x); }

// V neighbouring channels, moved as one access.
template <class T, int V>
struct alignas(sizeof(T) * V) Vector {
  T at[V];
};

template <class T, int V>
VCC_DEVICE Vector<T, V> load(const T* from) {
  return *reinterpret_cast<const Vector<T, V>*>(from);
}

template <class T, int V>
VCC_DEVICE void store(T* to, const Vector<T, V>& what) {
  *reinterpret_cast<Vector<T, V>*>(to) = what;
}

template <class T, int V>
VCC_DEVICE Vector<T, V> filled(float x) {
  Vector<T, V> out;
#pragma unroll
  for (int v = 0; v < V; v++) from_float(x, out.at[v]);
  return out;
}

// sum / total, per channel.
template <class T, int V>
VCC_DEVICE Vector<T, V> mean(const float (&sum)[V], float total) {
  Vector<T, V> out;
#pragma unroll
  for (int v = 0; v < V; v++) from_float(sum[v] / total, out.at[v]);
  return out;
}

VCC_DEVICE int lane_id() { return threadIdx.x & 31; }
VCC_DEVICE int warp_id() { return threadIdx.x >> 5; }

template <class N>
VCC_DEVICE N warp_sum(N x) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) x += __shfl_xor_sync(kAll, x, step);
  return x;
}

template <class N>
VCC_DEVICE N warp_min(N x) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) {
    const N other = __shfl_xor_sync(kAll, x, step);
    x = other < x ? other : x;
  }
  return x;
}

template <class N>
VCC_DEVICE N warp_max(N x) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) {
    const N other = __shfl_xor_sync(kAll, x, step);
    x = other > x ? other : x;
  }
  return x;
}

// The sum over the lanes up to this one.
VCC_DEVICE int warp_scan(int x) {
#pragma unroll
  for (int step = 1; step < 32; step *= 2) {
    const int below = __shfl_up_sync(kAll, x, step);
    if (lane_id() >= step) x += below;
  }
  return x;
}

VCC_DEVICE int smaller(int a, int b) { return a < b ? a : b; }
VCC_DEVICE int larger(int a, int b) { return a > b ? a : b; }
VCC_DEVICE int blocks_of(int size, int block) { return (size + block - 1) / block; }

// The rows that a warp of a VCC_ROW_THREADS kernel works on, and where its lanes are in a row.
struct Warp {
  int unit, batch, channel;
  bool active;  // Whether this lane has channels at all; lanes without take part in shuffles only.
};

template <int V>
VCC_DEVICE Warp this_warp(int d) {
  const int channel = ((int)blockIdx.y * 32 + lane_id()) * V;
  return {(int)blockIdx.x * (VCC_ROW_THREADS / 32) + warp_id(), (int)blockIdx.z, channel, channel < d};
}
