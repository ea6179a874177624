#pragma once

#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "ogpsa/finite.hpp"
#include "ogpsa/subspace.hpp"

/// \file
/// Structured subspaces: the subspace of one side of a weight matrix W (m x n, y = W x) instead of the flattened
/// tensor. Its basis has n x k (input side) or m x k (output side) elements.

namespace ogpsa {

/// Which part of a block is protected.
enum class Form {
  flat,    ///< the whole tensor as one vector (OGPSA)
  input,   ///< D <- D (I - M M^T): answers to inputs in span(M) stay (OWM, GPM, Adam-NSCL)
  output,  ///< D <- (I - L L^T) D
  both,    ///< D <- D - L L^T D M M^T: only what lies in both is removed
};

/// Where the second moment of a side comes from.
enum class MomentSource {
  gradients,  ///< sums of G^T G (input side) and G G^T (output side) over reference batches
  inputs,     ///< the input side from the layer's inputs, given by the caller; the output side from gradients
};

struct StructuredOptions {
  /// By count, share of the dimension, or energy.
  RankOptions rank = {.max_share = 0.3};
  MomentSource source = MomentSource::gradients;
  /// 0: hard. Otherwise direction i is removed by a_i / (a_i + damping * mean eigenvalue) (a_i b_j for both sides).
  double damping = 0.0;
  /// Sides longer than this are kept as an incremental low-rank factor instead of an n x n matrix.
  Index dense_limit = 4096;
};

/// \throws InvalidArgument for an option outside its range.
inline void check(const StructuredOptions& options) {
  check(options.rank);
  if (!detail::is_finite(options.damping) || options.damping < 0) {
    throw InvalidArgument(
        detail::text({"ogpsa: StructuredOptions: damping is ", options.damping, "; it must be 0 or positive"}));
  }
}

enum class Side { input, output };

/// The second-moment matrix of one side of a block, A = sum x x^T (n x n), a Kronecker factor of its curvature
/// (K-FAC; Martens and Grosse 2015): summed densely, or for long sides as a rank-k factor of the same stream (Brand's
/// update). Input must be finite. A is kept divided by a power of four, so that squares of huge or tiny gradients stay
/// in range; all of one factor have to be of about the same size (within 1e15 for float).
template <class T, class B = EigenBackend>
class KroneckerFactor {
 public:
  using Matrix = typename B::template Matrix<T>;

  KroneckerFactor() = default;
  /// \param dimension  n
  /// \param options    `rank` says how many directions a long side's factor keeps (twice as many as asked for)
  KroneckerFactor(Index dimension, const StructuredOptions& options, B backend = {})
      : backend_(std::move(backend)), dimension_(dimension), dense_(dimension <= options.dense_limit) {
    if (dense_) {
      moment_ = backend_.template matrix<T>(dimension, dimension);
    } else {
      stream_ = Subspace<T, B>(dimension, backend_);
      kept_ = options.rank;
      kept_.energy = 1;
      kept_.max_rank *= 2;
      kept_.max_share = std::min(1.0, 2 * kept_.max_share);
    }
  }

  Index dimension() const { return dimension_; }
  bool dense() const { return dense_; }
  /// The sums are of x / 2^exponent.
  int exponent() const { return exponent_.value_or(0); }
  /// Trace of A / 4^exponent. On a GPU it is waited for, unless `settle` was called after the last change.
  double trace() const { return trace_ ? *trace_ : dense_trace(); }
  /// Keeps it until the next change.
  void settle() { trace_ = trace(); }
  /// Square root of the mean eigenvalue of A.
  double scale() const {
    return dimension_ > 0 ? std::ldexp(std::sqrt(trace() / static_cast<double>(dimension_)), exponent()) : 0.0;
  }
  bool empty() const { return !(trace() > 0); }
  const Matrix& moment() const { return moment_; }
  const Subspace<T, B>& stream() const { return stream_; }

  /// A <- A + weight G^T G (input side) or weight G G^T (output side) for a gradient or any m x n matrix G. The rows
  /// of a matrix of inputs X (samples x n) are such a G for the input side.
  /// \throws InvalidArgument when the side has another length.
  void add(ConstTensorView g, Side side, double weight = 1.0) {
    const Index length = side == Side::input ? g.cols : g.rows;
    if (length != dimension_) {
      throw InvalidArgument(detail::text(
          {"ogpsa: a matrix of ", detail::size_text(g.rows, g.cols), " does not fit a side of ", dimension_}));
    }
    const bool fast_side = (side == Side::input) == (g.layout == Layout::row_major);
    if (!exponent_) choose_exponent(backend_.max_abs(g));
    if (dense_) {
      backend_.add_outer(moment_.view(), g, std::ldexp(std::sqrt(weight), -exponent()), fast_side);
      trace_.reset();
    } else {
      fold(g, fast_side, weight);
    }
  }

  /// A <- A + weight X^T X for a Gram matrix (n x n) that the caller summed.
  /// \throws InvalidArgument for another size, or a side that is not kept densely.
  void add_gram(ConstTensorView gram, double weight = 1.0) {
    if (gram.rows != dimension_ || gram.cols != dimension_ || !dense_) {
      throw InvalidArgument(detail::text({"ogpsa: a Gram matrix of ", detail::size_text(gram.rows, gram.cols),
                                          " does not fit a ", dense_ ? "dense" : "low-rank", " side of ", dimension_,
                                          "; give the rows of X, or raise dense_limit"}));
    }
    if (!exponent_) choose_exponent(std::sqrt(backend_.max_abs(gram)));
    backend_.add_scaled(MatrixView<T>(moment_.data(), dimension_ * dimension_, 1), gram,
                        std::ldexp(weight, -2 * exponent()));
    trace_.reset();
  }

  /// For each factor, the leading eigenvectors of A and the square roots of their eigenvalues. All eigenproblems are
  /// solved together.
  static std::vector<Subspace<T, B>> leading(std::span<const KroneckerFactor* const> factors, const RankOptions& rank,
                                             const B& backend) {
    std::vector<Matrix> vectors(factors.size());
    const auto for_each_factor = [&](auto&& f) {
      backend.for_each(static_cast<Index>(factors.size()), [&](Index i) { f(static_cast<std::size_t>(i)); });
    };
    const auto solved = [&](std::size_t i) { return factors[i]->dense_ && !factors[i]->empty(); };
    for_each_factor([&](std::size_t i) {
      if (solved(i)) vectors[i] = backend.template matrix<T>(factors[i]->dimension_, factors[i]->most(rank));
    });
    std::vector<EigenProblem<T>> problems;
    std::vector<std::size_t> problem_of(factors.size());
    for (std::size_t i = 0; i < factors.size(); ++i) {
      problem_of[i] = problems.size();
      if (solved(i)) problems.push_back({factors[i]->moment_.view(), vectors[i].view()});
    }
    const auto eigenvalues = backend.eigenvectors(std::span<const EigenProblem<T>>(problems));
    std::vector<Subspace<T, B>> result(factors.size());
    std::vector<Index> sizes;
    for (const Matrix& v : vectors) sizes.push_back(v.rows() * v.cols());
    backend.for_batches(std::span<const Index>(sizes), [&](Index first, Index last) {
      std::vector<GramProblem<T>> bases;
      std::vector<Eigen::VectorXd> values;
      for (auto i = static_cast<std::size_t>(first); i < static_cast<std::size_t>(last); ++i) {
        values.push_back(solved(i) ? factors[i]->keep_leading(vectors[i], eigenvalues[problem_of[i]], rank)
                                   : Eigen::VectorXd());
        bases.push_back({vectors[i].view(), vectors[i].view()});
      }
      auto grams = backend.grams(std::span<const GramProblem<T>>(bases));
      for (auto i = static_cast<std::size_t>(first), at = std::size_t{0}; i < static_cast<std::size_t>(last);
           ++i, ++at) {
        result[i] = solved(i) ? factors[i]->from_eigenvectors(std::move(vectors[i]), std::move(grams[at]), values[at])
                              : factors[i]->from_stream(rank);
      }
    });
    return result;
  }

  /// A <- A + gamma^2 A_old, for a factor of the same side.
  void absorb(const KroneckerFactor& old, double gamma) {
    if (old.empty()) return;
    settle();
    const int common = empty() ? old.exponent() : std::max(exponent(), old.exponent());
    const double mine = empty() ? 1.0 : std::ldexp(1.0, 2 * (exponent() - common));  // of zeros: finite
    const double theirs = std::ldexp(gamma * gamma, 2 * (old.exponent() - common));
    if (dense_) {
      backend_.scale_columns(moment_.view(), std::vector<double>(static_cast<std::size_t>(dimension_), mine));
      backend_.add_scaled(MatrixView<T>(moment_.data(), dimension_ * dimension_, 1),
                          {old.moment_.data(), dtype_of<T>(), 1, dimension_ * dimension_}, theirs);
    } else {
      Matrix columns = backend_.template matrix<T>(dimension_, old.stream_.rank());
      backend_.copy(old.stream_.basis(), columns.view());
      Eigen::VectorXd factors = old.stream_.singular_values();
      detail::scale(detail::values(factors), gamma);
      backend_.scale_columns(columns.view(), detail::values(factors));
      stream_.update(std::move(columns), 1.0, kept_);
    }
    trace_ = mine * *trace_ + theirs * old.trace();
    exponent_ = common;
  }
  /// For state: takes over what `moment`, `stream`, `trace` and `exponent` gave.
  void restore(Matrix moment, Subspace<T, B> stream, double trace, int exponent) {
    moment_ = std::move(moment);
    stream_ = std::move(stream);
    trace_ = trace;
    exponent_ = trace > 0 ? std::optional(exponent) : std::nullopt;
  }

 private:
  static constexpr Index fold_columns = 64;  // columns folded in at a time

  /// Directions that are asked for at most.
  Index most(const RankOptions& rank) const {
    const double share = std::ceil(rank.max_share * static_cast<double>(dimension_) - 1e-9);
    const Index most = std::clamp<Index>(static_cast<Index>(share), 1, dimension_);
    return rank.max_rank > 0 ? std::min(most, rank.max_rank) : most;
  }
  /// Keeps as many leading eigenvectors as are asked for.
  /// \param eigenvalues  all, descending \returns the singular values of those
  Eigen::VectorXd keep_leading(Matrix& vectors, const Eigen::VectorXd& eigenvalues, const RankOptions& rank) const {
    Eigen::VectorXd singular = eigenvalues;
    for (double& value : detail::values(singular)) value = std::sqrt(std::max(value, 0.0));
    // Eigenvalues are known to u times the largest: half of the digits of the singular values.
    const double tolerance = std::sqrt(default_relative_tolerance<T>(dimension_));
    const Index k = std::min(vectors.cols(), select_rank(singular, dimension_, tolerance, rank));
    vectors.resize_columns(k);
    singular = detail::leading(singular, k);
    detail::scale(detail::values(singular), std::ldexp(1.0, exponent()));
    return singular;
  }
  /// \param gram  of the vectors
  Subspace<T, B> from_eigenvectors(Matrix vectors, Eigen::MatrixXd gram, Eigen::VectorXd singular) const {
    Eigen::MatrixXd ignored = detail::identity(vectors.cols());
    gram = detail::polish(backend_, vectors.view(), std::move(gram), ignored);
    return Subspace<T, B>::from_parts(std::move(vectors), std::move(gram), std::move(singular), {}, {}, backend_);
  }
  /// Of a long side, or of one without anything in it.
  Subspace<T, B> from_stream(const RankOptions& rank) const {
    if (empty()) return Subspace<T, B>(dimension_, backend_);
    Subspace<T, B> result = stream_;
    result.truncate(rank, std::ldexp(std::sqrt(trace()), exponent()));  // energy counts what the factor has dropped
    return result;
  }

  /// From the first gradient that is not zero.
  void choose_exponent(double largest) {
    if (largest > 0) exponent_ = std::clamp(std::ilogb(largest), -1000, 1000);
  }
  double dense_trace() const {
    std::vector<T> diagonal(static_cast<std::size_t>(dimension_));
    backend_.to_host(MatrixView<const T>(moment_.data(), 1, dimension_, dimension_ + 1), std::span<T>(diagonal));
    double sum = 0;
    for (const T value : diagonal) sum += static_cast<double>(value);
    return sum;
  }
  void fold(ConstTensorView g, bool fast_side, double weight) {
    const Index across = fast_side ? g.slow() : g.fast();
    for (Index first = 0; first < across; first += fold_columns) {
      const Index count = std::min(fold_columns, across - first);
      Matrix columns = backend_.template matrix<T>(dimension_, count);
      backend_.load_side(g, fast_side, first, columns.view());
      const auto scale = [&](double factor) {
        backend_.scale_columns(columns.view(), std::vector<double>(static_cast<std::size_t>(count), factor));
      };
      scale(std::ldexp(1.0, -exponent()));
      const auto view = MatrixView<const T>(columns.view());
      const Eigen::MatrixXd gram = backend_.gram(view, view);
      for (Index j = 0; j < count; ++j) *trace_ += weight * detail::at(gram, j, j);
      scale(std::ldexp(std::sqrt(weight), exponent()));
      stream_.update(std::move(columns), 1.0, kept_);
    }
  }

  B backend_;
  Index dimension_ = 0;
  bool dense_ = true;
  Matrix moment_;
  Subspace<T, B> stream_;
  RankOptions kept_;
  std::optional<double> trace_ = 0.0;  // nothing: that of the moment, which has changed
  std::optional<int> exponent_;        // nothing as long as A is zero
};

}  // namespace ogpsa
