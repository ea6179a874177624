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
  plain,                ///< none
  ogpsa,                ///< as published: the gradient, before AdamW
  ogpsa_step,           ///< the same subspace, exact on the step that AdamW takes
  structured,           ///< one side (or both) of each matrix, exact on the step
  structured_gradient,  ///< the same on the gradient, before AdamW
};

bool is_structured(Method method);

/// Names of what the structured methods protect: the matrices of the layers or, where these are frozen, the adapters'
/// A.
inline constexpr const char* kMatrices = "_proj\\.(lora_A\\.)?weight$";

/// plain, ogpsa, ogpsa-step, structured, structured-gradient
const char* name(Method method);
/// \throws ogpsa::InvalidArgument for another name
Method method_of(const std::string& name);

struct ProtectionOptions {
  Method method = Method::plain;
  std::int64_t refresh_every = 0;   ///< optimizer steps; 0: the subspace is estimated once, at the first step
  double max_share = 0.3;           ///< structured: share of a side's directions that is protected
  std::int64_t batch_size = 16;     ///< reference rows of a micro-batch
  std::string form = "input";       ///< structured: input, output or both
  double damping = 0;               ///< structured: 0: hard; else soft (ogpsa::StructuredOptions)
  bool streaming = false;           ///< a refresh updates the subspace, forgetting the old, instead of replacing it
  double forgetting = 0.9;          ///< weight of the old singular values at a streaming refresh
  std::string include = {};         ///< regular expression of the parameters that are protected; empty: all
  std::string mode = "orthogonal";  ///< ogpsa, ogpsa-step: orthogonal, conflicting, one-sided or inside
  double alpha = 1;                 ///< share of the component that is removed
  std::string basis_storage = "float32";  ///< of flat subspaces: float32, page_locked, bfloat16 or int8
  double scale = 1;                       ///< conflicting: factor of a gradient that does not conflict
};

/// A named reference objective: the mean loss over all of its rows.
struct Reference {
  std::string name;
  std::shared_ptr<const Loss> loss;
};

/// What a projection did in one step.
struct ProtectionRecord {
  double fraction_removed = 0;  ///< of the gradient's (or step's) energy
  double angle = 0;             ///< between the gradient (or step) and the subspace, radians
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
  /// The last step block by block, as one line of JSON (ogpsa::Report); empty for Method::plain.
  std::string blocks_line() const;

  void save(const std::filesystem::path& folder) const;
  void load(const std::filesystem::path& folder);

 private:
  struct Projector;

  bool projects_step() const;
  bool protects_adapters();

  CausalLm model_;
  std::vector<Reference> references_;
  ProtectionOptions options_;
  std::unique_ptr<Projector> projector_;  // none for Method::plain
};

}  // namespace align
