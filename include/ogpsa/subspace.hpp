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
    Columns columns = prepare(gradients, options);
    const double tolerance = default_relative_tolerance<T>(gradients.cols());
    const auto qr = detail::factorize(backend_, gradients.view(), columns.gram, options.method, tolerance, {});
    const Eigen::MatrixXd coordinates = columns.unscale(qr.r);
    const auto svd = detail::small_svd(coordinates);
    const Index k = select_rank(svd.s, dimension(), tolerance, rank);
    const Eigen::MatrixXd rotation = detail::leading_columns(svd.u, k);
    rotate(gradients, qr.rank, detail::small_product(qr.pending, rotation));
    basis_ = std::move(gradients);
    singular_values_ = detail::leading(svd.s, k);
    objectives_ = detail::small_transposed_product(rotation, coordinates);
    objective_norms_ = std::move(columns.norms);
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
  };

  Columns prepare(Matrix& gradients, const EstimateOptions& options) const;
  void fold(Matrix columns, double forgetting, const RankOptions* rank, const EstimateOptions& options,
            std::span<const Index> objectives);
  void set_objectives(const Eigen::MatrixXd& rotated, const Eigen::MatrixXd& added, const Eigen::VectorXd& norms,
                      std::span<const Index> slots);

  /// The first `cols` columns of q, times a matrix that makes them orthonormal or keeps them so, become all of q.
  /// \returns R: the product is q R.
  Eigen::MatrixXd rotate(Matrix& q, Index cols, const Eigen::MatrixXd& rotation) const {
    if (rotation.cols() > 0) backend_.multiply(q.view().columns(0, cols), rotation);
    q.resize_columns(rotation.cols());
    Eigen::MatrixXd r = detail::identity(rotation.cols());
    detail::polish(backend_, q.view(), r);
    return r;
  }
  void keep_leading(Index k) {
    basis_.resize_columns(k);
    singular_values_ = detail::leading(singular_values_, k);
    if (objectives_.size() > 0) objectives_ = detail::leading_rows(objectives_, k);
  }

  B backend_;
  Matrix basis_;
  Eigen::VectorXd singular_values_;
  Eigen::MatrixXd objectives_;
  Eigen::VectorXd objective_norms_;
};

template <class T, class B>
auto Subspace<T, B>::prepare(Matrix& gradients, const EstimateOptions& options) const -> Columns {
  const std::string where = detail::text({options.name.empty() ? "" : " of block '", options.name, "'"});
  if (gradients.rows() != dimension()) {
    throw InvalidArgument(detail::text({"ogpsa: reference gradients", where, " have ", gradients.rows(),
                                        " elements, but the subspace lies in R^", dimension()}));
  }
  const Index m = gradients.cols();
  const auto view = MatrixView<const T>(gradients.view());
  Columns columns{backend_.gram(view, view), detail::zeros(m), {}};
  if (!detail::in_range(columns.gram)) {
    if (const Entry bad = backend_.first_non_finite(view); bad.found()) {
      throw NonFiniteError(detail::text(
          {"ogpsa: reference gradients", where, ": element ", bad.row, " of column ", bad.col,
           " is NaN or infinite; nothing was changed. Check the loss of that batch (or the loss scaler)"}));
    }
  }
  columns.factors = detail::bring_into_range(backend_, gradients.view(), columns.gram);
  for (Index j = 0; j < m; ++j) {
    const double norm = std::sqrt(detail::at(columns.gram, j, j));
    double& factor = detail::at(columns.factors, j);
    if (options.normalize_columns) factor = norm > 0 ? 1 / norm : 0.0;
    detail::at(columns.norms, j) = norm * factor;
  }
  return columns;
}

template <class T, class B>
void Subspace<T, B>::fold(Matrix columns, double forgetting, const RankOptions* rank, const EstimateOptions& options,
                          std::span<const Index> objectives) {
  const Columns prepared = prepare(columns, options);
  const Index k = this->rank();
  const Index p = columns.cols();
  if (p == 0) return;
  const MatrixView<const T> q = basis_.view();
  // columns = Q c + J r, J orthonormal and orthogonal to Q: CGS2 against Q, then within the residual.
  const Eigen::VectorXd norms = detail::column_norms(prepared.gram);
  Eigen::MatrixXd c = detail::zeros(k, p);
  for (int pass = 0; pass < 2 && k > 0; ++pass) {
    const Eigen::MatrixXd correction = backend_.gram(q, MatrixView<const T>(columns.view()));
    backend_.subtract_product(columns.view(), q, correction);
    detail::add_scaled(detail::values(c), 1, detail::values(correction));
  }
  const auto residual = MatrixView<const T>(columns.view());
  const QrFactor qr =
      detail::orthonormalize_in_range(backend_, columns.view(), backend_.gram(residual, residual), options.method,
                                      default_relative_tolerance<T>(k + p), detail::values(norms));
  const MatrixView<T> added = columns.view().columns(0, qr.rank);
  if (k > 0 && qr.rank > 0) {  // normalising a small residual magnified what was left of Q in it
    backend_.subtract_product(added, q, backend_.gram(q, MatrixView<const T>(added)));
    Eigen::MatrixXd ignored = detail::identity(qr.rank);
    detail::polish(backend_, added, ignored);
  }
  const Eigen::MatrixXd coordinates = detail::stacked(prepared.unscale(c), prepared.unscale(qr.r));
  Eigen::MatrixXd core = detail::zeros(k + qr.rank, k + p);
  for (Index i = 0; i < k; ++i) detail::at(core, i, i) = forgetting * detail::at(singular_values_, i);
  for (Index j = 0; j < p; ++j) detail::assign(detail::column(core, k + j), detail::column(coordinates, j));
  const auto svd = detail::small_svd(core);
  const Index found = svd.s.size();
  const Index kept = rank ? select_rank(svd.s, dimension(), default_relative_tolerance<T>(k + p), *rank) : found;
  const Eigen::MatrixXd rotation = detail::leading_columns(svd.u, kept);

  // In place: all that may fail is behind us, but for a lack of memory, which leaves the basis as it was.
  basis_.resize_columns(k + qr.rank);
  if (qr.rank > 0) backend_.copy(MatrixView<const T>(added), basis_.view().columns(k, qr.rank));
  const Eigen::MatrixXd r = rotate(basis_, k + qr.rank, rotation);
  // Coordinates follow every turn of the basis exactly, or they would drift over many updates.
  const Eigen::MatrixXd turn = detail::small_product(rotation, detail::inverse_upper(r));
  const Eigen::MatrixXd old = detail::leading_rows(objectives_, k + qr.rank);
  singular_values_ = detail::leading(svd.s, kept);
  set_objectives(detail::small_transposed_product(turn, old), detail::small_transposed_product(turn, coordinates),
                 prepared.norms, objectives);
}

template <class T, class B>
void Subspace<T, B>::set_objectives(const Eigen::MatrixXd& rotated, const Eigen::MatrixXd& added,
                                    const Eigen::VectorXd& norms, std::span<const Index> slots) {
  Index count = rotated.cols();
  for (const Index slot : slots) count = std::max(count, slot + 1);
  objectives_ = detail::zeros(this->rank(), count);
  std::copy_n(rotated.data(), rotated.size(), objectives_.data());
  objective_norms_ = detail::leading(objective_norms_, count);
  for (std::size_t j = 0; j < slots.size(); ++j) {
    if (slots[j] < 0) continue;
    detail::assign(detail::column(objectives_, slots[j]), detail::column(added, static_cast<Index>(j)));
    detail::at(objective_norms_, slots[j]) = detail::values(norms)[j];
  }
}

template <class T, class B>
Subspace<T, B> Subspace<T, B>::from_parts(Matrix basis, Eigen::VectorXd singular_values, Eigen::MatrixXd objectives,
                                          Eigen::VectorXd objective_norms, B backend) {
  const Index k = basis.cols();
  if (singular_values.size() != k || (objectives.size() > 0 && objectives.rows() != k) ||
      objective_norms.size() != objectives.cols()) {
    throw InvalidArgument(
        detail::text({"ogpsa: a basis of ", detail::size_text(basis.rows(), k), " needs ", k,
                      " singular values and objectives of ", k, " rows, but has ", singular_values.size(), " and ",
                      detail::size_text(objectives.rows(), objectives.cols())}));
  }
  const auto singular = detail::values(singular_values);
  if (!detail::all_finite(singular) || std::any_of(singular.begin(), singular.end(), [](double s) { return s < 0; }) ||
      !detail::all_finite(detail::values(objectives)) || !detail::all_finite(detail::values(objective_norms))) {
    throw InvalidArgument("ogpsa: singular values must be finite and not negative, and objectives finite");
  }
  const auto q = MatrixView<const T>(basis.view());
  const double error = detail::distance_from_identity(backend.gram(q, q));
  if (!(error <= 16 * detail::unit_roundoff<T>())) {
    throw InvalidArgument(
        detail::text({"ogpsa: the columns of a basis of ", detail::size_text(basis.rows(), k),
                      " are not orthonormal (max |Q^T Q - I| = ", error, "); use Subspace::replace to make them so"}));
  }
  Subspace result(basis.rows(), std::move(backend));
  result.basis_ = std::move(basis);
  result.singular_values_ = std::move(singular_values);
  result.objectives_ = std::move(objectives);
  result.objective_norms_ = std::move(objective_norms);
  return result;
}

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
  auto columns = backend.template matrix<T>(gradients.rows(), gradients.cols());
  // Column-major memory is read in place, anything else evaluated.
  const Eigen::Ref<const Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic>> values(gradients.derived());
  for (Index j = 0; j < values.cols(); ++j) {
    const std::span<const T> column(values.col(j).data(), static_cast<std::size_t>(values.rows()));
    backend.from_host(column, columns.view().columns(j, 1));
  }
  Subspace<T, B> subspace(gradients.rows(), backend);
  subspace.replace(std::move(columns), rank, options);
  return subspace;
}

/// The same from plain memory: a column-major matrix of `n x m`.
template <class T, class B = EigenBackend>
requires(std::is_same_v<std::remove_const_t<T>, float> || std::is_same_v<std::remove_const_t<T>, double>) auto estimate(
    MatrixView<T> gradients, const RankOptions& rank = {}, const EstimateOptions& options = {}, B backend = {}) {
  using S = std::remove_const_t<T>;
  auto columns = backend.template matrix<S>(gradients.rows, gradients.cols);
  backend.copy(MatrixView<const S>(gradients), columns.view());
  Subspace<S, B> subspace(gradients.rows, backend);
  subspace.replace(std::move(columns), rank, options);
  return subspace;
}

}  // namespace ogpsa
