/// \file
/// One file of a program in which OGPSA_COMPILED is defined: all that compiled.hpp lists.

#define OGPSA_COMPILED_HERE
#include "ogpsa/compiled.hpp"
