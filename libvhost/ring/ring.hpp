#pragma once
#include <concepts>
#include <cstdint>
#include <memory>
#include <variant>

#include "libvhost/ring/chain.hpp"
#include "libvhost/ring/packed_ring.hpp"
#include "libvhost/ring/split_ring.hpp"

namespace vhost {

/// What a device asks of a virtqueue, whatever its layout. A device is written against this and
/// nothing else; EVENT_IDX, wrap counters, barriers and inflight bookkeeping live behind it.
///
///   pop         the next chain, into the room that `chain` has
///   reading     is for several pops what each does for itself otherwise: behind an IOMMU it keeps
///               translations from being taken away, from the first chain on that there is. Short,
///               and not beyond the burst
///   pop_singles pops chains as long as each is a Single, which most of a network device are, and
///               says how many. The first that is none, and everything wrong, is left to pop()
///   unpop       undoes the pop of the chain popped last, if it was not pushed since: the ring is
///               as if it had never been popped. For several, newest first
///   look_ahead  has the descriptors of the next `chains` brought into the cache: they come from
///               another CPU, and waiting for them one by one is what a burst costs most
///   leave       gives up all chains in flight, and pushes none: the inflight section has them, for
///               whoever starts the ring next. Only where everything pushed was published, and
///               nothing but base() may follow
///   push        gives a chain back with `written` bytes in it; the driver does not see it yet. The
///               dirty log marks the chain, or of what the device may write to only the first
///               `touched` bytes, where it knows that it wrote to no others
///   publish     shows all that was pushed, and says whether the driver wants a call for it
///   arm_kick    asks for a kick at the next chain; true if there is one already: do not sleep
///   disarm_kick asks for no kicks, while the device polls
///   move_to     goes over to a new memory map; false, and broken, if the ring is not in it
///   base        where to go on, as GET_VRING_BASE tells it
///   in_flight   chains popped and not pushed
///   is_broken   the driver broke the rules: pop() has nothing more, until it is started anew
///   owes        a crashed predecessor's chains wait in pop(); serve them before a stop, because
///               base() cannot tell the driver's side of them
template <class R>
concept Ring = requires(R ring, const R& same, Chain& chain, std::uint16_t head,
                        std::uint32_t written, std::span<Single> singles,
                        std::shared_ptr<const MemoryMap> memory, typename R::Reading reading) {
  { ring.pop(chain) } -> std::same_as<Pop>;
  { ring.pop(chain, reading) } -> std::same_as<Pop>;
  { ring.reading() } -> std::same_as<typename R::Reading>;
  { ring.pop_singles(singles) } -> std::same_as<std::size_t>;
  { ring.unpop(head) } -> std::same_as<void>;
  { ring.look_ahead(head) } -> std::same_as<void>;
  { ring.leave() } -> std::same_as<void>;
  { ring.push(head, written) } -> std::same_as<void>;
  { ring.push(head, written, written) } -> std::same_as<void>;
  { ring.publish() } -> std::same_as<Notify>;
  { ring.arm_kick() } -> std::same_as<bool>;
  { ring.disarm_kick() } -> std::same_as<void>;
  { ring.move_to(memory) } -> std::same_as<bool>;
  { same.base() } -> std::same_as<std::uint32_t>;
  { same.in_flight() } -> std::same_as<std::uint32_t>;
  { same.is_broken() } -> std::same_as<bool>;
  { same.owes() } -> std::same_as<bool>;
  { same.size() } -> std::same_as<std::uint16_t>;
  { same.longest_chain() } -> std::same_as<std::size_t>;
};
static_assert(Ring<SplitRing> && Ring<PackedRing>);

/// A ring at the hand-over between session and device. A worker visits it once a burst, so its
/// loops are compiled for one layout each.
using AnyRing = std::variant<SplitRing, PackedRing>;

}  // namespace vhost
