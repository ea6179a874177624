#pragma once

#include "packs.cuh"

namespace ogpsa_cuda {

// --------------------------------------------------------------------------- products of tall matrices, in double

struct RowRange {
  Index begin, end;
};
OGPSA_DEVICE inline RowRange rows_of(Index rows, Index task) {
  const Index begin = task * kColumnPart;
  return {begin, rows < begin + kColumnPart ? rows : begin + kColumnPart};
}

// Loads the same rows of some columns.
template <class T, int W>
OGPSA_DEVICE inline void load_columns(const T* from, Index stride, int cols, int count, bool wide, T (&to)[kTile][W]) {
  OGPSA_UNROLL
  for (int c = 0; c < kTile; ++c) {
    if (c < cols) load_pack(from + c * stride, count, wide, to[c]);
  }
}

// a^T b over the rows of one thread.
template <class T>
OGPSA_DEVICE inline void gram_elements(const GramEntry& g, RowRange rows, int t, double (*sums)[kThreads]) {
  constexpr int W = kPack<T>;
  const T* a = static_cast<const T*>(g.a);
  const T* b = static_cast<const T*>(g.b);
  assume_global(a);
  assume_global(b);
  const bool wide = on_16_bytes(a) && on_16_bytes(b) && g.a_stride % W == 0 && g.b_stride % W == 0;
  double total[kTile][kTile] = {};
  for_packs<W>(rows.begin, rows.end, t, [&](Index i, int count) {
    T left[kTile][W], right[kTile][W];
    load_columns(a + i, g.a_stride, g.a_cols, count, wide, left);
    load_columns(b + i, g.b_stride, g.b_cols, count, wide, right);
    OGPSA_UNROLL
    for (int c = 0; c < kTile; ++c) {
      OGPSA_UNROLL
      for (int r = 0; r < kTile; ++r) {
        if (r >= g.a_cols || c >= g.b_cols) continue;
        OGPSA_UNROLL
        for (int w = 0; w < W; ++w) total[c][r] += static_cast<double>(left[r][w]) * static_cast<double>(right[c][w]);
      }
    }
  });
  OGPSA_UNROLL
  for (int i = 0; i < kTile * kTile; ++i) sums[i][t] = total[i / kTile][i % kTile];
}

template <class T>
OGPSA_DEVICE inline void gram(const GramParameters& m) {
  OGPSA_SHARED double sums[kTile * kTile][kThreads];
  const GramEntry g = m.entries[entry_of(m.entries, m.count, block_index())];
  phase([&](int t) { gram_elements<T>(g, rows_of(g.rows, block_index() - g.first_task), t, sums); });
  for (int width = kThreads / 2; width > 0; width /= 2) {
    phase([&](int t) {
      if (t >= width) return;
      for (int i = 0; i < kTile * kTile; ++i) sums[i][t] += sums[i][t + width];
    });
  }
  phase([&](int t) {
    if (t < kTile * kTile) m.partial[block_index() * (kTile * kTile) + t] = sums[t][0];
  });
}

OGPSA_KERNEL ogpsa_gram_f32(GramParameters m) { gram<float>(m); }
OGPSA_KERNEL ogpsa_gram_f64(GramParameters m) { gram<double>(m); }

// to <- a x on the rows of one thread, which it has read when it writes.
template <class T>
OGPSA_DEVICE inline void multiply_elements(const ProductEntry& p, const double* x, RowRange rows, int t) {
  constexpr int W = kPack<T>;
  const T* a = static_cast<const T*>(p.a);
  T* to = static_cast<T*>(p.to);
  assume_global(a);
  assume_global(to);
  const bool wide = on_16_bytes(a) && on_16_bytes(to) && p.a_stride % W == 0 && p.to_stride % W == 0;
  for_packs<W>(rows.begin, rows.end, t, [&](Index i, int count) {
    double sum[kMostProducts][W] = {};
    for (int j = 0; j < p.a_cols; ++j) {
      T column[W];
      load_pack(a + j * p.a_stride + i, count, wide, column);
      OGPSA_UNROLL
      for (int c = 0; c < kMostProducts; ++c) {
        if (c >= p.to_cols) continue;
        OGPSA_UNROLL
        for (int w = 0; w < W; ++w) sum[c][w] += x[c * p.a_cols + j] * static_cast<double>(column[w]);
      }
    }
    OGPSA_UNROLL
    for (int c = 0; c < kMostProducts; ++c) {
      if (c >= p.to_cols) continue;
      T product[W];
      OGPSA_UNROLL
      for (int w = 0; w < W; ++w) product[w] = static_cast<T>(sum[c][w]);
      store_pack(product, count, wide, to + c * p.to_stride + i);
    }
  });
}

template <class T>
OGPSA_DEVICE inline void multiply(const ProductParameters& m) {
  OGPSA_SHARED double x[kMostFactors * kMostProducts];
  const ProductEntry p = m.entries[entry_of(m.entries, m.count, block_index())];
  phase([&](int t) {
    for (int i = t; i < p.a_cols * p.to_cols; i += kThreads) x[i] = m.factors[p.factor + i];
  });
  phase([&](int t) { multiply_elements<T>(p, x, rows_of(p.rows, block_index() - p.first_task), t); });
}

OGPSA_KERNEL ogpsa_multiply_f32(ProductParameters m) { multiply<float>(m); }
OGPSA_KERNEL ogpsa_multiply_f64(ProductParameters m) { multiply<double>(m); }

}  // namespace ogpsa_cuda
