#pragma once

#include <torch/torch.h>

#include <cmath>
#include <cstdint>
#include <functional>
#include <string>

namespace align {

/// Is shown what the layers with adapters see.
struct InputObserver {
  /// By the name of the adapter's weight A; \param inputs tokens x in. None: nobody looks.
  std::function<void(const std::string& name, const torch::Tensor& inputs)> see;
  torch::Tensor tokens;  ///< which tokens of the flattened batch are no padding; undefined: all of them
};

/// y = W x + b, and where an adapter was added (LoRA, Hu et al. 2021) + alpha / r B A x. The weight is out x in; the
/// adapter's parameters are named as in PEFT: lora_A.weight (r x in), lora_B.weight (out x r).
class LinearImpl : public torch::nn::Module {
 public:
  LinearImpl(std::int64_t in, std::int64_t out, bool bias = false)
      : weight_(register_parameter("weight", torch::empty({out, in}).normal_(0, 1 / std::sqrt(in)))) {
    if (bias) bias_ = register_parameter("bias", torch::zeros({out}));
  }

  torch::Tensor forward(const torch::Tensor& x) {
    const auto y = torch::nn::functional::linear(x, weight_, bias_);
    if (lora_a_ == nullptr) return y;
    if (observer_ != nullptr && observer_->see) show(x);
    return y + scale_ * lora_b_->forward(lora_a_->forward(x));
  }

  const torch::Tensor& weight() const { return weight_; }
  bool has_adapter() const { return lora_a_ != nullptr; }
  /// A starts uniform in +-1/sqrt(in), B at zero, so that y is as before.
  /// \param name, observer  how `observer`, which outlives the layer, knows it
  void add_adapter(std::int64_t rank, double alpha, torch::Generator generator, const std::string& name,
                   const InputObserver& observer) {
    name_ = name + ".lora_A.weight";
    observer_ = &observer;
    scale_ = alpha / static_cast<double>(rank);
    lora_a_ = register_module("lora_A", std::make_shared<LinearImpl>(weight_.size(1), rank));
    lora_b_ = register_module("lora_B", std::make_shared<LinearImpl>(rank, weight_.size(0)));
    const torch::NoGradGuard no_grad;
    const double bound = 1 / std::sqrt(static_cast<double>(weight_.size(1)));
    lora_a_->weight_.uniform_(-bound, bound, generator);
    lora_b_->weight_.zero_();
    lora_a_->to(weight_.device());  // drawn on the CPU: the same numbers wherever the model is
    lora_b_->to(weight_.device());
  }

  const torch::Tensor& lora_a() const { return lora_a_->weight_; }
  const torch::Tensor& lora_b() const { return lora_b_->weight_; }

 private:
  void show(const torch::Tensor& x) const {
    const auto inputs = x.detach().flatten(0, -2);
    const auto& tokens = observer_->tokens;
    observer_->see(name_, tokens.defined() ? inputs.index_select(0, tokens) : inputs);
  }

  torch::Tensor weight_, bias_;
  std::shared_ptr<LinearImpl> lora_a_, lora_b_;
  double scale_ = 0;
  std::string name_;
  const InputObserver* observer_ = nullptr;
};
TORCH_MODULE(Linear);

}  // namespace align
