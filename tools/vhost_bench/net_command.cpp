#include "tools/vhost_bench/net_command.hpp"

#include <pthread.h>

#include <bit>
#include <cstdio>
#include <thread>
#include <tuple>

#include "common/cpu.hpp"
#include "common/options.hpp"
#include "libvhost/frontend/net_driver.hpp"
#include "tools/vhost_bench/net_frames.hpp"
#include "tools/vhost_bench/net_report.hpp"
#include "tools/vhost_bench/null_switch.hpp"

namespace bench {
namespace {

using namespace vhost::frontend;
using std::chrono::hours;
using std::chrono::milliseconds;

constexpr std::uint32_t mergeable_buffer_bytes = 2048;
/// A back-end may acknowledge the last message before it has really started (DPDK does); we would
/// keep it from that if we span on its CPU.
constexpr milliseconds settling_time{50};

/// A driver and what its pairs do. The memory is its guest's own.
struct Port {
  SharedMemory memory;
  std::unique_ptr<NetDriver> driver;
};

std::unexpected<vhost::Error> wrong(std::string what) {
  return vhost::fail(vhost::Fault::operator_, std::move(what));
}

struct MacTexts {
  std::string source = "02:00:00:00:00:01", destination = "02:00:00:00:00:02";
};

void declare_load(common::Options& options, NetPlan& plan, MacTexts& macs) {
  options.text("--socket", plan.socket, "PATH", "The back-end's vhost-user socket.");
  options.text("--to-socket", plan.to_socket, "PATH",
               "With --mode forward: the socket at which frames come out.");
  options.choice("--mode", plan.mode,
                 {{"transmit", NetMode::transmit},
                  {"receive", NetMode::receive},
                  {"loop", NetMode::loop},
                  {"forward", NetMode::forward}},
                 "Send; receive what the back-end has from elsewhere; send and receive on one "
                 "socket; or send on one and receive on the other.");
  options.number(
      "--frame-bytes", plan.frame_bytes, shortest_frame, longest_frame,
      "Bytes in each frame, without frame check sequence. More than 9216 are sent as TCP "
      "to be segmented.");
  options.number("--pairs", plan.pairs, 1, 128, "Pairs of queues to drive.");
  options.number("--flows", plan.flows, 1, 4096,
                 "UDP source ports, at most as many as there are frames in the rings.");
  options.text("--source-mac", macs.source, "MAC", "Who sends.");
  options.text("--destination-mac", macs.destination, "MAC",
               "Who receives; with --mode forward it makes itself known first.");
  options.number("--window", plan.window, 0, 1'000'000,
                 "With --mode loop and forward: frames on their way at a time. 0: as many as the "
                 "rings hold, whether they arrive or not.");
  options.number("--ring-size", plan.ring_size, 2, 32768,
                 "Descriptors of each ring, a power of two unless packed.");
  options.toggle("--no-mergeable", plan.no_mergeable, "Do not negotiate mergeable buffers.");
  options.toggle("--no-offloads", plan.no_offloads,
                 "Negotiate neither checksum nor segmentation offloads.");
  options.toggle("--no-event-idx", plan.no_event_idx, "Do not negotiate EVENT_IDX.");
  options.toggle("--packed", plan.packed, "Negotiate packed rings.");
  options.toggle("--huge-pages", plan.huge_pages, "Put the buffers into 2 MiB pages.");
  options.size("--iommu", plan.iommu_page_bytes,
               "Put an IOMMU with pages of this size between driver and device.");
  options.toggle("--dirty-log", plan.dirty_log,
                 "Have the back-end log what it writes, as for guests that migrate.");
}

void declare_run(common::Options& options, NetPlan& plan) {
  options.duration("--duration", plan.duration, milliseconds(10), hours(240),
                   "How long each round measures.");
  options.duration("--warmup", plan.warmup, milliseconds(0), hours(1),
                   "How long to run before the first.");
  options.number("--rounds", plan.rounds, 1, 1000, "Measured rounds.");
  options.duration("--hold", plan.hold, milliseconds(0), hours(1),
                   "Stay connected for so long after the report, without traffic.");
  options.cpus("--cpus", plan.cpus, "CPUs for the generator, which is one thread.");
  options.number("--target-pid", plan.target_pid, 0, 4194304,
                 "The back-end's process, to tell how much CPU time it takes.");
  options.toggle("--json", plan.json, "Print the result as one JSON object.");
  options.toggle("--calibrate", plan.calibrate,
                 "Measure the generator itself, on a device that copies nothing.");
}

vhost::Result<void> check(NetPlan& plan, const MacTexts& macs) {
  const bool forward = plan.mode == NetMode::forward;
  if (plan.socket.empty() && !plan.calibrate) {
    return wrong("--socket: give the path of the back-end's socket");
  }
  if (forward && plan.calibrate) return wrong("--calibrate: give another mode than forward");
  if (forward == plan.to_socket.empty() && !plan.calibrate) {
    return wrong(forward ? "--to-socket: give the path at which frames come out"
                         : "--to-socket: only --mode forward has two sockets");
  }
  if (!plan.packed && !std::has_single_bit(plan.ring_size)) {
    return wrong("--ring-size: give a power of two");
  }
  if (plan.iommu_page_bytes != 0 && (plan.iommu_page_bytes < 4096 || plan.calibrate ||
                                     !std::has_single_bit(plan.iommu_page_bytes))) {
    return wrong("--iommu: give a power of two from 4k on, and not --calibrate");
  }
  if (plan.packed && plan.calibrate) return wrong("--packed: does not go with --calibrate");
  const auto source = parse_mac(macs.source);
  if (!source) return wrong("--source-mac: " + source.error().what);
  const auto destination = parse_mac(macs.destination);
  if (!destination) return wrong("--destination-mac: " + destination.error().what);
  plan.source = *source;
  plan.destination = *destination;
  return {};
}

NetOptions net_options(const NetPlan& plan) {
  NetOptions options{.pairs = plan.pairs,
                     .queue = {.ring = {.size = plan.ring_size}},
                     .buffer_bytes = mergeable_buffer_bytes};
  auto& features = options.wishes.features;
  constexpr auto offloads =
      vhost::bit(net_feature::csum) | vhost::bit(net_feature::guest_csum) |
      vhost::bit(net_feature::guest_tso4) | vhost::bit(net_feature::guest_tso6) |
      vhost::bit(net_feature::guest_ecn) | vhost::bit(net_feature::guest_ufo) |
      vhost::bit(net_feature::host_tso4) | vhost::bit(net_feature::host_tso6) |
      vhost::bit(net_feature::host_ecn) | vhost::bit(net_feature::host_ufo);
  if (plan.no_offloads) features &= ~offloads;
  if (plan.no_event_idx) features &= ~vhost::bit(vhost::feature::event_idx);
  if (plan.packed) options.wishes.required_features |= vhost::bit(vhost::feature::ring_packed);
  if (plan.iommu_page_bytes != 0) {
    options.wishes.required_features |= vhost::bit(vhost::feature::access_platform);
    options.wishes.iommu.page_bytes = plan.iommu_page_bytes;
  }
  if (plan.no_mergeable) {
    features &= ~vhost::bit(net_feature::mrg_rxbuf);
    const auto whole = static_cast<std::uint32_t>(plan.frame_bytes + sizeof(NetHeader));
    options.buffer_bytes = std::max(options.buffer_bytes, whole);
  } else {
    options.wishes.required_features |= vhost::bit(net_feature::mrg_rxbuf);
  }
  if (plan.frame_bytes > longest_whole_frame) {
    options.wishes.required_features |=
        vhost::bit(net_feature::csum) | vhost::bit(net_feature::host_tso4);
  }
  return options;
}

vhost::Result<void> make_memory(SharedMemory& memory, const NetPlan& plan) {
  const std::size_t sent = plan.frame_bytes + std::size_t{128};
  const std::size_t received = net_options(plan).buffer_bytes + std::size_t{128};
  const std::size_t pair = plan.ring_size * (sent + received + 256) + 65536;
  auto region = memory.add_region(plan.pairs * pair + 65536,
                                  {.pages = plan.huge_pages ? PageSize::huge_2m : PageSize::base});
  if (!region) return std::unexpected(region.error());
  return {};
}

vhost::Result<void> attach(Port& port, const std::string& path, const NetPlan& plan) {
  if (auto made = make_memory(port.memory, plan); !made) return made;
  auto connection = Connection::connect(path);
  if (!connection) return std::unexpected(connection.error());
  auto driver = NetDriver::attach(std::move(*connection), port.memory, net_options(plan));
  if (!driver) return std::unexpected(driver.error());
  port.driver = std::move(*driver);
  return plan.dirty_log ? port.driver->device().start_log() : vhost::Result<void>{};
}

/// Everybody hears one frame from where the others are to go.
vhost::Result<void> make_known(const NetPlan& plan, NetDriver& receiver) {
  std::vector<std::byte> frame(shortest_frame);
  write_frame(frame, plan.destination, {0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, 0);
  return receiver.send(frame);
}

/// Runs the load on these pairs and prints what came of it: the exit status.
vhost::Result<int> measure(const NetPlan& plan, std::span<NetQueue> sending, SharedMemory& memory,
                           std::span<NetQueue> receiving, NetHooks hooks) {
  std::vector<Sender> senders;
  std::vector<Receiver> receivers;
  for (NetQueue& queue : sending) {
    auto sender = Sender::create(plan, queue, memory, senders.size() * plan.ring_size);
    if (!sender) return std::unexpected(sender.error());
    senders.push_back(std::move(*sender));
  }
  for (NetQueue& queue : receiving) receivers.emplace_back(plan, queue);
  CpuMeter cpu(plan.target_pid);
  hooks.begin = [&cpu] { cpu.begin(); };
  hooks.end = [&cpu] { cpu.end(); };
  const NetResult result =
      NetGenerator(plan, std::move(senders), std::move(receivers), std::move(hooks)).run();
  const std::string text =
      plan.json ? as_json(plan, result, cpu.use()) : as_text(plan, result, cpu.use());
  std::fputs(text.c_str(), stdout);
  std::fflush(stdout);
  if (result.broken != nullptr) return vhost::fail(peer_fault, result.broken);
  return 0;
}

vhost::Result<int> calibrate(const NetPlan& plan, NetHooks hooks) {
  SharedMemory memory;
  if (auto made = make_memory(memory, plan); !made) return std::unexpected(made.error());
  const QueueOptions ring{.ring = {.size = plan.ring_size, .event_idx = !plan.no_event_idx}};
  auto to_guest = Queue::create(memory, ring);
  if (!to_guest) return std::unexpected(to_guest.error());
  auto from_guest = Queue::create(memory, ring);
  if (!from_guest) return std::unexpected(from_guest.error());
  // That device writes no headers, so no number of buffers either.
  auto queue = NetQueue::create(memory, *to_guest, *from_guest,
                                {.buffer_bytes = net_options(plan).buffer_bytes});
  if (!queue) return std::unexpected(queue.error());
  queue->post();
  NullSwitch device(plan, *queue);
  hooks.device = [&device] { device.serve(); };
  const std::span pair(&*queue, 1);
  return measure(plan, plan.sends() ? pair : pair.first(0), memory,
                 plan.receives() ? pair : pair.first(0), std::move(hooks));
}

vhost::Result<int> drive(const NetPlan& plan, NetHooks hooks) {
  Port near, far;
  if (auto done = attach(near, plan.socket, plan); !done) return std::unexpected(done.error());
  const bool forward = plan.mode == NetMode::forward;
  if (forward) {
    if (auto done = attach(far, plan.to_socket, plan); !done) return std::unexpected(done.error());
    if (auto done = make_known(plan, *far.driver); !done) return std::unexpected(done.error());
  }
  std::this_thread::sleep_for(settling_time);
  NetDriver& in = *near.driver;
  NetDriver& out = forward ? *far.driver : in;
  auto asked = std::move(hooks.interrupted);
  hooks.interrupted = [&asked, &in, &out, looks = 0u]() mutable {
    for (NetDriver* const driver : {&in, &out}) {
      if (driver->device().translated() && looks % 16 == 0) {
        std::ignore = driver->device().connection().serve_channel();
      }
    }
    return asked() || (++looks % 64 == 0 && (in.device().lost() || out.device().lost()));
  };
  const auto status =
      measure(plan, plan.sends() ? in.queues() : std::span<NetQueue>{}, near.memory,
              plan.receives() ? out.queues() : std::span<NetQueue>{}, std::move(hooks));
  if (status && (in.device().lost() || out.device().lost())) {
    return vhost::fail(peer_fault, "the back-end went away");
  }
  const auto end = std::chrono::steady_clock::now() + plan.hold;
  while (std::chrono::steady_clock::now() < end && !asked()) {
    std::this_thread::sleep_for(milliseconds(10));
  }
  return status;
}

}  // namespace

vhost::Result<int> run_net(int argc, const char* const* argv, const std::string& version,
                           std::function<bool()> interrupted) {
  NetPlan plan;
  MacTexts macs;
  common::Options options{std::string(net_program), version,
                          "Load on a vhost-user-net back-end, without a VM."};
  declare_load(options, plan, macs);
  declare_run(options, plan);
  auto next = options.parse(argc, argv);
  if (!next) return std::unexpected(next.error());
  if (*next == common::Next::done) return 0;
  if (auto done = check(plan, macs); !done) return std::unexpected(done.error());
  if (!plan.cpus.empty()) {
    if (auto done = common::pin_thread(::pthread_self(), plan.cpus); !done) {
      return vhost::fail(done.error().fault, "--cpus: " + done.error().what);
    }
  }
  NetHooks hooks;
  hooks.interrupted = std::move(interrupted);
  return plan.calibrate ? calibrate(plan, std::move(hooks)) : drive(plan, std::move(hooks));
}

}  // namespace bench
