#pragma once

#include "device.cuh"

namespace ogpsa_cuda {

// -------------------------------------------------------------------------- several elements of a thread at a time

template <class A, class B>
struct Smaller {
  static constexpr int bytes = sizeof(A) < sizeof(B) ? sizeof(A) : sizeof(B);
};
// Elements in a pack of a thread that works with both types: 16 bytes of the smaller one.
template <class A, class B = A>
constexpr int kPack = 16 / Smaller<A, B>::bytes;

OGPSA_DEVICE inline bool on_16_bytes(const void* data) { return reinterpret_cast<unsigned long long>(data) % 16 == 0; }

// to[0 .. W) <- from[0 .. count), the rest zero. `wide`: `from` lies on a multiple of 16 bytes.
template <int W, class S>
OGPSA_DEVICE inline void load_pack(const S* from, int count, bool wide, S (&to)[W]) {
  static_assert(W * sizeof(S) % 16 == 0);
  constexpr int each = 16 / sizeof(S);
  if (wide && count == W) {
    OGPSA_UNROLL
    for (int w = 0; w < W; w += each) {
      const Words words = *reinterpret_cast<const Words*>(from + w);
      memcpy(to + w, &words, 16);
    }
    return;
  }
  OGPSA_UNROLL
  for (int w = 0; w < W; ++w) to[w] = w < count ? from[w] : S{};
}

// to[0 .. count) <- from[0 .. count).
template <int W, class S>
OGPSA_DEVICE inline void store_pack(const S (&from)[W], int count, bool wide, S* to) {
  static_assert(W * sizeof(S) % 16 == 0);
  constexpr int each = 16 / sizeof(S);
  if (wide && count == W) {
    OGPSA_UNROLL
    for (int w = 0; w < W; w += each) {
      Words words;
      memcpy(&words, from + w, 16);
      store_words(words, to + w);
    }
    return;
  }
  OGPSA_UNROLL
  for (int w = 0; w < W; ++w) {
    if (w < count) to[w] = from[w];
  }
}

// Calls f(i, count) for each pack of [begin, end) that thread t handles; only the last one has fewer than W elements.
template <int W, class F>
OGPSA_DEVICE inline void for_packs(Index begin, Index end, int t, F f) {
  for (Index i = begin + Index{t} * W; i < end; i += kThreads * W) f(i, end - i < W ? static_cast<int>(end - i) : W);
}

// x - origin in the arithmetic type, or x; elements beyond `count` are zero.
template <class T, class S, int W>
OGPSA_DEVICE inline void load_values(const S (&x)[W], const S* origin, int count, bool wide, T (&to)[W]) {
  if (!origin) {
    OGPSA_UNROLL
    for (int w = 0; w < W; ++w) to[w] = static_cast<T>(value(x[w]));
    return;
  }
  S from[W];
  load_pack(origin, count, wide, from);
  OGPSA_UNROLL
  for (int w = 0; w < W; ++w) to[w] = difference<T>(x[w], from[w]);
}

// x <- the value, or what it adds to x from the origin on.
template <class T, class S, int W>
OGPSA_DEVICE inline void store_values(const T (&from)[W], const S* origin, int count, bool wide, S (&x)[W]) {
  if (!origin) {
    OGPSA_UNROLL
    for (int w = 0; w < W; ++w) store(from[w], x + w);
    return;
  }
  S start[W];
  load_pack(origin, count, wide, start);
  OGPSA_UNROLL
  for (int w = 0; w < W; ++w) move(from[w], start[w], x + w);
}

}  // namespace ogpsa_cuda
