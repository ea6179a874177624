#pragma once

#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "ogpsa/block.hpp"
#include "ogpsa/finite.hpp"

namespace ogpsa {

/// What becomes a column of the matrix of reference gradients.
enum class Collect {
  objective,  ///< one mean gradient for each objective, as published
  batch,      ///< the gradient of every batch, folded in as it comes
};

/// How reference gradients are turned into subspaces.
struct ReferenceOptions {
  Collect collect = Collect::objective;
  /// Each column is scaled to unit length per block (or group), as published.
  bool normalize = true;
  /// Rank of flat subspaces.
  RankOptions rank = {};
  Orthonormalization method = Orthonormalization::automatic;
  StructuredOptions structured = {};
};

/// Reference gradients on their way to new subspaces. It holds no more than the columns of the bases to be (per batch:
/// one gradient beside them), and changes nothing until `Projector::finish_refresh` takes it.
template <class T, class B = EigenBackend>
class ReferenceCollector {
 public:
  /// Made by `Projector::begin_refresh`. \param on_host  columns are kept as BasisStorage::page_locked
  ReferenceCollector(std::vector<BlockSpec> blocks, std::vector<detail::UnitShape> units,
                     const ReferenceOptions& options, const B& backend, bool on_host = false)
      : blocks_(std::move(blocks)), units_(std::move(units)), options_(options), backend_(backend), on_host_(on_host) {
    for (const auto& unit : units_) {
      Sums sums;
      const auto& first = blocks_[unit.blocks.front()];
      if (unit.form == Form::flat) sums.flat = backend_.template matrix<T>(unit.dimension, 0);
      if (unit.form == Form::flat && on_host) backend_.keep_on_host(sums.flat, true);
      if (unit.form == Form::flat) sums.batches = Subspace<T, B>(unit.dimension, backend);
      if (unit.has_input()) sums.input = KroneckerFactor<T, B>(first.cols, options.structured, backend);
      if (unit.has_output()) sums.output = KroneckerFactor<T, B>(first.rows, options.structured, backend);
      sums_.push_back(std::move(sums));
    }
  }

  /// Adds the gradient of the mean loss over one batch.
  /// \param objective  index of the reference objective, from 0
  /// \param gradients  one tensor per block, in order; without data: zero (a frozen or unused block)
  /// \param weight     rows or tokens that the mean was over; the sum over an objective's batches is then its mean,
  ///                   however the rows were cut into batches
  /// \throws NonFiniteError (block, element) or InvalidArgument, with nothing added.
  void add(Index objective, std::span<const ConstTensorView> gradients, double weight = 1.0) {
    check_tensors(gradients);
    if (objective < 0) throw InvalidArgument(detail::text({"ogpsa: objective ", objective, " is negative"}));
    if (!(weight > 0 && detail::is_finite(weight))) {
      throw InvalidArgument(detail::text({"ogpsa: a reference batch has weight ", weight,
                                          "; give the number of its rows or tokens, and leave out an empty batch"}));
    }
    const auto sizes = detail::flat_sizes(units_);
    backend_.for_batches(std::span<const Index>(sizes), [&](Index first, Index last) {
      std::vector<Change> changes;
      for (Index u = first; u < last; ++u) {
        if (auto change = add_unit(static_cast<std::size_t>(u), objective, gradients, weight)) {
          changes.push_back(std::move(*change));
        }
      }
      Subspace<T, B>::apply(changes);
      for (const Change& change : changes) change.subspace->keep_on_host(on_host_);
    });
    if (static_cast<std::size_t>(objective) >= weights_.size()) {
      weights_.resize(static_cast<std::size_t>(objective) + 1);
    }
    weights_[static_cast<std::size_t>(objective)] += weight;
  }

  /// Adds inputs of one layer (samples x n, n the block's columns), for MomentSource::inputs.
  /// \throws InvalidArgument, NonFiniteError
  void add_inputs(const std::string& block, ConstTensorView inputs, double weight = 1.0) {
    check_weight(block, weight);
    check_finite(block, inputs, "input");
    input_side(block).add(inputs, Side::input, weight);
  }
  /// The same from the sum of x x^T (n x n).
  void add_input_gram(const std::string& block, ConstTensorView gram, double weight = 1.0) {
    check_weight(block, weight);
    check_finite(block, gram, "input Gram matrix");
    input_side(block).add_gram(gram, weight);
  }

  Index objectives() const { return static_cast<Index>(weights_.size()); }

 private:
  template <class, class>
  friend class Projector;
  using Change = typename Subspace<T, B>::Change;

  struct Sums {
    typename B::template Matrix<T> flat;  // n x K, weighted sums
    Subspace<T, B> batches;               // Collect::batch
    KroneckerFactor<T, B> input, output;
  };

  void check_tensors(std::span<const ConstTensorView> gradients) const;
  static void check_weight(const std::string& block, double weight) {
    if (weight > 0 && detail::is_finite(weight)) return;
    throw InvalidArgument(
        detail::text({"ogpsa: block '", block, "': inputs have weight ", weight, "; it must be positive and finite"}));
  }
  void check_finite(const std::string& block, ConstTensorView tensor, const std::string& what) const {
    const Index bad = backend_.first_non_finite(tensor);
    if (bad < 0) return;
    throw NonFiniteError(
        detail::text({"ogpsa: block '", block, "': ", what, " element ", bad,
                      " is NaN or infinite; nothing was added. Check the loss of that batch (or the loss scaler)"}));
  }
  KroneckerFactor<T, B>& input_side(const std::string& block) {
    for (std::size_t u = 0; u < units_.size(); ++u) {
      const auto& unit = units_[u];
      if (!unit.has_input() || blocks_[unit.blocks.front()].name != block) continue;
      if (options_.structured.source == MomentSource::inputs) return sums_[u].input;
      throw InvalidArgument(detail::text({"ogpsa: block '", block,
                                          "' takes its input side from gradients; set "
                                          "StructuredOptions::source to inputs"}));
    }
    throw InvalidArgument(detail::text({"ogpsa: there is no block '", block, "' whose input side is protected"}));
  }
  std::optional<Change> add_unit(std::size_t u, Index objective, std::span<const ConstTensorView> gradients,
                                 double weight);

  std::vector<BlockSpec> blocks_;
  std::vector<detail::UnitShape> units_;
  ReferenceOptions options_;
  B backend_;
  bool on_host_ = false;
  std::vector<Sums> sums_;
  std::vector<double> weights_;
};

template <class T, class B>
void ReferenceCollector<T, B>::check_tensors(std::span<const ConstTensorView> gradients) const {
  if (gradients.size() != blocks_.size()) {
    throw InvalidArgument(detail::text(
        {"ogpsa: ", gradients.size(), " gradients for ", blocks_.size(), " blocks; give one per block, in order"}));
  }
  for (std::size_t i = 0; i < gradients.size(); ++i) {
    const auto& block = blocks_[i];
    const auto& g = gradients[i];
    if (g.data == nullptr) continue;
    if (g.rows != block.rows || g.cols != block.cols || g.layout != block.layout) {
      throw InvalidArgument(
          detail::text({"ogpsa: block '", block.name, "' is ", detail::size_text(block.rows, block.cols),
                        ", but its reference gradient is ", detail::size_text(g.rows, g.cols),
                        g.layout != block.layout ? " in another layout" : ""}));
    }
  }
  const Index bad = detail::first_tensor_beyond<T>(backend_, gradients, detail::kNotFinite);
  if (bad < 0) return;
  check_finite(blocks_[static_cast<std::size_t>(bad)].name, gradients[static_cast<std::size_t>(bad)],
               "reference gradient");
}

/// Adds to the sums of a unit. \returns what is to be folded into its subspace, where each batch is
template <class T, class B>
auto ReferenceCollector<T, B>::add_unit(std::size_t u, Index objective, std::span<const ConstTensorView> gradients,
                                        double weight) -> std::optional<Change> {
  const auto& unit = units_[u];
  auto& sums = sums_[u];
  if (unit.form != Form::flat) {
    const auto& g = gradients[unit.blocks.front()];
    if (g.data == nullptr) return std::nullopt;
    const bool from_gradients = options_.structured.source == MomentSource::gradients;
    if (unit.has_input() && from_gradients) sums.input.add(g, Side::input, weight);
    if (unit.has_output()) sums.output.add(g, Side::output, weight);
    return std::nullopt;
  }
  const bool per_batch = options_.collect == Collect::batch;
  auto batch = backend_.template matrix<T>(unit.dimension, per_batch ? 1 : 0);
  if (!per_batch && sums.flat.cols() <= objective) sums.flat.resize_columns(objective + 1);
  const MatrixView<T> column = per_batch ? batch.view() : sums.flat.view().columns(objective, 1);
  for (std::size_t i = 0; i < unit.blocks.size(); ++i) {
    const auto& g = gradients[unit.blocks[i]];
    if (g.data == nullptr) continue;
    backend_.add_scaled(column.row_range(unit.offsets[i], g.size()), g, per_batch ? 1.0 : weight);
  }
  if (!per_batch) return std::nullopt;
  sums.batches.keep_on_host(false);
  const EstimateOptions estimate{options_.method, options_.normalize, unit.name};
  return Change{&sums.batches, std::move(batch), false, 1.0, options_.rank, estimate, {}};
}

}  // namespace ogpsa
