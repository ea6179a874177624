#pragma once

#include <Eigen/Core>
#include <utility>
#include <vector>

#include "ogpsa/backend.hpp"
#include "ogpsa/backend/column_kernels.hpp"
#include "ogpsa/backend/gemm.hpp"
#include "ogpsa/backend/kernels.hpp"
#include "ogpsa/backend/parallel.hpp"

/// \file
/// Products of tall matrices on the host. They run over panels of rows that fit in the cache, in double whatever the
/// storage type: for float the Gram matrix is then exact enough to orthonormalise at any condition up to 1/u
/// (mixed-precision CholeskyQR; Yamazaki, Tomov and Dongarra 2015).

namespace ogpsa::detail {

/// Rows of a panel of `cols` columns; a function of the type and the width alone. Short for double, whose products are
/// not computed in anything wider, so that a sum over a panel stays within about one u.
template <class T>
Index panel_rows(Index cols) {
  return std::clamp<Index>(16384 / std::max<Index>(cols, 1), 64, sizeof(T) == 8 ? 64 : 256);
}

/// A sum of matrices whose error does not grow with their number.
class CompensatedSum {
 public:
  CompensatedSum() = default;
  CompensatedSum(Index rows, Index cols) : sum_(zeros(rows, cols)), carry_(sum_) {}

  void add(const Eigen::MatrixXd& x) {
    run_best<CarriedSumKernel>(x.data(), sum_.data(), carry_.data(), static_cast<Index>(x.size()));
  }
  void add(const CompensatedSum& other) {
    add(other.sum_);
    add_scaled(values(carry_), 1, values(other.carry_));
  }
  Eigen::MatrixXd value() const {
    Eigen::MatrixXd result = sum_;
    add_scaled(values(result), 1, values(carry_));
    return result;
  }

 private:
  Eigen::MatrixXd sum_;
  Eigen::MatrixXd carry_;
};

/// Calls f(first_row, rows) for the panels of one segment, in order.
template <class T, class F>
void for_each_panel(const Segments& segments, Index s, Index cols, F&& f) {
  const Index panel = panel_rows<T>(cols);
  for (Index i = segments.begin(s); i < segments.end(s); i += panel) f(i, std::min(panel, segments.end(s) - i));
}

/// `product` <- a^T b of one panel, the lower triangle only where both are the same.
template <class T>
void panel_dots(MatrixView<const T> a, MatrixView<const T> b, bool same, Eigen::MatrixXd& product) {
  double memory[kColumns * kColumns];
  double* const dots = memory;
  const auto columns = [](MatrixView<const T> m, Index first, const T** to) {  // the last ones again for missing ones
    for (Index i = 0; i < kColumns; ++i) to[i] = m.data + std::min(first + i, m.cols - 1) * m.stride;
  };
  for (Index j = 0; j < b.cols; j += kColumns) {
    const T *first[kColumns], *other[kColumns];
    columns(b, j, first);
    const T* const* const right = first;
    for (Index i = same ? j : 0; i < a.cols; i += kColumns) {
      columns(a, i, other);
      const T* const* const left = other;
      const Index wide = std::min(kColumns, b.cols - j), high = std::min(kColumns, a.cols - i);
      const bool square = same && i == j;
      if (square) {
        wide <= 2 ? run_best<SquareKernel<T, 2>>(right, a.rows, dots)
                  : run_best<SquareKernel<T, 4>>(right, a.rows, dots);
      } else {
        wide == 1 ? run_best<DotsKernel<T, 1>>(left, right, a.rows, dots)
                  : run_best<DotsKernel<T, 4>>(left, right, a.rows, dots);
      }
      for (Index l = 0; l < wide; ++l) {
        for (Index r = square ? l : 0; r < high; ++r) at(product, i + r, j + l) = dots[r + kColumns * l];
      }
    }
  }
}

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

/// The rows of a panel as `T`: in place, or in `memory`.
template <class T>
MatrixView<const T> panel_of(const BasisView<T>& a, Index first, Index count, Dense<T>& memory) {
  if (a.is_full()) return a.matrix().row_range(first, count);
  memory.resize(count, a.cols);
  decode(a.row_range(first, count), view_of(memory));
  return view_of(std::as_const(memory));
}

/// Memory of a task for two panels.
template <class T>
struct PanelMemory {
  Dense<T> left, right;
};

/// The sum (p x q) of what f(first row, rows, memory, product) leaves in `product` for each panel of `rows` x `cols`.
/// Of a symmetric one that is the lower triangle.
template <class T, class F>
Eigen::MatrixXd sum_over_panels(Index rows, Index cols, Index p, Index q, bool symmetric, F&& f) {
  CompensatedSum total(p, q);
  if (p == 0 || q == 0) return total.value();
  const Segments segments(rows, kGranule, 8 * kGranule, 64);
  std::vector<CompensatedSum> parts(static_cast<std::size_t>(segments.count), total);
  parallel_for(segments.count, cols * rows >= kWorthThreads, [&](Index s) {
    Eigen::MatrixXd product = zeros(p, q);
    PanelMemory<T> memory;
    CompensatedSum sum(p, q);
    for_each_panel<T>(segments, s, cols, [&](Index first, Index count) {
      f(first, count, memory, product);
      sum.add(product);
    });
    parts[static_cast<std::size_t>(s)] = std::move(sum);
  });
  for (const auto& part : parts) total.add(part);
  Eigen::MatrixXd result = total.value();
  for (Index j = 0; symmetric && j < q; ++j) {
    for (Index i = 0; i < j; ++i) at(result, i, j) = at(result, j, i);
  }
  return result;
}

/// a^T b (a.cols x b.cols)
template <class T>
Eigen::MatrixXd gram(const BasisView<T>& a, const BasisView<T>& b) {
  const bool same = a.data == b.data && a.cols == b.cols && a.stride == b.stride;
  const auto panel = [&](Index first, Index count, PanelMemory<T>& memory, Eigen::MatrixXd& product) {
    const auto left = panel_of(a, first, count, memory.left);
    panel_dots(left, same ? left : panel_of(b, first, count, memory.right), same, product);
  };
  return sum_over_panels<T>(a.rows, a.cols + b.cols, a.cols, b.cols, same, panel);
}

/// The columns of q rounded to `storage`, one after the other, and their scales.
template <class T>
void encode(MatrixView<const T> q, BasisStorage storage, std::uint8_t* elements, float* scales) {
  if constexpr (std::is_same_v<T, float>) {
    const Segments segments = row_segments(q.rows);
    parallel_for(segments.count * q.cols, q.rows * q.cols >= kWorthThreads, [&](Index task) {
      const Index column = task / segments.count, begin = segments.begin(task % segments.count);
      const Index n = segments.end(task % segments.count) - begin, at = column * q.rows + begin;
      const float* from = q.data + column * q.stride + begin;
      if (storage == BasisStorage::bfloat16) return convert(from, reinterpret_cast<bfloat16*>(elements) + at, n);
      run_best<EncodeKernel>(from, n, reinterpret_cast<std::int8_t*>(elements) + at,
                             scales + column * scale_blocks(q.rows) + begin / kScaleBlock);
    });
  } else {
    throw InvalidArgument("ogpsa: a basis in double arithmetic is kept in double");
  }
}

/// to <- base + a x on a panel of rows; without a base (null), a x.
template <class T>
void combine(MatrixView<const T> a, const Eigen::MatrixXd& x, MatrixView<const T> base, MatrixView<T> to) {
  in_groups_of_columns(x.cols(), [&](auto columns, Index j) {
    const CombineTask<T> task = {a.data,      a.stride,
                                 a.cols,      x.data() + j * x.rows(),
                                 x.rows(),    base.data == nullptr ? nullptr : base.data + j * base.stride,
                                 base.stride, to.data + j * to.stride,
                                 to.stride,   to.rows};
    run_best<CombineKernel<T, columns>>(&task);
  });
}

/// to <- a x, where `to` may be the first columns of a. \returns to^T to, of each panel while it is in the cache
template <class T>
Eigen::MatrixXd multiply(MatrixView<const T> a, const Eigen::MatrixXd& x, MatrixView<T> to) {
  const bool in_place = a.data == to.data;
  const Index cols = to.cols;
  return sum_over_panels<T>(a.rows, a.cols + cols, cols, cols, true,
                            [&](Index first, Index count, PanelMemory<T>& memory, Eigen::MatrixXd& product) {
                              MatrixView<T> rows = to.row_range(first, count);
                              if (in_place) {
                                memory.left.resize(count, cols);
                                rows = view_of(memory.left);
                              }
                              combine<T>(a.row_range(first, count), x, {}, rows);
                              panel_dots<T>(rows, rows, true, product);
                              for (Index j = 0; in_place && j < cols; ++j) {
                                std::copy_n(rows.data + j * rows.stride, count, to.data + j * to.stride + first);
                              }
                            });
}

/// a <- a - q c
template <class T>
void subtract_product(MatrixView<T> a, MatrixView<const T> q, const Eigen::MatrixXd& c) {
  if (q.cols == 0) return;
  Eigen::MatrixXd x = c;
  scale(values(x), -1);
  const Segments segments = row_segments(a.rows);
  parallel_for(segments.count, (a.cols + q.cols) * a.rows >= kWorthThreads, [&](Index s) {
    for_each_panel<T>(segments, s, a.cols + q.cols, [&](Index first, Index count) {
      const MatrixView<T> rows = a.row_range(first, count);
      combine<T>(q.row_range(first, count), x, rows, rows);
    });
  });
}

/// Runs f(column data of a segment, its length) for every column and segment; results in column order.
template <class R, class T, class F>
std::vector<R> map_columns(MatrixView<const T> a, const Segments& segments, F&& f) {
  std::vector<R> results(static_cast<std::size_t>(a.cols * segments.count));
  parallel_for(a.cols * segments.count, a.cols * a.rows >= kWorthThreads, [&](Index task) {
    const Index s = task % segments.count;
    const T* column = a.data + task / segments.count * a.stride;
    results[static_cast<std::size_t>(task)] = f(column + segments.begin(s), segments.end(s) - segments.begin(s));
  });
  return results;
}

/// The first entry, in column order, that is NaN or infinite.
template <class T>
Entry first_non_finite(MatrixView<const T> a) {
  const Segments segments = row_segments(a.rows);
  const auto found = map_columns<Index>(a, segments, find_non_finite<T>);
  for (std::size_t t = 0; t < found.size(); ++t) {
    const Index task = static_cast<Index>(t);
    if (found[t] >= 0) return {segments.begin(task % segments.count) + found[t], task / segments.count};
  }
  return {};
}

/// max_i |a_ij| of each column, for finite entries.
template <class T>
std::vector<double> column_max_abs(MatrixView<const T> a) {
  const Segments segments = row_segments(a.rows);
  const auto parts = map_columns<T>(a, segments, max_abs<T>);
  std::vector<double> result(static_cast<std::size_t>(a.cols), 0.0);
  for (std::size_t t = 0; t < parts.size(); ++t) {
    double& largest = result[t / static_cast<std::size_t>(segments.count)];
    largest = std::max(largest, static_cast<double>(parts[t]));
  }
  return result;
}

}  // namespace ogpsa::detail
