#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#include "ogpsa/backend/basis_columns.hpp"
#include "ogpsa/backend/instruction_set.hpp"
#include "ogpsa/tensor_view.hpp"

/// \file
/// Inner loops over contiguous memory. Sums run in a fixed number of lanes, so that the compiler can vectorise them and
/// the result does not depend on where in memory the data lies.

namespace ogpsa::detail {

inline constexpr Index kLanes = 16;

template <class T>
OGPSA_ALWAYS_INLINE T sum_lanes(T (&lanes)[kLanes]) {
  for (Index width = kLanes / 2; width > 0; width /= 2) {
    for (Index l = 0; l < width; ++l) lanes[l] += lanes[l + width];
  }
  return lanes[0];
}

/// Sums of squares in double, one lane for each number of `kLanes`.
template <class T, int Bytes>
struct SquareLanes {
  using V = Vector<T, Bytes>;
  using Wide = Vector<double, Bytes>;
  typename Wide::Type lanes[kLanes / Wide::size] = {};

  /// Adds the squares of the v-th vector of kLanes numbers. It is taken apart in registers: to read it back from memory
  /// in halves, right after it was written, would wait for the store.
  OGPSA_ALWAYS_INLINE void add(const typename V::Type& x, Index v) {
    if constexpr (std::is_same_v<T, double>) {
      lanes[v] += x * x;
    } else {
      constexpr auto half = std::make_integer_sequence<int, V::size / 2>();
      add_part<0>(x, lanes[2 * v], half);
      add_part<V::size / 2>(x, lanes[2 * v + 1], half);
    }
  }
  template <int First, int... I>
  OGPSA_ALWAYS_INLINE static void add_part(const typename V::Type& x, typename Wide::Type& lane,
                                           std::integer_sequence<int, I...>) {
    const auto wide = __builtin_convertvector(__builtin_shufflevector(x, x, (First + I)...), typename Wide::Type);
    lane += wide * wide;
  }
  /// The sum of all, and of the squares of `count` < kLanes more numbers.
  OGPSA_ALWAYS_INLINE double total(const T* rest, Index count) const {
    double last[kLanes];
    std::memcpy(last, lanes, sizeof last);
    for (Index l = 0; l < count; ++l) last[l] += static_cast<double>(rest[l]) * static_cast<double>(rest[l]);
    return sum_lanes(last);
  }
};

template <class T>
struct SquaredNormKernel {
  template <int Bytes>
  OGPSA_ALWAYS_INLINE static double run(const T* x, Index n) {
    using V = Vector<T, Bytes>;
    SquareLanes<T, Bytes> squares;
    Index i = 0;
    for (; i + kLanes <= n; i += kLanes) {
#pragma GCC unroll 8
      for (Index v = 0; v < kLanes / V::size; ++v) {
        const typename V::Type values = *reinterpret_cast<const typename V::Unaligned*>(x + i + v * V::size);
        squares.add(values, v);
      }
    }
    return squares.total(x + i, n - i);
  }
};

/// sum_i x_i^2 in double, so that neither large nor tiny gradients leave the range of float.
template <class T>
double squared_norm(const T* x, Index n) {
  return run_best<SquaredNormKernel<T>>(x, n);
}

/// max_i |x_i|, for finite x.
template <class T>
T max_abs(const T* x, Index n) {
  T lanes[kLanes] = {};
  const auto take = [](T& lane, T value) {
    const T magnitude = value < 0 ? -value : value;
    lane = lane < magnitude ? magnitude : lane;
  };
  Index i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (Index l = 0; l < kLanes; ++l) take(lanes[l], x[i + l]);
  }
  for (Index l = 0; l < std::min(n - i, kLanes); ++l) take(lanes[l], x[i + l]);
  return *std::max_element(lanes, lanes + kLanes);
}

/// sum_i q_ik x_i for K columns q_k, and sum_i x_i^2, in one pass; added to sums[0 .. K - 1] and sums[K]. A lane adds
/// at most 32 products in the arithmetic type, the rest is added in double: even where all roundings go one way
/// (constant data) the error of a product stays below 16 u.
template <class T, int K, class S = T>
struct MeasureKernel {
  template <int Bytes>
  OGPSA_ALWAYS_INLINE static void run(BasisColumns<T, S> q, const T* x, Index n, double* sums) {
    using V = Vector<T, Bytes>;
    using Unaligned = typename V::Unaligned;
    constexpr Index chunk = 32 * kLanes;
    SquareLanes<T, Bytes> squares;
    Index i = 0;
    for (Index begin = 0; begin < n; begin += chunk) {
      const Index end = begin + chunk < n ? begin + chunk : n;
      typename V::Type lanes[K][kLanes / V::size] = {};
      for (i = begin; i + kLanes <= end; i += kLanes) {
#pragma GCC unroll 8
        for (Index v = 0; v < kLanes / V::size; ++v) {
          const typename V::Type values = *reinterpret_cast<const Unaligned*>(x + i + v * V::size);
          squares.add(values, v);
#pragma GCC unroll 4
          for (Index k = 0; k < K; ++k) {
            typename V::Type column;
            q.template load<Bytes>(k, i + v * V::size, column);
            lanes[k][v] += values * column;
          }
        }
      }
      for (Index k = 0; k < K; ++k) {
        T last[kLanes];
        std::memcpy(last, lanes[k], sizeof last);
        for (Index l = 0; i + l < end; ++l) last[l] += x[i + l] * q.at(k, i + l);
        sums[k] += static_cast<double>(sum_lanes(last));
      }
    }
    sums[K] += squares.total(x + i, n - i);
  }
};

/// y <- keep x - sum_k c_k q_k for K columns q_k, in one pass; y may be x. Returns |y|^2.
template <class T, int K, class S = T>
struct ChangeKernel {
  template <int Bytes>
  OGPSA_ALWAYS_INLINE static double run(T keep, const T* c, BasisColumns<T, S> q, const T* x, T* y, Index n) {
    using V = Vector<T, Bytes>;
    using Unaligned = typename V::Unaligned;
    SquareLanes<T, Bytes> squares;
    Index i = 0;
    for (; i + kLanes <= n; i += kLanes) {
#pragma GCC unroll 8
      for (Index v = 0; v < kLanes / V::size; ++v) {
        typename V::Type value = keep * *reinterpret_cast<const Unaligned*>(x + i + v * V::size);
#pragma GCC unroll 4
        for (Index k = 0; k < K; ++k) {
          typename V::Type column;
          q.template load<Bytes>(k, i + v * V::size, column);
          value -= c[k] * column;
        }
        *reinterpret_cast<Unaligned*>(y + i + v * V::size) = value;
        squares.add(value, v);
      }
    }
    for (Index j = i; j < n; ++j) {
      T value = keep * x[j];
      for (Index k = 0; k < K; ++k) value -= c[k] * q.at(k, j);
      y[j] = value;
    }
    return squares.total(y + i, n - i);
  }
};

/// Calls f(the number of columns as a constant, first column) so that all of `columns` are covered, four, two or one at
/// a time.
template <class F>
void in_groups_of_columns(Index columns, F&& f) {
  Index k = 0;
  for (; k + 4 <= columns; k += 4) f(std::integral_constant<int, 4>(), k);
  if (k + 2 <= columns) {
    f(std::integral_constant<int, 2>(), k);
    k += 2;
  }
  if (k < columns) f(std::integral_constant<int, 1>(), k);
}

/// Conversion between storage and arithmetic types, rounding to nearest even.
template <class S, class T>
struct ConvertKernel {
  static constexpr bool has_vectors = (std::is_same_v<S, bfloat16> && std::is_same_v<T, float>) ||
                                      (std::is_same_v<S, float> && std::is_same_v<T, bfloat16>);
  template <int Bytes>
  OGPSA_ALWAYS_INLINE static void run(const S* from, T* to, Index n) {
    using V = Vector<std::uint32_t, Bytes>;
    typedef std::uint16_t Half __attribute__((vector_size(Bytes / 2), aligned(2), may_alias));
    using Word = typename V::Unaligned;
    Index i = 0;
    if constexpr (std::is_same_v<T, float>) {
      for (; i + V::size <= n; i += V::size) {
        typename Vector<float, Bytes>::Type values;
        widen<Bytes>(reinterpret_cast<const std::uint16_t*>(from + i), values);
        *reinterpret_cast<typename Vector<float, Bytes>::Unaligned*>(to + i) = values;
      }
    } else {
      for (; i + V::size <= n; i += V::size) {
        const typename V::Type bits = *reinterpret_cast<const Word*>(from + i);
        const typename V::Type rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
        const typename V::Type nan = ((bits >> 16) & 0x8000) | 0x7fc0;
        const auto is_nan = (bits & 0x7fffffff) > 0x7f800000;
        *reinterpret_cast<Half*>(to + i) = __builtin_convertvector(is_nan ? nan : rounded, Half);
      }
    }
    for (; i < n; ++i) to[i] = static_cast<T>(from[i]);
  }
};

template <class S, class T>
void convert(const S* from, T* to, Index n) {
  if constexpr (ConvertKernel<S, T>::has_vectors) {
    run_best<ConvertKernel<S, T>>(from, to, n);
  } else {
    for (Index i = 0; i < n; ++i) to[i] = static_cast<T>(from[i]);
  }
}

/// Elements [begin, begin + n) of a tensor as `T`: in place when that is how they are stored, else through `buffer`.
template <class T>
const T* load(ConstTensorView tensor, Index begin, Index n, T* buffer) {
  if (tensor.dtype == dtype_of<T>()) return static_cast<const T*>(tensor.data) + begin;
  visit_dtype(tensor.dtype, [&](auto* tag) {
    using S = std::remove_pointer_t<decltype(tag)>;
    convert(static_cast<const S*>(tensor.data) + begin, buffer, n);
  });
  return buffer;
}

/// Writes values back over elements [begin, begin + n) of a tensor.
template <class T>
void store(const T* values, Index n, TensorView tensor, Index begin) {
  visit_dtype(tensor.dtype, [&](auto* tag) { convert(values, static_cast<decltype(tag)>(tensor.data) + begin, n); });
}

/// Steps of stored values, in `T`; where these are in double, so is the difference.
template <class S, class T>
struct StepKernel {
  using Wide = std::conditional_t<std::is_same_v<S, double>, double, T>;

  /// step <- x - origin
  template <int Bytes>
  OGPSA_ALWAYS_INLINE static void run(const S* x, const S* origin, T* step, Index n) {
    for (Index i = 0; i < n; ++i) step[i] = static_cast<T>(static_cast<Wide>(x[i]) - static_cast<Wide>(origin[i]));
  }
  /// x <- x + (step - (x - origin)), rounded in this order. The change is zero where `step` is as it was loaded, and x
  /// then keeps its bits, also where the processor takes subnormal numbers for zero.
  template <int Bytes>
  OGPSA_ALWAYS_INLINE static void run(S* x, const S* origin, const T* step, Index n) {
    Index i = 0;
    if constexpr (std::is_same_v<S, T>) {
      using V = Vector<T, Bytes>;
      using Unaligned = typename V::Unaligned;
      for (; i + V::size <= n; i += V::size) {
        const typename V::Type value = *reinterpret_cast<const Unaligned*>(x + i);
        typename V::Type taken = value - *reinterpret_cast<const Unaligned*>(origin + i);
        typename V::Type change = *reinterpret_cast<const Unaligned*>(step + i) - fenced(taken);
        typename V::Type moved = value + fenced(change);
        *reinterpret_cast<Unaligned*>(x + i) = change == 0 ? value : fenced(moved);
      }
    }
    for (; i < n; ++i) {
      const Wide value = static_cast<Wide>(x[i]);
      T taken = static_cast<T>(value - static_cast<Wide>(origin[i]));
      T change = step[i] - fenced(taken);
      Wide moved = value + static_cast<Wide>(fenced(change));
      if (change != 0) x[i] = static_cast<S>(fenced(moved));
    }
  }
};

/// Calls f(values of a tensor in `T`, those of its origin, first element, how many) for short pieces of n elements:
/// faster than number by number.
template <class T, class S, class F>
void in_converted_chunks(const S* x, const S* origin, Index n, F&& f) {
  constexpr Index chunk = 256;
  T values[chunk], origins[chunk];
  for (Index i = 0; i < n; i += chunk) {
    const Index count = std::min(chunk, n - i);
    convert(x + i, static_cast<T*>(values), count);
    convert(origin + i, static_cast<T*>(origins), count);
    f(static_cast<T*>(values), static_cast<const T*>(origins), i, count);
  }
}

/// Elements [begin, begin + n) of tensor - origin.
template <class T>
void load_difference(ConstTensorView tensor, ConstTensorView origin, Index begin, Index n, T* to) {
  visit_dtype(tensor.dtype, [&](auto* tag) {
    using S = std::remove_pointer_t<decltype(tag)>;
    const S* const x = static_cast<const S*>(tensor.data) + begin;
    const S* const from = static_cast<const S*>(origin.data) + begin;
    if constexpr (ConvertKernel<S, T>::has_vectors) {
      in_converted_chunks<T>(x, from, n, [&](const T* values, const T* origins, Index i, Index count) {
        run_best<StepKernel<T, T>>(values, origins, to + i, count);
      });
    } else {
      run_best<StepKernel<S, T>>(x, from, to, n);
    }
  });
}

/// Moves elements [begin, begin + n) of a tensor to where `step` leads from the origin, by adding the difference: what
/// is there already keeps its bits, and the sum is rounded once.
template <class T>
void move(const T* step, Index n, TensorView tensor, ConstTensorView origin, Index begin) {
  visit_dtype(tensor.dtype, [&](auto* tag) {
    using S = std::remove_pointer_t<decltype(tag)>;
    S* const to = static_cast<S*>(tensor.data) + begin;
    const S* const from = static_cast<const S*>(origin.data) + begin;
    if constexpr (sizeof(S) == 2) {
      in_converted_chunks<T>(static_cast<const S*>(to), from, n,
                             [&](T* values, const T* origins, Index i, Index count) {
                               run_best<StepKernel<T, T>>(values, origins, step + i, count);
                               convert(static_cast<const T*>(values), to + i, count);
                             });
    } else {
      run_best<StepKernel<S, T>>(to, from, step, n);
    }
  });
}

/// Where the exponent stands in a storage type.
template <class S>
struct ExponentField {
  using Bits = std::conditional_t<sizeof(S) == 8, std::uint64_t,
                                  std::conditional_t<sizeof(S) == 4, std::uint32_t, std::uint16_t>>;
  static constexpr Bits mask = dtype_of<S>() == DType::float64    ? static_cast<Bits>(0x7ff0000000000000u)
                               : dtype_of<S>() == DType::float32  ? static_cast<Bits>(0x7f800000u)
                               : dtype_of<S>() == DType::bfloat16 ? static_cast<Bits>(0x7f80u)
                                                                  : static_cast<Bits>(0x7c00u);
  static constexpr Bits low = static_cast<Bits>(mask & (~mask + 1));
  static constexpr int infinite = static_cast<int>(mask / low);  // the exponent field of infinity and NaN
};

/// Tells values by their exponent's bits, so -ffast-math is no danger.
template <class Bits>
struct FindBeyondKernel {
  /// `gap` carries into the sign exactly where the exponent field, under `mask`, is too large.
  template <int Bytes>
  OGPSA_ALWAYS_INLINE static Index run(const void* values, Index n, Bits mask, Bits gap) {
    using V = Vector<Bits, Bytes>;
    const char* data = static_cast<const char*>(values);
    constexpr Bits sign = static_cast<Bits>(Bits{1} << (8 * sizeof(Bits) - 1));
    constexpr Index size = sizeof(Bits), chunk = 4096;
    for (Index begin = 0; begin < n; begin += chunk) {
      const Index end = begin + chunk < n ? begin + chunk : n;
      typename V::Type any = {};
      Index i = begin;
      for (; i + V::size <= end; i += V::size) {
        any |= (*reinterpret_cast<const typename V::Unaligned*>(data + i * size) & mask) + gap;
      }
      Bits bits = 0;
      for (Index l = 0; l < V::size; ++l) bits = static_cast<Bits>(bits | any[l]);
      for (; i < end; ++i) bits = static_cast<Bits>(bits | carried(data + i * size, mask, gap));
      if (!(bits & sign)) continue;
      for (i = begin; i < end; ++i) {
        if (carried(data + i * size, mask, gap) & sign) return i;
      }
    }
    return -1;
  }
  OGPSA_ALWAYS_INLINE static Bits carried(const char* value, Bits mask, Bits gap) {
    Bits bits;
    std::memcpy(&bits, value, sizeof bits);
    return static_cast<Bits>((bits & mask) + gap);
  }
};

/// Index of the first value with |x| >= 2^exponent, NaN or infinite, or -1.
template <class S>
Index find_beyond(const S* data, Index n, int exponent) {
  using Field = ExponentField<S>;
  using Bits = typename Field::Bits;
  const int field = std::clamp(exponent + Field::infinite / 2, 1, Field::infinite);
  const Bits gap = static_cast<Bits>(static_cast<Bits>(Field::infinite + 1 - field) * Field::low);
  return run_best<FindBeyondKernel<Bits>>(static_cast<const void*>(data), n, Field::mask, gap);
}

/// Index of the first value that is NaN or infinite, or -1.
template <class S>
Index find_non_finite(const S* data, Index n) {
  return find_beyond(data, n, 2000);
}

}  // namespace ogpsa::detail
