#include "support.hpp"

// Which parameters become blocks, and in which form.

namespace torch_selection {  // files are compiled together

using ogpsa::Form;
using ogpsa::InvalidArgument;
using ogpsa::torch::GradientProjector;
using ogpsa::torch::NamedParameters;
using ogpsa::torch::Options;

namespace {

/// An embedding, two projections, a norm and a convolution.
struct Decoder : torch::nn::Module {
  Decoder() {
    tokens = register_module("tokens", torch::nn::Embedding(11, 4));
    q_proj = register_module("q_proj", torch::nn::Linear(torch::nn::LinearOptions(4, 6).bias(false)));
    up_proj = register_module("up_proj", torch::nn::Linear(4, 8));
    norm = register_module("norm", torch::nn::LayerNorm(torch::nn::LayerNormOptions({4})));
    conv = register_module("conv", torch::nn::Conv2d(torch::nn::Conv2dOptions(3, 5, {2, 4})));
  }
  torch::nn::Embedding tokens{nullptr};
  torch::nn::Linear q_proj{nullptr}, up_proj{nullptr};
  torch::nn::LayerNorm norm{nullptr};
  torch::nn::Conv2d conv{nullptr};
};

std::vector<std::string> names(const GradientProjector& projector) {
  std::vector<std::string> result;
  for (const auto& block : projector.blocks()) result.push_back(block.name);
  return result;
}
const ogpsa::BlockSpec& block(const GradientProjector& projector, const std::string& name) {
  for (const auto& b : projector.blocks()) {
    if (b.name == name) return b;
  }
  FAIL("no block " << name);
  std::abort();
}

using Names = std::vector<std::string>;

}  // namespace

TEST_CASE("a module's parameters become blocks of their shape as a matrix") {
  Decoder model;
  const GradientProjector projector(model, {.refresh_every = 30});
  CHECK(names(projector) == Names{"tokens.weight", "q_proj.weight", "up_proj.weight", "up_proj.bias", "norm.weight",
                                  "norm.bias", "conv.weight", "conv.bias"});
  CHECK(block(projector, "q_proj.weight").rows == 6);
  CHECK(block(projector, "q_proj.weight").cols == 4);
  CHECK(block(projector, "conv.weight").rows == 5);
  CHECK(block(projector, "conv.weight").cols == 3 * 2 * 4);
  CHECK(block(projector, "norm.weight").rows == 1);
  CHECK(projector.skipped().empty());
  CHECK(projector.core().options().refresh_every == 30);
}

TEST_CASE("blocks are chosen by patterns") {
  Decoder model;
  CHECK(names(GradientProjector(model, {.include = "_proj"})) ==
        Names{"q_proj.weight", "up_proj.weight", "up_proj.bias"});
  CHECK(names(GradientProjector(model, {.include = "_proj", .exclude = "bias$"})) ==
        Names{"q_proj.weight", "up_proj.weight"});
  CHECK(names(GradientProjector(model, {.exclude = "^(tokens|norm|conv)"})) ==
        Names{"q_proj.weight", "up_proj.weight", "up_proj.bias"});
}

TEST_CASE("matrices that match are structured; vectors, embeddings and what `flat` names stay flat") {
  Decoder model;
  const GradientProjector all(model, {.structured = "", .form = Form::both});
  for (const auto& b : all.blocks()) CHECK(b.form == Form::flat);
  const GradientProjector some(model, {.structured = ".*", .form = Form::both, .flat = "up_proj"});
  CHECK(block(some, "tokens.weight").form == Form::flat);
  CHECK(block(some, "q_proj.weight").form == Form::both);
  CHECK(block(some, "up_proj.weight").form == Form::flat);
  CHECK(block(some, "up_proj.bias").form == Form::flat);
  CHECK(block(some, "norm.weight").form == Form::flat);
  CHECK(block(some, "conv.weight").form == Form::both);
  // Without a module only the name tells an embedding.
  const auto matrix = [] { return torch::randn({4, 3}).requires_grad_(); };
  const NamedParameters named{{"embed_tokens.weight", matrix()}, {"head.weight", matrix()}};
  const GradientProjector by_name(named, {.structured = "weight"});
  CHECK(block(by_name, "embed_tokens.weight").form == Form::flat);
  CHECK(block(by_name, "head.weight").form == Form::input);
}

TEST_CASE("groups are named by what a pattern captures") {
  const auto vector = [] { return torch::randn({3}).requires_grad_(); };
  const NamedParameters named{
      {"layers.0.a", vector()}, {"layers.0.b", vector()}, {"layers.1.a", vector()}, {"head", vector()}};
  const GradientProjector projector(named, {.granularity = ogpsa::Granularity::group, .group = "layers\\.([0-9]+)"});
  CHECK(projector.core().groups() == std::vector<std::vector<std::size_t>>{{0, 1}, {2}, {3}});
  CHECK(projector.blocks()[1].group == "0");
  CHECK_THROWS_AS(GradientProjector(named, {.granularity = ogpsa::Granularity::group}), InvalidArgument);
}

TEST_CASE("an optimizer's parameters are named by group and place, or as in a module") {
  Decoder model;
  torch::optim::SGD optimizer({torch::optim::OptimizerParamGroup({model.q_proj->weight}),
                               torch::optim::OptimizerParamGroup({model.norm->weight, model.norm->bias})},
                              torch::optim::SGDOptions(0.1));
  CHECK(names(GradientProjector(optimizer)) == Names{"group0.parameter0", "group1.parameter0", "group1.parameter1"});
  CHECK(names(GradientProjector(optimizer, model)) == Names{"q_proj.weight", "norm.weight", "norm.bias"});
}

TEST_CASE("frozen, empty and tied parameters are left out, and reported with the reason") {
  const auto shared = torch::randn({2, 3}).requires_grad_();
  const auto alias = torch::randn({2, 3}).requires_grad_();
  alias.set_data(shared.detach());  // another leaf of autograd on the same memory
  const GradientProjector projector(NamedParameters{{"tokens", shared},
                                                    {"frozen", torch::randn({3})},
                                                    {"head", shared},
                                                    {"alias", alias},
                                                    {"empty", torch::randn({0, 3}).requires_grad_()}});
  CHECK(names(projector) == Names{"tokens"});
  std::string report;
  for (const auto& s : projector.skipped()) report += s.name + ": " + s.reason + "\n";
  CHECK(report ==
        "frozen: it is frozen (requires_grad is false)\n"
        "head: it is tied to 'tokens'\n"
        "alias: it shares its memory with 'tokens'\n"
        "empty: it is empty\n");
}

TEST_CASE("what cannot be a block, or a pattern that finds nothing, is an error that says so") {
  Decoder model;
  const auto why = [&](const Options& options) {
    return test::message_of<InvalidArgument>([&] { GradientProjector(model, options); });
  };
  CHECK(test::contains(why({.include = "lora"}), "none of 8 parameters"));
  CHECK(test::contains(why({.include = "(", .structured = ""}), "option include"));
  CHECK(test::contains(why({.structured = "down_proj"}), "no matrix has a name that matches 'down_proj'"));
  CHECK(test::contains(why({.structured = "norm"}), "option structured"));
  CHECK(test::contains(why({.group = "blocks"}), "option group"));
  CHECK(test::contains(why({.refresh_every = 0}), "refresh_every"));
  for (auto& p : model.parameters()) p.requires_grad_(false);
  CHECK(test::contains(why({}), "'tokens.weight': it is frozen"));

  const auto complex = torch::zeros({2}, torch::kComplexFloat).requires_grad_();
  CHECK(test::contains(test::message_of<InvalidArgument>([&] {
                         GradientProjector(NamedParameters{{"phase", complex}});
                       }),
                       "parameter 'phase' is stored as ComplexFloat"));
  const auto whole = torch::randn({2, 3}).requires_grad_();
  const auto turned = torch::randn({3, 2}).requires_grad_();
  turned.set_data(whole.detach().t());
  CHECK(test::contains(test::message_of<InvalidArgument>([&] {
                         GradientProjector(NamedParameters{{"whole", whole}, {"turned", turned}});
                       }),
                       "'turned' shares its memory with 'whole' in another shape"));
  const auto leaf = torch::randn({2}).requires_grad_();
  CHECK(test::contains(test::message_of<InvalidArgument>([&] {
                         GradientProjector(NamedParameters{{"w", leaf * 2}});
                       }),
                       "parameter 'w' is computed from other tensors"));
  // A device that this adapter does not read; "meta" stands for any, as every build has it.
  const auto elsewhere = torch::empty({2}, torch::device(torch::kMeta)).requires_grad_();
  CHECK(test::contains(test::message_of<InvalidArgument>([&] {
                         GradientProjector(NamedParameters{{"w", elsewhere}});
                       }),
                       "'w' is on meta, but this projector works on cpu; move it to the CPU"));
  const auto here = torch::randn({2}).requires_grad_(), more = torch::randn({3}).requires_grad_();
  CHECK(test::contains(test::message_of<InvalidArgument>([&] {
                         GradientProjector(NamedParameters{{"a", here}, {"w", elsewhere}, {"b", more}});
                       }),
                       "on several devices: 'a' and 1 more are on cpu; 'w' is on meta; make one projector for each"));
}

}  // namespace torch_selection
