// Eigen: estimate a subspace from many batch gradients, keep the directions that matter, and try the modes.
#include <cstdio>
#include <ogpsa/ogpsa.hpp>

int main() {
  std::srand(1);
  const Eigen::Index n = 5000;
  // 16 batch gradients that agree in two directions and differ by noise.
  const Eigen::MatrixXd directions = Eigen::MatrixXd::Random(n, 2);
  const Eigen::MatrixXd gradients = directions * Eigen::MatrixXd::Random(2, 16) + 0.01 * Eigen::MatrixXd::Random(n, 16);

  const auto subspace = ogpsa::estimate(gradients, {.max_rank = 8, .energy = 0.99});
  std::printf("kept %lld of 16 directions; leading singular values %.1f %.1f\n",
              static_cast<long long>(subspace.rank()), subspace.singular_values()(0), subspace.singular_values()(1));

  const Eigen::VectorXd gradient = Eigen::VectorXd::Random(n) + directions.col(0);
  for (const auto& [name, options] : {
           std::pair{"orthogonal", ogpsa::ProjectionOptions{}},
           std::pair{"soft (alpha 1/2)", ogpsa::ProjectionOptions{.alpha = 0.5}},
           std::pair{"one-sided", ogpsa::ProjectionOptions{.mode = ogpsa::ProjectionMode::one_sided}},
           std::pair{"inside", ogpsa::ProjectionOptions{.mode = ogpsa::ProjectionMode::inside}},
       }) {
    Eigen::VectorXd g = gradient;
    const auto result = ogpsa::project(g, subspace, options);
    std::printf("%-17s |g| %.2f -> %.2f\n", name, result.norm_before, result.norm_after);
  }
  return subspace.rank() == 2 ? 0 : 1;
}
