#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <type_traits>
#include <utility>

#include "ogpsa/subspace.hpp"

namespace ogpsa {

namespace detail {

/// \throws InvalidArgument where `T` is not kept as `storage`.
template <class T>
void check_storage(BasisStorage storage) {
  if (!is_rounded(storage) || std::is_same_v<T, float>) return;
  throw InvalidArgument(text({"ogpsa: basis storage ", storage_name(storage),
                              " is for float arithmetic; with double, use BasisStorage::full"}));
}

/// The largest angle between a vector of span(A) and span(B), from A^T A, B^T B and B^T A; in radians.
inline double largest_angle(const Eigen::MatrixXd& a, const Eigen::MatrixXd& b, const Eigen::MatrixXd& cross) {
  if (a.size() == 0) return 0;
  const auto root_a = upper_cholesky(a), root_b = upper_cholesky(b);
  if (!root_a || !root_b) return std::acos(0.0);
  // In orthonormal bases A R_a^-1 and B R_b^-1: the sine's square is an eigenvalue of I - M^T M, M = (B R_b^-1)^T A
  // R_a^-1.
  const Eigen::MatrixXd inverse_a = inverse_upper(*root_a);
  const Eigen::MatrixXd part = small_product(small_transposed_product(inverse_upper(*root_b), cross), inverse_a);
  const Eigen::MatrixXd whole = small_transposed_product(inverse_a, small_product(a, inverse_a));
  const double square = small_svd(whole - small_transposed_product(part, part)).s(0);
  return std::asin(std::sqrt(std::min(square, 1.0)));
}

}  // namespace detail

/// A flat subspace whose basis is kept in 2 bytes or 1 for each element (BasisStorage::bfloat16, int8): the same memory
/// less to hold, and to read in each projection. A rounded basis B (n x k) is not orthonormal, but B W is, with W (k x
/// k) on the host, and spans the same; projecting by it is exact for that span, which lies at `rounding_angle` from the
/// one that was rounded. Made from a Subspace, and turned back into one to be updated.
///
///     const ogpsa::StoredSubspace stored(subspace, ogpsa::BasisStorage::int8);
///     ogpsa::project(gradient, stored);
template <class T, class B = EigenBackend>
class StoredSubspace {
 public:
  using Elements = typename B::template Matrix<std::uint8_t>;
  using Scales = typename B::template Matrix<float>;

  StoredSubspace() = default;
  /// Rounds a basis. \throws InvalidArgument for a storage that does not round, or where `T` is not float;
  /// NumericalError when the rounded columns depend on each other (more than a few hundred of them might).
  StoredSubspace(const Subspace<T, B>& subspace, BasisStorage storage);

  Index dimension() const { return dimension_; }
  Index rank() const { return elements_.cols(); }
  BasisStorage storage() const { return storage_; }
  /// B (n x k), of which it owns the memory.
  BasisView<T> basis() const { return {elements_.data(), storage_, dimension_, rank(), scales_.data()}; }
  /// W (k x k): B W has orthonormal columns.
  const Eigen::MatrixXd& normalizer() const { return normalizer_; }
  /// As of the subspace that was rounded.
  const Eigen::VectorXd& singular_values() const { return singular_values_; }
  /// Coordinates (k x K) in B W of the objectives, as far as they lie in its span.
  const Eigen::MatrixXd& objectives() const { return objectives_; }
  const Eigen::VectorXd& objective_norms() const { return objective_norms_; }
  /// The largest principal angle between this subspace and the one that was rounded, in radians.
  double rounding_angle() const { return rounding_angle_; }
  /// Bytes of the basis with its scales.
  Index bytes() const { return elements_.rows() * elements_.cols() + scales_.rows() * scales_.cols() * 4; }
  const B& backend() const { return backend_; }

  /// The same subspace with the orthonormal basis B W in `T`.
  Subspace<T, B> restore() const;

  const Elements& elements() const { return elements_; }
  const Scales& scales() const { return scales_; }
  /// For state: takes over what the members of the same names gave.
  /// \throws InvalidArgument when sizes differ, a value is not finite, or B W is not orthonormal.
  static StoredSubspace from_parts(BasisStorage storage, Index dimension, Elements elements, Scales scales,
                                   Eigen::MatrixXd normalizer, Eigen::VectorXd singular_values,
                                   Eigen::MatrixXd objectives, Eigen::VectorXd objective_norms, double rounding_angle,
                                   B backend = {});

 private:
  B backend_;
  BasisStorage storage_ = BasisStorage::full;  // of one that was default-constructed
  Index dimension_ = 0;
  Elements elements_;
  Scales scales_;
  Eigen::MatrixXd normalizer_;
  Eigen::VectorXd singular_values_;
  Eigen::MatrixXd objectives_;
  Eigen::VectorXd objective_norms_;
  double rounding_angle_ = 0;
};

/// The types that `project` takes.
template <class S>
inline constexpr bool is_flat_subspace = false;
template <class T, class B>
inline constexpr bool is_flat_subspace<Subspace<T, B>> = true;
template <class T, class B>
inline constexpr bool is_flat_subspace<StoredSubspace<T, B>> = true;

/// The largest angle between a vector of the first subspace and the second one, in radians, computed in double; of two
/// subspaces of the same rank, the largest principal angle.
/// \throws InvalidArgument when the dimensions differ.
template <class T, class B, template <class, class> class First, template <class, class> class Second>
requires is_flat_subspace<First<T, B>> && is_flat_subspace<Second<T, B>>
double largest_angle(const First<T, B>& a, const Second<T, B>& b) {
  if (a.dimension() != b.dimension()) {
    throw InvalidArgument(
        detail::text({"ogpsa: there is no angle between subspaces of R^", a.dimension(), " and R^", b.dimension()}));
  }
  const BasisView<T> qa = a.basis(), qb = b.basis();
  const B& backend = a.backend();
  return detail::largest_angle(backend.gram(qa, qa), backend.gram(qb, qb), backend.gram(qb, qa));
}

template <class T, class B>
StoredSubspace<T, B>::StoredSubspace(const Subspace<T, B>& subspace, BasisStorage storage)
    : backend_(subspace.backend()),
      storage_(storage),
      dimension_(subspace.dimension()),
      singular_values_(subspace.singular_values()),
      objective_norms_(subspace.objective_norms()) {
  detail::check_storage<T>(storage);
  if (!detail::is_rounded(storage)) {
    throw InvalidArgument("ogpsa: a stored subspace is rounded to bfloat16 or int8; a full one is a Subspace");
  }
  const Index k = subspace.rank();
  const bool scaled = storage == BasisStorage::int8;
  elements_ = backend_.template matrix<std::uint8_t>(dimension_ * detail::bytes_of<T>(storage), k);
  scales_ = backend_.template matrix<float>(scaled ? detail::scale_blocks(dimension_) : 0, k);
  backend_.encode(subspace.basis(), storage, elements_.data(), scales_.data());
  const BasisView<T> q = subspace.basis();
  const Eigen::MatrixXd gram = backend_.gram(basis(), basis());
  const auto root = detail::upper_cholesky(gram);
  if (!root) {
    throw NumericalError(
        detail::text({"ogpsa: a basis of ", detail::size_text(dimension_, k), " does not keep its rank in ",
                      detail::storage_name(storage), "; lower max_rank, or use another storage"}));
  }
  normalizer_ = detail::inverse_upper(*root);
  const Eigen::MatrixXd cross = backend_.gram(basis(), q);
  objectives_ = detail::small_product(detail::small_transposed_product(normalizer_, cross), subspace.objectives());
  rounding_angle_ = detail::largest_angle(backend_.gram(q, q), gram, cross);
}

template <class T, class B>
Subspace<T, B> StoredSubspace<T, B>::restore() const {
  auto q = backend_.template matrix<T>(dimension_, rank());
  backend_.decode(basis(), q.view());
  Eigen::MatrixXd r = detail::identity(rank());
  detail::polish(backend_, q.view(), backend_.multiply(MatrixView<const T>(q.view()), normalizer_, q.view()), r);
  const Eigen::MatrixXd objectives = detail::small_transposed_product(detail::inverse_upper(r), objectives_);
  return Subspace<T, B>::from_parts(std::move(q), singular_values_, objectives, objective_norms_, backend_);
}

template <class T, class B>
StoredSubspace<T, B> StoredSubspace<T, B>::from_parts(BasisStorage storage, Index dimension, Elements elements,
                                                      Scales scales, Eigen::MatrixXd normalizer,
                                                      Eigen::VectorXd singular_values, Eigen::MatrixXd objectives,
                                                      Eigen::VectorXd objective_norms, double rounding_angle,
                                                      B backend) {
  detail::check_storage<T>(storage);
  const Index k = elements.cols();
  const bool scaled = storage == BasisStorage::int8;
  const auto wrong = [&](const char* what) {
    throw InvalidArgument(detail::text(
        {"ogpsa: a basis of ", detail::size_text(dimension, k), " in ", detail::storage_name(storage), ": ", what}));
  };
  if (!detail::is_rounded(storage) || elements.rows() != dimension * detail::bytes_of<T>(storage) ||
      scales.cols() != k || scales.rows() != (scaled ? detail::scale_blocks(dimension) : 0) || normalizer.rows() != k ||
      normalizer.cols() != k || singular_values.size() != k || objectives.rows() != k ||
      objective_norms.size() != objectives.cols()) {
    wrong("its parts have different sizes");
  }
  const detail::ConstColumn singular = detail::values(singular_values);
  if (!detail::all_finite(singular) || std::any_of(singular.begin(), singular.end(), [](double s) { return s < 0; }) ||
      !detail::all_finite(detail::values(objectives)) || !detail::all_finite(detail::values(objective_norms)) ||
      !detail::is_within(rounding_angle, 0, 2)) {
    wrong("singular values must be finite and not negative, objectives finite, the angle in [0, pi/2]");
  }
  StoredSubspace result;
  result.backend_ = std::move(backend);
  result.storage_ = storage;
  result.dimension_ = dimension;
  result.elements_ = std::move(elements);
  result.scales_ = std::move(scales);
  result.normalizer_ = std::move(normalizer);
  result.singular_values_ = std::move(singular_values);
  result.objectives_ = std::move(objectives);
  result.objective_norms_ = std::move(objective_norms);
  result.rounding_angle_ = rounding_angle;
  const auto& w = result.normalizer_;
  const Eigen::MatrixXd gram = result.backend_.gram(result.basis(), result.basis());
  const double error =
      detail::distance_from_identity(detail::small_transposed_product(w, detail::small_product(gram, w)));
  if (!(error <= 16 * detail::unit_roundoff<T>())) wrong("the normalizer does not make its columns orthonormal");
  return result;
}

}  // namespace ogpsa
