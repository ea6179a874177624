#pragma once

#include <type_traits>

#include "ogpsa/tensor_view.hpp"

/// \file
/// The memory of a flat basis, in whatever type its elements are kept. Small: a backend reads it as its arithmetic
/// type.

namespace ogpsa {

/// How the elements of a flat basis are kept.
enum class BasisStorage {
  full,         ///< in the arithmetic type
  page_locked,  ///< the same in memory of the host, where the backend computes elsewhere, streamed at each projection
  bfloat16,     ///< 2 bytes
  int8,         ///< 1 byte, and one float scale for every kScaleBlock elements of a column
};

/// Elements of a column that share a scale in BasisStorage::int8: |x| <= 127 scale, rounded to multiples of the scale.
inline constexpr Index kScaleBlock = 64;

namespace detail {

/// Whether elements are rounded, so that a basis is a StoredSubspace.
inline bool is_rounded(BasisStorage storage) {
  return storage == BasisStorage::bfloat16 || storage == BasisStorage::int8;
}

inline Index scale_blocks(Index rows) { return (rows + kScaleBlock - 1) / kScaleBlock; }

/// Bytes of one element of a basis, without scales.
template <class T>
Index bytes_of(BasisStorage storage) {
  return !is_rounded(storage) ? Index{sizeof(T)} : storage == BasisStorage::bfloat16 ? 2 : 1;
}

inline const char* storage_name(BasisStorage storage) {
  switch (storage) {
    case BasisStorage::full:
      return "full";
    case BasisStorage::page_locked:
      return "page_locked";
    case BasisStorage::bfloat16:
      return "bfloat16";
    case BasisStorage::int8:
      return "int8";
  }
  return "?";
}

}  // namespace detail

/// Some rows of a basis (rows x cols, column-major), read as `T`. Each storage has exactly one value in `T` for an
/// element, so that all who read it see the same basis. It does not own its memory.
template <class T>
struct BasisView {
  const void* data = nullptr;
  BasisStorage storage = BasisStorage::full;
  Index rows = 0;
  Index cols = 0;
  Index stride = 0;               ///< elements between columns
  const float* scales = nullptr;  ///< int8: those of the first column of the whole basis
  Index scale_stride = 0;         ///< scales between columns
  Index first_row = 0;            ///< row 0 of this view in the whole basis

  BasisView() = default;
  BasisView(MatrixView<const T> q) : data(q.data), rows(q.rows), cols(q.cols), stride(q.stride) {}
  BasisView(MatrixView<T> q) requires(!std::is_const_v<T>) : BasisView(MatrixView<const T>(q)) {}
  BasisView(const void* data, BasisStorage storage, Index rows, Index cols, const float* scales)
      : data(data),
        storage(storage),
        rows(rows),
        cols(cols),
        stride(rows),
        scales(scales),
        scale_stride(detail::scale_blocks(rows)) {}

  bool is_full() const { return storage == BasisStorage::full; }
  /// Of BasisStorage::full.
  MatrixView<const T> matrix() const { return {static_cast<const T*>(data), rows, cols, stride}; }
  BasisView row_range(Index first, Index count) const {
    BasisView result = *this;
    result.data = static_cast<const char*>(data) + first * detail::bytes_of<T>(storage);
    result.rows = count;
    result.first_row += first;
    return result;
  }
};

}  // namespace ogpsa
