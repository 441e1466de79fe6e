// Launching emulated kernels.
#pragma once
#include <cstddef>
#include <cstdint>

#include "cuda.h"

namespace emu {

// In which order blocks and threads run.
enum class Order { forward, reverse, random };

struct Schedule {
  Order order = Order::forward;
  uint64_t seed = 1;
};

// The schedule of the launches that follow.
void set_schedule(Schedule schedule);

struct Launch {
  const char* kernel;
  Index grid;
  unsigned threads;  // In a block.
  size_t shared;     // Bytes.
  void (*body)(void**);
  void** params;
};

// Runs all blocks to their end. What no kernel may do (a barrier that not all threads reach, a warp operation that not all lanes reach,
// more than a device allows) ends the process with a message.
void run(const Launch& launch);

[[noreturn]] void fail(const char* format, ...);

// How the memory watcher, if it is linked, follows a launch. The engine calls these; without a watcher they do nothing.
struct Watcher {
  void (*begin_launch)(const Launch&);
  void (*begin_block)(unsigned block, void* shared, size_t bytes);
  void (*end_block)();
  void (*barrier)();
};
extern Watcher watcher;

// The thread that runs, its number in the block; -1 outside of kernels. For the watcher.
int running_thread();
// Whether an address is on the running fiber's stack.
bool on_stack(const void* address);
// Whether an address is in what the engine keeps of its threads, where their indices are.
bool is_engines(const void* address);

}  // namespace emu

extern "C" {
// Runs a kernel by name; `params` are addresses of the arguments, as cuLaunchKernel takes them. Returns 0, 1 (a geometry that no device
// takes) or 500 (no such kernel).
int vcc_emu_launch(const char* kernel, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x, unsigned block_y,
                   unsigned block_z, unsigned shared, void** params);
// 0 forward, 1 reverse, 2 random.
void vcc_emu_schedule(int order, uint64_t seed);
}
