#pragma once

#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <sys/inotify.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <csignal>
#include <filesystem>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

/// Programs that are started, watched, and ended.

namespace align::test {

/// A program that runs; killed with this.
class Process {
 public:
  explicit Process(std::vector<std::string> command) {
    std::array<int, 2> ends{};
    if (pipe2(ends.data(), O_CLOEXEC) != 0) throw std::runtime_error("no pipe");
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    for (const int to : {STDOUT_FILENO, STDERR_FILENO}) posix_spawn_file_actions_adddup2(&actions, ends[1], to);
    std::vector<char*> arguments;
    for (auto& argument : command) arguments.push_back(argument.data());
    arguments.push_back(nullptr);
    const int error = posix_spawn(&id_, arguments[0], &actions, nullptr, arguments.data(), environ);
    posix_spawn_file_actions_destroy(&actions);
    close(ends[1]);
    output_ = ends[0];
    if (error != 0) throw std::runtime_error("cannot start " + command[0]);
  }
  ~Process() {
    kill();
    wait();
    close(output_);
  }
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;

  void kill() const {
    if (!ended_) ::kill(id_, SIGKILL);
  }
  bool ended() {
    ended_ = ended_ || waitpid(id_, &status_, WNOHANG) == id_;
    return ended_;
  }
  /// \return the exit status, or -1 when it was killed
  int wait() {
    if (!ended_) waitpid(id_, &status_, 0);
    ended_ = true;
    return WIFEXITED(status_) ? WEXITSTATUS(status_) : -1;
  }
  /// What it printed (less than a pipe holds), after it has ended.
  std::string output() const {
    std::string text;
    std::array<char, 4096> part{};
    for (ssize_t size; (size = read(output_, part.data(), part.size())) > 0;) {
      text.append(part.data(), static_cast<std::size_t>(size));
    }
    return text;
  }

 private:
  pid_t id_ = 0;
  int status_ = 0, output_ = -1;
  bool ended_ = false;
};

/// Sees files come, grow and go in some folders, and in those that are made there.
class FolderWatch {
 public:
  explicit FolderWatch(const std::vector<std::filesystem::path>& folders) : file_(inotify_init1(IN_CLOEXEC)) {
    for (const auto& folder : folders) add(folder);
  }
  ~FolderWatch() { close(file_); }
  FolderWatch(const FolderWatch&) = delete;
  FolderWatch& operator=(const FolderWatch&) = delete;

  struct Event {
    std::string name;
    bool created, moved_here;
  };
  /// What has happened since the last call; waits for it, but no longer than `milliseconds`.
  std::vector<Event> wait(int milliseconds) {
    std::vector<Event> events;
    pollfd descriptor{file_, POLLIN, 0};
    if (poll(&descriptor, 1, milliseconds) <= 0) return events;
    alignas(inotify_event) std::array<char, 16384> buffer{};
    const auto size = read(file_, buffer.data(), buffer.size());
    for (ssize_t at = 0; at < size;) {
      const auto* event = reinterpret_cast<const inotify_event*>(buffer.data() + at);
      at += static_cast<ssize_t>(sizeof *event + event->len);
      if (event->len == 0) continue;
      const bool created = (event->mask & IN_CREATE) != 0;
      if (created && (event->mask & IN_ISDIR) != 0) add(folders_[event->wd] / event->name);
      events.push_back({event->name, created, (event->mask & IN_MOVED_TO) != 0});
    }
    return events;
  }

 private:
  void add(const std::filesystem::path& folder) {
    folders_[inotify_add_watch(file_, folder.c_str(), IN_CREATE | IN_MOVE | IN_DELETE | IN_MODIFY)] = folder;
  }

  int file_;
  std::map<int, std::filesystem::path> folders_;
};

/// While it lives, files cannot grow beyond a size, here and in processes that are started: writing fails, as on a full
/// disk.
class FileSizeLimit {
 public:
  explicit FileSizeLimit(std::uintmax_t bytes) {
    getrlimit(RLIMIT_FSIZE, &before_);
    handler_ = std::signal(SIGXFSZ, SIG_IGN);
    const rlimit limit{bytes, before_.rlim_max};
    setrlimit(RLIMIT_FSIZE, &limit);
  }
  ~FileSizeLimit() {
    setrlimit(RLIMIT_FSIZE, &before_);
    std::signal(SIGXFSZ, handler_);
  }
  FileSizeLimit(const FileSizeLimit&) = delete;
  FileSizeLimit& operator=(const FileSizeLimit&) = delete;

 private:
  rlimit before_{};
  void (*handler_)(int) = nullptr;
};

}  // namespace align::test
