#pragma once

namespace align {

/// `ogpsa_align report`; as the commands of app/commands.hpp.
int report_command(int argc, char** argv);

}  // namespace align
