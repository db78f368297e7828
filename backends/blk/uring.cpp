#include "backends/blk/uring.hpp"

#include <algorithm>
#include <array>
#include <utility>

namespace blk {
namespace {

constexpr unsigned submissions = 256;
constexpr unsigned completions = 4096;  // more in flight than this the kernel keeps for us

vhost::Error no_ring(int error) {
  std::string what = "cannot create an io_uring: " + std::string(std::strerror(error));
  if (error == EPERM) what += "; allow it with: sysctl kernel.io_uring_disabled=0";
  if (error == ENOSYS) what += "; this kernel has none, or a seccomp filter forbids it";
  if (error == ENOMEM) what += "; raise the limit of locked memory (ulimit -l)";
  return {vhost::Fault::operator_, what};
}

}  // namespace

vhost::Result<Uring> Uring::create() {
  // The best the kernel has: each set needs a newer one than the set behind it.
  constexpr std::array<unsigned, 3> flag_sets{
      IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_TASKRUN_FLAG,
      IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG, 0};
  int result = 0;
  for (const unsigned flags : flag_sets) {
    io_uring ring{};
    io_uring_params parameters{};
    parameters.flags = flags | IORING_SETUP_CQSIZE;
    parameters.cq_entries = completions;
    result = io_uring_queue_init_params(submissions, &ring, &parameters);
    if (result == 0) {
      (void)io_uring_register_ring_fd(&ring);  // saves a look-up per call where it is known
      return Uring(ring);
    }
    if (result != -EINVAL) break;
  }
  return std::unexpected(no_ring(-result));
}

Uring::Uring(Uring&& other) noexcept
    : ring_(other.ring_), open_(std::exchange(other.open_, false)), batch_(other.batch_) {}

Uring::~Uring() {
  if (open_) io_uring_queue_exit(&ring_);
}

vhost::Result<void> Uring::register_files(std::span<const int> files) {
  const int result =
      io_uring_register_files(&ring_, files.data(), static_cast<unsigned>(files.size()));
  if (result != 0) {
    return vhost::fail_errno(vhost::Fault::host, "cannot register the image with io_uring",
                             -result);
  }
  return {};
}

io_uring_sqe* Uring::next() {
  if (io_uring_sq_ready(&ring_) >= batch_) submit();
  io_uring_sqe* entry = io_uring_get_sqe(&ring_);
  while (entry == nullptr) {
    submit();
    entry = io_uring_get_sqe(&ring_);
  }
  return entry;
}

void Uring::cancel(Tag tag) {
  io_uring_sqe* const entry = next();
  io_uring_prep_cancel64(entry, tag, 0);
  io_uring_sqe_set_data64(entry, cancel_tag);
}

void Uring::submit() {
  // Short of memory or with too many completions unread the kernel takes fewer, or none: the rest
  // stays in the queue for the next call.
  if (io_uring_sq_ready(&ring_) != 0) (void)io_uring_submit(&ring_);
}

void Uring::look() {
  if ((*ring_.sq.kflags & (IORING_SQ_TASKRUN | IORING_SQ_CQ_OVERFLOW)) != 0) {
    (void)io_uring_submit_and_get_events(&ring_);
  } else {
    submit();
  }
}

void Uring::wait() {
  (void)io_uring_submit_and_wait(&ring_, 1);
}

}  // namespace blk
