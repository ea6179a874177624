// Plain memory: two reference gradients in one array, one training gradient in another; no matrix library in sight.
#include <cmath>
#include <cstdio>
#include <ogpsa/ogpsa.hpp>
#include <vector>

int main() {
  const std::size_t n = 1000;
  std::vector<float> reference(2 * n), gradient(n);  // column-major: one reference gradient after the other
  for (std::size_t i = 0; i < n; ++i) {
    const float x = static_cast<float>(i) / static_cast<float>(n);
    reference[i] = 1.0f;
    reference[n + i] = x;
    gradient[i] = x * x;
  }

  // n x 2  ->  an orthonormal basis of n x 2
  const auto subspace = ogpsa::estimate(ogpsa::MatrixView<const float>(reference.data(), n, 2));

  // g <- g - Q Q^T g, in place. Spans of double, bfloat16 and float16 work too.
  const auto result = ogpsa::project(std::span<float>(gradient), subspace);

  double dot[2] = {0, 0};
  for (std::size_t i = 0; i < n; ++i) {
    dot[0] += gradient[i] * reference[i];
    dot[1] += gradient[i] * reference[n + i];
  }
  std::printf("rank %lld, |g| %.3f -> %.3f, removed %.1f %% of its energy, <g, h> = %.1e and %.1e\n",
              static_cast<long long>(subspace.rank()), result.norm_before, result.norm_after,
              100 * result.fraction_removed(), dot[0], dot[1]);

  // What is left of x^2 without its best straight line is x^2 - x + 1/6, of squared norm n / 180.
  const double expected = std::sqrt(static_cast<double>(n) / 180);
  return std::abs(result.norm_after / expected - 1) < 1e-3 && std::abs(dot[0]) + std::abs(dot[1]) < 1e-3 ? 0 : 1;
}
