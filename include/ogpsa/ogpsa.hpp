#pragma once

/// \file
/// All of ogpsa on the CPU. It needs Eigen 3.4 alone; LibTorch users include ogpsa/torch.hpp as well.

// Ground: exceptions, views on memory that others own, what a backend offers, the CPU backend.
#include "ogpsa/error.hpp"
#include "ogpsa/tensor_view.hpp"
//
#include "ogpsa/basis.hpp"
//
#include "ogpsa/backend.hpp"
#include "ogpsa/backend/eigen.hpp"

// Algorithms on tall matrices: how many directions to keep; CGS2, CholeskyQR2, shifted CholeskyQR3; the thin SVD.
#include "ogpsa/rank.hpp"
//
#include "ogpsa/orthonormalize.hpp"
#include "ogpsa/thin_svd.hpp"

// Subspaces: flat (estimate, append, update, merge, truncate), the same rounded to fewer bytes, and of one side of a
// matrix.
#include "ogpsa/subspace.hpp"
//
#include "ogpsa/stored_subspace.hpp"
#include "ogpsa/structured.hpp"

// Projection of one gradient and its modes; a whole model, with refresh, diagnostics and state.
#include "ogpsa/projection.hpp"
#include "ogpsa/projection_modes.hpp"
#include "ogpsa/projector.hpp"
#include "ogpsa/state.hpp"
#include "ogpsa/version.hpp"

#ifdef OGPSA_COMPILED
#include "ogpsa/compiled.hpp"
#endif
