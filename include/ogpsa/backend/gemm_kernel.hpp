#pragma once

#include <algorithm>
#include <cstring>

#include "ogpsa/backend/instruction_set.hpp"
#include "ogpsa/tensor_view.hpp"

/// \file
/// C <- C + alpha A B by packed blocks and a register tile (Goto and van de Geijn 2008), in the best instruction set of
/// the processor. Sums are exact enough for the numerical contract however long they are: at most 64 products are added
/// in registers, at most 8 such sums in the arithmetic type, and those in the type of C.

namespace ogpsa::detail {

/// An operand of a product, in any order of its elements: element (i, j) is data[i * row + j * col].
template <class T>
struct GemmOperand {
  const T* data;
  Index row;
  Index col;
};

/// C (column-major, in T or in double) <- C + alpha A B, A m x k, B k x n.
template <class T>
struct GemmTask {
  Index m, n, k;
  double alpha;
  GemmOperand<T> a, b;
  T* c;
  double* wide_c;  // instead of c, where that is null
  Index stride;
  T* packed_a;  // see GemmKernel::run
  T* packed_b;
};

template <class T>
struct GemmKernel {
  static constexpr Index chain = 64;         // products that are added in registers
  static constexpr Index depth = 8 * chain;  // of a block: B's strip of it stays in the first-level cache
  static constexpr Index height = 192;       // of a block of A: it stays in the second-level cache
  static constexpr Index width = 384;        // of a block of B

  /// The register tile: two vectors high, as wide as there are registers for.
  template <int Bytes>
  static constexpr Index rows = 2 * Vector<T, Bytes>::size;
  template <int Bytes>
  static constexpr Index cols = Bytes == 64   ? 12
                                : Bytes == 32 ? 6
                                              : 4;

  /// Numbers that a packed block may need, whatever the instruction set.
  static Index packed_a_size(const GemmTask<T>& t) { return packed_size(t.m, height, rows<64>, t.k); }
  static Index packed_b_size(const GemmTask<T>& t) { return packed_size(t.n, width, 12, t.k); }
  static Index packed_size(Index lines, Index most, Index strip, Index k) {
    return (std::min(lines, most) + strip) * std::min(k, depth);
  }

  template <int Bytes>
  OGPSA_ALWAYS_INLINE static void run(const GemmTask<T>* task) {
    constexpr Index mr = rows<Bytes>, nr = cols<Bytes>;
    const auto& t = *task;
    for (Index p = 0; p < t.k; p += depth) {
      const Index kc = std::min(depth, t.k - p);
      for (Index j = 0; j < t.n; j += width) {
        const Index nc = std::min(width, t.n - j);
        pack<nr>(t.b.data + p * t.b.row + j * t.b.col, t.b.col, t.b.row, nc, kc, t.packed_b);
        for (Index i = 0; i < t.m; i += height) {
          const Index mc = std::min(height, t.m - i);
          pack<mr>(t.a.data + i * t.a.row + p * t.a.col, t.a.row, t.a.col, mc, kc, t.packed_a);
          multiply_block<Bytes>(t, i, j, mc, nc, kc);
        }
      }
    }
  }

  /// Strips of `Width` lines of `kc` numbers: for each position along the sum, the numbers of all lines side by side.
  /// `line` and `along` are the distances between lines and along one. Missing lines are zero.
  template <Index Width>
  OGPSA_ALWAYS_INLINE static void pack(const T* from, Index line, Index along, Index lines, Index kc, T* to) {
    for (Index first = 0; first < lines; first += Width, to += Width * kc) {
      const Index count = std::min(Width, lines - first);
      const T* strip = from + first * line;
      if (count < Width) std::fill(to, to + Width * kc, T(0));
      if (line == 1 && count == Width) {
        for (Index p = 0; p < kc; ++p) std::memcpy(to + p * Width, strip + p * along, sizeof(T) * Width);
      } else {
        constexpr Index side = Vector<T, 16>::size;
        const Index high = along == 1 ? count / side * side : 0, deep = kc / side * side;  // of what squares cover
        for (Index l = 0; l < high; l += side) {
          for (Index p = 0; p < deep; p += side) copy_transposed<Width>(strip + l * line + p, line, to + p * Width + l);
        }
        for (Index l = 0; l < count; ++l) {
          for (Index p = l < high ? deep : 0; p < kc; ++p) to[p * Width + l] = strip[l * line + p * along];
        }
      }
    }
  }

  /// to[l + Width p] <- from[p + line l] for a square of 16 bytes each way.
  template <Index Width>
  OGPSA_ALWAYS_INLINE static void copy_transposed(const T* from, Index line, T* to) {
    using Memory = typename Vector<T, 16>::Unaligned;
    constexpr Index side = Vector<T, 16>::size;
    typename Vector<T, 16>::Type square[side];
    for (Index l = 0; l < side; ++l) square[l] = *reinterpret_cast<const Memory*>(from + l * line);
    transpose(square);
    for (Index p = 0; p < side; ++p) *reinterpret_cast<Memory*>(to + p * Width) = square[p];
  }
  template <class V>
  OGPSA_ALWAYS_INLINE static void transpose(V (&square)[2]) {
    const V a = square[0], b = square[1];
    square[0] = __builtin_shufflevector(a, b, 0, 2);
    square[1] = __builtin_shufflevector(a, b, 1, 3);
  }
  template <class V>
  OGPSA_ALWAYS_INLINE static void transpose(V (&square)[4]) {
    const V a = __builtin_shufflevector(square[0], square[1], 0, 4, 1, 5);
    const V b = __builtin_shufflevector(square[0], square[1], 2, 6, 3, 7);
    const V c = __builtin_shufflevector(square[2], square[3], 0, 4, 1, 5);
    const V d = __builtin_shufflevector(square[2], square[3], 2, 6, 3, 7);
    square[0] = __builtin_shufflevector(a, c, 0, 1, 4, 5);
    square[1] = __builtin_shufflevector(a, c, 2, 3, 6, 7);
    square[2] = __builtin_shufflevector(b, d, 0, 1, 4, 5);
    square[3] = __builtin_shufflevector(b, d, 2, 3, 6, 7);
  }

  template <int Bytes>
  OGPSA_ALWAYS_INLINE static void multiply_block(const GemmTask<T>& t, Index row, Index col, Index mc, Index nc,
                                                 Index kc) {
    constexpr Index mr = rows<Bytes>, nr = cols<Bytes>;
    for (Index j = 0; j < nc; j += nr) {
      for (Index i = 0; i < mc; i += mr) {
        alignas(64) T tile[mr * nr];
        multiply_tile<Bytes>(t.packed_a + i * kc, t.packed_b + j * kc, kc, tile);
        const Index height_left = std::min(mr, mc - i), width_left = std::min(nr, nc - j);
        const Index first = row + i + (col + j) * t.stride;
        if (t.c != nullptr) {
          add_tile<mr>(tile, height_left, width_left, t.alpha, t.c + first, t.stride);
        } else {
          add_tile<mr>(tile, height_left, width_left, t.alpha, t.wide_c + first, t.stride);
        }
      }
    }
  }

  template <Index Rows, class S>
  OGPSA_ALWAYS_INLINE static void add_tile(const T* tile, Index height_left, Index width_left, double alpha, S* c,
                                           Index stride) {
    for (Index l = 0; l < width_left; ++l) {
      S* column = c + l * stride;
      const T* sums = tile + l * Rows;
      for (Index r = 0; r < height_left; ++r) column[r] += static_cast<S>(alpha) * static_cast<S>(sums[r]);
    }
  }

  /// tile (column-major) <- product of one strip of A and one of B.
  template <int Bytes>
  OGPSA_ALWAYS_INLINE static void multiply_tile(const T* a, const T* b, Index kc, T* tile) {
    using V = typename Vector<T, Bytes>::Type;
    constexpr Index nr = cols<Bytes>, size = Vector<T, Bytes>::size;
    V* const sums = reinterpret_cast<V*>(tile);
    for (Index begin = 0; begin < kc; begin += chain) {
      const Index end = std::min(begin + chain, kc);
      V upper[nr] = {}, lower[nr] = {};
      for (Index p = begin; p < end; ++p) {
        const V* const column = reinterpret_cast<const V*>(a + p * 2 * size);
        const V top = column[0], bottom = column[1];
        const T* const row = b + p * nr;
#pragma GCC unroll 12
        for (Index l = 0; l < nr; ++l) {
          upper[l] += top * row[l];
          lower[l] += bottom * row[l];
        }
      }
#pragma GCC unroll 12
      for (Index l = 0; l < nr; ++l) {
        sums[2 * l] = begin == 0 ? upper[l] : sums[2 * l] + upper[l];
        sums[2 * l + 1] = begin == 0 ? lower[l] : sums[2 * l + 1] + lower[l];
      }
    }
  }
};

}  // namespace ogpsa::detail
