#include "libvhost/session/feature_names.hpp"

#include <array>
#include <span>
#include <utility>

#include "libvhost/wire/protocol.hpp"

namespace vhost {
namespace {

using Name = std::pair<unsigned, const char*>;

constexpr std::array transport_names{
    Name{feature::notify_on_empty, "VIRTIO_F_NOTIFY_ON_EMPTY"},
    Name{feature::log_all, "VHOST_F_LOG_ALL"},
    Name{feature::any_layout, "VIRTIO_F_ANY_LAYOUT"},
    Name{feature::indirect_desc, "VIRTIO_F_INDIRECT_DESC"},
    Name{feature::event_idx, "VIRTIO_F_EVENT_IDX"},
    Name{feature::protocol_features, "VHOST_USER_F_PROTOCOL_FEATURES"},
    Name{feature::version_1, "VIRTIO_F_VERSION_1"},
    Name{feature::access_platform, "VIRTIO_F_ACCESS_PLATFORM"},
    Name{feature::ring_packed, "VIRTIO_F_RING_PACKED"},
    Name{feature::in_order, "VIRTIO_F_IN_ORDER"},
};

constexpr std::array protocol_names{
    Name{protocol_feature::mq, "MQ"},
    Name{protocol_feature::log_shmfd, "LOG_SHMFD"},
    Name{protocol_feature::rarp, "RARP"},
    Name{protocol_feature::reply_ack, "REPLY_ACK"},
    Name{protocol_feature::mtu, "MTU"},
    Name{protocol_feature::backend_req, "BACKEND_REQ"},
    Name{protocol_feature::pagefault, "PAGEFAULT"},
    Name{protocol_feature::config, "CONFIG"},
    Name{protocol_feature::backend_send_fd, "BACKEND_SEND_FD"},
    Name{protocol_feature::inflight_shmfd, "INFLIGHT_SHMFD"},
    Name{protocol_feature::reset_device, "RESET_DEVICE"},
    Name{protocol_feature::configure_mem_slots, "CONFIGURE_MEM_SLOTS"},
    Name{protocol_feature::status, "STATUS"},
    Name{protocol_feature::get_vring_base_inflight, "GET_VRING_BASE_INFLIGHT"},
    Name{protocol_feature::gpa_addresses, "GPA_ADDRESSES"},
    Name{protocol_feature::get_vring_base_skip_drain, "GET_VRING_BASE_SKIP_DRAIN"},
};

std::vector<std::string> names_of(std::uint64_t features, unsigned first,
                                  std::span<const Name> names) {
  std::vector<std::string> found;
  for (unsigned number = first; number < 64; ++number) {
    if (!has(features, number)) continue;
    std::string name = "bit " + std::to_string(number);
    for (const auto& [known, text] : names) {
      if (known == number) name = text;
    }
    found.push_back(std::move(name));
  }
  return found;
}

}  // namespace

std::vector<std::string> transport_feature_names(std::uint64_t features) {
  return names_of(features, 24, transport_names);
}

std::vector<std::string> protocol_feature_names(std::uint64_t features) {
  return names_of(features, 0, protocol_names);
}

}  // namespace vhost
