#pragma once

#include <string>

namespace align {

/// One turn of a conversation; the role is "system", "user" or "assistant".
struct Message {
  std::string role, content;
};

}  // namespace align
