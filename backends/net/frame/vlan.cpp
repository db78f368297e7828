#include "backends/net/frame/vlan.hpp"

#include <cassert>

#include "backends/net/frame/headers.hpp"

namespace net {
namespace {

constexpr std::uint16_t vlan_mask = 0x0fff;  // the rest of a TCI is priority

/// The tag with TPID 0x8100 that the frame has, if it has one whole.
std::optional<VlanTag> tag_of(const Frame& frame) {
  if (number_at(frame.head(), ether_type_offset) != ether_type::vlan) return {};
  if (frame.head().size() < ethernet_bytes + vlan_tag_bytes) return {};
  const std::uint16_t tci = number_at(frame.head(), tci_offset);
  return VlanTag{.vlan = static_cast<VlanId>(tci & vlan_mask),
                 .tci = tci,
                 .tagged = true,
                 .stacked = is_tag(number_at(frame.head(), tci_offset + 2))};
}

}  // namespace

VlanPolicy VlanPolicy::access(VlanId id) {
  assert(id >= 1 && id <= last_vlan);
  VlanPolicy policy;
  policy.kind_ = Kind::access;
  policy.untagged_ = id;
  policy.members_.set(id);
  return policy;
}

VlanPolicy VlanPolicy::trunk(const Ids& ids, std::optional<VlanId> native) {
  assert(!native || (*native >= 1 && *native <= last_vlan));
  VlanPolicy policy;
  policy.kind_ = Kind::trunk;
  policy.members_ = ids;
  policy.members_.reset(0);
  if (native) {
    policy.untagged_ = *native;
    policy.members_.set(*native);
  }
  return policy;
}

std::optional<VlanTag> VlanPolicy::classify_untagged() const {
  if (untagged_ == 0) return {};
  return VlanTag{.vlan = untagged_, .tci = untagged_};
}

std::optional<VlanTag> VlanPolicy::classify(Frame& frame) const {
  auto tag = tag_of(frame);
  if (is_transparent()) return tag.value_or(VlanTag{});
  if (!tag) {
    // One that is cut off counts as a tag, too.
    if (is_tag(number_at(frame.head(), ether_type_offset))) return {};
    return classify_untagged();
  }
  if (tag->vlan == 0) {
    if (untagged_ == 0 || tag->stacked) return {};
    tag->vlan = untagged_;
    tag->tci = static_cast<std::uint16_t>(tag->tci | untagged_);
    frame.set_field(tci_offset, std::byteswap(tag->tci));
    return tag;
  }
  if (kind_ == Kind::access || tag->vlan > last_vlan || !members_[tag->vlan]) return {};
  return tag;
}

void VlanPolicy::dress(Frame& frame, VlanTag& tag) const {
  const bool want = is_transparent() ? tag.tagged || tag.vlan != 0 : tag.vlan != untagged_;
  if (want == tag.tagged) return;
  if (want) {
    frame.push_tag(tag.tci);
  } else {
    frame.pop_tag();
  }
  tag.tagged = want;
}

}  // namespace net
