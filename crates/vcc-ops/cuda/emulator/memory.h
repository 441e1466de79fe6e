// The memory watcher: every access of a kernel, checked and counted.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

namespace emu {

// What a launch moved. A request is what the lanes of a warp access with one instruction; a sector is 32 bytes.
struct Traffic {
  uint64_t sectors_read, sectors_written;                    // Of all requests.
  uint64_t distinct_sectors_read, distinct_sectors_written;  // Each counted once.
  uint64_t shared_steps, shared_least;                       // Passes over the banks that requests need, and would without conflicts.
};

// Makes a buffer known. Bytes of one that is not `filled` may not be read before they are written.
void watch(const void* start, size_t bytes, bool filled);
// The launches so far.
const std::vector<Traffic>& traffic();
// What was found wrong. Each is printed on stderr, the first of a kind and place only.
uint64_t findings();

}  // namespace emu
