#include <doctest/doctest.h>

#include <bit>
#include <cstring>

#include "exact.hpp"
#include "ogpsa/ogpsa.hpp"
#include "tensors.hpp"

using namespace ogpsa;
using test::MatrixL;
using test::Random;
using test::Real;
using test::Tensors;
using test::VectorL;

namespace test_stored_subspace {
namespace {

constexpr BasisStorage kRounded[] = {BasisStorage::bfloat16, BasisStorage::int8};
constexpr double u = test::roundoff<float>;

/// What the elements stand for, from their bytes alone.
template <class S>
MatrixL exact_basis_of(const S& stored) {
  const auto bytes = test::from_backend<std::uint8_t>(stored.elements().view());
  const auto scales = test::from_backend<float>(stored.scales().view());
  MatrixL result(stored.dimension(), stored.rank());
  for (Index j = 0; j < result.cols(); ++j) {
    for (Index i = 0; i < result.rows(); ++i) {
      if (stored.storage() == BasisStorage::bfloat16) {
        const auto bits = static_cast<std::uint32_t>(bytes(2 * i, j) | bytes(2 * i + 1, j) << 8) << 16;
        result(i, j) = static_cast<Real>(std::bit_cast<float>(bits));
      } else {
        result(i, j) = static_cast<Real>(static_cast<std::int8_t>(bytes(i, j))) * static_cast<Real>(scales(i / 64, j));
      }
    }
  }
  return result;
}

/// Normal, or with few large elements among many small ones, or such that one block of 64 has nothing.
Eigen::MatrixXf columns(Index rows, Index cols, int kind, Random& random) {
  Eigen::MatrixXf h = random.gaussian<float>(rows, cols);
  if (kind == 1) h = h.array().pow(9);
  if (kind == 2 && rows > 128) h.middleRows(64, 64).setZero();
  return h;
}

auto subspace_of(const Eigen::MatrixXf& h) {
  Subspace<float> subspace(h.rows());
  subspace.replace(test::on_backend<float>(h));
  return subspace;
}

/// Streams and periods, groups and blocks of all sizes: shorter than a block of scales, no multiple of one, and longer
/// than a task.
const std::vector<BlockSpec> blocks = {{.name = "a", .rows = 5, .cols = 9, .group = "g"},
                                       {.name = "b", .cols = 70001, .group = "g"},
                                       {.name = "c", .rows = 64, .cols = 33, .group = "g"},
                                       {.name = "d", .rows = 40, .cols = 70},
                                       {.name = "side", .rows = 12, .cols = 20, .form = Form::input}};

/// The orthonormal basis that a projector's unit projects by, in long double.
MatrixL span_of(const Projector<float>& projector, const std::string& block) {
  return test::exact_basis(exact_basis_of(projector.stored_subspace(block)), 1e-3L);
}

ProjectorOptions options(BasisStorage storage, Granularity granularity = Granularity::block) {
  return {.granularity = granularity, .basis_storage = storage};
}

std::vector<Tensors<float>> objectives(Index count, Random& random) {
  std::vector<Tensors<float>> result;
  for (Index r = 0; r < count; ++r) result.emplace_back(blocks, random);
  return result;
}

}  // namespace

TEST_CASE("stored: elements are the nearest, what is read is what is kept, and B W is orthonormal") {
  for (const auto storage : kRounded) {
    for (const Index n : {3, 64, 65, 1000, 70000}) {
      for (int kind = 0; kind < 3; ++kind) {
        CAPTURE(n);
        CAPTURE(kind);
        Random random(static_cast<std::uint64_t>(n) + 1);
        const auto subspace = subspace_of(columns(n, std::min<Index>(n, 5), kind, random));
        const StoredSubspace stored(subspace, storage);
        const MatrixL q = test::exact(subspace.basis()), b = exact_basis_of(stored);
        auto decoded = subspace.backend().template matrix<float>(n, stored.rank());
        subspace.backend().decode(stored.basis(), decoded.view());
        CHECK(test::exact(MatrixView<const float>(decoded.view())) == b);
        Real worst = 0;  // against half a unit in the last place, or half a scale
        for (Index j = 0; j < q.cols(); ++j) {
          for (Index first = 0; first < n; first += 64) {
            const Index count = std::min<Index>(64, n - first);
            const Real largest = q.col(j).segment(first, count).cwiseAbs().maxCoeff();
            for (Index i = first; i < first + count; ++i) {
              const bool half = storage == BasisStorage::bfloat16;
              const Real allowed = half ? 0x1p-8L * std::abs(q(i, j)) : largest / 254;
              worst = std::max(worst, std::abs(b(i, j) - q(i, j)) / std::max(allowed, 1e-30L));
            }
          }
        }
        CHECK(worst <= 1.0002L);
        CHECK(worst >= (n > 64 ? 0.9L : 0.0L));  // not finer than it says, either
        CHECK(test::orthonormality_error(b * test::exact(stored.normalizer())) <= u);
        const Index bytes = storage == BasisStorage::bfloat16 ? 2 * n : n + (n + 63) / 64 * 4;
        CHECK(stored.bytes() == bytes * stored.rank());
      }
    }
  }
}

TEST_CASE("stored: the angle between the stored and the true subspace against long double") {
  for (const auto storage : kRounded) {
    for (const Index k : {1, 2, 8}) {
      for (int kind = 0; kind < 2; ++kind) {
        CAPTURE(k);
        CAPTURE(kind);
        Random random(static_cast<std::uint64_t>(k));
        const auto subspace = subspace_of(columns(5000, k, kind, random));
        const StoredSubspace stored(subspace, storage);
        const double expected = std::asin(test::sine_of_angle(test::exact_basis(test::exact(subspace.basis()), 1e-3L),
                                                              test::exact_basis(exact_basis_of(stored), 1e-3L)));
        CHECK(stored.rounding_angle() == doctest::Approx(expected).epsilon(1e-5));
        CHECK(largest_angle(subspace, stored) == doctest::Approx(expected).epsilon(1e-5));
        CHECK(largest_angle(stored, subspace) == doctest::Approx(expected).epsilon(1e-5));
        CHECK(expected > 1e-4);
        CHECK(expected < (storage == BasisStorage::bfloat16 ? 0.004 : 0.032) * std::sqrt(static_cast<double>(k)));
        CHECK(largest_angle(stored, stored) < 1e-7);
      }
    }
  }
  const auto few = subspace_of(Eigen::MatrixXf::Identity(9, 1)), many = subspace_of(Eigen::MatrixXf::Identity(9, 3));
  CHECK(largest_angle(few, many) < 1e-7);  // of a vector of the first with the second
  CHECK(largest_angle(many, few) == doctest::Approx(std::acos(0.0)));
}

TEST_CASE("stored: restored, it is the same subspace, orthonormal in float") {
  for (const auto storage : kRounded) {
    Random random(1);
    const auto subspace = subspace_of(columns(40000, 6, 1, random));
    const StoredSubspace stored(subspace, storage);
    const auto back = stored.restore();
    const MatrixL q = test::exact(back.basis()), b = test::exact_basis(exact_basis_of(stored), 1e-3L);
    CHECK(test::orthonormality_error(q) <= 16 * u);
    CHECK(test::sine_of_angle(q, b) <= 16 * u);
    CHECK(back.singular_values() == subspace.singular_values());
    CHECK((back.objectives() - stored.objectives()).cwiseAbs().maxCoeff() < 1e-5 * stored.objectives().norm());
    // What is stored again has not moved any further than one rounding.
    CHECK(StoredSubspace(back, storage).rounding_angle() < 2 * stored.rounding_angle());
  }
}

TEST_CASE_TEMPLATE("stored: every mode against long double, on the stored span", S, float, bfloat16) {
  using Mode = ProjectionMode;
  const Index n = 70001;
  for (const auto storage : kRounded) {
    for (const auto mode : {Mode::orthogonal, Mode::inside, Mode::conflicting, Mode::one_sided}) {
      CAPTURE(static_cast<int>(mode));
      Random random(static_cast<std::uint64_t>(mode));
      Eigen::MatrixXf h = columns(n, mode == Mode::conflicting ? 1 : 3, 0, random);
      if (h.cols() > 1) h.col(1) += h.col(0);
      const auto subspace = subspace_of(h);
      const StoredSubspace stored(subspace, storage);
      const MatrixL b = test::exact_basis(exact_basis_of(stored), 1e-3L);
      // The objectives, as far as they lie in the stored span.
      const MatrixL inside = b * (b.transpose() * (test::exact(subspace.basis()) * test::exact(subspace.objectives())));
      for (int sign : {-1, 1}) {
        std::vector<S> gradient(static_cast<std::size_t>(n));
        VectorL g(n);
        for (Index i = 0; i < n; ++i) {
          auto& x = gradient[static_cast<std::size_t>(i)];
          x = static_cast<S>(static_cast<float>(random.normal()) + static_cast<float>(sign) * 0.1F * h(i, 0));
          g(i) = static_cast<Real>(static_cast<float>(x));
        }
        const double alpha = mode == Mode::orthogonal && sign > 0 ? 0.5 : 1;
        const auto result = project(std::span<S>(gradient), stored, {.mode = mode, .alpha = alpha, .scale = 0.75});
        VectorL expected = g - alpha * (b * (b.transpose() * g));
        if (mode == Mode::inside) expected = g - expected;
        if (mode == Mode::conflicting && sign > 0) expected = 0.75L * g;
        if (mode == Mode::one_sided) expected = test::nearest_in_cone(inside, g);
        VectorL got(n);
        for (Index i = 0; i < n; ++i)
          got(i) = static_cast<Real>(static_cast<float>(gradient[static_cast<std::size_t>(i)]));
        const auto norm = [](const VectorL& v) { return static_cast<double>(v.norm()); };
        CHECK(norm(b.transpose() * (got - expected)) <= (sizeof(S) == 2 ? 0x1p-8 : 32 * u) * norm(g));
        CHECK(norm(got - expected) <= (sizeof(S) == 2 ? 0x1p-8 : 8 * u) * norm(g));
        CHECK(result.norm_before == doctest::Approx(norm(g)).epsilon(1e-6));
        CHECK(result.norm_inside == doctest::Approx(norm(b.transpose() * g)).epsilon(1e-5));
        for (Index r = 0; r < h.cols(); ++r) {
          const double along = static_cast<double>(inside.col(r).dot(g)) / subspace.objective_norms()(r);
          CHECK(result.objective_coefficients(r) == doctest::Approx(along).epsilon(1e-4));
        }
      }
    }
  }
}

TEST_CASE("stored: a projector by block, group and in all, also where blocks are left out") {
  for (const auto storage : kRounded) {
    for (const auto granularity : {Granularity::block, Granularity::group, Granularity::global}) {
      for (const std::vector<std::size_t>& left_out : {std::vector<std::size_t>{}, {0}, {1, 4}}) {
        CAPTURE(static_cast<int>(granularity));
        CAPTURE(left_out.size());
        Random random(7);
        Projector<float> projector(blocks, options(storage, granularity));
        test::refresh(projector, objectives(2, random));
        Tensors<float> g(blocks, random);
        const auto before = g;
        const auto report = projector.project_gradients(g.views(left_out));
        for (const auto& unit : projector.groups()) {
          if (blocks[unit[0]].form != Form::flat) continue;
          const MatrixL basis = exact_basis_of(projector.stored_subspace(blocks[unit[0]].name));
          std::vector<std::size_t> given;
          MatrixL rows(0, basis.cols());
          for (Index at = 0; const std::size_t b : unit) {
            const auto part = basis.middleRows(at, blocks[b].size());
            at += blocks[b].size();
            if (std::count(left_out.begin(), left_out.end(), b)) continue;
            given.push_back(b);
            rows.conservativeResize(rows.rows() + part.rows(), Eigen::NoChange);
            rows.bottomRows(part.rows()) = part;
          }
          if (given.empty()) continue;
          const VectorL d = before.flat(given);
          CHECK(static_cast<double>((g.flat(given) - test::without(rows, d)).norm()) <=
                32 * u * static_cast<double>(d.norm()));
        }
        for (const std::size_t b : left_out) CHECK(g[b] == before[b]);
        for (const auto& entry : report.entries) CHECK(entry.rank > 0);
      }
    }
  }
}

TEST_CASE("stored: on the step, in a metric, and on weights") {
  for (const auto storage : kRounded) {
    Random random(3);
    Projector<float> projector(blocks, options(storage, Granularity::group));
    test::refresh(projector, objectives(3, random));
    const MatrixL b = span_of(projector, "c");  // of blocks 0 to 2
    Tensors<float> d(blocks, random), metric(blocks, random);
    for (std::size_t i = 0; i < blocks.size(); ++i) {
      for (float& x : metric[i]) x = 0.1F + std::abs(x);
    }
    const auto before = d;
    projector.project_steps(d.views(), metric.const_views());
    const std::vector<std::size_t> group{0, 1, 2};
    const VectorL step = before.flat(group), p = metric.flat(group).cwiseInverse();
    const MatrixL scaled = p.asDiagonal() * b;
    const MatrixL gram = b.transpose() * scaled;
    const VectorL expected = step - scaled * gram.ldlt().solve(b.transpose() * step);
    CHECK(static_cast<double>((b.transpose() * d.flat(group)).norm()) <= 32 * u * static_cast<double>(step.norm()));
    CHECK(static_cast<double>((d.flat(group) - expected).norm()) <= 1e-5 * static_cast<double>(step.norm()));

    const Tensors<float> snapshot(blocks);
    auto weights = before;
    projector.project_weights(snapshot.const_views(), weights.views());
    CHECK(static_cast<double>((b.transpose() * weights.flat(group)).norm()) <=
          32 * u * static_cast<double>(step.norm()));
  }
}

TEST_CASE("stored: after 100 updates of a stream the basis is as near to that of a full one as a few roundings") {
  const std::vector<BlockSpec> one = {{.name = "w", .cols = 2000}};
  for (const auto storage : kRounded) {
    const ProjectorOptions streaming{.policy = RefreshPolicy::streaming, .reference = {.rank = {.max_rank = 3}}};
    auto rounded = streaming;
    rounded.basis_storage = storage;
    Projector<float> full(one, streaming), stored(one, rounded);
    Random random(5);
    const auto signal = random.gaussian<float>(2000, 3);
    double worst = 0;
    for (Index step = 0; step < 100; ++step) {
      std::vector<Tensors<float>> gradients;
      for (Index r = 0; r < 3; ++r) {
        gradients.emplace_back(one, random, 0.05);
        for (Index i = 0; i < 2000; ++i) gradients.back()[0][static_cast<std::size_t>(i)] += signal(i, r);
      }
      test::refresh(full, gradients, step);
      test::refresh(stored, gradients, step);
      const double angle = largest_angle(full.subspace("w"), stored.stored_subspace("w"));
      worst = std::max(worst, angle / stored.stored_subspace("w").rounding_angle());
      CHECK(test::orthonormality_error(exact_basis_of(stored.stored_subspace("w")) *
                                       test::exact(stored.stored_subspace("w").normalizer())) <= u);
    }
    CAPTURE(worst);
    CHECK(worst < 2.5);  // 1: this refresh's rounding alone; what was before is forgotten by and by
    CHECK(stored.stored_subspace("w").singular_values().isApprox(full.subspace("w").singular_values(), 1e-3));
  }
}

TEST_CASE("stored: what is not finite is reported as ever, and nothing is changed") {
  Random random(1);
  Projector<float> projector(blocks, options(BasisStorage::int8));
  test::refresh(projector, objectives(1, random));
  Tensors<float> g(blocks, random);
  g[1][60000] = std::numeric_limits<float>::quiet_NaN();
  const auto before = g;
  CHECK_THROWS_WITH_AS(projector.project_gradients(g.views()),
                       doctest::Contains("block 'b': gradient element 60000 is NaN"), NonFiniteError);
  CHECK(std::memcmp(g[0].data(), before[0].data(), g[0].size() * sizeof(float)) == 0);
}

TEST_CASE("stored: ranks of zero, and what cannot be") {
  for (const auto storage : kRounded) {
    const StoredSubspace none(Subspace<float>(100), storage);
    std::vector<float> g(100, 1.0F);
    CHECK(project(std::span<float>(g), none).norm_after == doctest::Approx(10));
    CHECK(none.restore().rank() == 0);
    CHECK(none.rounding_angle() == 0);
    Projector<float> projector(blocks, options(storage));
    CHECK_THROWS_AS(projector.subspace("a"), InvalidArgument);
    CHECK(projector.stored_subspace("a").rank() == 0);
    CHECK_THROWS_WITH_AS(Projector<double>(blocks, options(storage)), doctest::Contains("float arithmetic"),
                         InvalidArgument);
    CHECK_THROWS_AS(StoredSubspace(Subspace<double>(100), storage), InvalidArgument);
    g.resize(99);
    CHECK_THROWS_AS(project(std::span<float>(g), none), InvalidArgument);
  }
  CHECK_THROWS_AS(StoredSubspace(Subspace<float>(100), BasisStorage::full), InvalidArgument);
  CHECK_THROWS_AS(Projector<float>(blocks, options(BasisStorage::full)).stored_subspace("a"), InvalidArgument);
  CHECK_THROWS_AS(largest_angle(Subspace<float>(3), Subspace<float>(4)), InvalidArgument);
}

}  // namespace test_stored_subspace
