# Makes cuda_kernels_text.hpp, in which the kernels and what they include stand as one text for NVRTC:
#   cmake -DIN=include/ogpsa/backend/cuda_kernels.cuh -DOUT=DIR/ogpsa/backend/cuda_kernels_text.hpp -P ogpsa_cuda_kernels.cmake

cmake_minimum_required(VERSION 3.22)

# text += the file, with each #include "FILE" replaced by that file where it comes first, and dropped after.
function(append_file file)
  get_property(seen GLOBAL PROPERTY seen)
  if(file IN_LIST seen)
    return()
  endif()
  set_property(GLOBAL APPEND PROPERTY seen ${file})
  get_filename_component(folder ${file} DIRECTORY)
  file(READ ${file} rest)
  string(REPLACE "#pragma once\n" "" rest "${rest}")
  while(rest MATCHES "#include \"([^\"]+)\"\n")
    set(included ${CMAKE_MATCH_1})
    string(FIND "${rest}" "${CMAKE_MATCH_0}" at)
    string(SUBSTRING "${rest}" 0 ${at} before)
    string(LENGTH "${CMAKE_MATCH_0}" length)
    math(EXPR at "${at} + ${length}")
    string(SUBSTRING "${rest}" ${at} -1 rest)
    set_property(GLOBAL APPEND_STRING PROPERTY text "${before}")
    get_filename_component(included ${included} ABSOLUTE BASE_DIR ${folder})
    append_file(${included})
  endwhile()
  set_property(GLOBAL APPEND_STRING PROPERTY text "${rest}")
endfunction()

get_filename_component(IN "${IN}" ABSOLUTE)
append_file(${IN})
get_property(text GLOBAL PROPERTY text)
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
