#pragma once

#include <torch/torch.h>

#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "train/loss.hpp"

/// \file
/// All that the trainer knows about ogpsa. The library itself is included by protection.cpp alone, so that the rest
/// compiles quickly.

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
  std::int64_t refresh_every = 0;  ///< optimizer steps; 0 for Method::plain
  double max_share = 0.3;          ///< structured: share of a matrix's inputs that is protected
  std::int64_t batch_size = 16;    ///< reference rows of a micro-batch
};

/// A named reference objective: the mean loss over all of its rows.
struct Reference {
  std::string name;
  std::shared_ptr<const Loss> loss;
};

/// What a projection did in one step.
struct ProtectionRecord {
  double fraction_removed = 0;  ///< of the gradient's (or step's) energy
  std::int64_t basis_age = 0;   ///< optimizer steps since the subspace was estimated
};

/// Stands between the gradients and the optimizer.
class Protection {
 public:
  /// \param model  what is trained
  Protection(CausalLm model, std::vector<Reference> references, ProtectionOptions options);
  ~Protection();
  Protection(Protection&&) noexcept;

  /// Before the gradients of optimizer step `step` are computed: estimates the subspace where that is due.
  void prepare(std::int64_t step);
  /// After the gradients are complete, before they are clipped.
  void project_gradients();
  /// Takes the optimizer's step.
  void step(torch::optim::Optimizer& optimizer);
  /// Of the last step; none for Method::plain.
  std::optional<ProtectionRecord> record() const;

  void save(const std::filesystem::path& folder) const;
  void load(const std::filesystem::path& folder);

 private:
  struct Projector;

  CausalLm model_;
  std::vector<Reference> references_;
  ProtectionOptions options_;
  std::unique_ptr<Projector> projector_;  // none for Method::plain
};

}  // namespace align
