#pragma once

#include <numeric>
#include <optional>
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

  /// Columns that are folded into a subspace or, `anew`, take the place of what it holds.
  struct Change {
    Subspace* subspace = nullptr;
    Matrix columns = {};  ///< n x p, consumed
    bool anew = false;
    double forgetting = 1;
    std::optional<RankOptions> rank = RankOptions{};  ///< nothing: no direction is dropped
    EstimateOptions options = {};
    std::vector<Index> objectives = {};
  };
  /// `replace` and `update` of several subspaces, each its own, of one backend, with what they ask of the backend asked
  /// together. \throws as those, with all subspaces as they were where it is for bad input.
  static void apply(std::span<Change> changes);

  /// Estimates the subspace anew from the columns of `gradients` (n x m, consumed), by the thin SVD.
  /// \throws InvalidArgument for a wrong number of rows; NonFiniteError; NumericalError (see Orthonormalization).
  void replace(Matrix gradients, const RankOptions& rank = {}, const EstimateOptions& options = {}) {
    apply_one({this, std::move(gradients), true, 1.0, rank, options, {}});
  }
  /// The same from gradients that stay as they are. They are read twice, and the basis is written once, unless their
  /// condition or range, or the chosen method, asks for a copy to work on.
  void replace(MatrixView<const T> gradients, const RankOptions& rank = {}, const EstimateOptions& options = {}) {
    Change change{this, {}, true, 1.0, rank, options, {}};
    Fold fold(change, gradients);
    run({&fold, 1});
  }

  /// Adds the directions of `columns` (n x p, consumed) that the subspace does not hold yet; none is forgotten.
  /// \throws as `replace`.
  void append(Matrix columns, const std::string& name = {}) {
    apply_one({this, std::move(columns), false, 1.0, std::nullopt, {.name = name}, {}});
  }

  /// Brand's block update of a truncated SVD (Brand 2006; with forgetting as in Ross et al. 2008): the best rank-k
  /// approximation of [gamma Q diag(s), columns].
  /// \param columns     new gradients (n x p, consumed)
  /// \param forgetting  gamma in (0, 1]: the weight of what was there
  /// \param objectives  which objective each new column is the latest gradient of (empty: none; -1: no objective)
  /// \throws as `replace`.
  void update(Matrix columns, double forgetting = 1.0, const RankOptions& rank = {},
              const EstimateOptions& options = {}, std::span<const Index> objectives = {}) {
    apply_one({this, std::move(columns), false, forgetting, rank, options, {objectives.begin(), objectives.end()}});
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
  /// A change on its way: its columns are measured, factorised, and multiplied into the new basis.
  struct Fold {
    Change* change;
    MatrixView<const T> columns;  // those of the change, or of the caller
    Index k;                      // directions of the old basis that are in the new one
    // Once they are measured:
    Eigen::MatrixXd gram;     // of the columns as factorised
    Eigen::VectorXd norms;    // of the columns as they weigh in the estimate
    Eigen::VectorXd factors;  // column as given (or normalised) = factor * column as factorised
    // Once they are factorised: [Q, columns] = [Q, the first ones of the columns as they are now] pending r, and the
    // columns and the weighted history have the coordinates `core`.
    detail::DeferredQr qr;
    Eigen::MatrixXd core, rotation;
    Eigen::VectorXd singular_values;
    MatrixView<T> basis;  // the new one

    Fold(Change& change, MatrixView<const T> columns)
        : change(&change), columns(columns), k(change.anew ? 0 : change.subspace->rank()) {}
    Index added() const { return qr.rank - k; }  // columns that the basis takes up
    bool is_nothing() const { return columns.cols == 0 && !change->anew; }
    bool owns_columns() const {
      const Matrix& memory = change->columns;
      return memory.rows() == columns.rows && memory.cols() >= columns.cols && memory.data() == columns.data;
    }
  };

  template <class, class>
  friend class KroneckerFactor;
  static Subspace from_parts(Matrix basis, Eigen::MatrixXd gram, Eigen::VectorXd singular_values,
                             Eigen::MatrixXd objectives, Eigen::VectorXd objective_norms, B backend);
  static void apply_one(Change change) { apply(std::span<Change>(&change, 1)); }
  static void run(std::span<Fold> folds);
  static void check(const Change& change, MatrixView<const T> columns);
  static void measure(std::span<Fold> folds);
  static void rotate(std::span<Fold> folds);
  MatrixView<T> own(Fold& fold) const;
  void bring_into_range(Fold& fold, Eigen::MatrixXd& inner) const;
  void factorize(Fold& fold, Eigen::MatrixXd inner) const;
  detail::DeferredQr extend(Fold& fold, Eigen::MatrixXd inner) const;
  ProductProblem<T> prepare(Fold& fold);
  void take(Fold& fold, Eigen::MatrixXd gram);
  void set_objectives(const Eigen::MatrixXd& rotated, const Eigen::MatrixXd& added, const Eigen::VectorXd& norms,
                      std::span<const Index> slots);

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
