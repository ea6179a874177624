#pragma once

#include <cstddef>
#include <type_traits>

/// \file
/// Kernels for the machine that the program runs on: each is compiled for several instruction sets, and the best that
/// the processor has is taken at run time, so that a program built for any x86-64 reaches the speed of this one.

#if defined(__GNUC__) || defined(__clang__)
#define OGPSA_ALWAYS_INLINE [[gnu::always_inline]] inline
#else
#define OGPSA_ALWAYS_INLINE inline
#endif
#if defined(__GNUC__) && defined(__x86_64__)
#define OGPSA_HAS_INSTRUCTION_SETS 1
#endif

namespace ogpsa::detail {

/// x (a number, a vector or an array), rounded as it stands: with -ffast-math too, the compiler does not mix the sum
/// that made it with what follows.
template <class T>
OGPSA_ALWAYS_INLINE T& fenced(T& x) {
#if defined(__x86_64__)
#ifdef __clang__
  constexpr std::size_t widest = 16;  // it asks the file, not the function, for the instruction set
#else
  constexpr std::size_t widest = 64;
#endif
  if constexpr (!std::is_array_v<T> && sizeof(T) <= widest) {
    asm("" : "+x"(x));
    return x;
  }
#endif
  asm("" : "+m"(x));
  return x;
}

/// Has a vector loaded once, where GCC would read it from memory again for each product that it is in.
template <class V>
OGPSA_ALWAYS_INLINE void keep_in_register([[maybe_unused]] V& x) {
#if defined(__x86_64__) && !defined(__clang__)
  asm("" : "+x"(x));
#endif
}

enum class InstructionSet {
  baseline,  ///< what the compiler was told (x86-64: SSE2), 16-byte vectors
  avx2,      ///< AVX2, FMA and F16C, 32-byte vectors
  avx512,    ///< AVX-512 F, BW, DQ, VL, 64-byte vectors
};

/// Of this processor. Not inlined: each kernel's call would have the check of the static variable.
[[gnu::noinline]] inline InstructionSet best_instruction_set() {
#ifdef OGPSA_HAS_INSTRUCTION_SETS
  static const InstructionSet best = [] {
    __builtin_cpu_init();
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    return !avx2 ? InstructionSet::baseline : avx512 ? InstructionSet::avx512 : InstructionSet::avx2;
  }();
  return best;
#else
  return InstructionSet::baseline;
#endif
}

// A kernel is a type with a function `template <int Bytes> static R run(A...)`, always inlined, which computes with
// vectors of that many bytes. Vectors are never passed between functions: their calling convention would depend on the
// instruction set.
template <class Kernel, class... A>
[[gnu::noinline]] auto run_baseline(A... arguments) {
  return Kernel::template run<16>(arguments...);
}
#ifdef OGPSA_HAS_INSTRUCTION_SETS
template <class Kernel, class... A>
__attribute__((target("avx2,fma,f16c"))) auto run_avx2(A... arguments) {
  return Kernel::template run<32>(arguments...);
}
template <class Kernel, class... A>
__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c"))) auto run_avx512(A... arguments) {
  return Kernel::template run<64>(arguments...);
}
#endif

/// Kernel::run(arguments...) with the given instruction set, which the processor must have.
template <class Kernel, class... A>
auto run_with(InstructionSet set, A... arguments) {
#ifdef OGPSA_HAS_INSTRUCTION_SETS
  if (set == InstructionSet::avx512) return run_avx512<Kernel>(arguments...);
  if (set == InstructionSet::avx2) return run_avx2<Kernel>(arguments...);
#endif
  (void)set;
  return run_baseline<Kernel>(arguments...);
}

/// Kernel::run(arguments...) with the best instruction set of this processor.
template <class Kernel, class... A>
auto run_best(A... arguments) {
  return run_with<Kernel>(best_instruction_set(), arguments...);
}

/// `Bytes / sizeof(T)` numbers. `Unaligned` is the same anywhere in memory.
template <class T, int Bytes>
struct Vector {
  typedef T Type __attribute__((vector_size(Bytes)));
  typedef T Unaligned __attribute__((vector_size(Bytes), aligned(alignof(T)), may_alias));
  static constexpr int size = Bytes / static_cast<int>(sizeof(T));
};

}  // namespace ogpsa::detail
