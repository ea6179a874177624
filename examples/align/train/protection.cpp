#include "train/protection.hpp"

#include <ogpsa/ogpsa.hpp>
#include <ogpsa/torch.hpp>

namespace align {

struct Protection::Projector : ogpsa::torch::GradientProjector {
  using Base = ogpsa::torch::GradientProjector;
  using Base::Base;
};

namespace {

constexpr const char* kStateFile = "projector.safetensors";

ogpsa::torch::Options projector_options(const ProtectionOptions& options) {
  ogpsa::torch::Options result{.refresh_every = options.refresh_every};
  if (options.method == Method::structured) {
    result.structured = "_proj\\.weight$";  // embeddings and norms stay flat
    result.reference.structured.rank.max_share = options.max_share;
  }
  return result;
}

/// The mean loss over the reference rows, in micro-batches.
ogpsa::torch::Objective objective(const Reference& reference, CausalLm model, std::int64_t size) {
  const auto rows = reference.loss->rows();
  return {reference.name, (rows + size - 1) / size, [=, loss = reference.loss](ogpsa::Index i) mutable {
            std::vector<std::int64_t> part;
            double weight = 0;
            for (auto row = i * size; row < std::min(rows, (i + 1) * size); ++row) {
              part.push_back(row);
              weight += loss->weight(row);
            }
            return ogpsa::torch::ReferenceLoss{loss->sum(model, part) / weight, weight};
          }};
}

}  // namespace

Protection::Protection(CausalLm model, std::vector<Reference> references, ProtectionOptions options)
    : model_(std::move(model)), references_(std::move(references)), options_(options) {
  if (options.method != Method::plain) projector_ = std::make_unique<Projector>(*model_, projector_options(options));
}
Protection::~Protection() = default;
Protection::Protection(Protection&&) noexcept = default;

void Protection::prepare(std::int64_t step) {
  if (projector_ == nullptr || !projector_->refresh_due(step)) return;
  std::vector<ogpsa::torch::Objective> objectives;
  for (const auto& reference : references_) objectives.push_back(objective(reference, model_, options_.batch_size));
  projector_->refresh(objectives);
}

void Protection::project_gradients() {
  if (options_.method == Method::ogpsa) projector_->project_gradients();
}

void Protection::step(torch::optim::Optimizer& optimizer) {
  if (options_.method == Method::ogpsa_step || options_.method == Method::structured) {
    projector_->step(optimizer);
  } else {
    optimizer.step();
  }
}

std::optional<ProtectionRecord> Protection::record() const {
  if (projector_ == nullptr) return std::nullopt;
  const auto& report = projector_->report();
  return ProtectionRecord{report.total().fraction_removed(), report.basis_age};
}

void Protection::save(const std::filesystem::path& folder) const {
  if (projector_ != nullptr && projector_->core().ready()) projector_->save(folder / kStateFile);
}

void Protection::load(const std::filesystem::path& folder) {
  if (projector_ != nullptr) projector_->load(folder / kStateFile);
}

}  // namespace align
