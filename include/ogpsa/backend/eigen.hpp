#pragma once

#include <algorithm>
#include <functional>
#include <span>
#include <vector>

#include "ogpsa/backend.hpp"
#include "ogpsa/backend/block_projection.hpp"
#include "ogpsa/backend/convert.hpp"
#include "ogpsa/backend/host_matrix.hpp"
#include "ogpsa/backend/parallel.hpp"
#include "ogpsa/backend/reductions.hpp"
#include "ogpsa/backend/side_projection.hpp"
#include "ogpsa/backend/symmetric_eigen.hpp"
#include "ogpsa/backend/tall_matrix.hpp"

namespace ogpsa {

/// The CPU: Eigen, and OpenMP where it is on. Results do not depend on the number of threads.
class EigenBackend {
 public:
  template <class T>
  using Matrix = HostMatrix<T>;

  EigenBackend() = default;
  /// For a run in which each rank holds some of the rows of every block: `sum_over_ranks` replaces a buffer by its sum
  /// over the ranks. It is called with the same sizes in the same order on all of them.
  explicit EigenBackend(std::function<void(std::span<double>)> sum_over_ranks)
      : sum_over_ranks_(std::move(sum_over_ranks)) {}

  void all_reduce(std::span<double> sums) const {
    if (sum_over_ranks_ && !sums.empty()) sum_over_ranks_(sums);
  }

  /// In order where tasks may ask for sums over the ranks.
  template <class F>
  void for_each(Index count, F&& f) const {
    detail::parallel_for(count, !sums_over_ranks(), f);
  }
  /// Each task alone, while its memory is in the cache; all at once where that makes one sum over the ranks of many.
  template <class F>
  void for_batches(std::span<const Index> sizes, F&& f) const {
    const Index count = static_cast<Index>(sizes.size());
    if (sums_over_ranks() && count > 0) return f(Index{0}, count);
    for_each(count, [&](Index i) { f(i, i + 1); });
  }

  /// Memory of the caller may stand for a matrix of this backend.
  static constexpr bool works_on_host_memory = true;

  template <class T>
  HostMatrix<T> matrix(Index rows, Index cols) const {
    return {rows, cols};
  }
  /// Nothing to do: this is the host.
  template <class T>
  void keep_on_host(HostMatrix<T>&, bool) const {}
  template <class T>
  HostMatrix<T> unfilled_matrix(Index rows, Index cols) const {
    return HostMatrix<T>::unfilled(rows, cols);
  }
  template <class T>
  void copy(MatrixView<const T> from, MatrixView<T> to) const {
    for (Index j = 0; j < from.cols; ++j) std::copy_n(from.data + j * from.stride, from.rows, to.data + j * to.stride);
  }
  template <class T>
  void load(ConstTensorView tensor, MatrixView<T> to) const {
    visit_dtype(tensor.dtype, [&](auto* tag) {
      using S = std::remove_pointer_t<decltype(tag)>;
      detail::convert(static_cast<const S*>(tensor.data), to.data, tensor.size());
    });
  }
  template <class T>
  void load_side(ConstTensorView tensor, bool fast_side, Index first, MatrixView<T> to) const {
    visit_dtype(tensor.dtype, [&](auto* tag) {
      using S = std::remove_pointer_t<decltype(tag)>;
      const S* from = static_cast<const S*>(tensor.data);
      if (fast_side) return detail::convert(from + first * tensor.fast(), to.data, to.rows * to.cols);
      for (Index i = 0; i < to.rows; ++i) {
        for (Index j = 0; j < to.cols; ++j)
          to.data[i + j * to.stride] = static_cast<T>(from[i * tensor.fast() + first + j]);
      }
    });
  }
  template <class T>
  void to_host(MatrixView<const T> from, std::span<T> to) const {
    copy(from, MatrixView<T>(to.data(), from.rows, from.cols));
  }
  template <class T>
  void from_host(std::span<const T> from, MatrixView<T> to) const {
    copy(MatrixView<const T>(from.data(), to.rows, to.cols), to);
  }

  template <class T>
  Entry first_non_finite(MatrixView<const T> a) const {
    return detail::first_non_finite(a);
  }
  template <class T>
  std::vector<double> column_max_abs(MatrixView<const T> a) const {
    return detail::column_max_abs(a);
  }
  Index first_non_finite(ConstTensorView tensor) const { return first_beyond(tensor, detail::kNotFinite); }
  Index first_beyond(ConstTensorView tensor, int exponent) const {
    const auto segments = detail::row_segments(tensor.size());
    std::vector<Index> found(static_cast<std::size_t>(segments.count), -1);
    visit_dtype(tensor.dtype, [&](auto* tag) {
      const auto* values = static_cast<const std::remove_pointer_t<decltype(tag)>*>(tensor.data);
      detail::parallel_for(segments.count, tensor.size() >= detail::kWorthThreads, [&](Index s) {
        const Index begin = segments.begin(s);
        const Index bad = detail::find_beyond(values + begin, segments.end(s) - begin, exponent);
        if (bad >= 0) found[static_cast<std::size_t>(s)] = begin + bad;
      });
    });
    const auto first = std::find_if(found.begin(), found.end(), [](Index i) { return i >= 0; });
    return first == found.end() ? -1 : *first;
  }
  Index first_outside(ConstTensorView tensor, double low, double high) const {
    return visit_dtype(tensor.dtype, [&](auto* tag) -> Index {
      using S = std::remove_pointer_t<decltype(tag)>;
      const S* values = static_cast<const S*>(tensor.data);
      const auto outside = [=](S x) { return !(static_cast<double>(x) >= low && static_cast<double>(x) <= high); };
      const S* bad = std::find_if(values, values + tensor.size(), outside);
      return bad == values + tensor.size() ? -1 : bad - values;
    });
  }
  double max_abs(ConstTensorView tensor) const {
    return visit_dtype(tensor.dtype, [&](auto* tag) {
      using S = std::remove_pointer_t<decltype(tag)>;
      return static_cast<double>(detail::max_abs(static_cast<const S*>(tensor.data), tensor.size()));
    });
  }
  template <class T>
  void scale_columns(MatrixView<T> a, std::span<const double> factors) const {
    for (Index j = 0; j < a.cols; ++j) {
      T* column = a.data + j * a.stride;
      const double factor = factors[static_cast<std::size_t>(j)];
      for (Index i = 0; i < a.rows; ++i) column[i] = static_cast<T>(static_cast<double>(column[i]) * factor);
    }
  }
  template <class T>
  void add_scaled(MatrixView<T> a, ConstTensorView tensor, double weight) const {
    visit_dtype(tensor.dtype, [&](auto* tag) {
      using S = std::remove_pointer_t<decltype(tag)>;
      const S* from = static_cast<const S*>(tensor.data);
      for (Index i = 0; i < tensor.size(); ++i) a.data[i] += static_cast<T>(weight * static_cast<double>(from[i]));
    });
  }

  template <class T>
  void encode(MatrixView<const T> q, BasisStorage storage, std::uint8_t* elements, float* scales) const {
    detail::encode(q, storage, elements, scales);
  }
  template <class T>
  void decode(BasisView<T> basis, MatrixView<T> to) const {
    const auto segments = detail::row_segments(basis.rows);
    detail::parallel_for(segments.count, basis.rows * basis.cols >= detail::kWorthThreads, [&](Index s) {
      const Index first = segments.begin(s), count = segments.end(s) - first;
      detail::decode(basis.row_range(first, count), to.row_range(first, count));
    });
  }

  template <class T>
  Eigen::MatrixXd gram(MatrixView<const T> a, MatrixView<const T> b) const {
    return gram(BasisView<T>(a), BasisView<T>(b));
  }
  template <class T>
  Eigen::MatrixXd gram(BasisView<T> a, BasisView<T> b) const {
    Eigen::MatrixXd product = detail::gram(a, b);
    all_reduce({product.data(), static_cast<std::size_t>(product.size())});
    return product;
  }
  template <class T>
  Eigen::MatrixXd multiply(MatrixView<const T> a, const Eigen::MatrixXd& x, MatrixView<T> to) const {
    Eigen::MatrixXd squares = detail::multiply(a, x, to);
    all_reduce({squares.data(), static_cast<std::size_t>(squares.size())});
    return squares;
  }
  template <class T>
  std::vector<Eigen::MatrixXd> grams(std::span<const GramProblem<T>> problems) const {
    std::vector<Eigen::MatrixXd> products;
    for (const auto& [a, b] : problems) products.push_back(detail::gram(BasisView<T>(a), BasisView<T>(b)));
    return reduced(std::move(products));
  }
  template <class T>
  std::vector<Eigen::MatrixXd> multiply(std::span<const ProductProblem<T>> problems) const {
    std::vector<Eigen::MatrixXd> squares;
    for (const auto& [a, x, to] : problems) squares.push_back(detail::multiply(a, x, to));
    return reduced(std::move(squares));
  }
  template <class T>
  void subtract_product(MatrixView<T> a, MatrixView<const T> q, const Eigen::MatrixXd& c) const {
    detail::subtract_product(a, q, c);
  }

  template <class T>
  void divide_rows(MatrixView<T> a, ConstTensorView divisors) const {
    visit_dtype(divisors.dtype, [&](auto* tag) {
      using S = std::remove_pointer_t<decltype(tag)>;
      const S* d = static_cast<const S*>(divisors.data);
      for (Index j = 0; j < a.cols; ++j) {
        T* column = a.data + j * a.stride;
        for (Index i = 0; i < a.rows; ++i) column[i] /= static_cast<T>(d[i]);
      }
    });
  }
  template <class T>
  void load_difference(MatrixView<T> a, ConstTensorView x, ConstTensorView y) const {
    for_segments(x, [&](Index begin, Index n) { detail::load_difference(x, y, begin, n, a.data + begin); });
  }
  template <class T>
  void move(TensorView tensor, ConstTensorView origin, MatrixView<const T> step) const {
    for_segments(tensor, [&](Index begin, Index n) { detail::move(step.data + begin, n, tensor, origin, begin); });
  }

  /// sum <- sum + Y Y^T for Y = factor X (fast side) or Y^T Y (slow side), X the tensor's memory as fast x slow.
  template <class T>
  void add_outer(MatrixView<T> sum, ConstTensorView tensor, double factor, bool fast_side) const {
    const Index width = detail::panel_width(fast_side ? tensor.fast() : tensor.slow(), 256);
    const Index across = fast_side ? tensor.slow() : tensor.fast();
    detail::Dense<T> panel;
    for (Index j = 0; j < across; j += width) {
      const Index count = std::min(width, across - j);
      fast_side ? panel.resize(tensor.fast(), count) : panel.resize(count, tensor.slow());
      detail::load_panel(tensor, tensor.fast(), fast_side ? 0 : j, fast_side ? j : 0, panel);
      scale_columns(detail::view_of(panel), std::vector<double>(static_cast<std::size_t>(panel.cols()), factor));
      detail::add_outer_lower(detail::view_of(std::as_const(panel)), fast_side, sum);
    }
  }
  /// All eigenvalues of each, descending; the leading eigenvectors are written to the problems. Computed in double.
  /// \throws NumericalError
  template <class T>
  std::vector<Eigen::VectorXd> eigenvectors(std::span<const EigenProblem<T>> problems) const {
    std::vector<Eigen::VectorXd> values(problems.size());
    for_each(static_cast<Index>(problems.size()), [&](Index i) {
      const auto p = static_cast<std::size_t>(i);
      values[p] = solve(problems[p]);
    });
    return values;
  }

  bool sums_over_ranks() const { return static_cast<bool>(sum_over_ranks_); }
  template <class T>
  Index first_piece_beyond(std::span<const ProjectionPiece<T>> pieces, int exponent) const {
    return detail::first_piece_beyond(pieces, exponent);
  }
  template <class T>
  void project(std::span<const ProjectionPiece<T>> pieces, std::span<const LinearChange> changes,
               std::vector<PieceCoefficients>& measured, std::vector<PieceNorms>& norms) const {
    detail::project(pieces, changes, measured, norms);
  }
  template <class T>
  void coefficients(std::span<const ProjectionPiece<T>> pieces, std::vector<PieceCoefficients>& out) const {
    detail::coefficients(pieces, out);
  }
  template <class T>
  void change(std::span<const ProjectionPiece<T>> pieces, std::span<const PieceChange> changes,
              std::vector<PieceNorms>& norms) const {
    detail::change(pieces, changes, norms);
  }
  template <class T>
  void change_side(std::span<const ProjectionPiece<T>> pieces, std::span<const SideChange> changes,
                   std::vector<PieceNorms>& norms) const {
    detail::change_side(pieces, changes, norms);
  }

 private:
  template <class T>
  static Eigen::VectorXd solve(const EigenProblem<T>& problem) {
    const auto& [symmetric, vectors] = problem;
    const Index n = symmetric.rows;
    std::vector<double> a(static_cast<std::size_t>(n * n)), v(static_cast<std::size_t>(n * vectors.cols));
    for (Index j = 0; j < n; ++j) std::copy_n(symmetric.data + j * symmetric.stride, n, a.data() + j * n);
    const auto values = detail::symmetric_eigen({a.data(), n, n}, {v.data(), n, vectors.cols});
    if (!values) {
      throw NumericalError(detail::text({"ogpsa: the eigenvalues of a symmetric matrix of ", detail::size_text(n, n),
                                         " did not converge; check the reference data for extreme values"}));
    }
    for (Index j = 0; j < vectors.cols; ++j) {
      for (Index i = 0; i < n; ++i) {
        vectors.data[i + j * vectors.stride] = static_cast<T>(v[static_cast<std::size_t>(i + j * n)]);
      }
    }
    return Eigen::Map<const Eigen::VectorXd>(values->data(), n);
  }
  /// The sums over the ranks of some matrices, in one.
  std::vector<Eigen::MatrixXd> reduced(std::vector<Eigen::MatrixXd> matrices) const {
    if (!sums_over_ranks()) return matrices;
    std::vector<double> sums;
    for (const auto& matrix : matrices) sums.insert(sums.end(), matrix.data(), matrix.data() + matrix.size());
    all_reduce(sums);
    const double* from = sums.data();
    for (auto& matrix : matrices) {
      std::copy_n(from, matrix.size(), matrix.data());
      from += matrix.size();
    }
    return matrices;
  }
  /// Calls f(first element, how many) for the segments of a tensor, in parallel.
  template <class F>
  static void for_segments(ConstTensorView tensor, F&& f) {
    const auto segments = detail::row_segments(tensor.size());
    detail::parallel_for(segments.count, [&](Index s) { f(segments.begin(s), segments.end(s) - segments.begin(s)); });
  }

  std::function<void(std::span<double>)> sum_over_ranks_;
};

static_assert(Backend<EigenBackend, float> && Backend<EigenBackend, double>);

}  // namespace ogpsa
