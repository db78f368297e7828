#include "common/signals.hpp"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <functional>
#include <thread>

#include <gtest/gtest.h>

namespace common {
namespace {

/// Runs `body` in a child: masks and dispositions are the process's. Its exit status, or -1 if a
/// signal ended it.
int status_of_child(const std::function<int()>& body) {
  const pid_t child = ::fork();
  if (child == 0) ::_exit(body());
  int status = 0;
  EXPECT_EQ(::waitpid(child, &status, 0), child);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

TEST(Signals, ArriveInTheDescriptorAndEndNothing) {
  EXPECT_EQ(status_of_child([] {
              const auto signals = catch_end_signals();
              if (!signals || next_signal(*signals) != 0) return 1;
              ::kill(::getpid(), SIGTERM);
              ::kill(::getpid(), SIGINT);
              pollfd wait{signals->get(), POLLIN, 0};
              if (::poll(&wait, 1, 5000) != 1) return 2;
              const int both = next_signal(*signals) + next_signal(*signals);
              if (both != SIGTERM + SIGINT) return 3;
              return next_signal(*signals) == 0 ? 0 : 4;
            }),
            0);
}

TEST(Signals, AreBlockedInThreadsStartedLater) {
  EXPECT_EQ(status_of_child([] {
              const auto signals = catch_end_signals();
              bool blocked = false;
              std::thread([&] {
                sigset_t mask;
                ::pthread_sigmask(SIG_BLOCK, nullptr, &mask);
                blocked = sigismember(&mask, SIGTERM) == 1 && sigismember(&mask, SIGINT) == 1;
              }).join();
              return signals && blocked ? 0 : 1;
            }),
            0);
}

TEST(Signals, WritingToAClosedPipeIsAnErrorAndNoEnd) {
  EXPECT_EQ(status_of_child([] {
              const auto signals = catch_end_signals();
              int pipe[2];
              if (!signals || ::pipe(pipe) != 0) return 1;
              ::close(pipe[0]);
              return ::write(pipe[1], "x", 1) == -1 && errno == EPIPE ? 0 : 2;
            }),
            0);
}

TEST(Signals, DescriptorIsClosedOnExecAndDoesNotBlock) {
  EXPECT_EQ(status_of_child([] {
              const auto signals = catch_end_signals();
              if (!signals) return 1;
              if ((::fcntl(signals->get(), F_GETFD) & FD_CLOEXEC) == 0) return 2;
              return (::fcntl(signals->get(), F_GETFL) & O_NONBLOCK) != 0 ? 0 : 3;
            }),
            0);
}

}  // namespace
}  // namespace common
