// A CUDA runtime and driver without a device, so that ONNX Runtime's CUDA execution provider can be made on any machine. fake_cuda.py builds it.
//
// The "device" is the host's memory. Everything that moves memory is done, at once; streams and events are tokens, so nothing here shows an
// order that a real stream would not keep. Kernels of ONNX Runtime, cuBLAS and cuDNN do nothing: their outputs stay as they were, and what
// they compute is junk. Kernels of ai.vcc run, through mock_driver.cpp.
//
// Every call is counted by its name. While a stream is captured, calls that CUDA forbids then are refused, and spoil the capture.
// Functions that ONNX Runtime needs and that are not here return 0 and are counted; fake_cuda.py writes them.
#include <cuda_runtime_api.h>
#include <sys/mman.h>

#include <chrono>
#include <cstdarg>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <string>

#undef EXPORT
#define EXPORT extern "C" __attribute__((visibility("default")))

EXPORT void vcc_mock_context(uint64_t id);
EXPORT void vcc_mock_capture(int status);

namespace {

struct Stream {
  bool captured = false;
};

struct Event {
  std::chrono::steady_clock::time_point recorded;
};

std::recursive_mutex mutex;
std::map<std::string, long> calls;
std::map<uintptr_t, size_t> device_memory, pinned_memory;  // address to size
Stream* capture = nullptr;                                   // the stream that is captured
bool spoiled = false;
thread_local cudaError_t last = cudaSuccess;

void count(const std::string& name) {
  std::lock_guard<std::recursive_mutex> lock(mutex);
  calls[name]++;
}

// Any call of the runtime makes the device's context current.
void enter(const char* name) {
  count(name);
  vcc_mock_context(1);
}

cudaError_t result(cudaError_t code) {
  if (code != cudaSuccess) last = code;
  return code;
}

// Whether CUDA would refuse the call because a stream is being captured, in the mode that forbids it to all threads.
bool forbidden(const char* name) {
  std::lock_guard<std::recursive_mutex> lock(mutex);
  if (!capture) return false;
  spoiled = true;
  count(std::string("refused while capturing: ") + name);
  return true;
}

bool inside(const std::map<uintptr_t, size_t>& blocks, const void* pointer) {
  std::lock_guard<std::recursive_mutex> lock(mutex);
  const auto address = reinterpret_cast<uintptr_t>(pointer);
  auto after = blocks.upper_bound(address);
  return after != blocks.begin() && address < std::prev(after)->first + std::prev(after)->second;
}

// Memory that was never written is 0.
cudaError_t allocate(std::map<uintptr_t, size_t>& blocks, void** out, size_t bytes) {
  *out = nullptr;
  if (bytes == 0) return cudaSuccess;
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) return result(cudaErrorMemoryAllocation);
  std::lock_guard<std::recursive_mutex> lock(mutex);
  blocks[reinterpret_cast<uintptr_t>(memory)] = bytes;
  *out = memory;
  return cudaSuccess;
}

cudaError_t release(std::map<uintptr_t, size_t>& blocks, void* pointer) {
  if (!pointer) return cudaSuccess;
  std::lock_guard<std::recursive_mutex> lock(mutex);
  auto found = blocks.find(reinterpret_cast<uintptr_t>(pointer));
  if (found == blocks.end()) return result(cudaErrorInvalidValue);
  munmap(pointer, found->second);
  blocks.erase(found);
  return cudaSuccess;
}

// Refuses what a device would: an address on the wrong side.
cudaError_t copy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind) {
  const bool from_device = inside(device_memory, from), to_device = inside(device_memory, to);
  if (kind == cudaMemcpyDefault) {
    kind = from_device ? (to_device ? cudaMemcpyDeviceToDevice : cudaMemcpyDeviceToHost)
                       : (to_device ? cudaMemcpyHostToDevice : cudaMemcpyHostToHost);
  }
  const bool reads_device = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
  const bool writes_device = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
  static const char* const names[] = {"copy HtoH", "copy HtoD", "copy DtoH", "copy DtoD"};
  count(names[kind]);
  if (bytes && (reads_device != from_device || writes_device != to_device)) {
    count("copies of the wrong kind");
    return result(cudaErrorInvalidValue);
  }
  std::memmove(to, from, bytes);
  return cudaSuccess;
}

}  // namespace

// For mock_driver.cpp: whether a kernel may be given the address. For the stubs: a call of a function that has no body.
bool vcc_device_memory(const void* pointer) { return inside(device_memory, pointer); }
size_t vcc_fake_stub(const char* name) {
  enter(name);
  return 0;
}

// For the test: `NAME COUNT` in lines, of all calls since the last time; the text is valid until the next call.
EXPORT const char* vcc_fake_calls() {
  static std::string text;
  std::lock_guard<std::recursive_mutex> lock(mutex);
  text.clear();
  for (const auto& [name, number] : calls) text += name + "\t" + std::to_string(number) + "\n";
  calls.clear();
  return text.c_str();
}

#define RUNTIME(name, ...) EXPORT cudaError_t CUDARTAPI name(__VA_ARGS__)
#define ENTER enter(__func__)

// Devices.

RUNTIME(cudaDriverGetVersion, int* version) {
  count(__func__);
  *version = 13000;
  return cudaSuccess;
}

RUNTIME(cudaRuntimeGetVersion, int* version) {
  count(__func__);
  *version = 13000;
  return cudaSuccess;
}

RUNTIME(cudaGetDeviceCount, int* number) {
  count(__func__);
  *number = 1;
  return cudaSuccess;
}

RUNTIME(cudaGetDevice, int* device) {
  ENTER;
  *device = 0;
  return cudaSuccess;
}

RUNTIME(cudaSetDevice, int device) {
  ENTER;
  return device == 0 ? cudaSuccess : result(cudaErrorInvalidDevice);
}

// Sizes and limits of an H100.
RUNTIME(cudaGetDeviceProperties, cudaDeviceProp* properties, int device) {
  ENTER;
  if (device != 0) return result(cudaErrorInvalidDevice);
  *properties = {};
  std::strcpy(properties->name, "no device");
  properties->totalGlobalMem = size_t{80} << 30;
  properties->sharedMemPerBlock = 48 << 10;
  properties->sharedMemPerBlockOptin = 227 << 10;
  properties->sharedMemPerMultiprocessor = 228 << 10;
  properties->reservedSharedMemPerBlock = 1 << 10;
  properties->regsPerBlock = properties->regsPerMultiprocessor = 65536;
  properties->warpSize = 32;
  properties->maxThreadsPerBlock = 1024;
  properties->maxThreadsPerMultiProcessor = 2048;
  properties->maxBlocksPerMultiProcessor = 32;
  properties->maxThreadsDim[0] = properties->maxThreadsDim[1] = 1024;
  properties->maxThreadsDim[2] = 64;
  properties->maxGridSize[0] = 0x7fffffff;
  properties->maxGridSize[1] = properties->maxGridSize[2] = 65535;
  properties->totalConstMem = 64 << 10;
  properties->memPitch = 0x7fffffff;
  properties->textureAlignment = 512;
  properties->major = 9;
  properties->multiProcessorCount = 132;
  properties->l2CacheSize = 50 << 20;
  properties->memoryBusWidth = 5120;
  properties->unifiedAddressing = properties->concurrentKernels = properties->cooperativeLaunch = 1;
  properties->asyncEngineCount = 3;
  properties->memoryPoolsSupported = 1;
  return cudaSuccess;
}

RUNTIME(cudaDeviceGetAttribute, int* value, cudaDeviceAttr attribute, int device) {
  cudaDeviceProp properties;
  if (cudaError_t code = cudaGetDeviceProperties(&properties, device)) return code;
  ENTER;
  switch (attribute) {
    case cudaDevAttrComputeCapabilityMajor: *value = properties.major; break;
    case cudaDevAttrComputeCapabilityMinor: *value = properties.minor; break;
    case cudaDevAttrMultiProcessorCount: *value = properties.multiProcessorCount; break;
    case cudaDevAttrMaxSharedMemoryPerBlock: *value = static_cast<int>(properties.sharedMemPerBlock); break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = static_cast<int>(properties.sharedMemPerBlockOptin); break;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor: *value = static_cast<int>(properties.sharedMemPerMultiprocessor); break;
    case cudaDevAttrMaxThreadsPerBlock: *value = properties.maxThreadsPerBlock; break;
    case cudaDevAttrMaxThreadsPerMultiProcessor: *value = properties.maxThreadsPerMultiProcessor; break;
    case cudaDevAttrMaxGridDimX: *value = properties.maxGridSize[0]; break;
    case cudaDevAttrWarpSize: *value = properties.warpSize; break;
    case cudaDevAttrL2CacheSize: *value = properties.l2CacheSize; break;
    case cudaDevAttrCooperativeLaunch:
    case cudaDevAttrMemoryPoolsSupported: *value = 1; break;
    default:
      count("cudaDeviceGetAttribute " + std::to_string(attribute) + ": 0");
      *value = 0;
  }
  return cudaSuccess;
}

RUNTIME(cudaMemGetInfo, size_t* available, size_t* total) {
  ENTER;
  *available = *total = size_t{80} << 30;
  return cudaSuccess;
}

RUNTIME(cudaDeviceSynchronize) {
  ENTER;
  return forbidden(__func__) ? result(cudaErrorStreamCaptureUnsupported) : cudaSuccess;
}

// Errors.

EXPORT const char* CUDARTAPI cudaGetErrorName(cudaError_t code) {
  static thread_local char text[32];
  std::snprintf(text, sizeof text, "cudaError %d", static_cast<int>(code));
  return text;
}

EXPORT const char* CUDARTAPI cudaGetErrorString(cudaError_t code) { return cudaGetErrorName(code); }

RUNTIME(cudaGetLastError) {
  const cudaError_t code = last;
  last = cudaSuccess;
  return code;
}

RUNTIME(cudaPeekAtLastError) { return last; }

// Memory.

RUNTIME(cudaMalloc, void** out, size_t bytes) {
  ENTER;
  return forbidden(__func__) ? result(cudaErrorStreamCaptureUnsupported) : allocate(device_memory, out, bytes);
}

RUNTIME(cudaFree, void* pointer) {
  ENTER;
  return forbidden(__func__) ? result(cudaErrorStreamCaptureUnsupported) : release(device_memory, pointer);
}

RUNTIME(cudaMallocFromPoolAsync, void** out, size_t bytes, cudaMemPool_t, cudaStream_t) {
  ENTER;
  return allocate(device_memory, out, bytes);
}

RUNTIME(cudaFreeAsync, void* pointer, cudaStream_t) {
  ENTER;
  return release(device_memory, pointer);
}

RUNTIME(cudaMallocHost, void** out, size_t bytes) {
  ENTER;
  return forbidden(__func__) ? result(cudaErrorStreamCaptureUnsupported) : allocate(pinned_memory, out, bytes);
}

RUNTIME(cudaHostAlloc, void** out, size_t bytes, unsigned) {
  ENTER;
  return forbidden(__func__) ? result(cudaErrorStreamCaptureUnsupported) : allocate(pinned_memory, out, bytes);
}

RUNTIME(cudaFreeHost, void* pointer) {
  ENTER;
  return forbidden(__func__) ? result(cudaErrorStreamCaptureUnsupported) : release(pinned_memory, pointer);
}

RUNTIME(cudaPointerGetAttributes, cudaPointerAttributes* attributes, const void* pointer) {
  ENTER;
  *attributes = {};
  attributes->type = inside(device_memory, pointer)   ? cudaMemoryTypeDevice
                     : inside(pinned_memory, pointer) ? cudaMemoryTypeHost
                                                      : cudaMemoryTypeUnregistered;
  return cudaSuccess;
}

RUNTIME(cudaMemcpy, void* to, const void* from, size_t bytes, cudaMemcpyKind kind) {
  ENTER;
  return forbidden(__func__) ? result(cudaErrorStreamCaptureImplicit) : copy(to, from, bytes, kind);
}

RUNTIME(cudaMemcpyAsync, void* to, const void* from, size_t bytes, cudaMemcpyKind kind, cudaStream_t) {
  ENTER;
  return copy(to, from, bytes, kind);
}

RUNTIME(cudaMemcpy2DAsync, void* to, size_t to_pitch, const void* from, size_t from_pitch, size_t width, size_t height, cudaMemcpyKind kind,
        cudaStream_t) {
  ENTER;
  for (size_t row = 0; row < height; row++) {
    const auto code = copy(static_cast<char*>(to) + row * to_pitch, static_cast<const char*>(from) + row * from_pitch, width, kind);
    if (code) return code;
  }
  return cudaSuccess;
}

RUNTIME(cudaMemset, void* to, int value, size_t bytes) {
  ENTER;
  if (forbidden(__func__)) return result(cudaErrorStreamCaptureImplicit);
  std::memset(to, value, bytes);
  return cudaSuccess;
}

RUNTIME(cudaMemsetAsync, void* to, int value, size_t bytes, cudaStream_t) {
  ENTER;
  std::memset(to, value, bytes);
  return cudaSuccess;
}

RUNTIME(cudaMemcpyFromSymbol, void* to, const void*, size_t bytes, size_t, cudaMemcpyKind) {
  ENTER;
  std::memset(to, 0, bytes);
  return cudaSuccess;
}

RUNTIME(cudaMemPoolCreate, cudaMemPool_t* pool, const cudaMemPoolProps*) {
  ENTER;
  *pool = reinterpret_cast<cudaMemPool_t>(new char);
  return cudaSuccess;
}

RUNTIME(cudaMemPoolGetAttribute, cudaMemPool_t, cudaMemPoolAttr, void* value) {
  ENTER;
  *static_cast<uint64_t*>(value) = 0;
  return cudaSuccess;
}

// Streams, events and graphs.

RUNTIME(cudaStreamCreateWithFlags, cudaStream_t* stream, unsigned) {
  ENTER;
  *stream = reinterpret_cast<cudaStream_t>(new Stream);
  return cudaSuccess;
}

RUNTIME(cudaStreamCreate, cudaStream_t* stream) { return cudaStreamCreateWithFlags(stream, 0); }

RUNTIME(cudaStreamDestroy, cudaStream_t stream) {
  ENTER;
  delete reinterpret_cast<Stream*>(stream);
  return cudaSuccess;
}

RUNTIME(cudaStreamSynchronize, cudaStream_t) {
  ENTER;
  return forbidden(__func__) ? result(cudaErrorStreamCaptureUnsupported) : cudaSuccess;
}

RUNTIME(cudaLaunchHostFunc, cudaStream_t, cudaHostFn_t function, void* data) {
  ENTER;
  // A captured function runs when the graph does.
  if (!capture) function(data);
  return cudaSuccess;
}

RUNTIME(cudaEventCreateWithFlags, cudaEvent_t* event, unsigned) {
  ENTER;
  *event = reinterpret_cast<cudaEvent_t>(new Event);
  return cudaSuccess;
}

RUNTIME(cudaEventCreate, cudaEvent_t* event) { return cudaEventCreateWithFlags(event, 0); }

RUNTIME(cudaEventRecord, cudaEvent_t event, cudaStream_t) {
  ENTER;
  reinterpret_cast<Event*>(event)->recorded = std::chrono::steady_clock::now();
  return cudaSuccess;
}

RUNTIME(cudaEventRecordWithFlags, cudaEvent_t event, cudaStream_t stream, unsigned) { return cudaEventRecord(event, stream); }

RUNTIME(cudaEventSynchronize, cudaEvent_t) {
  ENTER;
  return forbidden(__func__) ? result(cudaErrorCapturedEvent) : cudaSuccess;
}

RUNTIME(cudaEventElapsedTime, float* milliseconds, cudaEvent_t start, cudaEvent_t stop) {
  ENTER;
  const auto passed = reinterpret_cast<Event*>(stop)->recorded - reinterpret_cast<Event*>(start)->recorded;
  *milliseconds = std::chrono::duration<float, std::milli>(passed).count();
  return cudaSuccess;
}

RUNTIME(cudaEventDestroy, cudaEvent_t event) {
  ENTER;
  delete reinterpret_cast<Event*>(event);
  return cudaSuccess;
}

RUNTIME(cudaStreamBeginCapture, cudaStream_t stream, cudaStreamCaptureMode mode) {
  ENTER;
  std::lock_guard<std::recursive_mutex> lock(mutex);
  // Only the mode that ONNX Runtime uses, which forbids the most.
  if (!stream || capture || mode != cudaStreamCaptureModeGlobal) return result(cudaErrorStreamCaptureUnsupported);
  capture = reinterpret_cast<Stream*>(stream);
  capture->captured = true;
  spoiled = false;
  vcc_mock_capture(1);
  return cudaSuccess;
}

RUNTIME(cudaStreamIsCapturing, cudaStream_t stream, cudaStreamCaptureStatus* status) {
  ENTER;
  const bool captured = stream && reinterpret_cast<Stream*>(stream)->captured;
  *status = captured ? (spoiled ? cudaStreamCaptureStatusInvalidated : cudaStreamCaptureStatusActive) : cudaStreamCaptureStatusNone;
  return cudaSuccess;
}

RUNTIME(cudaStreamEndCapture, cudaStream_t stream, cudaGraph_t* graph) {
  ENTER;
  std::lock_guard<std::recursive_mutex> lock(mutex);
  *graph = nullptr;
  if (!capture || capture != reinterpret_cast<Stream*>(stream)) return result(cudaErrorIllegalState);
  capture->captured = false;
  capture = nullptr;
  vcc_mock_capture(0);
  if (spoiled) return result(cudaErrorStreamCaptureInvalidated);
  *graph = reinterpret_cast<cudaGraph_t>(new char);
  return cudaSuccess;
}

RUNTIME(cudaGraphInstantiate, cudaGraphExec_t* graph, cudaGraph_t, unsigned long long) {
  ENTER;
  *graph = reinterpret_cast<cudaGraphExec_t>(new char);
  return cudaSuccess;
}

// Kernels.

RUNTIME(cudaFuncGetAttributes, cudaFuncAttributes* attributes, const void*) {
  ENTER;
  *attributes = {};
  attributes->maxThreadsPerBlock = 1024;
  attributes->numRegs = 64;
  attributes->ptxVersion = attributes->binaryVersion = 90;
  attributes->maxDynamicSharedSizeBytes = 227 << 10;
  return cudaSuccess;
}

RUNTIME(cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags, int* blocks, const void*, int, size_t, unsigned) {
  ENTER;
  *blocks = 2;
  return cudaSuccess;
}

RUNTIME(cudaGetDriverEntryPointByVersion, const char*, void** function, unsigned, unsigned long long, cudaDriverEntryPointQueryResult* found) {
  ENTER;
  *function = nullptr;
  if (found) *found = cudaDriverEntryPointSymbolNotFound;
  return cudaSuccess;
}

RUNTIME(cudaLibraryLoadData, cudaLibrary_t* library, const void*, cudaJitOption*, void**, unsigned, cudaLibraryOption*, void**, unsigned) {
  ENTER;
  *library = reinterpret_cast<cudaLibrary_t>(new char);
  return cudaSuccess;
}

RUNTIME(cudaLibraryGetKernel, cudaKernel_t* kernel, cudaLibrary_t, const char*) {
  ENTER;
  *kernel = reinterpret_cast<cudaKernel_t>(new char);
  return cudaSuccess;
}

// What nvcc makes of `kernel<<<grid, block, shared, stream>>>(...)`.

struct Configuration {
  dim3 grid, block;
  size_t shared;
  void* stream;
};

static thread_local Configuration configuration;

EXPORT unsigned CUDARTAPI __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared, CUstream_st* stream) {
  configuration = {grid, block, shared, stream};
  return 0;
}

RUNTIME(__cudaPopCallConfiguration, dim3* grid, dim3* block, size_t* shared, void* stream) {
  *grid = configuration.grid;
  *block = configuration.block;
  *shared = configuration.shared;
  *static_cast<void**>(stream) = configuration.stream;
  return cudaSuccess;
}

RUNTIME(__cudaGetKernel, cudaKernel_t* kernel, const void* entry) {
  *kernel = reinterpret_cast<cudaKernel_t>(const_cast<void*>(entry));
  return cudaSuccess;
}

// A kernel for a tensor without elements is an error on a device.
static cudaError_t launch(const char* name, dim3 grid, dim3 block) {
  enter(name);
  const uint64_t threads = uint64_t{block.x} * block.y * block.z;
  if (!grid.x || !grid.y || !grid.z || !threads || threads > 1024 || grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535) {
    count("launches with an impossible grid");
    return result(cudaErrorInvalidConfiguration);
  }
  return cudaSuccess;
}

RUNTIME(__cudaLaunchKernel, cudaKernel_t, dim3 grid, dim3 block, void**, size_t, cudaStream_t) { return launch(__func__, grid, block); }
RUNTIME(cudaLaunchKernel, const void*, dim3 grid, dim3 block, void**, size_t, cudaStream_t) { return launch(__func__, grid, block); }
RUNTIME(cudaLaunchCooperativeKernel, const void*, dim3 grid, dim3 block, void**, size_t, cudaStream_t) { return launch(__func__, grid, block); }
RUNTIME(cudaLaunchKernelExC, const cudaLaunchConfig_t* configured, const void*, void**) {
  return launch(__func__, configured->gridDim, configured->blockDim);
}

EXPORT void** CUDARTAPI __cudaRegisterFatBinary(void*) { return new void*; }

// Handles of cuBLAS and cuDNN, and what they are asked for. Their descriptors are written by nobody and read by nobody.

EXPORT int cublasCreate_v2(void** handle) {
  ENTER;
  *handle = new char;
  return 0;
}

EXPORT int cublasLtCreate(void** handle) {
  ENTER;
  *handle = new char;
  return 0;
}

EXPORT int cublasGetMathMode(void*, int* mode) {
  ENTER;
  *mode = 0;
  return 0;
}

EXPORT int cudnnCreate(void** handle) { return cublasCreate_v2(handle); }

EXPORT int cudnnBackendCreateDescriptor(int, void** descriptor) { return cublasCreate_v2(descriptor); }

// One engine for whatever is asked, about which there is nothing to note. Its workspace has no bytes.
EXPORT int cudnnBackendGetAttribute(void*, int, int type, int64_t asked, int64_t* count, void* elements) {
  ENTER;
  const int int64 = 3, numerical_note = 11, behavior_note = 19;
  if (count) *count = type != numerical_note && type != behavior_note;
  if (type == int64 && asked > 0 && elements) *static_cast<int64_t*>(elements) = 0;
  return 0;
}

// Older than what ONNX Runtime lets compute attentions: whether a real one would take them cannot be known here.
EXPORT size_t cudnnGetVersion() { return 8900; }
EXPORT const char* cudnnGetErrorString(int) { return "cuDNN"; }
EXPORT const char* cublasGetStatusName(int) { return "cuBLAS"; }
EXPORT const char* cublasGetStatusString(int) { return "cuBLAS"; }

// The driver's functions that this project's tools call beside those of mock_driver.cpp.

EXPORT int cuDeviceGet(int* device, int) {
  *device = 0;
  return 0;
}

EXPORT int cuDevicePrimaryCtxRetain(void** context, int) {
  *context = new char;
  return 0;
}

EXPORT int cuCtxSetCurrent(void*) {
  ENTER;
  return 0;
}

EXPORT int cuMemAlloc_v2(uint64_t* address, size_t bytes) { return cudaMalloc(reinterpret_cast<void**>(address), bytes); }
EXPORT int cuMemFree_v2(uint64_t address) { return cudaFree(reinterpret_cast<void*>(address)); }
EXPORT int cuEventCreate(cudaEvent_t* event, unsigned flags) { return cudaEventCreateWithFlags(event, flags); }
EXPORT int cuEventRecord(cudaEvent_t event, cudaStream_t stream) { return cudaEventRecord(event, stream); }
EXPORT int cuEventSynchronize(cudaEvent_t event) { return cudaEventSynchronize(event); }
EXPORT int cuEventElapsedTime(float* milliseconds, cudaEvent_t start, cudaEvent_t stop) { return cudaEventElapsedTime(milliseconds, start, stop); }
