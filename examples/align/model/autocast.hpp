#pragma once

#include <ATen/autocast_mode.h>
#include <torch/torch.h>

namespace align {

/// Whether this processor multiplies bfloat16 numbers itself. Elsewhere products in bfloat16 are slower than in
/// float32.
inline bool has_bf16_products() {
#if defined(__x86_64__)
  return __builtin_cpu_supports("avx512bf16");  // every processor with AMX has it too
#else
  return true;  // not known
#endif
}

/// While it lives, matrix products of float32 tensors are computed in bfloat16 (what can lose much by it stays in
/// float32). The weights stay float32: they are the masters that the optimizer updates.
class Autocast {
 public:
  /// \param device  of the products; what is neither on a CPU nor on a GPU stays as it is
  explicit Autocast(bool enabled, at::DeviceType device = at::kCPU)
      : device_(device == at::kCUDA ? at::kCUDA : at::kCPU), before_(is_enabled()) {
    set(enabled);
    at::autocast::increment_nesting();
  }
  ~Autocast() {
    if (at::autocast::decrement_nesting() == 0) at::autocast::clear_cache();
    set(before_);
  }
  Autocast(const Autocast&) = delete;
  Autocast& operator=(const Autocast&) = delete;

 private:
#if TORCH_VERSION_MAJOR > 2 || (TORCH_VERSION_MAJOR == 2 && TORCH_VERSION_MINOR >= 4)
  bool is_enabled() const { return at::autocast::is_autocast_enabled(device_); }
  void set(bool enabled) const {
    at::autocast::set_autocast_enabled(device_, enabled);
    at::autocast::set_autocast_dtype(device_, at::kBFloat16);
  }
#else
  bool is_enabled() const { return device_ == at::kCPU ? at::autocast::is_cpu_enabled() : at::autocast::is_enabled(); }
  void set(bool enabled) const {
    if (device_ == at::kCPU) {
      at::autocast::set_cpu_enabled(enabled);
      at::autocast::set_autocast_cpu_dtype(at::kBFloat16);
    } else {
      at::autocast::set_enabled(enabled);
      at::autocast::set_autocast_gpu_dtype(at::kBFloat16);
    }
  }
#endif

  at::DeviceType device_;
  bool before_;
};

}  // namespace align
