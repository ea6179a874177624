#pragma once

namespace align {

/// The program's commands. Each gets the arguments from its own name on, and gives the exit status.
/// \throws std::exception, whose message is for the user
int train_command(int argc, char** argv);
int evaluate_command(int argc, char** argv);
int study_command(int argc, char** argv);

}  // namespace align
