#include "libvhost/session/event_fd.hpp"

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <thread>
#include <vector>

#include "tests/fakes/event.hpp"

namespace vhost::tests {
namespace {

using fakes::ends;
using fakes::Event;

TEST(EventFd, SignalsWithAndWithoutCareAddOne) {
  const Event event;
  const auto fd = event.shared();
  fd->signal();
  EXPECT_EQ(event.count(), 1U);
  fd->signal_with_care();
  EXPECT_EQ(event.count(), 1U);
  for (int i = 0; i < 1000; ++i) fd->signal_with_care();
  EXPECT_EQ(event.count(), 1000U);
}

TEST(EventFd, SignalsWithCareFromManyThreads) {
  const Event event;
  const auto fd = event.shared();
  {
    std::vector<std::jthread> threads;
    for (int i = 0; i < 8; ++i) {
      threads.emplace_back([&] {
        for (int j = 0; j < 500; ++j) fd->signal_with_care();
      });
    }
  }
  EXPECT_EQ(event.count(), 4000U);
}

TEST(EventFd, CareNeverWaitsWhateverTheFrontEndDoes) {
  const Event event;
  const auto fd = event.shared();
  event.make_blocking_and_full();
  std::jthread frontend([&](const std::stop_token& stop) {
    while (!stop.stop_requested()) ::fcntl(event.get(), F_SETFL, 0);
  });
  EXPECT_TRUE(ends(event, [&] {
    for (int i = 0; i < 20'000; ++i) fd->signal_with_care();
  }));
}

TEST(EventFd, IsSignalledWithCareOnceItIsDistrusted) {
  const Event event;
  const auto fd = event.shared();
  event.make_blocking_and_full();
  EXPECT_TRUE(fd->may_hang());
  EXPECT_FALSE(ends(event, [&] { fd->signal(); }));
  fd->distrust();
  EXPECT_FALSE(fd->may_hang());
  event.make_blocking_and_full();
  EXPECT_TRUE(ends(event, [&] { fd->signal(); }));
  EXPECT_EQ(event.count(), UINT64_MAX);  // full, and one more
  fd->signal();
  EXPECT_EQ(event.count(), 1U);
}

TEST(EventFd, WhatOneFrontEndDoesIsHeldAgainstItInLaterConnectionsAndAgainstNobodyElse) {
  const Event first;
  Event later;
  const Event other;
  later.conduct = first.conduct;
  first.shared()->distrust();
  EXPECT_FALSE(later.shared()->may_hang());
  EXPECT_TRUE(other.shared()->may_hang());
}

TEST(EventFd, IsFullWhenNothingMoreGoesIn) {
  const Event event;
  const auto fd = event.shared();
  EXPECT_FALSE(fd->full());
  event.add(UINT64_MAX - 2);
  EXPECT_FALSE(fd->full());
  event.add();
  EXPECT_TRUE(fd->full());
  fd->signal_with_care();  // the kernel goes one further
  EXPECT_TRUE(fd->full());
}

TEST(Conduct, IsSpokenOfOnce) {
  std::vector<std::string> lines;
  Conduct conduct([&](LogLevel level, std::string_view line) {
    EXPECT_EQ(level, LogLevel::warning);
    lines.emplace_back(line);
  });
  for (int i = 0; i < 3; ++i) conduct.call_hung();
  EXPECT_EQ(conduct.hung_calls(), 3U);
  ASSERT_EQ(lines.size(), 1U);
  EXPECT_NE(lines[0].find("eventfd blocking and full"), std::string::npos);
}

/// From now on this process has no asynchronous I/O of the kernel's.
void forbid_aio() {
  std::array filter{
      sock_filter BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      sock_filter BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_io_setup, 1, 0),
      sock_filter BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_io_submit, 0, 1),
      sock_filter BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOSYS),
      sock_filter BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  const sock_fprog program{filter.size(), filter.data()};
  ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
  if (::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) != 0) ::_exit(77);
}

TEST(EventFd, CareDoesWithoutTheKernelsHelp) {
  const Event event;
  const auto fd = event.shared();
  const pid_t child = ::fork();
  if (child == 0) {
    forbid_aio();
    fd->signal_with_care();
    event.make_blocking_and_full();
    ::alarm(10);
    fd->signal_with_care();
    ::_exit(0);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  if (WIFEXITED(status) && WEXITSTATUS(status) == 77) GTEST_SKIP() << "no seccomp filter here";
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
  EXPECT_EQ(event.count(), UINT64_MAX - 1);
}

}  // namespace
}  // namespace vhost::tests
