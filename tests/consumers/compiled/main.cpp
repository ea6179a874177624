// The consumer, without the code that ogpsa::compiled has.
#ifndef OGPSA_COMPILED
#error "ogpsa::compiled does not define OGPSA_COMPILED"
#endif
#include "../main.cpp"
