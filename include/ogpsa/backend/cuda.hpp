#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "ogpsa/backend.hpp"
#include "ogpsa/backend/cuda/eigenproblems.hpp"
#include "ogpsa/backend/cuda/launch.hpp"
#include "ogpsa/backend/cuda/linear_projection.hpp"
#include "ogpsa/backend/cuda/matrix.hpp"
#include "ogpsa/backend/cuda/products.hpp"
#include "ogpsa/backend/cuda/projection.hpp"

/// \file
/// NVIDIA GPUs: cuBLAS, cuSOLVER, and kernels that NVRTC compiles at run time. Plain C++, for any host compiler.

namespace ogpsa {

/// NVIDIA GPUs. Tensors and bases are in device memory; the small `k x k` work is done on the host. All work is in the
/// order of one stream; a call that returns numbers waits for them. Copies share handles, memory and stream, and may
/// be used from several threads, one of which works at a time.
///
///     const ogpsa::CudaBackend backend({.stream = stream});
///     ogpsa::Projector<float, ogpsa::CudaBackend> projector(blocks, {}, backend);
///
/// \throws CudaError, CudaOutOfMemory from every member.
class CudaBackend {
 public:
  template <class T>
  using Matrix = CudaMatrix<T>;

  /// Works on the device that is current when it is first used, with resources shared by all backends made this way.
  CudaBackend() = default;
  /// \param sum_over_ranks  see EigenBackend
  explicit CudaBackend(const CudaOptions& options, std::function<void(std::span<double>)> sum_over_ranks = {})
      : context_(std::make_shared<detail::cuda::Context>(options)), sum_over_ranks_(std::move(sum_over_ranks)) {}

  /// Waits until all that was asked for is done.
  void synchronize() const { session()->synchronize(); }

  void all_reduce(std::span<double> sums) const {
    if (sum_over_ranks_ && !sums.empty()) sum_over_ranks_(sums);
  }
  bool sums_over_ranks() const { return static_cast<bool>(sum_over_ranks_); }
  /// One after the other: the device works in parallel on each.
  template <class F>
  void for_each(Index count, F&& f) const {
    for (Index i = 0; i < count; ++i) f(i);
  }

  /// As many in one batch as one column of doubles of each fits in its memory.
  template <class F>
  void for_batches(std::span<const Index> sizes, F&& f) const {
    const Index count = static_cast<Index>(sizes.size());
    const Index most = static_cast<Index>(session()->batch_bytes() / sizeof(double));
    for (Index first = 0, last = 0; first < count; first = last) {
      Index elements = 0;
      do {
        elements += sizes[static_cast<std::size_t>(last++)];
      } while (last < count && elements + sizes[static_cast<std::size_t>(last)] <= most);
      f(first, last);
    }
  }

  template <class T>
  CudaMatrix<T> matrix(Index rows, Index cols) const {
    return {rows, cols, context_};
  }
  static constexpr bool works_on_host_memory = false;
  template <class T>
  CudaMatrix<T> unfilled_matrix(Index rows, Index cols) const {
    return {rows, cols, context_};
  }
  template <class T>
  void keep_on_host(CudaMatrix<T>& matrix, bool on_host) const {
    matrix.keep_on_host(on_host);
  }
  template <class T>
  void copy(MatrixView<const T> from, MatrixView<T> to) const {
    detail::cuda::copy(session(), detail::cuda::strided(from), detail::cuda::strided(to), from.rows, from.cols);
  }
  template <class T>
  void load(ConstTensorView tensor, MatrixView<T> to) const {
    detail::cuda::copy(session(), {tensor.data, tensor.dtype, 1, to.rows}, detail::cuda::strided(to), to.rows, to.cols);
  }
  template <class T>
  void load_side(ConstTensorView tensor, bool fast_side, Index first, MatrixView<T> to) const {
    const Index element = fast_side ? first * tensor.fast() : first;
    detail::cuda::Strided from{nullptr, tensor.dtype, fast_side ? 1 : tensor.fast(), fast_side ? tensor.fast() : 1};
    visit_dtype(tensor.dtype, [&](auto* tag) {
      using S = std::remove_pointer_t<decltype(tag)>;
      from.data = static_cast<const S*>(tensor.data) + element;
    });
    detail::cuda::copy(session(), from, detail::cuda::strided(to), to.rows, to.cols);
  }
  template <class T>
  void to_host(MatrixView<const T> from, std::span<T> to) const {
    if (from.empty()) return;
    const auto session = this->session();
    const T* packed = from.data;
    if constexpr (is_storage_type<T>) {
      if (from.cols > 1 && from.stride != from.rows) {
        const MatrixView<T> memory(session->scratch<T>(detail::cuda::kPanel, from.rows * from.cols), from.rows,
                                   from.cols);
        detail::cuda::copy(session, detail::cuda::strided(from), detail::cuda::strided(memory), from.rows, from.cols);
        packed = memory.data;
      }
    }
    session->copy_to_host(packed, to.data(), static_cast<std::size_t>(from.rows * from.cols) * sizeof(T));
  }
  template <class T>
  void from_host(std::span<const T> from, MatrixView<T> to) const {
    if (to.empty()) return;
    const auto session = this->session();
    const bool packed = !is_storage_type<T> || to.cols == 1 || to.stride == to.rows;
    T* memory = packed ? to.data : session->scratch<T>(detail::cuda::kPanel, to.rows * to.cols);
    session->copy_to_device(from.data(), memory, static_cast<std::size_t>(to.rows * to.cols) * sizeof(T));
    if constexpr (is_storage_type<T>) {
      if (packed) return;
      const MatrixView<T> view(memory, to.rows, to.cols);
      detail::cuda::copy(session, detail::cuda::strided(view), detail::cuda::strided(to), to.rows, to.cols);
    }
  }

  template <class T>
  Entry first_non_finite(MatrixView<const T> a) const {
    const auto found = ask(detail::cuda::Question::first_beyond, detail::cuda::columns_of(a), detail::kNotFinite);
    for (std::size_t j = 0; j < found.size(); ++j) {
      const Index row = detail::cuda::as_index(found[j]);
      if (row >= 0) return {row, static_cast<Index>(j)};
    }
    return {};
  }
  template <class T>
  std::vector<double> column_max_abs(MatrixView<const T> a) const {
    return ask(detail::cuda::Question::max_abs, detail::cuda::columns_of(a));
  }
  Index first_non_finite(ConstTensorView tensor) const { return first_beyond(tensor, detail::kNotFinite); }
  Index first_beyond(ConstTensorView tensor, int exponent) const {
    return detail::cuda::as_index(ask(detail::cuda::Question::first_beyond, {tensor}, exponent)[0]);
  }
  Index first_outside(ConstTensorView tensor, double low, double high) const {
    return detail::cuda::as_index(ask(detail::cuda::Question::first_outside, {tensor}, low, high)[0]);
  }
  double max_abs(ConstTensorView tensor) const { return ask(detail::cuda::Question::max_abs, {tensor})[0]; }

  template <class T>
  void scale_columns(MatrixView<T> a, std::span<const double> factors) const {
    if (a.empty()) return;
    const auto session = this->session();
    const double* device = session->upload(detail::cuda::kFactors, factors.data(), a.cols);
    detail::cuda::elementwise(session, detail::cuda::Operation::scale_columns, a, {}, nullptr, 0, device);
  }
  template <class T>
  void add_scaled(MatrixView<T> a, ConstTensorView tensor, double weight) const {
    detail::cuda::elementwise(session(), detail::cuda::Operation::add_scaled, a, detail::cuda::mutable_view(tensor),
                              nullptr, a.rows, nullptr, weight);
  }
  template <class T>
  void divide_rows(MatrixView<T> a, ConstTensorView divisors) const {
    detail::cuda::elementwise(session(), detail::cuda::Operation::divide_rows, a, detail::cuda::mutable_view(divisors),
                              nullptr, 0);
  }
  template <class T>
  void load_difference(MatrixView<T> a, ConstTensorView x, ConstTensorView y) const {
    detail::cuda::elementwise(session(), detail::cuda::Operation::difference, a, detail::cuda::mutable_view(x), y.data,
                              a.rows);
  }
  template <class T>
  void move(TensorView tensor, ConstTensorView origin, MatrixView<const T> step) const {
    const MatrixView<T> values(const_cast<T*>(step.data), step.rows, step.cols, step.stride);  // only read
    detail::cuda::elementwise(session(), detail::cuda::Operation::move, values, tensor, origin.data, values.rows);
  }

  /// \throws InvalidArgument: bases are kept in full here
  template <class T>
  void encode(MatrixView<const T>, BasisStorage storage, std::uint8_t*, float*) const {
    throw InvalidArgument(std::string("ogpsa: the CUDA backend does not keep bases in ") +
                          detail::storage_name(storage) + "; use BasisStorage::full or page_locked");
  }
  template <class T>
  void decode(BasisView<T> basis, MatrixView<T> to) const {
    copy(basis.matrix(), to);
  }

  template <class T>
  Eigen::MatrixXd gram(BasisView<T> a, BasisView<T> b) const {
    return gram(a.matrix(), b.matrix());
  }
  template <class T>
  Eigen::MatrixXd gram(MatrixView<const T> a, MatrixView<const T> b) const {
    const GramProblem<T> problem{a, b};
    return grams(std::span<const GramProblem<T>>(&problem, 1)).front();
  }
  template <class T>
  std::vector<Eigen::MatrixXd> grams(std::span<const GramProblem<T>> problems) const {
    auto sums = detail::cuda::grams(session(), problems);
    all_reduce(sums);
    return detail::cuda::cut(sums, problems);
  }
  template <class T>
  Eigen::MatrixXd multiply(MatrixView<const T> a, const Eigen::MatrixXd& x, MatrixView<T> to) const {
    const ProductProblem<T> problem{a, x, to};
    return multiply(std::span<const ProductProblem<T>>(&problem, 1)).front();
  }
  /// Each product, and the Gram matrices of all of them.
  template <class T>
  std::vector<Eigen::MatrixXd> multiply(std::span<const ProductProblem<T>> problems) const {
    const auto session = this->session();
    detail::cuda::multiply(session, problems);
    std::vector<GramProblem<T>> of_products;
    for (const auto& problem : problems) of_products.push_back({problem.to, problem.to});
    return grams(std::span<const GramProblem<T>>(of_products));
  }
  template <class T>
  void subtract_product(MatrixView<T> a, MatrixView<const T> q, const Eigen::MatrixXd& c) const {
    detail::cuda::subtract_product(session(), a, q, c);
  }

  template <class T>
  void add_outer(MatrixView<T> sum, ConstTensorView tensor, double factor, bool fast_side) const {
    const auto session = this->session();
    const detail::cuda::CublasSession cublas(*session);
    const Index length = fast_side ? tensor.fast() : tensor.slow(), across = fast_side ? tensor.slow() : tensor.fast();
    const Index width = detail::cuda::panel_width(length, across);
    T* memory = session->scratch<T>(detail::cuda::kPanel, std::max<Index>(length * width, 1));
    for (Index j = 0; j < across; j += width) {
      const Index count = std::min(width, across - j);
      const MatrixView<T> panel(memory, fast_side ? length : count, fast_side ? count : length);
      visit_dtype(tensor.dtype, [&](auto* tag) {
        using S = std::remove_pointer_t<decltype(tag)>;
        const S* first = static_cast<const S*>(tensor.data) + (fast_side ? j * tensor.fast() : j);
        detail::cuda::copy(session, {first, tensor.dtype, 1, tensor.fast()}, detail::cuda::strided(panel), panel.rows,
                           panel.cols, factor);
      });
      detail::cuda::add_square(cublas, sum, MatrixView<const T>(panel),
                               fast_side ? detail::Transpose::no : detail::Transpose::yes);
    }
  }
  template <class T>
  std::vector<Eigen::VectorXd> eigenvectors(std::span<const EigenProblem<T>> problems) const {
    return detail::cuda::eigenvectors(session(), problems);
  }

  /// Index of the first piece with a value that is not finite, or at least 2^exponent in magnitude; -1: none. Two
  /// launches for all pieces.
  template <class T>
  Index first_piece_beyond(std::span<const ProjectionPiece<T>> pieces, int exponent) const {
    std::vector<ConstTensorView> tensors;
    std::vector<Index> piece_of;
    for (std::size_t p = 0; p < pieces.size(); ++p) {
      for (const ConstTensorView tensor : {ConstTensorView(pieces[p].tensor), pieces[p].origin}) {
        if (tensor.data == nullptr) continue;
        tensors.push_back(tensor);
        piece_of.push_back(static_cast<Index>(p));
      }
    }
    const auto found = ask(detail::cuda::Question::first_beyond, tensors, exponent);
    for (std::size_t i = 0; i < found.size(); ++i) {
      if (detail::cuda::as_index(found[i]) >= 0) return piece_of[i];
    }
    return -1;
  }
  template <class T>
  void coefficients(std::span<const ProjectionPiece<T>> pieces, std::vector<PieceCoefficients>& out) const {
    detail::cuda::coefficients(session(), pieces, out);
  }
  template <class T>
  void change(std::span<const ProjectionPiece<T>> pieces, std::span<const PieceChange> changes,
              std::vector<PieceNorms>& norms) const {
    detail::cuda::change(session(), pieces, changes, norms);
  }
  template <class T>
  void change_side(std::span<const ProjectionPiece<T>> pieces, std::span<const SideChange> changes,
                   std::vector<PieceNorms>& norms) const {
    std::vector<LinearChange> linear;
    for (const auto& change : changes) linear.push_back({change.keep, 1, change.remove});
    std::vector<PieceCoefficients> none;
    project(pieces, std::span<const LinearChange>(linear), none, norms);
  }

  /// Measures and changes each piece without a decision on the host: after the first step nothing is allocated or
  /// sent, and the host waits once, for `measured` and `norms`.
  template <class T>
  void project(std::span<const ProjectionPiece<T>> pieces, std::span<const LinearChange> changes,
               std::vector<PieceCoefficients>& measured, std::vector<PieceNorms>& norms) const {
    measured.clear();
    norms.clear();
    if (pieces.empty()) return;
    const auto by_weights = [](const LinearChange& change) { return change.normalizer.size() == 0; };
    if (std::all_of(changes.begin(), changes.end(), by_weights)) {
      const auto session = this->session();
      const detail::cuda::LinearProjection<T> projection(session, pieces, changes);
      projection.enqueue(session);
      return projection.read(session, measured, norms);
    }
    coefficients(pieces, measured);  // blocks of a group that others are left out of: decided on the host
    std::vector<PieceChange> decided;
    for (std::size_t p = 0; p < pieces.size(); ++p) decided.push_back(changes[p](measured[p].inner));
    change(pieces, std::span<const PieceChange>(decided), norms);
  }

 private:
  template <class>
  friend class CudaProjection;
  std::shared_ptr<detail::cuda::Context> context() const {
    return context_ ? context_ : detail::cuda::DefaultContexts::current();
  }
  detail::cuda::Session session() const { return detail::cuda::Session(context()); }
  std::vector<double> ask(detail::cuda::Question question, const std::vector<ConstTensorView>& tensors, double low = 0,
                          double high = 0) const {
    if (tensors.empty()) return {};
    return detail::cuda::ask(session(), question, tensors, low, high);
  }

  std::shared_ptr<detail::cuda::Context> context_;  // null: the default one
  std::function<void(std::span<double>)> sum_over_ranks_;
};

static_assert(Backend<CudaBackend, float> && Backend<CudaBackend, double>);

}  // namespace ogpsa
