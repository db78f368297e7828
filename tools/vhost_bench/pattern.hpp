#pragma once
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

/*
 * What --verify writes and expects to read.
 *
 * A block says which block it is, which time it was written, and in which run; the rest is filled
 * from these three, and a checksum of them stands in front. So a block that comes back tells
 * whether it is another one's (a wrong sector), an older one of its own (a lost write), of another
 * run, or spoilt.
 *
 * The book knows the last generation of each block that was written completely. A block that was
 * never written in this run, or whose write failed, is not judged. Only one request may be in
 * flight for a block: the generator gives each of its slots blocks of its own.
 */
namespace bench {

struct Block {
  std::uint64_t number;
  std::uint64_t generation;
  std::uint64_t run;
};

/// Fills `bytes` (a multiple of 512) for this block.
void fill_block(std::span<std::byte> bytes, const Block& block);

/// Nothing if `bytes` are as fill_block() made them; else what they are instead.
[[nodiscard]] std::string judge_block(std::span<const std::byte> bytes, const Block& expected);

/// The generations of the blocks of a disk.
class Book {
 public:
  Book(std::uint64_t blocks, std::uint64_t run) : generations_(blocks), run_(run) {}

  /// The block to write next: one generation on. Until written() its state is unknown.
  [[nodiscard]] Block begin_write(std::uint64_t number) {
    Entry& entry = generations_[number];
    entry.known = 0;
    return {number, ++entry.generation, run_};
  }
  void written(std::uint64_t number) { generations_[number].known = 1; }
  /// Empty also where nothing is known of the block.
  [[nodiscard]] std::string judge_read(std::uint64_t number,
                                       std::span<const std::byte> bytes) const {
    const Entry& entry = generations_[number];
    if (entry.known == 0) return {};
    return judge_block(bytes, {number, entry.generation, run_});
  }

 private:
  struct Entry {
    std::uint32_t generation : 31 = 0;
    std::uint32_t known : 1 = 0;
  };
  std::vector<Entry> generations_;
  std::uint64_t run_;
};

}  // namespace bench
