# ogpsa_define_cuda(): ogpsa::cuda (the CUDA backend with its libraries) and ogpsa::cuda_headers (without them).
# CUDA 12 or 13; the toolkit, or its parts from PyPI with CUDAToolkit_ROOT. No nvcc is needed to use them.
set(ogpsa_cuda_kernels_script ${CMAKE_CURRENT_LIST_DIR}/ogpsa_cuda_kernels.cmake)

function(ogpsa_make_kernels_text kernels folder)
  execute_process(COMMAND ${CMAKE_COMMAND} -DIN=${kernels} -DOUT=${folder}/ogpsa/backend/cuda_kernels_text.hpp
                          -P ${ogpsa_cuda_kernels_script} RESULT_VARIABLE failed)
  if(failed)
    message(FATAL_ERROR "ogpsa: cannot make ${folder}/ogpsa/backend/cuda_kernels_text.hpp")
  endif()
endfunction()

function(ogpsa_define_cuda library kernels)
  find_package(CUDAToolkit 12 REQUIRED)
  set(folder ${CMAKE_CURRENT_BINARY_DIR}/ogpsa_cuda)
  ogpsa_make_kernels_text(${kernels} ${folder})
  get_filename_component(backend ${kernels} DIRECTORY)
  file(GLOB included ${backend}/cuda/kernels/*.cuh)
  set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${kernels} ${included} ${backend}/cuda/parameters.hpp
                                         ${ogpsa_cuda_kernels_script})
  add_library(ogpsa_cuda_headers INTERFACE)
  add_library(ogpsa::cuda_headers ALIAS ogpsa_cuda_headers)
  target_include_directories(ogpsa_cuda_headers INTERFACE $<BUILD_INTERFACE:${folder}>)
  target_include_directories(ogpsa_cuda_headers SYSTEM INTERFACE $<BUILD_INTERFACE:${CUDAToolkit_INCLUDE_DIRS}>)
  target_link_libraries(ogpsa_cuda_headers INTERFACE ${library})
  add_library(ogpsa_cuda INTERFACE)
  add_library(ogpsa::cuda ALIAS ogpsa_cuda)
  target_link_libraries(ogpsa_cuda INTERFACE ogpsa_cuda_headers CUDA::cudart CUDA::cublas CUDA::cusolver CUDA::nvrtc)
endfunction()
