#include "support.hpp"

// What can go wrong in a refresh is named, and changes nothing.

namespace torch_refresh_errors {  // files are compiled together

using ogpsa::torch::BasicGradientProjector;
using ogpsa::torch::GradientProjector;
using ogpsa::torch::NamedParameters;
using ogpsa::torch::Objective;
using ogpsa::torch::ReferenceLoss;
using test::contains;
using test::message_of;
using test::Tensor;

namespace {

/// A projector with a subspace, and a check that it keeps it.
struct Fixture {
  Fixture() {
    projector.refresh({[&] { return (w * h).sum(); }});
  }

  void check_unchanged() {
    w.mutable_grad() = h.clone();
    projector.project_gradients();
    CHECK(test::two_norm(w.grad()) < 1e-14);
    CHECK(projector.core().last_refresh() == 0);
  }
  /// The message of the error that one objective of three micro-batches gives, the last of which is `loss`.
  template <class E>
  std::string failure(const std::function<Tensor()>& loss) {
    return message_of<E>([&] {
      projector.refresh({Objective{"manners", 1,
                                   [&](ogpsa::Index) {
                                     return ReferenceLoss{w.sum(), 1};
                                   }},
                         Objective{"facts", 3,
                                   [&](ogpsa::Index i) {
                                     return ReferenceLoss{i < 2 ? w.sum() : loss(), 1};
                                   }}},
                        7);
    });
  }

  Tensor w = torch::ones({4}, torch::kDouble).requires_grad_();
  Tensor h = torch::tensor({1.0, -2.0, 0.5, 3.0}, torch::kDouble);
  BasicGradientProjector<double> projector{NamedParameters{{"layer.weight", w}}};
};

}  // namespace

TEST_CASE_FIXTURE(Fixture, "a loss that is NaN: objective and micro-batch") {
  const auto message = failure<ogpsa::NonFiniteError>([&] { return (w * NAN).sum(); });
  CHECK(contains(message, "objective 'facts', micro-batch 2: the loss is NaN or infinite"));
  check_unchanged();
}

TEST_CASE_FIXTURE(Fixture, "a gradient that is NaN: objective, micro-batch, block and element") {
  // The square root's slope at zero is infinite, and times zero NaN, while the loss is a number.
  const auto message = failure<ogpsa::NonFiniteError>([&] {
    return torch::sqrt((w - 1) * torch::tensor({0.0, 0.0, 1.0, 0.0}, torch::kDouble)).sum() + w.sum();
  });
  CHECK(contains(message, "objective 'facts', micro-batch 2: block 'layer.weight': reference gradient element 0"));
  check_unchanged();
}

TEST_CASE_FIXTURE(Fixture, "a loss that is no mean, or does not depend on a parameter") {
  CHECK(contains(failure<ogpsa::InvalidArgument>([&] { return w * 1; }), "one element"));
  CHECK(contains(failure<ogpsa::InvalidArgument>([&] { return Tensor(); }), "one element"));
  CHECK(contains(failure<ogpsa::InvalidArgument>([&] { return w.detach().sum(); }),
                 "micro-batch 2: the loss does not depend on a trainable parameter"));
  check_unchanged();
}

TEST_CASE_FIXTURE(Fixture, "a weight that is no number of rows, an objective without a closure, no objective at all") {
  for (const double weight : {-1.0, double(NAN), double(INFINITY)}) {
    const auto message = message_of<ogpsa::InvalidArgument>([&] {
      projector.refresh({Objective{"facts", 1, [&](ogpsa::Index) { return ReferenceLoss{w.sum(), weight}; }}});
    });
    CHECK(contains(message, "objective 'facts', micro-batch 0: the weight is"));
  }
  CHECK(contains(message_of<ogpsa::InvalidArgument>([&] {
                   projector.refresh({Objective{"facts", 1, nullptr}});
                 }),
                 "objective 'facts' has no closure"));
  CHECK_THROWS_AS(projector.refresh(std::vector<Objective>{}), ogpsa::StateError);
  check_unchanged();
}

TEST_CASE_FIXTURE(Fixture, "what a closure throws comes through as it is") {
  struct OutOfRows {};
  const auto throws = [&]() -> Tensor { throw OutOfRows{}; };
  CHECK_THROWS_AS(projector.refresh({throws}), OutOfRows);
  CHECK_THROWS_AS(projector.refresh({[&] { return w.matmul(torch::ones({3, 3}, torch::kDouble)); }}), c10::Error);
  check_unchanged();
}

TEST_CASE_FIXTURE(Fixture, "refresh from a closure that refresh runs") {
  const auto nested = [&] {
    projector.refresh({[&] { return w.sum(); }});
    return w.sum();
  };
  CHECK_THROWS_AS(projector.refresh({nested}), ogpsa::StateError);
  check_unchanged();
}

TEST_CASE("a sparse gradient is an error that names the parameter, in refresh and afterwards") {
  auto embedding = torch::nn::Embedding(torch::nn::EmbeddingOptions(6, 3).sparse(true));
  const auto loss = [&] { return embedding(torch::tensor({1, 4})).sum(); };
  GradientProjector projector(*embedding, {});
  CHECK(contains(message_of<ogpsa::InvalidArgument>([&] { projector.refresh({loss}); }),
                 "the gradient of 'weight' is sparse"));
  projector.refresh({[&] { return embedding->weight.sum(); }});
  loss().backward();
  REQUIRE(embedding->weight.grad().is_sparse());
  CHECK(contains(message_of<ogpsa::InvalidArgument>([&] { projector.project_gradients(); }),
                 "the gradient of 'weight' is sparse"));
  torch::optim::SGD optimizer(embedding->parameters(), 0.1);
  const auto before = embedding->weight.detach().clone();
  CHECK(contains(message_of<ogpsa::InvalidArgument>([&] { projector.step(optimizer); }),
                 "the gradient of 'weight' is sparse"));
  CHECK(torch::equal(embedding->weight, before));
}

TEST_CASE("projecting before the first refresh is an error that says what to call") {
  const auto w = torch::ones({3}).requires_grad_();
  GradientProjector projector(NamedParameters{{"w", w}});
  torch::optim::SGD optimizer({w}, 0.1);
  w.mutable_grad() = torch::ones({3});
  CHECK(contains(message_of<ogpsa::StateError>([&] { projector.project_gradients(); }), "call refresh first"));
  CHECK(contains(message_of<ogpsa::StateError>([&] { projector.step(optimizer); }), "call refresh first"));
  CHECK(torch::equal(w, torch::ones({3})));
}

}  // namespace torch_refresh_errors
