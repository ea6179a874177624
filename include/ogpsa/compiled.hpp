#pragma once

#include "ogpsa/ogpsa.hpp"

/// \file
/// What costs most to compile, declared as compiled elsewhere, for float and double on the CPU. ogpsa.hpp includes this
/// where OGPSA_COMPILED is defined, in every file of a program; one file of it then includes ogpsa/compiled.cpp. With
/// CMake, linking `ogpsa::compiled` does both.

namespace ogpsa {
namespace detail {

/// Defined where the library is compiled, and named in each file that uses it: a program whose files align Eigen's
/// memory otherwise (by -march, say) does not link, instead of freeing that memory wrongly.
template <int EigenAlignment>
int compiled_for_eigen_alignment();
#ifdef OGPSA_COMPILED_HERE
#define OGPSA_EXTERN
template <>
int compiled_for_eigen_alignment<EIGEN_MAX_ALIGN_BYTES>() {
  return EIGEN_MAX_ALIGN_BYTES;
}
#else
#define OGPSA_EXTERN extern
[[gnu::used]] static int (*const eigen_alignment_of_this_file)() = &compiled_for_eigen_alignment<EIGEN_MAX_ALIGN_BYTES>;
#endif

}  // namespace detail

#define OGPSA_INSTANCES(T)                                                                               \
  OGPSA_EXTERN template class Subspace<T, EigenBackend>;                                                 \
  OGPSA_EXTERN template class KroneckerFactor<T, EigenBackend>;                                          \
  OGPSA_EXTERN template class ReferenceCollector<T, EigenBackend>;                                       \
  OGPSA_EXTERN template class Projector<T, EigenBackend>;                                                \
  OGPSA_EXTERN template std::vector<ProjectionResult> project_units(const EigenBackend&,                 \
                                                                    std::span<const ProjectionUnit<T>>); \
  OGPSA_EXTERN template void save(const std::filesystem::path&, const Projector<T, EigenBackend>&);      \
  OGPSA_EXTERN template void load(const std::filesystem::path&, Projector<T, EigenBackend>&);
OGPSA_INSTANCES(float)
OGPSA_INSTANCES(double)
OGPSA_EXTERN template class StoredSubspace<float, EigenBackend>;
#undef OGPSA_INSTANCES
#undef OGPSA_EXTERN

}  // namespace ogpsa
