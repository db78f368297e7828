/*
 * Memory that comes page by page (vhost-user, "Postcopy"): the three messages of postcopy, and what
 * is different with the messages of memory while it goes on.
 *
 * New memory is first only announced: the front-end is told where we have mapped it, and nobody
 * touches it before the front-end says that it knows. QEMU tells several regions one by one, each
 * with its own answer, and acknowledges them together.
 */
#include "libvhost/session/session.hpp"

namespace vhost {
namespace {

/// No message. QEMU acknowledges memory with it.
constexpr Request none{0};

}  // namespace

Session::Answer Session::dispatch_postcopy(const RequestRule& rule) {
  if (rule.request == Request::postcopy_advise) {
    auto userfault = postcopy_.advise();
    if (!userfault) return pass_on(userfault);
    return Reply{{}, std::move(*userfault)};
  }
  const bool before = postcopy_.listening();
  const bool listen = rule.request == Request::postcopy_listen;
  const auto done = listen ? postcopy_.listen(*memory_) : postcopy_.end();
  if (!done) return pass_on(done);
  if (postcopy_.listening() != before) {
    log_(LogLevel::info, listen ? "postcopy: the guest's memory comes page by page"
                                : "postcopy: all of the guest's memory is here");
  }
  if (listen) return std::nullopt;
  return Reply::of(std::uint64_t{0});
}

/// What the front-end has told us of, in use or only announced.
const MemoryMap& Session::known_memory() const {
  return announced_ ? *announced_ : *memory_;
}

/// Makes `map` the memory, or announces it.
Session::Answer Session::take_memory(Result<MemoryMap> map, const Message& message) {
  const bool removal = message.request == static_cast<std::uint32_t>(Request::rem_mem_reg);
  if (removal && announced_) {
    return fail(Fault::front_end, "REM_MEM_REG came before the acknowledgement of new memory");
  }
  if (map && postcopy_.listening() && !removal) return announce(std::move(*map), message);
  const auto adopted = adopt(std::move(map));
  if (!adopted) return pass_on(adopted);
  return std::nullopt;
}

/// Answers with the message itself, in which our address of each region's first byte stands instead
/// of the front-end's: that is what the front-end subtracts from the address of a fault.
Session::Answer Session::announce(MemoryMap map, const Message& message) {
  if (const auto covered = postcopy_.cover(map); !covered) return pass_on(covered);
  Reply reply{message.payload, {}};
  static_assert(sizeof(MemoryTableHeader) == offsetof(SingleRegion, region));
  for (std::size_t at = sizeof(MemoryTableHeader); at < reply.payload.size();
       at += sizeof(MemoryRegion)) {
    auto region = read_once<MemoryRegion>(reply.payload.data() + at);
    const FrontendAddress first{as_addressed(region).frontend_address};
    region.frontend_address = reinterpret_cast<std::uintptr_t>(map.at(first, 1).data());
    std::memcpy(reply.payload.data() + at, &region, sizeof region);
  }
  announced_ = std::make_shared<const MemoryMap>(std::move(map));
  return reply;
}

/// Whether this is the front-end's "I know". The specification has an empty SET_MEM_TABLE, or
/// ADD_MEM_REG. QEMU sends a number, which is 0, under the name of the last message that it sent
/// for memory: that may have been a removal, or there may have been none (0). It does so after the
/// end of postcopy, too, if that came between.
bool Session::acknowledges_memory(const Message& message) const {
  if (!announced_ && !postcopy_.listening()) return false;
  const std::size_t bytes = message.payload.size();
  if ((bytes != 0 && bytes != sizeof(std::uint64_t)) || !message.fds.empty() ||
      (message.flags & (header_reply | header_need_reply)) != 0) {
    return false;
  }
  const Request name{message.request};
  if (name == Request::set_mem_table) return announced_ != nullptr;  // else it is an empty table
  return name == Request::add_mem_reg || name == Request::rem_mem_reg || name == none;
}

/// The announced memory is the memory from now on.
Session::Answer Session::take_acknowledgement(const Message& message) {
  if (!message.payload.empty() && payload_as<std::uint64_t>(message) != 0) {
    return fail(Fault::front_end, "the front-end cannot bring the pages of new memory");
  }
  if (!announced_) return std::nullopt;
  const auto announced = std::exchange(announced_, nullptr);
  const auto adopted = adopt(announced->logged_in(memory_->log()).translated_by(memory_->iotlb()));
  if (!adopted) return pass_on(adopted);
  return std::nullopt;
}

}  // namespace vhost
