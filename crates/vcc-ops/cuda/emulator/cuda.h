// What the kernels see instead of the compiler's CUDA: the words of the language, on the CPU.
//
// The engine behind it (engine.h) runs every CUDA thread as a fiber or, for ThreadSanitizer, as a thread of the system.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

#define __global__
#define __device__
#define __forceinline__ inline __attribute__((always_inline))
#define __grid_constant__
#define __launch_bounds__(...)

// Code of the emulator itself is not watched.
#define EMU_HIDDEN __attribute__((no_sanitize("thread"), noinline))

namespace emu {

struct Index {
  unsigned x, y, z;
};

enum class WarpOp { shuffle, ballot };

// Who runs: set by the engine before a thread goes on.
struct Identity {
  Index thread, block, grid;
  void* shared;
};
Identity& self();

void barrier(int line);
// Hands over a value and gets what the operation makes of the warp's.
uint64_t warp(WarpOp op, unsigned mask, uint64_t value, int from, int line);
int atomic_add(int* at, int what);

template <class T>
EMU_HIDDEN T shuffle(unsigned mask, T value, int from, int line) {
  static_assert(sizeof(T) <= 8);
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof value);
  bits = warp(WarpOp::shuffle, mask, bits, from, line);
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

EMU_HIDDEN inline int lane() { return (int)(self().thread.x % 32); }

}  // namespace emu

#define threadIdx (emu::self().thread)
#define blockIdx (emu::self().block)
#define gridDim (emu::self().grid)
#define VCC_SHARED(type, name) type* const name = static_cast<type*>(emu::self().shared)

#define __syncthreads() emu::barrier(__LINE__)
#define __shfl_sync(mask, value, from) emu::shuffle(mask, value, (from) % 32, __LINE__)
#define __shfl_xor_sync(mask, value, bits) emu::shuffle(mask, value, emu::lane() ^ (bits), __LINE__)
// A lane without one below it gets its own value.
#define __shfl_up_sync(mask, value, by) \
  emu::shuffle(mask, value, emu::lane() >= (by) ? emu::lane() - (by) : emu::lane(), __LINE__)
#define __ballot_sync(mask, what) ((unsigned)emu::warp(emu::WarpOp::ballot, mask, (what) ? 1 : 0, 0, __LINE__))
#define atomicAdd(at, what) emu::atomic_add(at, what)

inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __clz(int x) { return x == 0 ? 32 : __builtin_clz((unsigned)x); }

inline unsigned __float_as_uint(float x) {
  unsigned bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
}
inline float __uint_as_float(unsigned bits) {
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

// 16-bit floats, for storage; conversions round to nearest even.
struct __half {
  uint16_t bits;
};
struct __nv_bfloat16 {
  uint16_t bits;
};

inline float __bfloat162float(__nv_bfloat16 x) { return __uint_as_float((unsigned)x.bits << 16); }
inline __nv_bfloat16 __float2bfloat16_rn(float x) {
  const unsigned bits = __float_as_uint(x);
  if (x != x) return {0x7fff};
  return {(uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}

inline float __half2float(__half x) {
  const unsigned sign = (x.bits & 0x8000u) << 16, rest = x.bits & 0x7fffu;
  if (rest >= 0x7c00) return __uint_as_float(sign | 0x7f800000u | (rest & 0x3ff) << 13);
  // 2^-112 moves the exponent from where f16 has it to where f32 has it, for subnormal numbers too.
  const float scaled = __uint_as_float(rest << 13) * __uint_as_float((127u + 112u) << 23);
  return __uint_as_float(sign | __float_as_uint(scaled));
}
inline __half __float2half_rn(float x) {
  const unsigned bits = __float_as_uint(x), sign = bits >> 16 & 0x8000u, rest = bits & 0x7fffffffu;
  if (rest > 0x7f800000u) return {0x7fff};
  if (rest >= 0x477ff000u) return {(uint16_t)(sign | 0x7c00)};
  if (rest < 0x38800000u) {
    // Adding 0.5 leaves a subnormal's bits, rounded, at the end of the fraction.
    const float rounded = __uint_as_float(rest) + 0.5f;
    return {(uint16_t)(sign | (__float_as_uint(rounded) - 0x3f000000u))};
  }
  return {(uint16_t)(sign | ((rest - 0x38000000u + 0xfff + (rest >> 13 & 1)) >> 13))};
}
