#pragma once

#include <vector>

#include "ogpsa/backend/host_memory.hpp"
#include "ogpsa/tensor_view.hpp"

namespace ogpsa {

/// A column-major matrix of `rows x cols` in host memory. Columns can be added and dropped at the end.
template <class T>
class HostMatrix {
 public:
  HostMatrix() = default;
  HostMatrix(Index rows, Index cols) : rows_(rows), cols_(cols), values_(static_cast<std::size_t>(rows * cols)) {}

  Index rows() const { return rows_; }
  Index cols() const { return cols_; }
  T* data() { return values_.data(); }
  const T* data() const { return values_.data(); }
  MatrixView<T> view() { return {data(), rows_, cols_}; }
  MatrixView<const T> view() const { return {data(), rows_, cols_}; }

  /// Keeps the first `cols` columns; new ones are zero.
  void resize_columns(Index cols) {
    values_.resize(static_cast<std::size_t>(rows_ * cols));
    cols_ = cols;
  }
  void shrink_to_fit() { values_.shrink_to_fit(); }

 private:
  Index rows_ = 0;
  Index cols_ = 0;
  std::vector<T, detail::HostAllocator<T>> values_;
};

}  // namespace ogpsa
