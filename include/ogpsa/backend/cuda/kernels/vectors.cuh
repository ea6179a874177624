#pragma once

#include "packs.cuh"

namespace ogpsa_cuda {

// ------------------------------------------------------------------------------------- projections of vectors

constexpr int kTogether = 8;       // columns of a basis that are read beside one pass over a vector
constexpr Index kLongestSum = 32;  // products that a thread adds in the arithmetic type, before it goes on in double

// Whether all packs of a vector and of its basis can be read and written by 16 bytes.
template <class T, class S>
OGPSA_DEVICE inline bool is_wide(const VectorEntry& v) {
  assume_global(v.data);
  assume_global(v.origin);
  assume_global(v.basis);
  return on_16_bytes(v.data) && on_16_bytes(v.origin) && on_16_bytes(v.basis) && v.stride % kPack<T, S> == 0;
}

// Coefficients of columns [first, first + columns), and then |x|^2, of the elements of one thread.
template <class T, class S>
OGPSA_DEVICE inline void measure_elements(const S* x, const VectorEntry& v, Index first, int columns, Index begin,
                                          Index end, int t, double (*sums)[kThreads]) {
  constexpr int W = kPack<T, S>;
  constexpr Index chunk_length = kLongestSum * kThreads;
  const bool wide = is_wide<T, S>(v);
  const S* origin = static_cast<const S*>(v.origin);
  const T* basis = static_cast<const T*>(v.basis) + first * v.stride;
  double total[kTogether + 1] = {};
  for (Index chunk = begin; chunk < end; chunk += chunk_length) {
    T part[kTogether] = {};
    for_packs<W>(chunk, end < chunk + chunk_length ? end : chunk + chunk_length, t, [&](Index i, int count) {
      S stored[W];
      T xs[W], q[W];
      load_pack(x + i, count, wide, stored);
      load_values(stored, origin ? origin + i : origin, count, wide, xs);
      OGPSA_UNROLL
      for (int c = 0; c < kTogether; ++c) {
        if (c >= columns) continue;
        load_pack(basis + c * v.stride + i, count, wide, q);
        OGPSA_UNROLL
        for (int w = 0; w < W; ++w) part[c] += q[w] * xs[w];
      }
      OGPSA_UNROLL
      for (int w = 0; w < W; ++w) total[kTogether] += static_cast<double>(xs[w]) * static_cast<double>(xs[w]);
    });
    OGPSA_UNROLL
    for (int c = 0; c < kTogether; ++c) total[c] += static_cast<double>(part[c]);
  }
  OGPSA_UNROLL
  for (int c = 0; c < kTogether; ++c) {
    if (c < columns) sums[c][t] = total[c];
  }
  sums[columns][t] = total[kTogether];
}

struct Elements {
  Index begin, end;
};
OGPSA_DEVICE inline Elements elements_of(const VectorEntry& v, Index task, Index length) {
  const Index begin = task * length;
  return {begin, v.size < begin + length ? v.size : begin + length};
}

// The coefficients of some elements of a vector, and their |x|^2, by one block.
template <class T>
OGPSA_DEVICE inline void measure_task(const VectorEntry& v, Elements e, double* results) {
  OGPSA_SHARED double sums[kTogether + 1][kThreads];
  for (Index first = 0; first == 0 || first < v.rank; first += kTogether) {
    const int columns = static_cast<int>(v.rank - first < kTogether ? v.rank - first : kTogether);
    phase([&](int t) {
      visit(v.dtype, [&](auto* tag) {
        const auto* x = static_cast<decltype(tag)>(v.data);
        measure_elements<T>(x, v, first, columns, e.begin, e.end, t, sums);
      });
    });
    for (int width = kThreads / 2; width > 0; width /= 2) {
      phase([&](int t) {
        if (t >= width) return;
        for (int c = 0; c <= columns; ++c) sums[c][t] += sums[c][t + width];
      });
    }
    phase([&](int t) {
      if (t < columns) results[first + t] = sums[t][0];
      if (t == columns && first == 0) results[v.rank] = sums[columns][0];
    });
  }
}

template <class T>
OGPSA_DEVICE inline void measure(const MeasureParameters& m) {
  const VectorEntry v = m.vectors[entry_of(m.vectors, m.count, block_index())];
  const Index task = block_index() - v.first_task;
  measure_task<T>(v, elements_of(v, task, kVectorTask), m.partial + v.partial + task * (v.rank + 1));
}

OGPSA_KERNEL ogpsa_measure_f32(MeasureParameters m) { measure<float>(m); }
OGPSA_KERNEL ogpsa_measure_f64(MeasureParameters m) { measure<double>(m); }

template <class T, class S>
OGPSA_DEVICE inline double change_elements(S* x, const VectorEntry& v, const double* remove, const T* first_ones,
                                           bool nothing, Index begin, Index end, int t) {
  constexpr int W = kPack<T, S>;
  const bool wide = is_wide<T, S>(v);
  const T* basis = static_cast<const T*>(v.basis);
  const S* origin = static_cast<const S*>(v.origin);
  const T keep = static_cast<T>(v.keep);
  double after = 0;
  for_packs<W>(begin, end, t, [&](Index i, int count) {
    S stored[W];
    T xs[W], q[W];
    load_pack(x + i, count, wide, stored);
    load_values(stored, origin ? origin + i : origin, count, wide, xs);
    if (!nothing) {
      OGPSA_UNROLL
      for (int w = 0; w < W; ++w) xs[w] *= keep;
      for (Index c = 0; c < v.rank; ++c) {
        const T factor = c < kThreads ? first_ones[c] : static_cast<T>(remove[c]);
        load_pack(basis + c * v.stride + i, count, wide, q);
        OGPSA_UNROLL
        for (int w = 0; w < W; ++w) xs[w] -= factor * q[w];
      }
      store_values(xs, origin ? origin + i : origin, count, wide, stored);
      store_pack(stored, count, wide, x + i);
    }
    OGPSA_UNROLL
    for (int w = 0; w < W; ++w) after += static_cast<double>(xs[w]) * static_cast<double>(xs[w]);
  });
  return after;
}

// Changes some elements of a vector by one block, and gives their |x|^2. `remove(c)` is what is removed of direction c;
// from kThreads on it is read from `others`.
template <class T, class F>
OGPSA_DEVICE inline void change_task(const VectorEntry& v, Elements e, F remove, const double* others, double* result) {
  OGPSA_SHARED double sums[kThreads];
  OGPSA_SHARED T first_ones[kThreads];  // of the coefficients, in the arithmetic type
  phase([&](int t) {
    double largest = 0;
    for (Index c = t; c < v.rank; c += kThreads) {
      const double removed = remove(c);
      largest = larger(largest, removed < 0 ? -removed : removed);
      if (c == t) first_ones[t] = static_cast<T>(removed);
    }
    sums[t] = largest;
  });
  combine(sums, larger);
  const bool nothing = v.keep == 1 && sums[0] == 0;
  phase([&](int) {});  // all have read sums[0] before it is overwritten
  phase([&](int t) {
    visit(v.dtype, [&](auto* tag) {
      auto* x = static_cast<decltype(tag)>(v.data);
      sums[t] = change_elements<T>(x, v, others, first_ones, nothing, e.begin, e.end, t);
    });
  });
  combine(sums, sum_of);
  phase([&](int t) {
    if (t == 0) *result = sums[0];
  });
}

template <class T>
OGPSA_DEVICE inline void change(const ChangeParameters& m) {
  const VectorEntry v = m.vectors[entry_of(m.vectors, m.count, block_index())];
  const double* remove = m.remove + v.remove;
  change_task<T>(
      v, elements_of(v, block_index() - v.first_task, kVectorTask), [&](Index c) { return remove[c]; }, remove,
      m.partial + block_index());
}

OGPSA_KERNEL ogpsa_change_f32(ChangeParameters m) { change<float>(m); }
OGPSA_KERNEL ogpsa_change_f64(ChangeParameters m) { change<double>(m); }

}  // namespace ogpsa_cuda
