#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "ogpsa/backend/widen.hpp"
#include "ogpsa/basis.hpp"

/// \file
/// Columns of a basis, kept as `S` and read as `T` in registers.

namespace ogpsa::detail {

/// Columns that lie `stride` apart.
template <class T, class S = T>
struct BasisColumns {
  const S* data;
  Index stride;

  /// A vector of elements of column k, from i on.
  template <int Bytes>
  OGPSA_ALWAYS_INLINE void load(Index k, Index i, typename Vector<T, Bytes>::Type& to) const {
    const S* from = data + k * stride + i;
    if constexpr (std::is_same_v<S, T>) {
      to = *reinterpret_cast<const typename Vector<T, Bytes>::Unaligned*>(from);
    } else {
      static_assert(std::is_same_v<S, bfloat16> && std::is_same_v<T, float>);
      widen<Bytes>(reinterpret_cast<const std::uint16_t*>(from), to);
    }
  }
  OGPSA_ALWAYS_INLINE T at(Index k, Index i) const { return static_cast<T>(data[k * stride + i]); }
};

/// Integers times the scale of their block. Element 0 is the first of a block.
template <class T>
struct BasisColumns<T, std::int8_t> {
  static_assert(std::is_same_v<T, float>);
  const std::int8_t* data;
  Index stride;
  const float* scales;
  Index scale_stride;

  /// i and all that is read lie in one block.
  template <int Bytes>
  OGPSA_ALWAYS_INLINE void load(Index k, Index i, typename Vector<float, Bytes>::Type& to) const {
    widen<Bytes>(data + k * stride + i, to);
    to *= scale(k, i);
  }
  OGPSA_ALWAYS_INLINE float at(Index k, Index i) const {
    return static_cast<float>(data[k * stride + i]) * scale(k, i);
  }

 private:
  OGPSA_ALWAYS_INLINE float scale(Index k, Index i) const { return scales[k * scale_stride + i / kScaleBlock]; }
};

/// Calls f with the columns of a view from (row, column) on; with int8, the first of a block (see `granule`).
template <class T, class F>
decltype(auto) visit_columns(const BasisView<T>& q, Index row, Index column, F&& f) {
  const Index at = column * q.stride + row;
  if constexpr (std::is_same_v<T, float>) {
    if (q.storage == BasisStorage::bfloat16) {
      return f(BasisColumns<T, bfloat16>{static_cast<const bfloat16*>(q.data) + at, q.stride});
    }
    if (q.storage == BasisStorage::int8) {
      const float* scales = q.scales + column * q.scale_stride + (q.first_row + row) / kScaleBlock;
      return f(
          BasisColumns<T, std::int8_t>{static_cast<const std::int8_t*>(q.data) + at, q.stride, scales, q.scale_stride});
    }
  }
  return f(BasisColumns<T>{static_cast<const T*>(q.data) + at, q.stride});
}

/// Rows from `row` on that are read at a time, `most` (a multiple of kScaleBlock) or fewer, and not beyond `end`. With
/// int8 they begin a block, or are the rest of one.
template <class T>
Index granule(const BasisView<T>& q, Index row, Index end, Index most) {
  if (q.storage != BasisStorage::int8) return std::min(most, end - row);
  const Index at = q.first_row + row, in_block = at % kScaleBlock;
  return std::min(in_block > 0 ? kScaleBlock - in_block : most - at % most, end - row);
}

/// to <- n elements of column 0.
struct DecodeKernel {
  template <int Bytes>
  OGPSA_ALWAYS_INLINE static void run(BasisColumns<float, std::int8_t> q, float* to, Index n) {
    using V = Vector<float, Bytes>;
    Index i = 0;
    for (; i + V::size <= n; i += V::size) {
      typename V::Type values;
      q.template load<Bytes>(0, i, values);
      *reinterpret_cast<typename V::Unaligned*>(to + i) = values;
    }
    for (; i < n; ++i) to[i] = q.at(0, i);
  }
};

/// The smallest float of at most 16 significant bits that is not below x >= 0: its product with 7 bits more is exact.
inline float round_up_to_16_bits(float x) {
  std::uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  bits = (bits + 0xff) & ~std::uint32_t{0xff};
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

/// Blocks of kScaleBlock elements to integers and a scale for each.
struct EncodeKernel {
  template <int Bytes>
  OGPSA_ALWAYS_INLINE static void run(const float* x, Index n, std::int8_t* to, float* scales) {
    for (Index begin = 0; begin < n; begin += kScaleBlock, ++scales) {
      float block[kScaleBlock] = {};
      std::int8_t rounded[kScaleBlock];
      const Index count = std::min(kScaleBlock, n - begin);
      std::copy(x + begin, x + begin + count, block);
      float lanes[16] = {};
      for (Index i = 0; i < kScaleBlock; i += 16) {
        for (Index l = 0; l < 16; ++l) {
          const float magnitude = block[i + l] < 0 ? -block[i + l] : block[i + l];
          lanes[l] = lanes[l] < magnitude ? magnitude : lanes[l];
        }
      }
      const float largest = *std::max_element(lanes, lanes + 16);
      // Below, where a scale would lose bits (or its inverse overflow), a unit vector has nothing.
      const float scale = largest > 1e-30F ? round_up_to_16_bits(largest / 127) : 0.0F;
      const float inverse = scale > 0 ? 1 / scale : 0.0F;
      for (Index i = 0; i < kScaleBlock; ++i) {  // truncated from above 0: rounded to the nearest
        rounded[i] = static_cast<std::int8_t>(static_cast<std::int32_t>(block[i] * inverse + 128.5F) - 128);
      }
      std::copy(rounded, rounded + count, to + begin);
      *scales = scale;
    }
  }
};

}  // namespace ogpsa::detail
