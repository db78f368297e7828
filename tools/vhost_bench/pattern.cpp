#include "tools/vhost_bench/pattern.hpp"

#include <cstring>

#include "libvhost/wire/bytes.hpp"

namespace bench {
namespace {

struct BlockHead {
  std::uint64_t checksum;  // of the rest of the head
  Block block;
};
static_assert(vhost::Wire<BlockHead> && sizeof(BlockHead) == 32);

std::uint64_t mix(std::uint64_t value) {  // splitmix64
  value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9;
  value = (value ^ (value >> 27)) * 0x94d049bb133111eb;
  return value ^ (value >> 31);
}

std::uint64_t checksum(const Block& block) {
  return mix(mix(mix(block.number + 1) + block.generation) + block.run);
}

std::uint64_t step(std::uint64_t word) {
  return word * 6364136223846793005 + 1442695040888963407;
}

std::uint64_t word_at(std::span<const std::byte> bytes, std::size_t at) {
  std::uint64_t word;
  std::memcpy(&word, bytes.data() + at, sizeof word);
  return word;
}

}  // namespace

void fill_block(std::span<std::byte> bytes, const Block& block) {
  const BlockHead head{checksum(block), block};
  std::memcpy(bytes.data(), &head, sizeof head);
  std::uint64_t word = head.checksum;
  for (std::size_t at = sizeof head; at < bytes.size(); at += sizeof word) {
    word = step(word);
    std::memcpy(bytes.data() + at, &word, sizeof word);
  }
}

std::string judge_block(std::span<const std::byte> bytes, const Block& expected) {
  const auto head = vhost::read_once<BlockHead>(bytes.data());
  if (head.checksum != checksum(head.block)) return "is no block that was ever written";
  if (head.block.run != expected.run) return "was written in another run";
  if (head.block.number != expected.number) {
    return "is block " + std::to_string(head.block.number);
  }
  if (head.block.generation != expected.generation) {
    return "is generation " + std::to_string(head.block.generation) + " instead of " +
           std::to_string(expected.generation);
  }
  std::uint64_t word = head.checksum;
  for (std::size_t at = sizeof head; at < bytes.size(); at += sizeof word) {
    word = step(word);
    if (word_at(bytes, at) != word) return "is spoilt at byte " + std::to_string(at);
  }
  return {};
}

}  // namespace bench
