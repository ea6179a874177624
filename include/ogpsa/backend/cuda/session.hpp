#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <utility>

#include "ogpsa/backend/cuda/context.hpp"

/// \file
/// How a call works with a context and its cuBLAS handle, and the contexts of those who gave none.

namespace ogpsa::detail::cuda {

/// One thread's use of a context: its device is current, its stream the one to work on, and no other thread works with
/// it.
class Session {
 public:
  explicit Session(std::shared_ptr<Context> context)
      : context_(std::move(context)), lock_(context_->mutex()), guard_(context_->device()) {
    context_->follow_stream();
    before_ = context_->redirect(nullptr, {});
  }
  /// In another workspace than that of the context, and on `stream` where one is given.
  Session(std::shared_ptr<Context> context, Workspace& workspace, std::optional<cudaStream_t> stream = {})
      : context_(std::move(context)), lock_(context_->mutex()), guard_(context_->device()) {
    if (!stream) context_->follow_stream();
    before_ = context_->redirect(&workspace, stream);
    if (stream) restore_ = before_.second;
  }
  ~Session() { context_->redirect(before_.first, restore_); }
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  Context* operator->() const { return context_.get(); }
  Context& operator*() const { return *context_; }

 private:
  std::shared_ptr<Context> context_;
  std::lock_guard<std::recursive_mutex> lock_;
  DeviceGuard guard_;
  std::pair<Workspace*, cudaStream_t> before_;
  std::optional<cudaStream_t> restore_;
};

/// The cuBLAS handle of a context, set up for our calls; a handle of the user is put back as it was.
class CublasSession {
 public:
  explicit CublasSession(const Context& context) : handle_(context.cublas()) {
    check(cublasGetStream(handle_, &stream_), "cublasGetStream");
    check(cublasGetMathMode(handle_, &math_), "cublasGetMathMode");
    check(cublasGetPointerMode(handle_, &pointers_), "cublasGetPointerMode");
    if (stream_ != context.stream()) check(cublasSetStream(handle_, context.stream()), "cublasSetStream");
    restore_stream_ = stream_ != context.stream();
    const auto math = context.allow_tf32() ? CUBLAS_TF32_TENSOR_OP_MATH : CUBLAS_DEFAULT_MATH;
    if (math_ != math) check(cublasSetMathMode(handle_, math), "cublasSetMathMode");
    restore_math_ = math_ != math;
    if (pointers_ != CUBLAS_POINTER_MODE_HOST) {
      check(cublasSetPointerMode(handle_, CUBLAS_POINTER_MODE_HOST), "cublasSetPointerMode");
    }
  }
  ~CublasSession() {
    if (restore_stream_) cublasSetStream(handle_, stream_);
    if (restore_math_) cublasSetMathMode(handle_, math_);
    if (pointers_ != CUBLAS_POINTER_MODE_HOST) cublasSetPointerMode(handle_, pointers_);
  }
  CublasSession(const CublasSession&) = delete;
  CublasSession& operator=(const CublasSession&) = delete;

  operator cublasHandle_t() const { return handle_; }

 private:
  cublasHandle_t handle_;
  cudaStream_t stream_ = nullptr;
  cublasMath_t math_ = CUBLAS_DEFAULT_MATH;
  cublasPointerMode_t pointers_ = CUBLAS_POINTER_MODE_HOST;
  bool restore_stream_ = false, restore_math_ = false;
};

/// The context of backends and matrices for which none was given: one for each device, made when it is first used.
class DefaultContexts {
 public:
  static std::shared_ptr<Context> current() {
    int device = 0;
    check(cudaGetDevice(&device), "cudaGetDevice");
    auto& self = instance();
    const std::lock_guard lock(self.mutex_);
    auto& context = self.contexts_[device];
    if (!context) context = std::make_shared<Context>(CudaOptions{.device = device});
    return context;
  }
  /// Lets go of them; they end with the last matrix in them.
  static void clear() {
    auto& self = instance();
    const std::lock_guard lock(self.mutex_);
    self.contexts_.clear();
  }

 private:
  // Never destroyed: at the end of the program the driver may be gone before us.
  static DefaultContexts& instance() {
    static auto* contexts = new DefaultContexts;
    return *contexts;
  }
  std::mutex mutex_;
  std::map<int, std::shared_ptr<Context>> contexts_;
};

}  // namespace ogpsa::detail::cuda
