# cmake -DBUILD=... -DSTAGE=... -P install.cmake: installs to another place, and moves the tree to STAGE.
file(REMOVE_RECURSE ${STAGE} ${STAGE}.before)
execute_process(COMMAND ${CMAKE_COMMAND} --install ${BUILD} --prefix ${STAGE}.before COMMAND_ERROR_IS_FATAL ANY)
file(RENAME ${STAGE}.before ${STAGE})
