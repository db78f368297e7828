#pragma once
#include <fcntl.h>
#include <unistd.h>

#include <cstdlib>
#include <thread>

#include "tests/integration/daemon.hpp"

namespace integration {

/// DPDK's own driver, virtio-user in dpdk-testpmd, as a client of ours. It takes its commands from
/// a pipe; what it prints nobody reads, our statistics tell what it does.
class Testpmd {
 public:
  /// Why it cannot be used here; empty if it can.
  [[nodiscard]] static std::string missing() {
    if (std::getenv("DPDK_TESTPMD") == nullptr) return "dpdk-testpmd is missing (dpdk-dev)";
    if (std::thread::hardware_concurrency() < 2) return "dpdk-testpmd needs two CPUs";
    return {};
  }

  /// One virtio-user port for each of `vdevs`, which say everything behind "net_virtio_user0,".
  Testpmd(const Strings& vdevs, const Strings& flags = {})
      : pipe_(make_pipe()), process_(folder_, arguments(vdevs, flags), launch()) {}

  void say(const std::string& command) {
    const std::string line = command + "\n";
    if (::write(pipe_.in.get(), line.data(), line.size()) < 0) throw std::runtime_error("pipe");
  }
  /// Frames go round: what comes on one port leaves on the other, and the first come from nowhere.
  void loop() {
    say("set fwd io");
    say("start tx_first 4");
  }
  /// Ends it as its user would.
  [[nodiscard]] std::optional<End> quit() {
    say("quit");
    return process_.end_within(milliseconds(10'000) * slowness);
  }
  void kill() { process_.kill(); }
  [[nodiscard]] std::string words() const { return process_.words(); }

 private:
  struct Pipe {
    vhost::UniqueFd out;  ///< kept, so that a command to one that ended harms nobody
    vhost::UniqueFd in;
  };
  [[nodiscard]] static Pipe make_pipe() {
    int ends[2];
    if (::pipe2(ends, O_CLOEXEC) != 0) throw std::runtime_error("pipe");
    return {vhost::UniqueFd(ends[0]), vhost::UniqueFd(ends[1])};
  }
  /// DPDK keeps what it shares with its secondary processes in our folder.
  [[nodiscard]] Launch launch() const {
    return {.environment = {"RUNTIME_DIRECTORY=" + folder_ / ""},
            .program = "DPDK_TESTPMD",
            .stdin_fd = pipe_.out.get()};
  }
  [[nodiscard]] static Strings arguments(const Strings& vdevs, const Strings& flags) {
    Strings all{"--lcores",
                "0@0,1@1",
                "--no-huge",
                "-m",
                "256",
                "--no-pci",
                "--file-prefix=vub-testpmd",
                "--no-telemetry",
                "--force-max-simd-bitwidth=512"};  // where the CPU has it
    for (std::size_t i = 0; i < vdevs.size(); ++i) {
      all.push_back("--vdev=net_virtio_user" + std::to_string(i) + "," + vdevs[i]);
    }
    all.insert(all.end(), {"--", "-i", "--total-num-mbufs=8192"});
    all.insert(all.end(), flags.begin(), flags.end());
    return all;
  }

  const Folder folder_;
  const Pipe pipe_;
  Daemon process_;
};

}  // namespace integration
