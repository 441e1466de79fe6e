// The memory watcher. The file with the kernels is compiled with -fsanitize=thread, which makes the compiler call a function at every
// access to memory; these functions are here, not in the sanitizer's library.
//
// Two accesses of one launch to one byte are a race if they are of different threads, at least one writes, not both are atomic, and
// nothing orders them: a barrier between them orders threads of one block, nothing orders blocks. That is decided from what the
// program asks for and not from what happened, so one schedule is enough. Memory is also checked for accesses outside of every
// buffer, for misaligned ones, and for reads of bytes that nobody has written.
#include "memory.h"

#include <algorithm>
#include <cstdio>
#include <map>
#include <set>
#include <string>
#include <unordered_map>

#include "engine.h"

namespace emu {
namespace {

constexpr int kNobody = -1, kSeveral = -2;

// The accesses of this launch to a byte.
struct Byte {
  unsigned launch = 0;
  int write_block = kNobody, write_thread = kNobody;
  unsigned write_epoch = 0;
  bool write_atomic = false;
  int read_block = kNobody, read_thread = kNobody;
  unsigned read_epoch = 0;
};

struct Region {
  size_t bytes = 0;
  std::vector<Byte> accesses;
  std::vector<bool> written;
};

struct Request {
  const void* place;
  unsigned time;
  uintptr_t address;
  unsigned bytes;
  bool writes, shared;
};

std::map<uintptr_t, Region> buffers;
Region shared;
uintptr_t shared_start = 0;
const char* kernel = "";
unsigned launch_number = 0, epoch = 0;
int block = 0;
std::vector<std::vector<Request>> requests;                            // By warp.
std::vector<std::unordered_map<const void*, unsigned>> times;          // By thread: how often it was at a place.
std::unordered_map<uintptr_t, unsigned char> sectors_read, sectors_written;  // Of this launch.
std::vector<Traffic> all_traffic;
std::set<std::string> known;
uint64_t found = 0;

void report(const char* what, const void* place, uintptr_t address) {
  found++;
  char text[256];
  std::snprintf(text, sizeof text, "%s in %s at %p", what, kernel, place);
  if (!known.insert(text).second) return;
  std::fprintf(stderr, "watcher: %s (block %d, thread %d, address %#lx)\n", text, block, running_thread(), (unsigned long)address);
}

// Whether an earlier access of the same block could be at the same time as this one.
bool unordered(int thread, unsigned when) { return thread != running_thread() && when == epoch; }

void check(Region& region, size_t at, bool writes, bool atomic, const void* place, uintptr_t address) {
  Byte& byte = region.accesses[at];
  if (byte.launch != launch_number) {
    byte = Byte();
    byte.launch = launch_number;
  }
  if (!writes && !region.written[at]) report("uninitialised read", place, address);
  if (byte.write_block != kNobody && !(atomic && byte.write_atomic)) {
    const bool other_block = byte.write_block != block;
    if (other_block) report("race between blocks", place, address);
    if (!other_block && unordered(byte.write_thread, byte.write_epoch)) report("race", place, address);
  }
  if (writes && !atomic && byte.read_block != kNobody) {
    if (byte.read_block != block) report("race between blocks", place, address);
    if (byte.read_block == block && (byte.read_thread == kSeveral ? byte.read_epoch == epoch : unordered(byte.read_thread, byte.read_epoch))) {
      report("race", place, address);
    }
  }
  if (writes) {
    region.written[at] = true;
    byte.write_block = byte.write_block == kNobody || byte.write_block == block ? block : kSeveral;
    byte.write_thread = running_thread();
    byte.write_epoch = epoch;
    byte.write_atomic = atomic;
  } else {
    const bool same = byte.read_block == block && byte.read_epoch == epoch;
    byte.read_thread = same && byte.read_thread != running_thread() ? kSeveral : running_thread();
    byte.read_block = byte.read_block == kNobody || byte.read_block == block ? block : kSeveral;
    byte.read_epoch = epoch;
  }
}

// The buffer that starts at an address or is the last to start before it.
std::map<uintptr_t, Region>::iterator buffer_below(uintptr_t address) {
  const auto after = buffers.upper_bound(address);
  return after == buffers.begin() ? buffers.end() : std::prev(after);
}

void access(const void* pointer, unsigned bytes, bool writes, bool atomic, const void* place) {
  const int thread = running_thread();
  if (thread < 0 || on_stack(pointer)) return;
  const uintptr_t address = reinterpret_cast<uintptr_t>(pointer);
  Region* region = nullptr;
  size_t at = 0;
  const bool is_shared = address >= shared_start && address < shared_start + shared.bytes;
  if (is_shared) {
    region = &shared;
    at = address - shared_start;
  } else if (const auto buffer = buffer_below(address); buffer != buffers.end() && address - buffer->first < buffer->second.bytes) {
    region = &buffer->second;
    at = address - buffer->first;
  } else {
    if (!is_engines(pointer)) report("access out of bounds", place, address);
    return;
  }
  if (at + bytes > region->bytes) {
    report("access out of bounds", place, address);
    return;
  }
  if (address % bytes != 0) report("misaligned access", place, address);
  for (unsigned i = 0; i < bytes; i++) check(*region, at + i, writes, atomic, place, address + i);
  requests[thread / 32].push_back({place, times[thread][place]++, address, bytes, writes, is_shared});
}

// Passes over the 32 banks of 4 bytes that the lanes of a request need: as many as the fullest bank has different words.
void count_shared(const std::vector<Request>& all, size_t from, size_t to, Traffic& sum) {
  std::set<uintptr_t> words;
  unsigned banks[32] = {};
  unsigned most = 0;
  for (size_t i = from; i < to; i++) {
    for (uintptr_t word = all[i].address / 4; word <= (all[i].address + all[i].bytes - 1) / 4; word++) {
      if (words.insert(word).second) most = std::max(most, ++banks[word % 32]);
    }
  }
  sum.shared_steps += most;
  sum.shared_least += (words.size() + 31) / 32;
}

void count_global(const std::vector<Request>& all, size_t from, size_t to, Traffic& sum) {
  std::set<uintptr_t> sectors;
  for (size_t i = from; i < to; i++) {
    for (uintptr_t sector = all[i].address / 32; sector <= (all[i].address + all[i].bytes - 1) / 32; sector++) sectors.insert(sector);
  }
  const bool writes = all[from].writes;
  (writes ? sum.sectors_written : sum.sectors_read) += sectors.size();
  for (const uintptr_t sector : sectors) (writes ? sectors_written : sectors_read)[sector] = 1;
}

void begin_launch(const Launch& launch) {
  kernel = launch.kernel;
  launch_number++;
  requests.assign((launch.threads + 31) / 32, {});
  times.resize(launch.threads);
  sectors_read.clear();
  sectors_written.clear();
  all_traffic.push_back({});
}

void begin_block(unsigned number, void* memory, size_t bytes) {
  block = (int)number;
  epoch = 0;
  shared_start = reinterpret_cast<uintptr_t>(memory);
  shared.bytes = bytes;
  shared.accesses.assign(bytes, {});
  shared.written.assign(bytes, false);
  for (auto& thread : times) thread.clear();
}

void end_block() {
  Traffic& sum = all_traffic.back();
  for (auto& warp : requests) {
    std::sort(warp.begin(), warp.end(), [](const Request& a, const Request& b) { return a.place != b.place ? a.place < b.place : a.time < b.time; });
    for (size_t from = 0, to = 0; from < warp.size(); from = to) {
      while (to < warp.size() && warp[to].place == warp[from].place && warp[to].time == warp[from].time) to++;
      if (warp[from].shared) {
        count_shared(warp, from, to, sum);
      } else {
        count_global(warp, from, to, sum);
      }
    }
    warp.clear();
  }
  sum.distinct_sectors_read = sectors_read.size();
  sum.distinct_sectors_written = sectors_written.size();
  shared.bytes = 0;
}

void pass_barrier() { epoch++; }

struct Install {
  Install() { watcher = {begin_launch, begin_block, end_block, pass_barrier}; }
} install;

}  // namespace

void watch(const void* start, size_t bytes, bool filled) {
  Region region;
  region.bytes = bytes;
  region.accesses.resize(bytes);
  region.written.assign(bytes, filled);
  buffers[reinterpret_cast<uintptr_t>(start)] = std::move(region);
}

const std::vector<Traffic>& traffic() { return all_traffic; }
uint64_t findings() { return found; }

int atomic_add(int* at, int what) {
  access(at, sizeof *at, true, true, __builtin_return_address(0));
  const int before = *at;
  *at = before + what;
  return before;
}

}  // namespace emu

#define PLACE __builtin_return_address(0)
#define ACCESS(name, bytes)                                                                           \
  extern "C" void __tsan_read##name(void* at) { emu::access(at, bytes, false, false, PLACE); }           \
  extern "C" void __tsan_write##name(void* at) { emu::access(at, bytes, true, false, PLACE); }           \
  extern "C" void __tsan_unaligned_read##name(void* at) { emu::access(at, bytes, false, false, PLACE); } \
  extern "C" void __tsan_unaligned_write##name(void* at) { emu::access(at, bytes, true, false, PLACE); }

ACCESS(1, 1)
ACCESS(2, 2)
ACCESS(4, 4)
ACCESS(8, 8)
ACCESS(16, 16)
extern "C" void __tsan_read_range(void* at, unsigned long bytes) { emu::access(at, (unsigned)bytes, false, false, PLACE); }
extern "C" void __tsan_write_range(void* at, unsigned long bytes) { emu::access(at, (unsigned)bytes, true, false, PLACE); }
extern "C" void __tsan_vptr_read(void**) {}
extern "C" void __tsan_vptr_update(void**, void*) {}
extern "C" void __tsan_func_entry(void*) {}
extern "C" void __tsan_func_exit() {}
extern "C" void __tsan_init() {}
