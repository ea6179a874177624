#pragma once

#include <filesystem>
#include <vector>

namespace align {

/// One page that shows runs of `ogpsa_align train`, finished or not, beside each other: what they gained and cost,
/// their curves, what was removed from each block, and their settings. It is one file, and asks for nothing over a
/// network. \param runs  their folders; one that is named twice counts once \throws ogpsa::InvalidArgument for a folder
/// that is no run, ogpsa::FileError
void write_report(const std::vector<std::filesystem::path>& runs, const std::filesystem::path& output);

}  // namespace align
