#pragma once

#include <cmath>
#include <limits>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "ogpsa/finite.hpp"
#include "ogpsa/nonnegative_least_squares.hpp"
#include "ogpsa/subspace.hpp"

namespace ogpsa {

/// What is done with the component of a gradient that lies in the subspace.
enum class ProjectionMode {
  /// g <- g - alpha Q Q^T g (alpha = 1: the published rule; less: soft).
  orthogonal,
  /// One objective h. Where <g, h> < 0 (the step would raise its loss) remove the component along h, else multiply the
  /// whole block by `scale`: the published `threshold` mode.
  conflicting,
  /// Reference losses may fall but not rise: the nearest gradient with <g, h_r> >= 0 for every objective.
  one_sided,
  /// Keep only the component inside the subspace: the published `plane_projection` mode.
  inside,
};

struct ProjectionOptions {
  ProjectionMode mode = ProjectionMode::orthogonal;
  /// Share of the component to remove, in [0, 1]; for `orthogonal`, `conflicting` and `one_sided`.
  double alpha = 1.0;
  /// Factor for a block that does not conflict; for `conflicting`.
  double scale = 1.0;
  /// The caller has seen to it that all values are finite (the norm that gradients are clipped by is, say), which saves
  /// a pass over the gradients. A value that is not finite then spoils its block instead of being reported.
  bool known_finite = false;
};

/// What is projected. An optimizer moves weights along -gradient and along +step, so the modes that ask for a sign
/// (`conflicting`, `one_sided`) need to know.
enum class Direction { gradient, step };

/// What a projection did to one block or group.
struct ProjectionResult {
  double norm_before = 0;  ///< |g|
  double norm_after = 0;   ///< |g'|
  double norm_inside = 0;  ///< |Q^T g|, before
  /// <g, h_r> / |h_r| for each objective, before: the length of g along h_r.
  Eigen::VectorXd objective_coefficients = {};

  /// 1 - |g'|^2 / |g|^2: the share of the gradient's energy that was removed; 0 for a zero gradient.
  double fraction_removed() const {
    const double ratio = norm_after / norm_before;
    return norm_before > 0 && detail::is_finite(ratio) ? 1 - ratio * ratio : 0.0;
  }
  /// Angle between g and the subspace in radians: 0 inside it, pi/2 orthogonal to it (or to the zero subspace).
  double angle() const {
    const double cosine = norm_before > 0 ? norm_inside / norm_before : 0.0;
    return std::acos(detail::is_finite(cosine) ? std::min(1.0, cosine) : 0.0);
  }
};

/// Pieces that share one set of coefficients (a block, or the blocks of a group), and what to do with them.
template <class T>
struct ProjectionUnit {
  std::string name = {};
  std::vector<ProjectionPiece<T>> pieces = {};
  ProjectionOptions options = {};
  Direction direction = Direction::gradient;
  /// Coordinates (k x K) and norms (K) of the objectives, for the flat form.
  const Eigen::MatrixXd* objectives = nullptr;
  const Eigen::VectorXd* objective_norms = nullptr;
  /// Soft weights in [0, 1] of the coefficients (k_left x k_right, or k x 1 for one side); empty: all 1.
  Eigen::MatrixXd weights = {};
  /// Names of the pieces, for errors; empty: all have the unit's name.
  std::vector<std::string> piece_names = {};
  /// Where only some rows Q_g of a flat basis are given: W (k x r) such that Q_g W is orthonormal and spans what Q_g
  /// does; empty: all rows are given.
  Eigen::MatrixXd restriction = {};
  /// Coordinates (r x K) of the objectives' given rows in Q_g W.
  Eigen::MatrixXd restricted_objectives = {};
};

/// \throws InvalidArgument for an option outside its range.
inline void check(const ProjectionOptions& options) {
  if (!(options.alpha >= 0 && options.alpha <= 1)) {
    throw InvalidArgument("ogpsa: ProjectionOptions: alpha is " + std::to_string(options.alpha) +
                          "; it must be in [0, 1]");
  }
  if (!detail::is_finite(options.scale)) throw InvalidArgument("ogpsa: ProjectionOptions: scale is not finite");
}

namespace detail {

template <class T>
const char* needs_objectives(const ProjectionUnit<T>& unit) {
  if (unit.options.mode == ProjectionMode::one_sided) return "one_sided";
  if (unit.options.mode == ProjectionMode::conflicting) return "conflicting";
  return nullptr;
}

/// \throws InvalidArgument when the unit's mode needs objectives that its subspace does not have.
template <class T>
void check_mode(const ProjectionUnit<T>& unit) {
  check(unit.options);
  const char* mode = needs_objectives(unit);
  if (!mode) return;
  const std::string where = "ogpsa: block '" + unit.name + "': projection mode " + mode;
  const Index count = unit.objectives ? unit.objectives->cols() : 0;
  if (!unit.objectives) {
    throw InvalidArgument(where +
                          " needs the signs of the reference objectives, which a structured subspace does not "
                          "have; use the flat form or mode orthogonal");
  }
  if (unit.options.mode == ProjectionMode::conflicting && count != 1) {
    throw InvalidArgument(where + " is defined for one objective, but the subspace has " + std::to_string(count) +
                          "; use mode one_sided");
  }
  if (count == 0) {
    throw InvalidArgument(where + " needs reference objectives, but the subspace has none; collect per objective");
  }
}

/// <g, h_r> / |h_r| for each objective.
inline Eigen::VectorXd objective_coefficients(const Eigen::MatrixXd* objectives, const Eigen::VectorXd* norms,
                                              const Eigen::MatrixXd& c) {
  Eigen::VectorXd result = Eigen::VectorXd::Zero(objectives ? objectives->cols() : 0);
  for (Eigen::Index r = 0; r < result.size() && objectives->rows() > 0; ++r) {
    if ((*norms)(r) > 0) result(r) = (objectives->col(r) / (*norms)(r)).dot(c.col(0));
  }
  return result;
}

template <class T>
bool is_linear(const ProjectionUnit<T>& unit) {
  return unit.options.mode == ProjectionMode::orthogonal || unit.options.mode == ProjectionMode::inside;
}

/// The modes whose change follows from the coefficients alone.
template <class T>
LinearChange linear_change(const ProjectionUnit<T>& unit) {
  const bool inside = unit.options.mode == ProjectionMode::inside;
  return {inside ? 0.0 : 1.0, inside ? -1.0 : unit.options.alpha, unit.weights};
}

/// Modes on the coefficients c of a gradient in an orthonormal basis, and the objectives in it: what to keep of the
/// gradient and which coefficients to remove.
template <class T>
PieceChange decide(const ProjectionUnit<T>& unit, const Eigen::MatrixXd& c, const Eigen::MatrixXd& objectives) {
  const auto& options = unit.options;
  const double sign = unit.direction == Direction::gradient ? 1.0 : -1.0;
  switch (options.mode) {
    case ProjectionMode::orthogonal:
    case ProjectionMode::inside:
      return linear_change(unit)(c);
    case ProjectionMode::conflicting: {
      const double norm = objectives.col(0).stableNorm();
      const Eigen::VectorXd h = objectives.col(0) / (norm > 0 ? norm : 1.0);
      const double product = sign * h.dot(c.col(0));
      if (product < 0) return {1.0, options.alpha * sign * product / h.squaredNorm() * h};
      return {product > 0 ? options.scale : 1.0, Eigen::MatrixXd::Zero(c.rows(), 1)};
    }
    case ProjectionMode::one_sided:
      return {1.0, -options.alpha * sign * nonnegative_least_squares(objectives, -sign * c.col(0)).fitted};
  }
  throw InvalidArgument("ogpsa: unknown ProjectionMode");
}

/// Objectives of which the basis holds nothing but rounding (it was truncated, or their rows are left out) have no sign
/// there: they become zero.
inline void drop_rounding(Eigen::MatrixXd& objectives, const Eigen::VectorXd& norms, double tolerance) {
  for (Eigen::Index r = 0; r < objectives.cols(); ++r) {
    if (objectives.col(r).stableNorm() <= tolerance * norms(r)) objectives.col(r).setZero();
  }
}

/// The same for the coefficients of a unit as they were measured. Also fills in what they say about the gradient.
template <class T>
PieceChange decide(const ProjectionUnit<T>& unit, const Eigen::MatrixXd& inner, ProjectionResult& result) {
  result.objective_coefficients = objective_coefficients(unit.objectives, unit.objective_norms, inner);
  const bool whole = unit.restriction.size() == 0;
  Eigen::MatrixXd objectives;
  if (needs_objectives(unit)) {
    objectives = whole ? *unit.objectives : unit.restricted_objectives;
    drop_rounding(objectives, *unit.objective_norms, default_relative_tolerance<T>(objectives.rows()));
  }
  // With W^T (Q_g^T Q_g) W = I, W^T takes inner products with Q_g to those with the orthonormal Q_g W.
  const Eigen::MatrixXd c = whole ? inner : small_transposed_product(unit.restriction, inner);
  result.norm_inside = c.squaredNorm();
  PieceChange change = decide(unit, c, objectives);
  if (!whole) change.remove = small_product(unit.restriction, change.remove);
  return change;
}

template <class T>
SideChange decide_side(const ProjectionUnit<T>& unit, Index rank) {
  const PieceChange change = linear_change(unit)(Eigen::VectorXd::Ones(rank));
  return {change.keep, change.remove};
}

template <class T>
[[noreturn]] void throw_out_of_range(const ProjectionUnit<T>& unit, const std::string& name) {
  throw NonFiniteError("ogpsa: block '" + name + "': the " +
                       (unit.direction == Direction::gradient ? "gradient" : "step") +
                       " has values that leave the range of " + (sizeof(T) == 4 ? "float" : "double") +
                       " arithmetic; nothing was changed. Scale it down, or use a wider type");
}

/// Says why a piece cannot be projected: a value is not finite, or too large for the arithmetic.
template <class T, class B>
[[noreturn]] void throw_bad_piece(const B& backend, const ProjectionUnit<T>& unit, const ProjectionPiece<T>& piece) {
  std::string name = unit.name;
  for (std::size_t i = 0; i < unit.piece_names.size(); ++i) {
    if (unit.pieces[i].tensor.data == piece.tensor.data) name = unit.piece_names[i];
  }
  const Index bad = backend.first_non_finite(piece.tensor);
  if (bad < 0) throw_out_of_range(unit, name);
  throw NonFiniteError("ogpsa: block '" + name + "': " + (unit.direction == Direction::gradient ? "gradient" : "step") +
                       " element " + std::to_string(bad) +
                       " is NaN or infinite; nothing was changed. Skip this step, or lower the learning rate or the "
                       "loss scale");
}

/// \throws NonFiniteError for coefficients that overflowed.
template <class T>
void check_range(const ProjectionUnit<T>& unit, const Eigen::MatrixXd& inner) {
  constexpr double largest = static_cast<double>(std::numeric_limits<T>::max());
  if (all_finite(inner) && (inner.size() == 0 || inner.cwiseAbs().maxCoeff() <= largest)) return;
  throw_out_of_range(unit, unit.name);
}

/// The pieces of many units, sorted by how they are projected, on their way through `project_units`.
template <class T>
struct ProjectionBatch {
  std::vector<ProjectionPiece<T>> shared, sides;    // see ProjectionPiece::has_shared_coefficients
  std::vector<std::size_t> shared_unit, side_unit;  // the unit of each
  std::vector<Eigen::MatrixXd> inner;               // coefficients of each unit, summed over its pieces
  std::vector<ProjectionResult> results;            // norms are squared until the end

  explicit ProjectionBatch(std::span<const ProjectionUnit<T>> units) : inner(units.size()), results(units.size()) {
    for (std::size_t u = 0; u < units.size(); ++u) {
      for (ProjectionPiece<T> piece : units[u].pieces) {
        if (piece.tensor.size() == 0) continue;
        if (piece.left.cols == 0 && piece.right.cols == 0) {  // the zero subspace, whatever its form
          piece = {piece.tensor, piece.tensor.size(), 1, {nullptr, piece.tensor.size(), 0}, {}};
        }
        (piece.has_shared_coefficients() ? shared : sides).push_back(piece);
        (piece.has_shared_coefficients() ? shared_unit : side_unit).push_back(u);
      }
    }
  }

  /// Fills `inner` and |g|^2 of this rank. \throws NonFiniteError
  template <class B>
  void measure(const B& backend, std::span<const ProjectionUnit<T>> units) {
    std::vector<PieceCoefficients> parts;
    backend.coefficients(std::span<const ProjectionPiece<T>>(shared), parts);
    for (std::size_t p = 0; p < shared.size(); ++p) {
      const std::size_t u = shared_unit[p];
      // The square of a large double may overflow; the square of a float may not, in double.
      const bool known = is_finite(parts[p].squared_norm);
      const bool bad = !known && (sizeof(T) == 4 || backend.first_non_finite(shared[p].tensor) >= 0);
      if (bad) throw_bad_piece(backend, units[u], shared[p]);
      inner[u] = inner[u].cols() == 0 ? parts[p].inner : (inner[u] + parts[p].inner).eval();
      results[u].norm_before += parts[p].squared_norm;
    }
  }

  /// Pieces that are measured and changed at once have to be looked at before. Sums of 2^24 products of values below
  /// this limit stay in range.
  static constexpr int limit = std::numeric_limits<T>::max_exponent - 13;

  /// \throws NonFiniteError
  template <class B>
  void check_sides(const B& backend, std::span<const ProjectionUnit<T>> units) const {
    if (sides.empty() || units[side_unit[0]].options.known_finite) return;
    const Index bad = backend.first_piece_beyond(std::span<const ProjectionPiece<T>>(sides), limit);
    if (bad < 0) return;
    const auto p = static_cast<std::size_t>(bad);
    throw_bad_piece(backend, units[side_unit[p]], sides[p]);
  }

  /// Whether each shared piece can be changed as soon as it is measured: its coefficients are all that its change
  /// depends on, and no value in any of them is bad.
  template <class B>
  bool can_fuse(const B& backend, std::span<const ProjectionUnit<T>> units) const {
    if (shared.empty() || backend.sums_over_ranks()) return false;
    for (std::size_t p = 0; p < shared.size(); ++p) {
      const auto& unit = units[shared_unit[p]];
      if (!is_linear(unit) || unit.restriction.size() > 0 || unit.pieces.size() > 1) return false;
    }
    return units[shared_unit[0]].options.known_finite ||
           backend.first_piece_beyond(std::span<const ProjectionPiece<T>>(shared), limit) < 0;
  }

  /// Instead of measure, all_reduce and apply_shared.
  template <class B>
  void fuse(const B& backend, std::span<const ProjectionUnit<T>> units) {
    std::vector<LinearChange> changes;
    for (const std::size_t u : shared_unit) changes.push_back(linear_change(units[u]));
    std::vector<PieceCoefficients> measured;
    std::vector<PieceNorms> norms;
    backend.project(std::span<const ProjectionPiece<T>>(shared), std::span<const LinearChange>(changes), measured,
                    norms);
    for (std::size_t p = 0; p < shared.size(); ++p) {
      auto& result = results[shared_unit[p]];
      const auto& unit = units[shared_unit[p]];
      result.objective_coefficients = objective_coefficients(unit.objectives, unit.objective_norms, measured[p].inner);
      result.norm_before = measured[p].squared_norm;
      result.norm_inside = measured[p].inner.squaredNorm();
      result.norm_after = norms[p].after;
    }
  }

  /// Sums coefficients and norms over the ranks, in one buffer.
  template <class B>
  void all_reduce(const B& backend) {
    std::vector<double> sums;
    for (std::size_t u = 0; u < inner.size(); ++u) {
      sums.insert(sums.end(), inner[u].data(), inner[u].data() + inner[u].size());
      sums.push_back(results[u].norm_before);
    }
    backend.all_reduce(std::span<double>(sums));
    const double* next = sums.data();
    for (std::size_t u = 0; u < inner.size(); ++u) {
      std::copy(next, next + inner[u].size(), inner[u].data());
      next += inner[u].size();
      results[u].norm_before = *next++;
    }
  }

  /// Decides from the coefficients of each unit, and applies it to its pieces.
  template <class B>
  void apply_shared(const B& backend, std::span<const ProjectionUnit<T>> units) {
    std::vector<PieceChange> unit_changes(units.size()), changes;
    for (std::size_t u = 0; u < units.size(); ++u) check_range(units[u], inner[u]);
    for (std::size_t u = 0; u < units.size(); ++u) {
      if (inner[u].cols() == 0) continue;  // a unit of one-sided pieces, or of none
      unit_changes[u] = decide(units[u], inner[u], results[u]);
    }
    for (const std::size_t u : shared_unit) changes.push_back(unit_changes[u]);
    std::vector<PieceNorms> norms;
    backend.change(std::span<const ProjectionPiece<T>>(shared), std::span<const PieceChange>(changes), norms);
    for (std::size_t p = 0; p < shared.size(); ++p) results[shared_unit[p]].norm_after += norms[p].after;
  }

  template <class B>
  void apply_sides(const B& backend, std::span<const ProjectionUnit<T>> units) {
    std::vector<SideChange> side_changes;
    for (std::size_t p = 0; p < sides.size(); ++p) {
      side_changes.push_back(decide_side(units[side_unit[p]], sides[p].left.cols + sides[p].right.cols));
    }
    std::vector<PieceNorms> norms;
    backend.change_side(std::span<const ProjectionPiece<T>>(sides), std::span<const SideChange>(side_changes), norms);
    for (std::size_t p = 0; p < sides.size(); ++p) {
      auto& result = results[side_unit[p]];
      result.norm_before += norms[p].before;
      result.norm_after += norms[p].after;
      result.norm_inside += norms[p].inside;
    }
  }
};

}  // namespace detail

/// Projects many units in place: each as soon as it is measured where nothing forbids it (see ProjectionBatch); else
/// all coefficients first, one sum over the ranks, then all changes. \returns one result per unit \throws
/// NonFiniteError (block, index) and InvalidArgument, both before anything is changed.
template <class T, class B>
requires Backend<B, T> std::vector<ProjectionResult> project_units(const B& backend,
                                                                   std::span<const ProjectionUnit<T>> units) {
  for (const auto& unit : units) detail::check_mode(unit);
  detail::ProjectionBatch<T> batch(units);
  batch.check_sides(backend, units);
  if (batch.can_fuse(backend, units)) {
    batch.fuse(backend, units);
  } else {
    batch.measure(backend, units);
    batch.all_reduce(backend);
    batch.apply_shared(backend, units);
  }
  batch.apply_sides(backend, units);
  for (auto& result : batch.results) {
    result.norm_before = std::sqrt(result.norm_before);
    result.norm_after = std::sqrt(result.norm_after);
    result.norm_inside = std::sqrt(result.norm_inside);
  }
  return std::move(batch.results);
}

namespace detail {

template <class T, class B>
ProjectionUnit<T> flat_unit(TensorView tensor, const Subspace<T, B>& subspace, const ProjectionOptions& options,
                            Direction direction, const std::string& name) {
  if (tensor.size() != subspace.dimension()) {
    throw InvalidArgument("ogpsa: block '" + name + "' has " + std::to_string(tensor.size()) +
                          " elements, but its subspace lies in R^" + std::to_string(subspace.dimension()));
  }
  return {.name = name,
          .pieces = {{tensor, tensor.size(), 1, subspace.basis(), {}}},
          .options = options,
          .direction = direction,
          .objectives = &subspace.objectives(),
          .objective_norms = &subspace.objective_norms()};
}

}  // namespace detail

/// Projects one gradient (any storage type, n elements) in place against a flat subspace of R^n; the arithmetic is in
/// `T`. A zero-rank subspace changes nothing (mode `inside`: it leaves nothing).
/// \throws InvalidArgument for a wrong size or option; NonFiniteError before anything is changed.
template <class T, class B>
ProjectionResult project(TensorView gradient, const Subspace<T, B>& subspace, const ProjectionOptions& options = {},
                         Direction direction = Direction::gradient, const std::string& name = "gradient") {
  const auto unit = detail::flat_unit(gradient, subspace, options, direction, name);
  return project_units(subspace.backend(), std::span<const ProjectionUnit<T>>(&unit, 1)).front();
}

/// The same for an Eigen vector or matrix.
template <class Derived, class T, class B>
ProjectionResult project(Eigen::PlainObjectBase<Derived>& gradient, const Subspace<T, B>& subspace,
                         const ProjectionOptions& options = {}) {
  return project(view(gradient), subspace, options);
}

/// The same for contiguous memory.
template <class S, class T, class B>
requires is_storage_type<S> ProjectionResult project(std::span<S> gradient, const Subspace<T, B>& subspace,
                                                     const ProjectionOptions& options = {}) {
  return project(TensorView(gradient), subspace, options);
}

}  // namespace ogpsa
