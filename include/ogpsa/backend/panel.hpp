#pragma once

#include <algorithm>
#include <type_traits>
#include <vector>

#include "ogpsa/backend.hpp"
#include "ogpsa/backend/basis_columns.hpp"
#include "ogpsa/backend/column_kernels.hpp"
#include "ogpsa/backend/convert.hpp"
#include "ogpsa/backend/gemm.hpp"
#include "ogpsa/backend/host_memory.hpp"
#include "ogpsa/backend/parallel.hpp"
#include "ogpsa/backend/reductions.hpp"

/// \file
/// Panels: some rows of a tall matrix at a time, few enough for the cache, copied there in double. A number is then
/// widened once for all products that it is in, and columns do not fall on the same lines of the cache, as those of a
/// tall matrix do whose length is a multiple of a power of two.

namespace ogpsa::detail {

/// Rows of a panel of `cols` columns; a function of the type and the width alone. Short for double, whose products are
/// not computed in anything wider, so that a sum over a panel stays within about one u.
template <class T>
Index panel_rows(Index cols) {
  return sizeof(T) == 8 ? 64 : std::clamp<Index>(8192 / std::max<Index>(cols, 1), 256, 1024);
}

/// Memory of a panel, kept from one to the next.
class PanelMemory {
 public:
  MatrixView<double> panel(Index rows, Index cols) {
    const Index stride = (rows + 7) / 8 * 8 + 8;
    values_.resize(static_cast<std::size_t>(stride * cols));
    return {values_.data(), rows, cols, stride};
  }

 private:
  std::vector<double, HostAllocator<double>> values_;
};

/// to <- rows of a basis, as `T`.
template <class T>
void decode(const BasisView<T>& rows, MatrixView<T> to) {
  for (Index j = 0; j < rows.cols; ++j) {
    for (Index i = 0, n = 0; i < rows.rows; i += n) {
      n = granule(rows, i, rows.rows, kGranule);
      visit_columns(rows, i, j, [&]<class S>(BasisColumns<T, S> q) {
        T* const first = to.data + j * to.stride + i;
        if constexpr (std::is_same_v<S, std::int8_t>) {
          run_best<DecodeKernel>(q, first, n);
        } else {
          convert(q.data, first, n);
        }
      });
    }
  }
}

/// Rows [first, first + count) of a, in `memory`.
template <class T>
MatrixView<const double> panel_of(const BasisView<T>& a, Index first, Index count, PanelMemory& memory) {
  Dense<T> decoded;
  MatrixView<const T> rows;
  if (a.is_full()) {
    rows = a.matrix().row_range(first, count);
  } else {
    decoded.resize(count, a.cols);
    decode(a.row_range(first, count), view_of(decoded));
    rows = view_of(std::as_const(decoded));
  }
  const auto panel = memory.panel(count, a.cols);
  for (Index j = 0; j < a.cols; ++j) {
    run_best<WidenKernel<T>>(rows.data + j * rows.stride, panel.data + j * panel.stride, count);
  }
  return panel;
}

/// Whether one call of a kernel takes that many columns (see in_groups_of_columns).
inline bool is_one_group(Index columns) { return columns == 1 || columns == 2 || columns == kColumns; }

/// f(rows [first, first + count) of a), in `memory`; as they are where they are multiplied with so few `others` that
/// one call of a kernel takes all of those, so that most numbers are read once.
template <class T, class F>
void on_panel(MatrixView<const T> a, Index others, Index first, Index count, PanelMemory& memory, F&& f) {
  if (is_one_group(others)) {
    f(a.row_range(first, count));
  } else {
    f(panel_of(BasisView<T>(a), first, count, memory));
  }
}

/// product <- product + a^T b of one panel, the lower triangle only where both are the same.
template <class S>
void add_dots(MatrixView<const S> a, MatrixView<const S> b, Eigen::MatrixXd& product) {
  const bool same = a.data == b.data && a.cols == b.cols;
  double memory[kColumns * kColumns];
  double* const dots = memory;
  const auto columns = [](MatrixView<const S> m, Index first, const S** to) {
    for (Index i = 0; i < kColumns; ++i)
      to[i] = m.data + std::min(first + i, m.cols - 1) * m.stride;  // last ones again
  };
  for (Index j = 0; j < b.cols; j += kColumns) {
    const S *first[kColumns], *other[kColumns];
    columns(b, j, first);
    const S* const* const right = first;
    for (Index i = same ? j : 0; i < a.cols; i += kColumns) {
      columns(a, i, other);
      const S* const* const left = other;
      const Index wide = std::min(kColumns, b.cols - j), high = std::min(kColumns, a.cols - i);
      const bool square = same && i == j;
      if (square) {
        wide <= 2 ? run_best<SquareKernel<S, 2>>(right, a.rows, dots)
                  : run_best<SquareKernel<S, 4>>(right, a.rows, dots);
      } else {
        wide == 1 ? run_best<DotsKernel<S, 1>>(left, right, a.rows, dots)
                  : run_best<DotsKernel<S, 4>>(left, right, a.rows, dots);
      }
      for (Index l = 0; l < wide; ++l) {
        for (Index r = square ? l : 0; r < high; ++r) at(product, i + r, j + l) += dots[r + kColumns * l];
      }
    }
  }
}

/// to <- base + a x on a panel; without a base (null), a x.
template <class T, class S>
void combine(MatrixView<const S> a, const Eigen::MatrixXd& x, MatrixView<const T> base, MatrixView<T> to) {
  in_groups_of_columns(x.cols(), [&](auto columns, Index j) {
    Index count = a.cols;  // of an upper triangular x only those rows that are not zero
    const auto is_zero = [&](Index k) {
      for (Index l = 0; l < columns; ++l) {
        if (at(x, k, j + l) != 0) return false;
      }
      return true;
    };
    while (count > 0 && is_zero(count - 1)) --count;
    const CombineTask<T, S> task = {a.data,      a.stride,
                                    count,       x.data() + j * x.rows(),
                                    x.rows(),    base.data == nullptr ? nullptr : base.data + j * base.stride,
                                    base.stride, to.data + j * to.stride,
                                    to.stride,   to.rows};
    run_best<CombineKernel<T, S, columns>>(&task);
  });
}

}  // namespace ogpsa::detail
