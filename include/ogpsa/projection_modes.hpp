#pragma once

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "ogpsa/finite.hpp"
#include "ogpsa/nonnegative_least_squares.hpp"
#include "ogpsa/subspace.hpp"

/// \file
/// What a projection may do (ProjectionOptions), and its decision from the coefficients.

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
  /// Where the columns of a flat basis B are not orthonormal (it is rounded, or only some of its rows are given):
  /// W (k x r) such that B W is, and spans what B does; empty: they are.
  Eigen::MatrixXd normalizer = {};
  /// Coordinates (r x K) in B W of the objectives (of their given rows).
  Eigen::MatrixXd normalized_objectives = {};
};

/// \throws InvalidArgument for an option outside its range.
inline void check(const ProjectionOptions& options) {
  if (!detail::is_within(options.alpha, 0, 1)) {
    throw InvalidArgument(
        detail::text({"ogpsa: ProjectionOptions: alpha is ", options.alpha, "; it must be in [0, 1]"}));
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
  const std::string where = detail::text({"ogpsa: block '", unit.name, "': projection mode ", mode});
  const Index count = unit.objectives ? unit.objectives->cols() : 0;
  if (!unit.objectives) {
    throw InvalidArgument(
        detail::text({where,
                      " needs the signs of the reference objectives, which a structured subspace does not "
                      "have; use the flat form or mode orthogonal"}));
  }
  if (unit.options.mode == ProjectionMode::conflicting && count != 1) {
    throw InvalidArgument(
        detail::text({where, " is defined for one objective, but the subspace has ", count, "; use mode one_sided"}));
  }
  if (count == 0) {
    throw InvalidArgument(
        detail::text({where, " needs reference objectives, but the subspace has none; collect per objective"}));
  }
}

/// <g, h_r> / |h_r| for each objective.
inline Eigen::VectorXd objective_coefficients(const Eigen::MatrixXd* objectives, const Eigen::VectorXd* norms,
                                              const Eigen::MatrixXd& c) {
  Eigen::VectorXd result = zeros(objectives ? objectives->cols() : 0);
  for (Index r = 0; r < result.size() && objectives->rows() > 0; ++r) {
    Eigen::VectorXd h = to_vector(column(*objectives, r));
    for (double& value : values(h)) value /= at(*norms, r);
    if (at(*norms, r) > 0) at(result, r) = dot(values(h), column(c, 0));
  }
  return result;
}

template <class T>
bool is_linear(const ProjectionUnit<T>& unit) {
  return unit.options.mode == ProjectionMode::orthogonal || unit.options.mode == ProjectionMode::inside;
}

/// The modes whose change follows from the coefficients in an orthonormal basis alone.
template <class T>
LinearChange linear_change(const ProjectionUnit<T>& unit) {
  const bool inside = unit.options.mode == ProjectionMode::inside;
  return {inside ? 0.0 : 1.0, inside ? -1.0 : unit.options.alpha, unit.weights};
}

/// The coefficients in an orthonormal basis, from those that were measured. Also fills in what they say about the
/// gradient.
template <class T>
Eigen::MatrixXd normalize(const ProjectionUnit<T>& unit, const Eigen::MatrixXd& inner, ProjectionResult& result) {
  const bool orthonormal = unit.normalizer.size() == 0;
  // With W^T (B^T B) W = I, W^T takes inner products with B to those with the orthonormal B W.
  Eigen::MatrixXd c = orthonormal ? inner : small_transposed_product(unit.normalizer, inner);
  result.objective_coefficients = objective_coefficients(
      orthonormal || !unit.objectives ? unit.objectives : &unit.normalized_objectives, unit.objective_norms, c);
  result.norm_inside = c.squaredNorm();
  return c;
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
      Eigen::MatrixXd h = leading_columns(objectives, 1);
      const double length = stable_norm(values(h));
      for (double& value : values(h)) value /= length > 0 ? length : 1.0;
      const double product = sign * dot(values(h), values(c));
      if (!(product < 0)) return {product > 0 ? options.scale : 1.0, zeros(c.rows(), 1)};
      scale(values(h), options.alpha * sign * product / squared_norm(values(h)));
      return {1.0, std::move(h)};
    }
    case ProjectionMode::one_sided: {
      Eigen::VectorXd towards = to_vector(values(c));
      scale(values(towards), -sign);
      Eigen::MatrixXd remove = nonnegative_least_squares(objectives, towards).fitted;
      scale(values(remove), -options.alpha * sign);
      return {1.0, std::move(remove)};
    }
  }
  throw InvalidArgument("ogpsa: unknown ProjectionMode");
}

/// Objectives of which the basis holds nothing but rounding (it was truncated, or their rows are left out) have no sign
/// there: they become zero.
inline void drop_rounding(Eigen::MatrixXd& objectives, const Eigen::VectorXd& norms, double tolerance) {
  for (Index r = 0; r < objectives.cols(); ++r) {
    const Column h = column(objectives, r);
    if (stable_norm(h) <= tolerance * at(norms, r)) std::fill(h.begin(), h.end(), 0.0);
  }
}

/// The same for the coefficients of a unit as they were measured.
template <class T>
PieceChange decide(const ProjectionUnit<T>& unit, const Eigen::MatrixXd& inner, ProjectionResult& result) {
  const Eigen::MatrixXd c = normalize(unit, inner, result);
  const bool orthonormal = unit.normalizer.size() == 0;
  Eigen::MatrixXd objectives;
  if (needs_objectives(unit)) {
    objectives = orthonormal ? *unit.objectives : unit.normalized_objectives;
    drop_rounding(objectives, *unit.objective_norms, default_relative_tolerance<T>(objectives.rows()));
  }
  PieceChange change = decide(unit, c, objectives);
  if (!orthonormal) change.remove = small_product(unit.normalizer, change.remove);
  return change;
}

template <class T>
SideChange decide_side(const ProjectionUnit<T>& unit, Index rank) {
  Eigen::MatrixXd ones = zeros(rank, 1);
  std::fill(values(ones).begin(), values(ones).end(), 1.0);
  const PieceChange change = linear_change(unit)(ones);
  return {change.keep, to_vector(values(change.remove))};
}

}  // namespace detail
}  // namespace ogpsa
