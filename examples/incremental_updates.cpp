// A stream of reference gradients: the subspace follows it by Brand's update, with forgetting.
#include <cmath>
#include <cstdio>
#include <ogpsa/ogpsa.hpp>

int main() {
  const Eigen::Index n = 2000;
  const double pi = std::acos(-1.0);
  ogpsa::Subspace<double> subspace(n);
  double angle = 0;
  for (int step = 0; step <= 400; ++step) {
    // The direction that matters turns by a quarter of a circle over the run.
    const double phase = 0.5 * pi * step / 400;
    ogpsa::HostMatrix<double> gradient(n, 1);
    Eigen::Map<Eigen::VectorXd> h(gradient.data(), n);
    h = 0.02 * Eigen::VectorXd::Random(n);
    h(0) += std::cos(phase);
    h(1) += std::sin(phase);

    subspace.update(std::move(gradient), 0.8, {.max_rank = 2});

    Eigen::VectorXd current = Eigen::VectorXd::Zero(n);
    current(0) = std::cos(phase);
    current(1) = std::sin(phase);
    angle = ogpsa::project(current, subspace).angle() * 180 / pi;
    if (step % 100 == 0) {
      std::printf("step %3d: rank %lld, %4.1f degrees from the direction of now\n", step,
                  static_cast<long long>(subspace.rank()), angle);
    }
  }
  // Other ways to change it: append (nothing is forgotten), merge with another subspace, truncate, replace.
  auto wider = subspace;
  ogpsa::HostMatrix<double> another(n, 1);
  another.data()[5] = 1;
  wider.append(std::move(another));
  wider.merge(subspace);
  std::printf("after append and merge: rank %lld\n", static_cast<long long>(wider.rank()));
  wider.truncate({.max_rank = 1});
  return angle < 45 && wider.rank() == 1 ? 0 : 1;
}
