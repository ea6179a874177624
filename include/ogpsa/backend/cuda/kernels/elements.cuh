#pragma once

#include "device.cuh"

namespace ogpsa_cuda {

// ---------------------------------------------------------------------------------------------------------- copies

OGPSA_KERNEL ogpsa_copy(CopyParameters c) {
  const ColumnPart part = column_part(c.rows, block_index());
  phase([&](int t) {
    visit(c.from_dtype, [&](auto* from_tag) {
      visit(c.to_dtype, [&](auto* to_tag) {
        const auto* from = static_cast<decltype(from_tag)>(const_cast<void*>(c.from)) + part.column * c.from_col;
        auto* to = static_cast<decltype(to_tag)>(c.to) + part.column * c.to_col;
        for (Index i = part.begin + t; i < part.end; i += kThreads) {
          const auto x = value(from[i * c.from_row]);
          if (c.factor == 1) {
            store(x, to + i * c.to_row);
          } else {
            store(static_cast<double>(x) * c.factor, to + i * c.to_row);
          }
        }
      });
    });
  });
}

// ----------------------------------------------------------------------------------------- one element at a time

template <class T>
OGPSA_DEVICE inline void elementwise(const ElementwiseParameters& e) {
  const ColumnPart part = column_part(e.rows, block_index());
  phase([&](int t) {
    visit(e.dtype, [&](auto* tag) {
      auto* x = static_cast<decltype(tag)>(e.x) + part.column * e.x_stride;
      const auto* y = static_cast<decltype(tag)>(const_cast<void*>(e.y)) + part.column * e.x_stride;
      T* a = static_cast<T*>(e.a) + part.column * e.stride;
      for (Index i = part.begin + t; i < part.end; i += kThreads) {
        switch (e.operation) {
          case Operation::scale_columns:
            a[i] = static_cast<T>(static_cast<double>(a[i]) * e.factors[part.column]);
            break;
          case Operation::add_scaled:
            a[i] += static_cast<T>(e.weight * static_cast<double>(value(x[i])));
            break;
          case Operation::divide_rows:
            a[i] /= static_cast<T>(value(x[i]));
            break;
          case Operation::difference:
            a[i] = difference<T>(x[i], y[i]);
            break;
          case Operation::multiply:
            a[i] = static_cast<T>(static_cast<double>(a[i]) * e.factors[i]);
            break;
          default:
            move(a[i], y[i], x + i);
        }
      }
    });
  });
}

OGPSA_KERNEL ogpsa_elementwise_f32(ElementwiseParameters e) { elementwise<float>(e); }
OGPSA_KERNEL ogpsa_elementwise_f64(ElementwiseParameters e) { elementwise<double>(e); }

}  // namespace ogpsa_cuda
