#pragma once

#include <Eigen/Core>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <type_traits>

#include "ogpsa/error.hpp"

/// \file
/// Views on memory that somebody else owns: a tensor of the model, or a column-major matrix.

namespace ogpsa {

using Index = std::int64_t;
using bfloat16 = Eigen::bfloat16;
using float16 = Eigen::half;

/// Storage type of a tensor; the type of the arithmetic is chosen apart from it.
enum class DType { float32, float64, bfloat16, float16 };

/// Order of a matrix in memory. PyTorch, NumPy and C arrays are row-major, Eigen's default is column-major.
enum class Layout { row_major, column_major };

template <class S>
inline constexpr bool is_storage_type =
    std::is_same_v<S, float> || std::is_same_v<S, double> || std::is_same_v<S, bfloat16> || std::is_same_v<S, float16>;

template <class S>
requires is_storage_type<S>
constexpr DType dtype_of() {
  if constexpr (std::is_same_v<S, float>) return DType::float32;
  if constexpr (std::is_same_v<S, double>) return DType::float64;
  if constexpr (std::is_same_v<S, bfloat16>) return DType::bfloat16;
  if constexpr (std::is_same_v<S, float16>) return DType::float16;
}

/// Name of a storage type in the safetensors format.
inline const char* dtype_name(DType dtype) {
  switch (dtype) {
    case DType::float32:
      return "F32";
    case DType::float64:
      return "F64";
    case DType::bfloat16:
      return "BF16";
    case DType::float16:
      return "F16";
  }
  return "?";
}

/// Calls `f` with a null pointer of the storage type: `visit_dtype(d, [](auto* tag) { ... })`.
template <class F>
decltype(auto) visit_dtype(DType dtype, F&& f) {
  switch (dtype) {
    case DType::float32:
      return f(static_cast<float*>(nullptr));
    case DType::float64:
      return f(static_cast<double*>(nullptr));
    case DType::bfloat16:
      return f(static_cast<bfloat16*>(nullptr));
    case DType::float16:
      return f(static_cast<float16*>(nullptr));
  }
  throw InvalidArgument(detail::text({"ogpsa: unknown DType ", static_cast<int>(dtype)}));
}

/// A contiguous tensor as a matrix of `rows x cols`; a vector is `1 x n`. It does not own its memory.
template <bool Const>
struct BasicTensorView {
  using Pointer = std::conditional_t<Const, const void*, void*>;

  Pointer data = nullptr;
  DType dtype = DType::float32;
  Index rows = 0;
  Index cols = 0;
  Layout layout = Layout::row_major;

  BasicTensorView() = default;
  BasicTensorView(Pointer data, DType dtype, Index rows, Index cols, Layout layout = Layout::row_major)
      : data(data), dtype(dtype), rows(rows), cols(cols), layout(layout) {}

  /// Views `values` as a vector.
  template <class S>
  requires is_storage_type<std::remove_const_t<S>> &&(Const || !std::is_const_v<S>)BasicTensorView(std::span<S> values)
      : BasicTensorView(values.data(), dtype_of<std::remove_const_t<S>>(), 1, static_cast<Index>(values.size())) {}

  /// Views `values` as a row-major matrix of `rows x cols`.
  /// \throws InvalidArgument when the sizes differ.
  template <class S>
  requires is_storage_type<std::remove_const_t<S>> &&
      (Const || !std::is_const_v<S>)BasicTensorView(std::span<S> values, Index rows, Index cols)
      : BasicTensorView(values.data(), dtype_of<std::remove_const_t<S>>(), rows, cols) {
    if (rows < 0 || cols < 0 || rows * cols != static_cast<Index>(values.size())) {
      throw InvalidArgument(detail::text({"ogpsa: a view of ", detail::size_text(rows, cols), " needs ", rows * cols,
                                          " values, but the span has ", values.size()}));
    }
  }

  /// A view that may not be written through.
  operator BasicTensorView<true>() const requires(!Const) { return {data, dtype, rows, cols, layout}; }

  Index size() const { return rows * cols; }
  /// Length of the dimension that is contiguous in memory, and of the other one.
  Index fast() const { return layout == Layout::row_major ? cols : rows; }
  Index slow() const { return layout == Layout::row_major ? rows : cols; }
};

using TensorView = BasicTensorView<false>;
using ConstTensorView = BasicTensorView<true>;

/// Views an Eigen matrix, vector or map (contiguous, of a storage type) in its own layout.
template <class Derived>
TensorView view(Eigen::PlainObjectBase<Derived>& m) {
  return {m.data(), dtype_of<typename Derived::Scalar>(), m.rows(), m.cols(),
          Derived::IsRowMajor ? Layout::row_major : Layout::column_major};
}
template <class Derived>
ConstTensorView view(const Eigen::PlainObjectBase<Derived>& m) {
  return {m.data(), dtype_of<typename Derived::Scalar>(), m.rows(), m.cols(),
          Derived::IsRowMajor ? Layout::row_major : Layout::column_major};
}

/// A column-major matrix of `rows x cols` whose columns lie `stride` elements apart. It does not own its memory.
template <class T>
struct MatrixView {
  T* data = nullptr;
  Index rows = 0;
  Index cols = 0;
  Index stride = 0;

  MatrixView() = default;
  MatrixView(T* data, Index rows, Index cols) : MatrixView(data, rows, cols, rows) {}
  MatrixView(T* data, Index rows, Index cols, Index stride) : data(data), rows(rows), cols(cols), stride(stride) {}

  operator MatrixView<const T>() const requires(!std::is_const_v<T>) { return {data, rows, cols, stride}; }

  bool empty() const { return rows == 0 || cols == 0; }
  MatrixView columns(Index first, Index count) const { return {data + first * stride, rows, count, stride}; }
  MatrixView row_range(Index first, Index count) const { return {data + first, count, cols, stride}; }
};

}  // namespace ogpsa
