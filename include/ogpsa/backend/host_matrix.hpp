#pragma once

#include <algorithm>
#include <vector>

#include "ogpsa/backend/host_memory.hpp"
#include "ogpsa/tensor_view.hpp"

namespace ogpsa {

/// A column-major matrix of `rows x cols` in host memory. Columns can be added and dropped at the end; there is room
/// for one more, so that a basis takes up a new column, and drops the least one again, in place. (Of a large matrix,
/// that room is address space until it is used.)
template <class T>
class HostMatrix {
 public:
  HostMatrix() = default;
  HostMatrix(Index rows, Index cols) : rows_(rows) { resize_columns(cols); }
  /// One whose values are all to be written before they are read.
  static HostMatrix unfilled(Index rows, Index cols) {
    HostMatrix result(rows, 0);
    result.allocate_columns(cols);
    return result;
  }

  Index rows() const { return rows_; }
  Index cols() const { return cols_; }
  T* data() { return values_.data(); }
  const T* data() const { return values_.data(); }
  MatrixView<T> view() { return {data(), rows_, cols_}; }
  MatrixView<const T> view() const { return {data(), rows_, cols_}; }

  /// Keeps the first `cols` columns; new ones are zero.
  void resize_columns(Index cols) {
    const auto before = std::min(values_.size(), static_cast<std::size_t>(rows_ * cols));
    allocate_columns(cols);
    std::fill(values_.begin() + static_cast<std::ptrdiff_t>(before), values_.end(), T());
  }

 private:
  void allocate_columns(Index cols) {
    const auto size = static_cast<std::size_t>(rows_ * cols);
    const auto more = size + static_cast<std::size_t>(rows_), twice = 2 * values_.capacity();
    if (size > values_.capacity()) values_.reserve(std::max(more, twice));
    values_.resize(size);
    cols_ = cols;
  }

  Index rows_ = 0;
  Index cols_ = 0;
  std::vector<T, detail::HostAllocator<T>> values_;
};

}  // namespace ogpsa
