# ogpsa_find_libtorch(error): finds LibTorch (headers, libtorch_cpu, libc10) and defines ogpsa::libtorch; `error` is set
# to what went wrong, or to "". The first that there is of:
#   1. the target torch, where the project has called find_package(Torch) itself
#   2. OGPSA_TORCH_DIR, Torch_DIR or CMAKE_PREFIX_PATH: a LibTorch folder, a Python package torch, or a folder inside one
#   3. the package torch of the python3 on the PATH
#   4. the system's own (Debian: libtorch-dev)
# Of a CUDA build, ogpsa::libtorch_cuda is defined too: libtorch_cuda and libc10_cuda.
# Torch's own CMake package is not called: it looks for CUDA even where nothing needs it, and fails on some versions of
# it. A project that wants CUDA calls it before ogpsa, and comes in by 1.

# The root of the LibTorch that has `folder` in it (include/ and lib/ are below the root), or "".
function(_ogpsa_libtorch_root result folder)
  set(${result} "" PARENT_SCOPE)
  foreach(up IN ITEMS . .. ../.. ../../.. ../../../..)
    get_filename_component(root "${folder}/${up}" ABSOLUTE)
    if(EXISTS "${root}/include/torch/csrc/api/include/torch/torch.h")
      set(${result} "${root}" PARENT_SCOPE)
      return()
    endif()
  endforeach()
endfunction()

# Folder of the Python package torch, without importing it (which takes seconds, and needs all of CUDA).
function(_ogpsa_python_torch result)
  find_program(python NAMES python3 python NO_CACHE)
  set(code "import importlib.util as u; s = u.find_spec('torch'); print(s.submodule_search_locations[0] if s else '')")
  execute_process(COMMAND "${python}" -c "${code}" OUTPUT_VARIABLE folder OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
  set(${result} ${folder} PARENT_SCOPE)
endfunction()

function(_ogpsa_libtorch_version result include)
  set(numbers "")
  foreach(header IN ITEMS torch/csrc/api/include/torch/version.h torch/headeronly/version.h)
    if(NOT numbers AND EXISTS "${include}/${header}")
      file(STRINGS "${include}/${header}" lines REGEX "define TORCH_VERSION_(MAJOR|MINOR|PATCH) ")
      string(REGEX MATCHALL "[0-9]+" numbers "${lines}")
    endif()
  endforeach()
  list(JOIN numbers . version)
  set(${result} "${version}" PARENT_SCOPE)
endfunction()

function(ogpsa_find_libtorch error)
  set(${error} "" PARENT_SCOPE)
  if(TARGET ogpsa::libtorch)
    return()
  endif()
  if(TARGET torch AND TORCH_LIBRARIES)
    add_library(ogpsa::libtorch INTERFACE IMPORTED GLOBAL)
    target_link_libraries(ogpsa::libtorch INTERFACE ${TORCH_LIBRARIES})
    if(TARGET c10_cuda)
      add_library(ogpsa::libtorch_cuda INTERFACE IMPORTED GLOBAL)
      target_link_libraries(ogpsa::libtorch_cuda INTERFACE ogpsa::libtorch)
    endif()
    message(STATUS "ogpsa: LibTorch of this project's find_package(Torch)")
    return()
  endif()

  set(how "Install libtorch-dev (Debian, Ubuntu) or the Python package torch, or give its folder as OGPSA_TORCH_DIR.")
  if(OGPSA_TORCH_DIR)
    set(folders "${OGPSA_TORCH_DIR}")
  else()
    _ogpsa_python_torch(python_torch)
    set(folders ${Torch_DIR} ${CMAKE_PREFIX_PATH} ${python_torch} ${CMAKE_SYSTEM_PREFIX_PATH})
  endif()
  foreach(folder IN LISTS folders)
    _ogpsa_libtorch_root(root "${folder}")
    if(root)
      break()
    endif()
  endforeach()
  if(NOT root)
    list(JOIN folders ", " folders)
    set(${error} "LibTorch was not found in ${folders}. ${how}" PARENT_SCOPE)
    return()
  endif()

  unset(cpu)
  unset(c10)
  set(places PATHS "${root}" PATH_SUFFIXES lib lib64 "lib/${CMAKE_LIBRARY_ARCHITECTURE}" NO_DEFAULT_PATH NO_CACHE)
  find_library(cpu torch_cpu ${places})
  find_library(c10 c10 ${places})
  _ogpsa_libtorch_version(version "${root}/include")
  if(NOT cpu OR NOT c10)
    set(${error} "The LibTorch in ${root} has no libtorch_cpu or no libc10. ${how}" PARENT_SCOPE)
    return()
  elseif(version VERSION_LESS 1.13)
    set(${error} "The LibTorch in ${root} has version ${version}; ogpsa needs 1.13 or newer. ${how}" PARENT_SCOPE)
    return()
  endif()

  add_library(ogpsa::libtorch INTERFACE IMPORTED GLOBAL)
  target_include_directories(ogpsa::libtorch INTERFACE "${root}/include" "${root}/include/torch/csrc/api/include")
  target_link_libraries(ogpsa::libtorch INTERFACE "${cpu}" "${c10}")
  # std::string in the library's own symbols tells which of GCC's two ABIs it was built for.
  file(STRINGS "${c10}" cxx11_symbol REGEX "__cxx11" LIMIT_COUNT 1)
  if(NOT cxx11_symbol)
    target_compile_definitions(ogpsa::libtorch INTERFACE _GLIBCXX_USE_CXX11_ABI=0)
  endif()
  # libtorch_cpu of a wheel needs parts of the CUDA runtime, which pip puts beside it.
  file(GLOB cuda_folders "${root}/../nvidia/*/lib")
  list(TRANSFORM cuda_folders PREPEND "-Wl,-rpath-link," OUTPUT_VARIABLE links)
  target_link_options(ogpsa::libtorch INTERFACE ${links})
  message(STATUS "ogpsa: LibTorch ${version} in ${root}")

  unset(torch_cuda)
  unset(c10_cuda)
  find_library(torch_cuda torch_cuda ${places})
  find_library(c10_cuda c10_cuda ${places})
  if(torch_cuda AND c10_cuda)
    add_library(ogpsa::libtorch_cuda INTERFACE IMPORTED GLOBAL)
    # Nobody calls libtorch_cuda by name: it registers its kernels when it is loaded.
    target_link_libraries(ogpsa::libtorch_cuda INTERFACE ogpsa::libtorch -Wl,--push-state,--no-as-needed "${torch_cuda}"
                                                         -Wl,--pop-state "${c10_cuda}")
    # When the program runs, CUDA's libraries are those that this LibTorch came with, before those of a toolkit, which may
    # be older than LibTorch needs.
    list(TRANSFORM cuda_folders PREPEND "-Wl,-rpath,")
    target_link_options(ogpsa::libtorch_cuda INTERFACE ${cuda_folders})
  endif()
endfunction()
