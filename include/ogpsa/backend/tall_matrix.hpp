#pragma once

#include <Eigen/Core>
#include <utility>
#include <vector>

#include "ogpsa/backend.hpp"
#include "ogpsa/backend/convert.hpp"
#include "ogpsa/backend/panel.hpp"
#include "ogpsa/backend/parallel.hpp"
#include "ogpsa/backend/reductions.hpp"

/// \file
/// Products of tall matrices on the host. They run over panels of rows that fit in the cache, in double whatever the
/// storage type: for float the Gram matrix is then exact enough to orthonormalise at any condition up to 1/u
/// (mixed-precision CholeskyQR; Yamazaki, Tomov and Dongarra 2015).

namespace ogpsa::detail {

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

/// The sum (p x q) of what f(first row, rows, memory, product) adds to `product` for each panel of `rows` x `cols`;
/// `memory` is for two panels. Of a symmetric one that is the lower triangle.
template <class T, class F>
Eigen::MatrixXd sum_over_panels(Index rows, Index cols, Index p, Index q, bool symmetric, F&& f) {
  CompensatedSum total(p, q);
  if (p == 0 || q == 0) return total.value();
  const Segments segments(rows, kGranule, 8 * kGranule, 64);
  std::vector<CompensatedSum> parts(static_cast<std::size_t>(segments.count), total);
  parallel_for(segments.count, cols * rows >= kWorthThreads, [&](Index s) {
    PanelMemory memory[2];
    Eigen::MatrixXd product = zeros(p, q);
    CompensatedSum sum(p, q);
    for_each_panel<T>(segments, s, cols, [&](Index first, Index count) {
      std::fill(values(product).begin(), values(product).end(), 0.0);
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
  const auto panel = [&](Index first, Index count, PanelMemory* memory, Eigen::MatrixXd& product) {
    if (a.is_full() && b.is_full() && b.cols <= 2 * kColumns) {  // then most of the time is spent on reading
      add_dots(a.matrix().row_range(first, count), b.matrix().row_range(first, count), product);
    } else {
      const auto left = panel_of(a, first, count, memory[0]);
      add_dots(left, same ? left : panel_of(b, first, count, memory[1]), product);
    }
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

/// to <- a x, where `to` may be the first columns of a. \returns to^T to, of each panel while it is in the cache
template <class T>
Eigen::MatrixXd multiply(MatrixView<const T> a, const Eigen::MatrixXd& x, MatrixView<T> to) {
  const auto panel = [&](Index first, Index count, PanelMemory* memory, Eigen::MatrixXd& product) {
    const MatrixView<const T> result = to;
    on_panel(a, to.cols, first, count, memory[0],
             [&](auto rows) { combine<T>(rows, x, {}, to.row_range(first, count)); });
    on_panel(result, to.cols, first, count, memory[1], [&](auto rows) { add_dots(rows, rows, product); });
  };
  return sum_over_panels<T>(a.rows, a.cols + to.cols, to.cols, to.cols, true, panel);
}

/// a <- a - q c
template <class T>
void subtract_product(MatrixView<T> a, MatrixView<const T> q, const Eigen::MatrixXd& c) {
  if (q.cols == 0) return;
  Eigen::MatrixXd x = c;
  scale(values(x), -1);
  const Segments segments = row_segments(a.rows);
  parallel_for(segments.count, (a.cols + q.cols) * a.rows >= kWorthThreads, [&](Index s) {
    PanelMemory memory;
    for_each_panel<T>(segments, s, a.cols + q.cols, [&](Index first, Index count) {
      const MatrixView<T> rows = a.row_range(first, count);
      on_panel(q, c.cols(), first, count, memory, [&](auto panel) { combine<T>(panel, x, rows, rows); });
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
