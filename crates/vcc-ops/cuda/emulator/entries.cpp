// The kernels, compiled for the CPU, and a table of them by name. This is the only file whose memory accesses are watched.
#define VCC_EMULATOR
#include "../vcc_kernels.cu"

#include <map>
#include <string>
#include <tuple>
#include <utility>

#include "engine.h"

namespace {

// A kernel that takes its arguments from their addresses.
using Entry = std::function<void(void**)>;

template <class... A, size_t... I>
Entry entry(void (*kernel)(A...), std::index_sequence<I...>) {
  return [kernel](void** params) { kernel(*static_cast<std::remove_const_t<A>*>(params[I])...); };
}

template <class... A>
Entry entry(void (*kernel)(A...)) {
  return entry(kernel, std::index_sequence_for<A...>());
}

#define OF_TYPE(name)                                                    \
  {"vcc_coarsen_" #name, entry(vcc_coarsen_##name)},                     \
      {"vcc_select_scores_" #name, entry(vcc_select_scores_##name)},     \
      {"vcc_compress_" #name, entry(vcc_compress_##name)},               \
      {"vcc_decompress_rows_" #name, entry(vcc_decompress_rows_##name)}, \
      {"vcc_decompress_level_" #name, entry(vcc_decompress_level_##name)}, {"vcc_expand_" #name, entry(vcc_expand_##name)}

const std::map<std::string, Entry>& entries() {
  static const std::map<std::string, Entry> all = {{"vcc_partition_tokens", entry(vcc_partition_tokens)},
                                                   {"vcc_partition_segments", entry(vcc_partition_segments)},
                                                   {"vcc_select_top", entry(vcc_select_top)},
                                                   OF_TYPE(f32),
                                                   OF_TYPE(f32_any),
                                                   OF_TYPE(f16),
                                                   OF_TYPE(f16_any),
                                                   OF_TYPE(bf16),
                                                   OF_TYPE(bf16_any)};
  return all;
}

}  // namespace

extern "C" __attribute__((no_sanitize("thread"))) int vcc_emu_launch(const char* kernel, unsigned grid_x, unsigned grid_y,
                                                                     unsigned grid_z, unsigned block_x, unsigned block_y,
                                                                     unsigned block_z, unsigned shared, void** params) {
  const auto found = entries().find(kernel);
  if (found == entries().end()) return 500;
  const bool possible = grid_x > 0 && grid_x <= 0x7fffffffu && grid_y > 0 && grid_y <= 65535 && grid_z > 0 && grid_z <= 65535 &&
                        block_x > 0 && block_x <= 1024 && block_y == 1 && block_z == 1 && shared <= 48 * 1024;
  if (!possible) return 1;
  emu::run({kernel, {grid_x, grid_y, grid_z}, block_x, shared, [&] { found->second(params); }});
  return 0;
}
