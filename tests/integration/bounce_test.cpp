// Direct I/O wants aligned memory; a driver need not have any.
#include <fcntl.h>

#include "tests/integration/fixture.hpp"

namespace integration {
namespace {

class Misaligned : public Served {
 protected:
  void SetUp() override {
    serve();
    const vhost::UniqueFd direct(::open(image.c_str(), O_RDONLY | O_DIRECT | O_CLOEXEC));
    if (!direct) GTEST_SKIP() << "no direct I/O on " << image;
  }
  [[nodiscard]] std::uint64_t bounced() {
    const auto now = stats_when(stats, [](const auto& s) { return !s.at("queues").empty(); });
    return now.at("queues").at(0).at("bounced").template get<std::uint64_t>();
  }
  void bounces_verified(const Load::Shape& shape, std::uint64_t requests) {
    auto disk = guest();
    {
      Load load(disk, shape);
      load.run(requests);
      load.verify();
    }
    EXPECT_TRUE(eventually([&] { return bounced() >= requests; })) << bounced();
  }
};

TEST_F(Misaligned, MemoryIsServedThroughBouncing) {
  bounces_verified({.misalignment = 3}, 200);
}

TEST_F(Misaligned, MoreAtOnceThanThereAreBouncesWaitTheirTurn) {
  bounces_verified({.blocks = 640, .block_bytes = 64 * kibi, .depth = 64, .misalignment = 1}, 400);
}

TEST_F(Misaligned, ARequestMayBeLargerThanABounce) {
  bounces_verified({.blocks = 32, .block_bytes = 1 * mebi + 512, .depth = 4, .misalignment = 5},
                   sanitized ? 20 : 60);
}

TEST_F(Misaligned, AlignedMemoryIsNotCopied) {
  auto disk = guest();
  Load load(disk, {});
  load.run(50);
  (void)stats_when(stats, [](const auto& s) {
    return !s.at("queues").empty() && s.at("queues").at(0).at("requests") >= 50;
  });
  EXPECT_EQ(bounced(), 0U);
}

}  // namespace
}  // namespace integration
