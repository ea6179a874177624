#pragma once

#include "ogpsa/subspace.hpp"

/// \file
/// Definitions of the members of Subspace.

namespace ogpsa {

template <class T, class B>
void Subspace<T, B>::apply(std::span<Change> changes) {
  std::vector<Fold> folds;
  folds.reserve(changes.size());
  for (Change& change : changes) folds.emplace_back(change, std::as_const(change.columns).view());
  run(folds);
}

template <class T, class B>
void Subspace<T, B>::run(std::span<Fold> folds) {
  for (const Fold& fold : folds) check(*fold.change, fold.columns);
  measure(folds);
  rotate(folds);
}

template <class T, class B>
void Subspace<T, B>::check(const Change& change, MatrixView<const T> columns) {
  if (!detail::is_share(change.forgetting)) {
    throw InvalidArgument(
        detail::text({"ogpsa: the forgetting factor is ", change.forgetting, "; it must be in (0, 1]"}));
  }
  if (change.rank) ogpsa::check(*change.rank);
  if (!change.objectives.empty() && static_cast<Index>(change.objectives.size()) != columns.cols) {
    throw InvalidArgument(detail::text({"ogpsa: an update by ", columns.cols, " columns names ",
                                        change.objectives.size(), " objectives; name one for each column, or none"}));
  }
  if (columns.rows == change.subspace->dimension()) return;
  throw InvalidArgument(
      detail::text({"ogpsa: reference gradients", detail::of_block(change.options.name), " have ", columns.rows,
                    " elements, but the subspace lies in R^", change.subspace->dimension()}));
}

/// Measures and factorises the columns of all folds. No subspace is changed.
template <class T, class B>
void Subspace<T, B>::measure(std::span<Fold> folds) {
  std::vector<GramProblem<T>> problems;
  for (const Fold& fold : folds) {
    problems.push_back({fold.columns, fold.columns});
    problems.push_back({fold.change->subspace->basis().columns(0, fold.k), fold.columns});
  }
  if (folds.empty()) return;
  auto products = folds[0].change->subspace->backend_.grams(std::span<const GramProblem<T>>(problems));
  for (std::size_t i = 0; i < folds.size(); ++i) {
    folds[i].gram = std::move(products[2 * i]);
    if (!folds[i].is_nothing()) folds[i].change->subspace->factorize(folds[i], std::move(products[2 * i + 1]));
  }
}

/// The columns of a fold as memory to work in: those that were given away, or a copy.
template <class T, class B>
MatrixView<T> Subspace<T, B>::own(Fold& fold) const {
  Matrix& memory = fold.change->columns;
  if (!fold.owns_columns()) {
    memory = backend_.template unfilled_matrix<T>(fold.columns.rows, fold.columns.cols);
    backend_.copy(fold.columns, memory.view());
    fold.columns = std::as_const(memory).view();
  }
  return memory.view();
}

template <class T, class B>
void Subspace<T, B>::bring_into_range(Fold& fold, Eigen::MatrixXd& inner) const {
  const EstimateOptions& options = fold.change->options;
  fold.factors = detail::zeros(fold.columns.cols);
  for (double& factor : detail::values(fold.factors)) factor = 1;
  if (!detail::in_range(fold.gram)) {
    if (const Entry bad = backend_.first_non_finite(fold.columns); bad.found()) {
      throw NonFiniteError(detail::text(
          {"ogpsa: reference gradients", detail::of_block(options.name), ": element ", bad.row, " of column ", bad.col,
           " is NaN or infinite; nothing was changed. Check the loss of that batch (or the loss scaler)"}));
    }
    const MatrixView<T> columns = own(fold);
    fold.factors = detail::bring_into_range(backend_, columns, fold.gram);
    if (fold.k > 0) inner = detail::gram_with(backend_, basis(), columns);
  }
  fold.norms = detail::column_norms(fold.gram);
  for (Index j = 0; j < fold.norms.size(); ++j) {
    double &norm = detail::at(fold.norms, j), &factor = detail::at(fold.factors, j);
    if (options.normalize_columns) factor = norm > 0 ? 1 / norm : 0.0;
    norm *= factor;
  }
}

/// \param inner  Q^T columns
template <class T, class B>
void Subspace<T, B>::factorize(Fold& fold, Eigen::MatrixXd inner) const {
  const Change& change = *fold.change;
  bring_into_range(fold, inner);
  fold.qr = extend(fold, std::move(inner));
  const Index k = fold.k, p = fold.columns.cols;
  Eigen::VectorXd weights = detail::zeros(k + p);
  for (Index i = 0; i < k; ++i) detail::at(weights, i) = change.forgetting * detail::at(singular_values_, i);
  for (Index j = 0; j < p; ++j) detail::at(weights, k + j) = detail::at(fold.factors, j);
  fold.core = detail::scaled_columns(fold.qr.r, detail::values(weights));
  const auto svd = detail::small_svd(fold.core);
  const double tolerance = default_relative_tolerance<T>(k + p);
  const Index rank = change.rank ? select_rank(svd.s, dimension(), tolerance, *change.rank) : svd.s.size();
  fold.rotation = detail::leading_columns(svd.u, rank);
  fold.singular_values = detail::leading(svd.s, rank);
}

/// An orthonormal basis of Q and the columns.
template <class T, class B>
detail::DeferredQr Subspace<T, B>::extend(Fold& fold, Eigen::MatrixXd c) const {
  const Orthonormalization method = fold.change->options.method;
  const Index k = fold.k, p = fold.columns.cols;
  const MatrixView<const T> q = basis().columns(0, k);
  const double tolerance = default_relative_tolerance<T>(k + p);
  if (method == Orthonormalization::automatic) {
    const Eigen::MatrixXd of_basis = k > 0 ? gram_ : Eigen::MatrixXd();
    if (auto qr = detail::factorize_at_once<T>(detail::bordered(of_basis, c, fold.gram), tolerance)) {
      return std::move(*qr);
    }
  }
  const MatrixView<T> columns = own(fold);
  if (k == 0) return detail::factorize(backend_, columns, fold.gram, method, tolerance, {});
  // columns = Q c + J r, J orthonormal and orthogonal to Q: CGS2 against Q, then within the residual.
  const Eigen::VectorXd norms = detail::column_norms(fold.gram);
  backend_.subtract_product(columns, q, c);
  const Eigen::MatrixXd correction = detail::gram_with(backend_, q, columns);
  backend_.subtract_product(columns, q, correction);
  detail::add_scaled(detail::values(c), 1, detail::values(correction));
  const QrFactor qr = detail::orthonormalize_in_range(backend_, columns, detail::gram_of(backend_, columns), method,
                                                      tolerance, detail::values(norms));
  const MatrixView<T> added = columns.columns(0, qr.rank);
  if (qr.rank > 0) {  // normalising a small residual magnified what was left of Q in it
    backend_.subtract_product(added, q, detail::gram_with(backend_, q, added));
    Eigen::MatrixXd ignored = detail::identity(qr.rank);
    detail::polish(backend_, added, detail::gram_of(backend_, added), ignored);
  }
  const Eigen::MatrixXd all = detail::identity(k + qr.rank);
  return {k + qr.rank, detail::side_by_side(detail::leading_columns(all, k), detail::stacked(c, qr.r)), all};
}

/// Makes the new bases. All that may fail is behind us, but for a lack of memory, which leaves the bases as they were.
template <class T, class B>
void Subspace<T, B>::rotate(std::span<Fold> folds) {
  std::vector<ProductProblem<T>> problems;
  std::vector<Eigen::MatrixXd> grams;
  try {
    for (Fold& fold : folds) {
      problems.push_back(fold.is_nothing() ? ProductProblem<T>{} : fold.change->subspace->prepare(fold));
    }
    if (!folds.empty()) {
      grams = folds[0].change->subspace->backend_.multiply(std::span<const ProductProblem<T>>(problems));
    }
  } catch (...) {
    for (const Fold& fold : folds) fold.change->subspace->basis_.resize_columns(fold.change->subspace->gram_.rows());
    throw;
  }
  for (std::size_t i = 0; i < folds.size(); ++i) {
    if (!folds[i].is_nothing()) folds[i].change->subspace->take(folds[i], std::move(grams[i]));
  }
}

/// The product that gives the new basis: in the place of the old one or of the columns, or in new memory.
template <class T, class B>
ProductProblem<T> Subspace<T, B>::prepare(Fold& fold) {
  const Index k = fold.k, rank = fold.rotation.cols();
  const Eigen::MatrixXd factor = detail::small_product(fold.qr.pending, fold.rotation);
  if (k > 0) {
    basis_.resize_columns(fold.qr.rank);
    const MatrixView<T> all = basis_.view();
    if (fold.added() > 0) backend_.copy(fold.columns.columns(0, fold.added()), all.columns(k, fold.added()));
    fold.basis = all.columns(0, rank);
    return {all, factor, fold.basis};
  }
  Matrix& memory = fold.change->columns;
  if (!fold.owns_columns()) memory = backend_.template unfilled_matrix<T>(dimension(), rank);
  fold.basis = memory.view().columns(0, rank);
  return {fold.columns.columns(0, fold.added()), factor, fold.basis};
}

/// \param gram  of the new basis
template <class T, class B>
void Subspace<T, B>::take(Fold& fold, Eigen::MatrixXd gram) {
  const Index k = fold.k, p = fold.columns.cols, rank = fold.rotation.cols();
  Eigen::MatrixXd r = detail::identity(rank);
  gram_ = detail::polish(backend_, fold.basis, std::move(gram), r);
  // Coordinates follow every turn of the basis exactly, or they would drift over many updates.
  const Eigen::MatrixXd turn = detail::small_product(fold.rotation, detail::inverse_upper(r));
  const Eigen::MatrixXd coordinates = detail::trailing_columns(fold.core, p);
  const bool anew = fold.change->anew;
  const Eigen::MatrixXd old =
      detail::small_product(detail::leading_columns(fold.qr.r, k), anew ? Eigen::MatrixXd(0, 0) : objectives_);
  if (k == 0) basis_ = std::move(fold.change->columns);
  basis_.resize_columns(rank);
  singular_values_ = std::move(fold.singular_values);
  std::vector<Index> slots = std::move(fold.change->objectives);
  if (anew) {
    slots.resize(static_cast<std::size_t>(p));
    std::iota(slots.begin(), slots.end(), Index{0});
  }
  set_objectives(detail::small_transposed_product(turn, old), detail::small_transposed_product(turn, coordinates),
                 fold.norms, slots);
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
  Eigen::MatrixXd gram = detail::gram_of(backend, basis.view());
  return from_parts(std::move(basis), std::move(gram), std::move(singular_values), std::move(objectives),
                    std::move(objective_norms), std::move(backend));
}

/// The same where the Gram matrix of the basis is known.
template <class T, class B>
Subspace<T, B> Subspace<T, B>::from_parts(Matrix basis, Eigen::MatrixXd gram, Eigen::VectorXd singular_values,
                                          Eigen::MatrixXd objectives, Eigen::VectorXd objective_norms, B backend) {
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
