// The engine for ThreadSanitizer: every CUDA thread is a thread of the system, preempted wherever that likes.
//
// The sanitizer knows what happened before what from the synchronisation that it sees, so it must see what orders memory on a device and
// nothing else. Barriers and atomic operations it sees. Values that a warp exchanges go through relaxed atomics, which order nothing for
// it; fences, which it does not follow, order them for the processor. Blocks run one after another, but no thread is joined before the
// last one has ended and its end is told by a relaxed atomic, so for the sanitizer they all run at once.
//
// A barrier or a warp operation that not all reach hangs here; the engine of fibers finds those.
#include <pthread.h>
#include <unistd.h>

#include <atomic>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

#include "engine.h"

// The first race ends the program: looking up the places of hundreds would take minutes.
extern "C" const char* __tsan_default_options() { return "halt_on_error=1"; }

namespace emu {

void fail(const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  std::fprintf(stderr, "emulator: ");
  std::vfprintf(stderr, format, arguments);
  std::fprintf(stderr, "\n");
  va_end(arguments);
  std::_Exit(70);
}

namespace {

constexpr size_t kStack = 256 * 1024;
// The sanitizer can tell about 8000 threads apart.
constexpr size_t kMostThreads = 7000;

struct Warp {
  std::atomic<uint64_t> values[2][32];
  std::atomic<unsigned> arrived{0};
  unsigned lanes = 0;
};

struct Block;

struct Thread {
  Identity identity;
  Block* block;
  pthread_t handle;
};

struct Block {
  const Launch& launch;
  std::atomic<unsigned>& ended;
  // Used in turns. With one, a thread that is slow to leave would, for the sanitizer, come after what others did on their way to the next.
  pthread_barrier_t barriers[2];
  std::vector<float> shared;
  std::vector<Warp> warps;
  std::vector<Thread> threads;

  Block(const Launch& what, Index at, std::atomic<unsigned>& counter)
      : launch(what), ended(counter), shared(what.shared / 4 + 8), warps((what.threads + 31) / 32), threads(what.threads) {
    for (auto& barrier : barriers) pthread_barrier_init(&barrier, nullptr, launch.threads);
    std::memset(shared.data(), 0xff, shared.size() * 4);
    void* const start = reinterpret_cast<void*>((reinterpret_cast<uintptr_t>(shared.data()) + 15) / 16 * 16);
    for (unsigned thread = 0; thread < launch.threads; thread++) {
      threads[thread] = {{{thread, 0, 0}, at, launch.grid, start}, this, {}};
      warps[thread / 32].lanes++;
    }
  }
  ~Block() {
    for (auto& barrier : barriers) pthread_barrier_destroy(&barrier);
  }
};

thread_local Thread* current = nullptr;
// Warp operations of this thread so far; all lanes of a warp have the same number.
thread_local unsigned operations = 0;
// Barriers that this thread has reached; all threads of a block have the same number.
thread_local unsigned reached = 0;

void wait(Block& block) { pthread_barrier_wait(&block.barriers[reached++ % 2]); }

void* run_thread(void* thread) {
  current = static_cast<Thread*>(thread);
  Block& block = *current->block;
  // So that nobody waits for lanes that are still to be created, which is slow. Nothing has been accessed yet that this could order.
  wait(block);
  block.launch.body(block.launch.params);
  block.ended.fetch_add(1, std::memory_order_relaxed);
  return nullptr;
}

}  // namespace

Identity& self() { return current->identity; }
// There is one order only: any.
void set_schedule(Schedule) {}

void barrier(int) { wait(*current->block); }

uint64_t warp(WarpOp op, unsigned, uint64_t value, int from, int) {
  Warp& own = current->block->warps[current->identity.thread.x / 32];
  auto& values = own.values[operations % 2];
  values[current->identity.thread.x % 32].store(value, std::memory_order_relaxed);
  std::atomic_thread_fence(std::memory_order_seq_cst);
  own.arrived.fetch_add(1, std::memory_order_relaxed);
  operations++;
  // Nobody overwrites these values before everyone has arrived at the operation after this one.
  while (own.arrived.load(std::memory_order_relaxed) < operations * own.lanes) sched_yield();
  std::atomic_thread_fence(std::memory_order_seq_cst);
  if (op == WarpOp::shuffle) return values[from].load(std::memory_order_relaxed);
  uint64_t ballot = 0;
  for (unsigned lane = 0; lane < own.lanes; lane++) {
    if (values[lane].load(std::memory_order_relaxed) != 0) ballot |= uint64_t{1} << lane;
  }
  return ballot;
}

int atomic_add(int* at, int what) { return __atomic_fetch_add(at, what, __ATOMIC_RELAXED); }

void run(const Launch& launch) {
  const unsigned count = launch.grid.x * launch.grid.y * launch.grid.z;
  if ((size_t)count * launch.threads > kMostThreads) fail("%s: %u blocks are too many for this engine", launch.kernel, count);
  std::atomic<unsigned> ended{0};
  pthread_attr_t small;
  pthread_attr_init(&small);
  pthread_attr_setstacksize(&small, kStack);
  std::vector<std::unique_ptr<Block>> blocks;
  for (unsigned number = 0; number < count; number++) {
    const Index at = {number % launch.grid.x, number / launch.grid.x % launch.grid.y, number / launch.grid.x / launch.grid.y};
    blocks.push_back(std::make_unique<Block>(launch, at, ended));
    for (Thread& thread : blocks.back()->threads) {
      if (pthread_create(&thread.handle, &small, run_thread, &thread) != 0) fail("no more threads");
    }
    while (ended.load(std::memory_order_relaxed) < (number + 1) * launch.threads) usleep(100);
  }
  for (const auto& block : blocks) {
    for (const Thread& thread : block->threads) pthread_join(thread.handle, nullptr);
  }
  pthread_attr_destroy(&small);
}

}  // namespace emu

extern "C" void vcc_emu_schedule(int, uint64_t) {}
