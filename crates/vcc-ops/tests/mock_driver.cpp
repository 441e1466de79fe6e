// A stand-in for NVIDIA's driver, for tests: the "device" is the host's memory, and the kernels are the real sources, run by the emulator.
//
//     g++ -shared ... mock_driver.cpp ../cuda/emulator/{entries,fibers}.cpp -o libcuda_mock.so; VCC_CUDA_MOCK=libcuda_mock.so ...
//
// It refuses what a device would refuse (handles of another context, blocks above the limit), counts what may not happen while a model
// runs, and can be told to fail. With VCC_FAKE_RUNTIME it belongs to fake_cuda.cpp: that says which thread has a context and which memory is
// the device's. It has no function that allocates memory, so a library that asks for one does not load it.
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <string>

#include "../cuda/emulator/engine.h"

extern "C" size_t vcc_emu_addresses(const char* kernel, void** params, const void** found);
bool vcc_device_memory(const void* pointer);

namespace {

enum Code { success = 0, invalid_value = 1, invalid_context = 201, invalid_image = 200, invalid_handle = 400, not_found = 500, illegal_address = 700 };

struct Module {
  uint64_t context;
};

struct Function {
  uint64_t context;
  std::string name;
  bool loaded = false;  // As by default, a module's functions are loaded when they are asked to be or first launched.
};

struct Counts {
  int loads, launches, copies, synchronisations;
};

std::mutex mutex;  // The emulator runs one kernel at a time.
Counts counts;
#ifdef VCC_FAKE_RUNTIME
thread_local uint64_t current = 0;
#else
thread_local uint64_t current = 1;  // The number of the calling thread's context; 0: none.
#endif
thread_local int capturing = 0;

int setting(const char* name, int otherwise) {
  const char* text = std::getenv(name);
  return text ? std::atoi(text) : otherwise;
}

}  // namespace

#define EXPORT extern "C" __attribute__((visibility("default")))

EXPORT int cuInit(unsigned) { return setting("VCC_MOCK_INIT", success); }

EXPORT int cuDeviceGetCount(int* count) {
  *count = 1;
  return success;
}

EXPORT int cuDriverGetVersion(int* version) {
  *version = setting("VCC_MOCK_VERSION", 13000);
  return success;
}

EXPORT int cuGetErrorName(int code, const char** name) {
  switch (code) {
    case invalid_value: *name = "CUDA_ERROR_INVALID_VALUE"; return success;
    case 100: *name = "CUDA_ERROR_NO_DEVICE"; return success;
    case invalid_image: *name = "CUDA_ERROR_INVALID_IMAGE"; return success;
    case invalid_context: *name = "CUDA_ERROR_INVALID_CONTEXT"; return success;
    case 222: *name = "CUDA_ERROR_UNSUPPORTED_PTX_VERSION"; return success;
    case invalid_handle: *name = "CUDA_ERROR_INVALID_HANDLE"; return success;
    case illegal_address: *name = "CUDA_ERROR_ILLEGAL_ADDRESS"; return success;
    case not_found: *name = "CUDA_ERROR_NOT_FOUND"; return success;
    default: *name = nullptr; return invalid_value;
  }
}

EXPORT int cuCtxGetId(void* context, unsigned long long* id) {
  if (context || !current) return invalid_context;
  *id = current;
  return success;
}

EXPORT int cuModuleLoadData(void** module, const void*) {
  if (int code = setting("VCC_MOCK_LOAD", success)) return code;
  std::lock_guard<std::mutex> lock(mutex);
  counts.loads++;
  *module = new Module{current};
  return success;
}

EXPORT int cuModuleGetFunction(void** function, void* module, const char* name) {
  std::lock_guard<std::mutex> lock(mutex);
  // The emulator takes no empty grid, and says so only of kernels that it has.
  if (vcc_emu_launch(name, 0, 0, 0, 0, 0, 0, 0, nullptr) == not_found) return not_found;
  *function = new Function{static_cast<Module*>(module)->context, name};
  return success;
}

EXPORT int cuFuncLoad(void* function) {
  static_cast<Function*>(function)->loaded = true;
  return success;
}

EXPORT int cuFuncSetAttribute(void*, int, int) { return success; }

EXPORT int cuLaunchKernel(void* handle, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x, unsigned block_y,
                          unsigned block_z, unsigned shared, void*, void** params, void** extra) {
  auto& function = *static_cast<Function*>(handle);
  if (function.context != current) return invalid_handle;
  if (extra || block_x > static_cast<unsigned>(setting("VCC_MOCK_BLOCK", 1024))) return invalid_value;
  std::lock_guard<std::mutex> lock(mutex);
  counts.launches++;
  counts.loads += !function.loaded;
  function.loaded = true;
#ifdef VCC_FAKE_RUNTIME
  const void* addresses[16];
  for (size_t left = vcc_emu_addresses(function.name.c_str(), params, addresses); left > 0; left--) {
    // A tensor without elements has no address.
    if (addresses[left - 1] && !vcc_device_memory(addresses[left - 1])) return illegal_address;
  }
#endif
  return vcc_emu_launch(function.name.c_str(), grid_x, grid_y, grid_z, block_x, block_y, block_z, shared, params);
}

EXPORT int cuMemcpyDtoDAsync_v2(uint64_t to, uint64_t from, size_t bytes, void*) {
  std::lock_guard<std::mutex> lock(mutex);
  counts.copies++;
  std::memcpy(reinterpret_cast<void*>(to), reinterpret_cast<const void*>(from), bytes);
  return success;
}

EXPORT int cuMemcpyDtoHAsync_v2(void* to, uint64_t from, size_t bytes, void*) {
  std::memcpy(to, reinterpret_cast<const void*>(from), bytes);
  return success;
}

EXPORT int cuStreamIsCapturing(void*, int* status) {
  *status = capturing;
  return success;
}

EXPORT int cuStreamSynchronize(void*) {
  std::lock_guard<std::mutex> lock(mutex);
  counts.synchronisations++;
  return success;
}

// For the test: what happened since the last call, and the calling thread's state.
EXPORT Counts vcc_mock_counts() {
  std::lock_guard<std::mutex> lock(mutex);
  const Counts result = counts;
  counts = {};
  return result;
}

EXPORT void vcc_mock_context(uint64_t id) { current = id; }

EXPORT void vcc_mock_capture(int status) { capturing = status; }
