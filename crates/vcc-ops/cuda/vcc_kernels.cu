// All entry points: the kernels of every operator for every type, with vectors of 16 bytes and for any row.
#include "coarsen.cuh"
#include "compress.cuh"
#include "decompress.cuh"
#include "expand.cuh"
#include "partition.cuh"
#include "select.cuh"

#define VCC_ENTRIES(name, T, V)                                                                                                         \
  VCC_KERNEL(VCC_ROW_THREADS)                                                                                                           \
  vcc_coarsen_##name(const T* x, const int64_t* item_token, const int64_t* item_count, T* value, T* scale, T* offset, VCC_LAYOUT layout,\
                     int n, int d) {                                                                                                    \
    coarsen<T, V>(x, item_token, item_count, value, scale, offset, layout, n, d);                                                       \
  }                                                                                                                                     \
  VCC_KERNEL(VCC_SELECT_THREADS)                                                                                                        \
  vcc_select_##name(const T* scores, const int64_t* candidates, const int64_t* item_count, const uint8_t* vote, int64_t* children,      \
                    int64_t* rest, VCC_LAYOUT layout, int level, int heads, int count, int refine) {                                    \
    select<T, V>(scores, candidates, item_count, vote, children, rest, layout, level, heads, count, refine);                            \
  }                                                                                                                                     \
  VCC_KERNEL(VCC_SELECT_THREADS)                                                                                                        \
  vcc_select_scores_##name(const T* scores, const int64_t* candidates, const int64_t* item_count, const uint8_t* vote, float* sums,     \
                           VCC_LAYOUT layout, int heads, int count, int parts) {                                                        \
    select_scores<T, V>(scores, candidates, item_count, vote, sums, layout, heads, count, parts);                                       \
  }                                                                                                                                     \
  VCC_KERNEL(VCC_ROW_THREADS)                                                                                                           \
  vcc_compress_##name(const T* value, const T* scale, const T* offset, const int64_t* items, const int64_t* item_token,                 \
                      const int64_t* item_count, T* rows, int64_t* row_token, float* row_bias, VCC_LAYOUT layout, int q, int d,         \
                      float count_weight) {                                                                                             \
    compress<T, V>(value, scale, offset, items, item_token, item_count, rows, row_token, row_bias, layout, q, d, count_weight);         \
  }                                                                                                                                     \
  VCC_KERNEL(VCC_ROW_THREADS)                                                                                                           \
  vcc_decompress_rows_##name(T* value, T* scale, T* offset, const int64_t* items, const int64_t* item_count, const T* y,                \
                             const T* update, const T* gain, VCC_LAYOUT layout, int q, int d) {                                         \
    decompress_rows<T, V>(value, scale, offset, items, item_count, y, update, gain, layout, q, d);                                      \
  }                                                                                                                                     \
  VCC_KERNEL(VCC_ROW_THREADS)                                                                                                           \
  vcc_decompress_level_##name(T* value, T* scale, T* offset, const int64_t* items, const int64_t* item_count, VCC_LAYOUT layout, int q, \
                              int d, int level) {                                                                                       \
    decompress_level<T, V>(value, scale, offset, items, item_count, layout, q, d, level);                                               \
  }                                                                                                                                     \
  VCC_KERNEL(VCC_ROW_THREADS)                                                                                                           \
  vcc_expand_##name(const T* value, const T* scale, const T* offset, const int64_t* token_slot, T* x, VCC_LAYOUT layout, int n, int d) {\
    expand<T, V>(value, scale, offset, token_slot, x, layout, n, d);                                                                    \
  }

VCC_ENTRIES(f32, float, 4)
VCC_ENTRIES(f32_any, float, 1)
VCC_ENTRIES(f16, __half, 8)
VCC_ENTRIES(f16_any, __half, 1)
VCC_ENTRIES(bf16, __nv_bfloat16, 8)
VCC_ENTRIES(bf16_any, __nv_bfloat16, 1)
