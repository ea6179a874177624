#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <map>
#include <span>
#include <tuple>
#include <vector>

#include "ogpsa/backend.hpp"
#include "ogpsa/backend/cuda/products.hpp"

/// \file
/// Projection of many matrices by cuBLAS. Matrices of one shape, type and rank go through every product together
/// (batches with an array of pointers), in place where they are stored in the arithmetic type, else by a copy. The
/// number of launches depends on the shapes, and not on the matrices, as long as a batch fits its scratch memory.

namespace ogpsa::detail::cuda {

/// Products that are added in the arithmetic type of a GEMM before they are added in double.
inline constexpr Index kProductPart = 256;

/// Columns or rows of a panel whose other length is `length`.
inline Index panel_width(Index length, Index across) {
  return std::min(across, std::max<Index>(kPanelElements / std::max<Index>(length, 1), 16));
}

/// What becomes of a matrix X, with numbers on the device.
template <class T>
struct MatrixTask {
  double keep = 1;
  double* inner = nullptr;          ///< both sides: takes left^T X right (k_left x k_right), where it is to be measured
  const T* remove = nullptr;        ///< both sides: X <- keep X - left remove right^T, where it is to be changed
  const double* weights = nullptr;  ///< one side: X <- keep X - left diag(weights) left^T X, or the same on the right
  double* squares = nullptr;        ///< one side: takes the sums of squares of the component inside (side_squares)
};

/// Numbers that a matrix of which one side is projected has written to its `squares`.
template <class T>
Index side_squares(const ProjectionPiece<T>& piece) {
  const bool on_left = piece.left.cols > 0;
  const Index length = on_left ? piece.fast : piece.slow, across = on_left ? piece.slow : piece.fast;
  const Index k = on_left ? piece.left.cols : piece.right.cols, width = panel_width(length, across);
  const auto blocks = [&](Index count) { return on_left ? column_blocks(k, count) : column_blocks(count, k); };
  return across / width * blocks(width) + (across % width > 0 ? blocks(across % width) : 0);
}

template <class T>
class MatrixBatches {
 public:
  void add(const ProjectionPiece<T>& piece, const MatrixTask<T>& task) {
    if (piece.fast * piece.slow > 0) items_.push_back({piece, task});
  }

  /// Makes the steps, and sends their tables.
  void prepare(const Session& session) {
    std::map<Key, std::vector<Item>> groups;
    for (const auto& item : items_) groups[key_of(item, session->allow_tf32())].push_back(item);
    Index elements = 0;
    for (const auto& [key, group] : groups) {
      const Layout layout(key, group.front());
      const std::size_t together = layout.batch(group.size(), session->batch_bytes());
      elements = std::max(elements, layout.total() * static_cast<Index>(together));
    }
    T* memory = session->scratch<T>(kProduct, elements);
    for (const auto& [key, group] : groups) {
      const Layout layout(key, group.front());
      const std::size_t together = layout.batch(group.size(), session->batch_bytes());
      for (Index first = 0; first < layout.across; first += layout.width) {
        for (std::size_t at = 0; at < group.size(); at += together) {
          make_steps({layout, std::span(group).subspan(at, std::min(together, group.size() - at)), first, memory});
        }
      }
    }
    tables_ = {session->upload(kPointers, pointers_.data(), static_cast<Index>(pointers_.size())),
               session->upload(kPanels, panels_.data(), static_cast<Index>(panels_.size())),
               session->upload(kProducts, products_.data(), static_cast<Index>(products_.size()))};
  }
  /// left^T X right of each matrix with two sides.
  void measure(const Session& session, cublasHandle_t cublas) const { run(session, cublas, measure_); }
  /// What is to be removed, of each matrix.
  void change(const Session& session, cublasHandle_t cublas) const { run(session, cublas, change_); }

 private:
  struct Item {
    ProjectionPiece<T> piece;
    MatrixTask<T> task;
  };
  /// fast, slow, ranks and strides of the bases; type, whether there is an origin, and whether X is used in place.
  using Key = std::tuple<Index, Index, Index, Index, Index, Index, int, bool, bool, bool, bool, double>;
  static Key key_of(const Item& item, bool tensor_cores) {
    const auto& p = item.piece;
    // Fast products of batches want their factors aligned to 16 bytes.
    const auto address =
        reinterpret_cast<std::uintptr_t>(p.tensor.data) | static_cast<std::uintptr_t>(p.fast) * sizeof(T);
    const bool in_place =
        p.tensor.dtype == dtype_of<T>() && p.origin.data == nullptr && (!tensor_cores || address % 16 == 0);
    return {p.fast,
            p.slow,
            p.left.cols,
            p.right.cols,
            p.left.stride,
            p.right.stride,
            static_cast<int>(p.tensor.dtype),
            p.origin.data != nullptr,
            in_place,
            item.task.inner != nullptr,
            item.task.remove != nullptr,
            item.task.keep};
  }

  /// How the matrices of a group are cut into panels, and the scratch memory of a panel.
  struct Layout {
    Layout(const Key& key, const Item& item)
        : in_place(std::get<8>(key)),
          kl(item.piece.left.cols),
          kr(item.piece.right.cols),
          on_left(kl > 0),
          length(on_left ? item.piece.fast : item.piece.slow),
          across(on_left ? item.piece.slow : item.piece.fast),
          width(panel_width(length, across)) {
      const Index k = on_left ? kl : kr;
      panel = in_place ? 0 : aligned(length * width);
      inner = aligned(k * width);
      parts = aligned(std::max(parts_of(length) * k * width, both() ? parts_of(width) * kl * kr : 0));
    }
    bool both() const { return kl > 0 && kr > 0; }
    Index total() const { return panel + inner + parts; }
    /// Matrices that go together, of `count`.
    std::size_t batch(std::size_t count, std::size_t bytes) const {
      return std::clamp<std::size_t>(bytes / (static_cast<std::size_t>(total()) * sizeof(T)), 1, count);
    }
    static Index parts_of(Index sum) { return (sum + kProductPart - 1) / kProductPart; }
    static Index aligned(Index elements) { return (elements + 63) / 64 * 64; }

    bool in_place;
    Index kl, kr;
    bool on_left;  // the long sums are over columns of X, and panels are columns; else rows
    Index length, across, width;
    Index panel = 0, inner = 0, parts = 0;
  };

  /// The same panel of some matrices of a group.
  struct Batch {
    Layout layout;
    std::span<const Item> items;
    Index first;
    T* memory;

    Index width() const { return std::min(layout.width, layout.across - first); }
    Index rows() const { return layout.on_left ? layout.length : width(); }
    Index cols() const { return layout.on_left ? width() : layout.length; }
    const ProjectionPiece<T>& shape() const { return items.front().piece; }
    Index stride() const { return layout.in_place ? shape().fast : rows(); }
    T* panel(std::size_t i) const {
      if (layout.in_place) return static_cast<T*>(items[i].piece.tensor.data) + offset();
      return memory + static_cast<Index>(i) * layout.total();
    }
    T* inner(std::size_t i) const { return memory + static_cast<Index>(i) * layout.total() + layout.panel; }
    T* parts(std::size_t i) const { return inner(i) + layout.inner; }
    Index offset() const { return layout.on_left ? first * shape().fast : first; }
  };
  struct Operands {
    const T* a;
    const T* b;
    T* c;
  };
  struct Gemm {
    Transpose ta, tb;
    Index m, n, k;
    T alpha;
    Index lda, ldb;
    T beta;
    Index ldc;
  };
  /// The tables on the device.
  struct Tables {
    void* const* pointers;
    const PanelEntry* panels;
    const AddPartsEntry* products;
  };
  using Step = std::function<void(const Session&, cublasHandle_t, const Tables&)>;
  using Steps = std::vector<Step>;

  void make_steps(const Batch& batch) {
    if (!batch.layout.both()) return side_steps(batch);
    if (batch.items.front().task.inner) measure_steps(batch);
    if (batch.items.front().task.remove) change_steps(batch);
  }
  void measure_steps(const Batch& batch) {
    const auto& l = batch.layout;
    const Index width = batch.width();
    move_panels(measure_, batch, false);
    std::vector<Operands> factors;
    std::vector<AddPartsEntry> products;
    for (std::size_t i = 0; i < batch.items.size(); ++i) {
      factors.push_back({batch.items[i].piece.left.matrix().data, batch.panel(i), batch.parts(i)});
      products.push_back({batch.parts(i), batch.inner(i), nullptr, nullptr});
    }
    const Index left_stride = batch.shape().left.stride, right_stride = batch.shape().right.stride;
    long_product(measure_,
                 {Transpose::yes, Transpose::no, l.kl, width, l.length, 1, left_stride, batch.stride(), 0, l.kl},
                 factors, products, false, Output::weighted);
    for (std::size_t i = 0; i < batch.items.size(); ++i) {
      factors[i] = {batch.inner(i), batch.items[i].piece.right.data + batch.first, batch.parts(i)};
      products[i] = {batch.parts(i), batch.items[i].task.inner, nullptr, nullptr};
    }
    long_product(measure_, {Transpose::no, Transpose::no, l.kl, l.kr, width, 1, l.kl, right_stride, 0, l.kl}, factors,
                 products, false, batch.first == 0 ? Output::sums : Output::added);
  }
  void change_steps(const Batch& batch) {
    const auto& l = batch.layout;
    const Index width = batch.width(), left_stride = batch.shape().left.stride;
    move_panels(change_, batch, false);
    std::vector<Operands> half, whole;
    for (std::size_t i = 0; i < batch.items.size(); ++i) {
      const auto& [piece, task] = batch.items[i];
      half.push_back({task.remove, piece.right.data + batch.first, batch.inner(i)});
      whole.push_back({piece.left.matrix().data, batch.inner(i), batch.panel(i)});
    }
    gemm(change_, {Transpose::no, Transpose::yes, l.kl, width, l.kr, 1, l.kl, batch.shape().right.stride, 0, l.kl},
         half);
    gemm(change_,
         {Transpose::no, Transpose::no, l.length, width, l.kl, -1, left_stride, l.kl, keep(batch), batch.stride()},
         whole);
    move_panels(change_, batch, true);
  }
  void side_steps(const Batch& batch) {
    const auto& l = batch.layout;
    const Index width = batch.width(), before = batch.first / l.width;  // panels before this one
    const Index k = l.on_left ? l.kl : l.kr;
    const Index blocks = l.on_left ? column_blocks(k, l.width) : column_blocks(l.width, k);
    move_panels(change_, batch, false);
    std::vector<Operands> long_ones, whole;
    std::vector<AddPartsEntry> products;
    for (std::size_t i = 0; i < batch.items.size(); ++i) {
      const auto& [piece, task] = batch.items[i];
      const T* basis = l.on_left ? piece.left.matrix().data : piece.right.data;
      const T* panel = batch.panel(i);
      const T* inner = batch.inner(i);
      long_ones.push_back({l.on_left ? basis : panel, l.on_left ? panel : basis, batch.parts(i)});
      whole.push_back({l.on_left ? basis : inner, l.on_left ? inner : basis, batch.panel(i)});
      products.push_back({batch.parts(i), batch.inner(i), task.weights, task.squares + before * blocks});
    }
    const Index basis_stride = l.on_left ? batch.shape().left.stride : batch.shape().right.stride;
    if (l.on_left) {
      long_product(change_, {Transpose::yes, Transpose::no, k, width, l.length, 1, basis_stride, batch.stride(), 0, k},
                   long_ones, products, true, Output::weighted);
      gemm(change_,
           {Transpose::no, Transpose::no, l.length, width, k, -1, basis_stride, k, keep(batch), batch.stride()}, whole);
    } else {
      long_product(change_,
                   {Transpose::no, Transpose::no, width, k, l.length, 1, batch.stride(), basis_stride, 0, width},
                   long_ones, products, false, Output::weighted);
      gemm(change_,
           {Transpose::no, Transpose::yes, width, l.length, k, -1, width, basis_stride, keep(batch), batch.stride()},
           whole);
    }
    move_panels(change_, batch, true);
  }
  static T keep(const Batch& batch) { return static_cast<T>(batch.items.front().task.keep); }

  /// From the tensors' own memory to panels of the arithmetic type, or back; nothing where they are the same.
  void move_panels(Steps& steps, const Batch& batch, bool store) {
    if (batch.layout.in_place) return;
    const std::size_t at = panels_.size();
    for (std::size_t i = 0; i < batch.items.size(); ++i) {
      visit_dtype(batch.shape().tensor.dtype, [&](auto* tag) {
        using S = std::remove_pointer_t<decltype(tag)>;
        const auto& piece = batch.items[i].piece;
        const S* origin = static_cast<const S*>(piece.origin.data);
        panels_.push_back({static_cast<S*>(piece.tensor.data) + batch.offset(),
                           origin ? origin + batch.offset() : nullptr, batch.panel(i)});
      });
    }
    Index rows = batch.rows(), cols = batch.cols();
    const Index stride = batch.shape().fast, count = static_cast<Index>(batch.items.size());
    if (rows == stride) {  // one long column
      rows *= cols;
      cols = 1;
    }
    const int dtype = static_cast<int>(batch.shape().tensor.dtype);
    steps.push_back([=](const Session& session, cublasHandle_t, const Tables& tables) {
      const PanelParameters parameters{tables.panels + at, rows, cols, stride, dtype, store};
      session->module().launch(typed<T>("ogpsa_panels"), column_blocks(rows, cols) * count, session->stream(),
                               parameters);
    });
  }

  /// c <- alpha op(a) op(b) + beta c of each
  void gemm(Steps& steps, const Gemm& g, const std::vector<Operands>& operands) {
    if (g.m == 0 || g.n == 0 || operands.empty()) return;
    const std::size_t count = operands.size(), at = pointers_.size();
    for (const auto& o : operands) pointers_.push_back(const_cast<T*>(o.a));
    for (const auto& o : operands) pointers_.push_back(const_cast<T*>(o.b));
    for (const auto& o : operands) pointers_.push_back(o.c);
    steps.push_back([=](const Session&, cublasHandle_t cublas, const Tables& tables) {
      constexpr auto type = sizeof(T) == 4 ? CUDA_R_32F : CUDA_R_64F;
      constexpr auto compute = sizeof(T) == 4 ? CUBLAS_COMPUTE_32F : CUBLAS_COMPUTE_64F;
      const auto op = [](Transpose t) { return t == Transpose::yes ? CUBLAS_OP_T : CUBLAS_OP_N; };
      void* const* a = tables.pointers + at;
      check(cublasGemmBatchedEx_64(cublas, op(g.ta), op(g.tb), g.m, g.n, g.k, &g.alpha, a, type, g.lda, a + count, type,
                                   g.ldb, &g.beta, a + 2 * count, type, g.ldc, static_cast<int64_t>(count), compute,
                                   CUBLAS_GEMM_DEFAULT),
            "cublasGemmBatchedEx_64", {{"m", g.m}, {"n", g.n}, {"k", g.k}, {"batch", static_cast<Index>(count)}});
    });
  }
  /// The same with long sums (k): kProductPart products at a time by cuBLAS, then in double (see AddPartsParameters).
  void long_product(Steps& steps, const Gemm& g, const std::vector<Operands>& operands,
                    const std::vector<AddPartsEntry>& products, bool weight_of_row, Output output) {
    const Index full = g.k / kProductPart, rest = g.k % kProductPart;
    std::vector<Operands> wholes, rests;
    for (const auto& o : operands) {
      for (Index p = 0; p <= full; ++p) {
        const Index row = p * kProductPart;
        const Operands part{o.a + (g.ta == Transpose::yes ? row : row * g.lda), o.b + row, o.c + p * g.m * g.n};
        if (p < full) wholes.push_back(part);
        if (p == full && rest > 0) rests.push_back(part);
      }
    }
    gemm(steps, {g.ta, g.tb, g.m, g.n, kProductPart, g.alpha, g.lda, g.ldb, g.beta, g.ldc}, wholes);
    gemm(steps, {g.ta, g.tb, g.m, g.n, rest, g.alpha, g.lda, g.ldb, g.beta, g.ldc}, rests);
    const std::size_t at = products_.size();
    products_.insert(products_.end(), products.begin(), products.end());
    const Index parts = full + (rest > 0), rows = g.m, cols = g.n, count = static_cast<Index>(products.size());
    steps.push_back([=](const Session& session, cublasHandle_t, const Tables& tables) {
      const AddPartsParameters parameters{tables.products + at, parts, rows, cols, weight_of_row, output};
      session->module().launch(typed<T>("ogpsa_add_parts"), column_blocks(rows, cols) * count, session->stream(),
                               parameters);
    });
  }

  void run(const Session& session, cublasHandle_t cublas, const Steps& steps) const {
    for (const auto& step : steps) step(session, cublas, tables_);
  }

  std::vector<Item> items_;
  Steps measure_, change_;
  std::vector<void*> pointers_;
  std::vector<PanelEntry> panels_;
  std::vector<AddPartsEntry> products_;
  Tables tables_ = {};  // in the workspace of the session
};

}  // namespace ogpsa::detail::cuda
