# What the tests and the examples share; a guest never comes here.
enable_testing()
option(OGPSA_CORE_TESTS "Build the tests and examples that need no LibTorch" ON)
option(OGPSA_HEADERS_ALONE "Compile each header alone (15 s for one that includes LibTorch)" ON)
set(OGPSA_SANITIZE "" CACHE STRING "Sanitizers: address,undefined or thread (then only the tests of threads are built)")
if(OGPSA_SANITIZE)
  add_compile_options(-fsanitize=${OGPSA_SANITIZE} -fno-sanitize-recover=all -fno-omit-frame-pointer)
  add_link_options(-fsanitize=${OGPSA_SANITIZE})
  if(OGPSA_SANITIZE STREQUAL thread)
    add_compile_definitions(__SANITIZE_THREAD__)  # g++ says so by itself, clang does not; the tests are smaller then
  endif()
endif()

# How our own short programs are compiled: warnings are errors; -O3 would take twice as long to compile.
add_library(ogpsa_development INTERFACE)
target_compile_options(ogpsa_development INTERFACE -Wall -Wextra -Wconversion -Werror $<$<CONFIG:Release>:-O2>)

if(OGPSA_BUILD_TESTS)
  add_subdirectory(tests)
endif()
if(OGPSA_BUILD_EXAMPLES)
  add_subdirectory(examples)
endif()

find_package(Doxygen QUIET)
if(DOXYGEN_FOUND)
  configure_file(${PROJECT_SOURCE_DIR}/docs/Doxyfile.in ${PROJECT_BINARY_DIR}/Doxyfile @ONLY)
  add_custom_target(docs COMMAND ${DOXYGEN_EXECUTABLE} ${PROJECT_BINARY_DIR}/Doxyfile)
endif()
