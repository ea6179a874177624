#pragma once

#include "packs.cuh"

namespace ogpsa_cuda {

// -------------------------------------------------------------------------------------- questions to many columns

// The exponent field of a value; at its largest for what is not finite.
OGPSA_DEVICE inline int exponent_field(float x) { return static_cast<int>(float_to_bits(x) >> 23 & 0xffu); }
OGPSA_DEVICE inline int exponent_field(double x) { return static_cast<int>(double_to_bits(x) >> 52 & 0x7ffu); }
OGPSA_DEVICE inline int exponent_field(BFloat16 x) { return x.bits >> 7 & 0xff; }
OGPSA_DEVICE inline int exponent_field(Float16 x) { return x.bits >> 10 & 0x1f; }
OGPSA_DEVICE inline int largest_field(const float*) { return 0xff; }
OGPSA_DEVICE inline int largest_field(const double*) { return 0x7ff; }
OGPSA_DEVICE inline int largest_field(const BFloat16*) { return 0xff; }
OGPSA_DEVICE inline int largest_field(const Float16*) { return 0x1f; }

template <class S>
OGPSA_DEVICE inline double answer(const AskParameters& ask, const S* x, Index begin, Index end, int t) {
  const int largest = largest_field(x);
  // 2^exponent has the field exponent + bias, which is half of the largest.
  const double wanted = ask.low + largest / 2;
  const int field = wanted < 1 ? 1 : wanted < largest ? static_cast<int>(wanted) : largest;
  assume_global(x);
  const bool wide = on_16_bytes(x);
  double result = ask.question == Question::max_abs ? 0 : kNone;
  for_packs<kPack<S>>(begin, end, t, [&](Index i, int count) {
    if (ask.question != Question::max_abs && result != kNone) return;
    S xs[kPack<S>];
    load_pack(x + i, count, wide, xs);
    OGPSA_UNROLL
    for (int w = 0; w < kPack<S>; ++w) {
      if (w >= count) continue;
      const double v = static_cast<double>(value(xs[w]));
      if (ask.question == Question::max_abs) {
        result = larger(result, v < 0 ? -v : v);
        continue;
      }
      const bool found =
          ask.question == Question::first_beyond ? exponent_field(xs[w]) >= field : !(v >= ask.low && v <= ask.high);
      if (found) result = smaller(result, static_cast<double>(i + w));
    }
  });
  return result;
}

OGPSA_KERNEL ogpsa_ask(AskParameters ask) {
  OGPSA_SHARED double answers[kThreads];
  const ColumnEntry column = ask.columns[entry_of(ask.columns, ask.count, block_index())];
  const Index begin = (block_index() - column.first_task) * ask.task_length;
  const Index end = column.size < begin + ask.task_length ? column.size : begin + ask.task_length;
  phase([&](int t) {
    visit(column.dtype, [&](auto* tag) {
      answers[t] = answer(ask, static_cast<decltype(tag)>(const_cast<void*>(column.data)), begin, end, t);
    });
  });
  if (ask.question == Question::max_abs) {
    combine(answers, larger);
  } else {
    combine(answers, smaller);
  }
  phase([&](int t) {
    if (t == 0) ask.answers[block_index()] = answers[0];
  });
}

// --------------------------------------------------------------------------------------- results of tasks together

// The part of thread t in the combination of `tasks` numbers, `width` apart.
template <class P>
OGPSA_DEVICE inline double gathered(Combination combination, P from, Index tasks, Index width, int t) {
  double result = combination == Combination::smallest ? kNone : 0;
  double carry = 0;  // of a compensated sum (Neumaier 1974)
  for (Index i = t; i < tasks; i += kThreads) {
    const double x = from[i * width];
    if (combination == Combination::smallest) result = smaller(result, x);
    if (combination == Combination::largest) result = larger(result, x);
    if (combination != Combination::sum) continue;
    const double total = result + x;
    const double big = (result < 0 ? -result : result) < (x < 0 ? -x : x) ? x : result;
    carry += (big - total) + (big == x ? result : x);
    result = total;
  }
  // Where the sum has left the range, so has the carry: infinity must not become NaN.
  return carry - carry == 0 ? result + carry : result;
}

OGPSA_KERNEL ogpsa_gather(GatherParameters g) {
  OGPSA_SHARED double values[kThreads];
  const RowsEntry rows = g.rows[entry_of(g.rows, g.count, block_index())];
  const double* from = g.partial + rows.partial + (block_index() - rows.first_task);
  phase([&](int t) { values[t] = gathered(g.combination, from, rows.tasks, rows.width, t); });
  if (g.combination == Combination::sum) combine(values, sum_of);
  if (g.combination == Combination::smallest) combine(values, smaller);
  if (g.combination == Combination::largest) combine(values, larger);
  phase([&](int t) {
    if (t == 0) g.results[block_index()] = values[0];
  });
}

}  // namespace ogpsa_cuda
