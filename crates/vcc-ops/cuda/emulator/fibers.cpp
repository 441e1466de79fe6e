// The engine that runs every CUDA thread as a fiber: fast, and in any order that the schedule says.
//
// A thread runs until it needs others: at a barrier or a warp operation, or at its end. Shared memory is filled with a pattern that is a
// NaN and a negative number before each block, and lies between pages that nobody may touch, its end at the upper one.
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

#include "engine.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#define EMU_ASAN 1
#endif

// Saves what a call keeps, switches stacks, and goes on where the other side called.
extern "C" void emu_switch(void** save, void* to);
asm(R"(
.text
.globl emu_switch
.type emu_switch, @function
emu_switch:
  push %rbx
  push %rbp
  push %r12
  push %r13
  push %r14
  push %r15
  mov %rsp, (%rdi)
  mov %rsi, %rsp
  pop %r15
  pop %r14
  pop %r13
  pop %r12
  pop %rbp
  pop %rbx
  ret
.size emu_switch, .-emu_switch
.section .note.GNU-stack,"",@progbits
.text
)");

namespace emu {

Watcher watcher = {nullptr, nullptr, nullptr, nullptr};

void fail(const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  std::fprintf(stderr, "emulator: ");
  std::vfprintf(stderr, format, arguments);
  std::fprintf(stderr, "\n");
  va_end(arguments);
  std::fflush(nullptr);
  std::_Exit(70);
}

namespace {

constexpr size_t kStack = 64 * 1024;
constexpr size_t kPage = 4096;

enum class State { ready, at_barrier, in_warp, done };

struct Fiber {
  Identity identity;
  State state;
  int line;
  WarpOp op;
  unsigned mask;
  uint64_t value;
  int from;
  void* stack_pointer;
  char* stack;
#ifdef EMU_ASAN
  void* fake_stack;
#endif
};

// One per system thread that launches; launches do not nest.
struct Engine {
  Schedule schedule;
  std::vector<Fiber> fibers;
  std::vector<char*> stacks;
  Fiber* current = nullptr;
  void* main_stack_pointer = nullptr;
  const Launch* launch = nullptr;
#ifdef EMU_ASAN
  const void* main_stack = nullptr;
  size_t main_stack_size = 0;
#endif
  ~Engine() {
    for (char* stack : stacks) munmap(stack, kStack);
  }
};

thread_local Engine engine;

EMU_HIDDEN void to_main() {
  Fiber* const fiber = engine.current;
#ifdef EMU_ASAN
  __sanitizer_start_switch_fiber(fiber->state == State::done ? nullptr : &fiber->fake_stack, engine.main_stack, engine.main_stack_size);
#endif
  emu_switch(&fiber->stack_pointer, engine.main_stack_pointer);
#ifdef EMU_ASAN
  __sanitizer_finish_switch_fiber(fiber->fake_stack, &engine.main_stack, &engine.main_stack_size);
#endif
}

EMU_HIDDEN void fiber_main() {
#ifdef EMU_ASAN
  __sanitizer_finish_switch_fiber(nullptr, &engine.main_stack, &engine.main_stack_size);
#endif
  engine.launch->body(engine.launch->params);
  engine.current->state = State::done;
  to_main();
  fail("a finished thread was resumed");
}

EMU_HIDDEN void resume(Fiber& fiber) {
  engine.current = &fiber;
#ifdef EMU_ASAN
  void* fake;
  __sanitizer_start_switch_fiber(&fake, fiber.stack, kStack);
#endif
  emu_switch(&engine.main_stack_pointer, fiber.stack_pointer);
#ifdef EMU_ASAN
  __sanitizer_finish_switch_fiber(fake, nullptr, nullptr);
#endif
  engine.current = nullptr;
}

char* map(size_t bytes) {
  void* const at = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (at == MAP_FAILED) fail("no memory");
  return static_cast<char*>(at);
}

// Memory of a block, its end at a page that cannot be touched.
struct SharedMemory {
  size_t pages;
  char* base;
  char* start;
  explicit SharedMemory(size_t bytes) {
    pages = (bytes + kPage - 1) / kPage * kPage;
    base = map(pages + 2 * kPage);
    mprotect(base, kPage, PROT_NONE);
    mprotect(base + kPage + pages, kPage, PROT_NONE);
    start = base + kPage + (pages - bytes) / 16 * 16;
  }
  ~SharedMemory() { munmap(base, pages + 2 * kPage); }
};

void prepare(Fiber& fiber, char* stack) {
#ifdef EMU_ASAN
  fiber.fake_stack = nullptr;
#endif
  fiber.state = State::ready;
  fiber.stack = stack;
  // The first switch pops six registers and returns into fiber_main, which like any function expects the stack 8 off a multiple of 16.
  void** top = reinterpret_cast<void**>(stack + kStack);
  *--top = nullptr;
  *--top = reinterpret_cast<void*>(&fiber_main);
  for (int i = 0; i < 6; i++) *--top = nullptr;
  fiber.stack_pointer = top;
}

// All threads stand still: they are at one barrier, or the kernel is wrong.
void pass_barrier(unsigned block) {
  const char* const kernel = engine.launch->kernel;
  int line = 0;
  for (const Fiber& fiber : engine.fibers) {
    const unsigned thread = fiber.identity.thread.x;
    if (fiber.state == State::in_warp) {
      fail("%s, block %u: thread %u waits for its warp at line %d, which others of the mask do not reach", kernel, block, thread, fiber.line);
    }
    if (fiber.state == State::done) {
      fail("%s, block %u: barrier divergence, thread %u has ended while others wait at a barrier", kernel, block, thread);
    }
    if (line != 0 && line != fiber.line) {
      fail("%s, block %u: barrier divergence, threads wait at lines %d and %d", kernel, block, line, fiber.line);
    }
    line = fiber.line;
  }
  if (watcher.barrier != nullptr) watcher.barrier();
  for (Fiber& fiber : engine.fibers) fiber.state = State::ready;
}

void run_block(unsigned block, std::mt19937_64& random) {
  std::vector<unsigned> order(engine.fibers.size());
  for (unsigned i = 0; i < order.size(); i++) order[i] = i;
  if (engine.schedule.order == Order::reverse) std::reverse(order.begin(), order.end());
  for (;;) {
    if (engine.schedule.order == Order::random) std::shuffle(order.begin(), order.end(), random);
    bool ran = false, finished = true;
    for (const unsigned i : order) {
      Fiber& fiber = engine.fibers[i];
      if (fiber.state == State::ready) {
        ran = true;
        resume(fiber);
      }
      finished = finished && fiber.state == State::done;
    }
    if (finished) return;
    if (!ran) pass_barrier(block);
  }
}

}  // namespace

Identity& self() { return engine.current->identity; }
int running_thread() { return engine.current == nullptr ? -1 : (int)engine.current->identity.thread.x; }
bool on_stack(const void* address) {
  const char* const at = static_cast<const char*>(address);
  return at >= engine.current->stack && at < engine.current->stack + kStack;
}
bool is_engines(const void* address) {
  const void* const end = engine.fibers.data() + engine.fibers.size();
  return address >= engine.fibers.data() && address < end;
}
void set_schedule(Schedule schedule) { engine.schedule = schedule; }

EMU_HIDDEN void barrier(int line) {
  engine.current->state = State::at_barrier;
  engine.current->line = line;
  to_main();
}

EMU_HIDDEN uint64_t warp(WarpOp op, unsigned mask, uint64_t value, int from, int line) {
  Fiber& own = *engine.current;
  const unsigned thread = own.identity.thread.x, first = thread / 32 * 32;
  const unsigned lanes = std::min<unsigned>(32, (unsigned)engine.fibers.size() - first);
  if (lanes < 32) mask &= (1u << lanes) - 1;
  if ((mask >> thread % 32 & 1) == 0) fail("%s: thread %u is not in its own mask at line %d", engine.launch->kernel, thread, line);
  own.op = op;
  own.mask = mask;
  own.value = value;
  own.from = from;
  own.line = line;
  own.state = State::in_warp;
  bool all = true;
  for (unsigned lane = 0; lane < lanes; lane++) {
    if ((mask >> lane & 1) == 0) continue;
    const Fiber& other = engine.fibers[first + lane];
    if (other.state != State::in_warp) {
      all = false;
    } else if (other.line != line || other.mask != mask || other.op != op) {
      fail("%s: warp divergence, lanes of one warp operation are at lines %d and %d", engine.launch->kernel, line, other.line);
    }
  }
  if (!all) {
    to_main();
    return own.value;
  }
  // The last lane to arrive works for all of them.
  uint64_t values[32], ballot = 0;
  for (unsigned lane = 0; lane < lanes; lane++) {
    values[lane] = engine.fibers[first + lane].value;
    if ((mask >> lane & 1) != 0 && values[lane] != 0) ballot |= 1u << lane;
  }
  for (unsigned lane = 0; lane < lanes; lane++) {
    if ((mask >> lane & 1) == 0) continue;
    Fiber& other = engine.fibers[first + lane];
    // What a lane outside of the mask would give is undefined.
    const bool defined = other.from >= 0 && (unsigned)other.from < lanes && (mask >> other.from & 1) != 0;
    other.value = op == WarpOp::ballot ? ballot : defined ? values[other.from] : ~uint64_t{0};
    other.state = State::ready;
  }
  return own.value;
}

// Fibers of one system thread take turns, so that this is atomic.
__attribute__((weak)) EMU_HIDDEN int atomic_add(int* at, int what) {
  const int before = *at;
  *at = before + what;
  return before;
}

void run(const Launch& launch) {
  std::mt19937_64 random(engine.schedule.seed);
  engine.launch = &launch;
  engine.fibers.resize(launch.threads);
  while (engine.stacks.size() < launch.threads) engine.stacks.push_back(map(kStack));
  const SharedMemory shared(launch.shared);
  const unsigned blocks = launch.grid.x * launch.grid.y * launch.grid.z;
  std::vector<unsigned> order(blocks);
  for (unsigned i = 0; i < blocks; i++) order[i] = i;
  if (engine.schedule.order == Order::reverse) std::reverse(order.begin(), order.end());
  if (engine.schedule.order == Order::random) std::shuffle(order.begin(), order.end(), random);
  if (watcher.begin_launch != nullptr) watcher.begin_launch(launch);
  for (const unsigned block : order) {
    std::memset(shared.start, 0xff, launch.shared);
    const Index at = {block % launch.grid.x, block / launch.grid.x % launch.grid.y, block / launch.grid.x / launch.grid.y};
    for (unsigned i = 0; i < launch.threads; i++) {
      Fiber& fiber = engine.fibers[i];
      fiber.identity = {{i, 0, 0}, at, launch.grid, shared.start};
      prepare(fiber, engine.stacks[i]);
    }
    if (watcher.begin_block != nullptr) watcher.begin_block(block, shared.start, launch.shared);
    run_block(block, random);
    if (watcher.end_block != nullptr) watcher.end_block();
  }
  engine.launch = nullptr;
}

}  // namespace emu

extern "C" void vcc_emu_schedule(int order, uint64_t seed) {
  emu::set_schedule({order == 0 ? emu::Order::forward : order == 1 ? emu::Order::reverse : emu::Order::random, seed});
}
