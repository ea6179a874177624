// A trainer of one's own, with an optimizer of one's own: a linear model that is taught task B without losing task A.
// The projector takes the step that Adam wants to take, so nothing that Adam does brings the forbidden component back.
#include <cmath>
#include <cstdio>
#include <ogpsa/ogpsa.hpp>

using Matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

struct Task {
  Matrix x, y;  // samples x inputs, samples x outputs
  float loss(const Matrix& w) const { return (x * w.transpose() - y).squaredNorm() / static_cast<float>(x.rows()); }
  Matrix gradient(const Matrix& w) const {
    return 2.0f / static_cast<float>(x.rows()) * (x * w.transpose() - y).transpose() * x;
  }
};

struct Adam {
  float rate = 0.01f;
  Matrix m, v;
  int t = 0;
  Matrix step(const Matrix& g) {  // what is to be added to the weights
    if (t++ == 0) m = v = Matrix::Zero(g.rows(), g.cols());
    m = 0.9f * m + 0.1f * g;
    v = (0.999f * v.array() + 0.001f * g.array().square()).matrix();
    const float a = 1 - std::pow(0.9f, static_cast<float>(t)), b = 1 - std::pow(0.999f, static_cast<float>(t));
    return (-rate * (m / a).array() / ((v / b).array().sqrt() + 1e-8f)).matrix();
  }
};

/// Trains on B from `w`, protecting the layer's answers to the inputs of A where `protect` is set. Returns loss A, B.
std::pair<float, float> train(Matrix w, const Task& a, const Task& b, bool protect) {
  ogpsa::Projector<float> projector(
      {{.name = "w", .rows = w.rows(), .cols = w.cols(), .form = ogpsa::Form::input}},
      {.reference = {.structured = {.rank = {.energy = 0.999}, .source = ogpsa::MomentSource::inputs}}});
  auto reference = projector.begin_refresh();
  reference.add_inputs("w", ogpsa::view(a.x));
  projector.finish_refresh(std::move(reference), 0);

  Adam adam;
  for (int i = 0; i < 500; ++i) {
    Matrix step = adam.step(b.gradient(w));
    if (protect) projector.project_steps({{ogpsa::view(step)}}, i);
    w += step;
  }
  return {a.loss(w), b.loss(w)};
}

int main() {
  std::srand(3);
  const Matrix truth_a = Matrix::Random(4, 20), truth_b = Matrix::Random(4, 20);
  const Matrix inputs_a = Matrix::Random(200, 8) * Matrix::Random(8, 20);  // task A uses 8 of 20 input directions
  const Matrix inputs_b = Matrix::Random(200, 20);
  const Task a{inputs_a, inputs_a * truth_a.transpose()}, b{inputs_b, inputs_b * truth_b.transpose()};

  const Matrix w = truth_a;  // task A is mastered
  const auto [plain_a, plain_b] = train(w, a, b, false);
  const auto [kept_a, kept_b] = train(w, a, b, true);
  std::printf("              loss on A   loss on B\n");
  std::printf("before        %9.2e   %9.2e\n", a.loss(w), b.loss(w));
  std::printf("plain Adam    %9.2e   %9.2e\n", plain_a, plain_b);
  std::printf("protected     %9.2e   %9.2e\n", kept_a, kept_b);
  return kept_a < 1e-6f && plain_a > 0.1f && kept_b < b.loss(w) ? 0 : 1;
}
