#pragma once
#include <poll.h>
#include <unistd.h>

#include <atomic>

#include "libvhost/frontend/blk_wire.hpp"
#include "libvhost/wire/virtqueue.hpp"
#include "tests/unit/frontend/fake_backend.hpp"

namespace vhost::frontend {

/// A fake back-end with a disk of 64 KiB behind ring 0. It lives in the driver's process, so it
/// uses the front-end addresses as they are.
class FakeDisk {
 public:
  static constexpr std::size_t disk_bytes = 65536;
  FakeBackend backend;
  std::atomic<bool> mute{false};       ///< take requests and answer none
  std::atomic<bool> spoil_ids{false};  ///< use chains that do not exist

  FakeDisk() : disk_(disk_bytes) {
    backend.features |= bit(blk_feature::config_wce) | bit(blk_feature::flush);
    backend.on(Request::get_config, [](FakeBackend& self, Message& got) {
      const std::uint64_t sectors = disk_bytes / sector_bytes;
      std::memcpy(got.payload.data() + sizeof(ConfigHeader), &sectors, sizeof sectors);
      self.reply(got, got.payload);
    });
    backend.on(Request::set_mem_table, [this](FakeBackend& self, Message& got) {
      region_ = read_once<MemoryRegion>(got.payload.data() + sizeof(MemoryTableHeader));
      self.reply_u64(got, 0);
    });
    backend.on(Request::set_vring_num, [this](FakeBackend& self, Message& got) {
      size_ = static_cast<std::uint16_t>(read_once<VringState>(got.payload.data()).value);
      self.reply_u64(got, 0);
    });
    backend.on(Request::set_vring_addr, [this](FakeBackend& self, Message& got) {
      ring_ = read_once<VringAddr>(got.payload.data());
      self.reply_u64(got, 0);
    });
    backend.on(Request::set_vring_call, [this](FakeBackend& self, Message& got) {
      call_ = std::move(got.fds.front());
      self.reply_u64(got, 0);
    });
    backend.on(Request::set_vring_kick, [this](FakeBackend& self, Message& got) {
      kick_ = std::move(got.fds.front());
      self.reply_u64(got, 0);
    });
    backend.on(Request::set_vring_enable, [this](FakeBackend& self, Message& got) {
      if (read_once<VringState>(got.payload.data()).value != 0) start();
      self.reply_u64(got, 0);
    });
    backend.on(Request::get_vring_base, [this](FakeBackend& self, Message& got) {
      halt();
      self.reply(got, bytes_of(VringState{0, next_}));
    });
  }
  ~FakeDisk() { die(); }
  /// Ends as a killed process does: the socket closes, and no thread touches memory any more.
  void die() {
    halt();
    backend.stop();
    halt();  // had it been started meanwhile
  }

 private:
  void start() {
    running_ = true;
    worker_ = std::thread([this] {
      while (running_) {
        pollfd wait{kick_.get(), POLLIN, 0};
        ::poll(&wait, 1, 1);
        serve();
      }
    });
  }
  void halt() {
    running_ = false;
    if (worker_.joinable()) worker_.join();
  }
  [[nodiscard]] static std::byte* at(std::uint64_t address) {
    return reinterpret_cast<std::byte*>(address);
  }
  [[nodiscard]] std::byte* guest(std::uint64_t address) const {
    return at(address - region_.guest_address + region_.frontend_address);
  }
  [[nodiscard]] static std::atomic_ref<std::uint16_t> u16(std::uint64_t address) {
    return std::atomic_ref(*reinterpret_cast<std::uint16_t*>(at(address)));
  }

  void serve() {
    while (u16(ring_.available + 2).load() != next_) {
      const auto head = u16(ring_.available + 4 + next_ % size_ * 2u).load();
      ++next_;
      if (!mute) use(spoil_ids ? size_ : head, perform(head));
    }
  }
  void use(std::uint32_t id, std::uint32_t bytes) {
    const std::uint16_t index = u16(ring_.used + 2).load();
    const UsedElem element{id, bytes};
    std::memcpy(at(ring_.used + 4 + index % size_ * sizeof element), &element, sizeof element);
    u16(ring_.used + 2).store(static_cast<std::uint16_t>(index + 1));
    const std::uint64_t one = 1;
    std::ignore = ::write(call_.get(), &one, sizeof one);
  }
  std::uint32_t perform(std::uint16_t head) {
    const std::byte* table = at(ring_.descriptors);
    auto descriptor = read_once<SplitDesc>(table + head * sizeof(SplitDesc));
    if ((descriptor.flags & desc_indirect) != 0) {
      table = guest(descriptor.addr);
      descriptor = read_once<SplitDesc>(table);
    }
    const auto header = read_once<BlkHeader>(guest(descriptor.addr));
    std::uint64_t offset = header.sector * sector_bytes;
    std::uint32_t written = 1;
    auto status = BlkStatus::ok;
    while ((descriptor.flags & desc_next) != 0) {
      descriptor = read_once<SplitDesc>(table + descriptor.next * sizeof(SplitDesc));
      if ((descriptor.flags & desc_next) == 0) break;
      if (offset + descriptor.length > disk_.size()) {
        status = BlkStatus::io_error;
      } else if (header.type == 0) {
        std::memcpy(guest(descriptor.addr), disk_.data() + offset, descriptor.length);
        written += descriptor.length;
      } else if (header.type == 1) {
        std::memcpy(disk_.data() + offset, guest(descriptor.addr), descriptor.length);
      } else if (header.type == 8) {
        std::memcpy(guest(descriptor.addr), "fake", 5);
      } else {
        status = BlkStatus::unsupported;
      }
      offset += descriptor.length;
    }
    if (header.type == 11) status = BlkStatus::unsupported;
    *guest(descriptor.addr) = static_cast<std::byte>(status);
    return written;
  }

  std::vector<std::byte> disk_;
  MemoryRegion region_{};
  VringAddr ring_{};
  std::uint16_t size_ = 0;
  std::uint16_t next_ = 0;
  UniqueFd kick_, call_;
  std::atomic<bool> running_{false};
  std::thread worker_;
};

}  // namespace vhost::frontend
