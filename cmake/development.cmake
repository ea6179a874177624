# What the tests and the examples share; a guest never comes here.
enable_testing()
option(OGPSA_CORE_TESTS "Build the tests and examples that need no LibTorch" ON)
set(OGPSA_SANITIZE "" CACHE STRING "Sanitizers: address,undefined or thread (then only the tests of threads are built)")
if(OGPSA_SANITIZE)
  add_compile_options(-fsanitize=${OGPSA_SANITIZE} -fno-sanitize-recover=all -fno-omit-frame-pointer)
  add_link_options(-fsanitize=${OGPSA_SANITIZE})
endif()

# Warnings that are errors in our own code.
add_library(ogpsa_warnings INTERFACE)
target_compile_options(ogpsa_warnings INTERFACE -Wall -Wextra -Wconversion -Werror)

if(OGPSA_BUILD_TESTS)
  add_subdirectory(tests)
endif()
if(OGPSA_BUILD_EXAMPLES)
  add_subdirectory(examples)
endif()
