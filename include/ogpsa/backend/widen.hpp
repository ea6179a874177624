#pragma once

#include <cstdint>
#include <cstring>
#include <utility>

#include "ogpsa/backend/instruction_set.hpp"

/// \file
/// Short numbers to a vector of float, and back. Spelled out in the shuffles that each instruction set has: from a
/// plain conversion GCC 12 makes many more instructions.

namespace ogpsa::detail {

/// `Bytes` of memory at any address.
template <class T, int Bytes>
struct Unaligned {
  typedef T Type __attribute__((vector_size(Bytes), aligned(1), may_alias));
};

template <int Bytes, int... I>
OGPSA_ALWAYS_INLINE void widen(const std::uint16_t* bfloat16_bits, typename Vector<float, Bytes>::Type& to,
                               std::integer_sequence<int, I...>) {
  if constexpr (Bytes == 64) {
    const auto& bits = *reinterpret_cast<const typename Unaligned<std::uint16_t, Bytes / 2>::Type*>(bfloat16_bits);
    to = (typename Vector<float, Bytes>::Type)(
        __builtin_convertvector(bits, typename Vector<std::uint32_t, Bytes>::Type) << 16);
  } else {
    // Each lane of 16 bytes gets its four numbers (twice), which are then put between zeros.
    using Pairs = typename Vector<std::uint64_t, Bytes>::Type;
    using Halves = typename Vector<std::uint16_t, Bytes>::Type;
    Pairs pairs;
    if constexpr (Bytes == 16) {
      std::uint64_t four;
      std::memcpy(&four, bfloat16_bits, sizeof four);
      pairs = Pairs{four, four};
    } else {
      const auto& both = *reinterpret_cast<const typename Unaligned<std::uint64_t, 16>::Type*>(bfloat16_bits);
      pairs = __builtin_shufflevector(both, both, 0, 0, 1, 1);
    }
    constexpr int count = Bytes / 2;
    to = (typename Vector<float, Bytes>::Type)__builtin_shufflevector(
        Halves{}, (Halves)pairs, (I / 8 * 8 + I % 8 / 2 + (I % 2 == 1 ? count : 0))...);
  }
}

/// The numbers behind the bits of bfloat16.
template <int Bytes>
OGPSA_ALWAYS_INLINE void widen(const std::uint16_t* bfloat16_bits, typename Vector<float, Bytes>::Type& to) {
  widen<Bytes>(bfloat16_bits, to, std::make_integer_sequence<int, Bytes / 2>());
}

template <int Bytes, int... I>
OGPSA_ALWAYS_INLINE void widen(const std::int8_t* from, typename Vector<float, Bytes>::Type& to,
                               std::integer_sequence<int, I...>) {
  using Words = typename Vector<std::int32_t, Bytes>::Type;
  using Quarters = typename Vector<std::int8_t, Bytes>::Type;
  Words words;
  if constexpr (Bytes == 64) {
    const auto& bytes = *reinterpret_cast<const typename Unaligned<std::int8_t, 16>::Type*>(from);
    words = __builtin_convertvector(__builtin_convertvector(bytes, typename Vector<std::int16_t, 32>::Type), Words);
  } else if constexpr (Bytes == 32) {  // each byte four times, and its sign taken from the last of them
    std::uint64_t eight;
    std::memcpy(&eight, from, sizeof eight);
    const auto all = (Quarters)(typename Vector<std::uint64_t, Bytes>::Type{eight, eight, eight, eight});
    words = (Words)__builtin_shufflevector(all, all, (I / 4 % 4 + I / 16 * 20)...) >> 24;
  } else {  // the same in two steps
    std::uint32_t four;
    std::memcpy(&four, from, sizeof four);
    const auto all = (Quarters)(typename Vector<std::uint32_t, Bytes>::Type{four, four, four, four});
    using Halves = typename Vector<std::int16_t, Bytes>::Type;
    const auto twice = (Halves)__builtin_shufflevector(all, all, (I / 2)...);
    words = (Words)__builtin_shufflevector(twice, twice, 0, 0, 1, 1, 2, 2, 3, 3) >> 24;
  }
  to = __builtin_convertvector(words, typename Vector<float, Bytes>::Type);
}

/// Whole numbers.
template <int Bytes>
OGPSA_ALWAYS_INLINE void widen(const std::int8_t* from, typename Vector<float, Bytes>::Type& to) {
  widen<Bytes>(from, to, std::make_integer_sequence<int, Bytes>());
}

template <int Bytes, int... I>
OGPSA_ALWAYS_INLINE void put_upper_halves(const typename Vector<std::uint32_t, Bytes>::Type& first,
                                          const typename Vector<std::uint32_t, Bytes>::Type& second, std::uint16_t* to,
                                          std::integer_sequence<int, I...>) {
  using Halves = typename Vector<std::uint16_t, Bytes>::Type;
  *reinterpret_cast<typename Unaligned<std::uint16_t, Bytes>::Type*>(to) =
      __builtin_shufflevector((Halves)first, (Halves)second, (2 * I + 1)...);
}

/// Bits of float whose upper halves are those of bfloat16, rounded to nearest even; not for NaN.
template <class Bits>
OGPSA_ALWAYS_INLINE void round_to_upper_halves(Bits& bits) {
  bits += 0x7fff + ((bits >> 16) & 1);
}

template <int Bytes>
OGPSA_ALWAYS_INLINE bool any_sign(const typename Vector<std::uint32_t, Bytes>::Type& x) {
  std::uint32_t bits = 0;
  for (int l = 0; l < Vector<std::uint32_t, Bytes>::size; ++l) bits |= x[l];
  return (bits >> 31) != 0;
}

/// Two vectors of float to bfloat16, rounded to nearest even, for all but NaN: where there is one, a sign in `nan` is
/// set.
template <int Bytes>
OGPSA_ALWAYS_INLINE void narrow(const float* from, std::uint16_t* to,
                                typename Vector<std::uint32_t, Bytes>::Type& nan) {
  using V = Vector<std::uint32_t, Bytes>;
  typename V::Type bits[2];
  for (int v = 0; v < 2; ++v) {
    bits[v] = *reinterpret_cast<const typename V::Unaligned*>(from + v * V::size);
    nan |= (bits[v] & 0x7fffffff) + 0x7fffff;
    round_to_upper_halves(bits[v]);
  }
  put_upper_halves<Bytes>(bits[0], bits[1], to, std::make_integer_sequence<int, Bytes / 2>());
}

/// Sixteen floats in vectors to bfloat16, rounded to nearest even.
template <int Bytes, int Count>
OGPSA_ALWAYS_INLINE void narrow(const typename Vector<float, Bytes>::Type (&from)[Count], std::uint16_t* to) {
  using Words = typename Vector<std::uint32_t, Bytes>::Type;
  using Signed = typename Vector<std::int32_t, Bytes>::Type;
  Words bits[Count];
  for (int v = 0; v < Count; ++v) {
    bits[v] = (Words)from[v];
    const auto is_nan = (Signed)(bits[v] & 0x7fffffff) > 0x7f800000;  // of the bits: -ffast-math knows no NaN
    const Words nan = (bits[v] & 0x80000000) | 0x7fc00000;
    round_to_upper_halves(bits[v]);
    bits[v] = is_nan ? nan : bits[v];
  }
  if constexpr (Count == 1) {
    using Halves = typename Vector<std::uint16_t, Bytes / 2>::Type;
    *reinterpret_cast<typename Unaligned<std::uint16_t, Bytes / 2>::Type*>(to) =
        __builtin_convertvector(bits[0] >> 16, Halves);
  } else {
    for (int v = 0; v < Count; v += 2) {
      put_upper_halves<Bytes>(bits[v], bits[v + 1], to + v * Vector<float, Bytes>::size,
                              std::make_integer_sequence<int, Bytes / 2>());
    }
  }
}

}  // namespace ogpsa::detail
