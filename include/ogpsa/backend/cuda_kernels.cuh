// The kernels of the CUDA backend, for nvcc and for NVRTC, which gets them as one text
// (cmake/ogpsa_cuda_kernels.cmake). A C++ compiler takes them too, where it is given what stands at the top of
// device.cuh: the tests run them on the CPU.

#include "cuda/kernels/columns.cuh"
#include "cuda/kernels/elements.cuh"
#include "cuda/kernels/fused.cuh"
#include "cuda/kernels/matrices.cuh"
#include "cuda/kernels/products.cuh"
#include "cuda/kernels/vectors.cuh"
