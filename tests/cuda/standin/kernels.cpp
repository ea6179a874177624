#include <atomic>
#include <bit>
#include <cstring>
#include <thread>
#include <vector>

#include "standin.hpp"

/// \file
/// The kernels themselves, compiled for the CPU: one thread of a block after the other, phase by phase. Blocks of
/// kernels that wait for one another run at the same time, each in a thread of the CPU.

namespace ogpsa_cuda {
namespace {

struct Grid {
  long long block = 0, blocks = 0;
  bool reverse = false;
};
thread_local Grid grid;

long long block_index() { return grid.block; }
long long block_count() { return grid.blocks; }
void assume_global(const void*) {}
struct alignas(16) Words {
  unsigned word[4];
};
void store_words(Words w, void* to) {
  if (reinterpret_cast<std::uintptr_t>(to) % 16 != 0)
    standin::wrong("a kernel", "16 bytes are stored off a multiple of 16");
  std::memcpy(to, &w, sizeof w);
}

unsigned count_up(unsigned* counter, unsigned last) {
  const std::atomic_ref<unsigned> shared(*counter);
  unsigned before = shared.load();
  while (!shared.compare_exchange_weak(before, before >= last ? 0 : before + 1)) {
  }
  return before;
}
void wait_while_zero(unsigned* counter) {
  while (std::atomic_ref<unsigned>(*counter).load() == 0) std::this_thread::yield();
}

template <class F>
void phase(F f) {
  constexpr int threads = 256;
  for (int i = 0; i < threads; ++i) f(grid.reverse ? threads - 1 - i : i);
}

float bits_to_float(unsigned bits) { return std::bit_cast<float>(bits); }
unsigned float_to_bits(float x) { return std::bit_cast<unsigned>(x); }
unsigned long long double_to_bits(double x) { return std::bit_cast<unsigned long long>(x); }
float half_to_float(unsigned short bits) { return static_cast<float>(std::bit_cast<_Float16>(bits)); }
unsigned short float_to_half(float x) { return std::bit_cast<unsigned short>(static_cast<_Float16>(x)); }

}  // namespace
}  // namespace ogpsa_cuda

#define OGPSA_KERNEL static void
#define OGPSA_DEVICE
#define OGPSA_SHARED [[maybe_unused]] static thread_local
#define OGPSA_UNROLL
#include "ogpsa/backend/cuda_kernels.cuh"

namespace standin {
namespace {

template <class P, void (*kernel)(P), bool concurrent>
Kernel made(const char* name) {
  return {name, sizeof(P), [](const void* bytes, Index blocks, bool reverse) {
            P parameters;
            std::memcpy(&parameters, bytes, sizeof parameters);
            const auto run = [&](Index b) {
              ogpsa_cuda::grid = {reverse ? blocks - 1 - b : b, blocks, reverse};
              kernel(parameters);
            };
            std::vector<std::jthread> others;
            for (Index b = 0; b < blocks; ++b) {
              if (concurrent && b + 1 < blocks) {
                others.emplace_back(run, b);
              } else {
                run(b);
              }
            }
          }};
}
#define STANDIN_KERNEL(P, name) made<ogpsa_cuda::P, ogpsa_cuda::name, false>(#name)
#define STANDIN_CONCURRENT_KERNEL(P, name) made<ogpsa_cuda::P, ogpsa_cuda::name, true>(#name)

}  // namespace

const std::vector<Kernel>& kernels() {
  static const std::vector<Kernel> all = {
      STANDIN_KERNEL(CopyParameters, ogpsa_copy),
      STANDIN_KERNEL(ElementwiseParameters, ogpsa_elementwise_f32),
      STANDIN_KERNEL(ElementwiseParameters, ogpsa_elementwise_f64),
      STANDIN_KERNEL(AskParameters, ogpsa_ask),
      STANDIN_KERNEL(GatherParameters, ogpsa_gather),
      STANDIN_KERNEL(PanelParameters, ogpsa_panels_f32),
      STANDIN_KERNEL(PanelParameters, ogpsa_panels_f64),
      STANDIN_KERNEL(AddPartsParameters, ogpsa_add_parts_f32),
      STANDIN_KERNEL(AddPartsParameters, ogpsa_add_parts_f64),
      STANDIN_KERNEL(GramParameters, ogpsa_gram_f32),
      STANDIN_KERNEL(GramParameters, ogpsa_gram_f64),
      STANDIN_KERNEL(ProductParameters, ogpsa_multiply_f32),
      STANDIN_KERNEL(ProductParameters, ogpsa_multiply_f64),
      STANDIN_KERNEL(MeasureParameters, ogpsa_measure_f32),
      STANDIN_KERNEL(MeasureParameters, ogpsa_measure_f64),
      STANDIN_KERNEL(ChangeParameters, ogpsa_change_f32),
      STANDIN_KERNEL(ChangeParameters, ogpsa_change_f64),
      STANDIN_CONCURRENT_KERNEL(FusedParameters, ogpsa_fused_f32),
      STANDIN_CONCURRENT_KERNEL(FusedParameters, ogpsa_fused_f64),
  };
  return all;
}

}  // namespace standin
