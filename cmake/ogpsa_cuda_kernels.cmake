# Makes cuda_kernels_text.hpp, in which the kernels stand as text for NVRTC:
#   cmake -DIN=include/ogpsa/backend/cuda_kernels.cuh -DOUT=DIR/ogpsa/backend/cuda_kernels_text.hpp -P ogpsa_cuda_kernels.cmake
file(READ "${IN}" text)
string(LENGTH "${text}" length)
set(literals "")
set(at 0)
while(at LESS length)  # compilers need not take literals of more than 64 KiB
  string(SUBSTRING "${text}" ${at} 16000 part)
  string(APPEND literals "    R\"ogpsa(${part})ogpsa\"\n")
  math(EXPR at "${at} + 16000")
endwhile()
set(header "#pragma once

// Made from cuda_kernels.cuh by ogpsa_cuda_kernels.cmake.

namespace ogpsa::detail::cuda {

inline constexpr const char* kernels_text =
${literals};

}  // namespace ogpsa::detail::cuda
")
set(old "")
if(EXISTS "${OUT}")
  file(READ "${OUT}" old)
endif()
if(NOT old STREQUAL header)
  file(WRITE "${OUT}" "${header}")
endif()
