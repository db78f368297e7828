#include "tests/unit/session/session_iommu_fixture.hpp"

namespace vhost::tests {
namespace {

using fakes::Buffer;

TEST_F(SessionIommuTest, IsOfferedWithWhatItNeeds) {
  device_.protocol = 0;
  FakeFrontend frontend(device_);
  EXPECT_TRUE(has(*frontend.ask<std::uint64_t>(Request::get_features), feature::access_platform));
  const auto protocol = *frontend.ask<std::uint64_t>(Request::get_protocol_features);
  EXPECT_TRUE(has(protocol, protocol_feature::backend_req));
  EXPECT_TRUE(has(protocol, protocol_feature::reply_ack));
}

TEST_F(SessionIommuTest, AnswersNoWhereTheFeatureWasNotAccepted) {
  negotiate();
  EXPECT_EQ(update(GuestMemory::low), 1u);
  EXPECT_TRUE(frontend_.connected());
}

TEST_F(SessionIommuTest, ARingStartsWhenItsAreasAreKnownAndThatIsNoMistake) {
  begin();
  set_up();
  ASSERT_EQ(frontend_.enable(0, 1), Outcome::done);
  EXPECT_FALSE(runs());
  const auto asked = misses();
  ASSERT_FALSE(asked.empty());
  EXPECT_TRUE(asks_for_reply_);
  EXPECT_EQ(asked[0].iova, driver_.descriptors_at() + shift);
  EXPECT_EQ(asked[0].access, 1);
  EXPECT_EQ(asked[0].type, 1);
  EXPECT_EQ(update(GuestMemory::low), 0u);
  frontend_.turn();
  EXPECT_TRUE(runs());
  EXPECT_EQ(FakeFrontend::count(error_), 0u);
  EXPECT_EQ(frontend_.session().info().refused, 0u);
}

TEST_F(SessionIommuTest, ARingWhoseAreasAreRefusedIsAComplaint) {
  begin();
  set_up();
  ASSERT_EQ(frontend_.enable(0, 1), Outcome::done);
  for (std::size_t left = misses().size(); left > 0; --left) reply(1);
  frontend_.turn();
  EXPECT_FALSE(runs());
  EXPECT_EQ(FakeFrontend::count(error_), 1u);
  EXPECT_TRUE(logged("cannot start"));
  ASSERT_EQ(frontend_.enable(0, 1), Outcome::done);
  EXPECT_FALSE(misses().empty()) << "a new try asks anew";
}

TEST_F(SessionIommuTest, WithoutAChannelNobodyWaits) {
  begin(FakeFrontend::usual_protocol_features, false);
  set_up();
  ASSERT_EQ(frontend_.enable(0, 1), Outcome::done);
  frontend_.turn();
  EXPECT_EQ(FakeFrontend::count(error_), 1u);
}

TEST_F(SessionIommuTest, AChainWaitsForWhatItMissesAndTheRingIsKicked) {
  run();
  driver_.add({{data + shift, 16}, {data + 8 * page + shift, 2 * page, true}});
  EXPECT_EQ(pop(), Pop::empty);
  EXPECT_FALSE(device_.ring(0).arm_kick()) << "there is nothing to do until it comes";
  const auto asked = misses();
  ASSERT_EQ(asked.size(), 3u) << "all that the chain misses is asked for at once";
  EXPECT_EQ(asked[2].access, 2);
  (void)FakeFrontend::count(kick_);
  EXPECT_EQ(update(data), 0u);
  EXPECT_EQ(update(data + 8 * page), 0u);
  EXPECT_EQ(FakeFrontend::count(kick_), 0u) << "not before the last answer";
  EXPECT_EQ(update(data + 9 * page), 0u);
  EXPECT_EQ(FakeFrontend::count(kick_), 1u);
  ASSERT_EQ(pop(), Pop::ready);
  EXPECT_EQ(chain_.writable().size(), 1u);
}

TEST_F(SessionIommuTest, ARefusedTranslationBreaksTheRingThatNeedsIt) {
  run();
  driver_.add({{data + shift, 16}});
  EXPECT_EQ(pop(), Pop::empty);
  ASSERT_EQ(misses().size(), 1u);
  reply(1);
  frontend_.turn();
  EXPECT_EQ(FakeFrontend::count(kick_), 1u);
  EXPECT_EQ(pop(), Pop::broken);
}

TEST_F(SessionIommuTest, ABufferThatIsOnlyReadableIsNotWrittenTo) {
  run();
  ASSERT_EQ(update(data, 1), 0u);
  driver_.add({{data + shift, 16, true}});
  EXPECT_EQ(pop(), Pop::empty);
  ASSERT_EQ(misses().at(0).access, 2);
  reply(1);
  frontend_.turn();
  EXPECT_EQ(pop(), Pop::broken);
}

TEST_F(SessionIommuTest, PromisesThatAreNotKeptEnd) {
  run();
  driver_.add({{data + shift, 16}});
  EXPECT_EQ(pop(), Pop::empty);
  unsigned times = 0;
  while (!misses().empty()) {
    ASSERT_LE(++times, 2 * Iommu::most_empty_promises);
    reply(0);
  }
  EXPECT_EQ(times, Iommu::most_empty_promises);
  EXPECT_EQ(pop(), Pop::broken);
}

TEST_F(SessionIommuTest, WithoutReplyAckNoReplyIsAskedFor) {
  begin(FakeFrontend::usual_protocol_features & ~bit(protocol_feature::reply_ack));
  frontend_.send(static_cast<std::uint32_t>(Request::set_protocol_features),
                 bytes_of(FakeFrontend::usual_protocol_features));
  set_up();
  ASSERT_EQ(frontend_.enable(0, 1), Outcome::done);
  frontend_.send(
      static_cast<std::uint32_t>(Request::set_protocol_features),
      bytes_of(FakeFrontend::usual_protocol_features & ~bit(protocol_feature::reply_ack)));
  EXPECT_FALSE(misses().empty());
  EXPECT_FALSE(asks_for_reply_);
}

TEST_F(SessionIommuTest, AnInvalidationWaitsForRequestsThatUseTheRange) {
  run();
  ASSERT_EQ(update(data), 0u);
  driver_.add({{data + shift + 100, 16}});
  ASSERT_EQ(pop(), Pop::ready);
  EXPECT_EQ(invalidate(data + shift, 100), 0u);
  EXPECT_EQ(device_.stops[0], 0) << "others do not mind";
  EXPECT_EQ(invalidate(data + shift + 115, 1), 0u);
  EXPECT_EQ(device_.stops[0], 1);
  EXPECT_TRUE(runs()) << "its areas are still known";
  EXPECT_EQ(device_.starts[0], 2);
}

TEST_F(SessionIommuTest, AnInvalidationOfEverythingHasTheAreasAskedForAgain) {
  run();
  EXPECT_EQ(invalidate(0, UINT64_MAX), 0u);
  EXPECT_EQ(device_.stops[0], 1);
  EXPECT_FALSE(runs());
  EXPECT_FALSE(misses().empty());
  EXPECT_EQ(update(GuestMemory::low), 0u);
  EXPECT_TRUE(runs());
  EXPECT_EQ(FakeFrontend::count(error_), 0u);
}

TEST_F(SessionIommuTest, AreasThatAreGivenElsewhereAreUsedThere) {
  run();
  ASSERT_EQ(invalidate(0, 0), 0u);
  const std::uint64_t other = GuestMemory::low + 64 * page;
  std::memcpy(memory_.at(other), memory_.at(GuestMemory::low), page);
  EXPECT_EQ(tell({GuestMemory::low + shift, page, memory_.frontend(other), 3, 2, {}}), 0u);
  frontend_.turn();
  ASSERT_TRUE(runs());
  ASSERT_EQ(update(data), 0u);
  driver_.add({{data + shift, 16}});
  EXPECT_EQ(pop(), Pop::empty) << "that is where the areas were";
  std::memcpy(memory_.at(other), memory_.at(GuestMemory::low), page);
  EXPECT_EQ(pop(), Pop::ready);
}

TEST_F(SessionIommuTest, ABrokenRingIsNotRevivedByAnInvalidation) {
  run();
  driver_.offer(200);
  ASSERT_EQ(pop(), Pop::broken);
  EXPECT_EQ(invalidate(0, 0), 0u);
  EXPECT_EQ(update(GuestMemory::low), 0u);
  frontend_.turn();
  EXPECT_FALSE(runs());
  EXPECT_EQ(frontend_.enable(0, 1), Outcome::done);
  EXPECT_TRUE(runs());
}

TEST_F(SessionIommuTest, OtherMemoryEndsWhatIsInFlightAndTheRingsGoOn) {
  run();
  EXPECT_EQ(frontend_.set_memory(memory_, {0, 1}), Outcome::done);
  EXPECT_EQ(device_.stops[0], 1);
  EXPECT_TRUE(device_.moves.empty());
  EXPECT_TRUE(runs()) << "where its areas are is still known";
  EXPECT_EQ(device_.begins, 1) << "what it has for itself while a ring runs it keeps meanwhile";
  EXPECT_EQ(frontend_.set_memory(memory_, {1}), Outcome::done);
  EXPECT_FALSE(runs());
}

TEST_F(SessionIommuTest, WhatWasKnownIsForgottenWhenTheLastRingStops) {
  run();
  ASSERT_TRUE(frontend_.get_base(0));
  (void)misses();
  ASSERT_EQ(frontend_.vring_fd(Request::set_vring_kick, 0, kick_), Outcome::done);
  EXPECT_FALSE(runs());
  EXPECT_FALSE(misses().empty());
}

TEST_F(SessionIommuTest, WithoutTheFeatureAddressesAreTheGuestsAgain) {
  run();
  ASSERT_TRUE(frontend_.get_base(0));
  negotiate();
  start(0);
  driver_.add({{data, 16}});
  EXPECT_EQ(pop(), Pop::ready);
}

TEST_F(SessionIommuTest, RefusesMessagesThatAreNoneOfAFrontEndsAndGoesOn) {
  run();
  const std::uint64_t here = memory_.frontend(data);
  for (const IotlbMessage& wrong : {
           IotlbMessage{0, page, 12345, 3, 2, {}},
           IotlbMessage{0, 0, here, 3, 2, {}},
           IotlbMessage{UINT64_MAX, 2, here, 3, 2, {}},
           IotlbMessage{0, UINT64_MAX, here, 3, 2, {}},
           IotlbMessage{0, page, here, 0, 2, {}},
           IotlbMessage{0, page, here, 4, 2, {}},
           IotlbMessage{0, page, here, 3, 0, {}},
           IotlbMessage{0, page, here, 3, 1, {}},
           IotlbMessage{0, page, here, 3, 4, {}},
           IotlbMessage{0, page, here, 3, 255, {}},
       }) {
    EXPECT_EQ(tell(wrong), 1u);
  }
  EXPECT_TRUE(runs());
}

TEST_F(SessionIommuTest, AChannelThatSaysWhatNobodyAskedIsClosed) {
  run();
  reply(0);
  EXPECT_TRUE(logged("the back-end channel is closed"));
  driver_.add({{data + shift, 16}});
  EXPECT_EQ(pop(), Pop::empty);
  frontend_.turn();
  EXPECT_EQ(pop(), Pop::broken) << "nobody can be asked";
  EXPECT_TRUE(frontend_.connected());
}

TEST_F(SessionIommuTest, AnotherChannelIsAskedWhatTheLastOneDidNotAnswer) {
  run();
  driver_.add({{data + shift, 16}});
  EXPECT_EQ(pop(), Pop::empty);
  ASSERT_EQ(misses().size(), 1u);
  std::array<int, 2> pair{};
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair.data()), 0);
  const UniqueFd other(pair[1]);
  ours_ = UniqueFd(pair[0]);
  ASSERT_EQ(frontend_.tell(Request::set_backend_req_fd, {}, std::array{other.get()}),
            Outcome::done);
  EXPECT_EQ(misses().size(), 1u);
}

TEST_F(SessionIommuTest, AFloodOfMissesIsAskedForInTurns) {
  run();
  for (std::uint64_t i = 0; i < 4; ++i) {
    driver_.add({{data + shift + i * 100 * page, static_cast<std::uint32_t>(100 * page)}});
  }
  EXPECT_EQ(pop(), Pop::empty);
  std::size_t asked = 0;
  for (std::size_t now = misses().size(); now != 0; now = misses().size()) {
    EXPECT_LE(now, Iommu::most_sent);
    asked += now;
    ASSERT_LE(asked, Ledger::most_wanted);
    for (; now > 0; --now) reply(1);
  }
  EXPECT_EQ(asked, Ledger::most_wanted);
  EXPECT_EQ(pop(), Pop::broken);
}

TEST_F(SessionIommuTest, ARingThatLookedMeanwhileIsKickedForWhatItMissesNow) {
  run();
  driver_.add({{data + shift, 16}});
  EXPECT_EQ(pop(), Pop::empty);
  ASSERT_EQ(misses().size(), 1u);
  EXPECT_EQ(update(data), 0u);
  ASSERT_EQ(pop(), Pop::ready);
  driver_.add({{data + 2 * page + shift, 16}});
  EXPECT_EQ(pop(), Pop::empty) << "nobody has heard of this yet";
  (void)FakeFrontend::count(kick_);
  EXPECT_EQ(update(data + 9 * page), 0u);
  EXPECT_EQ(FakeFrontend::count(kick_), 0u);
  ASSERT_EQ(misses().size(), 1u);
  EXPECT_EQ(update(data + 2 * page), 0u);
  EXPECT_EQ(FakeFrontend::count(kick_), 1u);
}

// ---------------------------------------------------------------- patience

TEST(Iommu, RefusesWhatIsNotAnsweredInTime) {
  auto loop = *EventLoop::create();
  const Log log = [](LogLevel, std::string_view) {};
  BackendChannel channel(loop, log);
  std::array<int, 2> pair{};
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair.data()), 0);
  const UniqueFd silent(pair[0]);
  ASSERT_TRUE(channel.open(UniqueFd(pair[1])));
  for (const bool replies : {false, true}) {
    int woken = 0;
    auto iommu = *Iommu::create({loop, channel, log, 2, [replies] { return replies; },
                                 [&](std::uint16_t ring) { woken += ring == 1; },
                                 std::chrono::milliseconds(200)});
    iommu->begin(1);
    const Miss miss{GuestAddress{page}, Access::read};
    const auto began = std::chrono::steady_clock::now();
    iommu->ledger(1)->waiting = true;
    ASSERT_TRUE(iommu->iotlb()->want(*iommu->ledger(1), miss));
    while (woken == 0) {
      ASSERT_TRUE(loop.turn());
      ASSERT_LT(std::chrono::steady_clock::now() - began, std::chrono::seconds(20));
    }
    EXPECT_GE(std::chrono::steady_clock::now() - began, std::chrono::milliseconds(200));
    EXPECT_FALSE(iommu->iotlb()->want(*iommu->ledger(1), miss)) << "it is refused";
    EXPECT_EQ(iommu->counts(), (IommuCounts{.misses = 1, .refused = 1, .late = 1}));
  }
}

}  // namespace
}  // namespace vhost::tests
