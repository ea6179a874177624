#pragma once

// What the host tells the kernels. Both sides include this file, so it needs nothing, not even the standard library:
// NVRTC has none. Tables have no gaps between their members: two that are the same have the same bytes.

namespace ogpsa_cuda {

using Index = long long;

inline constexpr int kThreads = 256;         // of a block
inline constexpr Index kColumnPart = 4096;   // elements of a column that a block handles
inline constexpr Index kVectorTask = 16384;  // elements of a vector that a block handles
inline constexpr Index kFusedTask = 4096;    // the same where it measures some and changes others in one launch
inline constexpr int kTile = 4;              // columns of a tall matrix that are multiplied with as many others
inline constexpr int kMostFactors = 64, kMostProducts = 8;  // columns of a tall matrix, and of its product
inline constexpr double kNone = 1e300;                      // an index that is none; indices are exact in a double

// Data types (`dtype`) are numbered as ogpsa::DType.

// to(i, j) <- factor * from(i, j), converted; element (i, j) stands at i * row + j * col.
struct CopyParameters {
  const void* from;
  void* to;
  int from_dtype, to_dtype;
  Index rows, cols;
  Index from_row, from_col, to_row, to_col;
  double factor;
};

enum class Operation : int {
  scale_columns,  // a(i, j) <- factors[j] a(i, j)
  add_scaled,     // a(i, j) <- a(i, j) + weight x
  divide_rows,    // a(i, j) <- a(i, j) / x
  difference,     // a(i, j) <- x - y
  move,           // x <- x + (a(i, j) - (x - y))
  multiply,       // a(i, j) <- factors[i] a(i, j)
};

// a: `rows x cols` of the arithmetic type, columns `stride` apart; x and y: of type `dtype`, at i + j x_stride.
struct ElementwiseParameters {
  Operation operation;
  int dtype;
  void* a;
  Index rows, cols, stride;
  void* x;
  const void* y;
  const double* factors;
  double weight;
  Index x_stride;
};

enum class Question : int {
  first_beyond,   // index of the first value whose exponent is at least `low`, or that is not finite
  first_outside,  // index of the first value that is not in [low, high]
  max_abs,        // largest magnitude, NaN aside
};

// Contiguous values, cut into tasks of `task_length`; `first_task` counts over all columns.
struct ColumnEntry {
  const void* data;
  Index size;
  Index first_task;
  int dtype, unused = 0;
};

// One answer for each task.
struct AskParameters {
  Question question;
  const ColumnEntry* columns;
  Index count;
  Index task_length;
  double low, high;
  double* answers;
};

// `tasks` rows of `width` numbers from `partial` on become one row, which starts at `first_task` of the results.
struct RowsEntry {
  Index partial;
  Index tasks;
  Index width;
  Index first_task;
};

enum class Combination : int { sum, smallest, largest };

// One block for each number of the results.
struct GatherParameters {
  Combination combination;
  const RowsEntry* rows;
  Index count;
  const double* partial;
  double* results;
};

// A vector and the basis to project it by (size x rank, columns `stride` apart).
struct VectorEntry {
  void* data;
  const void* origin;  // null, or the vector is data - origin, and what changes it is added to data
  const void* basis;
  Index size;
  Index stride;
  Index rank;
  Index first_task;
  Index partial;  // where the results of its tasks start: rank + 1 for each in `measure`, one in `change`
  Index remove;   // where its coefficients start
  double keep;
  int dtype, unused = 0;
};

// For each task of each vector, basis^T x and |x|^2 over its elements.
struct MeasureParameters {
  const VectorEntry* vectors;
  Index count;
  double* partial;
};

// x <- keep x - basis remove, and |x|^2 of the result for each task. Where nothing is to be done nothing is written, so
// that a tensor keeps its bits also where it is wider than the arithmetic.
struct ChangeParameters {
  const VectorEntry* vectors;
  Index count;
  const double* remove;
  double* partial;
};

// A vector that is measured and changed in one launch.
struct FusedEntry {
  VectorEntry vector;  // first_task: unused; partial: of rank + 1 for each task; remove: where its weights start
  Index tasks;
  Index results;  // where its coefficients go, and |x|^2 after them
  Index after;    // where |x|^2 of the result goes
};

// Tasks [first_task, the next step's) measure a vector, or change it.
struct FusedStep {
  Index first_task;
  int entry, change;
};

// x <- keep x - basis (weights o basis^T x) for each vector. Blocks take tasks in their order; one that changes waits
// until all that measure the same vector are done, which come before it, so that somebody is at work on them.
struct FusedParameters {
  const FusedEntry* vectors;
  const FusedStep* steps;
  Index count;  // of steps
  Index tasks;
  const double* weights;
  double* partial;
  double* results;
  unsigned int* state;  // tasks taken, and then three numbers for each vector; all zero before and after
};

// Some columns of two tall matrices (at most kTile of each), whose products are asked for.
struct GramEntry {
  const void* a;
  const void* b;
  Index rows, a_stride, b_stride;
  Index first_task;
  int a_cols, b_cols;
};

// For each task of each entry, kTile * kTile numbers: a^T b over its rows, column by column.
struct GramParameters {
  const GramEntry* entries;
  Index count;
  double* partial;
};

// A tall matrix times a small one, and where the product goes, which may be the first columns of `a`.
struct ProductEntry {
  const void* a;
  void* to;
  Index rows, a_stride, to_stride;
  Index first_task;
  Index factor;         // where the small matrix (a_cols x to_cols) starts
  int a_cols, to_cols;  // at most kMostFactors and kMostProducts
};

struct ProductParameters {
  const ProductEntry* entries;
  Index count;
  const double* factors;
};

// A part of a matrix in its own memory, and in the arithmetic type.
struct PanelEntry {
  void* data;
  const void* origin;  // null, or the matrix is data - origin, and what changes it is added to data
  void* panel;
};

// panel(i, j) <- the matrix, or back where `store`; the same shape for all. Columns of the matrix are `stride` apart.
struct PanelParameters {
  const PanelEntry* panels;
  Index rows, cols, stride;
  int dtype, store;
};

// Products of one shape (rows x cols, contiguous), each the sum of `parts` that lie one after the other.
struct AddPartsEntry {
  const void* from;
  void* to;
  const double* weights;  // of its rows or columns; null: all 1
  double* squares;        // takes a sum of squares (before weights) for each block; null: not asked for
};

enum class Output : int {
  weighted,  // to(i, j) <- weight * sum over parts, in the arithmetic type
  sums,      // to(i, j) <- sum over parts, in double
  added,     // to(i, j) <- to(i, j) + sum over parts, in double
};

// Sums are in double.
struct AddPartsParameters {
  const AddPartsEntry* products;
  Index parts;
  Index rows, cols;
  int weight_of_row;
  Output output;
};

}  // namespace ogpsa_cuda
