#include "backends/blk/file_engine.hpp"

#include <sys/uio.h>

#include <climits>

#include "libvhost/memory/fault_guard.hpp"
#include "libvhost/memory/mapping.hpp"
#include "tests/unit/blk/engine_fixture.hpp"

namespace blk {
namespace {

using testing_tools::EngineTest;
using testing_tools::Pages;

std::span<const iovec> vector_of(const io_uring_sqe& entry) {
  return {reinterpret_cast<const iovec*>(entry.addr), entry.len};
}

TEST_F(EngineTest, MovesPiecesOfAnySize) {
  Pages out(2);
  Pages in(2);
  out.fill(1);
  EXPECT_EQ(
      run(data(Op::write, 512, {out.piece(0, 100), out.piece(100, 412), out.piece(512, 512)})),
      Status::ok);
  EXPECT_TRUE(std::ranges::equal(file_bytes(512, 1024), out.bytes().first(1024)));
  EXPECT_EQ(run(data(Op::read, 512, {in.piece(0, 1), in.piece(1, 1000), in.piece(1001, 23)})),
            Status::ok);
  EXPECT_TRUE(std::ranges::equal(in.bytes().first(1024), out.bytes().first(1024)));
}

TEST_F(EngineTest, NamesSlotImageAndPlace) {
  Pages out(1);
  Slot& slot = data(Op::write, 1024, {out.piece(0, 512)});
  start(slot);
  const auto operations = prepared();
  ASSERT_EQ(operations.size(), 1u);
  EXPECT_EQ(operations[0].user_data, reinterpret_cast<Tag>(&slot));
  EXPECT_EQ(operations[0].flags, IOSQE_FIXED_FILE);
  EXPECT_EQ(operations[0].fd, 0);
  EXPECT_EQ(operations[0].off, 1024u);
  EXPECT_EQ(operations[0].len, 512u);
}

TEST_F(EngineTest, WritesNothingWhileMemoryIsLost) {
  ASSERT_TRUE(vhost::fault_guard::install());
  Pages page(1);
  {
    const auto shared = vhost::make_sealed_memory("lost", 4096);
    const auto lost = vhost::Mapping::map(shared->get(), 0, 4096);
    ASSERT_TRUE(lost->give_up());
    EXPECT_EQ(run(data(Op::write, 0, {page.piece(0, 512)})), Status::io_error);
    EXPECT_EQ(run(data(Op::read, 0, {page.piece(0, 512)})), Status::ok);
  }
  EXPECT_EQ(run(data(Op::write, 0, {page.piece(0, 512)})), Status::ok);
}

TEST_F(EngineTest, MovesMorePiecesThanOneOperationTakes) {
  Pages out(256);
  Pages in(256);
  out.fill(2);
  std::vector<iovec> from;
  std::vector<iovec> to;
  for (std::size_t i = 0; i < 2048; ++i) {
    from.push_back(out.piece(i * 512, 512));
    to.push_back(in.piece(i * 512, 512));
  }
  EXPECT_EQ(run(data(Op::write, 0, from)), Status::ok);
  EXPECT_EQ(run(data(Op::read, 0, to)), Status::ok);
  EXPECT_TRUE(std::ranges::equal(in.bytes(), out.bytes()));
}

TEST_F(EngineTest, GoesOnWhereTheKernelStopped) {
  Pages out(1);
  Slot& slot = data(Op::write, 2048, {out.piece(0, 1024), out.piece(2048, 512)});
  start(slot);
  (void)prepared();
  EXPECT_EQ(answer(slot, 700), std::nullopt);
  auto operations = prepared();
  ASSERT_EQ(operations.size(), 1u);
  EXPECT_EQ(operations[0].off, 2748u);
  ASSERT_EQ(operations[0].len, 2u);
  EXPECT_EQ(vector_of(operations[0])[0].iov_base, out.at(700));
  EXPECT_EQ(vector_of(operations[0])[0].iov_len, 324u);
  EXPECT_EQ(answer(slot, 324), std::nullopt);
  operations = prepared();
  ASSERT_EQ(operations.size(), 1u);
  EXPECT_EQ(operations[0].addr, reinterpret_cast<std::uint64_t>(out.at(2048)));
  EXPECT_EQ(operations[0].len, 512u);
  EXPECT_EQ(answer(slot, 512), Status::ok);
}

TEST_F(EngineTest, TriesAgainWhatTheKernelPutOff) {
  Pages out(1);
  for (const int result : {-EAGAIN, -EINTR}) {
    Slot& slot = data(Op::write, 2048, {out.piece(0, 512)});
    start(slot);
    const auto first = prepared();
    EXPECT_EQ(answer(slot, result), std::nullopt);
    const auto second = prepared();
    ASSERT_EQ(second.size(), 1u);
    EXPECT_EQ(second[0].off, first[0].off);
    EXPECT_EQ(second[0].len, first[0].len);
    EXPECT_EQ(answer(slot, 512), Status::ok);
  }
}

TEST_F(EngineTest, AnErrorOfTheStorageIsTheRequests) {
  Pages out(1);
  for (const int result : {-EIO, -ENOSPC, -EFAULT, 0}) {
    Slot& slot = data(Op::write, 0, {out.piece(0, 512)});
    start(slot);
    EXPECT_EQ(answer(slot, result), Status::io_error) << result;
  }
}

TEST_F(EngineTest, ReadOfAnImageThatWasCutShortIsAnError) {
  Pages in(2);
  ASSERT_EQ(::ftruncate(image_.file.get(), 4096 + 512), 0);
  EXPECT_EQ(run(data(Op::read, 8192, {in.piece(0, 512)})), Status::io_error);
  EXPECT_EQ(run(data(Op::read, 4096, {in.piece(0, 1024)})), Status::io_error);
  EXPECT_EQ(run(data(Op::read, 4096, {in.piece(0, 512)})), Status::ok);
}

// ------------------------------------------------------------ durable writes and flushes

TEST_F(EngineTest, WritesAreDurableWhileTheyHaveToBe) {
  Pages out(1);
  start(data(Op::write, 0, {out.piece(0, 512)}));
  durable_ = true;
  start(data(Op::write, 0, {out.piece(0, 512), out.piece(512, 512)}));
  durable_ = false;
  start(data(Op::write, 0, {out.piece(0, 512)}));
  const auto operations = prepared();
  ASSERT_EQ(operations.size(), 3u);
  EXPECT_EQ(operations[0].rw_flags, 0);
  EXPECT_EQ(operations[1].rw_flags, RWF_DSYNC);
  EXPECT_EQ(operations[2].rw_flags, 0);
}

TEST_F(EngineTest, DurableWritesArrive) {
  Pages out(1);
  out.fill(3);
  durable_ = true;
  EXPECT_EQ(run(data(Op::write, 0, {out.piece(0, 4096)})), Status::ok);
  EXPECT_TRUE(std::ranges::equal(file_bytes(0, 4096), out.bytes()));
}

TEST_F(EngineTest, ReadsHaveNothingToMakeDurable) {
  Pages in(1);
  durable_ = true;
  image_.direct = true;  // not tried at once
  start(data(Op::read, 0, {in.piece(0, 512)}));
  EXPECT_EQ(prepared().at(0).rw_flags, 0);
}

TEST_F(EngineTest, FlushSyncsTheData) {
  Slot& slot = flush();
  start(slot);
  const auto operations = prepared();
  ASSERT_EQ(operations.size(), 1u);
  EXPECT_EQ(operations[0].opcode, IORING_OP_FSYNC);
  EXPECT_EQ(operations[0].fsync_flags, IORING_FSYNC_DATASYNC);
  EXPECT_EQ(run(flush()), Status::ok);
}

TEST_F(EngineTest, FlushThatFailsIsAnErrorAndOneThatIsPutOffGoesOn) {
  Slot& slot = flush();
  start(slot);
  (void)prepared();
  EXPECT_EQ(answer(slot, -EINTR), std::nullopt);
  EXPECT_EQ(prepared().size(), 1u);
  EXPECT_EQ(answer(slot, -EIO), Status::io_error);
}

TEST_F(EngineTest, FlushOfAnUnsafeDiskIsAnsweredAndNotDone) {
  image_.cache = CacheMode::unsafe;
  Slot& slot = flush();
  start(slot);
  EXPECT_EQ(status_of(slot), Status::ok);
  EXPECT_TRUE(prepared().empty());
}

// ------------------------------------------------------------ a read that is alone

TEST_F(EngineTest, ALoneCachedReadIsDoneWithoutTheRing) {
  Pages in(1);
  fill_file(std::byte{5});
  Slot& slot = data(Op::read, 512, {in.piece(0, 512), in.piece(1024, 512)});
  start(slot);
  EXPECT_TRUE(end_burst());
  EXPECT_EQ(status_of(slot), Status::ok);
  EXPECT_TRUE(prepared().empty());
  EXPECT_EQ(*in.at(0), std::byte{5});
  EXPECT_EQ(*in.at(512), std::byte{0});
  EXPECT_EQ(*in.at(1535), std::byte{5});
}

TEST_F(EngineTest, ReadsThatAreNotAloneGoToTheRingInTheirOrder) {
  Pages in(1);
  Slot& first = data(Op::read, 0, {in.piece(0, 512)});
  Slot& second = data(Op::read, 512, {in.piece(512, 512)});
  start(first);
  EXPECT_TRUE(prepared().empty());
  start(second);
  EXPECT_FALSE(end_burst());
  const auto operations = prepared();
  ASSERT_EQ(operations.size(), 2u);
  EXPECT_EQ(operations[0].user_data, reinterpret_cast<Tag>(&first));
  EXPECT_EQ(operations[1].user_data, reinterpret_cast<Tag>(&second));
  settle();
}

TEST_F(EngineTest, AReadIsNotAloneBehindAnythingElse) {
  Pages page(1);
  start(data(Op::write, 0, {page.piece(0, 512)}));
  start(data(Op::read, 512, {page.piece(512, 512)}));
  EXPECT_EQ(prepared().size(), 2u);
  EXPECT_FALSE(end_burst());
  settle();
}

TEST_F(EngineTest, EveryBurstCanBeginWithALoneRead) {
  Pages in(1);
  fill_file(std::byte{5});
  for (int i = 0; i < 3; ++i) {
    start(data(Op::read, 0, {in.piece(0, 512)}));
    EXPECT_TRUE(end_burst());
    EXPECT_FALSE(end_burst());
  }
}

TEST_F(EngineTest, ALoneReadOfWhatIsNotCachedGoesToTheRing) {
  Pages in(1);
  fill_file(std::byte{6});
  ASSERT_EQ(::fsync(image_.file.get()), 0);
  ASSERT_EQ(::posix_fadvise(image_.file.get(), 0, 0, POSIX_FADV_DONTNEED), 0);
  iovec piece = in.piece(0, 512);
  if (::preadv2(image_.file.get(), &piece, 1, 65536, RWF_NOWAIT) >= 0) GTEST_SKIP() << "tmpfs";
  Slot& slot = data(Op::read, 524288, {in.piece(0, 512)});
  start(slot);
  EXPECT_FALSE(end_burst());
  settle();
  EXPECT_EQ(status_of(slot), Status::ok);
  EXPECT_EQ(*in.at(511), std::byte{6});
}

TEST_F(EngineTest, ALoneReadOfTooManyPiecesGoesToTheRing) {
  Pages in(256);
  std::vector<iovec> pieces(IOV_MAX + 1, in.piece(0, 512));
  start(data(Op::read, 0, pieces));
  EXPECT_FALSE(end_burst());
  EXPECT_EQ(prepared().at(0).len, unsigned{IOV_MAX});
  settle();
}

TEST_F(EngineTest, ADirectReadIsNeverTriedAtOnce) {
  Pages in(1);
  image_.direct = true;
  start(data(Op::read, 0, {in.piece(0, 512)}));
  EXPECT_EQ(prepared().size(), 1u);
  EXPECT_FALSE(end_burst());
}

class EngineOnTmpfs : public EngineTest {
 protected:
  EngineOnTmpfs() : EngineTest("/dev/shm") {}
};

TEST_F(EngineOnTmpfs, MovesDiscardsAndZeroes) {
  Pages out(16);
  Pages in(16);
  out.fill(4);
  EXPECT_EQ(run(data(Op::write, 0, {out.piece(0, 65536)})), Status::ok);
  EXPECT_EQ(run(flush()), Status::ok);
  EXPECT_EQ(run(data(Op::read, 0, {in.piece(0, 65536)})), Status::ok);
  EXPECT_TRUE(std::ranges::equal(in.bytes(), out.bytes()));
  EXPECT_EQ(run(ranges(Op::discard, {{0, 8192, false}})), Status::ok);
  EXPECT_EQ(run(ranges(Op::write_zeroes, {{8192, 8192, false}})), Status::ok);  // tmpfs cannot
  EXPECT_TRUE(file_is(0, 16384, std::byte{0}));
  EXPECT_FALSE(file_is(16384, 4096, std::byte{0}));
}

}  // namespace
}  // namespace blk
