#include <fstream>

#include "tests/unit/session/postcopy_fixture.hpp"

/* Memory that comes page by page: the order of the messages. */
namespace vhost::tests {
namespace {

TEST_F(SessionPostcopyTest, IsOfferedOnlyWhereTheOperatorWantsIt) {
  FakeFrontend other(device_);
  const auto bits = [](FakeFrontend& frontend) {
    return *frontend.ask<std::uint64_t>(Request::get_protocol_features);
  };
  EXPECT_TRUE(has(bits(frontend_), protocol_feature::pagefault));
  EXPECT_FALSE(has(bits(other), protocol_feature::pagefault));
  EXPECT_EQ(bits(frontend_) & ~bits(other), bit(protocol_feature::pagefault));
}

TEST_F(SessionPostcopyTest, AdviseGivesADescriptorAndWatchesNothingYet) {
  ASSERT_EQ(frontend_.set_memory(memory_, {0}), Outcome::done);
  const UniqueFd userfault = advise();
  ASSERT_TRUE(userfault);
  EXPECT_EQ(frontend_.set_memory(memory_, {0, 1}), Outcome::done) << "acknowledged as ever";
  EXPECT_EQ(regions(), 2u);
}

TEST_F(SessionPostcopyTest, RefusesListenWithoutAdvise) {
  EXPECT_EQ(listen(), Outcome::refused);
}

TEST_F(SessionPostcopyTest, RefusesEndWithoutListen) {
  EXPECT_EQ(end(), 1u);
  (void)advise();
  EXPECT_EQ(end(), 1u);
  EXPECT_EQ(listen(), Outcome::done);
  EXPECT_EQ(end(), 0u);
  EXPECT_EQ(end(), 1u);
  EXPECT_EQ(listen(), Outcome::refused) << "it takes another ADVISE";
}

TEST_F(SessionPostcopyTest, RefusesAdviseAfterListenByAnAnswerWithoutADescriptor) {
  const UniqueFd userfault = begin();
  ASSERT_TRUE(send(Request::postcopy_advise));
  const auto answer = frontend_.reply();
  ASSERT_TRUE(answer);
  EXPECT_TRUE(answer->payload.empty());
  EXPECT_TRUE(answer->fds.empty());
  EXPECT_EQ(end(), 0u);
  EXPECT_TRUE(advise()) << "another migration";
}

TEST_F(SessionPostcopyTest, ServesQemusOneConversationForEachPairOfRings) {
  const UniqueFd second_pair = advise();
  const UniqueFd first_pair = advise();
  ASSERT_EQ(listen(), Outcome::done);
  ASSERT_EQ(listen(), Outcome::done);
  std::byte* const place = announce(2);
  ASSERT_TRUE(acknowledge(Request::add_mem_reg));
  EXPECT_EQ(announce(2), place) << "the same region, for the other pair";
  ASSERT_TRUE(acknowledge(Request::add_mem_reg));
  EXPECT_EQ(regions(), 1u);

  std::jthread reader([&] { (void)peek(place); });
  EXPECT_TRUE(waits(first_pair)) << "the last that was advised is told";
  EXPECT_FALSE(waits(second_pair, 0ms));
  EXPECT_EQ(end(), 0u);
  reader.join();
  EXPECT_EQ(end(), 0u);
  EXPECT_EQ(end(), 1u);
}

TEST_F(SessionPostcopyTest, AnnouncesWhereEachRegionsFirstByteIs) {
  memory_.add({0x20'0000'0000, 8192, 0x7c0000000000, 12288});  // not at its file's beginning
  const UniqueFd userfault = begin();
  const auto found = announce_table({0, 2, 3});
  ASSERT_EQ(found.size(), 3u);
  const std::array which{0, 2, 3};
  for (std::size_t i = 0; i < which.size(); ++i) {
    const MemoryRegion& region = memory_.regions()[static_cast<std::size_t>(which[i])];
    memory_.store(region.guest_address + 5, std::byte{0x40});
    memory_.store(region.guest_address + region.size_bytes - 1, std::byte{0x41});
    EXPECT_EQ(peek(found[i] + 5), std::byte{0x40});
    EXPECT_EQ(peek(found[i] + region.size_bytes - 1), std::byte{0x41});
  }
}

TEST_F(SessionPostcopyTest, UsesNoMemoryBeforeItIsAcknowledged) {
  memory_.store(driver_.used_at(), std::uint32_t{0});  // the page has come
  const UniqueFd userfault = begin();
  configure_ring();
  ASSERT_EQ(announce_table({0, 1, 2}).size(), 3u);
  EXPECT_EQ(regions(), 0u);
  EXPECT_TRUE(device_.running.empty());
  EXPECT_FALSE(waits(userfault, 0ms));
  ASSERT_TRUE(acknowledge(Request::set_mem_table));
  EXPECT_EQ(regions(), 3u);
  EXPECT_EQ(device_.running.size(), 1u);
}

TEST_F(SessionPostcopyTest, TakesAnAcknowledgementAsTheSpecificationAndAsQemuHasIt) {
  const UniqueFd userfault = begin();
  for (const auto& value : {std::optional<std::uint64_t>(), std::optional<std::uint64_t>(0)}) {
    ASSERT_EQ(announce_table({0}).size(), 1u);
    ASSERT_TRUE(acknowledge(Request::set_mem_table, value));
    EXPECT_EQ(regions(), 1u);
    ASSERT_NE(announce(1), nullptr);
    EXPECT_EQ(regions(), 1u);
    ASSERT_TRUE(acknowledge(Request::add_mem_reg, value));
    EXPECT_EQ(regions(), 2u);
  }
}

TEST_F(SessionPostcopyTest, SeveralRegionsHaveOneAcknowledgement) {
  const UniqueFd userfault = begin();
  ASSERT_NE(announce(0), nullptr);
  ASSERT_NE(announce(1), nullptr);
  ASSERT_NE(announce(2), nullptr);
  EXPECT_EQ(regions(), 0u);
  ASSERT_TRUE(acknowledge(Request::add_mem_reg));
  EXPECT_EQ(regions(), 3u);
}

TEST_F(SessionPostcopyTest, TakesQemusAcknowledgementOfNoNewMemory) {
  const UniqueFd userfault = begin();
  ASSERT_NE(announce(0), nullptr);
  ASSERT_TRUE(acknowledge(Request::add_mem_reg));
  EXPECT_TRUE(acknowledge(Request{0})) << "nothing had changed";
  const SingleRegion gone{0, memory_.regions()[0]};
  ASSERT_TRUE(send(Request::rem_mem_reg, bytes_of(gone)));
  EXPECT_TRUE(acknowledge(Request::rem_mem_reg));
  EXPECT_EQ(regions(), 0u);
  EXPECT_FALSE(frontend_.reply());
}

TEST_F(SessionPostcopyTest, AnEmptyTableIsATableWhereNothingIsToBeAcknowledged) {
  const UniqueFd userfault = begin();
  ASSERT_EQ(announce_table({0}).size(), 1u);
  ASSERT_TRUE(acknowledge(Request::set_mem_table));
  ASSERT_TRUE(send(Request::set_mem_table, bytes_of(MemoryTableHeader{0, 0})));
  EXPECT_TRUE(frontend_.reply());
  EXPECT_EQ(regions(), 1u);
  ASSERT_TRUE(acknowledge(Request::set_mem_table));
  EXPECT_EQ(regions(), 0u);
}

TEST_F(SessionPostcopyTest, EndsTheConnectionOfAFrontEndThatCannotBringPages) {
  const UniqueFd userfault = begin();
  ASSERT_NE(announce(0), nullptr);
  EXPECT_FALSE(acknowledge(Request::add_mem_reg, 1));
}

TEST_F(SessionPostcopyTest, NothingIsAnAcknowledgementOutsideOfPostcopy) {
  (void)advise();
  EXPECT_FALSE(acknowledge(Request::add_mem_reg));
}

TEST_F(SessionPostcopyTest, WhatHasADescriptorOrAsksForAnAnswerIsNoAcknowledgement) {
  const UniqueFd userfault = begin();
  ASSERT_NE(announce(0), nullptr);
  EXPECT_EQ(frontend_.tell(Request::add_mem_reg, std::uint64_t{0}), Outcome::refused);
  EXPECT_EQ(frontend_.tell(Request::add_mem_reg, std::uint64_t{0}, {kick_.get()}),
            Outcome::refused);
  const int fd = kick_.get();
  EXPECT_FALSE(send(Request::add_mem_reg, bytes_of(std::uint64_t{0}), std::span(&fd, 1)));
}

TEST_F(SessionPostcopyTest, RefusesARemovalBeforeTheAcknowledgementAndTakesOneAfter) {
  const UniqueFd userfault = begin();
  ASSERT_NE(announce(0), nullptr);
  const SingleRegion gone{0, memory_.regions()[0]};
  EXPECT_EQ(frontend_.tell(Request::rem_mem_reg, gone), Outcome::refused);
  ASSERT_TRUE(acknowledge(Request::add_mem_reg));
  EXPECT_EQ(regions(), 1u);
  EXPECT_EQ(frontend_.tell(Request::rem_mem_reg, gone), Outcome::done);
  EXPECT_EQ(regions(), 0u);
  ASSERT_NE(announce(0), nullptr) << "and it may come again";
}

TEST_F(SessionPostcopyTest, RefusesMemoryThatOverlapsWhatIsOnlyAnnounced) {
  const UniqueFd userfault = begin();
  ASSERT_NE(announce(0), nullptr);
  const SingleRegion same{0, memory_.regions()[0]};
  EXPECT_EQ(frontend_.tell(Request::add_mem_reg, same, {memory_.fds()[1].get()}), Outcome::refused);
  ASSERT_TRUE(acknowledge(Request::add_mem_reg));
  EXPECT_EQ(regions(), 1u);
}

TEST_F(SessionPostcopyTest, TakesAnAcknowledgementThatCameAfterTheEnd) {
  const UniqueFd userfault = begin();
  ASSERT_NE(announce(0), nullptr);
  ASSERT_EQ(end(), 0u);
  EXPECT_EQ(regions(), 0u);
  ASSERT_TRUE(acknowledge(Request::add_mem_reg));
  EXPECT_EQ(regions(), 1u);
  EXPECT_EQ(frontend_.tell(Request::rem_mem_reg, SingleRegion{0, memory_.regions()[0]}),
            Outcome::done);
}

TEST_F(SessionPostcopyTest, ATableAfterTheEndReplacesWhatWasAnnounced) {
  const UniqueFd userfault = begin();
  ASSERT_NE(announce(0), nullptr);
  ASSERT_EQ(end(), 0u);
  EXPECT_EQ(frontend_.set_memory(memory_, {1, 2}), Outcome::done);
  EXPECT_EQ(regions(), 2u);
  EXPECT_FALSE(acknowledge(Request::add_mem_reg)) << "there is nothing to acknowledge";
}

TEST_F(SessionPostcopyTest, LetsGoOfMemoryThatIsRemovedWhilePagesCome) {
  const auto mappings = [] {
    std::ifstream maps("/proc/self/maps");
    std::size_t count = 0;
    for (std::string line; std::getline(maps, line);) count += line.contains("memfd:guest");
    return count;
  };
  const UniqueFd userfault = begin();
  const std::size_t before = mappings();
  ASSERT_NE(announce(0), nullptr);
  ASSERT_TRUE(acknowledge(Request::add_mem_reg));
  EXPECT_EQ(mappings(), before + 1);
  const SingleRegion gone{0, memory_.regions()[0]};
  EXPECT_EQ(frontend_.tell(Request::rem_mem_reg, gone), Outcome::done);
  EXPECT_EQ(mappings(), before);
}

}  // namespace
}  // namespace vhost::tests
