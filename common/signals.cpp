#include "common/signals.hpp"

#include <pthread.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <unistd.h>

namespace common {

using vhost::Fault;
using vhost::UniqueFd;

vhost::Result<UniqueFd> catch_end_signals() {
  return catch_signals({SIGTERM, SIGINT});
}

vhost::Result<UniqueFd> catch_signals(std::initializer_list<int> wanted) {
  sigset_t set;
  sigemptyset(&set);
  for (const int signal : wanted) sigaddset(&set, signal);
  UniqueFd signals(::signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
  if (!signals) return vhost::fail_errno(Fault::host, "cannot create a signalfd");
  if (const int error = ::pthread_sigmask(SIG_BLOCK, &set, nullptr); error != 0) {
    return vhost::fail_errno(Fault::host, "cannot block signals", error);
  }
  struct sigaction ignore{};
  ignore.sa_handler = SIG_IGN;
  if (::sigaction(SIGPIPE, &ignore, nullptr) != 0) {
    return vhost::fail_errno(Fault::host, "cannot ignore SIGPIPE");
  }
  return signals;
}

int next_signal(const UniqueFd& signals) {
  signalfd_siginfo info{};
  const ssize_t got = ::read(signals.get(), &info, sizeof info);
  return got == sizeof info ? static_cast<int>(info.ssi_signo) : 0;
}

}  // namespace common
