#include <doctest/doctest.h>

#include <cstring>
#include <functional>
#include <limits>
#include <typeinfo>

#include "exact.hpp"
#include "ogpsa/ogpsa.hpp"
#include "tensors.hpp"

using namespace ogpsa;
using test::Random;
using test::Tensors;

namespace test_errors {
namespace {

/// What an exception of exactly this type says.
template <class E>
std::string message(const std::function<void()>& call) {
  try {
    call();
  } catch (const E& e) {
    CHECK(typeid(e) == typeid(E));
    return e.what();
  } catch (const std::exception& e) {
    return std::string("(another exception) ") + e.what();
  }
  return "(nothing was thrown)";
}

/// Every word stands in the message.
void check_message(const std::string& text, const std::vector<std::string>& words) {
  CAPTURE(text);
  for (const auto& word : words) {
    CAPTURE(word);
    CHECK(text.find(word) != std::string::npos);
  }
}

const std::vector<BlockSpec> blocks = {{.name = "first", .rows = 4, .cols = 6, .group = "g"},
                                       {.name = "second", .cols = 9, .group = "g"},
                                       {.name = "side", .rows = 5, .cols = 6, .form = Form::input},
                                       {.name = "kron", .rows = 7, .cols = 3, .form = Form::both}};

template <class T>
Projector<T> ready_projector(ProjectorOptions options = {}) {
  Random random(1);
  Projector<T> projector(blocks, options);
  test::refresh(projector, std::vector<Tensors<T>>{Tensors<T>(blocks, random), Tensors<T>(blocks, random)}, 2);
  return projector;
}

/// All bases of a projector, for "nothing was changed".
template <class T>
std::vector<test::MatrixL> bases(const Projector<T>& p) {
  return {test::exact(p.subspace("first").basis()), test::exact(p.subspace("second").basis()),
          test::exact(p.subspace("side", Side::input).basis()), test::exact(p.subspace("kron", Side::input).basis()),
          test::exact(p.subspace("kron", Side::output).basis())};
}

}  // namespace

TEST_CASE_TEMPLATE("errors: a non-finite gradient, step or weight is named and nothing is changed", S, float, double,
                   bfloat16, float16) {
  for (const Granularity granularity : {Granularity::block, Granularity::group, Granularity::global}) {
    const auto projector = ready_projector<double>({.granularity = granularity});
    Random random(2);
    Tensors<S> p(blocks);
    for (std::size_t i = 0; i < blocks.size(); ++i) p[i].assign(p[i].size(), S(2));
    for (const S bad : {std::numeric_limits<S>::quiet_NaN(), std::numeric_limits<S>::infinity(),
                        -std::numeric_limits<S>::infinity()}) {
      for (std::size_t b = 0; b < blocks.size(); ++b) {
        for (const std::size_t at : {std::size_t(0), p[b].size() / 2, p[b].size() - 1}) {
          CAPTURE(static_cast<int>(granularity));
          CAPTURE(b);
          CAPTURE(at);
          Tensors<S> g(blocks, random);
          g[b][at] = bad;
          const auto before = g;
          const std::vector<std::string> words = {"'" + blocks[b].name + "'", "element " + std::to_string(at) + " ",
                                                  "NaN or infinite"};
          const auto unchanged = [&] {
            for (std::size_t i = 0; i < blocks.size(); ++i) {
              CHECK(std::memcmp(g[i].data(), before[i].data(), g[i].size() * sizeof(S)) == 0);
            }
          };
          check_message(message<NonFiniteError>([&] { projector.project_gradients(g.views()); }), words);
          unchanged();
          check_message(message<NonFiniteError>([&] { projector.project_steps(g.views()); }), words);
          unchanged();
          check_message(message<NonFiniteError>([&] { projector.project_steps(g.views(), p.const_views()); }), words);
          unchanged();
          const Tensors<S> fine(blocks, random);
          Tensors<S> fine_copy = fine;
          check_message(message<NonFiniteError>([&] { projector.project_weights(fine.const_views(), g.views()); }),
                        words);
          unchanged();
          check_message(message<NonFiniteError>([&] { projector.project_weights(g.const_views(), fine_copy.views()); }),
                        words);
          CHECK(fine_copy == fine);
          if (blocks[b].form != Form::flat) continue;
          check_message(message<NonFiniteError>([&] { projector.project_steps(fine_copy.views(), g.const_views()); }),
                        words);
          CHECK(fine_copy == fine);
        }
      }
    }
  }
}

TEST_CASE_TEMPLATE("errors: a non-finite reference gradient is named, and the collector goes on as if it had not come",
                   S, float, double, bfloat16, float16) {
  for (const Collect collect : {Collect::objective, Collect::batch}) {
    Random random(3);
    Projector<double> projector(blocks, {.reference = {.collect = collect}}),
        clean(blocks, {.reference = {.collect = collect}});
    auto collector = projector.begin_refresh(), expected = clean.begin_refresh();
    for (std::size_t b = 0; b < blocks.size(); ++b) {
      for (const S bad : {std::numeric_limits<S>::quiet_NaN(), -std::numeric_limits<S>::infinity()}) {
        Tensors<S> g(blocks, random);
        collector.add(1, g.const_views());
        expected.add(1, g.const_views());
        const std::size_t at = g[b].size() - 1;
        g[b][at] = bad;
        const auto text = message<NonFiniteError>([&] { collector.add(7, g.const_views()); });
        check_message(text, {"'" + blocks[b].name + "'", "element " + std::to_string(at), "nothing was added"});
      }
    }
    CHECK(collector.objectives() == 2);
    const Tensors<S> g(blocks, random);
    collector.add(0, g.const_views());
    expected.add(0, g.const_views());
    projector.finish_refresh(std::move(collector), 0);
    clean.finish_refresh(std::move(expected), 0);
    CHECK(bases(projector) == bases(clean));
  }
}

TEST_CASE("errors: reference sums that overflow leave the subspaces as they were") {
  auto projector = ready_projector<float>();
  const auto before = bases(projector);
  for (std::size_t b = 0; b < 2; ++b) {
    Tensors<float> g(blocks);
    g[b][3] = 3e38f;
    auto collector = projector.begin_refresh();
    collector.add(0, g.const_views(), 1000);
    const auto text = message<NonFiniteError>([&] { projector.finish_refresh(std::move(collector), 7); });
    check_message(text, {"'" + blocks[b].name + "'", "objective 0", "element 3", "overflow"});
    CHECK(bases(projector) == before);
    CHECK(projector.last_refresh() == 2);
  }
}

TEST_CASE_TEMPLATE("errors: a subspace is as it was when an update cannot be done", T, float, double) {
  Random random(4);
  auto subspace = estimate(test::Matrix<T>(random.gaussian<T>(20, 3)));
  const auto basis = test::exact(subspace.basis());
  const auto unchanged = [&] {
    CHECK(test::exact(subspace.basis()) == basis);
    CHECK(subspace.rank() == 3);
    CHECK(subspace.objectives().cols() == 3);
    CHECK(subspace.objective_norms().size() == 3);
    CHECK(subspace.singular_values().size() == 3);
  };
  const test::Matrix<T> ones = test::Matrix<T>::Ones(20, 2);
  const auto bad = test::on_backend<T>(ones);
  const EigenBackend::Matrix<T> longer(21, 2), zero(20, 2);
  for (const Index at : {0, 19, 20, 39}) {
    test::Matrix<T> not_finite = ones;
    not_finite(at) = std::numeric_limits<T>::quiet_NaN();
    const auto copy = test::on_backend<T>(not_finite);
    const std::vector<std::string> words = {"'layer'", "element " + std::to_string(at % 20) + " ",
                                            "column " + std::to_string(at / 20), "NaN"};
    check_message(message<NonFiniteError>([&] { subspace.replace(copy, {}, {.name = "layer"}); }), words);
    unchanged();
    check_message(message<NonFiniteError>([&] { subspace.append(copy, "layer"); }), words);
    unchanged();
    check_message(message<NonFiniteError>([&] { subspace.update(copy, 0.5, {}, {.name = "layer"}); }), words);
    unchanged();
  }
  check_message(message<InvalidArgument>([&] { subspace.replace(longer); }), {"21", "20"});
  check_message(message<InvalidArgument>([&] { subspace.append(longer); }), {"21", "20"});
  check_message(message<InvalidArgument>([&] { subspace.update(zero, 0.0); }), {"forgetting", "(0, 1]"});
  check_message(message<InvalidArgument>([&] { subspace.update(zero, 1.5); }), {"forgetting"});
  check_message(message<InvalidArgument>([&] { subspace.update(zero, std::nan("")); }), {"forgetting"});
  check_message(message<InvalidArgument>([&] { subspace.update(zero, 0.5, {.energy = 2}); }), {"energy"});
  const std::vector<Index> slots = {0, 1, 2};
  check_message(message<InvalidArgument>([&] { subspace.update(zero, 0.5, {}, {}, slots); }),
                {"3 objectives", "2 columns"});
  check_message(message<InvalidArgument>([&] { subspace.merge(Subspace<T>(7)); }), {"7", "20"});
  check_message(message<InvalidArgument>([&] { subspace.truncate({.max_rank = -3}); }), {"max_rank", "-3"});
  // A method chosen by the caller that cannot factorise repeated columns.
  const EstimateOptions chosen{.method = Orthonormalization::cholesky_qr2};
  check_message(message<NumericalError>([&] { subspace.replace(bad, {}, chosen); }), {"CholeskyQR2", "20 x 2", "cgs2"});
  unchanged();
  check_message(message<NumericalError>([&] { subspace.update(bad, 0.9, {}, chosen); }), {"CholeskyQR2"});
  unchanged();
  const test::Matrix<T> twice = random.gaussian<T>(20, 1).replicate(1, 2);
  const test::Matrix<T> copy = twice;
  CHECK_THROWS_AS(estimate(twice, {}, chosen), NumericalError);
  CHECK(twice == copy);
}

TEST_CASE("errors: blocks and options that cannot be") {
  using P = Projector<float>;
  const auto fails = [](std::vector<BlockSpec> specs, ProjectorOptions options, const std::vector<std::string>& words) {
    check_message(message<InvalidArgument>([&] { P projector(specs, options); }), words);
  };
  const std::vector<BlockSpec> good = {{.name = "w", .rows = 2, .cols = 3}};
  fails({{.name = "", .cols = 3}}, {}, {"block 0", "name"});
  fails({{.name = "w", .cols = 3}, {.name = "w", .cols = 3}}, {}, {"'w'", "twice"});
  fails({{.name = "w", .rows = -2, .cols = 3}}, {}, {"'w'", "-2 x 3"});
  fails({{.name = "v", .cols = 3, .form = Form::input}}, {}, {"'v'", "1 x 3", "flat"});
  fails({{.name = "a", .cols = 2, .group = "b"}, {.name = "b", .cols = 2}}, {.granularity = Granularity::group},
        {"'b'", "rename"});
  fails(good, {.refresh_every = 0}, {"refresh_every", "0"});
  fails(good, {.forgetting = 0}, {"forgetting"});
  fails(good, {.forgetting = 1.1}, {"forgetting"});
  fails(good, {.policy = RefreshPolicy::streaming}, {"streaming", "max_rank"});
  fails(good, {.projection = {.alpha = 1.5}}, {"alpha", "[0, 1]"});
  fails(good, {.projection = {.alpha = std::nan("")}}, {"alpha"});
  fails(good, {.projection = {.scale = std::numeric_limits<double>::infinity()}}, {"scale"});
  fails(good, {.reference = {.rank = {.max_rank = -1}}}, {"max_rank"});
  fails(good, {.reference = {.structured = {.rank = {.max_share = 2}}}}, {"max_share"});
  fails(good, {.reference = {.structured = {.damping = -1}}}, {"damping"});
  fails(good, {.reference = {.structured = {.damping = std::nan("")}}}, {"damping"});
}

TEST_CASE("errors: calls that come too early, or with what does not fit") {
  Random random(5);
  Projector<float> fresh(blocks);
  Tensors<float> g(blocks, random);
  const auto before = g;
  check_message(message<StateError>([&] { fresh.project_gradients(g.views()); }), {"no subspace", "refresh"});
  check_message(message<StateError>([&] { fresh.project_weights(before.const_views(), g.views()); }), {"refresh"});
  check_message(message<StateError>([&] { fresh.project_steps(g.views(), before.const_views()); }), {});
  check_message(message<StateError>([&] { fresh.finish_refresh(fresh.begin_refresh(), 0); }), {"add"});
  {
    auto collector = fresh.begin_refresh();
    collector.add(2, g.const_views());
    check_message(message<StateError>([&] { fresh.finish_refresh(std::move(collector), 0); }),
                  {"objective 0", "objective 2"});
    CHECK_FALSE(fresh.ready());
  }
  auto collector = fresh.begin_refresh();
  auto views = g.const_views();
  check_message(message<InvalidArgument>([&] { collector.add(-1, views); }), {"objective -1"});
  for (const double weight : {0.0, -1.0, std::nan(""), std::numeric_limits<double>::infinity()}) {
    check_message(message<InvalidArgument>([&] { collector.add(0, views, weight); }), {"weight"});
  }
  std::swap(views[1].rows, views[1].cols);
  check_message(message<InvalidArgument>([&] { collector.add(0, views); }), {"'second'", "1 x 9", "9 x 1"});
  views = g.const_views();
  views[3].layout = Layout::column_major;
  check_message(message<InvalidArgument>([&] { collector.add(0, views); }), {"'kron'", "layout"});
  views.pop_back();
  check_message(message<InvalidArgument>([&] { collector.add(0, views); }), {"3 gradients", "4 blocks"});
  CHECK(collector.objectives() == 0);
  collector.add(0, g.const_views());
  check_message(message<InvalidArgument>([&] { fresh.finish_refresh(std::move(collector), -1); }), {"-1"});

  const auto projector = ready_projector<float>();
  auto few = g.views();
  few.pop_back();
  check_message(message<InvalidArgument>([&] { projector.project_gradients(few); }), {"3 gradients", "4 blocks"});
  auto wrong = g.views();
  wrong[0].cols = 5;
  check_message(message<InvalidArgument>([&] { projector.project_steps(wrong); }), {"'first'", "4 x 6", "4 x 5"});
  Tensors<double> other(blocks, random);
  check_message(message<InvalidArgument>([&] { projector.project_weights(other.const_views(), g.views()); }),
                {"'first'", "data type"});
  check_message(message<InvalidArgument>([&] { projector.project_weights(before.const_views({1}), g.views()); }),
                {"'second'", "snapshot"});
  CHECK(g == before);
  check_message(message<InvalidArgument>([&] { projector.subspace("third"); }), {"'third'"});
  check_message(message<InvalidArgument>([&] { projector.subspace("side"); }), {"'side'", "input"});
  check_message(message<InvalidArgument>([&] { projector.subspace("first", Side::input); }), {"'first'", "flat"});
  check_message(message<InvalidArgument>([&] { projector.subspace("side", Side::output); }), {"'side'", "output"});
}

TEST_CASE("errors: a collector of another projector, or one that was used up, is refused") {
  Random random(6);
  auto projector = ready_projector<float>();
  const auto before = bases(projector);
  const std::vector<BlockSpec> one = {{.name = "first", .rows = 4, .cols = 6}};
  std::vector<BlockSpec> renamed = blocks;
  renamed[1].cols = 10;
  for (const auto& specs : {one, renamed}) {
    Projector<float> other(specs);
    auto collector = other.begin_refresh();
    collector.add(0, Tensors<float>(specs, random).const_views());
    check_message(message<InvalidArgument>([&] { projector.finish_refresh(std::move(collector), 9); }), {"another"});
    CHECK(bases(projector) == before);
  }
  auto collector = projector.begin_refresh();
  collector.add(0, Tensors<float>(blocks, random).const_views());
  const auto taken = std::move(collector);
  CHECK_THROWS_AS(collector.add(0, Tensors<float>(blocks, random).const_views()), Error);
  CHECK_THROWS_AS(projector.finish_refresh(std::move(collector), 9), Error);
  CHECK(bases(projector) == before);
  CHECK(projector.last_refresh() == 2);
}

TEST_CASE("errors: a refresh that fails in one block changes none") {
  Random random(7);
  auto projector = ready_projector<float>({.reference = {.method = Orthonormalization::cholesky_qr2}});
  const auto before = bases(projector);
  std::vector<Tensors<float>> h = {Tensors<float>(blocks, random), Tensors<float>(blocks, random)};
  h[1][1] = h[0][1];  // repeated in the second block
  CHECK_THROWS_AS(test::refresh(projector, h, 9), NumericalError);
  CHECK(bases(projector) == before);
  CHECK(projector.last_refresh() == 2);
}

TEST_CASE("errors: modes that a block cannot have") {
  Random random(8);
  Tensors<float> g(blocks, random);
  const auto before = g;
  for (const auto mode : {ProjectionMode::one_sided, ProjectionMode::conflicting}) {
    const auto structured = ready_projector<float>({.projection = {.mode = mode}});
    check_message(message<InvalidArgument>([&] {
                    structured.project_gradients(g.views({0, 1}));
                  }),
                  {"'side'", "structured", "flat"});
    CHECK(g == before);
  }
  const auto two = ready_projector<float>({.projection = {.mode = ProjectionMode::conflicting}});
  check_message(message<InvalidArgument>([&] {
                  two.project_gradients(g.views({2, 3}));
                }),
                {"'first'", "one objective", "2", "one_sided"});
  const auto batches = ready_projector<float>(
      {.projection = {.mode = ProjectionMode::one_sided}, .reference = {.collect = Collect::batch}});
  check_message(message<InvalidArgument>([&] {
                  batches.project_gradients(g.views({2, 3}));
                }),
                {"'first'", "objective"});
  Tensors<float> p(blocks);
  for (std::size_t i = 0; i < 4; ++i) p[i].assign(p[i].size(), 1.0f);
  const auto sided = ready_projector<float>({.projection = {.mode = ProjectionMode::one_sided}});
  check_message(message<InvalidArgument>([&] {
                  sided.project_steps(g.views({2, 3}), p.const_views());
                }),
                {"metric", "orthogonal"});
  const auto projector = ready_projector<float>();
  check_message(message<InvalidArgument>([&] { projector.project_steps(g.views(), p.const_views({1})); }),
                {"'second'", "metric"});
  p[1][4] = 0;
  check_message(message<InvalidArgument>([&] { projector.project_steps(g.views(), p.const_views()); }),
                {"'second'", "element 4", "positive"});
  p[1][4] = -1;
  check_message(message<InvalidArgument>([&] { projector.project_steps(g.views(), p.const_views()); }),
                {"'second'", "element 4"});
  CHECK(g == before);
}

TEST_CASE("errors: inputs of a layer") {
  Projector<float> gradients(blocks), inputs(blocks, {.reference = {.structured = {.source = MomentSource::inputs}}});
  Projector<float> factor(blocks, {.reference = {.structured = {.source = MomentSource::inputs, .dense_limit = 3}}});
  std::vector<float> x(60, 1.0f);
  const ConstTensorView rows(x.data(), DType::float32, 10, 6), gram(x.data(), DType::float32, 6, 6),
      wrong(x.data(), DType::float32, 12, 5);
  auto collector = gradients.begin_refresh();
  check_message(message<InvalidArgument>([&] { collector.add_inputs("side", rows); }), {"'side'", "inputs"});
  auto source = inputs.begin_refresh();
  check_message(message<InvalidArgument>([&] { source.add_inputs("first", rows); }), {"'first'"});
  check_message(message<InvalidArgument>([&] { source.add_inputs("nowhere", rows); }), {"'nowhere'"});
  check_message(message<InvalidArgument>([&] { source.add_inputs("side", wrong); }), {"12 x 5", "6"});
  check_message(message<InvalidArgument>([&] { source.add_input_gram("side", rows); }), {"10 x 6", "6"});
  auto low_rank = factor.begin_refresh();
  check_message(message<InvalidArgument>([&] { low_rank.add_input_gram("side", gram); }), {"low-rank", "dense_limit"});
  for (const double weight : {0.0, -1.0, std::nan(""), std::numeric_limits<double>::infinity()}) {
    for (auto* c : {&source, &low_rank}) {
      check_message(message<InvalidArgument>([&] { c->add_inputs("side", rows, weight); }), {"'side'", "weight"});
    }
    check_message(message<InvalidArgument>([&] { source.add_input_gram("side", gram, weight); }), {"'side'", "weight"});
  }
  x[17] = std::numeric_limits<float>::infinity();
  check_message(message<NonFiniteError>([&] { source.add_inputs("side", rows); }),
                {"'side'", "element 17", "nothing was added"});
  check_message(message<NonFiniteError>([&] { source.add_input_gram("side", gram); }), {"'side'", "element 17"});
  CHECK_THROWS_AS(inputs.finish_refresh(std::move(source), 0), StateError);
}

TEST_CASE("errors: weights whose difference overflows are left alone") {
  const auto projector = ready_projector<float>();
  Tensors<float> before(blocks), after(blocks);
  for (std::size_t b = 0; b < blocks.size(); ++b) {
    before[b].assign(before[b].size(), 1.0f);
    after[b].assign(after[b].size(), 2.0f);
  }
  for (std::size_t b = 0; b < blocks.size(); ++b) {
    auto from = before, to = after;
    from[b][1] = -3e38f;
    to[b][1] = 3e38f;
    const auto taken = to;
    check_message(message<NonFiniteError>([&] { projector.project_weights(from.const_views(), to.views()); }),
                  {"'" + blocks[b].name + "'", "element 1"});
    CHECK(to == taken);
  }
}

TEST_CASE("errors: that gradients are known to be finite says nothing about weights") {
  const auto projector = ready_projector<float>({.projection = {.known_finite = true}});
  const Tensors<float> before(blocks);
  Tensors<float> after(blocks);
  for (std::size_t b = 0; b < blocks.size(); ++b) {
    auto to = after;
    to[b][1] = std::numeric_limits<float>::quiet_NaN();
    check_message(message<NonFiniteError>([&] { projector.project_weights(before.const_views(), to.views()); }),
                  {"'" + blocks[b].name + "'", "weight after the step element 1", "NaN or infinite"});
  }
}

TEST_CASE("errors: every one is an ogpsa::Error, and that is a std::runtime_error") {
  CHECK_THROWS_AS(throw NonFiniteError("x"), Error);
  CHECK_THROWS_AS(throw InvalidArgument("x"), Error);
  CHECK_THROWS_AS(throw StateError("x"), Error);
  CHECK_THROWS_AS(throw NumericalError("x"), Error);
  CHECK_THROWS_AS(throw FileError("x"), Error);
  CHECK_THROWS_AS(throw Error("x"), std::runtime_error);
}

}  // namespace test_errors
