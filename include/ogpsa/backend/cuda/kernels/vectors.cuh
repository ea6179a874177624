#pragma once

#include "device.cuh"

namespace ogpsa_cuda {

// ------------------------------------------------------------------------------------- projections of vectors

constexpr int kTogether = 8;       // columns of a basis that are read beside one pass over a vector
constexpr Index kLongestSum = 32;  // products that a thread adds in the arithmetic type, before it goes on in double

// Coefficients of columns [first, first + columns), and |x|^2 in the last place, of the elements of one thread.
template <class T, class S>
OGPSA_DEVICE inline void measure_elements(const S* x, const VectorEntry& v, Index first, int columns, Index begin,
                                          Index end, int t, double (*sums)[kThreads]) {
  const S* origin = static_cast<const S*>(v.origin);
  const T* basis = static_cast<const T*>(v.basis) + first * v.stride;
  double total[kTogether + 1] = {};
  for (Index chunk = begin + t; chunk < end; chunk += kLongestSum * kThreads) {
    const Index last = end < chunk + kLongestSum * kThreads ? end : chunk + kLongestSum * kThreads;
    T part[kTogether] = {};
    for (Index i = chunk; i < last; i += kThreads) {
      const T xi = origin ? difference<T>(x[i], origin[i]) : static_cast<T>(value(x[i]));
      OGPSA_UNROLL
      for (int c = 0; c < kTogether; ++c) {
        if (c < columns) part[c] += basis[c * v.stride + i] * xi;
      }
      total[kTogether] += static_cast<double>(xi) * static_cast<double>(xi);
    }
    OGPSA_UNROLL
    for (int c = 0; c < kTogether; ++c) total[c] += static_cast<double>(part[c]);
  }
  OGPSA_UNROLL
  for (int c = 0; c <= kTogether; ++c) sums[c][t] = total[c];
}

struct Elements {
  Index begin, end;
};
OGPSA_DEVICE inline Elements elements_of(const VectorEntry& v) {
  const Index begin = (block_index() - v.first_task) * kVectorTask;
  return {begin, v.size < begin + kVectorTask ? v.size : begin + kVectorTask};
}

template <class T>
OGPSA_DEVICE inline void measure(const MeasureParameters& m) {
  OGPSA_SHARED double sums[kTogether + 1][kThreads];
  const VectorEntry v = m.vectors[entry_of(m.vectors, m.count, block_index())];
  const Elements e = elements_of(v);
  double* results = m.partial + v.partial + (block_index() - v.first_task) * (v.rank + 1);
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
        for (int c = 0; c <= kTogether; ++c) sums[c][t] += sums[c][t + width];
      });
    }
    phase([&](int t) {
      if (t < columns) results[first + t] = sums[t][0];
      if (t == kTogether && first == 0) results[v.rank] = sums[kTogether][0];
    });
  }
}

OGPSA_KERNEL ogpsa_measure_f32(MeasureParameters m) { measure<float>(m); }
OGPSA_KERNEL ogpsa_measure_f64(MeasureParameters m) { measure<double>(m); }

template <class T, class S>
OGPSA_DEVICE inline double change_elements(S* x, const VectorEntry& v, const double* remove, const T* first_ones,
                                           bool nothing, Index begin, Index end, int t) {
  const T* basis = static_cast<const T*>(v.basis);
  const S* origin = static_cast<const S*>(v.origin);
  const T keep = static_cast<T>(v.keep);
  const Index ready = v.rank < kThreads ? v.rank : kThreads;
  double after = 0;
  for (Index i = begin + t; i < end; i += kThreads) {
    T xi = origin ? difference<T>(x[i], origin[i]) : static_cast<T>(value(x[i]));
    if (!nothing) {
      xi *= keep;
      for (Index c = 0; c < ready; ++c) xi -= first_ones[c] * basis[c * v.stride + i];
      for (Index c = ready; c < v.rank; ++c) xi -= static_cast<T>(remove[c]) * basis[c * v.stride + i];
      if (origin) {
        move(xi, origin[i], x + i);
      } else {
        store(xi, x + i);
      }
    }
    after += static_cast<double>(xi) * static_cast<double>(xi);
  }
  return after;
}

template <class T>
OGPSA_DEVICE inline void change(const ChangeParameters& m) {
  OGPSA_SHARED double sums[kThreads];
  OGPSA_SHARED T first_ones[kThreads];  // of the coefficients, in the arithmetic type
  const VectorEntry v = m.vectors[entry_of(m.vectors, m.count, block_index())];
  const Elements e = elements_of(v);
  const double* remove = m.remove + v.remove;
  phase([&](int t) {
    double largest = 0;
    for (Index c = t; c < v.rank; c += kThreads) largest = larger(largest, remove[c] < 0 ? -remove[c] : remove[c]);
    sums[t] = largest;
    first_ones[t] = t < v.rank ? static_cast<T>(remove[t]) : T(0);
  });
  combine(sums, larger);
  const bool nothing = v.keep == 1 && sums[0] == 0;
  phase([&](int) {});  // all have read sums[0] before it is overwritten
  phase([&](int t) {
    visit(v.dtype, [&](auto* tag) {
      auto* x = static_cast<decltype(tag)>(v.data);
      sums[t] = change_elements<T>(x, v, remove, first_ones, nothing, e.begin, e.end, t);
    });
  });
  combine(sums, sum_of);
  phase([&](int t) {
    if (t == 0) m.partial[block_index()] = sums[0];
  });
}

OGPSA_KERNEL ogpsa_change_f32(ChangeParameters m) { change<float>(m); }
OGPSA_KERNEL ogpsa_change_f64(ChangeParameters m) { change<double>(m); }

}  // namespace ogpsa_cuda
