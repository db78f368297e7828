#pragma once
/*
 * The values of options, from the text that an operator typed.
 *
 * A refusal is the end of a sentence: "'12Q' is no size: give bytes, or a number with K, M, G or
 * T". Who calls puts the option's name in front. Nothing is guessed, rounded or clipped: text
 * behind the value, spaces, signs and overflow are refused. Pure functions; any thread.
 */
#include <chrono>
#include <cstdint>
#include <string_view>
#include <vector>

#include "libvhost/wire/error.hpp"

namespace common {

/// A decimal number from `min` to `max`.
[[nodiscard]] vhost::Result<std::uint64_t> parse_number(std::string_view text, std::uint64_t min,
                                                        std::uint64_t max);

/// Bytes: "4096", "64K", "1M", "2G", "1T", also "64k" and "64KiB". Powers of 1024.
[[nodiscard]] vhost::Result<std::uint64_t> parse_size(std::string_view text);

/// A span of time: "1", "0.5" (seconds), "250ms", "30s", "5m", "1h". Refuses what is not a whole
/// number of milliseconds, and what is not from `min` to `max`.
[[nodiscard]] vhost::Result<std::chrono::milliseconds> parse_duration(
    std::string_view text, std::chrono::milliseconds min, std::chrono::milliseconds max);

/// CPU numbers, "0,2-3", in the order given. Refuses a CPU that is named twice, and numbers above
/// 8191 (Linux has no more). Whether this machine has them is cpu.hpp's question.
[[nodiscard]] vhost::Result<std::vector<unsigned>> parse_cpus(std::string_view text);

/// "true", "on", "yes", "1" and their opposites.
[[nodiscard]] vhost::Result<bool> parse_switch(std::string_view text);

}  // namespace common
