include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

install(DIRECTORY include/ogpsa TYPE INCLUDE)
target_include_directories(ogpsa INTERFACE $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>)
install(TARGETS ogpsa EXPORT ogpsa-targets)

# Nothing depends on the architecture, so everything goes to share/.
set(package_dir ${CMAKE_INSTALL_DATADIR}/cmake/ogpsa)
install(EXPORT ogpsa-targets NAMESPACE ogpsa:: DESTINATION ${package_dir})
configure_package_config_file(cmake/ogpsa-config.cmake.in ${PROJECT_BINARY_DIR}/ogpsa-config.cmake
                              INSTALL_DESTINATION ${package_dir} PATH_VARS CMAKE_INSTALL_INCLUDEDIR)
write_basic_package_version_file(${PROJECT_BINARY_DIR}/ogpsa-config-version.cmake COMPATIBILITY SameMinorVersion
                                 ARCH_INDEPENDENT)
install(FILES ${PROJECT_BINARY_DIR}/ogpsa-config.cmake ${PROJECT_BINARY_DIR}/ogpsa-config-version.cmake
              cmake/OgpsaCompiled.cmake cmake/OgpsaLibTorch.cmake cmake/OgpsaCuda.cmake cmake/ogpsa_cuda_kernels.cmake
        DESTINATION ${package_dir})

# The .pc file names folders relative to itself, so an installed tree can be moved.
set(pc_dir ${CMAKE_INSTALL_DATADIR}/pkgconfig)
file(RELATIVE_PATH pc_to_include ${CMAKE_INSTALL_FULL_DATADIR}/pkgconfig ${CMAKE_INSTALL_FULL_INCLUDEDIR})
configure_file(cmake/ogpsa.pc.in ${PROJECT_BINARY_DIR}/ogpsa.pc @ONLY)
install(FILES ${PROJECT_BINARY_DIR}/ogpsa.pc DESTINATION ${pc_dir})
install(FILES LICENSE TYPE DOC)
