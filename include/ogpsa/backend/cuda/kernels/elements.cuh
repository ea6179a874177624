#pragma once

#include "packs.cuh"

namespace ogpsa_cuda {

// ---------------------------------------------------------------------------------------------------------- copies

template <class F, class S>
OGPSA_DEVICE inline void store_scaled(F x, double factor, S* to) {
  if (factor == 1) {
    store(x, to);
  } else {
    store(static_cast<double>(x) * factor, to);
  }
}

OGPSA_KERNEL ogpsa_copy(CopyParameters c) {
  const ColumnPart part = column_part(c.rows, block_index());
  phase([&](int t) {
    visit(c.from_dtype, [&](auto* from_tag) {
      visit(c.to_dtype, [&](auto* to_tag) {
        using From = typename Pointed<decltype(from_tag)>::Type;
        using To = typename Pointed<decltype(to_tag)>::Type;
        const From* from = static_cast<const From*>(c.from) + part.column * c.from_col;
        To* to = static_cast<To*>(c.to) + part.column * c.to_col;
        if (c.from_row != 1 || c.to_row != 1) {
          for (Index i = part.begin + t; i < part.end; i += kThreads) {
            store_scaled(value(from[i * c.from_row]), c.factor, to + i * c.to_row);
          }
          return;
        }
        constexpr int W = kPack<From, To>;
        const bool wide = on_16_bytes(from) && on_16_bytes(to);
        for_packs<W>(part.begin, part.end, t, [&](Index i, int count) {
          From loaded[W];
          To stored[W];
          load_pack(from + i, count, wide, loaded);
          OGPSA_UNROLL
          for (int w = 0; w < W; ++w) store_scaled(value(loaded[w]), c.factor, stored + w);
          store_pack(stored, count, wide, to + i);
        });
      });
    });
  });
}

// ----------------------------------------------------------------------------------------- one element at a time

// On one pack, of which a, x and y are in registers; what it makes of elements beyond `count` is not stored.
template <class T, class S, int W>
OGPSA_DEVICE inline void apply(const ElementwiseParameters& e, Index row, double column_factor, T (&a)[W], S (&x)[W],
                               const S (&y)[W], int count) {
  OGPSA_UNROLL
  for (int w = 0; w < W; ++w) {
    switch (e.operation) {
      case Operation::scale_columns:
        a[w] = static_cast<T>(static_cast<double>(a[w]) * column_factor);
        break;
      case Operation::add_scaled:
        a[w] += static_cast<T>(e.weight * static_cast<double>(value(x[w])));
        break;
      case Operation::divide_rows:
        a[w] /= static_cast<T>(value(x[w]));
        break;
      case Operation::difference:
        a[w] = difference<T>(x[w], y[w]);
        break;
      case Operation::multiply:
        if (w < count) a[w] = static_cast<T>(static_cast<double>(a[w]) * e.factors[row + w]);
        break;
      default:
        move(a[w], y[w], x + w);
    }
  }
}

template <class T>
OGPSA_DEVICE inline void elementwise(const ElementwiseParameters& e) {
  const ColumnPart part = column_part(e.rows, block_index());
  const bool reads_x = e.operation != Operation::scale_columns && e.operation != Operation::multiply;
  const bool reads_y = e.operation == Operation::difference || e.operation == Operation::move;
  const double column_factor = e.operation == Operation::scale_columns ? e.factors[part.column] : 1;
  phase([&](int t) {
    visit(e.dtype, [&](auto* tag) {
      using S = typename Pointed<decltype(tag)>::Type;
      constexpr int W = kPack<T, S>;
      S* x = static_cast<S*>(e.x);
      const S* y = static_cast<const S*>(e.y);
      if (reads_x) x += part.column * e.x_stride;
      if (reads_y) y += part.column * e.x_stride;
      T* a = static_cast<T*>(e.a) + part.column * e.stride;
      const bool wide_x = on_16_bytes(x), wide_y = on_16_bytes(y), wide_a = on_16_bytes(a);
      for_packs<W>(part.begin, part.end, t, [&](Index i, int count) {
        T as[W];
        S xs[W], ys[W];
        if (e.operation != Operation::difference) load_pack(a + i, count, wide_a, as);
        if (reads_x) load_pack(x + i, count, wide_x, xs);
        if (reads_y) load_pack(y + i, count, wide_y, ys);
        apply(e, i, column_factor, as, xs, ys, count);
        if (e.operation == Operation::move) {
          store_pack(xs, count, wide_x, x + i);
        } else {
          store_pack(as, count, wide_a, a + i);
        }
      });
    });
  });
}

OGPSA_KERNEL ogpsa_elementwise_f32(ElementwiseParameters e) { elementwise<float>(e); }
OGPSA_KERNEL ogpsa_elementwise_f64(ElementwiseParameters e) { elementwise<double>(e); }

}  // namespace ogpsa_cuda
