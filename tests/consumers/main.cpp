// What every consumer builds: g = (1, 1, 1, 0) without its component along h = (3, 4, 0, 0) is (4, -3, 25, 0) / 25.
#include <cmath>
#include <ogpsa/ogpsa.hpp>

int main() {
  Eigen::Matrix<double, 4, 1> h, g, expected;
  h << 3, 4, 0, 0;
  g << 1, 1, 1, 0;
  expected << 4.0 / 25, -3.0 / 25, 1, 0;
  ogpsa::project(g, ogpsa::estimate(h));
  return (g - expected).norm() < 1e-15 ? 0 : 1;
}
