#ifndef OGPSA_CUDA_KERNELS_CUH
#define OGPSA_CUDA_KERNELS_CUH

// The kernels of the CUDA backend, for nvcc and for NVRTC, so nothing is included. A C++ compiler takes them too, where
// the macros below and `block_index`, `phase` are given: the tests run them on the CPU.
//
// A kernel is a sequence of phases. In a phase every thread of the block runs without waiting for another; between
// two phases all wait. What passes from one phase to the next does so in shared memory. All sums have a fixed order.

#ifndef OGPSA_KERNEL
#define OGPSA_KERNEL extern "C" __global__ void __launch_bounds__(256)
#define OGPSA_DEVICE __device__
#define OGPSA_SHARED __shared__
#define OGPSA_UNROLL _Pragma("unroll")

namespace ogpsa_cuda {

__device__ inline long long block_index() { return blockIdx.x; }

template <class F>
__device__ inline void phase(F f) {
  f(static_cast<int>(threadIdx.x));
  __syncthreads();
}

__device__ inline float bits_to_float(unsigned bits) { return __uint_as_float(bits); }
__device__ inline unsigned float_to_bits(float x) { return __float_as_uint(x); }
__device__ inline unsigned long long double_to_bits(double x) {
  return static_cast<unsigned long long>(__double_as_longlong(x));
}
__device__ inline float half_to_float(unsigned short bits) {
  float x;
  asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(bits));
  return x;
}
__device__ inline unsigned short float_to_half(float x) {
  unsigned short bits;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(x));
  return bits;
}

}  // namespace ogpsa_cuda
#endif

namespace ogpsa_cuda {

using Index = long long;

constexpr int kThreads = 256;        // of a block
constexpr Index kColumnPart = 4096;  // elements of a column that a block handles
constexpr double kNone = 1e300;      // an index that is none; indices are exact in a double

// Storage types, numbered as ogpsa::DType.

struct BFloat16 {
  unsigned short bits;
};
struct Float16 {
  unsigned short bits;
};

template <class F>
OGPSA_DEVICE inline void visit(int dtype, F f) {
  switch (dtype) {
    case 0:
      return f(static_cast<float*>(nullptr));
    case 1:
      return f(static_cast<double*>(nullptr));
    case 2:
      return f(static_cast<BFloat16*>(nullptr));
    default:
      return f(static_cast<Float16*>(nullptr));
  }
}

OGPSA_DEVICE inline float value(float x) { return x; }
OGPSA_DEVICE inline double value(double x) { return x; }
OGPSA_DEVICE inline float value(BFloat16 x) { return bits_to_float(static_cast<unsigned>(x.bits) << 16); }
OGPSA_DEVICE inline float value(Float16 x) { return half_to_float(x.bits); }

OGPSA_DEVICE inline unsigned short float_to_bfloat16(float x) {
  const unsigned bits = float_to_bits(x);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<unsigned short>((bits >> 16) | 0x40u);  // NaN
  return static_cast<unsigned short>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

OGPSA_DEVICE inline void store(double x, float* to) { *to = static_cast<float>(x); }
OGPSA_DEVICE inline void store(double x, double* to) { *to = x; }
OGPSA_DEVICE inline void store(double x, BFloat16* to) { to->bits = float_to_bfloat16(static_cast<float>(x)); }
OGPSA_DEVICE inline void store(double x, Float16* to) { to->bits = float_to_half(static_cast<float>(x)); }
OGPSA_DEVICE inline void store(float x, float* to) { *to = x; }
OGPSA_DEVICE inline void store(float x, double* to) { *to = static_cast<double>(x); }
OGPSA_DEVICE inline void store(float x, BFloat16* to) { to->bits = float_to_bfloat16(x); }
OGPSA_DEVICE inline void store(float x, Float16* to) { to->bits = float_to_half(x); }

// The type in which a stored value takes part in arithmetic `T` without losing a bit: double for double.
template <class T, class S>
struct Wide {
  using Type = T;
};
template <class T>
struct Wide<T, double> {
  using Type = double;
};

// values[0] <- the combination of 256 values, in the order of a tree.
template <class Op>
OGPSA_DEVICE inline void combine(double* values, Op op) {
  for (int width = kThreads / 2; width > 0; width /= 2) {
    phase([&](int t) {
      if (t < width) values[t] = op(values[t], values[t + width]);
    });
  }
}

OGPSA_DEVICE inline double sum_of(double a, double b) { return a + b; }
OGPSA_DEVICE inline double smaller(double a, double b) { return b < a ? b : a; }
OGPSA_DEVICE inline double larger(double a, double b) { return a < b ? b : a; }

// The last entry of a table whose `first` (ascending) is at most `task`.
template <class Entry>
OGPSA_DEVICE inline Index entry_of(const Entry* entries, Index count, Index task) {
  Index low = 0, high = count;
  while (high - low > 1) {
    const Index middle = low + (high - low) / 2;
    if (entries[middle].first_task <= task) {
      low = middle;
    } else {
      high = middle;
    }
  }
  return low;
}

// Elements of one column that a block handles.
struct ColumnPart {
  Index column, begin, end;
};
OGPSA_DEVICE inline ColumnPart column_part(Index rows) {
  const Index parts = (rows + kColumnPart - 1) / kColumnPart;
  const Index column = block_index() / parts, part = block_index() % parts;
  const Index begin = part * kColumnPart;
  return {column, begin, rows < begin + kColumnPart ? rows : begin + kColumnPart};
}

// ---------------------------------------------------------------------------------------------------------- copies

// to(i, j) <- factor * from(i, j), converted; element (i, j) stands at i * row + j * col.
struct Copy {
  const void* from;
  void* to;
  int from_dtype, to_dtype;
  Index rows, cols;
  Index from_row, from_col, to_row, to_col;
  double factor;
};

OGPSA_KERNEL ogpsa_copy(Copy c) {
  const ColumnPart part = column_part(c.rows);
  phase([&](int t) {
    visit(c.from_dtype, [&](auto* from_tag) {
      visit(c.to_dtype, [&](auto* to_tag) {
        const auto* from = static_cast<decltype(from_tag)>(const_cast<void*>(c.from)) + part.column * c.from_col;
        auto* to = static_cast<decltype(to_tag)>(c.to) + part.column * c.to_col;
        for (Index i = part.begin + t; i < part.end; i += kThreads) {
          const auto x = value(from[i * c.from_row]);
          if (c.factor == 1) {
            store(x, to + i * c.to_row);
          } else {
            store(static_cast<double>(x) * c.factor, to + i * c.to_row);
          }
        }
      });
    });
  });
}

// ----------------------------------------------------------------------------------------- one element at a time

enum Operation {
  kScaleColumns,  // a(i, j) <- factors[j] a(i, j)
  kAddScaled,     // a(i, j) <- a(i, j) + weight x[i + j x_stride]
  kDivideRows,    // a(i, j) <- a(i, j) / x[i]
  kDifference,    // a(i, j) <- x - y, of x and y at i + j x_stride
  kMove,          // x <- x + (a(i, j) - (x - y)), of the same
  kMultiply,      // a[i] <- factors[i] a[i]
};

// a: `rows x cols` of the arithmetic type, columns `stride` apart.
struct Elementwise {
  int operation;
  int dtype;  // of x and y
  void* a;
  Index rows, cols, stride;
  void* x;
  const void* y;
  const double* factors;
  double weight;
  Index x_stride;
};

// x - origin in the arithmetic type; of doubles as doubles.
template <class T, class S>
OGPSA_DEVICE inline T difference(S x, S origin) {
  using W = typename Wide<T, decltype(value(x))>::Type;
  return static_cast<T>(static_cast<W>(value(x)) - static_cast<W>(value(origin)));
}

// x <- x + (step - (x - origin)): what is there already keeps its bits.
template <class T, class S>
OGPSA_DEVICE inline void move(T step, S origin, S* x) {
  using W = typename Wide<T, decltype(value(origin))>::Type;
  const T added = step - difference<T>(*x, origin);
  store(static_cast<W>(value(*x)) + static_cast<W>(added), x);
}

template <class T>
OGPSA_DEVICE inline void elementwise(const Elementwise& e) {
  const ColumnPart part = column_part(e.rows);
  phase([&](int t) {
    visit(e.dtype, [&](auto* tag) {
      auto* x = static_cast<decltype(tag)>(e.x) + part.column * e.x_stride;
      const auto* y = static_cast<decltype(tag)>(const_cast<void*>(e.y)) + part.column * e.x_stride;
      T* a = static_cast<T*>(e.a) + part.column * e.stride;
      for (Index i = part.begin + t; i < part.end; i += kThreads) {
        switch (e.operation) {
          case kScaleColumns:
            a[i] = static_cast<T>(static_cast<double>(a[i]) * e.factors[part.column]);
            break;
          case kAddScaled:
            a[i] += static_cast<T>(e.weight * static_cast<double>(value(x[i])));
            break;
          case kDivideRows:
            a[i] /= static_cast<T>(value(x[i - part.column * e.x_stride]));
            break;
          case kDifference:
            a[i] = difference<T>(x[i], y[i]);
            break;
          case kMultiply:
            a[i] = static_cast<T>(static_cast<double>(a[i]) * e.factors[i]);
            break;
          default:
            move(a[i], y[i], x + i);
        }
      }
    });
  });
}

OGPSA_KERNEL ogpsa_elementwise_f32(Elementwise e) { elementwise<float>(e); }
OGPSA_KERNEL ogpsa_elementwise_f64(Elementwise e) { elementwise<double>(e); }

// -------------------------------------------------------------------------------------- questions to many columns

enum Question {
  kFirstBeyond,   // index of the first value whose exponent is at least `low`, or that is not finite
  kFirstOutside,  // index of the first value that is not in [low, high]
  kMaxAbs,        // largest magnitude, NaN aside
};

// Contiguous values, cut into tasks of `task_length`; `first_task` counts over all columns.
struct Column {
  const void* data;
  Index size;
  Index first_task;
  int dtype, unused;
};

// One answer for each task.
struct Ask {
  int question;
  const Column* columns;
  Index count;
  Index task_length;
  double low, high;
  double* answers;
};

// The exponent field of a value; at its largest for what is not finite.
OGPSA_DEVICE inline int exponent_field(float x) { return static_cast<int>(float_to_bits(x) >> 23 & 0xffu); }
OGPSA_DEVICE inline int exponent_field(double x) { return static_cast<int>(double_to_bits(x) >> 52 & 0x7ffu); }
OGPSA_DEVICE inline int exponent_field(BFloat16 x) { return x.bits >> 7 & 0xff; }
OGPSA_DEVICE inline int exponent_field(Float16 x) { return x.bits >> 10 & 0x1f; }
OGPSA_DEVICE inline int largest_field(const float*) { return 0xff; }
OGPSA_DEVICE inline int largest_field(const double*) { return 0x7ff; }
OGPSA_DEVICE inline int largest_field(const BFloat16*) { return 0xff; }
OGPSA_DEVICE inline int largest_field(const Float16*) { return 0x1f; }

template <class S>
OGPSA_DEVICE inline double answer(const Ask& ask, const S* x, Index begin, Index end, int t) {
  const int largest = largest_field(x);
  // 2^exponent has the field exponent + bias, which is half of the largest.
  const double wanted = ask.low + largest / 2;
  const int field = wanted < 1 ? 1 : wanted < largest ? static_cast<int>(wanted) : largest;
  double result = ask.question == kMaxAbs ? 0 : kNone;
  for (Index i = begin + t; i < end; i += kThreads) {
    const double v = static_cast<double>(value(x[i]));
    if (ask.question == kMaxAbs) {
      result = larger(result, v < 0 ? -v : v);
      continue;
    }
    const bool found =
        ask.question == kFirstBeyond ? exponent_field(x[i]) >= field : !(v >= ask.low && v <= ask.high);
    if (found) return static_cast<double>(i);
  }
  return result;
}

OGPSA_KERNEL ogpsa_ask(Ask ask) {
  OGPSA_SHARED double answers[kThreads];
  const Column column = ask.columns[entry_of(ask.columns, ask.count, block_index())];
  const Index begin = (block_index() - column.first_task) * ask.task_length;
  const Index end = column.size < begin + ask.task_length ? column.size : begin + ask.task_length;
  phase([&](int t) {
    visit(column.dtype, [&](auto* tag) {
      answers[t] = answer(ask, static_cast<decltype(tag)>(const_cast<void*>(column.data)), begin, end, t);
    });
  });
  if (ask.question == kMaxAbs) {
    combine(answers, larger);
  } else {
    combine(answers, smaller);
  }
  phase([&](int t) {
    if (t == 0) ask.answers[block_index()] = answers[0];
  });
}

// --------------------------------------------------------------------------------------- results of tasks together

// `tasks` rows of `width` numbers from `partial` on become one row, which starts at `first_task` of the results.
struct Rows {
  Index partial;
  Index tasks;
  Index width;
  Index first_task;
};

enum Combination { kSum, kSmallest, kLargest };

// One block for each number of the results.
struct Gather {
  int combination;
  const Rows* rows;
  Index count;
  const double* partial;
  double* results;
};

OGPSA_KERNEL ogpsa_gather(Gather g) {
  OGPSA_SHARED double values[kThreads];
  const Rows rows = g.rows[entry_of(g.rows, g.count, block_index())];
  const double* from = g.partial + rows.partial + (block_index() - rows.first_task);
  const double none = g.combination == kSum ? 0 : g.combination == kSmallest ? kNone : 0;
  phase([&](int t) {
    double result = none;
    double carry = 0;  // of a compensated sum (Neumaier 1974)
    for (Index i = t; i < rows.tasks; i += kThreads) {
      const double x = from[i * rows.width];
      if (g.combination == kSmallest) result = smaller(result, x);
      if (g.combination == kLargest) result = larger(result, x);
      if (g.combination != kSum) continue;
      const double total = result + x;
      const double big = (result < 0 ? -result : result) < (x < 0 ? -x : x) ? x : result;
      carry += (big - total) + (big == x ? result : x);
      result = total;
    }
    // Where the sum has left the range, so has the carry: infinity must not become NaN.
    values[t] = carry - carry == 0 ? result + carry : result;
  });
  if (g.combination == kSum) combine(values, sum_of);
  if (g.combination == kSmallest) combine(values, smaller);
  if (g.combination == kLargest) combine(values, larger);
  phase([&](int t) {
    if (t == 0) g.results[block_index()] = values[0];
  });
}

// -------------------------------------------------------------------------------------- sums of products in parts

// to(i, j) <- weight * sum over `parts` of from[part * rows * cols + i + j rows], added in double; weight is weights[i]
// or weights[j], or 1 where there are none. Each block writes the sum of squares (before weights) of what it has.
struct AddParts {
  const void* from;
  void* to;
  Index parts;
  Index rows, cols;
  const double* weights;
  int weight_of_row;
  double* squares;
};

template <class T>
OGPSA_DEVICE inline void add_parts(const AddParts& a) {
  OGPSA_SHARED double squares[kThreads];
  const ColumnPart part = column_part(a.rows);
  const T* from = static_cast<const T*>(a.from) + part.column * a.rows;
  T* to = static_cast<T*>(a.to) + part.column * a.rows;
  phase([&](int t) {
    double square = 0;
    for (Index i = part.begin + t; i < part.end; i += kThreads) {
      double sum = 0;
      for (Index p = 0; p < a.parts; ++p) sum += static_cast<double>(from[p * a.rows * a.cols + i]);
      const T rounded = static_cast<T>(sum);
      square += static_cast<double>(rounded) * static_cast<double>(rounded);
      const double weight = a.weights ? a.weights[a.weight_of_row ? i : part.column] : 1;
      to[i] = static_cast<T>(static_cast<double>(rounded) * weight);
    }
    squares[t] = square;
  });
  combine(squares, sum_of);
  phase([&](int t) {
    if (t == 0) a.squares[block_index()] = squares[0];
  });
}

OGPSA_KERNEL ogpsa_add_parts_f32(AddParts a) { add_parts<float>(a); }
OGPSA_KERNEL ogpsa_add_parts_f64(AddParts a) { add_parts<double>(a); }

// ------------------------------------------------------------------------------------- projections of vectors

constexpr int kTogether = 8;         // columns of a basis that are read beside one pass over a vector
constexpr Index kLongestSum = 32;    // products that a thread adds in the arithmetic type, before it goes on in double
constexpr Index kVectorTask = 16384;  // elements that a block handles

// A vector and the basis to project it by (size x rank, columns `stride` apart).
struct Vector {
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
  int dtype, unused;
};

// For each task of each vector, basis^T x and |x|^2 over its elements.
struct Measure {
  const Vector* vectors;
  Index count;
  double* partial;
};

// Coefficients of columns [first, first + columns), and |x|^2 in the last place, of the elements of one thread.
template <class T, class S>
OGPSA_DEVICE inline void measure_elements(const S* x, const Vector& v, Index first, int columns, Index begin, Index end,
                                          int t, double (*sums)[kThreads]) {
  const S* origin = static_cast<const S*>(v.origin);
  const T* basis = static_cast<const T*>(v.basis) + first * v.stride;
  double total[kTogether + 1] = {};
  for (Index chunk = begin + t; chunk < end; chunk += kLongestSum * kThreads) {
    const Index last = end < chunk + kLongestSum * kThreads ? end : chunk + kLongestSum * kThreads;
    T part[kTogether] = {};
    for (Index i = chunk; i < last; i += kThreads) {
      const T xi = origin ? difference<T>(x[i], origin[i]) : static_cast<T>(value(x[i]));
      OGPSA_UNROLL
      for (int c = 0; c < kTogether; ++c) {
        if (c < columns) part[c] += basis[c * v.stride + i] * xi;
      }
      total[kTogether] += static_cast<double>(xi) * static_cast<double>(xi);
    }
    OGPSA_UNROLL
    for (int c = 0; c < kTogether; ++c) total[c] += static_cast<double>(part[c]);
  }
  OGPSA_UNROLL
  for (int c = 0; c <= kTogether; ++c) sums[c][t] = total[c];
}

struct Elements {
  Index begin, end;
};
OGPSA_DEVICE inline Elements elements_of(const Vector& v) {
  const Index begin = (block_index() - v.first_task) * kVectorTask;
  return {begin, v.size < begin + kVectorTask ? v.size : begin + kVectorTask};
}

template <class T>
OGPSA_DEVICE inline void measure(const Measure& m) {
  OGPSA_SHARED double sums[kTogether + 1][kThreads];
  const Vector v = m.vectors[entry_of(m.vectors, m.count, block_index())];
  const Elements e = elements_of(v);
  double* results = m.partial + v.partial + (block_index() - v.first_task) * (v.rank + 1);
  for (Index first = 0; first == 0 || first < v.rank; first += kTogether) {
    const int columns = static_cast<int>(v.rank - first < kTogether ? v.rank - first : kTogether);
    phase([&](int t) {
      visit(v.dtype, [&](auto* tag) {
        const auto* x = static_cast<decltype(tag)>(v.data);
        measure_elements<T>(x, v, first, columns, e.begin, e.end, t, sums);
      });
    });
    for (int width = kThreads / 2; width > 0; width /= 2) {
      phase([&](int t) {
        if (t >= width) return;
        for (int c = 0; c <= kTogether; ++c) sums[c][t] += sums[c][t + width];
      });
    }
    phase([&](int t) {
      if (t < columns) results[first + t] = sums[t][0];
      if (t == kTogether && first == 0) results[v.rank] = sums[kTogether][0];
    });
  }
}

OGPSA_KERNEL ogpsa_measure_f32(Measure m) { measure<float>(m); }
OGPSA_KERNEL ogpsa_measure_f64(Measure m) { measure<double>(m); }

// x <- keep x - basis remove, and |x|^2 of the result for each task. Where nothing is to be done nothing is written, so
// that a tensor keeps its bits also where it is wider than the arithmetic.
struct Change {
  const Vector* vectors;
  Index count;
  const double* remove;
  double* partial;
};

template <class T, class S>
OGPSA_DEVICE inline double change_elements(S* x, const Vector& v, const double* remove, const T* first_ones,
                                           bool nothing, Index begin, Index end, int t) {
  const T* basis = static_cast<const T*>(v.basis);
  const S* origin = static_cast<const S*>(v.origin);
  const T keep = static_cast<T>(v.keep);
  const Index ready = v.rank < kThreads ? v.rank : kThreads;
  double after = 0;
  for (Index i = begin + t; i < end; i += kThreads) {
    T xi = origin ? difference<T>(x[i], origin[i]) : static_cast<T>(value(x[i]));
    if (!nothing) {
      xi *= keep;
      for (Index c = 0; c < ready; ++c) xi -= first_ones[c] * basis[c * v.stride + i];
      for (Index c = ready; c < v.rank; ++c) xi -= static_cast<T>(remove[c]) * basis[c * v.stride + i];
      if (origin) {
        move(xi, origin[i], x + i);
      } else {
        store(xi, x + i);
      }
    }
    after += static_cast<double>(xi) * static_cast<double>(xi);
  }
  return after;
}

template <class T>
OGPSA_DEVICE inline void change(const Change& m) {
  OGPSA_SHARED double sums[kThreads];
  OGPSA_SHARED T first_ones[kThreads];  // of the coefficients, in the arithmetic type
  const Vector v = m.vectors[entry_of(m.vectors, m.count, block_index())];
  const Elements e = elements_of(v);
  const double* remove = m.remove + v.remove;
  phase([&](int t) {
    double largest = 0;
    for (Index c = t; c < v.rank; c += kThreads) largest = larger(largest, remove[c] < 0 ? -remove[c] : remove[c]);
    sums[t] = largest;
    first_ones[t] = t < v.rank ? static_cast<T>(remove[t]) : T(0);
  });
  combine(sums, larger);
  const bool nothing = v.keep == 1 && sums[0] == 0;
  phase([&](int) {});  // all have read sums[0] before it is overwritten
  phase([&](int t) {
    visit(v.dtype, [&](auto* tag) {
      auto* x = static_cast<decltype(tag)>(v.data);
      sums[t] = change_elements<T>(x, v, remove, first_ones, nothing, e.begin, e.end, t);
    });
  });
  combine(sums, sum_of);
  phase([&](int t) {
    if (t == 0) m.partial[block_index()] = sums[0];
  });
}

OGPSA_KERNEL ogpsa_change_f32(Change m) { change<float>(m); }
OGPSA_KERNEL ogpsa_change_f64(Change m) { change<double>(m); }

}  // namespace ogpsa_cuda

#endif
