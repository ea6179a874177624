#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "ogpsa/backend/widen.hpp"
#include "ogpsa/tensor_view.hpp"

/// \file
/// Tensors in their storage type, read and written as the type of the arithmetic: values, and steps away from others.

namespace ogpsa::detail {

/// Conversion between storage and arithmetic types, rounding to nearest even.
template <class S, class T>
struct ConvertKernel {
  static constexpr bool has_vectors = (std::is_same_v<S, bfloat16> && std::is_same_v<T, float>) ||
                                      (std::is_same_v<S, float> && std::is_same_v<T, bfloat16>);
  template <int Bytes>
  OGPSA_ALWAYS_INLINE static void run(const S* from, T* to, Index n) {
    constexpr Index size = Vector<float, Bytes>::size, chunk = 256;
    Index i = 0;
    if constexpr (std::is_same_v<T, float>) {
      for (; i + size <= n; i += size) {
        typename Vector<float, Bytes>::Type values;
        widen<Bytes>(reinterpret_cast<const std::uint16_t*>(from + i), values);
        *reinterpret_cast<typename Vector<float, Bytes>::Unaligned*>(to + i) = values;
      }
    } else {
      for (const Index whole = n - n % (2 * size); i < whole;) {
        const Index begin = i, end = begin + chunk < whole ? begin + chunk : whole;
        typename Vector<std::uint32_t, Bytes>::Type nan = {};
        for (; i < end; i += 2 * size) narrow<Bytes>(from + i, reinterpret_cast<std::uint16_t*>(to + i), nan);
        if (!any_sign<Bytes>(nan)) continue;
        for (Index j = begin; j < end; ++j) to[j] = static_cast<T>(from[j]);
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

}  // namespace ogpsa::detail
