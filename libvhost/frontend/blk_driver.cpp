#include "libvhost/frontend/blk_driver.hpp"

#include <algorithm>
#include <array>

namespace vhost::frontend {
namespace {

constexpr std::size_t copy_bytes = std::size_t{128} << 10;  // one synchronous request
constexpr std::size_t page_bytes = 4096;

constexpr std::uint64_t block_features =
    bit(blk_feature::size_max) | bit(blk_feature::seg_max) | bit(blk_feature::geometry) |
    bit(blk_feature::ro) | bit(blk_feature::blk_size) | bit(blk_feature::flush) |
    bit(blk_feature::topology) | bit(blk_feature::config_wce) | bit(blk_feature::mq) |
    bit(blk_feature::discard) | bit(blk_feature::write_zeroes);

const char* type_name(BlkType type) {
  switch (type) {
    case BlkType::read: return "read";
    case BlkType::write: return "write";
    case BlkType::flush: return "flush";
    case BlkType::get_id: return "get-id";
    case BlkType::discard: return "discard";
    case BlkType::write_zeroes: return "write-zeroes";
  }
  return "request";
}

/// A buffer for one request, given back at the end of it.
class Loan {
 public:
  static Result<Loan> take(SharedMemory& memory, std::size_t bytes) {
    auto buffer = memory.allocate(bytes, page_bytes);
    if (!buffer) return std::unexpected(buffer.error());
    return Loan(memory, *buffer);
  }
  Loan(Loan&& other) noexcept
      : memory_(std::exchange(other.memory_, nullptr)), buffer_(other.buffer_) {}
  Loan& operator=(Loan&&) = delete;
  ~Loan() {
    if (memory_ != nullptr) memory_->release(buffer_);
  }
  /// The device may still use it: the buffer is lost until the region goes.
  void abandon() { memory_ = nullptr; }
  [[nodiscard]] const Buffer& buffer() const { return buffer_; }

 private:
  Loan(SharedMemory& memory, Buffer buffer) : memory_(&memory), buffer_(buffer) {}
  SharedMemory* memory_;
  Buffer buffer_;
};

}  // namespace

Result<std::unique_ptr<BlkDriver>> BlkDriver::attach(Connection connection, SharedMemory& memory,
                                                     BlkOptions options) {
  options.wishes.features |= block_features;
  options.wishes.required_protocol_features |= bit(protocol_feature::config);
  std::unique_ptr<BlkDriver> driver(new BlkDriver(std::move(connection), memory, options));
  if (auto done = driver->set_up(); !done) return std::unexpected(done.error());
  return driver;
}

Result<void> BlkDriver::set_up() {
  if (auto done = device_.negotiate(options_.wishes); !done) return done;
  if (auto done = refresh_config(); !done) return done;
  if (auto done = device_.make_queues(options_.queues, options_.queue); !done) return done;
  queues_.reserve(options_.queues);
  for (std::size_t i = 0; i < options_.queues; ++i) {
    auto queue = BlkQueue::create(device_.memory(), device_.queue(i), options_.queue.ring.size);
    if (!queue) return std::unexpected(queue.error());
    queues_.push_back(std::move(*queue));
  }
  return device_.start();
}

BlkDriver::~BlkDriver() {
  [[maybe_unused]] const auto returned = device_.detach();
}

std::vector<ReturnedChain> BlkDriver::detach() {
  auto returned = device_.detach();
  for (ReturnedChain& chain : returned) chain.cookie = queues_[chain.queue].cookie(chain.cookie);
  for (BlkQueue& queue : queues_) queue.forget();
  return returned;
}

Result<void> BlkDriver::refresh_config() {
  auto bytes = device_.read_config(0, blk_config_bytes);
  if (!bytes) return std::unexpected(bytes.error());
  bytes->resize(sizeof config_);
  config_ = read_once<BlkConfig>(bytes->data());
  return {};
}

Result<void> BlkDriver::set_write_cache(bool on) {
  if (!has(device_.features(), blk_feature::config_wce)) {
    return fail(Fault::unsupported, "the back-end does not offer CONFIG_WCE");
  }
  const std::byte value{on ? std::uint8_t{1} : std::uint8_t{0}};
  return device_.write_config(blk_config_wce_offset, std::span(&value, 1));
}

Result<BlkStatus> BlkDriver::perform(const BlkRequest& request) {
  BlkQueue& queue = queues_.front();
  if (queue.outstanding() != 0) {
    return fail(Fault::operator_, "a synchronous request needs queue 0 for itself");
  }
  if (!queue.submit(request)) return fail(Fault::host, "the request does not fit into the ring");
  queue.kick();
  BlkCompletion completion;
  const std::string what = std::string("the ") + type_name(request.type) + " request";
  switch (device_.wait(0, options_.request_deadline)) {
    case Wake::used: break;
    case Wake::timeout: return fail(peer_fault, what + " did not come back in time");
    case Wake::ring_error: return fail(peer_fault, what + " made the back-end give up the ring");
    case Wake::lost: return fail(peer_fault, "the back-end went away during " + what);
  }
  if (queue.poll(completion) != Poll::done) {
    const char* reason = device_.queue(0).ring().broken_because();
    return fail(peer_fault, what + ": " + (reason != nullptr ? reason : "nothing came back"));
  }
  return completion.status;
}

Result<void> BlkDriver::perform_ok(const BlkRequest& request) {
  auto status = perform(request);
  if (!status) return std::unexpected(status.error());
  if (*status == BlkStatus::ok) return {};
  const Fault fault = *status == BlkStatus::unsupported ? Fault::unsupported : Fault::host;
  return fail(fault, std::string(type_name(request.type)) + " at sector " +
                         std::to_string(request.sector) + " ended with status " +
                         std::to_string(static_cast<unsigned>(*status)));
}

/// Reads or writes in pieces, through a buffer of the shared memory.
Result<void> BlkDriver::transfer(BlkType type, std::uint64_t sector, std::span<std::byte> bytes) {
  if (bytes.empty() || bytes.size() % sector_bytes != 0) {
    return fail(Fault::operator_, "a transfer is made of whole sectors");
  }
  auto loan = Loan::take(device_.memory(), std::min(bytes.size(), copy_bytes));
  if (!loan) return std::unexpected(loan.error());
  const Buffer& buffer = loan->buffer();
  while (!bytes.empty()) {
    const auto part = bytes.first(std::min(bytes.size(), copy_bytes));
    if (type == BlkType::write) std::ranges::copy(part, buffer.data);
    const Segment data = buffer.segment(0, static_cast<std::uint32_t>(part.size()));
    auto done = perform_ok({.type = type, .sector = sector, .data = std::span(&data, 1)});
    if (!done && queues_.front().outstanding() != 0) loan->abandon();
    if (!done) return done;
    if (type == BlkType::read) std::ranges::copy(buffer.bytes().first(part.size()), part.data());
    bytes = bytes.subspan(part.size());
    sector += part.size() / sector_bytes;
  }
  return {};
}

Result<void> BlkDriver::read(std::uint64_t sector, std::span<std::byte> bytes) {
  return transfer(BlkType::read, sector, bytes);
}

Result<void> BlkDriver::write(std::uint64_t sector, std::span<const std::byte> bytes) {
  // transfer() only reads them for a write.
  return transfer(BlkType::write, sector, {const_cast<std::byte*>(bytes.data()), bytes.size()});
}

Result<void> BlkDriver::flush() {
  return perform_ok({.type = BlkType::flush});
}

Result<void> BlkDriver::discard(std::uint64_t sector, std::uint32_t sectors) {
  return perform_ok({.type = BlkType::discard, .sector = sector, .sectors = sectors});
}

Result<void> BlkDriver::write_zeroes(std::uint64_t sector, std::uint32_t sectors, bool unmap) {
  return perform_ok(
      {.type = BlkType::write_zeroes, .sector = sector, .sectors = sectors, .unmap = unmap});
}

Result<std::string> BlkDriver::get_id() {
  auto loan = Loan::take(device_.memory(), blk_id_bytes);
  if (!loan) return std::unexpected(loan.error());
  const Segment data = loan->buffer().segment();
  auto done = perform_ok({.type = BlkType::get_id, .data = std::span(&data, 1)});
  if (!done && queues_.front().outstanding() != 0) loan->abandon();
  if (!done) return std::unexpected(done.error());
  const auto* text = reinterpret_cast<const char*>(loan->buffer().data);
  return std::string(text, ::strnlen(text, blk_id_bytes));
}

}  // namespace vhost::frontend
