// The parts of Device that tell the back-end about memory and read its configuration space.
#include <algorithm>
#include <cstring>

#include "libvhost/frontend/device.hpp"
#include "libvhost/memory/mapping.hpp"

namespace vhost::frontend {

/// Shares what the back-end does not have yet. Regions stay shared over stop() and start().
Result<void> Device::share_memory() {
  const auto regions = memory_.regions();
  if (!with(protocol_feature::configure_mem_slots)) return share_table();
  for (std::size_t id = 0; id < regions.size(); ++id) {
    if (!regions[id] || std::ranges::find(shared_, id) != shared_.end()) continue;
    if (auto done = share_region(*regions[id]); !done) return done;
    shared_.push_back(id);
  }
  return barrier();
}

Result<void> Device::share_region(const Region& region) {
  const int fd = region.fd();
  return tell_memory(Request::add_mem_reg, bytes_of(SingleRegion{0, as_shared(region)}),
                     std::span(&fd, 1));
}

/// As the memory messages describe it: an IOMMU stands between the driver's addresses and these,
/// and with GPA_ADDRESSES no address of ours goes out.
MemoryRegion Device::as_shared(const Region& region) const {
  MemoryRegion wire = region.wire();
  if (translated()) wire.guest_address += wishes_.iommu.shift;
  if (with(protocol_feature::gpa_addresses)) wire.frontend_address = wire.guest_address;
  return wire;
}

/// SET_MEM_TABLE replaces the table as a whole.
Result<void> Device::share_table() {
  std::vector<std::byte> payload(sizeof(MemoryTableHeader));
  std::vector<int> fds;
  shared_.clear();
  for (std::size_t id = 0; id < memory_.regions().size(); ++id) {
    const auto& region = memory_.regions()[id];
    if (!region) continue;
    const MemoryRegion wire = as_shared(*region);
    const auto bytes = bytes_of(wire);
    payload.insert(payload.end(), bytes.begin(), bytes.end());
    fds.push_back(region->fd());
    shared_.push_back(id);
  }
  if (fds.size() > max_table_regions) {
    return fail(Fault::unsupported, "without CONFIGURE_MEM_SLOTS a back-end takes 8 regions, not " +
                                        std::to_string(fds.size()));
  }
  const MemoryTableHeader header{static_cast<std::uint32_t>(fds.size()), 0};
  std::memcpy(payload.data(), &header, sizeof header);
  if (auto told = tell_memory(Request::set_mem_table, payload, fds); !told) return told;
  return barrier();
}

Result<std::size_t> Device::add_region(std::size_t size_bytes, RegionOptions options) {
  auto id = memory_.add_region(size_bytes, options);
  if (!id || shared_.empty()) return id;
  if (auto shared = share_memory(); !shared) {
    std::erase(shared_, *id);
    [[maybe_unused]] const auto removed = memory_.remove_region(*id);
    return std::unexpected(shared.error());
  }
  return id;
}

Result<void> Device::remove_region(std::size_t id) {
  const auto regions = memory_.regions();
  if (id >= regions.size() || !regions[id]) return fail(Fault::operator_, "no such region");
  if (!regions[id]->unused()) return fail(Fault::operator_, "the region holds buffers in use");

  const bool shared = std::erase(shared_, id) > 0;
  const bool slots = with(protocol_feature::configure_mem_slots);
  if (shared && slots) {
    MemoryRegion wire = as_shared(*regions[id]);
    wire.mmap_offset_bytes = 0;  // not compared
    if (auto told = connection_.tell(Request::rem_mem_reg, SingleRegion{0, wire}); !told) {
      shared_.push_back(id);
      return told;
    }
    if (auto done = barrier(); !done) return done;
  }
  if (auto removed = memory_.remove_region(id); !removed) return removed;
  return shared && !slots ? share_table() : Result<void>{};
}

/// Keeps the region of a crashed back-end for its successor, or has a new one made.
Result<void> Device::share_inflight() {
  if (!with(protocol_feature::inflight_shmfd)) return {};
  if (!inflight_fd_) {
    const InflightDescription wanted{0, 0, static_cast<std::uint16_t>(queues_.size()),
                                     queues_.front()->ring().size(), 0};
    auto reply = connection_.ask(Request::get_inflight_fd, bytes_of(wanted));
    if (!reply) return std::unexpected(reply.error());
    if (reply->payload.size() != sizeof inflight_ || reply->fds.size() != 1) {
      return fail(peer_fault, "GET_INFLIGHT_FD answered " + std::to_string(reply->payload.size()) +
                                  " bytes and " + std::to_string(reply->fds.size()) +
                                  " descriptors");
    }
    inflight_ = read_once<InflightDescription>(reply->payload.data());
    inflight_fd_ = std::move(reply->fds.front());
  }
  const int fd = inflight_fd_.get();
  return connection_.tell(Request::set_inflight_fd, inflight_, std::span(&fd, 1));
}

Result<void> Device::move_inflight() {
  if (running_) return fail(Fault::operator_, "the device is running");
  if (!inflight_fd_) return fail(Fault::unsupported, "there is no inflight region");
  const std::uint64_t bytes = inflight_.mmap_size_bytes;
  const auto from = Mapping::map(inflight_fd_.get(), inflight_.mmap_offset_bytes, bytes);
  if (!from) return std::unexpected(from.error());
  auto file = make_sealed_memory("vhost-inflight", bytes);
  if (!file) return std::unexpected(file.error());
  const auto to = Mapping::map(file->get(), 0, bytes);
  if (!to) return std::unexpected(to.error());
  std::ranges::copy(from->bytes(), to->bytes().begin());
  inflight_fd_ = std::move(*file);
  inflight_.mmap_offset_bytes = 0;
  return {};
}

Result<std::vector<std::byte>> Device::read_config(std::uint32_t offset_bytes,
                                                   std::uint32_t size_bytes) {
  if (!with(protocol_feature::config)) {
    return fail(Fault::unsupported, "the back-end has no configuration space (CONFIG)");
  }
  const ConfigHeader header{offset_bytes, size_bytes, 0};
  std::vector<std::byte> payload(sizeof header + size_bytes);
  std::memcpy(payload.data(), &header, sizeof header);
  auto reply = connection_.ask(Request::get_config, payload);
  if (!reply) return std::unexpected(reply.error());
  if (reply->payload.size() != payload.size()) {
    return fail(peer_fault, "the back-end refused to read " + std::to_string(size_bytes) +
                                " bytes of configuration at " + std::to_string(offset_bytes));
  }
  return std::vector<std::byte>(reply->payload.begin() + sizeof header, reply->payload.end());
}

Result<void> Device::write_config(std::uint32_t offset_bytes, std::span<const std::byte> bytes) {
  if (!with(protocol_feature::config)) {
    return fail(Fault::unsupported, "the back-end has no configuration space (CONFIG)");
  }
  const ConfigHeader header{offset_bytes, static_cast<std::uint32_t>(bytes.size()), 0};
  std::vector<std::byte> payload(bytes_of(header).begin(), bytes_of(header).end());
  payload.insert(payload.end(), bytes.begin(), bytes.end());
  return connection_.tell(Request::set_config, payload);
}

}  // namespace vhost::frontend
