#pragma once

#include <string>
#include <vector>

#include "ogpsa/backend/cuda/parameters.hpp"
#include "ogpsa/backend/cuda/session.hpp"

/// \file
/// Launches of the kernels that work on one element at a time, and of those that ask questions to many columns.

namespace ogpsa::detail::cuda {

using ogpsa_cuda::AddPartsEntry, ogpsa_cuda::AddPartsParameters, ogpsa_cuda::Output;
using ogpsa_cuda::AskParameters, ogpsa_cuda::ColumnEntry, ogpsa_cuda::Question;
using ogpsa_cuda::ChangeParameters, ogpsa_cuda::MeasureParameters, ogpsa_cuda::VectorEntry;
using ogpsa_cuda::Combination, ogpsa_cuda::GatherParameters, ogpsa_cuda::RowsEntry;
using ogpsa_cuda::CopyParameters, ogpsa_cuda::ElementwiseParameters, ogpsa_cuda::Operation;
using ogpsa_cuda::FusedEntry, ogpsa_cuda::FusedParameters, ogpsa_cuda::FusedStep, ogpsa_cuda::kFusedTask;
using ogpsa_cuda::GramEntry, ogpsa_cuda::GramParameters, ogpsa_cuda::kTile;
using ogpsa_cuda::kColumnPart, ogpsa_cuda::kNone, ogpsa_cuda::kThreads, ogpsa_cuda::kVectorTask;
using ogpsa_cuda::kMostFactors, ogpsa_cuda::kMostProducts, ogpsa_cuda::ProductEntry, ogpsa_cuda::ProductParameters;
using ogpsa_cuda::PanelEntry, ogpsa_cuda::PanelParameters;

static_assert(static_cast<int>(DType::float32) == 0 && static_cast<int>(DType::float64) == 1 &&
              static_cast<int>(DType::bfloat16) == 2 && static_cast<int>(DType::float16) == 3);

/// Slots of a context's scratch memory. Those of one call must differ.
enum Slot : std::size_t {
  kTable,  // these only by `upload`
  kFactors,
  kRows,
  kSideRows,
  kMeasureTable,  // and the rows of its results in the next slot, as for the two after it
  kChangeTable = kMeasureTable + 2,
  kAfterTable = kChangeTable + 2,
  kFused = kAfterTable + 2,  // and the three after it: tables and sums of a FusedTable
  kStaged = kFused + 4,      // the same
  kStaging = kStaged + 4,
  kPartial,
  kResults,
  kPanel,
  kOther,
  kProduct,
  kPointers,  // and the two after it: tables of a MatrixBatches
  kPanels,
  kProducts,
  kSolver,
  kInfo,
  kSquares,
  kTiles,  // and the rows of their results in the next slot
  kNarrow = kTiles + 2,
  kRemoved,
  kRounded
};

inline Index column_blocks(Index rows, Index cols) { return (rows + kColumnPart - 1) / kColumnPart * cols; }

template <class T>
std::string typed(const char* kernel) {
  std::string name = kernel;
  name.append(sizeof(T) == 4 ? "_f32" : "_f64");  // g++ 12 warns of an overflow in operator+ where there is none
  return name;
}

/// Elements (i, j) at i * row + j * col.
struct Strided {
  const void* data;
  DType dtype;
  Index row, col;
};
template <class T>
Strided strided(MatrixView<T> a) {
  return {a.data, dtype_of<std::remove_const_t<T>>(), 1, a.stride};
}

/// to(i, j) <- factor * from(i, j), converted.
inline void copy(const Session& session, Strided from, Strided to, Index rows, Index cols, double factor = 1) {
  if (rows == 0 || cols == 0) return;
  if (from.row == 1 && to.row == 1 && from.col == rows && to.col == rows) {
    rows *= cols;  // one long column
    cols = 1;
  } else if (rows < cols && rows < kThreads) {
    std::swap(rows, cols);
    std::swap(from.row, from.col);
    std::swap(to.row, to.col);
  }
  const CopyParameters parameters{from.data,
                                  const_cast<void*>(to.data),
                                  static_cast<int>(from.dtype),
                                  static_cast<int>(to.dtype),
                                  rows,
                                  cols,
                                  from.row,
                                  from.col,
                                  to.row,
                                  to.col,
                                  factor};
  session->module().launch("ogpsa_copy", column_blocks(rows, cols), session->stream(), parameters);
}

/// \param x_stride  elements between the columns of x, and those of y; 0: all columns take the same ones
template <class T>
void elementwise(const Session& session, Operation operation, MatrixView<T> a, TensorView x, const void* y,
                 Index x_stride, const double* factors = nullptr, double weight = 1) {
  if (a.empty()) return;
  const ElementwiseParameters parameters{
      operation, static_cast<int>(x.dtype), a.data, a.rows, a.cols, a.stride, x.data, y, factors, weight, x_stride};
  session->module().launch(typed<T>("ogpsa_elementwise"), column_blocks(a.rows, a.cols), session->stream(), parameters);
}

/// A view for reading as the kernels take it.
inline TensorView mutable_view(ConstTensorView t) {
  return {const_cast<void*>(t.data), t.dtype, t.rows, t.cols, t.layout};
}

/// Combines the results of tasks, in a fixed order; see RowsEntry.
inline void gather(const Session& session, Combination combination, const std::vector<RowsEntry>& rows,
                   const double* partial, double* results, Slot slot = kRows) {
  if (rows.empty()) return;
  const Index count = static_cast<Index>(rows.size());
  const GatherParameters parameters{combination, session->upload(slot, rows.data(), count), count, partial, results};
  session->module().launch("ogpsa_gather", rows.back().first_task + rows.back().width, session->stream(), parameters);
}

/// One answer for each tensor (contiguous, in any type); see Question. Two launches in all.
inline std::vector<double> ask(const Session& session, Question question, const std::vector<ConstTensorView>& tensors,
                               double low = 0, double high = 0) {
  constexpr Index task_length = 65536;
  std::vector<ColumnEntry> columns;
  std::vector<RowsEntry> rows;
  Index tasks = 0;
  for (const auto& tensor : tensors) {
    const Index own = (tensor.size() + task_length - 1) / task_length;
    rows.push_back({tasks, own, 1, static_cast<Index>(rows.size())});
    if (own > 0) columns.push_back({tensor.data, tensor.size(), tasks, static_cast<int>(tensor.dtype), 0});
    tasks += own;
  }
  if (rows.empty()) return {};
  const Index count = static_cast<Index>(columns.size());
  double* answers = session->scratch<double>(kPartial, std::max<Index>(tasks, 1));
  double* results = session->scratch<double>(kResults, static_cast<Index>(rows.size()));
  if (tasks > 0) {
    const AskParameters parameters{
        question, session->upload(kTable, columns.data(), count), count, task_length, low, high, answers};
    session->module().launch("ogpsa_ask", tasks, session->stream(), parameters);
  }
  gather(session, question == Question::max_abs ? Combination::largest : Combination::smallest, rows, answers, results);
  return session->fetch(results, static_cast<Index>(rows.size()));
}

/// The answer of `ask` as an index; -1: none.
inline Index as_index(double answer) { return answer == kNone ? -1 : static_cast<Index>(answer); }

/// The columns of a matrix, as tensors.
template <class T>
std::vector<ConstTensorView> columns_of(MatrixView<const T> a) {
  std::vector<ConstTensorView> columns;
  for (Index j = 0; j < a.cols; ++j) columns.emplace_back(a.data + j * a.stride, dtype_of<T>(), 1, a.rows);
  return columns;
}

}  // namespace ogpsa::detail::cuda
