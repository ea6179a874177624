#pragma once

#include <string>

namespace align::report {

/// The page that shows `data`: page/page.html with page/page.css and the scripts of page/ in it. They are strings of
/// the program (see page.cpp.in), so that it needs no files of its own when it is installed. \param data  JSON
std::string page(const std::string& data);

}  // namespace align::report
