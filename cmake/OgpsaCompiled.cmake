# ogpsa_define_compiled(CORE SOURCE): ogpsa::compiled, a static library of what costs most to compile, for programs of many
# files (see ogpsa/compiled.hpp). It is built in the tree that asks for it, with that tree's flags.
function(ogpsa_define_compiled core source)
  add_library(ogpsa_compiled STATIC "${source}")
  add_library(ogpsa::compiled ALIAS ogpsa_compiled)
  target_link_libraries(ogpsa_compiled PUBLIC ${core})
  target_compile_definitions(ogpsa_compiled INTERFACE OGPSA_COMPILED)
endfunction()
