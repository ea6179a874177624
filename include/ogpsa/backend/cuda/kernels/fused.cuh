#pragma once

#include "columns.cuh"
#include "vectors.cuh"

namespace ogpsa_cuda {

// ------------------------------------------------------------ projections of vectors that fit the cache, in one launch

// A vector's three numbers in FusedParameters::state.
enum FusedState { kMeasured, kReady, kChanged, kFusedStates };

// Whether this block is the last of `count` to arrive here. Then it sees what the others wrote before they did.
OGPSA_DEVICE inline bool is_last(unsigned int* counter, Index count) {
  OGPSA_SHARED unsigned int before;
  phase([&](int t) {
    if (t == 0) before = count_up(counter, static_cast<unsigned int>(count - 1));
  });
  const bool last = before + 1 == static_cast<unsigned int>(count);
  phase([&](int) {});  // all have read it before it is overwritten
  return last;
}

// *result <- the sum of what all tasks of a vector wrote. Volatile: other blocks wrote it, and this processor may have
// something older in its own cache.
OGPSA_DEVICE inline void add_tasks(const volatile double* partial, const FusedEntry& f, double* result) {
  OGPSA_SHARED double values[kThreads];
  phase([&](int t) { values[t] = gathered(Combination::sum, partial, f.tasks, f.vector.rank + 1, t); });
  combine(values, sum_of);
  phase([&](int t) {
    if (t == 0) *result = values[0];
  });
}

template <class T>
OGPSA_DEVICE inline void fused_measure(const FusedParameters& p, const FusedEntry& f, Index task, unsigned int* state) {
  const VectorEntry& v = f.vector;
  double* partial = p.partial + v.partial;
  measure_task<T>(v, elements_of(v, task, kFusedTask), partial + task * (v.rank + 1));
  if (!is_last(state + kMeasured, f.tasks)) return;
  for (Index c = 0; c <= v.rank; ++c) add_tasks(partial + c, f, p.results + f.results + c);
  phase([&](int t) {
    if (t == 0) count_up(state + kReady, 1);
  });
}

template <class T>
OGPSA_DEVICE inline void fused_change(const FusedParameters& p, const FusedEntry& f, Index task, unsigned int* state) {
  const VectorEntry& v = f.vector;
  const volatile double* measured = p.results + f.results;
  const double* weights = p.weights + v.remove;
  double* partial = p.partial + v.partial + v.rank;  // has been read when the vector is ready
  phase([&](int t) {
    if (t == 0) wait_while_zero(state + kReady);
  });
  change_task<T>(
      v, elements_of(v, task, kFusedTask), [&](Index c) { return weights[c] * measured[c]; }, nullptr,
      partial + task * (v.rank + 1));
  if (!is_last(state + kChanged, f.tasks)) return;
  add_tasks(partial, f, p.results + f.after);
  phase([&](int t) {
    if (t == 0) state[kReady] = 0;
  });
}

template <class T>
OGPSA_DEVICE inline void fused(const FusedParameters& p) {
  OGPSA_SHARED Index task;
  for (;;) {
    phase([&](int t) {
      if (t == 0) task = count_up(p.state, static_cast<unsigned int>(p.tasks + block_count() - 1));
    });
    const Index mine = task;
    phase([&](int) {});  // all have read it before it is overwritten
    if (mine >= p.tasks) return;
    const FusedStep step = p.steps[entry_of(p.steps, p.count, mine)];
    const FusedEntry f = p.vectors[step.entry];
    unsigned int* state = p.state + 1 + kFusedStates * step.entry;
    if (step.change) {
      fused_change<T>(p, f, mine - step.first_task, state);
    } else {
      fused_measure<T>(p, f, mine - step.first_task, state);
    }
  }
}

OGPSA_KERNEL ogpsa_fused_f32(FusedParameters p) { fused<float>(p); }
OGPSA_KERNEL ogpsa_fused_f64(FusedParameters p) { fused<double>(p); }

}  // namespace ogpsa_cuda
