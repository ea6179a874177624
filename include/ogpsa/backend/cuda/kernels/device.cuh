#pragma once

#include "../parameters.hpp"

// What all kernels use. A kernel is a sequence of phases. In a phase every thread of the block runs without waiting for
// another; between two phases all wait. What passes from one phase to the next does so in shared memory. All sums have
// a fixed order.

#ifndef OGPSA_KERNEL
#define OGPSA_KERNEL extern "C" __global__ void __launch_bounds__(256)
#define OGPSA_DEVICE __device__
#define OGPSA_SHARED __shared__
#define OGPSA_UNROLL _Pragma("unroll")

namespace ogpsa_cuda {

__device__ inline long long block_index() { return blockIdx.x; }
__device__ inline long long block_count() { return gridDim.x; }

template <class F>
__device__ inline void phase(F f) {
  f(static_cast<int>(threadIdx.x));
  __syncthreads();
}

// Of a pointer from a table, which the compiler else takes for one into any kind of memory.
__device__ inline void assume_global(const void* p) { __builtin_assume(__isGlobal(p)); }

// What one access of 16 bytes carries.
struct alignas(16) Words {
  unsigned int word[4];
};
// To global memory. In assembly, since the compiler cuts an assignment up where it can merge it with other stores.
__device__ inline void store_words(Words w, void* to) {
  asm volatile("st.global.v4.u32 [%0], {%1, %2, %3, %4};"
               :
               : "l"(__cvta_generic_to_global(to)), "r"(w.word[0]), "r"(w.word[1]), "r"(w.word[2]), "r"(w.word[3])
               : "memory");
}

// Between blocks. What one block wrote before `count_up` is seen by those that have seen the count.
// Adds one and returns what was there; from `last` on it starts again at zero.
__device__ inline unsigned int count_up(unsigned int* counter, unsigned int last) {
  __threadfence();
  const unsigned int before = atomicInc(counter, last);
  __threadfence();
  return before;
}
__device__ inline void wait_while_zero(unsigned int* counter) {
  while (*static_cast<volatile unsigned int*>(counter) == 0) __nanosleep(40);
  __threadfence();
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

template <class P>
struct Pointed;
template <class S>
struct Pointed<S*> {
  using Type = S;
};

// The type in which a stored value takes part in arithmetic `T` without losing a bit: double for double.
template <class T, class S>
struct Wide {
  using Type = T;
};
template <class T>
struct Wide<T, double> {
  using Type = double;
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
OGPSA_DEVICE inline ColumnPart column_part(Index rows, Index block) {
  const Index parts = (rows + kColumnPart - 1) / kColumnPart;
  const Index column = block / parts, part = block % parts;
  const Index begin = part * kColumnPart;
  return {column, begin, rows < begin + kColumnPart ? rows : begin + kColumnPart};
}

}  // namespace ogpsa_cuda
