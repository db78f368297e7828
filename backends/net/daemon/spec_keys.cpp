#include "backends/net/daemon/spec_keys.hpp"

#include <arpa/inet.h>

#include <algorithm>

#include <fmt/core.h>

#include "common/parse.hpp"

namespace net {
namespace {

using vhost::Fault;
using vhost::Result;

constexpr std::uint64_t last_vlan_id = 4094;

std::unexpected<vhost::Error> refuse(std::string what) {
  return vhost::fail(Fault::operator_, std::move(what));
}

std::string names_of(std::span<const KnownKey> keys) {
  std::string names;
  for (const KnownKey& key : keys) {
    if (!names.empty()) names += ", ";
    names += key.name;
  }
  return names;
}

/// Takes what stands before the next `mark` off the front of `text`, and the mark with it.
std::string_view take_part(std::string_view& text, char mark) {
  const std::size_t end = std::min(text.find(mark), text.size());
  const std::string_view part = text.substr(0, end);
  text.remove_prefix(std::min(end + 1, text.size()));
  return part;
}

Result<SpecEntry> read_entry(std::string_view part, std::span<const KnownKey> keys) {
  SpecEntry entry{part, std::nullopt};
  if (const std::size_t equals = part.find('='); equals != part.npos) {
    entry = {part.substr(0, equals), part.substr(equals + 1)};
  }
  const auto known = std::ranges::find(keys, entry.key, &KnownKey::name);
  if (known == keys.end()) {
    return refuse(fmt::format("'{}' is not known here: there are {}", entry.key, names_of(keys)));
  }
  if (!known->value && entry.value) {
    return refuse(fmt::format("{}: takes no value: leave out what follows it", entry.key));
  }
  if (known->value && (!entry.value || entry.value->empty())) {
    return refuse(fmt::format("{}: the value is missing: give one behind a '='", entry.key));
  }
  return entry;
}

}  // namespace

Result<std::vector<SpecEntry>> split_keys(std::string_view text, std::span<const KnownKey> keys) {
  std::vector<SpecEntry> entries;
  // A comma at the end announces an entry that is not there.
  for (bool more = !text.empty(); more;) {
    more = text.find(',') != text.npos;
    const std::string_view part = take_part(text, ',');
    if (part.empty()) return refuse("there is nothing beside a comma: remove the comma");
    const auto entry = read_entry(part, keys);
    if (!entry) return std::unexpected(entry.error());
    if (std::ranges::find(entries, entry->key, &SpecEntry::key) != entries.end()) {
      return refuse(fmt::format("{}: given more than once: give it once", entry->key));
    }
    entries.push_back(*entry);
  }
  return entries;
}

Result<std::string> parse_spec_name(std::string_view text) {
  constexpr std::size_t longest = 32;
  const bool fits = !text.empty() && text.size() <= longest &&
                    text.find_first_not_of(
                        "abcdefghijklmnopqrstuvwxyz"
                        "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
                        "0123456789_.-") == text.npos;
  if (!fits) {
    return refuse(fmt::format("'{}' is no name: give 1 to {} letters, digits, '_', '.' or '-'",
                              text, longest));
  }
  return std::string(text);
}

Result<std::array<std::uint8_t, 6>> parse_mac(std::string_view text) {
  constexpr std::string_view digits = "0123456789abcdef";
  std::array<std::uint8_t, 6> mac{};
  const auto digit = [&](std::size_t at) {
    return digits.find(static_cast<char>(text[at] | 0x20));  // to lower case
  };
  const auto refusal =
      refuse(fmt::format("'{}' is no MAC address: give six pairs of hexadecimal digits, as in "
                         "52:54:00:12:34:56",
                         text));
  if (text.size() != 17) return refusal;
  for (std::size_t i = 0; i < mac.size(); ++i) {
    const std::size_t high = digit(3 * i);
    const std::size_t low = digit(3 * i + 1);
    if (high == digits.npos || low == digits.npos) return refusal;
    if (i + 1 < mac.size() && text[3 * i + 2] != ':') return refusal;
    mac[i] = static_cast<std::uint8_t>(high << 4 | low);
  }
  if ((mac[0] & 1) != 0) {
    return refuse(fmt::format("'{}' is a multicast address: make its first byte even", text));
  }
  if (mac == std::array<std::uint8_t, 6>{}) {
    return refuse(fmt::format("'{}' is nobody's address: give the guest's", text));
  }
  return mac;
}

std::string mac_text(const std::array<std::uint8_t, 6>& mac) {
  return fmt::format("{:02x}:{:02x}:{:02x}:{:02x}:{:02x}:{:02x}", mac[0], mac[1], mac[2], mac[3],
                     mac[4], mac[5]);
}

Result<std::uint16_t> parse_vlan(std::string_view text) {
  const auto id = common::parse_number(text, 1, last_vlan_id);
  if (!id) return std::unexpected(id.error());
  return static_cast<std::uint16_t>(*id);
}

Result<std::bitset<4095>> parse_trunk(std::string_view text) {
  std::bitset<4095> ids;
  std::string_view rest = text;
  for (bool more = true; more;) {
    more = rest.find('+') != rest.npos;
    std::string_view range = take_part(rest, '+');
    const bool is_range = range.find('-') != range.npos;
    const auto first = common::parse_number(take_part(range, '-'), 1, last_vlan_id);
    const auto last = is_range ? common::parse_number(range, 1, last_vlan_id) : first;
    if (!first || !last || *first > *last) {
      return refuse(
          fmt::format("'{}' is no list of VLANs: give numbers from 1 to {} and ranges, as in 1+5-9",
                      text, last_vlan_id));
    }
    for (std::uint64_t id = *first; id <= *last; ++id) {
      if (ids[id]) return refuse(fmt::format("'{}' names VLAN {} twice: name it once", text, id));
      ids.set(id);
    }
  }
  return ids;
}

Result<void> check_vlans(const SpecVlans& vlans) {
  if (vlans.untagged && vlans.tagged.any() && vlans.tagged[*vlans.untagged]) {
    return refuse(
        fmt::format("VLAN {} is in trunk and is vlan, too: frames are with a tag or without it; "
                    "remove one of the two",
                    *vlans.untagged));
  }
  return {};
}

Result<SpecAddresses> parse_addresses(std::string_view text) {
  SpecAddresses addresses;
  std::string_view rest = text;
  for (bool more = true; more;) {
    more = rest.find('+') != rest.npos;
    const std::string one(take_part(rest, '+'));
    std::array<std::uint8_t, 4> ipv4{};
    std::array<std::uint8_t, 16> ipv6{};
    if (::inet_pton(AF_INET, one.c_str(), ipv4.data()) == 1) {
      addresses.ipv4.push_back(ipv4);
    } else if (::inet_pton(AF_INET6, one.c_str(), ipv6.data()) == 1) {
      addresses.ipv6.push_back(ipv6);
    } else {
      return refuse(
          fmt::format("'{}' is no list of IP addresses: give them as in 10.0.0.2+fd00::2", text));
    }
  }
  return addresses;
}

}  // namespace net
