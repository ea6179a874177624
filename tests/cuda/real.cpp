#include <algorithm>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <string>
#include <vector>

#include "ogpsa/backend/cuda.hpp"
#include "ogpsa/ogpsa.hpp"

/// \file
/// Linked against the real libraries. NVRTC needs no GPU: it compiles the kernels for every kind of device that is
/// named, and shows in PTX how they access memory. Where there is a GPU, a projection and eigenproblems on it are
/// compared with those on the CPU; where there is none, that has to be an error that says so.

using namespace ogpsa;

namespace {

/// Whether the kernels that read whole models do so by 16 bytes, in PTX.
bool has_wide_accesses(const std::string& ptx) {
  bool all = true;
  const std::vector<std::string> only_read = {"measure_f32", "measure_f64", "gram_f32", "gram_f64", "ask"};
  for (const std::string kernel : {"measure_f32", "measure_f64", "change_f32", "change_f64", "gram_f32", "gram_f64",
                                   "multiply_f32", "multiply_f64", "ask", "copy"}) {
    const std::size_t begin = ptx.find(".entry ogpsa_" + kernel + "(");
    const std::string body =
        begin == std::string::npos ? "" : ptx.substr(begin, ptx.find(".entry ", begin + 1) - begin);
    const auto has = [&](const char* access) { return body.find(access) != std::string::npos; };
    const bool of_doubles = kernel == "gram_f64" || kernel == "multiply_f64";  // they take no other type
    const bool reads = has("ld.global.v4") || (of_doubles && (has("ld.global.v2.f64") || has("ld.global.v2.u64")));
    const bool writes = has("st.global.v4");
    const bool found = reads && (writes || std::find(only_read.begin(), only_read.end(), kernel) != only_read.end());
    if (!found) std::printf("ogpsa_%s has no accesses of 16 bytes\n", kernel.c_str());
    all = all && found;
  }
  return all;
}

bool compiles(const std::string& architecture) {
  try {
    const auto image = detail::cuda::compile_kernels(architecture);
    std::printf("NVRTC for %s: %zu bytes\n", architecture.c_str(), image.size());
    if (architecture.starts_with("compute_")) return has_wide_accesses({image.data(), image.size()});
    return image.size() > 1000;
  } catch (const CudaError& e) {
    std::printf("%s\n", e.what());
    return false;
  }
}

int project_on_device() {
  const CudaBackend backend(CudaOptions{});
  Eigen::MatrixXf h = Eigen::MatrixXf::Random(5000, 3), g = Eigen::MatrixXf::Random(5000, 1);
  const auto on_device = estimate(h, {}, {}, backend);
  auto column = backend.matrix<float>(5000, 1);
  backend.from_host(std::span<const float>(g.data(), 5000), column.view());
  project(TensorView(column.data(), DType::float32, 1, 5000), on_device);
  Eigen::MatrixXf result(5000, 1);
  backend.to_host(std::as_const(column).view(), std::span<float>(result.data(), 5000));
  project(g, estimate(h));
  const double error = static_cast<double>((result - g).norm() / g.norm());
  std::printf("on the GPU: relative difference from the CPU %.2g\n", error);
  return error <= 1e-6 ? 0 : 1;
}

/// Of matrices of which some have the same size.
template <class B>
std::vector<Eigen::VectorXd> eigenvalues(const B& backend) {
  std::vector<typename B::template Matrix<float>> held;
  std::vector<EigenProblem<float>> problems;
  for (const Index n : {90, 200, 90, 90}) {
    const Eigen::MatrixXf x = Eigen::MatrixXf::Constant(n, n, 0.5f) + Eigen::MatrixXf::Identity(n, n) * 3.0f;
    held.push_back(backend.template matrix<float>(n, n));
    backend.from_host(std::span<const float>(x.data(), static_cast<std::size_t>(x.size())), held.back().view());
    held.push_back(backend.template matrix<float>(n, n / 3));
  }
  for (std::size_t i = 0; i < held.size(); i += 2) {
    problems.push_back({std::as_const(held[i]).view(), held[i + 1].view()});
  }
  return backend.eigenvectors(std::span<const EigenProblem<float>>(problems));
}

int solve_on_device() {
  const auto found = eigenvalues(CudaBackend(CudaOptions{})), expected = eigenvalues(EigenBackend());
  double error = 0;
  for (std::size_t i = 0; i < found.size(); ++i) {
    error = std::max(error, (found[i] - expected[i]).norm() / expected[i].norm());
  }
  std::printf("eigenvalues on the GPU: relative difference from the CPU %.2g\n", error);
  return error <= 1e-12 ? 0 : 1;
}

}  // namespace

int main(int count, char** arguments) {
  for (int i = 1; i < count; ++i) {
    if (!compiles(arguments[i])) return 1;
  }
  int devices = 0;
  if (cudaGetDeviceCount(&devices) == cudaSuccess && devices > 0) return project_on_device() + solve_on_device();
  try {
    CudaBackend(CudaOptions{}).synchronize();
  } catch (const CudaError& e) {
    std::printf("no GPU here: %s\n", e.what());
    return std::strstr(e.what(), "failed with cudaError") ? 0 : 1;
  }
  return 1;
}
