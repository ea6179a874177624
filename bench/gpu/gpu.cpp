#include <algorithm>
#include <chrono>
#include <cstdio>
#include <string>
#include <vector>

#include "ogpsa/backend/cuda/capture.hpp"
#include "ogpsa/ogpsa.hpp"

/// \file
/// Times the projection of a model's gradients on the GPU, as a call and in a CUDA graph, against a copy of the same
/// bytes; and eigenproblems.

using namespace ogpsa;

namespace {

struct Case {
  const char* name;
  Index blocks, rows, cols, rank;
  Form form;
};

/// Median time of one call in seconds; the call waits for the device.
template <class F>
double median(F&& f, int calls = 20) {
  std::vector<double> times;
  f();  // allocates
  for (int i = 0; i < calls; ++i) {
    const auto start = std::chrono::steady_clock::now();
    f();
    times.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  std::nth_element(times.begin(), times.begin() + calls / 2, times.end());
  return times[static_cast<std::size_t>(calls / 2)];
}

/// The same, as a graph that is launched.
double median_in_graph(const Projector<float, CudaBackend>& projector, std::span<const TensorView> tensors,
                       cudaStream_t stream) {
  using detail::cuda::check;
  const CudaProjection<float> projection(projector, tensors);
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t launchable = nullptr;
  check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal), "cudaStreamBeginCapture");
  projection.enqueue(stream);
  check(cudaStreamEndCapture(stream, &graph), "cudaStreamEndCapture");
  check(cudaGraphInstantiate(&launchable, graph, 0), "cudaGraphInstantiate");
  const double seconds = median([&] {
    check(cudaGraphLaunch(launchable, stream), "cudaGraphLaunch");
    check(cudaStreamSynchronize(stream), "cudaStreamSynchronize");
  });
  cudaGraphExecDestroy(launchable);
  cudaGraphDestroy(graph);
  return seconds;
}

template <class S>
void run(const CudaBackend& backend, cudaStream_t stream, const Case& c, const char* type) {
  const Index size = c.rows * c.cols;
  std::vector<BlockSpec> blocks;
  std::vector<CudaMatrix<float>> memory;  // of as many bytes as the tensors
  std::vector<TensorView> tensors;
  std::vector<float> values(static_cast<std::size_t>(size));
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = 1e-3f * static_cast<float>((i * 2654435761u) % 2001) - 1;
  auto column = backend.matrix<float>(size, 1);
  backend.from_host(std::span<const float>(values), column.view());
  for (Index b = 0; b < c.blocks; ++b) {
    blocks.push_back({.name = std::to_string(b), .rows = c.rows, .cols = c.cols, .form = c.form});
    memory.push_back(backend.matrix<float>((size * static_cast<Index>(sizeof(S)) + 3) / 4, 1));
    tensors.emplace_back(memory.back().data(), dtype_of<S>(), c.rows, c.cols);
    backend.move(tensors.back(), tensors.back(), MatrixView<const float>(column.view()));  // adds it
  }
  Projector<float, CudaBackend> projector(blocks, {.reference = {.structured = {.rank = {.max_rank = c.rank}}}},
                                          backend);
  auto collector = projector.begin_refresh();
  for (Index r = 0; r < (c.form == Form::flat ? c.rank : 1); ++r) {
    // Each reference gradient differs from the one before it.
    const std::vector<double> factors = {r % 2 == 0 ? 1.5 : 0.3};
    backend.scale_columns(column.view().row_range(r * size / 16, size / 16), factors);
    const std::vector<ConstTensorView> gradients(static_cast<std::size_t>(c.blocks),
                                                 {column.data(), DType::float32, c.rows, c.cols});
    collector.add(r, gradients);
  }
  projector.finish_refresh(std::move(collector), 0);
  const double seconds = median([&] { projector.project_gradients(tensors); });
  const double in_graph = median_in_graph(projector, tensors, stream);
  auto target = memory;
  const double copy = median([&] {
    for (std::size_t b = 0; b < memory.size(); ++b) {
      backend.copy(MatrixView<const float>(memory[b].view()), target[b].view());
    }
    backend.synchronize();
  });
  const double elements = static_cast<double>(size * c.blocks);
  // The least that has to move: the gradient read and written, a flat basis read.
  const double bytes = elements * (2.0 * sizeof(S) + (c.form == Form::flat ? 4.0 * static_cast<double>(c.rank) : 0.0));
  std::printf("%-18s %-5s %6lld %10.1f %10.3f %10.3f %10.1f %12.3f\n", c.name, type, static_cast<long long>(c.rank),
              elements * 1e-6, seconds * 1e3, in_graph * 1e3, bytes / in_graph * 1e-9, copy * 1e3);
}

/// 30 % of the eigenvectors of 32 covariances, in one call and in a call for each.
void run_eigenproblems(const CudaBackend& backend, Index n) {
  std::vector<float> values(static_cast<std::size_t>(n * n));
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = 1e-3f * static_cast<float>((i * 2654435761u) % 2001) - 1;
  auto rows = backend.matrix<float>(n, n), covariance = backend.matrix<float>(n, n);
  backend.from_host(std::span<const float>(values), rows.view());
  backend.add_outer(covariance.view(), ConstTensorView(rows.data(), DType::float32, n, n), 1, true);
  std::vector<CudaMatrix<float>> vectors;
  for (int i = 0; i < 32; ++i) vectors.push_back(backend.matrix<float>(n, (3 * n + 9) / 10));
  std::vector<EigenProblem<float>> problems;
  for (auto& to : vectors) problems.push_back({std::as_const(covariance).view(), to.view()});
  const std::span<const EigenProblem<float>> all(problems);
  const double together = median([&] { backend.eigenvectors(all); }, 3);
  const auto one_by_one = [&] {
    for (std::size_t i = 0; i < all.size(); ++i) backend.eigenvectors(all.subspan(i, 1));
  };
  std::printf("%6lld %14.2f %14.2f\n", static_cast<long long>(n), together * 1e3, median(one_by_one, 3) * 1e3);
}

}  // namespace

int main() {
  try {
    cudaStream_t stream = nullptr;
    detail::cuda::check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
    const CudaBackend backend({.stream = stream});
    std::printf("%-18s %-5s %6s %10s %10s %10s %10s %12s\n", "case", "type", "rank", "M numbers", "ms", "in a graph",
                "GB/s", "ms to copy");
    const Case cases[] = {
        {"flat, 64 blocks", 64, 2048, 2048, 2, Form::flat},    {"flat, 64 blocks", 64, 2048, 2048, 8, Form::flat},
        {"flat, 400 small", 400, 256, 256, 2, Form::flat},     {"flat, 400 small", 400, 256, 256, 32, Form::flat},
        {"input, 8 blocks", 8, 4096, 4096, 1228, Form::input}, {"both, 8 blocks", 8, 4096, 4096, 1228, Form::both}};
    for (const auto& c : cases) {
      run<float>(backend, stream, c, "f32");
      run<bfloat16>(backend, stream, c, "bf16");
    }
    std::printf("\n32 eigenproblems\n%6s %14s %14s\n", "n", "ms, one call", "ms, one each");
    for (const Index n : {64, 128, 256, 576, 1024, 1536}) run_eigenproblems(backend, n);
  } catch (const Error& e) {
    std::fprintf(stderr, "%s\n", e.what());
    return 1;
  }
}
