#include "libvhost/wire/virtqueue.hpp"

#include <gtest/gtest.h>

namespace vhost {
namespace {

TEST(PassedEvent, SaysYesForTheEntryJustPassed) {
  EXPECT_TRUE(passed_event(7, 8, 7));
  EXPECT_FALSE(passed_event(8, 8, 7));
  EXPECT_FALSE(passed_event(6, 8, 7));
}

TEST(PassedEvent, SeesAnEventInsideABatch) {
  EXPECT_TRUE(passed_event(10, 20, 10));
  EXPECT_TRUE(passed_event(19, 20, 10));
  EXPECT_FALSE(passed_event(20, 20, 10));
  EXPECT_FALSE(passed_event(9, 20, 10));
}

TEST(PassedEvent, IsRightAcrossTheWrap) {
  EXPECT_TRUE(passed_event(0xffff, 0, 0xffff));
  EXPECT_TRUE(passed_event(0xfffe, 3, 0xfffe));
  EXPECT_FALSE(passed_event(3, 3, 0xfffe));
  EXPECT_FALSE(passed_event(0xfffd, 3, 0xfffe));
}

TEST(PassedEvent, SaysNoWhereNothingMoved) {
  EXPECT_FALSE(passed_event(5, 5, 5));
}

TEST(SplitLayout, HasTheSizesOfTheSpecification) {
  constexpr SplitLayout layout{256};  // VIRTIO 2.7: 16 * size, 6 + 2 * size, 6 + 8 * size
  EXPECT_EQ(layout.descriptors_bytes(), 4096u);
  EXPECT_EQ(layout.available_bytes(true), 6u + 512);
  EXPECT_EQ(layout.used_bytes(true), 6u + 2048);
  EXPECT_EQ(layout.available_bytes(false), 4u + 512);
  EXPECT_EQ(layout.used_bytes(false), 4u + 2048);
}

}  // namespace
}  // namespace vhost
