#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "ogpsa/projection_modes.hpp"

/// \file
/// The pieces of many units on their way through a projection: checked, measured, summed over the ranks, changed.

namespace ogpsa::detail {

template <class T>
[[noreturn]] void throw_out_of_range(const ProjectionUnit<T>& unit, const std::string& name) {
  throw NonFiniteError(
      detail::text({"ogpsa: block '", name, "': the ", unit.direction == Direction::gradient ? "gradient" : "step",
                    " has values that leave the range of ", sizeof(T) == 4 ? "float" : "double",
                    " arithmetic; nothing was changed. Scale it down, or use a wider type"}));
}

/// Sums of 2^24 products of values below 2 to this power stay in range.
template <class T>
inline constexpr int kLargestExponent = std::numeric_limits<T>::max_exponent - 13;

/// \throws NonFiniteError for a value that is not finite, or so large that the arithmetic could overflow.
template <class T, class B>
void check_values(const B& backend, ConstTensorView tensor, const std::string& block, const char* what) {
  const Index bad = tensor.data != nullptr ? backend.first_beyond(tensor, kLargestExponent<T>) : -1;
  if (bad < 0) return;
  const bool finite = backend.first_non_finite(tensor) != bad;
  throw NonFiniteError(
      detail::text({"ogpsa: block '", block, "': ", what, " element ", bad,
                    finite ? " is too large for the arithmetic" : " is NaN or infinite", "; nothing was changed"}));
}

/// The first of many tensors with a value of |x| >= 2^exponent, or one that is not finite, or -1; all are looked at at
/// once. Those without data are left out.
template <class T, class B>
Index first_tensor_beyond(const B& backend, std::span<const ConstTensorView> tensors, int exponent) {
  std::vector<ProjectionPiece<T>> pieces(tensors.size());
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    if (tensors[i].data != nullptr) pieces[i] = {{}, tensors[i].size(), 1, {}, {}, tensors[i]};
  }
  return backend.first_piece_beyond(std::span<const ProjectionPiece<T>>(pieces), exponent);
}

/// Says why a piece cannot be projected: a value is not finite, or too large for the arithmetic.
template <class T, class B>
[[noreturn]] void throw_bad_piece(const B& backend, const ProjectionUnit<T>& unit, const ProjectionPiece<T>& piece) {
  std::string name = unit.name;
  for (std::size_t i = 0; i < unit.piece_names.size(); ++i) {
    if (unit.pieces[i].tensor.data == piece.tensor.data) name = unit.piece_names[i];
  }
  if (piece.origin.data != nullptr) {
    check_values<T>(backend, piece.tensor, name, "weight after the step");
    check_values<T>(backend, piece.origin, name, "snapshot");
  }
  const Index bad = backend.first_non_finite(piece.tensor);
  if (bad < 0) throw_out_of_range(unit, name);
  throw NonFiniteError(detail::text(
      {"ogpsa: block '", name, "': ", unit.direction == Direction::gradient ? "gradient" : "step", " element ", bad,
       " is NaN or infinite; nothing was changed. Skip this step, or lower the learning rate or the "
       "loss scale"}));
}

/// \throws NonFiniteError for coefficients that overflowed.
template <class T>
void check_range(const ProjectionUnit<T>& unit, const Eigen::MatrixXd& inner) {
  constexpr double largest = static_cast<double>(std::numeric_limits<T>::max());
  if (all_finite(values(inner)) && max_abs(values(inner)) <= largest) return;
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
          piece = {piece.tensor, piece.tensor.size(), 1, MatrixView<const T>(nullptr, piece.tensor.size(), 0),
                   {},           piece.origin};
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
      const auto has_bad = [&](ConstTensorView t) { return t.data != nullptr && backend.first_non_finite(t) >= 0; };
      const bool bad = !known && (sizeof(T) == 4 || has_bad(shared[p].tensor) || has_bad(shared[p].origin));
      if (bad) throw_bad_piece(backend, units[u], shared[p]);
      if (inner[u].cols() == 0) inner[u] = zeros(parts[p].inner.rows(), parts[p].inner.cols());
      add_scaled(values(inner[u]), 1, values(parts[p].inner));
      results[u].norm_before += parts[p].squared_norm;
    }
  }

  /// Whether each shared piece could be changed as soon as it is measured: its coefficients are all that its change
  /// depends on.
  template <class B>
  bool could_fuse(const B& backend, std::span<const ProjectionUnit<T>> units) const {
    const auto alone = [&](std::size_t u) { return is_linear(units[u]) && units[u].pieces.size() == 1; };
    return !shared.empty() && !backend.sums_over_ranks() && std::all_of(shared_unit.begin(), shared_unit.end(), alone);
  }

  /// Looks, all at once, at the pieces that are changed before others are measured, but for those of which the caller
  /// knows that they are finite. \returns whether the shared ones may be fused \throws NonFiniteError for a side
  template <class B>
  bool check(const B& backend, std::span<const ProjectionUnit<T>> units) const {
    const bool fuse = could_fuse(backend, units);
    std::vector<ProjectionPiece<T>> pieces;
    std::vector<std::size_t> unit_of;
    const auto add = [&](const std::vector<ProjectionPiece<T>>& some, const std::vector<std::size_t>& units_of_some) {
      const auto known = [&](std::size_t u) { return units[u].options.known_finite; };
      if (std::all_of(units_of_some.begin(), units_of_some.end(), known)) return;
      pieces.insert(pieces.end(), some.begin(), some.end());
      unit_of.insert(unit_of.end(), units_of_some.begin(), units_of_some.end());
    };
    add(sides, side_unit);
    const std::size_t first_shared = pieces.size();
    if (fuse) add(shared, shared_unit);
    if (pieces.empty()) return fuse;
    const Index bad = backend.first_piece_beyond(std::span<const ProjectionPiece<T>>(pieces), kLargestExponent<T>);
    if (bad < 0) return fuse;
    const auto p = static_cast<std::size_t>(bad);
    if (p < first_shared) throw_bad_piece(backend, units[unit_of[p]], pieces[p]);
    return false;
  }

  /// What becomes of each shared piece, where units are linear.
  std::vector<LinearChange> linear_changes(std::span<const ProjectionUnit<T>> units) const {
    std::vector<LinearChange> changes;
    for (const std::size_t u : shared_unit) {
      changes.push_back(linear_change(units[u]));
      changes.back().normalizer = units[u].normalizer;
    }
    return changes;
  }
  /// What a backend has found for shared pieces that are units of their own.
  void record_shared(std::span<const ProjectionUnit<T>> units, std::span<const PieceCoefficients> measured,
                     std::span<const PieceNorms> norms) {
    for (std::size_t p = 0; p < shared.size(); ++p) {
      auto& result = results[shared_unit[p]];
      normalize(units[shared_unit[p]], measured[p].inner, result);
      result.norm_before = measured[p].squared_norm;
      result.norm_after = norms[p].after;
    }
  }
  void record_sides(std::span<const PieceNorms> norms) {
    for (std::size_t p = 0; p < sides.size(); ++p) {
      auto& result = results[side_unit[p]];
      result.norm_before += norms[p].before;
      result.norm_after += norms[p].after;
      result.norm_inside += norms[p].inside;
    }
  }
  /// From squares to norms, at the end.
  void take_roots() {
    for (auto& result : results) {
      result.norm_before = std::sqrt(result.norm_before);
      result.norm_after = std::sqrt(result.norm_after);
      result.norm_inside = std::sqrt(result.norm_inside);
    }
  }

  /// Instead of measure, all_reduce and apply_shared.
  template <class B>
  void fuse(const B& backend, std::span<const ProjectionUnit<T>> units) {
    const auto changes = linear_changes(units);
    std::vector<PieceCoefficients> measured;
    std::vector<PieceNorms> norms;
    backend.project(std::span<const ProjectionPiece<T>>(shared), std::span<const LinearChange>(changes), measured,
                    norms);
    record_shared(units, measured, norms);
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

  std::vector<SideChange> side_changes(std::span<const ProjectionUnit<T>> units) const {
    std::vector<SideChange> changes;
    for (std::size_t p = 0; p < sides.size(); ++p) {
      changes.push_back(decide_side(units[side_unit[p]], sides[p].left.cols + sides[p].right.cols));
    }
    return changes;
  }

  template <class B>
  void apply_sides(const B& backend, std::span<const ProjectionUnit<T>> units) {
    const auto changes = side_changes(units);
    std::vector<PieceNorms> norms;
    backend.change_side(std::span<const ProjectionPiece<T>>(sides), std::span<const SideChange>(changes), norms);
    record_sides(norms);
  }
};

}  // namespace ogpsa::detail
