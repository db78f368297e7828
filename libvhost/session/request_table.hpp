#pragma once
#include <array>
#include <cstddef>
#include <string_view>

#include "libvhost/wire/protocol.hpp"

/*
 * What every message must look like and when it is allowed, as data: no handler can forget a
 * check, and none is made in two places. A message that is not in the table is unknown.
 */
namespace vhost {

/// What has to be so before a message makes sense (vhost-user, "Protocol features" and each
/// message's own section).
enum class Gate : signed char {
  none = -1,
  protocol_features_offered = -2,   ///< feature bit 30, which we always offer
  protocol_features_accepted = -3,  ///< SET_FEATURES accepted feature bit 30, or is yet to come
  iommu_accepted = -4,              ///< SET_FEATURES accepted VIRTIO_F_ACCESS_PLATFORM
  // 0 and above: that protocol feature was accepted.
};
[[nodiscard]] constexpr Gate needs(unsigned protocol_feature_bit) {
  return Gate{static_cast<signed char>(protocol_feature_bit)};
}

enum class WhileRunning : bool { no, yes };

struct RequestRule {
  Request request;
  std::string_view name;
  std::size_t payload_least;
  std::size_t payload_most;
  std::size_t fds_least;
  std::size_t fds_most;
  bool has_reply;  ///< of its own; else an acknowledgement where one is asked for
  Gate gate;
  WhileRunning running;  ///< whether it may come while any ring runs
};

inline constexpr std::size_t largest_table =
    sizeof(MemoryTableHeader) + max_table_regions * sizeof(MemoryRegion);
inline constexpr std::size_t largest_config = sizeof(ConfigHeader) + max_config_bytes;

// clang-format off
inline constexpr std::array request_table{
  //          request                          name                      payload bytes            fds   reply  gate                                        while running
  RequestRule{Request::get_features,           "GET_FEATURES",           0, 0,                    0, 0, true,  Gate::none,                                 WhileRunning::yes},
  RequestRule{Request::set_features,           "SET_FEATURES",           8, 8,                    0, 0, false, Gate::none,                                 WhileRunning::yes},
  RequestRule{Request::set_owner,              "SET_OWNER",              0, 0,                    0, 0, false, Gate::none,                                 WhileRunning::yes},
  RequestRule{Request::reset_owner,            "RESET_OWNER",            0, 0,                    0, 0, false, Gate::none,                                 WhileRunning::yes},
  RequestRule{Request::set_mem_table,          "SET_MEM_TABLE",          8, largest_table,        0, 8, false, Gate::none,                                 WhileRunning::yes},
  RequestRule{Request::set_log_base,           "SET_LOG_BASE",           16, 16,                  1, 1, true,  needs(protocol_feature::log_shmfd),         WhileRunning::yes},
  RequestRule{Request::set_log_fd,             "SET_LOG_FD",             0, 8,                    1, 1, false, Gate::none,                                 WhileRunning::yes},
  RequestRule{Request::set_vring_num,          "SET_VRING_NUM",          8, 8,                    0, 0, false, Gate::none,                                 WhileRunning::yes},
  RequestRule{Request::set_vring_addr,         "SET_VRING_ADDR",         40, 40,                  0, 0, false, Gate::none,                                 WhileRunning::yes},
  RequestRule{Request::set_vring_base,         "SET_VRING_BASE",         8, 8,                    0, 0, false, Gate::none,                                 WhileRunning::yes},
  RequestRule{Request::get_vring_base,         "GET_VRING_BASE",         8, 8,                    0, 0, true,  Gate::none,                                 WhileRunning::yes},
  RequestRule{Request::set_vring_kick,         "SET_VRING_KICK",         8, 8,                    0, 1, false, Gate::none,                                 WhileRunning::yes},
  RequestRule{Request::set_vring_call,         "SET_VRING_CALL",         8, 8,                    0, 1, false, Gate::none,                                 WhileRunning::yes},
  RequestRule{Request::set_vring_err,          "SET_VRING_ERR",          8, 8,                    0, 1, false, Gate::none,                                 WhileRunning::yes},
  RequestRule{Request::get_protocol_features,  "GET_PROTOCOL_FEATURES",  0, 0,                    0, 0, true,  Gate::protocol_features_offered,            WhileRunning::yes},
  RequestRule{Request::set_protocol_features,  "SET_PROTOCOL_FEATURES",  8, 8,                    0, 0, false, Gate::protocol_features_offered,            WhileRunning::no},
  RequestRule{Request::get_queue_num,          "GET_QUEUE_NUM",          0, 0,                    0, 0, true,  needs(protocol_feature::mq),                WhileRunning::yes},
  RequestRule{Request::set_vring_enable,       "SET_VRING_ENABLE",       8, 8,                    0, 0, false, Gate::protocol_features_accepted,           WhileRunning::yes},
  RequestRule{Request::send_rarp,              "SEND_RARP",              8, 8,                    0, 0, false, needs(protocol_feature::rarp),              WhileRunning::yes},
  RequestRule{Request::net_set_mtu,            "NET_SET_MTU",            8, 8,                    0, 0, false, needs(protocol_feature::mtu),               WhileRunning::yes},
  RequestRule{Request::set_backend_req_fd,     "SET_BACKEND_REQ_FD",     0, 0,                    1, 1, false, needs(protocol_feature::backend_req),       WhileRunning::yes},
  RequestRule{Request::iotlb_msg,              "IOTLB_MSG",              32, 32,                  0, 0, true,  Gate::iommu_accepted,                       WhileRunning::yes},
  RequestRule{Request::get_config,             "GET_CONFIG",             12, largest_config,      0, 0, true,  needs(protocol_feature::config),            WhileRunning::yes},
  RequestRule{Request::set_config,             "SET_CONFIG",             13, largest_config,      0, 0, false, needs(protocol_feature::config),            WhileRunning::yes},
  RequestRule{Request::postcopy_advise,        "POSTCOPY_ADVISE",        0, 0,                    0, 0, true,  needs(protocol_feature::pagefault),         WhileRunning::yes},
  RequestRule{Request::postcopy_listen,        "POSTCOPY_LISTEN",        0, 0,                    0, 0, false, needs(protocol_feature::pagefault),         WhileRunning::yes},
  RequestRule{Request::postcopy_end,           "POSTCOPY_END",           0, 0,                    0, 0, true,  needs(protocol_feature::pagefault),         WhileRunning::yes},
  RequestRule{Request::get_inflight_fd,        "GET_INFLIGHT_FD",        24, 24,                  0, 0, true,  needs(protocol_feature::inflight_shmfd),    WhileRunning::no},
  RequestRule{Request::set_inflight_fd,        "SET_INFLIGHT_FD",        24, 24,                  1, 1, false, needs(protocol_feature::inflight_shmfd),    WhileRunning::no},
  RequestRule{Request::reset_device,           "RESET_DEVICE",           0, 0,                    0, 0, false, needs(protocol_feature::reset_device),      WhileRunning::yes},
  RequestRule{Request::get_max_mem_slots,      "GET_MAX_MEM_SLOTS",      0, 0,                    0, 0, true,  needs(protocol_feature::configure_mem_slots), WhileRunning::yes},
  RequestRule{Request::add_mem_reg,            "ADD_MEM_REG",            40, 40,                  1, 1, false, needs(protocol_feature::configure_mem_slots), WhileRunning::yes},
  RequestRule{Request::rem_mem_reg,            "REM_MEM_REG",            40, 40,                  0, 1, false, needs(protocol_feature::configure_mem_slots), WhileRunning::yes},
  RequestRule{Request::set_status,             "SET_STATUS",             8, 8,                    0, 0, false, needs(protocol_feature::status),            WhileRunning::yes},
  RequestRule{Request::get_status,             "GET_STATUS",             0, 0,                    0, 0, true,  needs(protocol_feature::status),            WhileRunning::yes},
  RequestRule{Request::get_vring_base_skip_drain, "GET_VRING_BASE_SKIP_DRAIN", 8, 8,              0, 0, true,  needs(protocol_feature::get_vring_base_skip_drain), WhileRunning::yes},
};
// clang-format on

/// The rule of a request, by the number that came; null if we do not know it.
[[nodiscard]] constexpr const RequestRule* find_rule(std::uint32_t request) {
  for (const RequestRule& rule : request_table) {
    if (static_cast<std::uint32_t>(rule.request) == request) return &rule;
  }
  return nullptr;
}

}  // namespace vhost
