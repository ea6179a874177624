#include <doctest/doctest.h>

#include <limits>

#include "exact.hpp"
#include "ogpsa/ogpsa.hpp"
#include "random.hpp"

using namespace ogpsa;
using test::on_backend;
using test::Random;
using test::Real;

namespace test_subspace_update {
namespace {

/// Spans, singular values and contract of `subspace` against the exact SVD of `history`.
template <class T>
void check_against(const test::MatrixL& history, const Subspace<T>& subspace, Index rank, double tolerance) {
  const auto svd = test::exact_svd(history);
  REQUIRE(subspace.rank() == rank);
  const test::MatrixL q = test::exact(subspace.basis());
  CHECK(test::orthonormality_error(q) <= 16 * test::roundoff<T>);
  CHECK(test::sine_of_angle(svd.u.leftCols(rank), q) <= tolerance);
  for (Index i = 0; i < rank; ++i) {
    CHECK(std::abs(static_cast<Real>(subspace.singular_values()(i)) - svd.s(i)) <=
          static_cast<Real>(tolerance) * svd.s(0));
  }
}

/// Counts the elements that products and copies read and write.
struct CountingBackend : EigenBackend {
  using EigenBackend::gram;
  inline static Index elements = 0;
  template <class T>
  Eigen::MatrixXd gram(MatrixView<const T> a, MatrixView<const T> b) const {
    elements += a.rows * (a.data == b.data ? a.cols : a.cols + b.cols);
    return EigenBackend::gram(a, b);
  }
  template <class T>
  Eigen::MatrixXd multiply(MatrixView<const T> a, const Eigen::MatrixXd& x, MatrixView<T> to) const {
    elements += a.rows * (a.cols + to.cols);
    return EigenBackend::multiply(a, x, to);
  }
  template <class T>
  std::vector<Eigen::MatrixXd> grams(std::span<const GramProblem<T>> problems) const {
    std::vector<Eigen::MatrixXd> products;
    for (const auto& [a, b] : problems) products.push_back(gram(a, b));
    return products;
  }
  template <class T>
  std::vector<Eigen::MatrixXd> multiply(std::span<const ProductProblem<T>> problems) const {
    std::vector<Eigen::MatrixXd> squares;
    for (const auto& [a, x, to] : problems) squares.push_back(multiply(a, x, to));
    return squares;
  }
  template <class T>
  void subtract_product(MatrixView<T> a, MatrixView<const T> q, const Eigen::MatrixXd& c) const {
    elements += a.rows * (2 * a.cols + q.cols);
    EigenBackend::subtract_product(a, q, c);
  }
  template <class T>
  void copy(MatrixView<const T> from, MatrixView<T> to) const {
    elements += 2 * from.rows * from.cols;
    EigenBackend::copy(from, to);
  }
};

}  // namespace

TEST_CASE("an update by one column passes over the basis three times") {
  Random random(8);
  const Index n = 5000, k = 12;
  Subspace<float, CountingBackend> subspace(n);
  subspace.replace(on_backend<float>(random.gaussian(n, k)));
  for (int i = 0; i < 3; ++i) {
    auto column = on_backend<float>(random.gaussian(n, 1));
    CountingBackend::elements = 0;
    subspace.update(std::move(column), 0.9, {.max_rank = k});
    CHECK(CountingBackend::elements <= 3 * n * (k + 1) + n * 4);  // reads for the coefficients; reads and writes
    CHECK(test::orthonormality_error(test::exact(subspace.basis())) <= 16 * test::roundoff<float>);
  }
}

TEST_CASE_TEMPLATE("append: the span of all columns, and their singular values", T, float, double) {
  for (int round = 0; round < 30; ++round) {
    Random random(static_cast<std::uint64_t>(round));
    CAPTURE(round);
    const Index n = random.integer(10, 120);
    Subspace<T> subspace(n);
    Eigen::MatrixXd all(n, 0);
    for (int piece = 0; piece < 4; ++piece) {
      Eigen::MatrixXd more = random.gaussian(n, random.integer(0, 3)).template cast<T>().template cast<double>();
      if (piece == 2 && all.cols() > 0 && more.cols() > 0) more.col(0) = all.col(0);
      subspace.append(on_backend<T>(more));
      all.conservativeResize(n, all.cols() + more.cols());
      all.rightCols(more.cols()) = more;
    }
    const test::MatrixL history = test::exact(all);
    const Index rank = test::exact_basis(history, 1e-9L).cols();
    check_against(history, subspace, rank, 200 * test::roundoff<T>);
  }
}

TEST_CASE_TEMPLATE("append: to a full space nothing can be added, and repeated columns add nothing", T, float, double) {
  for (const Index n : {1, 2, 3, 8, 64}) {
    Random random(static_cast<std::uint64_t>(n));
    CAPTURE(n);
    auto subspace = estimate(test::Matrix<T>(random.gaussian<T>(n, n)));
    CHECK(subspace.rank() == n);
    for (int i = 0; i < 20; ++i) {
      subspace.append(on_backend<T>(random.gaussian(n, 2)));
      REQUIRE(subspace.rank() == n);
    }
    CHECK(test::orthonormality_error(test::exact(subspace.basis())) <= 16 * test::roundoff<T>);
  }
  Random random(99);
  const Eigen::MatrixXd h = random.gaussian(500, 3);
  Subspace<T> subspace(500);
  for (int i = 0; i < 20; ++i) subspace.append(on_backend<T>(h));
  CHECK(subspace.rank() == 3);
}

TEST_CASE_TEMPLATE("update with forgetting is the SVD of the weighted history", T, float, double) {
  for (int round = 0; round < 25; ++round) {
    Random random(static_cast<std::uint64_t>(round) + 50);
    const Index n = random.integer(8, 100), rank = random.integer(1, 6);
    const double gamma = round == 0 ? 1.0 : 0.5 + 0.5 * random.uniform();
    CAPTURE(round);
    CAPTURE(gamma);
    // All columns lie in a space of `rank` dimensions, so that a truncation to it loses nothing.
    const Eigen::MatrixXd space = random.orthonormal(n, rank);
    Subspace<T> subspace(n);
    test::MatrixL history(n, 0);
    for (int step = 0; step < 12; ++step) {
      const Eigen::MatrixXd batch =
          (space * random.gaussian(rank, random.integer(1, 3))).template cast<T>().template cast<double>();
      subspace.update(on_backend<T>(batch), gamma, {.max_rank = rank, .relative_tolerance = 1e-5});
      history *= static_cast<Real>(gamma);
      history.conservativeResize(n, history.cols() + batch.cols());
      history.rightCols(batch.cols()) = test::exact(batch);
    }
    const auto s = test::exact_svd(history).s;
    const double condition = static_cast<double>(s(0) / s(std::min<Index>(rank, s.size()) - 1));
    if (condition > 1e3) continue;
    check_against(history, subspace, std::min<Index>(rank, s.size()), 50 * condition * test::roundoff<T>);
  }
}

TEST_CASE_TEMPLATE("update with truncation keeps the dominant directions of a decaying spectrum", T, float, double) {
  Random random(5);
  const Index n = 200, rank = 4;
  const Eigen::MatrixXd directions = random.orthonormal(n, 20);
  Eigen::VectorXd strength(20);
  for (Index i = 0; i < 20; ++i) strength(i) = i < rank ? 10.0 : 0.01;
  Subspace<T> subspace(n);
  test::MatrixL history(n, 0);
  for (int step = 0; step < 100; ++step) {
    const Eigen::MatrixXd batch = directions * strength.asDiagonal() * random.gaussian(20, 1);
    subspace.update(on_backend<T>(batch), 0.95, {.max_rank = rank});
    history *= 0.95L;
    history.conservativeResize(n, step + 1);
    history.col(step) = test::exact(Eigen::MatrixXd(batch.template cast<T>().template cast<double>()));
  }
  const auto svd = test::exact_svd(history);
  REQUIRE(subspace.rank() == rank);
  CHECK(test::sine_of_angle(svd.u.leftCols(rank), test::exact(subspace.basis())) <= 2e-3);
  for (Index i = 0; i < rank; ++i) {
    CHECK(subspace.singular_values()(i) == doctest::Approx(static_cast<double>(svd.s(i))).epsilon(1e-4));
  }
}

TEST_CASE_TEMPLATE("the contract holds after 10,000 updates of every kind", T, float, double) {
  const int updates = test::small_sizes ? 1000 : 10000;
  Random random(17);
  const Index n = 60;
  Subspace<T> subspace(n);
  Eigen::MatrixXd last = random.gaussian(n, 1);
  double worst = 0, worst_objective = 0;
  const std::vector<Index> slots = {0, -1};
  Eigen::VectorXd objective;
  for (int i = 0; i < updates; ++i) {
    Eigen::MatrixXd batch = random.gaussian(n, 2);
    const Index kind = random.integer(0, 9);
    if (kind == 0) batch.setZero();
    if (kind == 1) batch.col(0) = last.col(0);
    if (kind == 2) batch.col(1) = batch.col(0);
    if (kind == 3) batch.col(0) *= 1e10;
    if (kind == 4) batch.col(0) = last.col(0) + 1e-6 * batch.col(0);
    if (kind == 5) batch *= 1e-10;
    last = batch.template cast<T>().template cast<double>();
    subspace.update(on_backend<T>(batch), 0.9, {.max_rank = 8}, {.normalize_columns = true}, slots);
    objective = last.col(0);
    if (i % 10 == 0 || i > updates - 20) {
      const test::MatrixL q = test::exact(subspace.basis());
      worst = std::max(worst, test::orthonormality_error(q));
      if (objective.norm() > 0) {
        const test::VectorL unit = (objective / objective.norm()).template cast<Real>();
        const test::VectorL error = q.transpose() * unit - subspace.objectives().col(0).template cast<Real>();
        worst_objective = std::max(worst_objective, static_cast<double>(error.norm()));
      }
    }
  }
  CHECK(worst <= 16 * test::roundoff<T>);
  CHECK(worst_objective <= 32 * test::roundoff<T>);
  CHECK(subspace.rank() == 8);
  CHECK(subspace.singular_values().allFinite());
}

TEST_CASE_TEMPLATE("the coordinates of an objective stay right while the basis turns under it", T, float, double) {
  Random random(18);
  const Index n = 40;
  const Eigen::MatrixXd h = random.gaussian(n, 2).template cast<T>().template cast<double>();
  auto subspace = estimate(test::Matrix<T>(h.template cast<T>()));
  const auto check_coordinates = [&](double tolerance) {
    const test::MatrixL q = test::exact(subspace.basis());
    const test::MatrixL expected = q.transpose() * test::exact(h);
    REQUIRE(subspace.objectives().cols() == 2);
    for (Index j = 0; j < 2; ++j) {
      const test::VectorL found = subspace.objectives().col(j).template cast<Real>();
      CHECK((found - expected.col(j)).norm() <= static_cast<Real>(tolerance) * test::exact(h).col(j).norm());
      CHECK(subspace.objective_norms()(j) == doctest::Approx(h.col(j).norm()).epsilon(1e-6));
    }
  };
  check_coordinates(16 * test::roundoff<T>);
  subspace.append(on_backend<T>(random.gaussian(n, 3)));
  check_coordinates(32 * test::roundoff<T>);
  subspace.merge(estimate(test::Matrix<T>(random.gaussian<T>(n, 4))));
  check_coordinates(32 * test::roundoff<T>);
  for (int i = 0; i < 300; ++i) subspace.update(on_backend<T>(random.gaussian(n, 1)), 0.99);
  check_coordinates(300 * test::roundoff<T>);
  const std::vector<Index> none = {-1};
  subspace.update(on_backend<T>(random.gaussian(n, 1)), 0.9, {}, {}, none);
  check_coordinates(310 * test::roundoff<T>);
}

TEST_CASE_TEMPLATE("truncate keeps the leading directions, and the coordinates of objectives in them", T, float,
                   double) {
  Random random(19);
  Eigen::VectorXd s(5);
  s << 5, 4, 3, 2, 1;
  const Eigen::MatrixXd h = random.with_singular_values(50, 5, s);
  const auto whole = estimate(test::Matrix<T>(h.template cast<T>()));
  auto subspace = whole;
  subspace.truncate({.max_rank = 3});
  REQUIRE(subspace.rank() == 3);
  CHECK(test::exact(subspace.basis()) == test::exact(whole.basis()).leftCols(3));
  CHECK(subspace.singular_values() == whole.singular_values().head(3));
  CHECK(subspace.objectives() == whole.objectives().topRows(3));
  CHECK(subspace.objective_norms() == whole.objective_norms());
  subspace.truncate({.energy = 25.0 / 50 - 1e-6});
  CHECK(subspace.rank() == 1);
  subspace.truncate({});
  CHECK(subspace.rank() == 1);
  Subspace<T> zero(50);
  zero.truncate({.max_rank = 2});
  CHECK(zero.rank() == 0);
}

TEST_CASE_TEMPLATE("merge: the subspace of both sets, whatever the ranks", T, float, double) {
  Random random(20);
  const Index n = 80;
  for (const Index ka : {0, 1, 5}) {
    for (const Index kb : {0, 2, 6}) {
      CAPTURE(ka);
      CAPTURE(kb);
      const test::Matrix<T> a = random.gaussian<T>(n, ka), b = random.gaussian<T>(n, kb);
      auto subspace = estimate(a);
      subspace.merge(estimate(b));
      test::MatrixL both(n, ka + kb);
      both << test::exact(a), test::exact(b);
      check_against(both, subspace, ka + kb, 100 * test::roundoff<T>);
    }
  }
  // With itself: the same space, singular values larger by sqrt(2).
  auto subspace = estimate(test::Matrix<T>(random.gaussian<T>(n, 3)));
  const auto before = subspace;
  subspace.merge(subspace);
  REQUIRE(subspace.rank() == 3);
  CHECK(test::sine_of_angle(test::exact(before.basis()), test::exact(subspace.basis())) <= 32 * test::roundoff<T>);
  CHECK((subspace.singular_values() - std::sqrt(2.0) * before.singular_values()).norm() <= 1e-5);
}

TEST_CASE_TEMPLATE("replace forgets everything", T, float, double) {
  Random random(23);
  auto subspace = estimate(test::Matrix<T>(random.gaussian<T>(70, 6)));
  const test::Matrix<T> h = random.gaussian<T>(70, 2);
  subspace.replace(on_backend<T>(h.template cast<double>()));
  const auto fresh = estimate(h);
  CHECK(test::exact(subspace.basis()) == test::exact(fresh.basis()));
  CHECK(subspace.objectives() == fresh.objectives());
  CHECK(subspace.singular_values() == fresh.singular_values());
  subspace.replace(EigenBackend::Matrix<T>(70, 0));
  CHECK(subspace.rank() == 0);
  CHECK(subspace.objectives().cols() == 0);
}

TEST_CASE_TEMPLATE("updates by huge, tiny and zero columns", T, float, double) {
  const double extreme = std::is_same_v<T, float> ? 1e30 : 1e200;
  Random random(24);
  for (const double scale : {extreme, 1 / extreme, std::is_same_v<T, float> ? 1e-40 : 1e-310, 0.0}) {
    CAPTURE(scale);
    auto subspace = estimate(test::Matrix<T>(random.gaussian<T>(30, 2)));
    Eigen::MatrixXd column = random.gaussian(30, 1);
    for (Index i = 0; i < 30; ++i) column(i) *= scale;
    subspace.append(on_backend<T>(column));
    CHECK(subspace.rank() == (scale == 0 ? 2 : 3));
    CHECK(test::orthonormality_error(test::exact(subspace.basis())) <= 16 * test::roundoff<T>);
    CHECK(subspace.singular_values().allFinite());
    subspace.update(on_backend<T>(column), 0.5, {.max_rank = 3}, {.normalize_columns = true});
    CHECK(subspace.singular_values().allFinite());
    CHECK(test::orthonormality_error(test::exact(subspace.basis())) <= 16 * test::roundoff<T>);
  }
}

TEST_CASE_TEMPLATE("from_parts takes what a subspace gave, and nothing that is not one", T, float, double) {
  Random random(25);
  const auto s = estimate(test::Matrix<T>(random.gaussian<T>(30, 3)));
  const auto basis = [&] { return on_backend<T>(test::exact(s.basis()).template cast<double>()); };
  const auto copy = Subspace<T>::from_parts(basis(), s.singular_values(), s.objectives(), s.objective_norms());
  CHECK(test::exact(copy.basis()) == test::exact(s.basis()));
  CHECK(copy.objectives() == s.objectives());
  using S = Subspace<T>;
  CHECK_THROWS_AS(S::from_parts(basis(), Eigen::VectorXd::Ones(2)), InvalidArgument);
  CHECK_THROWS_AS(
      S::from_parts(basis(), Eigen::VectorXd::Ones(3), Eigen::MatrixXd::Ones(2, 1), Eigen::VectorXd::Ones(1)),
      InvalidArgument);
  CHECK_THROWS_AS(
      S::from_parts(basis(), Eigen::VectorXd::Ones(3), Eigen::MatrixXd::Ones(3, 2), Eigen::VectorXd::Ones(1)),
      InvalidArgument);
  CHECK_THROWS_AS(S::from_parts(on_backend<T>(random.gaussian(30, 3)), Eigen::VectorXd::Ones(3)), InvalidArgument);
  test::Matrix<T> broken = test::from_backend(s.basis());
  broken(7) = std::numeric_limits<T>::quiet_NaN();
  CHECK_THROWS_AS(S::from_parts(on_backend<T>(broken), Eigen::VectorXd::Ones(3)), InvalidArgument);
  Eigen::VectorXd values = s.singular_values();
  values(1) = std::nan("");
  CHECK_THROWS_AS(S::from_parts(basis(), values), InvalidArgument);
  values(1) = -1;
  CHECK_THROWS_AS(S::from_parts(basis(), values), InvalidArgument);
  Eigen::MatrixXd objectives = s.objectives();
  objectives(0, 0) = std::numeric_limits<double>::infinity();
  CHECK_THROWS_AS(S::from_parts(basis(), s.singular_values(), objectives, s.objective_norms()), InvalidArgument);
}

namespace {

/// Subspaces in every state, and what may come to them: few and many columns, dependent, zero, extreme and none.
template <class T>
struct Changes {
  std::vector<Subspace<T>> subspaces;
  std::vector<typename Subspace<T>::Change> changes;

  explicit Changes(std::uint64_t seed) {
    Random random(seed);
    for (int i = 0; i < 24; ++i) {
      const Index n = random.integer(20, 5000), k = random.integer(0, 3) * random.integer(0, 6);
      const Index p = random.integer(0, 3);
      subspaces.emplace_back(n);
      if (k > 0) subspaces.back().replace(on_backend<T>(random.gaussian(n, k)));
      Eigen::MatrixXd columns = random.gaussian(n, p);
      if (i % 4 == 1 && p > 1) columns.col(1) = columns.col(0);
      if (i % 4 == 2 && p > 0) columns.col(0) *= i % 8 == 2 ? 0.0 : 1e-30;
      const bool anew = i % 3 == 0;
      std::vector<Index> objectives;
      for (Index j = 0; j < p && i % 2 == 1; ++j) objectives.push_back(j);
      changes.push_back({nullptr,
                         on_backend<T>(columns),
                         anew,
                         anew ? 1.0 : 0.9,
                         RankOptions{.max_rank = 9},
                         {.normalize_columns = i % 5 == 0},
                         objectives});
    }
    for (std::size_t i = 0; i < changes.size(); ++i) changes[i].subspace = &subspaces[i];
  }
};

}  // namespace

TEST_CASE_TEMPLATE("apply: changes of many subspaces at once are those of each alone, to the last bit", T, float,
                   double) {
  for (std::uint64_t seed = 0; seed < 4; ++seed) {
    CAPTURE(seed);
    Changes<T> together(seed), alone(seed);
    Subspace<T>::apply(together.changes);
    for (std::size_t i = 0; i < alone.changes.size(); ++i) {
      CAPTURE(i);
      auto& change = alone.changes[i];
      if (change.anew) {
        change.subspace->replace(std::move(change.columns), *change.rank, change.options);
      } else {
        change.subspace->update(std::move(change.columns), change.forgetting, *change.rank, change.options,
                                change.objectives);
      }
      const auto &a = together.subspaces[i], &b = alone.subspaces[i];
      REQUIRE(a.rank() == b.rank());
      CHECK(test::orthonormality_error(test::exact(a.basis())) <= 16 * test::roundoff<T>);
      CHECK(test::exact(a.basis()) == test::exact(b.basis()));
      CHECK(a.singular_values() == b.singular_values());
      CHECK(a.objectives() == b.objectives());
      CHECK(a.objective_norms() == b.objective_norms());
    }
  }
  Subspace<T>::apply({});
}

TEST_CASE_TEMPLATE("apply: where the columns for one subspace are bad, none is changed", T, float, double) {
  for (int kind = 0; kind < 3; ++kind) {
    CAPTURE(kind);
    Changes<T> batch(1), before(1);
    auto& last = batch.changes.back();
    const Index n = last.subspace->dimension();
    Eigen::MatrixXd columns = Eigen::MatrixXd::Ones(kind == 0 ? n + 1 : n, 1);
    if (kind == 1) columns(n / 2, 0) = std::numeric_limits<double>::quiet_NaN();
    last.columns = on_backend<T>(columns);
    last.objectives = {};
    if (kind == 2) last.rank->energy = 7;
    CHECK_THROWS_AS(Subspace<T>::apply(batch.changes), Error);
    for (std::size_t i = 0; i < batch.subspaces.size(); ++i) {
      REQUIRE(batch.subspaces[i].rank() == before.subspaces[i].rank());
      CHECK(test::exact(batch.subspaces[i].basis()) == test::exact(before.subspaces[i].basis()));
      CHECK(batch.subspaces[i].singular_values() == before.subspaces[i].singular_values());
    }
  }
}

}  // namespace test_subspace_update
