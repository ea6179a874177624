#pragma once

/// \file
/// The version of ogpsa; CMake reads it from here.

#define OGPSA_VERSION_MAJOR 0
#define OGPSA_VERSION_MINOR 1
#define OGPSA_VERSION_PATCH 0
