#pragma once

#include "ogpsa/subspace.hpp"

/// \file
/// Definitions of the members of Subspace.

namespace ogpsa {

template <class T, class B>
auto Subspace<T, B>::measure(MatrixView<const T> gradients, const EstimateOptions& options) const -> Columns {
  const std::string where = detail::text({options.name.empty() ? "" : " of block '", options.name, "'"});
  if (gradients.rows != dimension()) {
    throw InvalidArgument(detail::text({"ogpsa: reference gradients", where, " have ", gradients.rows,
                                        " elements, but the subspace lies in R^", dimension()}));
  }
  Columns columns{backend_.gram(gradients, gradients), {}, detail::zeros(gradients.cols)};
  for (double& factor : detail::values(columns.factors)) factor = 1;
  if (!detail::in_range(columns.gram)) {
    if (const Entry bad = backend_.first_non_finite(gradients); bad.found()) {
      throw NonFiniteError(detail::text(
          {"ogpsa: reference gradients", where, ": element ", bad.row, " of column ", bad.col,
           " is NaN or infinite; nothing was changed. Check the loss of that batch (or the loss scaler)"}));
    }
  }
  return columns;
}

/// Factors and norms of columns in range.
template <class T, class B>
void Subspace<T, B>::Columns::weigh(const EstimateOptions& options) {
  norms = detail::column_norms(gram);
  for (Index j = 0; j < norms.size(); ++j) {
    double &norm = detail::at(norms, j), &factor = detail::at(factors, j);
    if (options.normalize_columns) factor = norm > 0 ? 1 / norm : 0.0;
    norm *= factor;
  }
}

/// The estimate from factorised gradients, which may lie in `memory`; the basis does then, too.
template <class T, class B>
void Subspace<T, B>::take(MatrixView<const T> gradients, Matrix memory, const detail::DeferredQr& qr, Columns& columns,
                          const RankOptions& rank) {
  const Eigen::MatrixXd coordinates = columns.unscale(qr.r);
  const auto svd = detail::small_svd(coordinates);
  const Index k = select_rank(svd.s, dimension(), default_relative_tolerance<T>(gradients.cols), rank);
  const Eigen::MatrixXd rotation = detail::leading_columns(svd.u, k);
  if (memory.rows() != dimension() || memory.cols() < k) memory = backend_.template unfilled_matrix<T>(dimension(), k);
  const Eigen::MatrixXd factor = detail::small_product(qr.pending, rotation);
  gram_ = rotate(gradients.columns(0, qr.rank), factor, memory.view().columns(0, k)).second;
  memory.resize_columns(k);
  basis_ = std::move(memory);
  singular_values_ = detail::leading(svd.s, k);
  objectives_ = detail::small_transposed_product(rotation, coordinates);
  objective_norms_ = std::move(columns.norms);
}

/// An orthonormal basis of Q and more columns, which are consumed.
template <class T, class B>
auto Subspace<T, B>::extend(MatrixView<T> columns, const Columns& measured, Orthonormalization method) const
    -> Extension {
  const Index k = rank(), p = columns.cols;
  const MatrixView<const T> q = basis_.view();
  const double tolerance = default_relative_tolerance<T>(k + p);
  Eigen::MatrixXd c = detail::gram_with(backend_, q, columns);
  if (method == Orthonormalization::automatic) {
    if (auto qr = detail::factorize_at_once<T>(detail::bordered(gram_, c, measured.gram), tolerance)) {
      return {p, std::move(qr->r), std::move(qr->pending)};
    }
  }
  // columns = Q c + J r, J orthonormal and orthogonal to Q: CGS2 against Q, then within the residual.
  const Eigen::VectorXd norms = detail::column_norms(measured.gram);
  backend_.subtract_product(columns, q, c);
  if (k > 0) {
    const Eigen::MatrixXd correction = detail::gram_with(backend_, q, columns);
    backend_.subtract_product(columns, q, correction);
    detail::add_scaled(detail::values(c), 1, detail::values(correction));
  }
  const QrFactor qr = detail::orthonormalize_in_range(backend_, columns, detail::gram_of(backend_, columns), method,
                                                      tolerance, detail::values(norms));
  const MatrixView<T> added = columns.columns(0, qr.rank);
  if (k > 0 && qr.rank > 0) {  // normalising a small residual magnified what was left of Q in it
    backend_.subtract_product(added, q, detail::gram_with(backend_, q, added));
    Eigen::MatrixXd ignored = detail::identity(qr.rank);
    detail::polish(backend_, added, detail::gram_of(backend_, added), ignored);
  }
  Eigen::MatrixXd r = detail::leading_columns(detail::identity(k + qr.rank), k);
  r = detail::side_by_side(r, detail::stacked(c, qr.r));
  return {qr.rank, std::move(r), detail::identity(k + qr.rank)};
}

template <class T, class B>
void Subspace<T, B>::fold(Matrix columns, double forgetting, const RankOptions* rank, const EstimateOptions& options,
                          std::span<const Index> objectives) {
  Columns measured = measure(columns.view(), options);
  bring_into_range(columns, measured, options);
  const Index k = this->rank();
  const Index p = columns.cols();
  if (p == 0) return;
  const Extension extension = extend(columns.view(), measured, options.method);
  const Index size = k + extension.added;
  // The weighted history and the new columns, in coordinates of the basis of both.
  Eigen::VectorXd weights = detail::zeros(k + p);
  for (Index i = 0; i < k; ++i) detail::at(weights, i) = forgetting * detail::at(singular_values_, i);
  for (Index j = 0; j < p; ++j) detail::at(weights, k + j) = detail::at(measured.factors, j);
  const Eigen::MatrixXd core = detail::scaled_columns(extension.r, detail::values(weights));
  const auto svd = detail::small_svd(core);
  const Index found = svd.s.size();
  const Index kept = rank ? select_rank(svd.s, dimension(), default_relative_tolerance<T>(k + p), *rank) : found;
  const Eigen::MatrixXd rotation = detail::leading_columns(svd.u, kept);

  // In place: all that may fail is behind us, but for a lack of memory, which leaves the basis as it was.
  basis_.resize_columns(size);
  const MatrixView<T> all = basis_.view(), q = all.columns(0, kept);
  if (size > k) backend_.copy(MatrixView<const T>(columns.view().columns(0, size - k)), all.columns(k, size - k));
  auto [r, gram] = rotate(MatrixView<const T>(all), detail::small_product(extension.pending, rotation), q);
  basis_.resize_columns(kept);
  gram_ = std::move(gram);
  // Coordinates follow every turn of the basis exactly, or they would drift over many updates.
  const Eigen::MatrixXd turn = detail::small_product(rotation, detail::inverse_upper(r));
  const Eigen::MatrixXd old = detail::small_product(detail::leading_columns(extension.r, k), objectives_);
  const Eigen::MatrixXd coordinates = detail::trailing_columns(core, p);
  singular_values_ = detail::leading(svd.s, kept);
  set_objectives(detail::small_transposed_product(turn, old), detail::small_transposed_product(turn, coordinates),
                 measured.norms, objectives);
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
  Eigen::MatrixXd gram = detail::gram_of(backend, basis.view());
  const double error = detail::distance_from_identity(gram);
  if (!(error <= 16 * detail::unit_roundoff<T>())) {
    throw InvalidArgument(
        detail::text({"ogpsa: the columns of a basis of ", detail::size_text(basis.rows(), k),
                      " are not orthonormal (max |Q^T Q - I| = ", error, "); use Subspace::replace to make them so"}));
  }
  Subspace result(basis.rows(), std::move(backend));
  result.basis_ = std::move(basis);
  result.gram_ = std::move(gram);
  result.singular_values_ = std::move(singular_values);
  result.objectives_ = std::move(objectives);
  result.objective_norms_ = std::move(objective_norms);
  return result;
}

}  // namespace ogpsa
