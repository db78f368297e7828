#pragma once
#include <chrono>
#include <memory>
#include <vector>

#include "common/log.hpp"
#include "common/mailbox.hpp"

namespace net {

/// What a worker's thread uses wherever it is, in its own sources and in the sinks that it delivers
/// to: the mailbox that knows which call it is in, and the limit on lines that guests cause.
struct Desk {
  std::shared_ptr<common::Mailbox> mailbox;
  common::log::Limiter broken_rings{std::chrono::seconds(10), 5};
};

/// One for each worker, by its number; made before everything that refers to it.
using Desks = std::vector<std::unique_ptr<Desk>>;

[[nodiscard]] inline vhost::Result<Desks> make_desks(unsigned workers) {
  Desks desks;
  for (unsigned i = 0; i < workers; ++i) {
    auto mailbox = common::Mailbox::create();
    if (!mailbox) return std::unexpected(mailbox.error());
    desks.push_back(std::make_unique<Desk>(std::move(*mailbox)));
  }
  return desks;
}

}  // namespace net
