#pragma once

#include <Eigen/Core>
#include <concepts>
#include <cstdint>
#include <span>
#include <vector>

#include "ogpsa/basis.hpp"
#include "ogpsa/small_matrix.hpp"
#include "ogpsa/tensor_view.hpp"

/// \file
/// What a backend must offer. Everything above this header is generic over it: an algorithm calls these primitives on
/// large matrices, which live where the backend keeps them, and does its small `k x k` work on the host in double.

namespace ogpsa {

class EigenBackend;  // the default of every class template; see backend/eigen.hpp

namespace detail {
/// An exponent that no finite value has (see Backend::first_beyond).
inline constexpr int kNotFinite = 2000;
}  // namespace detail

/// Where an entry of a matrix stands; `row` is -1 when there is none.
struct Entry {
  Index row = -1;
  Index col = -1;
  bool found() const { return row >= 0; }
};

/// One tensor in a projection. Its memory is a column-major matrix X of `fast x slow`; a side without a basis is not
/// projected. The flat form is `fast = number of elements`, `slow = 1`, with the basis on the left.
template <class T>
struct ProjectionPiece {
  TensorView tensor;
  Index fast = 0;
  Index slow = 0;
  BasisView<T> left;          ///< fast x k_left, or empty; of a matrix (slow > 1) in full storage
  MatrixView<const T> right;  ///< slow x k_right, or empty
  /// With data (and the tensor's storage type): X is `tensor - origin`, a step, and what changes it is added to
  /// `tensor`.
  ConstTensorView origin = {};

  /// True when the coefficients `left^T X right` are few and are sums over the whole piece; otherwise (one side of a
  /// matrix) every column or row of X has its own and is projected on its own.
  bool has_shared_coefficients() const { return slow == 1 || (left.cols > 0 && right.cols > 0); }
};

/// `left^T X right` (k_left x k_right) of one piece, and the squared Frobenius norm of X (to 16 u; finite exactly where
/// all of X is, for types narrower than double).
struct PieceCoefficients {
  Eigen::MatrixXd inner;
  double squared_norm = 0;
};

/// What to do with one piece: X <- keep * X - left * remove * right^T.
struct PieceChange {
  double keep = 1;
  Eigen::MatrixXd remove;
};

/// A change that follows from the coefficients c = left^T X right alone:
/// X <- keep * X - left * (factor * weights o c) * right^T. Without weights they are all one.
struct LinearChange {
  double keep = 1;
  double factor = 1;
  Eigen::MatrixXd weights = {};
  /// For a flat basis whose columns are not orthonormal, instead of weights: W (k x r) that makes them so, and then
  /// W W^T c takes the place of c.
  Eigen::MatrixXd normalizer = {};

  PieceChange operator()(const Eigen::MatrixXd& c) const {
    PieceChange change{keep, c};
    if (normalizer.size() > 0) {
      change.remove = detail::small_product(normalizer, detail::small_transposed_product(normalizer, c));
    }
    const detail::Column remove = detail::values(change.remove);
    detail::scale(remove, factor);
    const detail::ConstColumn w = detail::values(weights);
    for (std::size_t i = 0; i < w.size(); ++i) remove[i] *= w[i];
    return change;
  }
};

/// What to do with one side of a matrix: X <- keep * X - left diag(remove) left^T X (or the same on the right).
struct SideChange {
  double keep = 1;
  Eigen::VectorXd remove;
};

/// The product a^T b of two tall matrices.
template <class T>
struct GramProblem {
  MatrixView<const T> a, b;
};

/// The product a x of a tall and a small matrix, and where it goes, which may be the first columns of a.
template <class T>
struct ProductProblem {
  MatrixView<const T> a;
  Eigen::MatrixXd x;
  MatrixView<T> to;
};

/// A symmetric matrix (n x n, its lower triangle), and where its leading eigenvectors go: as many as `vectors` has
/// columns.
template <class T>
struct EigenProblem {
  MatrixView<const T> symmetric;
  MatrixView<T> vectors;
};

/// Squared Frobenius norms of X before and after a projection, and of its component in the subspace before it.
struct PieceNorms {
  double before = 0;
  double after = 0;
  double inside = 0;
};

// clang-format off
/// A backend for arithmetic type `T` (float or double). `Matrix<T>` owns a column-major matrix; views do not.
/// Results must not depend on the number of threads. `all_reduce` adds a buffer over the ranks of a sharded run.
template <class B, class T>
concept Backend = requires(const B& b, typename B::template Matrix<T>& owned, MatrixView<T> a, MatrixView<const T> q,
                           BasisView<T> basis, BasisStorage storage, std::uint8_t* elements, float* scales,
                           const Eigen::MatrixXd& small, std::span<const double> factors,
                           std::span<const EigenProblem<T>> problems, std::span<const GramProblem<T>> grams,
                           std::span<const ProductProblem<T>> products, std::span<const Index> sizes,
                           std::span<T> host, std::span<const T> const_host, std::span<double> sums,
                           std::span<const ProjectionPiece<T>> pieces, std::span<const PieceChange> changes,
                           std::span<const SideChange> side_changes, std::span<const LinearChange> linear_changes,
                           ConstTensorView tensor, double weight,
                           std::vector<PieceCoefficients>& coefficients, std::vector<PieceNorms>& norms) {
  // Memory
  { b.template matrix<T>(Index{}, Index{}) } -> std::same_as<typename B::template Matrix<T>>;  // zeros
  { b.template unfilled_matrix<T>(Index{}, Index{}) } -> std::same_as<typename B::template Matrix<T>>;  // any values
  { B::works_on_host_memory } -> std::convertible_to<bool>;  // a view may be of memory that the caller has
  { owned.view() } -> std::convertible_to<MatrixView<T>>;
  owned.resize_columns(Index{});                           // keeps what is there
  b.keep_on_host(owned, bool{});                           // moves it to where a large basis may be kept, or back
  b.copy(q, a);                                            // a <- q
  b.load(tensor, a);                                       // a <- tensor's memory (of a.rows x a.cols), converted
  b.load_side(tensor, bool{}, Index{}, a);                 // a <- columns of X (fast side) or X^T from the given one on
  b.to_host(q, host);                                      // column-major
  b.from_host(const_host, a);
  b.encode(q, storage, elements, scales);                  // columns, rounded, one after the other (see BasisStorage)
  b.decode(basis, a);                                      // a <- basis, exactly
  // Tall matrices
  { b.first_non_finite(q) } -> std::same_as<Entry>;        // in column order
  { b.column_max_abs(q) } -> std::same_as<std::vector<double>>;
  { b.first_non_finite(tensor) } -> std::same_as<Index>;   // -1 when all are finite
  { b.first_beyond(tensor, int{}) } -> std::same_as<Index>;  // |x| >= 2^exponent, or not finite
  { b.first_outside(tensor, weight, weight) } -> std::same_as<Index>;  // not in [low, high]
  { b.max_abs(tensor) } -> std::same_as<double>;           // of finite values
  b.scale_columns(a, factors);                             // a_j <- factors_j a_j
  b.add_scaled(a, tensor, weight);                         // a <- a + weight * tensor, a one column
  { b.gram(q, q) } -> std::same_as<Eigen::MatrixXd>;       // a^T b, summed in double over all ranks
  { b.gram(basis, basis) } -> std::same_as<Eigen::MatrixXd>;
  { b.multiply(q, small, a) } -> std::same_as<Eigen::MatrixXd>;  // a <- q * small, a^T a; a: also q's first columns
  { b.grams(grams) } -> std::same_as<std::vector<Eigen::MatrixXd>>;       // gram of each, all at once
  { b.multiply(products) } -> std::same_as<std::vector<Eigen::MatrixXd>>;  // multiply of each
  b.subtract_product(a, q, small);                         // a <- a - q * small
  b.divide_rows(a, tensor);                                // row i of a <- row i / tensor_i
  // Weights as they are stored, a one column
  b.load_difference(a, tensor, tensor);                    // a <- first - second, both of one storage type
  b.move(TensorView{}, tensor, q);                         // t <- t + (q - (t - tensor)), rounded once
  // One side of a matrix
  b.add_outer(a, tensor, weight, bool{});                  // a <- a + Y Y^T, Y = weight * X, X fast x slow (or X^T)
  { b.eigenvectors(problems) } -> std::same_as<std::vector<Eigen::VectorXd>>;  // all eigenvalues of each, descending
  // Projections, all blocks of a model at once
  { b.first_piece_beyond(pieces, int{}) } -> std::same_as<Index>;  // the first with a value as of first_beyond, or -1
  b.project(pieces, linear_changes, coefficients, norms);  // each piece with coefficients of its own, at once
  { b.sums_over_ranks() } -> std::same_as<bool>;           // then coefficients are not complete without all_reduce
  b.coefficients(pieces, coefficients);                    // or in two steps: these, and then
  b.change(pieces, changes, norms);
  b.change_side(pieces, side_changes, norms);
  b.all_reduce(sums);
  b.for_each(Index{}, [](Index) {});                       // independent tasks, in parallel or not
  b.for_batches(sizes, [](Index, Index) {});               // the same in batches [first, last) to be done at once, of
                                                           // tasks that work on so many elements
};
// clang-format on

}  // namespace ogpsa
