#pragma once

#include "packs.cuh"

namespace ogpsa_cuda {

// Blocks of a launch over `count` matrices of one shape: one after the other, by columns.
struct BatchPart {
  Index matrix, column, begin, end;
};
OGPSA_DEVICE inline BatchPart batch_part(Index rows, Index cols) {
  const Index parts = (rows + kColumnPart - 1) / kColumnPart * cols;
  const ColumnPart part = column_part(rows, block_index() % parts);
  return {block_index() / parts, part.column, part.begin, part.end};
}

template <class T>
OGPSA_DEVICE inline void panels(const PanelParameters& p) {
  const BatchPart part = batch_part(p.rows, p.cols);
  const PanelEntry entry = p.panels[part.matrix];
  T* panel = static_cast<T*>(entry.panel) + part.column * p.rows;
  assume_global(entry.data);
  assume_global(entry.origin);
  assume_global(entry.panel);
  phase([&](int t) {
    visit(p.dtype, [&](auto* tag) {
      using S = typename Pointed<decltype(tag)>::Type;
      S* x = static_cast<S*>(entry.data) + part.column * p.stride;
      const S* origin = static_cast<const S*>(entry.origin);
      if (origin) origin += part.column * p.stride;
      constexpr int W = kPack<T, S>;
      const bool wide = on_16_bytes(x) && on_16_bytes(origin) && on_16_bytes(panel);
      for_packs<W>(part.begin, part.end, t, [&](Index i, int count) {
        S stored[W];
        T values[W];
        if (!p.store || origin) load_pack(x + i, count, wide, stored);
        const S* from = origin ? origin + i : origin;
        if (p.store) {
          load_pack(panel + i, count, wide, values);
          store_values(values, from, count, wide, stored);
          store_pack(stored, count, wide, x + i);
        } else {
          load_values(stored, from, count, wide, values);
          store_pack(values, count, wide, panel + i);
        }
      });
    });
  });
}

OGPSA_KERNEL ogpsa_panels_f32(PanelParameters p) { panels<float>(p); }
OGPSA_KERNEL ogpsa_panels_f64(PanelParameters p) { panels<double>(p); }

template <class T>
OGPSA_DEVICE inline void add_parts(const AddPartsParameters& a) {
  OGPSA_SHARED double squares[kThreads];
  const BatchPart part = batch_part(a.rows, a.cols);
  const AddPartsEntry product = a.products[part.matrix];
  const T* from = static_cast<const T*>(product.from) + part.column * a.rows;
  const Index to = part.column * a.rows;
  phase([&](int t) {
    double square = 0;
    for (Index i = part.begin + t; i < part.end; i += kThreads) {
      double sum = 0;
      for (Index p = 0; p < a.parts; ++p) sum += static_cast<double>(from[p * a.rows * a.cols + i]);
      if (a.output != Output::weighted) {
        double* in_double = static_cast<double*>(product.to) + to + i;
        *in_double = a.output == Output::added ? *in_double + sum : sum;
        continue;
      }
      const T rounded = static_cast<T>(sum);
      square += static_cast<double>(rounded) * static_cast<double>(rounded);
      const double weight = product.weights ? product.weights[a.weight_of_row ? i : part.column] : 1;
      static_cast<T*>(product.to)[to + i] = static_cast<T>(static_cast<double>(rounded) * weight);
    }
    squares[t] = square;
  });
  if (!product.squares) return;
  combine(squares, sum_of);
  phase([&](int t) {
    if (t == 0) product.squares[block_index() % ((a.rows + kColumnPart - 1) / kColumnPart * a.cols)] = squares[0];
  });
}

OGPSA_KERNEL ogpsa_add_parts_f32(AddPartsParameters a) { add_parts<float>(a); }
OGPSA_KERNEL ogpsa_add_parts_f64(AddPartsParameters a) { add_parts<double>(a); }

}  // namespace ogpsa_cuda
