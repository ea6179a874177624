#pragma once

#include <Eigen/Core>
#include <algorithm>
#include <cmath>
#include <span>

#include "ogpsa/finite.hpp"

/// \file
/// The few operations on small matrices in double that the algorithms need, on whole columns. Eigen's expressions would
/// read as well, but each combination of operands is a type and a loop of its own, in every file that includes it: they
/// were more than half of the time that such a file took to compile. For the same reason these are not inlined.

namespace ogpsa::detail {

using Column = std::span<double>;
using ConstColumn = std::span<const double>;

/// Column j of a matrix, as it lies in memory.
template <class M>
auto column(M& m, Eigen::Index j) {
  return std::span(m.data() + j * m.rows(), static_cast<std::size_t>(m.rows()));
}
/// Element (i, j), or element i of a vector.
template <class M>
auto& at(M& m, Eigen::Index i, Eigen::Index j = 0) {
  return m.data()[i + j * m.rows()];
}
/// All values of a vector or matrix.
template <class M>
auto values(M& m) {
  return std::span(m.data(), static_cast<std::size_t>(m.size()));
}

/// x^T y in four lanes.
[[gnu::noinline]] inline double dot(ConstColumn x, ConstColumn y) {
  const double *a = x.data(), *b = y.data();
  const std::size_t n = x.size();
  double lanes[4] = {};
  std::size_t i = 0;
  for (; i + 4 <= n; i += 4) {
    for (std::size_t l = 0; l < 4; ++l) lanes[l] += a[i + l] * b[i + l];
  }
  for (std::size_t l = 0; i + l < n; ++l) lanes[l] += a[i + l] * b[i + l];
  return (lanes[0] + lanes[2]) + (lanes[1] + lanes[3]);
}
inline double squared_norm(ConstColumn x) { return dot(x, x); }
inline double norm(ConstColumn x) { return std::sqrt(dot(x, x)); }

/// max_i |x_i|, of finite values.
[[gnu::noinline]] inline double max_abs(ConstColumn x) {
  double largest = 0;
  for (const double value : x) largest = std::max(largest, std::abs(value));
  return largest;
}
/// x <- factor x
[[gnu::noinline]] inline void scale(Column x, double factor) {
  for (double& value : x) value *= factor;
}
/// y <- y + factor x
[[gnu::noinline]] inline void add_scaled(Column y, double factor, ConstColumn x) {
  for (std::size_t i = 0; i < x.size(); ++i) y[i] += factor * x[i];
}
inline void assign(Column to, ConstColumn from) { std::copy(from.begin(), from.end(), to.begin()); }

/// The norm of any finite column, whose squares may overflow or vanish.
[[gnu::noinline]] inline double stable_norm(ConstColumn x) {
  const double largest = max_abs(x);
  if (!(largest > 0)) return 0;
  int exponent = 0;
  std::frexp(largest, &exponent);
  double sum = 0;
  for (const double value : x) {
    const double scaled = std::ldexp(value, -exponent);
    sum += scaled * scaled;
  }
  return std::ldexp(std::sqrt(sum), exponent);
}

[[gnu::noinline]] inline bool all_finite(ConstColumn x) {
  return std::all_of(x.begin(), x.end(), [](double value) { return is_finite(value); });
}
[[gnu::noinline]] inline bool all_zero(ConstColumn x) {
  return std::all_of(x.begin(), x.end(), [](double value) { return value == 0; });
}

[[gnu::noinline]] inline Eigen::MatrixXd zeros(Eigen::Index rows, Eigen::Index cols) {
  return Eigen::MatrixXd::Zero(rows, cols);
}
[[gnu::noinline]] inline Eigen::VectorXd zeros(Eigen::Index size) { return Eigen::VectorXd::Zero(size); }
[[gnu::noinline]] inline Eigen::MatrixXd identity(Eigen::Index size) {
  Eigen::MatrixXd result = zeros(size, size);
  for (Eigen::Index i = 0; i < size; ++i) at(result, i, i) = 1;
  return result;
}
/// A column or part of one as a vector, or as a matrix of one column.
[[gnu::noinline]] inline Eigen::VectorXd to_vector(ConstColumn x) {
  Eigen::VectorXd result(static_cast<Eigen::Index>(x.size()));
  assign(values(result), x);
  return result;
}

/// The first `cols` columns.
[[gnu::noinline]] inline Eigen::MatrixXd leading_columns(const Eigen::MatrixXd& a, Eigen::Index cols) {
  Eigen::MatrixXd result(a.rows(), cols);
  assign(values(result), values(a).first(static_cast<std::size_t>(result.size())));
  return result;
}
/// The last `cols` columns.
[[gnu::noinline]] inline Eigen::MatrixXd trailing_columns(const Eigen::MatrixXd& a, Eigen::Index cols) {
  Eigen::MatrixXd result(a.rows(), cols);
  assign(values(result), values(a).last(static_cast<std::size_t>(result.size())));
  return result;
}
/// The first `size` values; missing ones are zero.
[[gnu::noinline]] inline Eigen::VectorXd leading(const Eigen::VectorXd& x, Eigen::Index size) {
  Eigen::VectorXd result = zeros(size);
  assign(values(result), values(x).first(static_cast<std::size_t>(std::min(size, x.size()))));
  return result;
}
/// The first `rows` rows; missing ones are zero.
[[gnu::noinline]] inline Eigen::MatrixXd leading_rows(const Eigen::MatrixXd& a, Eigen::Index rows) {
  Eigen::MatrixXd result = zeros(rows, a.cols());
  const auto count = static_cast<std::size_t>(std::min(rows, a.rows()));
  for (Eigen::Index j = 0; j < a.cols(); ++j) assign(column(result, j), column(a, j).first(count));
  return result;
}
/// The rows of a above those of b.
[[gnu::noinline]] inline Eigen::MatrixXd stacked(const Eigen::MatrixXd& a, const Eigen::MatrixXd& b) {
  Eigen::MatrixXd result = leading_rows(a, a.rows() + b.rows());
  for (Eigen::Index j = 0; j < a.cols(); ++j) {
    assign(column(result, j).last(static_cast<std::size_t>(b.rows())), column(b, j));
  }
  return result;
}
/// The columns of a before those of b.
[[gnu::noinline]] inline Eigen::MatrixXd side_by_side(const Eigen::MatrixXd& a, const Eigen::MatrixXd& b) {
  Eigen::MatrixXd result(a.rows(), a.cols() + b.cols());
  assign(values(result), values(a));
  assign(values(result).last(static_cast<std::size_t>(b.size())), values(b));
  return result;
}
[[gnu::noinline]] inline Eigen::MatrixXd transposed(const Eigen::MatrixXd& a) {
  Eigen::MatrixXd result(a.cols(), a.rows());
  for (Eigen::Index j = 0; j < a.cols(); ++j) {
    for (Eigen::Index i = 0; i < a.rows(); ++i) at(result, j, i) = at(a, i, j);
  }
  return result;
}

/// [a, b; b^T, c]
[[gnu::noinline]] inline Eigen::MatrixXd bordered(const Eigen::MatrixXd& a, const Eigen::MatrixXd& b,
                                                  const Eigen::MatrixXd& c) {
  return side_by_side(stacked(a, transposed(b)), stacked(b, c));
}

/// a b
[[gnu::noinline]] inline Eigen::MatrixXd small_product(const Eigen::MatrixXd& a, const Eigen::MatrixXd& b) {
  Eigen::MatrixXd c = zeros(a.rows(), b.cols());
  for (Eigen::Index j = 0; j < b.cols(); ++j) {
    for (Eigen::Index p = 0; p < b.rows(); ++p) {
      add_scaled(column(c, j), at(b, p, j), column(a, p));
    }
  }
  return c;
}

/// a^T b
[[gnu::noinline]] inline Eigen::MatrixXd small_transposed_product(const Eigen::MatrixXd& a, const Eigen::MatrixXd& b) {
  Eigen::MatrixXd c(a.cols(), b.cols());
  for (Eigen::Index j = 0; j < b.cols(); ++j) {
    for (Eigen::Index i = 0; i < a.cols(); ++i) at(c, i, j) = dot(column(a, i), column(b, j));
  }
  return c;
}

/// a diag(factors)
[[gnu::noinline]] inline Eigen::MatrixXd scaled_columns(Eigen::MatrixXd a, ConstColumn factors) {
  for (Eigen::Index j = 0; j < a.cols(); ++j) scale(column(a, j), factors[static_cast<std::size_t>(j)]);
  return a;
}
/// diag(factors) a
[[gnu::noinline]] inline Eigen::MatrixXd scaled_rows(ConstColumn factors, Eigen::MatrixXd a) {
  for (Eigen::Index j = 0; j < a.cols(); ++j) {
    const Column x = column(a, j);
    for (std::size_t i = 0; i < x.size(); ++i) x[i] *= factors[i];
  }
  return a;
}

}  // namespace ogpsa::detail
