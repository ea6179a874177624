#pragma once

#include <algorithm>
#include <exception>
#include <vector>

#include "ogpsa/tensor_view.hpp"

#ifdef _OPENMP
#include <omp.h>
#endif

namespace ogpsa::detail {

/// Threads that a parallel loop may have; 1 without OpenMP.
inline Index max_threads() {
#ifdef _OPENMP
  return omp_get_max_threads();
#else
  return 1;
#endif
}

/// Runs f(0) .. f(count - 1), on all threads where it is worth it, OpenMP is on and the caller is not itself in a
/// parallel region.
/// Tasks must be independent; what they compute may not depend on who runs them. Throws what the first failing task
/// (lowest index) threw, after all have ended.
template <class F>
void parallel_for(Index count, [[maybe_unused]] bool worth_threads, F&& f) {
#ifdef _OPENMP
  if (worth_threads && count > 1 && omp_get_max_threads() > 1 && !omp_in_parallel()) {
    std::vector<std::exception_ptr> failures(static_cast<std::size_t>(count));
#pragma omp parallel for schedule(dynamic, 1)
    for (Index i = 0; i < count; ++i) {
      try {
        f(i);
      } catch (...) {
        failures[static_cast<std::size_t>(i)] = std::current_exception();
      }
    }
    for (const auto& failure : failures) {
      if (failure) std::rethrow_exception(failure);
    }
    return;
  }
#endif
  for (Index i = 0; i < count; ++i) f(i);
}

template <class F>
void parallel_for(Index count, F&& f) {
  parallel_for(count, true, f);
}

/// Operations (about) from which on it pays to wake the threads.
inline constexpr Index kWorthThreads = Index{1} << 16;

/// How `size` items are cut into independent tasks. It is a function of the size alone, so sums have a fixed order.
struct Segments {
  Index size;
  Index length;
  Index count;

  /// Cuts into at most `most` segments of at least `smallest` items, each but the last a multiple of `granule`.
  Segments(Index size, Index granule, Index smallest, Index most) : size(size) {
    const Index wanted = std::max<Index>({smallest, (size + most - 1) / most, 1});
    length = (wanted + granule - 1) / granule * granule;
    count = (size + length - 1) / length;
  }
  Index begin(Index i) const { return i * length; }
  Index end(Index i) const { return std::min(size, (i + 1) * length); }
};

/// Elements of a vector that are handled at a time: they stay in the first-level cache, and a float sum over them
/// keeps its accuracy before it is added in double.
inline constexpr Index kGranule = 2048;

/// Segments of the rows of a tall matrix, or of the elements of a vector.
inline Segments row_segments(Index rows) { return {rows, kGranule, 16 * kGranule, 64}; }

}  // namespace ogpsa::detail
