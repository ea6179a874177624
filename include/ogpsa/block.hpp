#pragma once

#include <limits>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "ogpsa/projection.hpp"
#include "ogpsa/structured.hpp"

namespace ogpsa {

/// One tensor of the model.
struct BlockSpec {
  std::string name;
  /// Shape as a matrix; a vector is 1 x n.
  Index rows = 1;
  Index cols = 0;
  /// Which part is protected. Anything but `flat` needs a matrix.
  Form form = Form::flat;
  /// With Granularity::group, flat blocks of one group share one subspace; a block without a group stays alone.
  std::string group = {};
  Layout layout = Layout::row_major;

  Index size() const { return rows * cols; }
};

/// Over what a flat subspace spans. A constraint per block implies the one for the whole model.
enum class Granularity { block, group, global };

namespace detail {

/// One or more blocks with one subspace: flat over their concatenated elements, or structured on a single matrix.
struct UnitShape {
  std::string name = {};
  Form form = Form::flat;
  std::vector<std::size_t> blocks = {};  // indices
  std::vector<Index> offsets = {};       // of each block in the flat dimension
  Index dimension = 0;

  bool has_input() const { return form == Form::input || form == Form::both; }
  bool has_output() const { return form == Form::output || form == Form::both; }
};

/// Elements of each unit's vector; 0 of those that are no vectors.
template <class Units>
std::vector<Index> flat_sizes(const Units& units) {
  std::vector<Index> sizes;
  for (const UnitShape& unit : units) sizes.push_back(unit.form == Form::flat ? unit.dimension : 0);
  return sizes;
}

/// The subspaces of a unit, and the second moments behind them where they are kept for streaming.
template <class T, class B>
struct Unit : UnitShape {
  Subspace<T, B> flat = {};
  StoredSubspace<T, B> stored = {};  // in the place of `flat`, where bases are rounded
  Subspace<T, B> input = {}, output = {};
  KroneckerFactor<T, B> input_factor = {}, output_factor = {};
  /// Square root of the mean eigenvalue of each side's second moment, for soft weights.
  double input_scale = 0, output_scale = 0;

  bool is_stored() const { return stored.storage() != BasisStorage::full; }
  BasisView<T> flat_basis() const { return is_stored() ? stored.basis() : BasisView<T>(flat.basis()); }
  Index rank() const {
    if (form == Form::flat) return is_stored() ? stored.rank() : flat.rank();
    if (form == Form::both) return std::min(input.rank(), output.rank());
    return has_input() ? input.rank() : output.rank();
  }
};

/// \throws InvalidArgument naming the block, for a shape or form that cannot be.
inline void check_blocks(const std::vector<BlockSpec>& blocks) {
  std::map<std::string, std::size_t> seen;
  for (std::size_t i = 0; i < blocks.size(); ++i) {
    const auto& b = blocks[i];
    const std::string where = detail::text({"ogpsa: block '", b.name, "'"});
    if (b.name.empty()) throw InvalidArgument(detail::text({"ogpsa: block ", i, " has no name"}));
    if (!seen.emplace(b.name, i).second)
      throw InvalidArgument(detail::text({where, " is given twice; names must be unique"}));
    if (b.rows < 0 || b.cols < 0)
      throw InvalidArgument(detail::text({where, " has a negative shape ", size_text(b.rows, b.cols)}));
    if (b.form != Form::flat && (b.rows < 2 || b.cols < 2)) {
      throw InvalidArgument(detail::text(
          {where, " of ", size_text(b.rows, b.cols), " is not a matrix, so it has no sides; use the flat form"}));
    }
  }
}

inline std::vector<UnitShape> make_units(const std::vector<BlockSpec>& blocks, Granularity granularity) {
  std::vector<UnitShape> units;
  std::map<std::string, std::size_t> by_group;
  for (std::size_t i = 0; i < blocks.size(); ++i) {
    const auto& block = blocks[i];
    const bool global = granularity == Granularity::global;
    const bool joins =
        block.form == Form::flat && (global || (granularity == Granularity::group && !block.group.empty()));
    const std::string name = !joins ? block.name : global ? "(all flat blocks)" : block.group;
    std::size_t u = units.size();
    if (joins) u = by_group.emplace(name, u).first->second;
    if (u == units.size()) units.push_back({.name = name, .form = block.form});
    auto& unit = units[u];
    unit.blocks.push_back(i);
    unit.offsets.push_back(unit.dimension);
    unit.dimension += block.size();
  }
  std::map<std::string, bool> names;
  for (const auto& unit : units) {
    if (names.emplace(unit.name, true).second) continue;
    throw InvalidArgument(
        detail::text({"ogpsa: '", unit.name, "' names both a group and a block that is not in it; rename one"}));
  }
  return units;
}

/// Soft weights of a structured unit's coefficients, in the order of its tensor's memory.
template <class T, class B>
Eigen::MatrixXd side_weights(const Unit<T, B>& unit, const std::vector<ProjectionPiece<T>>& pieces, double damping) {
  const auto relative = [](const Subspace<T, B>& side, double scale) {
    Eigen::MatrixXd result = to_vector(values(side.singular_values()));
    for (double& value : values(result))
      value = std::min(value / scale * (value / scale), 1e100);  // for products of two
    return result;
  };
  Eigen::MatrixXd eigenvalues;  // relative to their mean: k x 1 for one side, k_left x k_right for both
  if (unit.form != Form::both) {
    eigenvalues = unit.has_input() ? relative(unit.input, unit.input_scale) : relative(unit.output, unit.output_scale);
  } else {
    eigenvalues =
        small_product(relative(unit.input, unit.input_scale), transposed(relative(unit.output, unit.output_scale)));
    const bool row_major = pieces.empty() || pieces[0].tensor.layout == Layout::row_major;
    if (!row_major) eigenvalues = transposed(eigenvalues);
  }
  for (double& value : values(eigenvalues)) value = 1 / (1 + damping / value);
  return eigenvalues;
}

/// Makes up for the rows of a flat basis whose blocks are left out (see ProjectionUnit::normalizer).
template <class T, class B>
void restrict_to_given(const B& backend, Index rank, ProjectionUnit<T>& unit) {
  Eigen::MatrixXd gram = zeros(rank, rank);
  for (const auto& piece : unit.pieces) {
    const Eigen::MatrixXd part = backend.gram(piece.left, piece.left);
    add_scaled(values(gram), 1, values(part));
  }
  const SmallSvd svd = small_svd(gram);  // symmetric: the singular vectors are eigenvectors
  // A direction that only the rounding of the basis (or of the Gram matrix) has put into the given rows is none.
  const double tolerance = default_relative_tolerance<T>(rank);
  const double smallest = std::max(tolerance * tolerance, 64 * std::numeric_limits<double>::epsilon());
  Index kept = 0;
  while (kept < svd.s.size() && at(svd.s, kept) > smallest * at(svd.s, 0)) ++kept;
  const Eigen::MatrixXd u = leading_columns(svd.u, kept);
  Eigen::VectorXd roots = leading(svd.s, kept);
  for (double& value : values(roots)) value = std::sqrt(value);
  const Eigen::MatrixXd objectives =  // in the columns of the basis
      unit.normalizer.size() > 0 ? small_product(unit.normalizer, unit.normalized_objectives) : *unit.objectives;
  unit.normalized_objectives = scaled_rows(values(roots), small_transposed_product(u, objectives));
  for (double& value : values(roots)) value = 1 / value;
  unit.normalizer = scaled_columns(u, values(roots));
}

/// The bases of a unit on the memory of its blocks, ready to project. Blocks without data are left out.
/// \param origins  empty, or one for each block (see ProjectionPiece)
template <class T, class B>
ProjectionUnit<T> projection_unit(const Unit<T, B>& unit, const std::vector<BlockSpec>& blocks,
                                  std::span<const TensorView> tensors, std::span<const ConstTensorView> origins,
                                  const ProjectionOptions& options, double damping, Direction direction) {
  ProjectionUnit<T> result{.name = unit.name, .options = options, .direction = direction};
  const bool flat = unit.form == Form::flat;
  if (flat && unit.is_stored()) result = flat_unit(unit.stored, options, direction, unit.name);
  if (flat && !unit.is_stored()) result = flat_unit(unit.flat, options, direction, unit.name);
  // Of `both`, only what lies in both sides is removed: nothing where one is empty.
  const bool empty = unit.form == Form::both && unit.rank() == 0;
  for (std::size_t i = 0; i < unit.blocks.size(); ++i) {
    const TensorView& tensor = tensors[unit.blocks[i]];
    if (tensor.data == nullptr) continue;
    ProjectionPiece<T> piece{tensor, tensor.size(), 1, {}, {}, {}};
    if (!origins.empty()) piece.origin = origins[unit.blocks[i]];
    if (flat) {
      piece.left = unit.flat_basis().row_range(unit.offsets[i], tensor.size());
    } else if (!empty) {
      piece.fast = tensor.fast();
      piece.slow = tensor.slow();
      const auto input = unit.input.basis(), output = unit.output.basis();  // of a side that is not protected: empty
      const bool row_major = tensor.layout == Layout::row_major;
      piece.left = row_major ? input : output;
      piece.right = row_major ? output : input;
    }
    result.pieces.push_back(piece);
    result.piece_names.push_back(blocks[unit.blocks[i]].name);
  }
  if (flat) {
    const bool all = result.pieces.empty() || result.pieces.size() == unit.blocks.size();
    if (!all) restrict_to_given(unit.flat.backend(), unit.rank(), result);
    return result;
  }
  if (damping > 0 && unit.rank() > 0) result.weights = side_weights(unit, result.pieces, damping);
  return result;
}

}  // namespace detail
}  // namespace ogpsa
