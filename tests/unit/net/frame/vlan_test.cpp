#include "backends/net/frame/vlan.hpp"

#include <gtest/gtest.h>

#include "tests/unit/net/frame/ethernet.hpp"
#include "tests/unit/net/frame/frame_fixture.hpp"

namespace net::tests {
namespace {

Bytes frame_with(std::initializer_list<Tag> tags) {
  return plain_frame(station(2), station(1), 7, tags);
}

std::optional<VlanId> vlan_of(const VlanPolicy& policy, const Bytes& bytes) {
  OwnedFrame owned(bytes);
  const auto tag = policy.classify(owned.frame);
  if (!tag) return {};
  return tag->vlan;
}

/// A frame as it leaves through `to` after it came in through `from`; nothing: it does not.
std::optional<Bytes> carried(const VlanPolicy& from, const VlanPolicy& to, const Bytes& bytes) {
  OwnedFrame owned(bytes);
  auto tag = from.classify(owned.frame);
  if (!tag || !to.passes(*tag)) return {};
  to.dress(owned.frame, *tag);
  return bytes_of(owned.frame);
}

TEST(VlanPolicy, TransparentTakesEveryTag) {
  const VlanPolicy policy = VlanPolicy::transparent();
  EXPECT_EQ(vlan_of(policy, frame_with({})), 0);
  EXPECT_EQ(vlan_of(policy, frame_with({{0x6000}})), 0);
  EXPECT_EQ(vlan_of(policy, frame_with({{0x6001}})), 1);
  EXPECT_EQ(vlan_of(policy, frame_with({{4094}})), 4094);
  EXPECT_EQ(vlan_of(policy, frame_with({{4095}})), 4095);
  EXPECT_EQ(vlan_of(policy, frame_with({{5, 0x88a8}})), 0);
}

TEST(VlanPolicy, AccessTakesWhatHasNoTag) {
  const VlanPolicy policy = VlanPolicy::access(5);
  EXPECT_EQ(vlan_of(policy, frame_with({})), 5);
  EXPECT_EQ(vlan_of(policy, frame_with({{0xe000}})), 5);
  EXPECT_EQ(vlan_of(policy, frame_with({{5}})), std::nullopt);
  EXPECT_EQ(vlan_of(policy, frame_with({{6}})), std::nullopt);
  EXPECT_EQ(vlan_of(policy, frame_with({{5, 0x88a8}})), std::nullopt);
}

TEST(VlanPolicy, TrunkTakesItsIds) {
  const VlanPolicy policy = trunk_of({1, 10, 4094});
  for (const unsigned id : {1U, 10U, 4094U}) EXPECT_EQ(vlan_of(policy, frame_with({{id}})), id);
  for (const unsigned id : {2U, 9U, 11U, 4093U, 4095U}) {
    EXPECT_EQ(vlan_of(policy, frame_with({{id}})), std::nullopt);
  }
  EXPECT_EQ(vlan_of(policy, frame_with({})), std::nullopt);
  EXPECT_EQ(vlan_of(policy, frame_with({{0}})), std::nullopt);
  EXPECT_EQ(vlan_of(policy, frame_with({{10, 0x88a8}})), std::nullopt);
}

TEST(VlanPolicy, TrunkWithNativeTakesWhatHasNoTagToo) {
  const VlanPolicy policy = trunk_of({10}, 20);
  EXPECT_EQ(vlan_of(policy, frame_with({})), 20);
  EXPECT_EQ(vlan_of(policy, frame_with({{0}})), 20);
  EXPECT_EQ(vlan_of(policy, frame_with({{20}})), 20);
  EXPECT_EQ(vlan_of(policy, frame_with({{10}})), 10);
}

TEST(VlanPolicy, TrunkOfIdZeroIsNone) {
  EXPECT_FALSE(trunk_of({0}).passes(VlanTag{}));
  EXPECT_FALSE(carried(VlanPolicy::transparent(), trunk_of({0, 1}), frame_with({{0}})));
}

TEST(VlanPolicy, SaysWhatMayLeave) {
  const auto passes = [](const VlanPolicy& policy, VlanId id) {
    return policy.passes({.vlan = id, .tci = id, .tagged = true});
  };
  EXPECT_TRUE(passes(VlanPolicy::access(5), 5));
  for (const VlanId id : std::array<VlanId, 4>{0, 4, 6, 4095})
    EXPECT_FALSE(passes(VlanPolicy::access(5), id));
  EXPECT_TRUE(passes(trunk_of({5}, 6), 5));
  EXPECT_TRUE(passes(trunk_of({5}, 6), 6));
  for (const VlanId id : std::array<VlanId, 4>{0, 4, 7, 4095})
    EXPECT_FALSE(passes(trunk_of({5}, 6), id));
  for (const VlanId id : std::array<VlanId, 3>{0, 1, 4095})
    EXPECT_TRUE(passes(VlanPolicy::transparent(), id));
}

TEST(VlanPolicy, TagsGoInAndOut) {
  const auto access = VlanPolicy::access(5);
  const auto trunk = trunk_of({5}, 6);
  const auto native = trunk_of({4}, 5);
  const auto through = VlanPolicy::transparent();
  const auto bare = frame_with({});
  const auto tagged = frame_with({{5}});
  const auto urgent = frame_with({{0xe005}});

  EXPECT_EQ(carried(access, access, bare), bare);
  EXPECT_EQ(carried(access, trunk, bare), tagged);
  EXPECT_EQ(carried(access, native, bare), bare);
  EXPECT_EQ(carried(access, through, bare), tagged);
  EXPECT_EQ(carried(trunk, access, urgent), bare);
  EXPECT_EQ(carried(trunk, trunk, urgent), urgent);
  EXPECT_EQ(carried(trunk, native, urgent), bare);
  EXPECT_EQ(carried(native, trunk, bare), tagged);
  EXPECT_EQ(carried(through, access, tagged), bare);
  EXPECT_EQ(carried(through, access, bare), std::nullopt);
  EXPECT_EQ(carried(through, through, bare), bare);
  EXPECT_EQ(carried(through, through, urgent), urgent);
}

TEST(VlanPolicy, PriorityTagKeepsItsPriority) {
  const auto access = VlanPolicy::access(5);
  const auto priority = frame_with({{0xf000}});
  EXPECT_EQ(carried(access, trunk_of({5}), priority), frame_with({{0xf005}}));
  EXPECT_EQ(carried(access, access, priority), frame_with({}));
  EXPECT_EQ(carried(VlanPolicy::transparent(), VlanPolicy::transparent(), priority), priority);
}

TEST(VlanPolicy, PriorityIsKeptWhileTheTagIsOut) {
  const auto bytes = frame_with({{0xe005}});
  OwnedFrame owned(bytes);
  auto tag = trunk_of({5}).classify(owned.frame);
  ASSERT_TRUE(tag);
  VlanPolicy::access(5).dress(owned.frame, *tag);
  EXPECT_EQ(bytes_of(owned.frame), frame_with({}));
  trunk_of({5}).dress(owned.frame, *tag);
  EXPECT_EQ(bytes_of(owned.frame), bytes);
}

/// Else a frame would come out in a VLAN that its sender has chosen.
TEST(VlanPolicy, TheFirstOfTwoTagsStays) {
  for (const unsigned inner : {0x8100U, 0x88a8U}) {
    const auto bytes = frame_with({{5}, {6, inner}});
    EXPECT_EQ(carried(trunk_of({5}), trunk_of({5}), bytes), bytes);
    EXPECT_EQ(carried(trunk_of({5}), VlanPolicy::access(5), bytes), std::nullopt);
    EXPECT_EQ(carried(trunk_of({5}), trunk_of({}, 5), bytes), std::nullopt);
    EXPECT_EQ(carried(VlanPolicy::transparent(), VlanPolicy::transparent(), bytes), bytes);
    EXPECT_EQ(vlan_of(VlanPolicy::access(5), frame_with({{0}, {6, inner}})), std::nullopt);
  }
}

TEST(VlanPolicy, TagThatIsCutOffPassesOnlyTransparentPorts) {
  for (const std::size_t length : {14UL, 17UL}) {
    auto bytes = frame_with({{5}});
    bytes.resize(length);
    EXPECT_EQ(vlan_of(VlanPolicy::transparent(), bytes), 0);
    EXPECT_EQ(vlan_of(VlanPolicy::access(5), bytes), std::nullopt);
    EXPECT_EQ(vlan_of(trunk_of({5}, 6), bytes), std::nullopt);
  }
  auto bytes = frame_with({{5}});
  bytes.resize(18);
  EXPECT_EQ(vlan_of(trunk_of({5}), bytes), 5);
}

}  // namespace
}  // namespace net::tests
