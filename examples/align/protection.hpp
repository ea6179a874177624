#pragma once

#include <torch/torch.h>

#include <filesystem>
#include <memory>
#include <ogpsa/ogpsa.hpp>
#include <ogpsa/torch.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "loss.hpp"

/// \file
/// All that the trainer knows about ogpsa: which form of it protects the reference objectives.

namespace align {

enum class Method {
  plain,       ///< none
  ogpsa,       ///< as published: the gradient, before AdamW
  ogpsa_step,  ///< the same subspace, exact on the step that AdamW takes
  structured,  ///< the input side of each matrix, exact on the step
};

inline const char* name(Method method) {
  switch (method) {
    case Method::plain:
      return "plain";
    case Method::ogpsa:
      return "ogpsa";
    case Method::ogpsa_step:
      return "ogpsa-step";
    case Method::structured:
      return "structured";
  }
  return "?";
}

struct ProtectionOptions {
  Method method = Method::plain;
  std::int64_t refresh_every = 30;  ///< optimizer steps
  double max_share = 0.3;           ///< structured: share of a matrix's inputs that is protected
  std::int64_t batch_size = 16;     ///< reference rows of a micro-batch
};

/// A named reference objective: the mean loss over all of its rows.
struct Reference {
  std::string name;
  std::shared_ptr<const Loss> loss;
};

/// Stands between the gradients and the optimizer.
class Protection {
 public:
  /// \param model  what is trained; has to outlive this
  Protection(CausalLm model, std::vector<Reference> references, ProtectionOptions options)
      : model_(std::move(model)), references_(std::move(references)), options_(options) {
    if (options.method == Method::plain) return;
    ogpsa::torch::Options settings{.refresh_every = options.refresh_every};
    if (options.method == Method::structured) {
      settings.structured = "_proj\\.weight$";
      settings.reference.structured.rank.max_share = options.max_share;
    }
    projector_ = std::make_unique<ogpsa::torch::GradientProjector>(*model_, settings);
  }

  /// Before the gradients of optimizer step `step` are computed.
  void prepare(std::int64_t step) {
    if (projector_ == nullptr || !projector_->refresh_due(step)) return;
    std::vector<ogpsa::torch::Objective> objectives;
    for (const auto& reference : references_) objectives.push_back(objective(reference));
    projector_->refresh(objectives);
  }
  /// After the gradients are complete, before they are clipped.
  void project_gradients() {
    if (options_.method == Method::ogpsa) projector_->project_gradients();
  }
  /// Takes the optimizer's step.
  void step(torch::optim::Optimizer& optimizer) {
    if (options_.method == Method::ogpsa_step || options_.method == Method::structured) {
      projector_->step(optimizer);
    } else {
      optimizer.step();
    }
  }
  /// What the last step lost to the projection; none for Method::plain.
  std::optional<ogpsa::Report> report() const {
    return projector_ == nullptr ? std::nullopt : std::optional(projector_->report());
  }

  void save(const std::filesystem::path& folder) const {
    if (projector_ != nullptr && projector_->core().ready()) projector_->save(folder / "projector.safetensors");
  }
  void load(const std::filesystem::path& folder) {
    if (projector_ != nullptr) projector_->load(folder / "projector.safetensors");
  }

 private:
  ogpsa::torch::Objective objective(const Reference& reference) {
    const auto rows = reference.loss->rows(), size = options_.batch_size;
    return {reference.name, (rows + size - 1) / size, [this, loss = reference.loss, rows, size](ogpsa::Index i) {
              std::vector<std::int64_t> part;
              double weight = 0;
              for (auto row = i * size; row < std::min(rows, (i + 1) * size); ++row) {
                part.push_back(row);
                weight += loss->weight(row);
              }
              return ogpsa::torch::ReferenceLoss{loss->sum(model_, part) / weight, weight};
            }};
  }

  CausalLm model_;
  std::vector<Reference> references_;
  ProtectionOptions options_;
  std::unique_ptr<ogpsa::torch::GradientProjector> projector_;
};

}  // namespace align
