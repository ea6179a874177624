#include <nvrtc.h>

#include <cstring>
#include <memory>

#include "standin.hpp"

/// \file
/// Runtime, driver entry points and NVRTC. The one device is of compute capability 9.0.

using standin::wrong;

namespace {

struct Library {
  int unused = 0;
};
struct Program {
  std::string text, image;
};
struct Event {
  standin::Stream* stream = nullptr;
  std::shared_ptr<bool> reached = std::make_shared<bool>(true);
};
using Graph = std::vector<std::function<void()>>;
thread_local int current_device = 0;
constexpr int kDevices = 2;

CUresult library_load(CUlibrary* library, const void* code, CUjit_option*, void**, unsigned options, CUlibraryOption*,
                      void**, unsigned library_options) {
  STANDIN_CALL(CUDA_ERROR_INVALID_IMAGE);
  STANDIN_REQUIRE(options == 0 && library_options == 0);
  if (std::strncmp(static_cast<const char*>(code), "image of sm_90", 14) != 0) wrong(__func__, "another image");
  standin::hand_out("library", new Library, library);
  return CUDA_SUCCESS;
}
CUresult library_unload(CUlibrary library) {
  standin::take_back<Library>(__func__, "library", library);
  return CUDA_SUCCESS;
}
CUresult library_get_kernel(CUkernel* kernel, CUlibrary library, const char* name) {
  STANDIN_CALL(CUDA_ERROR_NOT_FOUND);
  device.require_handle(__func__, "library", library);
  for (const auto& known : standin::kernels()) {
    if (std::strcmp(known.name, name) != 0) continue;
    *kernel = reinterpret_cast<CUkernel>(const_cast<standin::Kernel*>(&known));
    return CUDA_SUCCESS;
  }
  return CUDA_ERROR_NOT_FOUND;
}
CUresult launch_kernel(CUfunction function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by,
                       unsigned bz, unsigned shared, CUstream stream, void** parameters, void** extra) {
  STANDIN_CALL(CUDA_ERROR_LAUNCH_FAILED);
  STANDIN_REQUIRE(gx > 0 && gy == 1 && gz == 1 && bx == 256 && by == 1 && bz == 1 && shared == 0 && extra == nullptr);
  const auto* kernel = reinterpret_cast<const standin::Kernel*>(function);
  STANDIN_REQUIRE(kernel >= standin::kernels().data() &&
                  kernel < standin::kernels().data() + standin::kernels().size());
  const auto* bytes = static_cast<const char*>(parameters[0]);
  auto& queue = device.stream(__func__, stream);
  static bool reverse = false;
  reverse = !reverse;
  device.enqueue(queue, [kernel, copy = std::vector<char>(bytes, bytes + kernel->parameters), gx, order = reverse] {
    kernel->run(copy.data(), gx, order);
  });
  return CUDA_SUCCESS;
}

}  // namespace

extern "C" {

cudaError_t cudaGetDevice(int* number) {
  STANDIN_CALL(cudaErrorInitializationError);
  *number = current_device;
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int number) {
  STANDIN_CALL(cudaErrorInvalidDevice);
  if (number < 0 || number >= kDevices) return cudaErrorInvalidDevice;
  current_device = number;
  return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  STANDIN_CALL(cudaErrorInvalidDevice);
  static const std::map<cudaDeviceAttr, int> values = {{cudaDevAttrComputeCapabilityMajor, 9},
                                                       {cudaDevAttrComputeCapabilityMinor, 0},
                                                       {cudaDevAttrL2CacheSize, 1 << 20},  // so that some do not fit
                                                       {cudaDevAttrMultiProcessorCount, 1}};
  STANDIN_REQUIRE(values.count(attribute) == 1);
  *value = values.at(attribute);
  return cudaSuccess;
}
const char* cudaGetErrorName(cudaError_t error) {
  return error == cudaErrorMemoryAllocation ? "cudaErrorMemoryAllocation" : "cudaErrorOfTheStandIn";
}
const char* cudaGetErrorString(cudaError_t) { return "made to fail by the test"; }
cudaError_t cudaGetLastError(void) { return cudaSuccess; }
cudaError_t cudaMemGetInfo(std::size_t* free, std::size_t* total) {
  auto& device = standin::Device::instance();
  const std::lock_guard lock(device.mutex);
  *free = device.capacity - std::min(device.capacity, device.used());
  *total = device.capacity;
  return cudaSuccess;
}

cudaError_t cudaMallocAsync(void** memory, std::size_t bytes, cudaStream_t stream) {
  STANDIN_CALL(cudaErrorMemoryAllocation);
  STANDIN_REQUIRE(bytes > 0);
  // A device would make it a part of the graph; ours are to have none.
  if (device.spoils_capture(&device.stream(__func__, stream))) return cudaErrorStreamCaptureUnsupported;
  *memory = device.allocate(bytes, device.stream(__func__, stream));
  return *memory ? cudaSuccess : cudaErrorMemoryAllocation;
}
cudaError_t cudaFreeAsync(void* memory, cudaStream_t stream) {
  auto& device = standin::Device::instance();
  const std::lock_guard lock(device.mutex);
  device.deallocate(memory, device.stream(__func__, stream));
  return cudaSuccess;
}
cudaError_t cudaMallocHost(void** memory, std::size_t bytes) {
  STANDIN_CALL(cudaErrorMemoryAllocation);
  if (device.spoils_capture()) return cudaErrorStreamCaptureUnsupported;
  *memory = device.allocate_host(bytes);
  return cudaSuccess;
}
cudaError_t cudaFreeHost(void* memory) {
  auto& device = standin::Device::instance();
  const std::lock_guard lock(device.mutex);
  device.deallocate_host(memory);
  return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind, cudaStream_t stream) {
  STANDIN_CALL(cudaErrorInvalidValue);
  STANDIN_REQUIRE(bytes > 0);
  auto& queue = device.stream(__func__, stream);
  if (kind == cudaMemcpyDefault) {  // as the addresses say; page-locked memory is in them as well as the device's
    const bool to_device = device.is_device(to) || device.is_pinned(to, bytes);
    const bool from_device = device.is_device(from) || device.is_pinned(from, bytes);
    kind = to_device && from_device ? cudaMemcpyDeviceToDevice
           : to_device              ? cudaMemcpyHostToDevice
                                    : cudaMemcpyDeviceToHost;
    STANDIN_REQUIRE(to_device || from_device);
  }
  const void* host = kind == cudaMemcpyHostToDevice ? from : kind == cudaMemcpyDeviceToHost ? to : nullptr;
  if (host && !device.is_pinned(host, bytes) && device.spoils_capture(&queue)) return cudaErrorStreamCaptureUnsupported;
  if (kind == cudaMemcpyHostToDevice) {
    device.require(__func__, "the target", to, bytes);
    device.require_host(__func__, "the source", from);
    if (device.is_pinned(from, bytes)) {
      device.enqueue(queue, [=] { std::memcpy(to, from, bytes); });
      if (device.eager_copies) device.run(queue);
    } else {  // pageable memory is read before the call returns
      const auto* begin = static_cast<const char*>(from);
      device.enqueue(
          queue, [to, copy = std::vector<char>(begin, begin + bytes)] { std::memcpy(to, copy.data(), copy.size()); });
    }
  } else if (kind == cudaMemcpyDeviceToHost) {
    device.require(__func__, "the source", from, bytes);
    device.require_host(__func__, "the target", to);
    device.enqueue(queue, [=] { std::memcpy(to, from, bytes); });
    if (!device.is_pinned(to, bytes)) device.run(queue);
  } else {
    STANDIN_REQUIRE(kind == cudaMemcpyDeviceToDevice);
    device.require(__func__, "the source", from, bytes);
    device.require(__func__, "the target", to, bytes);
    device.enqueue(queue, [=] { std::memcpy(to, from, bytes); });
  }
  return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void* memory, int value, std::size_t bytes, cudaStream_t stream) {
  STANDIN_CALL(cudaErrorInvalidValue);
  device.require(__func__, "the memory", memory, bytes);
  device.enqueue(device.stream(__func__, stream), [=] { std::memset(memory, value, bytes); });
  return cudaSuccess;
}
cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* p) {
  STANDIN_CALL(cudaErrorInvalidValue);
  *attributes = {};
  attributes->type = device.is_device(p)      ? cudaMemoryTypeDevice
                     : device.is_pinned(p, 1) ? cudaMemoryTypeHost
                                              : cudaMemoryTypeUnregistered;
  return cudaSuccess;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags) {
  STANDIN_CALL(cudaErrorMemoryAllocation);
  *stream = device.make_stream(flags != cudaStreamNonBlocking);
  return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  auto& device = standin::Device::instance();
  const std::lock_guard lock(device.mutex);
  device.end_stream(stream);
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  STANDIN_CALL(cudaErrorLaunchFailure);
  auto& queue = device.stream(__func__, stream);
  if (device.spoils_capture(&queue)) return cudaErrorStreamCaptureUnsupported;
  device.run(queue);
  return cudaSuccess;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode) {
  STANDIN_CALL(cudaErrorIllegalState);
  STANDIN_REQUIRE(stream != nullptr && mode == cudaStreamCaptureModeGlobal);
  auto& queue = device.stream(__func__, stream);
  STANDIN_REQUIRE(!queue.capturing);
  queue.capturing = true;
  queue.spoiled = false;
  return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  STANDIN_CALL(cudaErrorIllegalState);
  auto& queue = device.stream(__func__, stream);
  STANDIN_REQUIRE(queue.capturing);
  queue.capturing = false;
  auto captured = std::move(queue.captured);
  queue.captured.clear();
  *graph = nullptr;
  if (queue.spoiled) return cudaErrorStreamCaptureInvalidated;
  standin::hand_out("graph", new Graph(std::move(captured)), graph);
  return cudaSuccess;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* exec, cudaGraph_t graph, unsigned long long flags) {
  STANDIN_CALL(cudaErrorMemoryAllocation);
  STANDIN_REQUIRE(flags == 0);
  device.require_handle(__func__, "graph", graph);
  standin::hand_out("executable graph", new Graph(*reinterpret_cast<Graph*>(graph)), exec);
  return cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream) {
  STANDIN_CALL(cudaErrorLaunchFailure);
  device.require_handle(__func__, "executable graph", exec);
  for (const auto& work : *reinterpret_cast<Graph*>(exec)) device.enqueue(device.stream(__func__, stream), work);
  return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  standin::take_back<Graph>(__func__, "graph", graph);
  return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) {
  standin::take_back<Graph>(__func__, "executable graph", exec);
  return cudaSuccess;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags) {
  STANDIN_CALL(cudaErrorMemoryAllocation);
  STANDIN_REQUIRE(flags == cudaEventDisableTiming);
  standin::hand_out("event", new Event, event);
  return cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  standin::take_back<Event>(__func__, "event", event);
  return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  STANDIN_CALL(cudaErrorLaunchFailure);
  device.require_handle(__func__, "event", event);
  auto& queue = device.stream(__func__, stream);
  const auto reached = std::make_shared<bool>(false);
  *reinterpret_cast<Event*>(event) = {&queue, reached};
  device.enqueue(queue, [reached] { *reached = true; });
  return cudaSuccess;
}
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags) {
  STANDIN_CALL(cudaErrorLaunchFailure);
  STANDIN_REQUIRE(flags == 0);
  device.require_handle(__func__, "event", event);
  const Event waited = *reinterpret_cast<Event*>(event);  // as it is now, whatever is recorded later
  // It was recorded outside.
  if (device.spoils_capture(&device.stream(__func__, stream))) return cudaErrorStreamCaptureIsolation;
  device.enqueue(device.stream(__func__, stream), [&device, waited] {
    if (!*waited.reached) device.run_until(*waited.stream, *waited.reached);
  });
  return cudaSuccess;
}

cudaError_t cudaGetDriverEntryPointByVersion(const char* name, void** function, unsigned version, unsigned long long,
                                             cudaDriverEntryPointQueryResult* result) {
  STANDIN_CALL(cudaErrorInvalidValue);
  STANDIN_REQUIRE(version == 12000);
  const std::map<std::string, void*> known = {{"cuLibraryLoadData", reinterpret_cast<void*>(library_load)},
                                              {"cuLibraryUnload", reinterpret_cast<void*>(library_unload)},
                                              {"cuLibraryGetKernel", reinterpret_cast<void*>(library_get_kernel)},
                                              {"cuLaunchKernel", reinterpret_cast<void*>(launch_kernel)}};
  const auto found = known.find(name);
  if (found == known.end()) wrong(__func__, std::string("unknown function ") + name);
  *function = found->second;
  *result = cudaDriverEntryPointSuccess;
  return cudaSuccess;
}

nvrtcResult nvrtcGetNumSupportedArchs(int* count) {
  STANDIN_CALL(NVRTC_ERROR_INTERNAL_ERROR);
  *count = 2;
  return NVRTC_SUCCESS;
}
nvrtcResult nvrtcGetSupportedArchs(int* archs) {
  STANDIN_CALL(NVRTC_ERROR_INTERNAL_ERROR);
  archs[0] = 80;
  archs[1] = 90;
  return NVRTC_SUCCESS;
}
nvrtcResult nvrtcCreateProgram(nvrtcProgram* program, const char* text, const char*, int headers, const char* const*,
                               const char* const*) {
  STANDIN_CALL(NVRTC_ERROR_OUT_OF_MEMORY);
  STANDIN_REQUIRE(headers == 0);
  standin::hand_out("NVRTC program", new Program{text, ""}, program);
  return NVRTC_SUCCESS;
}
nvrtcResult nvrtcDestroyProgram(nvrtcProgram* program) {
  standin::take_back<Program>(__func__, "NVRTC program", *program);
  return NVRTC_SUCCESS;
}
nvrtcResult nvrtcCompileProgram(nvrtcProgram program, int count, const char* const* options) {
  STANDIN_CALL(NVRTC_ERROR_COMPILATION);
  device.require_handle(__func__, "NVRTC program", program);
  STANDIN_REQUIRE(count == 3 && std::string(options[0]) == "--gpu-architecture=sm_90");
  auto& self = *reinterpret_cast<Program*>(program);
  for (const auto& kernel : standin::kernels()) {
    if (self.text.find(std::string("OGPSA_KERNEL ") + kernel.name + "(") == std::string::npos) {
      wrong(__func__, std::string("the text has no kernel ") + kernel.name);
    }
  }
  self.image = "image of sm_90";
  return NVRTC_SUCCESS;
}
nvrtcResult nvrtcGetCUBINSize(nvrtcProgram program, std::size_t* size) {
  STANDIN_CALL(NVRTC_ERROR_INVALID_PROGRAM);
  *size = reinterpret_cast<Program*>(program)->image.size() + 1;
  return NVRTC_SUCCESS;
}
nvrtcResult nvrtcGetCUBIN(nvrtcProgram program, char* image) {
  STANDIN_CALL(NVRTC_ERROR_INVALID_PROGRAM);
  std::strcpy(image, reinterpret_cast<Program*>(program)->image.c_str());
  return NVRTC_SUCCESS;
}
nvrtcResult nvrtcGetPTXSize(nvrtcProgram, std::size_t*) { wrong(__func__, "there is machine code"); }
nvrtcResult nvrtcGetPTX(nvrtcProgram, char*) { wrong(__func__, "there is machine code"); }
nvrtcResult nvrtcGetProgramLogSize(nvrtcProgram, std::size_t* size) {
  *size = 1;
  return NVRTC_SUCCESS;
}
nvrtcResult nvrtcGetProgramLog(nvrtcProgram, char* log) {
  *log = '\0';
  return NVRTC_SUCCESS;
}
const char* nvrtcGetErrorString(nvrtcResult) { return "NVRTC_ERROR_OF_THE_STAND_IN"; }

}  // extern "C"
