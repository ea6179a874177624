#pragma once

#include <cstring>
#include <memory>
#include <utility>

#include "ogpsa/backend/cuda/session.hpp"
#include "ogpsa/tensor_view.hpp"

namespace ogpsa {

/// A column-major matrix of `rows x cols` in device memory. Columns can be added and dropped at the end. Made by
/// `CudaBackend::matrix`; what is done with it runs in the order of that backend's stream.
template <class T>
class CudaMatrix {
 public:
  CudaMatrix() = default;
  /// Zeros, in a context; null: that of the current device. \throws CudaOutOfMemory
  CudaMatrix(Index rows, Index cols, std::shared_ptr<detail::cuda::Context> context = nullptr)
      : CudaMatrix(Empty{}, rows, std::move(context)) {
    resize_columns(cols);  // the destructor runs where this throws, since another constructor has ended
  }
  CudaMatrix(const CudaMatrix& other) : CudaMatrix(other, other.cols_, other.on_host_) {}
  CudaMatrix(CudaMatrix&& other) noexcept { swap(other); }
  CudaMatrix& operator=(CudaMatrix other) noexcept {
    swap(other);
    return *this;
  }
  ~CudaMatrix() { release(); }

  Index rows() const { return rows_; }
  Index cols() const { return cols_; }
  /// In device memory, or where `keep_on_host` was asked for, in page-locked memory, which the device can use as well.
  T* data() { return data_; }
  const T* data() const { return data_; }
  MatrixView<T> view() { return {data_, rows_, cols_}; }
  MatrixView<const T> view() const { return {data_, rows_, cols_}; }

  /// Keeps the first `cols` columns; new ones are zero. \throws CudaOutOfMemory, with the matrix as it was.
  void resize_columns(Index cols) {
    if (cols > capacity_ && rows_ > 0) *this = CudaMatrix(*this, cols, on_host_);
    if (cols > cols_ && rows_ > 0) {
      const detail::cuda::Session session(context_);
      const std::size_t bytes = bytes_of(cols - cols_);
      if (on_host_) {
        session->synchronize();
        std::memset(data_ + rows_ * cols_, 0, bytes);
      } else {
        detail::cuda::check(cudaMemsetAsync(data_ + rows_ * cols_, 0, bytes, session->stream()), "cudaMemsetAsync",
                            {{"bytes", static_cast<Index>(bytes)}});
      }
    }
    cols_ = cols;
  }

  /// Moves it to page-locked memory of the host, where it stays also as it grows, or back to the device.
  /// \throws CudaOutOfMemory, with the matrix as it was.
  void keep_on_host(bool on_host) {
    if (on_host == on_host_) return;
    *this = CudaMatrix(*this, cols_, on_host);
    if (on_host && data_) detail::cuda::Session(context_)->synchronize();  // the host may read it now
  }

 private:
  struct Empty {};
  CudaMatrix(Empty, Index rows, std::shared_ptr<detail::cuda::Context> context)
      : context_(std::move(context)), rows_(rows) {}
  /// A copy with memory for `capacity` columns, on the host or not.
  CudaMatrix(const CudaMatrix& other, Index capacity, bool on_host) : CudaMatrix(Empty{}, other.rows_, other.context_) {
    on_host_ = on_host;
    reserve(capacity);  // the destructor runs where this throws
    copy_from(other.data_, other.cols_);
    cols_ = other.cols_;
  }

  std::size_t bytes_of(Index cols) const { return static_cast<std::size_t>(rows_ * cols) * sizeof(T); }
  void reserve(Index cols) {
    if (rows_ * cols == 0) return;
    if (!context_) context_ = detail::cuda::DefaultContexts::current();
    const detail::cuda::Session session(context_);
    data_ = static_cast<T*>(on_host_ ? session->allocate_on_host(bytes_of(cols)) : session->allocate(bytes_of(cols)));
    capacity_ = cols;
  }
  void copy_from(const T* from, Index cols) {
    if (rows_ * cols == 0) return;
    const detail::cuda::Session session(context_);
    const std::size_t bytes = bytes_of(cols);
    detail::cuda::check(cudaMemcpyAsync(data_, from, bytes, cudaMemcpyDefault, session->stream()), "cudaMemcpyAsync",
                        {{"bytes", static_cast<Index>(bytes)}});
  }
  void release() noexcept {
    if (!data_) return;
    const std::lock_guard lock(context_->mutex());
    if (on_host_) {
      context_->deallocate_on_host(data_);
    } else {
      context_->deallocate(data_, bytes_of(capacity_));  // whatever device is current: the stream knows its own
    }
    data_ = nullptr;
  }
  void swap(CudaMatrix& other) noexcept {
    std::swap(context_, other.context_);
    std::swap(data_, other.data_);
    std::swap(rows_, other.rows_);
    std::swap(cols_, other.cols_);
    std::swap(capacity_, other.capacity_);
    std::swap(on_host_, other.on_host_);
  }

  std::shared_ptr<detail::cuda::Context> context_;
  T* data_ = nullptr;
  Index rows_ = 0;
  Index cols_ = 0;
  Index capacity_ = 0;  // columns that there is memory for
  bool on_host_ = false;
};

}  // namespace ogpsa
