#pragma once

#include <span>
#include <utility>
#include <vector>

#include "exact.hpp"
#include "ogpsa/projector.hpp"
#include "random.hpp"

namespace test {

/// One owned tensor for each block of a model, in the block's layout.
template <class S>
class Tensors {
 public:
  explicit Tensors(std::vector<ogpsa::BlockSpec> blocks) : blocks_(std::move(blocks)) {
    for (const auto& b : blocks_) data_.emplace_back(static_cast<std::size_t>(b.size()), S(0));
  }
  Tensors(std::vector<ogpsa::BlockSpec> blocks, Random& random, double scale = 1.0) : Tensors(std::move(blocks)) {
    for (auto& tensor : data_) {
      for (S& x : tensor) x = static_cast<S>(random.normal() * scale);
    }
  }

  std::vector<S>& operator[](std::size_t i) { return data_[i]; }
  const std::vector<S>& operator[](std::size_t i) const { return data_[i]; }
  bool operator==(const Tensors& other) const { return data_ == other.data_; }

  /// Views on all tensors; those in `left_out` have no data.
  std::vector<ogpsa::TensorView> views(const std::vector<std::size_t>& left_out = {}) {
    std::vector<ogpsa::TensorView> result;
    for (std::size_t i = 0; i < blocks_.size(); ++i) {
      const auto& b = blocks_[i];
      result.emplace_back(data_[i].data(), ogpsa::dtype_of<S>(), b.rows, b.cols, b.layout);
    }
    for (const std::size_t i : left_out) result[i].data = nullptr;
    return result;
  }
  std::vector<ogpsa::ConstTensorView> const_views(const std::vector<std::size_t>& left_out = {}) const {
    const auto views = const_cast<Tensors*>(this)->views(left_out);
    return {views.begin(), views.end()};
  }

  /// One tensor, or some, as a vector in memory order.
  VectorL flat(const std::vector<std::size_t>& which) const {
    VectorL result(0);
    for (const std::size_t i : which) {
      const Index at = result.size();
      result.conservativeResize(at + static_cast<Index>(data_[i].size()));
      for (std::size_t j = 0; j < data_[i].size(); ++j) {
        Real& x = result(at + static_cast<Index>(j));
        if constexpr (sizeof(S) == 2) x = static_cast<Real>(static_cast<float>(data_[i][j]));
        if constexpr (sizeof(S) != 2) x = static_cast<Real>(data_[i][j]);
      }
    }
    return result;
  }
  VectorL flat(std::size_t i) const { return flat(std::vector<std::size_t>{i}); }
  VectorL flat() const {
    std::vector<std::size_t> all;
    for (std::size_t i = 0; i < data_.size(); ++i) all.push_back(i);
    return flat(all);
  }
  /// One tensor as the matrix that it is.
  MatrixL matrix(std::size_t i) const {
    const auto& b = blocks_[i];
    const VectorL values = flat(i);
    const bool row_major = b.layout == ogpsa::Layout::row_major;
    MatrixL result(b.rows, b.cols);
    for (Index r = 0; r < b.rows; ++r) {
      for (Index c = 0; c < b.cols; ++c) result(r, c) = values(row_major ? r * b.cols + c : c * b.rows + r);
    }
    return result;
  }

 private:
  std::vector<ogpsa::BlockSpec> blocks_;
  std::vector<std::vector<S>> data_;
};

/// Finishes a refresh with one gradient for each objective.
template <class T, class S>
void refresh(ogpsa::Projector<T>& projector, const std::vector<Tensors<S>>& objectives, Index step = 0) {
  auto collector = projector.begin_refresh();
  for (std::size_t r = 0; r < objectives.size(); ++r) {
    collector.add(static_cast<Index>(r), objectives[r].const_views());
  }
  projector.finish_refresh(std::move(collector), step);
}

/// d - H (H^T H)^+ H^T d: orthogonal to the columns of H.
inline VectorL without(const MatrixL& h, const VectorL& d) {
  const MatrixL basis = exact_basis(h, 1e-12L);
  return d - basis * (basis.transpose() * d);
}

/// Columns as one matrix.
inline MatrixL columns(const std::vector<VectorL>& vectors) {
  MatrixL result(vectors.empty() ? 0 : vectors[0].size(), static_cast<Index>(vectors.size()));
  for (std::size_t j = 0; j < vectors.size(); ++j) result.col(static_cast<Index>(j)) = vectors[j];
  return result;
}

}  // namespace test
