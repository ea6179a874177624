#pragma once

#include <span>
#include <string>
#include <utility>
#include <vector>

#include "ogpsa/thin_svd.hpp"

namespace ogpsa {

/// How a subspace is estimated from a matrix of reference gradients.
struct EstimateOptions {
  Orthonormalization method = Orthonormalization::automatic;
  /// Scale each column to unit length first, as OGPSA does with its mean gradients: then each weighs the same in
  /// `RankOptions::energy` and against the tolerance.
  bool normalize_columns = false;
  /// Named in error messages.
  std::string name = {};
};

/// A low-rank subspace of R^n in the flat form: an orthonormal basis Q (n x k), with the singular values (k) of the
/// gradients it stands for, and the coordinates in Q of its reference objectives (k x K).
///
/// Contract: max |Q^T Q - I| <= 16 u after the estimate and after any number of updates, u the unit roundoff of `T`.
/// Updates have the strong guarantee: where one throws, the subspace is as it was.
template <class T, class B = EigenBackend>
class Subspace {
 public:
  using Matrix = typename B::template Matrix<T>;

  Subspace() = default;
  /// The zero subspace of R^dimension; projecting by it changes nothing.
  explicit Subspace(Index dimension, B backend = {})
      : backend_(std::move(backend)), basis_(backend_.template matrix<T>(dimension, 0)) {}

  Index dimension() const { return basis_.rows(); }
  Index rank() const { return basis_.cols(); }
  /// Q (n x k), orthonormal columns in the order of the singular values.
  MatrixView<const T> basis() const { return basis_.view(); }
  /// Singular values (k), descending, of the gradients so far (weighted by forgetting).
  const Eigen::VectorXd& singular_values() const { return singular_values_; }
  /// Q^T h_r (k x K) of the reference objectives h_1 .. h_K: the columns of the last `replace`, or those set by
  /// `update`.
  const Eigen::MatrixXd& objectives() const { return objectives_; }
  /// Norms |h_r| (K) of the reference objectives, of which Q may hold only a part.
  const Eigen::VectorXd& objective_norms() const { return objective_norms_; }
  const B& backend() const { return backend_; }
  /// Moves the basis to the host's memory, or back to where the backend computes (BasisStorage::page_locked).
  void keep_on_host(bool on_host) { backend_.keep_on_host(basis_, on_host); }

  /// Estimates the subspace anew from the columns of `gradients` (n x m, consumed), by the thin SVD.
  /// \throws InvalidArgument for a wrong number of rows; NonFiniteError; NumericalError (see Orthonormalization).
  void replace(Matrix gradients, const RankOptions& rank = {}, const EstimateOptions& options = {}) {
    ogpsa::check(rank);
    Columns columns = measure(gradients.view(), options);
    bring_into_range(gradients, columns, options);
    const double tolerance = default_relative_tolerance<T>(gradients.cols());
    const auto qr = detail::factorize(backend_, gradients.view(), columns.gram, options.method, tolerance, {});
    const MatrixView<const T> from = gradients.view();
    take(from, std::move(gradients), qr, columns, rank);
  }
  /// The same from gradients that stay as they are. They are read twice, and the basis is written once, unless their
  /// condition or range, or the chosen method, asks for a copy to work on.
  void replace(MatrixView<const T> gradients, const RankOptions& rank = {}, const EstimateOptions& options = {}) {
    ogpsa::check(rank);
    Columns columns = measure(gradients, options);
    const double tolerance = default_relative_tolerance<T>(gradients.cols);
    const bool automatic = options.method == Orthonormalization::automatic;
    if (automatic && detail::in_range(columns.gram)) {
      if (const auto qr = detail::factorize_at_once<T>(columns.gram, tolerance)) {
        columns.weigh(options);
        return take(gradients, {}, *qr, columns, rank);
      }
    }
    Matrix copy = backend_.template unfilled_matrix<T>(gradients.rows, gradients.cols);
    backend_.copy(gradients, copy.view());
    replace(std::move(copy), rank, options);
  }

  /// Adds the directions of `columns` (n x p, consumed) that the subspace does not hold yet; none is forgotten.
  /// \throws as `replace`.
  void append(Matrix columns, const std::string& name = {}) {
    fold(std::move(columns), 1.0, nullptr, {.name = name}, {});
  }

  /// Brand's block update of a truncated SVD (Brand 2006; with forgetting as in Ross et al. 2008): the best rank-k
  /// approximation of [gamma Q diag(s), columns].
  /// \param columns     new gradients (n x p, consumed)
  /// \param forgetting  gamma in (0, 1]: the weight of what was there
  /// \param objectives  which objective each new column is the latest gradient of (empty: none; -1: no objective)
  /// \throws as `replace`.
  void update(Matrix columns, double forgetting = 1.0, const RankOptions& rank = {},
              const EstimateOptions& options = {}, std::span<const Index> objectives = {}) {
    if (!detail::is_share(forgetting)) {
      throw InvalidArgument(detail::text({"ogpsa: the forgetting factor is ", forgetting, "; it must be in (0, 1]"}));
    }
    ogpsa::check(rank);
    if (!objectives.empty() && static_cast<Index>(objectives.size()) != columns.cols()) {
      throw InvalidArgument(detail::text({"ogpsa: an update by ", columns.cols(), " columns names ", objectives.size(),
                                          " objectives; name one for each column, or none"}));
    }
    fold(std::move(columns), forgetting, &rank, options, objectives);
  }

  /// The subspace of both sets of gradients. The objectives stay those of this subspace.
  /// \throws InvalidArgument when the dimensions differ.
  void merge(const Subspace& other, const RankOptions& rank = {}) {
    if (other.dimension() != dimension()) {
      throw InvalidArgument(
          detail::text({"ogpsa: cannot merge a subspace of R^", other.dimension(), " into one of R^", dimension()}));
    }
    Matrix columns = other.basis_;
    backend_.scale_columns(columns.view(), detail::values(other.singular_values_));
    update(std::move(columns), 1.0, rank);
  }

  /// Keeps the leading directions only.
  /// \param total_norm  see `select_rank`
  void truncate(const RankOptions& rank, double total_norm = 0) {
    const double tolerance = default_relative_tolerance<T>(this->rank());
    keep_leading(select_rank(singular_values_, dimension(), tolerance, rank, total_norm));
  }

  /// Takes over a basis that is orthonormal already (n x k), with its singular values and objectives.
  /// \throws InvalidArgument when sizes differ, a value is not finite (or a singular value negative), or
  ///         max |Q^T Q - I| > 16 u.
  static Subspace from_parts(Matrix basis, Eigen::VectorXd singular_values, Eigen::MatrixXd objectives = {},
                             Eigen::VectorXd objective_norms = {}, B backend = {});

 private:
  /// What was done to the columns before they were factorised.
  struct Columns {
    Eigen::MatrixXd gram;     // of the columns as factorised
    Eigen::VectorXd norms;    // of the columns as they weigh in the estimate
    Eigen::VectorXd factors;  // column as given (or normalised) = factor * column as factorised
    Eigen::MatrixXd unscale(const Eigen::MatrixXd& r) const {
      return detail::scaled_columns(r, detail::values(factors));
    }
    void weigh(const EstimateOptions& options);
  };

  /// [Q, columns as factorised] = B r with B = [Q, the first `added` of the columns as they are now] pending.
  struct Extension {
    Index added = 0;
    Eigen::MatrixXd r;
    Eigen::MatrixXd pending;
  };

  Columns measure(MatrixView<const T> gradients, const EstimateOptions& options) const;
  void bring_into_range(Matrix& gradients, Columns& columns, const EstimateOptions& options) const {
    columns.factors = detail::bring_into_range(backend_, gradients.view(), columns.gram);
    columns.weigh(options);
  }
  void take(MatrixView<const T> gradients, Matrix memory, const detail::DeferredQr& qr, Columns& columns,
            const RankOptions& rank);
  Extension extend(MatrixView<T> columns, const Columns& measured, Orthonormalization method) const;
  void fold(Matrix columns, double forgetting, const RankOptions* rank, const EstimateOptions& options,
            std::span<const Index> objectives);
  void set_objectives(const Eigen::MatrixXd& rotated, const Eigen::MatrixXd& added, const Eigen::VectorXd& norms,
                      std::span<const Index> slots);

  /// to <- from * rotation, which makes it orthonormal or keeps it so; `to` may be the first columns of `from`.
  /// \returns R, with the product q R, and the Gram matrix of q
  std::pair<Eigen::MatrixXd, Eigen::MatrixXd> rotate(MatrixView<const T> from, const Eigen::MatrixXd& rotation,
                                                     MatrixView<T> to) const {
    Eigen::MatrixXd r = detail::identity(rotation.cols());
    Eigen::MatrixXd gram = detail::polish(backend_, to, backend_.multiply(from, rotation, to), r);
    return {std::move(r), std::move(gram)};
  }
  void keep_leading(Index k) {
    basis_.resize_columns(k);
    gram_ = detail::leading_columns(detail::leading_rows(gram_, k), k);
    singular_values_ = detail::leading(singular_values_, k);
    if (objectives_.size() > 0) objectives_ = detail::leading_rows(objectives_, k);
  }

  B backend_;
  Matrix basis_;
  Eigen::MatrixXd gram_;  // Q^T Q, the identity but for roundings
  Eigen::VectorXd singular_values_;
  Eigen::MatrixXd objectives_;
  Eigen::VectorXd objective_norms_;
};

/// Subspace of the reference gradients in the columns of an Eigen matrix (n x m, float or double).
///
///     auto subspace = ogpsa::estimate(reference_gradients, {.max_rank = 2});
///     ogpsa::project(gradient, subspace);
///
/// \throws NonFiniteError; NumericalError (see Orthonormalization).
template <class B = EigenBackend, class Derived>
auto estimate(const Eigen::MatrixBase<Derived>& gradients, const RankOptions& rank = {},
              const EstimateOptions& options = {}, B backend = {}) {
  using T = typename Derived::Scalar;
  // Column-major memory is read in place, anything else evaluated.
  const Eigen::Ref<const Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic>> values(gradients.derived());
  const MatrixView<const T> view(values.data(), values.rows(), values.cols(), values.outerStride());
  Subspace<T, B> subspace(view.rows, backend);
  if constexpr (B::works_on_host_memory) {
    subspace.replace(view, rank, options);
  } else {
    auto columns = backend.template unfilled_matrix<T>(view.rows, view.cols);
    for (Index j = 0; j < view.cols; ++j) {
      const std::span<const T> column(view.data + j * view.stride, static_cast<std::size_t>(view.rows));
      backend.from_host(column, columns.view().columns(j, 1));
    }
    subspace.replace(std::move(columns), rank, options);
  }
  return subspace;
}

/// The same from plain memory: a column-major matrix of `n x m`.
template <class T, class B = EigenBackend>
requires(std::is_same_v<std::remove_const_t<T>, float> || std::is_same_v<std::remove_const_t<T>, double>) auto estimate(
    MatrixView<T> gradients, const RankOptions& rank = {}, const EstimateOptions& options = {}, B backend = {}) {
  using S = std::remove_const_t<T>;
  Subspace<S, B> subspace(gradients.rows, backend);
  if constexpr (B::works_on_host_memory) {
    subspace.replace(MatrixView<const S>(gradients), rank, options);
  } else {
    auto columns = backend.template unfilled_matrix<S>(gradients.rows, gradients.cols);
    backend.copy(MatrixView<const S>(gradients), columns.view());
    subspace.replace(std::move(columns), rank, options);
  }
  return subspace;
}

}  // namespace ogpsa

#include "ogpsa/subspace_impl.hpp"
