#pragma once
#include <unistd.h>

#include <array>
#include <atomic>
#include <mutex>
#include <optional>

#include "libvhost/frontend/net_wire.hpp"
#include "libvhost/wire/virtqueue.hpp"
#include "tests/unit/frontend/fake_backend.hpp"

namespace vhost::frontend {

/// A fake back-end with a network device whose rings the test itself works on, in its own thread:
/// take() what the driver sent, deliver() a frame as a decent device does, or use() and show()
/// whatever a hostile one might. It lives in the driver's process, so it uses the front-end
/// addresses as they are.
class FakeSwitch {
 public:
  static constexpr std::size_t rings = 8;
  using Bytes = std::vector<std::byte>;
  struct Chain {
    std::uint16_t head = 0;
    std::vector<SplitDesc> descriptors;  ///< with the addresses that the driver wrote
  };
  FakeBackend backend;
  std::uint64_t pairs = 4;  ///< what GET_QUEUE_NUM answers

  FakeSwitch() {
    backend.features |= bit(net_feature::mrg_rxbuf) | bit(net_feature::guest_tso4) |
                        bit(net_feature::mq) | bit(net_feature::csum);
    backend.protocol_features |= bit(protocol_feature::mtu) | bit(protocol_feature::rarp);
    backend.on(Request::get_queue_num,
               [this](FakeBackend& self, Message& got) { self.reply_u64(got, pairs); });
    keep(Request::set_mem_table, [this](Message& got) {
      region_ = read_once<MemoryRegion>(got.payload.data() + sizeof(MemoryTableHeader));
    });
    keep(Request::set_vring_num, [this](Message& got) {
      const auto state = read_once<VringState>(got.payload.data());
      rings_[state.index].size = static_cast<std::uint16_t>(state.value);
    });
    keep(Request::set_vring_base, [this](Message& got) {
      const auto state = read_once<VringState>(got.payload.data());
      rings_[state.index].taken = rings_[state.index].used =
          static_cast<std::uint16_t>(state.value);
    });
    keep(Request::set_vring_addr, [this](Message& got) {
      const auto addresses = read_once<VringAddr>(got.payload.data());
      rings_[addresses.index].areas = addresses;
    });
    keep(Request::set_vring_call, [this](Message& got) {
      if (!got.fds.empty()) rings_[ring_of(got)].call = std::move(got.fds.front());
    });
    backend.on(Request::get_vring_base, [this](FakeBackend& self, Message& got) {
      auto state = read_once<VringState>(got.payload.data());
      const std::lock_guard lock(mutex_);
      state.value = rings_[state.index].taken;
      self.reply(got, bytes_of(state));
    });
  }
  ~FakeSwitch() { backend.stop(); }

  /// The next chain of a ring, which is then the device's.
  std::optional<Chain> next(std::size_t index) {
    Ring& ring = at(index);
    if (u16(ring.areas.available + 2).load() == ring.taken) return std::nullopt;
    Chain chain;
    chain.head = u16(ring.areas.available + 4 + ring.taken % ring.size * 2u).load();
    ++ring.taken;
    std::uint64_t table = ring.areas.descriptors;
    auto descriptor = read_at(table, chain.head);
    if ((descriptor.flags & desc_indirect) != 0) {
      table = reinterpret_cast<std::uint64_t>(guest(descriptor.addr));
      descriptor = read_at(table, 0);
    }
    chain.descriptors.push_back(descriptor);
    while ((descriptor.flags & desc_next) != 0) {
      descriptor = read_at(table, descriptor.next);
      chain.descriptors.push_back(descriptor);
    }
    return chain;
  }
  /// Writes a used entry; show() lets the driver see it.
  void use(std::size_t index, std::uint32_t head, std::uint32_t written) {
    Ring& ring = at(index);
    const UsedElem element{head, written};
    std::memcpy(reinterpret_cast<void*>(ring.areas.used + 4 + ring.used % ring.size * 8u), &element,
                sizeof element);
    ++ring.used;
  }
  void show(std::size_t index) {
    Ring& ring = at(index);
    u16(ring.areas.used + 2).store(ring.used);
    const std::uint64_t one = 1;
    std::ignore = ::write(ring.call.get(), &one, sizeof one);
  }

  /// What the driver sent on this ring, each with its header in front. All of it is used.
  std::vector<Bytes> take(std::size_t index) {
    std::vector<Bytes> frames;
    while (const auto chain = next(index)) {
      Bytes& frame = frames.emplace_back();
      for (const SplitDesc& part : chain->descriptors) {
        const std::byte* bytes = guest(part.addr);
        frame.insert(frame.end(), bytes, bytes + part.length);
      }
      use(index, chain->head, 0);
    }
    if (!frames.empty()) show(index);
    return frames;
  }
  /// Writes header and frame into as many buffers of this ring as it takes. How many; fewer than
  /// it would need if there are not enough. `num_buffers` is written where it is given.
  std::size_t deliver(std::size_t index, const Bytes& whole,
                      std::optional<std::uint16_t> num_buffers = {}) {
    std::size_t done = 0, buffers = 0;
    std::byte* header = nullptr;
    while (done < whole.size()) {
      const auto chain = next(index);
      if (!chain) break;
      ++buffers;
      if (header == nullptr) header = guest(chain->descriptors.front().addr);
      const std::size_t written = fill(*chain, std::span(whole).subspan(done));
      done += written;
      use(index, chain->head, static_cast<std::uint32_t>(written));
    }
    if (num_buffers && header != nullptr) {
      std::memcpy(header + offsetof(NetHeader, num_buffers), &*num_buffers, sizeof *num_buffers);
    }
    return buffers;
  }
  /// Writes bytes into one chain, as many as fit. How many.
  std::size_t fill(const Chain& chain, std::span<const std::byte> bytes) {
    std::size_t written = 0;
    for (const SplitDesc& part : chain.descriptors) {
      const auto piece =
          bytes.subspan(written, std::min<std::size_t>(part.length, bytes.size() - written));
      if (!piece.empty()) std::memcpy(guest(part.addr), piece.data(), piece.size());
      written += piece.size();
    }
    return written;
  }

 private:
  struct Ring {
    std::uint16_t size = 0;
    std::uint16_t taken = 0;
    std::uint16_t used = 0;
    VringAddr areas{};
    UniqueFd call;
  };
  /// Lets `note` write something down, and acknowledges.
  template <class F>
  void keep(Request request, F note) {
    backend.on(request, [this, note](FakeBackend& self, Message& got) {
      {
        const std::lock_guard lock(mutex_);
        note(got);
      }
      self.reply_u64(got, 0);
    });
  }
  static std::size_t ring_of(const Message& got) {
    return read_once<std::uint64_t>(got.payload.data()) & vring_index_mask;
  }
  /// The messages about a ring are over when the test works on it; the lock says so to a checker.
  Ring& at(std::size_t index) {
    const std::lock_guard lock(mutex_);
    return rings_[index];
  }
  [[nodiscard]] std::byte* guest(std::uint64_t address) const {
    return reinterpret_cast<std::byte*>(address - region_.guest_address + region_.frontend_address);
  }
  [[nodiscard]] static SplitDesc read_at(std::uint64_t table, std::size_t index) {
    return read_once<SplitDesc>(reinterpret_cast<const void*>(table + index * sizeof(SplitDesc)));
  }
  [[nodiscard]] static std::atomic_ref<std::uint16_t> u16(std::uint64_t address) {
    return std::atomic_ref(*reinterpret_cast<std::uint16_t*>(address));
  }

  std::mutex mutex_;
  MemoryRegion region_{};
  std::array<Ring, rings> rings_;
};

}  // namespace vhost::frontend
