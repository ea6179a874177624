#pragma once

#include <cstring>
#include <memory>
#include <vector>

#include "ogpsa/backend/cuda.hpp"
#include "ogpsa/backend/eigen.hpp"

/// \file
/// Makes the tests of the core tests of the CUDA backend: it is included before any of their files, and takes the place
/// of EigenBackend, the default of every class template.

namespace test {

/// That of the host, whose name is given away below.
using HostBackend = ogpsa::EigenBackend;

using ogpsa::ConstTensorView;
using ogpsa::Index;
using ogpsa::MatrixView;
using ogpsa::TensorView;

/// The CUDA backend for tensors that are in host memory, as in the tests of the core: they are copied to the device
/// before a call and back after it. Tensors that are on the device already are taken as they are.
class StagedCudaBackend : public ogpsa::CudaBackend {
 public:
  StagedCudaBackend() = default;
  explicit StagedCudaBackend(std::function<void(std::span<double>)> sum_over_ranks)
      : CudaBackend(ogpsa::CudaOptions{}, std::move(sum_over_ranks)) {}

  template <class T>
  void copy(MatrixView<const T> from, MatrixView<T> to) const {
    if (from.empty() || on_device(from.data)) return CudaBackend::copy(from, to);
    for (Index j = 0; j < from.cols; ++j) {
      const std::span<const T> column(from.data + j * from.stride, static_cast<std::size_t>(from.rows));
      from_host(column, to.columns(j, 1));
    }
  }
  template <class T>
  void load(ConstTensorView tensor, MatrixView<T> to) const {
    CudaBackend::load(Staged(*this, tensor).view(), to);
  }
  template <class T>
  void load_side(ConstTensorView tensor, bool fast_side, Index first, MatrixView<T> to) const {
    CudaBackend::load_side(Staged(*this, tensor).view(), fast_side, first, to);
  }
  using CudaBackend::first_non_finite;
  Index first_non_finite(ConstTensorView tensor) const {
    return CudaBackend::first_non_finite(Staged(*this, tensor).view());
  }
  Index first_beyond(ConstTensorView tensor, int exponent) const {
    return CudaBackend::first_beyond(Staged(*this, tensor).view(), exponent);
  }
  Index first_outside(ConstTensorView tensor, double low, double high) const {
    return CudaBackend::first_outside(Staged(*this, tensor).view(), low, high);
  }
  double max_abs(ConstTensorView tensor) const { return CudaBackend::max_abs(Staged(*this, tensor).view()); }
  template <class T>
  void add_scaled(MatrixView<T> a, ConstTensorView tensor, double weight) const {
    CudaBackend::add_scaled(a, Staged(*this, tensor).view(), weight);
  }
  template <class T>
  void divide_rows(MatrixView<T> a, ConstTensorView divisors) const {
    CudaBackend::divide_rows(a, Staged(*this, divisors).view());
  }
  template <class T>
  void load_difference(MatrixView<T> a, ConstTensorView x, ConstTensorView y) const {
    CudaBackend::load_difference(a, Staged(*this, x).view(), Staged(*this, y).view());
  }
  template <class T>
  void move(TensorView tensor, ConstTensorView origin, MatrixView<const T> step) const {
    const Staged staged(*this, tensor);
    CudaBackend::move(staged.view(), Staged(*this, origin).view(), step);
    staged.write_back();
  }
  template <class T>
  void add_outer(MatrixView<T> sum, ConstTensorView tensor, double factor, bool fast_side) const {
    CudaBackend::add_outer(sum, Staged(*this, tensor).view(), factor, fast_side);
  }

  template <class T>
  void coefficients(std::span<const ogpsa::ProjectionPiece<T>> pieces,
                    std::vector<ogpsa::PieceCoefficients>& out) const {
    const StagedPieces<T> staged(*this, pieces);
    CudaBackend::coefficients(staged.pieces(), out);
  }
  template <class T>
  void change(std::span<const ogpsa::ProjectionPiece<T>> pieces, std::span<const ogpsa::PieceChange> changes,
              std::vector<ogpsa::PieceNorms>& norms) const {
    const StagedPieces<T> staged(*this, pieces);
    CudaBackend::change(staged.pieces(), changes, norms);
    staged.write_back();
  }
  template <class T>
  void project(std::span<const ogpsa::ProjectionPiece<T>> pieces, std::span<const ogpsa::LinearChange> changes,
               std::vector<ogpsa::PieceCoefficients>& measured, std::vector<ogpsa::PieceNorms>& norms) const {
    const StagedPieces<T> staged(*this, pieces);
    CudaBackend::project(staged.pieces(), changes, measured, norms);
    staged.write_back();
  }
  template <class T>
  Index first_piece_beyond(std::span<const ogpsa::ProjectionPiece<T>> pieces, int exponent) const {
    return CudaBackend::first_piece_beyond(StagedPieces<T>(*this, pieces).pieces(), exponent);
  }
  template <class T>
  void change_side(std::span<const ogpsa::ProjectionPiece<T>> pieces, std::span<const ogpsa::SideChange> changes,
                   std::vector<ogpsa::PieceNorms>& norms) const {
    const StagedPieces<T> staged(*this, pieces);
    CudaBackend::change_side(staged.pieces(), changes, norms);
    staged.write_back();
  }

 private:
  static bool on_device(const void* p) {
    cudaPointerAttributes attributes;
    ogpsa::detail::cuda::check(cudaPointerGetAttributes(&attributes, p), "cudaPointerGetAttributes");
    return attributes.type == cudaMemoryTypeDevice;
  }
  static void wait(cudaError_t status) { ogpsa::detail::cuda::check(status, "cudaMemcpyAsync"); }

  /// A tensor on the device.
  class Staged {
   public:
    Staged(const StagedCudaBackend& backend, TensorView tensor) : host_(tensor), device_(tensor) {
      if (tensor.size() == 0 || on_device(tensor.data)) return;
      // Not at the start of a block, as tensors of a model need not be.
      memory_ = backend.matrix<float>((bytes() + 3) / 4 + kOffset, 1);
      device_.data = memory_.data() + kOffset;
      copy(device_.data, host_.data, cudaMemcpyHostToDevice);
    }
    Staged(const StagedCudaBackend& backend, ConstTensorView tensor)
        : Staged(backend, ogpsa::detail::cuda::mutable_view(tensor)) {}

    TensorView view() const { return device_; }
    void write_back() const {
      if (memory_.cols() > 0) copy(host_.data, device_.data, cudaMemcpyDeviceToHost);
    }

   private:
    static constexpr Index kOffset = 2;  // 8 bytes, as double needs
    Index bytes() const {
      const Index size = ogpsa::visit_dtype(host_.dtype, [](auto* tag) { return Index{sizeof(*tag)}; });
      return size * host_.size();
    }
    void copy(void* to, const void* from, cudaMemcpyKind kind) const {
      wait(cudaMemcpyAsync(to, from, static_cast<std::size_t>(bytes()), kind, nullptr));
      wait(cudaStreamSynchronize(nullptr));
    }

    TensorView host_, device_;
    ogpsa::CudaMatrix<float> memory_;
  };

  template <class T>
  class StagedPieces {
   public:
    StagedPieces(const StagedCudaBackend& backend, std::span<const ogpsa::ProjectionPiece<T>> pieces)
        : pieces_(pieces.begin(), pieces.end()) {
      for (auto& piece : pieces_) {
        staged_.push_back(std::make_unique<Staged>(backend, piece.tensor));
        piece.tensor = staged_.back()->view();
        origins_.push_back(std::make_unique<Staged>(backend, piece.origin));
        piece.origin = origins_.back()->view();
      }
    }
    std::span<const ogpsa::ProjectionPiece<T>> pieces() const { return pieces_; }
    void write_back() const {
      for (const auto& staged : staged_) staged->write_back();
    }

   private:
    std::vector<ogpsa::ProjectionPiece<T>> pieces_;
    std::vector<std::unique_ptr<Staged>> staged_, origins_;
  };
};

static_assert(ogpsa::Backend<StagedCudaBackend, float> && ogpsa::Backend<StagedCudaBackend, double>);

}  // namespace test

namespace ogpsa {
using BackendUnderTest = test::StagedCudaBackend;
}  // namespace ogpsa
#define EigenBackend BackendUnderTest
#define OGPSA_FULL_BASES_ONLY
