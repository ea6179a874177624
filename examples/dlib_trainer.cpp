// A trainer that is not ours: dlib's dnn_trainer. Its solvers return the step of each layer, so a wrapper around any of
// them can project that step before dlib adds it to the weights.
#include <dlib/dnn.h>

#include <cmath>
#include <cstdio>
#include <memory>
#include <ogpsa/ogpsa.hpp>

using Net = dlib::loss_mean_squared<dlib::fc<1, dlib::relu<dlib::fc<16, dlib::input<dlib::matrix<float>>>>>>;

/// One block for each layer that has parameters, found again by the address of its parameter tensor.
struct Protection {
  std::vector<const dlib::tensor*> layers;
  std::unique_ptr<ogpsa::Projector<float>> projector;

  explicit Protection(Net& net) {
    std::vector<ogpsa::BlockSpec> blocks;
    dlib::visit_layer_parameters(net, [&](std::size_t i, dlib::tensor& t) {
      if (t.size() == 0) return;
      layers.push_back(&t);
      blocks.push_back({.name = "layer" + std::to_string(i), .cols = static_cast<ogpsa::Index>(t.size())});
    });
    projector = std::make_unique<ogpsa::Projector<float>>(blocks);
  }

  /// Estimates the subspaces from the gradient of the mean loss on reference data.
  void refresh(Net& net, const std::vector<dlib::matrix<float>>& x, const std::vector<float>& y) {
    net.compute_parameter_gradients(x.begin(), x.end(), y.begin());
    std::vector<ogpsa::ConstTensorView> gradients;
    dlib::visit_layer_parameter_gradients(net, [&](std::size_t, dlib::tensor& t) {
      if (t.size() > 0) gradients.push_back(std::span<const float>(t.host(), t.size()));
    });
    auto reference = projector->begin_refresh();
    reference.add(0, gradients, static_cast<double>(x.size()));
    projector->finish_refresh(std::move(reference), 0);
  }

  void project_step(const dlib::tensor& parameters, dlib::tensor& step) const {
    std::vector<ogpsa::TensorView> steps(layers.size());  // all other layers are left out
    for (std::size_t i = 0; i < layers.size(); ++i) {
      if (layers[i] == &parameters) steps[i] = std::span<float>(step.host(), step.size());
    }
    projector->project_steps(steps);
  }
};

/// Any dlib solver, projected.
template <class Solver>
struct Projected {
  Solver solver;
  const Protection* protection = nullptr;
  dlib::resizable_tensor step;

  template <class Layer>
  const dlib::tensor& operator()(float rate, const Layer& layer, const dlib::tensor& gradient) {
    step = solver(rate, layer, gradient);
    if (protection) protection->project_step(layer.get_layer_params(), step);
    return step;
  }
  friend void serialize(const Projected& p, std::ostream& out) { serialize(p.solver, out); }
  friend void deserialize(Projected& p, std::istream& in) { deserialize(p.solver, in); }
  friend std::ostream& operator<<(std::ostream& out, const Projected& p) { return out << "projected " << p.solver; }
};

struct Data {
  std::vector<dlib::matrix<float>> x;
  std::vector<float> y;
};

Data make_data(dlib::rand& random, float from, float to, float slope) {
  Data data;
  for (int i = 0; i < 128; ++i) {
    dlib::matrix<float> x(2, 1);
    x = from + (to - from) * random.get_random_float(), random.get_random_float();
    data.x.push_back(x);
    data.y.push_back(slope * x(0) + x(1));
  }
  return data;
}

/// One epoch on `data` with projected Adam or plain Adam; returns the change of the loss on `reference`.
double reference_change(Net net, const Data& reference, const Data& data, bool protect) {
  const double before = net.compute_loss(reference.x.begin(), reference.x.end(), reference.y.begin());
  Protection protection(net);
  protection.refresh(net, reference.x, reference.y);
  dlib::dnn_trainer<Net, Projected<dlib::adam>> trainer(
      net, {dlib::adam(0.0005f, 0.9f, 0.999f), protect ? &protection : nullptr, {}});
  trainer.set_learning_rate(1e-5);
  trainer.set_mini_batch_size(32);
  for (std::size_t i = 0; i + 32 <= data.x.size(); i += 32) {
    trainer.train_one_step(data.x.begin() + static_cast<long>(i), data.x.begin() + static_cast<long>(i) + 32,
                           data.y.begin() + static_cast<long>(i));
  }
  trainer.get_net(dlib::force_flush_to_disk::no);
  return net.compute_loss(reference.x.begin(), reference.x.end(), reference.y.begin()) - before;
}

int main() {
  dlib::rand random(7);
  const Data reference = make_data(random, -1, 0, 2.0f), data = make_data(random, 0, 1, -1.0f);
  Net net;
  dlib::dnn_trainer<Net> first(net);  // learn the reference task, roughly
  first.set_learning_rate(0.02);
  for (int i = 0; i < 20; ++i) first.train_one_step(reference.x, reference.y);
  first.get_net();

  const double plain = reference_change(net, reference, data, false);
  const double projected = reference_change(net, reference, data, true);
  std::printf("change of the reference loss: plain Adam %+.2e, projected %+.2e\n", plain, projected);
  return std::abs(projected) < 0.2 * std::abs(plain) ? 0 : 1;
}
