// Runs launches that another program describes: buffers and launches come on stdin, the buffers as they are afterwards go to stdout.
//
// All numbers are little-endian. In: the order (u32) and seed (u64) of the schedule; the number of buffers (u32), each with its address
// there (u64), length (u64), whether it is filled (u8), and its bytes; the number of launches (u32), each with its name (u32 length,
// bytes), grid (3 x u32), block (u32), shared memory (u32) and arguments (u32), each a pointer (u8 0, u64) or bytes (u8 1, u32, bytes).
// Out: the bytes of every buffer, and with the watcher the six numbers (u64) of every launch. The exit code is 3 if the watcher found
// something, 70 if the engine did.
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "engine.h"
#ifdef EMU_WATCH
#include "memory.h"
#endif

namespace {

void take(void* to, size_t bytes) {
  if (bytes != 0 && std::fread(to, 1, bytes, stdin) != bytes) emu::fail("the description ends too early");
}

template <class N>
N number() {
  N value;
  take(&value, sizeof value);
  return value;
}

struct Buffer {
  uint64_t address, bytes;
  char* memory;
  void* allocated;
};

// Memory at the same distance from a multiple of 256 as there. The sanitizer guards it closely; else nothing else is near.
Buffer take_buffer() {
  Buffer buffer = {number<uint64_t>(), number<uint64_t>(), nullptr, nullptr};
  const bool filled = number<uint8_t>() != 0;
#ifdef __SANITIZE_ADDRESS__
  const size_t margin = 0;
#else
  const size_t margin = 4096;
#endif
  const size_t before = buffer.address % 256 + margin;
  if (posix_memalign(&buffer.allocated, 256, before + buffer.bytes + margin + (margin == 0 && buffer.bytes == 0)) != 0) emu::fail("no memory");
  buffer.memory = static_cast<char*>(buffer.allocated) + before;
  take(buffer.memory, buffer.bytes);
#ifdef EMU_WATCH
  emu::watch(buffer.memory, buffer.bytes, filled);
#else
  (void)filled;
#endif
  return buffer;
}

// An address here for one there.
uint64_t here(const std::vector<Buffer>& buffers, uint64_t address) {
  for (const Buffer& buffer : buffers) {
    if (address == buffer.address) return reinterpret_cast<uint64_t>(buffer.memory);
  }
  emu::fail("an argument points to no buffer");
}

void run_launch(const std::vector<Buffer>& buffers) {
  std::string name(number<uint32_t>(), '\0');
  take(name.data(), name.size());
  unsigned geometry[5];
  take(geometry, sizeof geometry);
  std::vector<std::vector<char>> arguments(number<uint32_t>());
  for (auto& argument : arguments) {
    if (number<uint8_t>() == 0) {
      const uint64_t pointer = here(buffers, number<uint64_t>());
      argument.assign(reinterpret_cast<const char*>(&pointer), reinterpret_cast<const char*>(&pointer + 1));
    } else {
      argument.resize(number<uint32_t>());
      take(argument.data(), argument.size());
    }
  }
  std::vector<void*> params;
  for (auto& argument : arguments) params.push_back(argument.data());
  const int error = vcc_emu_launch(name.c_str(), geometry[0], geometry[1], geometry[2], geometry[3], 1, 1, geometry[4], params.data());
  if (error != 0) emu::fail("%s: error %d", name.c_str(), error);
}

}  // namespace

int main() {
  const uint32_t order = number<uint32_t>();
  vcc_emu_schedule((int)order, number<uint64_t>());
  std::vector<Buffer> buffers(number<uint32_t>());
  for (Buffer& buffer : buffers) buffer = take_buffer();
  for (uint32_t launches = number<uint32_t>(); launches > 0; launches--) run_launch(buffers);
  for (const Buffer& buffer : buffers) {
    std::fwrite(buffer.memory, 1, buffer.bytes, stdout);
    std::free(buffer.allocated);
  }
#ifdef EMU_WATCH
  for (const emu::Traffic& launch : emu::traffic()) std::fwrite(&launch, sizeof launch, 1, stdout);
  std::fflush(stdout);
  if (emu::findings() != 0) return 3;
#endif
  return 0;
}
