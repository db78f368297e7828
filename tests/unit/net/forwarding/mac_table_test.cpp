#include "backends/net/forwarding/mac_table.hpp"

#include <algorithm>
#include <thread>

#include <gtest/gtest.h>

#include "common/spin.hpp"
#include "tests/unit/net/eal/eal_environment.hpp"
#include "tests/unit/net/frame/ethernet.hpp"
#include "tests/unit/net/frame/frame_fixture.hpp"

namespace net::tests {
namespace {

constexpr PortId a{0};
constexpr PortId b{1};
constexpr std::uint32_t share = 32;
constexpr std::uint32_t ageing_s = 300;

StationKey key_of(unsigned n, VlanId vlan = 0) {
  const OwnedFrame owned(plain_frame(broadcast, station(n)));
  return station_key(owned.frame, 6, vlan);
}

class Stations : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_NO_FATAL_FAILURE(need_eal());
    remake(2, share, 2);
    table->age(start_ns);
  }
  void remake(std::uint16_t ports, std::uint32_t per_port, unsigned workers) {
    auto made = MacTable::create(
        {.ports = ports, .workers = workers, .stations_per_port = per_port, .ageing_s = ageing_s});
    ASSERT_TRUE(made) << made.error().what;
    table = std::move(*made);
  }
  void hear(unsigned first, unsigned count, PortId port) {
    for (unsigned n = first; n < first + count; ++n) table->hear(key_of(n), port);
  }
  void age_after(std::uint64_t seconds) { table->age(start_ns + seconds * 1'000'000'000); }

  const std::uint64_t start_ns = common::now_ns();
  std::unique_ptr<MacTable> table;
};

TEST_F(Stations, AreFoundWhereTheyWereHeard) {
  EXPECT_EQ(table->find(key_of(1)), std::nullopt);
  hear(1, 1, a);
  hear(2, 1, b);
  EXPECT_EQ(table->find(key_of(1)), a);
  EXPECT_EQ(table->find(key_of(2)), b);
  EXPECT_EQ(table->find(key_of(3)), std::nullopt);
}

TEST_F(Stations, AreOthersInOtherVlans) {
  table->hear(key_of(1, 5), a);
  table->hear(key_of(1, 6), b);
  EXPECT_EQ(table->find(key_of(1, 5)), a);
  EXPECT_EQ(table->find(key_of(1, 6)), b);
  EXPECT_EQ(table->find(key_of(1)), std::nullopt);
}

TEST_F(Stations, AreNoGroupsAndNotNobody) {
  MacAddress group = station(1);
  group[0] |= 1;
  for (const MacAddress& mac : {group, broadcast, MacAddress{}}) {
    const OwnedFrame owned(plain_frame(broadcast, mac));
    const StationKey key = station_key(owned.frame, 6, 5);
    table->hear(key, a);
    EXPECT_EQ(table->find(key), std::nullopt);
  }
  EXPECT_EQ(table->station_count(a), 0U);
}

TEST_F(Stations, MoveAtOnce) {
  hear(1, 1, a);
  hear(1, 1, b);
  EXPECT_EQ(table->find(key_of(1)), b);
  EXPECT_EQ(table->station_count(a), 0U);
  EXPECT_EQ(table->station_count(b), 1U);
}

TEST_F(Stations, FillOnlyTheShareOfTheirPort) {
  hear(0, share, a);
  EXPECT_EQ(table->station_count(a), share);
  EXPECT_EQ(table->not_learned(a), 0U);
  hear(share, 3, a);
  EXPECT_EQ(table->station_count(a), share);
  EXPECT_EQ(table->not_learned(a), 3U);
  EXPECT_EQ(table->find(key_of(share)), std::nullopt);

  hear(1000, share, b);
  EXPECT_EQ(table->station_count(b), share);
  EXPECT_EQ(table->not_learned(b), 0U);
  for (unsigned n = 0; n < share; ++n) {
    EXPECT_EQ(table->find(key_of(n)), a);
    EXPECT_EQ(table->find(key_of(1000 + n)), b);
  }
}

TEST_F(Stations, StayWhereTheyAreIfTheOtherPortIsFull) {
  hear(1, 1, a);
  hear(1000, share, b);
  hear(1, 1, b);
  EXPECT_EQ(table->find(key_of(1)), a);
  EXPECT_EQ(table->not_learned(b), 1U);
  EXPECT_EQ(table->station_count(a), 1U);
}

TEST_F(Stations, AreForgottenWhenTheyWereNotHeardForTooLong) {
  hear(1, 2, a);
  age_after(100);
  hear(2, 1, a);
  age_after(ageing_s);
  EXPECT_EQ(table->find(key_of(1)), a);
  age_after(ageing_s + 1);
  EXPECT_EQ(table->find(key_of(1)), std::nullopt);
  EXPECT_EQ(table->find(key_of(2)), a);
  EXPECT_EQ(table->station_count(a), 1U);
  age_after(ageing_s + 101);
  EXPECT_EQ(table->find(key_of(2)), std::nullopt);
  EXPECT_EQ(table->station_count(a), 0U);
}

TEST_F(Stations, GiveTheirPlaceToOthers) {
  std::uint64_t second = 0;
  for (unsigned round = 0; round < 20; ++round) {
    hear(round * share, share, a);
    hear(5000 + round * share, share, b);
    EXPECT_EQ(table->station_count(a), share);
    EXPECT_EQ(table->station_count(b), share);
    EXPECT_EQ(table->find(key_of(round * share)), a);
    age_after(second += ageing_s + 1);
    EXPECT_EQ(table->station_count(a), 0U);
  }
}

TEST_F(Stations, ThatAWorkerMayHaveFoundKeepTheirPlaces) {
  hear(0, share, a);
  {
    const MacTable::Turn turn(*table, 1);
    age_after(ageing_s + 1);
    EXPECT_EQ(table->station_count(a), 0U);
    hear(1000, share, a);
    age_after(2 * (ageing_s + 1));
    EXPECT_EQ(table->station_count(a), share) << "the batch before is not done with";
  }
  // Another turn is none of those that could have found them.
  const MacTable::Turn turn(*table, 1);
  age_after(2 * (ageing_s + 1));
  EXPECT_EQ(table->station_count(a), 0U);
}

TEST_F(Stations, OfOnePortAreForgottenAtOnce) {
  hear(0, share, a);
  hear(1000, share, b);
  hear(2000, 1, b);
  EXPECT_EQ(table->not_learned(b), 1U);
  table->forget(b);
  EXPECT_EQ(table->station_count(b), 0U);
  EXPECT_EQ(table->not_learned(b), 0U);
  EXPECT_EQ(table->find(key_of(1000)), std::nullopt);
  EXPECT_EQ(table->station_count(a), share);
  EXPECT_EQ(table->find(key_of(0)), a);
  hear(1000, share, b);
  EXPECT_EQ(table->find(key_of(1000)), b);
}

TEST_F(Stations, OfOnePortAreForgottenWhileOthersWaitToBeFreed) {
  for (unsigned round = 0; round < 20; ++round) {
    hear(round * share, share, a);
    {
      const MacTable::Turn turn(*table, 1);
      age_after((round + 1) * (ageing_s + 1));
      hear(5000 + round * share, share, b);
      table->forget(b);
      EXPECT_EQ(table->station_count(b), 0U);
      EXPECT_EQ(table->find(key_of(5000 + round * share)), std::nullopt);
    }
    hear(9000, share, b);
    EXPECT_EQ(table->station_count(b), share) << round;
    table->forget(b);
  }
}

TEST_F(Stations, ThatAWorkerMayHaveFoundKeepTheirPlacesWhenForgotten) {
  hear(0, share, a);
  hear(1000, share, b);
  {
    const MacTable::Turn turn(*table, 1);
    table->forget(b);
    age_after(ageing_s + 1);
    EXPECT_EQ(table->station_count(a), share) << "the batch before is not done with";
  }
  age_after(ageing_s + 1);
  EXPECT_EQ(table->station_count(a), 0U);
}

TEST_F(Stations, ChangeTheVersionWhenAnswersChange) {
  std::uint64_t version = table->version();
  const auto changed = [&] { return std::exchange(version, table->version()) != version; };
  hear(1, 1, a);
  EXPECT_TRUE(changed());
  hear(1, 1, a);
  (void)table->find(key_of(1));
  age_after(1);
  hear(1, 1, a);
  EXPECT_FALSE(changed());
  hear(1, 1, b);
  EXPECT_TRUE(changed());
  age_after(ageing_s + 2);
  EXPECT_TRUE(changed());
  table->forget(b);
  EXPECT_TRUE(changed()) << "also if there was none";
}

TEST_F(Stations, AreListed) {
  table->hear(key_of(0x01020304, 7), b);
  age_after(5);
  table->hear(key_of(9), a);
  age_after(7);
  auto all = table->stations(10);
  ASSERT_EQ(all.size(), 2U);
  std::ranges::sort(all, {}, &Station::age_s);
  EXPECT_EQ(all[0].mac, station(9));
  EXPECT_EQ(all[0].vlan, 0);
  EXPECT_EQ(all[0].port, a);
  EXPECT_EQ(all[0].age_s, 2U);
  EXPECT_EQ(all[1].mac, station(0x01020304));
  EXPECT_EQ(all[1].vlan, 7);
  EXPECT_EQ(all[1].port, b);
  EXPECT_EQ(all[1].age_s, 7U);
  EXPECT_EQ(table->stations(1).size(), 1U);
}

TEST_F(Stations, NeedAtLeastOnePlaceAndAtMostAMillion) {
  EXPECT_FALSE(MacTable::create({.ports = 2, .stations_per_port = 0}));
  const auto many = MacTable::create({.ports = 1024, .stations_per_port = 1025});
  ASSERT_FALSE(many);
  EXPECT_EQ(many.error().fault, vhost::Fault::operator_);
  EXPECT_NE(many.error().what.find("1024 ports with 1025"), std::string::npos);
}

/// Workers hear the same stations on different ports, and forget them all the time.
TEST_F(Stations, MayBeHeardByAllWorkersWhileTheyAreForgotten) {
  constexpr std::uint16_t ports = 4;
  constexpr unsigned per_port = 64;
  remake(ports, per_port, ports);
  std::atomic<bool> done = false;
  std::atomic<unsigned> wrong = 0;
  {
    std::vector<std::jthread> workers;
    for (std::uint16_t port = 0; port < ports; ++port) {
      workers.emplace_back([&, port] {
        for (unsigned turn_number = 0; !done; ++turn_number) {
          const MacTable::Turn turn(*table, port);
          for (unsigned i = 0; i < 32; ++i) {
            // Some that only this port has, some that wander.
            const unsigned own = 1000U * port + 1000 + (turn_number + i) % 100;
            const unsigned shared = (turn_number * 7 + i) % 40;
            table->hear(key_of(own), PortId{port});
            table->hear(key_of(shared), PortId{port});
            const auto found = table->find(key_of(own));
            if (found && *found != PortId{port}) ++wrong;
            const auto wanderer = table->find(key_of(shared));
            if (wanderer && std::to_underlying(*wanderer) >= ports) ++wrong;
          }
        }
      });
    }
    // Every call is 400 s later: whoever was not heard since the one before goes.
    for (unsigned i = 1; i <= 400; ++i) {
      age_after(400 * i);
      for (const Station& one : table->stations(1000)) {
        if (std::to_underlying(one.port) >= ports) ++wrong;
      }
      std::this_thread::sleep_for(std::chrono::microseconds(500));
    }
    done = true;
  }
  EXPECT_EQ(wrong, 0U);
  std::array<std::uint32_t, ports> counted{};
  for (const Station& one : table->stations(1000)) ++counted[std::to_underlying(one.port)];
  for (std::uint16_t port = 0; port < ports; ++port) {
    EXPECT_EQ(table->station_count(PortId{port}), counted[port]);
    EXPECT_LE(counted[port], per_port);
  }
  age_after(1'000'000);
  age_after(2'000'000);
  EXPECT_TRUE(table->stations(1000).empty());
  hear(50'000, per_port, a);
  EXPECT_EQ(table->station_count(a), per_port) << "no place was lost";
}

}  // namespace
}  // namespace net::tests
