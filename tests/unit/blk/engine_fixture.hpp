#pragma once
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <map>
#include <memory>
#include <set>
#include <vector>

#include "backends/blk/file_engine.hpp"
#include "tests/unit/blk/scratch.hpp"

namespace blk::testing_tools {

struct alignas(4096) Page {
  std::array<std::byte, 4096> bytes{};
};

/// Memory of the guest's, on page boundaries.
class Pages {
 public:
  explicit Pages(std::size_t count) : pages_(count) {}
  [[nodiscard]] std::byte* at(std::size_t offset) { return pages_.front().bytes.data() + offset; }
  [[nodiscard]] std::span<std::byte> bytes() { return {at(0), pages_.size() * sizeof(Page)}; }
  void fill(int seed) {
    for (std::size_t i = 0; auto& byte : bytes()) {
      byte = static_cast<std::byte>(i / 512 * 7 + i + static_cast<std::size_t>(seed));
      ++i;
    }
  }
  [[nodiscard]] iovec piece(std::size_t offset, std::size_t length) { return {at(offset), length}; }

 private:
  std::vector<Page> pages_;
};

/// A file of 1 MiB as an image, with everything supported and nothing to align to.
class EngineTest : public testing::Test {
 protected:
  static constexpr std::size_t image_bytes = 1 << 20;

  explicit EngineTest(const std::string& in = std::filesystem::temp_directory_path())
      : folder_(in), path_(folder_.file("image", image_bytes)) {
    image_.path = path_;
    image_.cache = CacheMode::writeback;
    image_.file = open(0);
    image_.punch_hole_supported = true;
    image_.zero_range_supported = true;
    image_.disk.size_bytes = image_bytes;
  }

  [[nodiscard]] vhost::UniqueFd open(int flags) const {
    vhost::UniqueFd fd(::open(path_.c_str(), O_RDWR | O_CLOEXEC | flags));
    return fd ? std::move(fd) : vhost::UniqueFd(::open(path_.c_str(), O_RDWR | O_CLOEXEC));
  }

  // ------------------------------------------------------------ requests

  Slot& data(Op op, std::uint64_t offset, std::vector<iovec> pieces) {
    Slot& slot = fresh(op);
    pieces_.push_back(std::make_unique<std::vector<iovec>>(std::move(pieces)));
    slot.request.data = *pieces_.back();
    slot.request.offset_bytes = offset;
    for (const iovec& piece : *pieces_.back()) slot.request.length_bytes += piece.iov_len;
    return slot;
  }
  Slot& ranges(Op op, const std::vector<Range>& ranges) {
    Slot& slot = fresh(op);
    std::ranges::copy(ranges, slot.request.range_storage.begin());
    slot.request.range_count = static_cast<std::uint32_t>(ranges.size());
    return slot;
  }
  Slot& flush() { return fresh(Op::flush); }

  // ------------------------------------------------------------ the engine, as a worker drives it

  FileEngine& engine() {
    if (!engine_) {
      uring_.emplace(std::move(*Uring::create()));
      engine_.emplace(image_, durable_, *uring_);
      if (auto ready = engine_->prepare(); !ready) ADD_FAILURE() << ready.error().what;
      mark();
    }
    return *engine_;
  }
  void start(Slot& slot) { note(slot, engine().start(slot)); }
  bool end_burst() {
    const auto done = engine().end_burst();
    if (done) note(*done->slot, done->status);
    return done.has_value();
  }
  /// As if the kernel had answered this slot's operation.
  std::optional<Status> answer(Slot& slot, int result) { return engine().complete(slot, result); }
  /// Lets the kernel work until all that was started has ended.
  void settle() {
    while (!under_way_.empty()) {
      uring_->wait();
      uring_->reap([this](Tag tag, int result) {
        if (tag == 0) return;
        auto& slot = *reinterpret_cast<Slot*>(tag);
        note(slot, engine_->complete(slot, result));
      });
    }
  }
  Status run(Slot& slot) {
    start(slot);
    (void)end_burst();
    settle();
    return done_.at(&slot);
  }
  Status status_of(Slot& slot) { return done_.at(&slot); }
  /// Parts of all requests so far that went through a bounce buffer.
  [[nodiscard]] std::uint32_t bounced() const {
    std::uint32_t parts = 0;
    for (const auto& slot : slots_) parts += slot->progress.bounced;
    return parts;
  }

  /// The operations that were prepared since the last look.
  std::vector<io_uring_sqe> prepared() {
    (void)engine();
    const io_uring_sqe* const from = mark_ + 1;
    mark();
    return {from, static_cast<const io_uring_sqe*>(mark_)};
  }

  // ------------------------------------------------------------ the file

  [[nodiscard]] std::vector<std::byte> file_bytes(std::uint64_t offset, std::size_t length) const {
    std::vector<std::byte> bytes(length);
    const auto fd = open(0);
    const auto got = ::pread(fd.get(), bytes.data(), length, static_cast<off_t>(offset));
    EXPECT_EQ(got, static_cast<ssize_t>(length));
    return bytes;
  }
  /// The whole image is made of these bytes, over and over.
  void fill_file(std::span<const std::byte> bytes) {
    for (std::size_t at = 0; at < image_bytes; at += bytes.size()) {
      EXPECT_EQ(::pwrite(image_.file.get(), bytes.data(), bytes.size(), static_cast<off_t>(at)),
                static_cast<ssize_t>(bytes.size()));
    }
  }
  void fill_file(std::byte with) { fill_file(std::vector<std::byte>(4096, with)); }
  [[nodiscard]] bool file_is(std::uint64_t offset, std::size_t length, std::byte value) const {
    const auto bytes = file_bytes(offset, length);
    return std::ranges::all_of(bytes, [value](std::byte b) { return b == value; });
  }

  ScratchFolder folder_;
  std::string path_;
  Image image_;
  std::atomic<bool> durable_ = false;

 private:
  Slot& fresh(Op op) {
    slots_.push_back(std::make_unique<Slot>());
    slots_.back()->request.op = op;
    return *slots_.back();
  }
  void note(Slot& slot, std::optional<Status> status) {
    if (!status) {
      under_way_.insert(&slot);
    } else {
      under_way_.erase(&slot);
      done_[&slot] = *status;
    }
  }
  /// An empty operation, behind which those of the engine come.
  void mark() {
    mark_ = uring_->next();
    io_uring_prep_nop(mark_);
    io_uring_sqe_set_data64(mark_, 0);
  }

  std::vector<std::unique_ptr<Slot>> slots_;
  std::vector<std::unique_ptr<std::vector<iovec>>> pieces_;
  std::map<Slot*, Status> done_;
  std::set<Slot*> under_way_;
  std::optional<Uring> uring_;
  std::optional<FileEngine> engine_;
  io_uring_sqe* mark_ = nullptr;
};

}  // namespace blk::testing_tools
