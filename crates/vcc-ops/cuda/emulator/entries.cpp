// The kernels, compiled for the CPU, and a table of them by name. This is the only file whose memory accesses are watched.
#define VCC_EMULATOR
#include "../vcc_kernels.cu"

#include <map>
#include <string>
#include <type_traits>
#include <utility>

#include "engine.h"

namespace {

// A kernel that takes its arguments from their addresses. Reading those is none of the kernel's accesses to memory.
template <auto kernel>
struct Entry;

template <class... A, void (*kernel)(A...)>
struct Entry<kernel> {
  EMU_HIDDEN static void call(void** params) { call(params, std::index_sequence_for<A...>()); }

  template <size_t... I>
  EMU_HIDDEN static void call(void** params, std::index_sequence<I...>) {
    kernel(*static_cast<std::remove_const_t<A>*>(params[I])...);
  }

  // The arguments that are addresses, in their order; returns how many.
  static size_t addresses(void** params, const void** found) { return addresses(params, found, std::index_sequence_for<A...>()); }

  template <size_t... I>
  static size_t addresses(void** params, const void** found, std::index_sequence<I...>) {
    size_t count = 0;
    (..., (std::is_pointer_v<A> ? void(found[count++] = *static_cast<const void**>(params[I])) : void()));
    return count;
  }
};

struct Functions {
  void (*call)(void**);
  size_t (*addresses)(void**, const void**);
};

#define ENTRY(name) {#name, {Entry<name>::call, Entry<name>::addresses}}
#define OF_TYPE(type)                                                                                          \
  ENTRY(vcc_coarsen_##type), ENTRY(vcc_select_##type), ENTRY(vcc_select_scores_##type),                        \
      ENTRY(vcc_compress_##type), ENTRY(vcc_decompress_rows_##type), ENTRY(vcc_decompress_level_##type),       \
      ENTRY(vcc_expand_##type)

const std::map<std::string, Functions> entries = {
    ENTRY(vcc_partition_tokens), ENTRY(vcc_partition_segments), ENTRY(vcc_select_top),
    OF_TYPE(f32), OF_TYPE(f32_any), OF_TYPE(f16), OF_TYPE(f16_any), OF_TYPE(bf16), OF_TYPE(bf16_any)};

}  // namespace

extern "C" int vcc_emu_launch(const char* kernel, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x, unsigned block_y,
                              unsigned block_z, unsigned shared, void** params) {
  const auto found = entries.find(kernel);
  if (found == entries.end()) return 500;
  const bool possible = grid_x > 0 && grid_x <= 0x7fffffffu && grid_y > 0 && grid_y <= 65535 && grid_z > 0 && grid_z <= 65535 &&
                        block_x > 0 && block_x <= 1024 && block_y == 1 && block_z == 1 && shared <= 48 * 1024;
  if (!possible) return 1;
  emu::run({kernel, {grid_x, grid_y, grid_z}, block_x, shared, found->second.call, params});
  return 0;
}

// The addresses among a kernel's arguments; 16 at most.
extern "C" size_t vcc_emu_addresses(const char* kernel, void** params, const void** found) {
  const auto entry = entries.find(kernel);
  return entry == entries.end() ? 0 : entry->second.addresses(params, found);
}
