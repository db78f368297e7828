#pragma once
#include <bitset>
#include <cstdint>
#include <optional>

#include "backends/net/frame/frame.hpp"

/*
 * Which VLANs a port is a member of, and whether their frames carry a tag there.
 *
 * Inside the switch every frame belongs to one VLAN; 0 is the one of frames without a tag that no
 * policy has assigned. Only tags with TPID 0x8100 count. The service tag 0x88a8 is opaque on a
 * transparent port, like any other type, and does not pass a port with a policy: what is behind it
 * could be a tag that another switch believes.
 *
 * For the same reason a frame with two tags never loses the first: it would come out in the VLAN
 * that its sender has written behind it.
 */
namespace net {

using VlanId = std::uint16_t;
inline constexpr VlanId last_vlan = 4094;

/// What is known of the tag of a frame that is being forwarded.
struct VlanTag {
  VlanId vlan = 0;        ///< the frame belongs to
  std::uint16_t tci = 0;  ///< what its tag says, or would say
  bool tagged = false;    ///< it is in the frame now
  bool stacked = false;   ///< another tag is behind it
};

class VlanPolicy {
 public:
  using Ids = std::bitset<last_vlan + 1>;

  /// Frames pass with the tag that they have. A member of every VLAN; the frames of VLAN 0 have no
  /// tag.
  [[nodiscard]] static VlanPolicy transparent() { return {}; }
  /// One VLAN (1 to 4094), without tags.
  [[nodiscard]] static VlanPolicy access(VlanId id);
  /// These VLANs with their tags, and perhaps one (1 to 4094) without. Id 0 is left out.
  [[nodiscard]] static VlanPolicy trunk(const Ids& ids, std::optional<VlanId> native = {});

  [[nodiscard]] bool is_transparent() const { return kind_ == Kind::transparent; }

  /// The VLAN that a frame coming in belongs to. Nothing: it must not pass. A priority tag (id 0)
  /// that passes a port with a policy gets the port's VLAN written into it.
  [[nodiscard]] std::optional<VlanTag> classify(Frame& frame) const;

  /// A frame with this tag may leave through the port.
  [[nodiscard]] bool passes(const VlanTag& tag) const {
    if (is_transparent()) return true;
    return tag.vlan <= last_vlan && members_[tag.vlan] && !(tag.stacked && tag.vlan == untagged_);
  }
  /// Puts the tag in or takes it out, as frames leave through the port.
  void dress(Frame& frame, VlanTag& tag) const;

 private:
  enum class Kind : std::uint8_t { transparent, access, trunk };

  [[nodiscard]] std::optional<VlanTag> classify_untagged() const;

  Kind kind_ = Kind::transparent;
  VlanId untagged_ = 0;  // the VLAN whose frames have no tag; 0 on a trunk: none
  Ids members_;
};

}  // namespace net
