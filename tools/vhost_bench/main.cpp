/*
 * vhost-bench: load on any vhost-user back-end, without a VM. "vhost-bench net ..." is for network
 * back-ends, see net_command.hpp; everything else, as follows, for block back-ends.
 *
 * main() reads the options into a Plan, attaches a block driver, gives each queue a Lane, lets the
 * Generator run them, and prints. Exit status: 0 if every request came back well; 1 if one failed,
 * was lost or differed; 2 for a wrong option or a back-end that cannot be driven.
 */
#include <pthread.h>
#include <unistd.h>

#include <bit>
#include <csignal>
#include <cstdio>
#include <tuple>

#include "common/cpu.hpp"
#include "common/options.hpp"
#include "libvhost/frontend/blk_driver.hpp"
#include "tools/vhost_bench/cpu_time.hpp"
#include "tools/vhost_bench/loopback.hpp"
#include "tools/vhost_bench/net_command.hpp"
#include "tools/vhost_bench/report.hpp"

namespace {

using namespace bench;
using namespace vhost::frontend;
using std::chrono::milliseconds;

constexpr std::string_view program = "vhost-bench";
volatile std::sig_atomic_t interrupted = 0;

void declare(common::Options& options, Plan& plan) {
  using std::chrono::hours;
  options.text("--socket", plan.socket, "PATH", "The back-end's vhost-user socket.");
  options.number("--queues", plan.queues, 1, 256, "Queues to drive.");
  options.number("--depth", plan.depth, 1, 4096, "Requests in flight on each queue.");
  options.size("--block-size", plan.block_bytes, "Bytes in each request; a multiple of 512.");
  options.number("--mix", plan.read_percent, 0, 100, "Percentage of reads; the rest are writes.");
  options.choice("--pattern", plan.pattern,
                 {{"rand", Pattern::random}, {"seq", Pattern::sequential}}, "Where requests go.");
  options.choice("--mode", plan.mode, {{"polling", Mode::polling}, {"interrupt", Mode::interrupt}},
                 "How the driver waits: it looks all the time, or sleeps until it is called.");
  options.toggle("--verify", plan.verify,
                 "Write blocks that name themselves, and check each block that is read. Overwrites "
                 "the disk.");
  options.number("--rate", plan.rate, 0, 1'000'000'000,
                 "Requests to start in a second over all queues, whether the disk keeps up or not; "
                 "latency counts from when a request was due. 0: as fast as they come back.");
  options.duration("--duration", plan.duration, milliseconds(10), hours(240),
                   "How long to measure.");
  options.duration("--warmup", plan.warmup, milliseconds(0), hours(1),
                   "How long to run before that.");
  options.size("--span", plan.span_bytes, "Use only this much of the disk, from its start.");
  options.number("--ring-size", plan.ring_size, 1, 32768,
                 "Descriptors of each queue, a power of two unless packed; by default what the "
                 "depth needs.");
  options.toggle("--direct", plan.direct, "Use no indirect descriptors.");
  options.toggle("--whole-batches", plan.whole_batches,
                 "Show the device a batch when it is complete, not request by request.");
  options.toggle("--no-event-idx", plan.no_event_idx, "Do not negotiate EVENT_IDX.");
  options.toggle("--packed", plan.packed, "Negotiate packed rings.");
  options.toggle("--legacy", plan.legacy, "Do not negotiate VERSION_1.");
  options.toggle("--huge-pages", plan.huge_pages, "Put the buffers into 2 MiB pages.");
  options.size("--iommu", plan.iommu_page_bytes,
               "Put an IOMMU with pages of this size between driver and device.");
  options.toggle("--dirty-log", plan.dirty_log,
                 "Have the back-end log what it writes, as for a guest that migrates.");
  options.number("--seed", plan.seed, 0, ~std::uint64_t{0}, "Another seed, another sequence.");
  options.cpus("--cpus", plan.cpus, "CPUs for the generator, which is one thread.");
  options.number("--target-pid", plan.target_pid, 0, 4194304,
                 "The back-end's process, to tell how much CPU time it takes.");
  options.toggle("--json", plan.json, "Print the result as one JSON object.");
  options.toggle("--calibrate", plan.calibrate,
                 "Measure the generator itself, on a device that finishes everything at once; and "
                 "with two --cpus, how long a cache line takes from one to the other and back.");
}

vhost::Result<void> check(const Plan& plan) {
  const auto wrong = [](std::string what) { return vhost::fail(vhost::Fault::operator_, what); };
  if (plan.socket.empty() && !plan.calibrate) {
    return wrong("--socket: give the path of the back-end's socket");
  }
  if (plan.block_bytes == 0 || plan.block_bytes % sector_bytes != 0 ||
      plan.block_bytes > (std::uint64_t{1} << 30)) {
    return wrong("--block-size: give a multiple of 512, at most 1G");
  }
  if (plan.ring_size != 0 && !plan.packed && !std::has_single_bit(plan.ring_size)) {
    return wrong("--ring-size: give a power of two");
  }
  if (plan.iommu_page_bytes != 0 && (plan.iommu_page_bytes < 4096 || plan.calibrate ||
                                     !std::has_single_bit(plan.iommu_page_bytes))) {
    return wrong("--iommu: give a power of two from 4k on, and not --calibrate");
  }
  if (plan.packed && (plan.legacy || plan.calibrate)) {
    return wrong("--packed: goes neither with --legacy nor with --calibrate");
  }
  return {};
}

/// Descriptors for all prepared chains: one or two for each slot.
std::uint16_t ring_size(const Plan& plan) {
  if (plan.ring_size != 0) return plan.ring_size;
  const bool mixed = plan.read_percent > 0 && plan.read_percent < 100;
  const unsigned chains = plan.depth * (mixed ? 2u : 1u);
  const unsigned needed = chains * (plan.direct ? 3u : 1u);
  return static_cast<std::uint16_t>(std::min(std::bit_ceil(std::max(needed, 64u)), 32768u));
}

vhost::Result<void> make_memory(SharedMemory& memory, const Plan& plan, std::uint16_t size) {
  const std::size_t buffers = plan.depth * ((plan.block_bytes + 8191) / 4096 * 4096);
  const std::size_t queue = buffers + size * std::size_t{256} + 65536;
  auto region = memory.add_region(plan.queues * queue,
                                  {.pages = plan.huge_pages ? PageSize::huge_2m : PageSize::base});
  if (!region) return std::unexpected(region.error());
  return {};
}

QueueOptions queue_options(const Plan& plan) {
  const std::uint16_t indirect = plan.direct ? 0 : 4;
  return {.ring = {.size = ring_size(plan), .event_idx = !plan.no_event_idx, .indirect = indirect}};
}

RunHooks make_hooks(CpuMeter& cpu, Device* device) {
  RunHooks hooks;
  hooks.begin = [&cpu] { cpu.begin(); };
  hooks.end = [&cpu] { cpu.end(); };
  hooks.interrupted = [device, looks = 0u]() mutable {
    if (device != nullptr && device->translated() && looks % 16 == 0) {
      std::ignore = device->connection().serve_channel();
    }
    return interrupted != 0 || (++looks % 1024 == 0 && device != nullptr && device->lost());
  };
  if (::isatty(STDERR_FILENO) == 0) return hooks;
  hooks.progress = [last_time = 0.0, last = std::uint64_t{0}](double time,
                                                              std::uint64_t done) mutable {
    const double rate =
        time > last_time ? static_cast<double>(done - last) / (time - last_time) : 0;
    std::fprintf(stderr, "\r%5.0f s  %10.0f IOPS ", time, rate);
    last_time = time;
    last = done;
  };
  return hooks;
}

/// Runs the load on these queues and prints what came of it: the exit status.
vhost::Result<int> measure(const Plan& plan, std::span<BlkQueue> queues, SharedMemory& memory,
                           std::uint64_t blocks, Device* device, std::function<void()> serve) {
  const auto run_id =
      static_cast<std::uint64_t>(std::chrono::steady_clock::now().time_since_epoch().count());
  std::unique_ptr<Book> book;
  if (plan.verify) book = std::make_unique<Book>(blocks, run_id);
  std::vector<Lane> lanes;
  for (BlkQueue& queue : queues) {
    auto lane = Lane::create(plan, queue, memory, blocks, lanes.size() * plan.depth, book.get());
    if (!lane) return std::unexpected(lane.error());
    lanes.push_back(std::move(*lane));
  }
  CpuMeter cpu(plan.target_pid);
  RunHooks hooks = make_hooks(cpu, device);
  const bool shows_progress = static_cast<bool>(hooks.progress);
  hooks.device = std::move(serve);
  const RunResult result = Generator(plan, std::move(lanes), std::move(hooks)).run();
  if (shows_progress) std::fputs("\r\033[K", stderr);

  const std::string text =
      plan.json ? as_json(plan, result, cpu.use()) : as_text(plan, result, cpu.use());
  std::fputs(text.c_str(), stdout);
  if (plan.calibrate) return 0;  // that device reads no request and sets no status
  if (result.broken) {
    return vhost::fail(peer_fault, "the back-end returned a chain that it did not have");
  }
  const bool well = result.counters.failed + result.counters.mismatched + result.lost == 0;
  return well ? 0 : 1;
}

vhost::Result<int> calibrate(const Plan& plan) {
  if (plan.cpus.size() == 2) {
    std::printf("round trip between CPUs %u and %u: %.0f ns\n", plan.cpus[0], plan.cpus[1],
                round_trip_ns(plan.cpus[0], plan.cpus[1]));
    return 0;
  }
  SharedMemory memory;
  if (auto done = make_memory(memory, plan, ring_size(plan)); !done) {
    return std::unexpected(done.error());
  }
  auto queue = Queue::create(memory, queue_options(plan));
  if (!queue) return std::unexpected(queue.error());
  auto blk = BlkQueue::create(memory, *queue, ring_size(plan));
  if (!blk) return std::unexpected(blk.error());
  Loopback device(queue->ring().split());
  return measure(plan, std::span(&*blk, 1), memory, std::uint64_t{1} << 18, nullptr,
                 [&device] { device.serve(); });
}

vhost::Result<int> drive(const Plan& plan) {
  SharedMemory memory;
  if (auto done = make_memory(memory, plan, ring_size(plan)); !done) {
    return std::unexpected(done.error());
  }
  auto connection = Connection::connect(plan.socket);
  if (!connection) return std::unexpected(connection.error());
  BlkOptions options{.queues = plan.queues, .queue = queue_options(plan)};
  if (plan.legacy) options.wishes.features &= ~vhost::bit(vhost::feature::version_1);
  if (plan.no_event_idx) options.wishes.features &= ~vhost::bit(vhost::feature::event_idx);
  if (plan.packed) options.wishes.required_features |= vhost::bit(vhost::feature::ring_packed);
  if (plan.iommu_page_bytes != 0) {
    options.wishes.required_features |= vhost::bit(vhost::feature::access_platform);
    options.wishes.iommu.page_bytes = plan.iommu_page_bytes;
  }
  auto driver = BlkDriver::attach(std::move(*connection), memory, options);
  if (!driver) return std::unexpected(driver.error());

  BlkDriver& disk = **driver;
  const bool read_only = vhost::has(disk.device().offered_features(), blk_feature::ro);
  if (read_only && plan.read_percent < 100) {
    return vhost::fail(vhost::Fault::operator_, "--mix: the disk is read-only: give 100");
  }
  if (plan.dirty_log) {
    if (auto started = disk.device().start_log(); !started) return std::unexpected(started.error());
  }
  std::uint64_t bytes = disk.capacity_bytes();
  if (plan.span_bytes > bytes) {
    return vhost::fail(vhost::Fault::operator_,
                       "--span: the disk has only " + std::to_string(bytes) + " bytes");
  }
  if (plan.span_bytes != 0) bytes = plan.span_bytes;
  return measure(plan, disk.queues(), memory, bytes / plan.block_bytes, &disk.device(), {});
}

vhost::Result<int> run(int argc, const char* const* argv) {
  Plan plan;
  common::Options options{
      std::string(program), VHOST_VERSION,
      "Load on a vhost-user-blk back-end, without a VM. 'vhost-bench net --help' "
      "tells of load on a vhost-user-net back-end."};
  declare(options, plan);
  auto next = options.parse(argc, argv);
  if (!next) return std::unexpected(next.error());
  if (*next == common::Next::done) return 0;
  if (auto done = check(plan); !done) return std::unexpected(done.error());
  if (!plan.cpus.empty()) {
    if (auto done = common::pin_thread(::pthread_self(), plan.cpus); !done) {
      return vhost::fail(done.error().fault, "--cpus: " + done.error().what);
    }
  }
  return plan.calibrate ? calibrate(plan) : drive(plan);
}

}  // namespace

int main(int argc, char** argv) {
  std::signal(SIGINT, [](int) { interrupted = 1; });
  std::signal(SIGTERM, [](int) { interrupted = 1; });
  const bool net = argc > 1 && std::string_view(argv[1]) == "net";
  const auto status =
      net ? run_net(argc - 1, argv + 1, VHOST_VERSION, [] { return interrupted != 0; })
          : run(argc, argv);
  if (status) return *status;
  common::print_error(net ? net_program : program, status.error());
  return common::exit_operator_error;
}
