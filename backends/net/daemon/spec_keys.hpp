#pragma once
#include <array>
#include <bitset>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "libvhost/wire/error.hpp"

/*
 * What --port and --uplink have in common: a list "key=value,key,key=value", and the values in it.
 *
 * A refusal is the end of a sentence, as in common/parse.hpp, with the key in front where one is to
 * blame: "vlan: '4095' is not accepted: give a number from 1 to 4094".
 */
namespace net {

/// A key and what it does with its value. A key without `value` stands alone.
template <class Spec>
struct SpecKey {
  std::string_view name;
  bool value;
  vhost::Result<void> (*set)(Spec& spec, std::string_view value);
};

/// One entry of a list; no value: there was no '='.
struct SpecEntry {
  std::string_view key;
  std::optional<std::string_view> value;
};

/// Cuts at commas and at the first '=' of each entry. Refuses an empty entry, a key that is none of
/// `keys` or comes twice, a value that is missing or empty, and one that a key does not take.
struct KnownKey {
  std::string_view name;
  bool value;
};
[[nodiscard]] vhost::Result<std::vector<SpecEntry>> split_keys(std::string_view text,
                                                               std::span<const KnownKey> keys);

/// Sets in `spec` what `text` says.
template <class Spec, std::size_t n>
[[nodiscard]] vhost::Result<void> apply_keys(Spec& spec, std::string_view text,
                                             const std::array<SpecKey<Spec>, n>& keys) {
  std::array<KnownKey, n> known;
  for (std::size_t i = 0; i < n; ++i) known[i] = {keys[i].name, keys[i].value};
  const auto entries = split_keys(text, known);
  if (!entries) return std::unexpected(entries.error());
  for (const SpecEntry& entry : *entries) {
    for (const auto& key : keys) {
      if (key.name != entry.key) continue;
      if (auto set = key.set(spec, entry.value.value_or("")); !set) {
        return vhost::fail(vhost::Fault::operator_,
                           std::string(key.name) + ": " + set.error().what);
      }
    }
  }
  return {};
}

/// Stores a parsed value, or passes the refusal on.
template <class To, class Value>
[[nodiscard]] vhost::Result<void> store(To& to, vhost::Result<Value> parsed) {
  if (!parsed) return std::unexpected(std::move(parsed.error()));
  to = static_cast<To>(std::move(*parsed));
  return {};
}

/// The name of a port or uplink: 1 to 32 of A-Z a-z 0-9 _ . -
[[nodiscard]] vhost::Result<std::string> parse_spec_name(std::string_view text);

/// "52:54:00:12:34:56": one that an interface may have, so neither zero nor a group's.
[[nodiscard]] vhost::Result<std::array<std::uint8_t, 6>> parse_mac(std::string_view text);
[[nodiscard]] std::string mac_text(const std::array<std::uint8_t, 6>& mac);

/// The VLANs that a port is a member of. None at all: it passes frames as they are.
struct SpecVlans {
  std::optional<std::uint16_t> untagged;  ///< alone: an access port; with tagged: the native VLAN
  std::bitset<4095> tagged;

  [[nodiscard]] bool any() const { return untagged || tagged.any(); }
  bool operator==(const SpecVlans&) const = default;
};
[[nodiscard]] vhost::Result<std::uint16_t> parse_vlan(std::string_view text);
/// "1+5-9"
[[nodiscard]] vhost::Result<std::bitset<4095>> parse_trunk(std::string_view text);
/// What vlan= and trunk= must be to each other.
[[nodiscard]] vhost::Result<void> check_vlans(const SpecVlans& vlans);

/// Addresses of both versions, "10.0.0.2+fd00::2".
struct SpecAddresses {
  std::vector<std::array<std::uint8_t, 4>> ipv4;
  std::vector<std::array<std::uint8_t, 16>> ipv6;

  [[nodiscard]] bool any() const { return !ipv4.empty() || !ipv6.empty(); }
  bool operator==(const SpecAddresses&) const = default;
};
[[nodiscard]] vhost::Result<SpecAddresses> parse_addresses(std::string_view text);

}  // namespace net
