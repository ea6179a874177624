#pragma once

/// \file
/// The LibTorch adapter (LibTorch 1.13 to 2.15; for CUDA tensors see ogpsa/torch/cuda.hpp). It maps tensors to views
/// and calls the same core as everybody else. Opt-in: ogpsa.hpp does not include it.
///
/// Everything is in namespace ogpsa::torch; in code that says `using namespace ogpsa`, LibTorch is the global namespace
/// torch.

// Tensors as views; which parameters become blocks, and in which form.
#include "ogpsa/torch/tensors.hpp"
//
#include "ogpsa/torch/parameters.hpp"

// Reference losses and their gradients; the step of an optimizer.
#include "ogpsa/torch/reference.hpp"
//
#include "ogpsa/torch/optimizer_step.hpp"

// GradientProjector.
#include "ogpsa/torch/projector.hpp"
