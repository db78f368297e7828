#pragma once
#include <cerrno>
#include <cstring>
#include <expected>
#include <string>
#include <utility>

namespace vhost {

/// Whose mistake it was decides what happens next (docs/architecture.md, "Errors").
enum class Fault : unsigned char {
  front_end,    ///< the peer broke the protocol: refuse, or close the connection
  unsupported,  ///< a valid request for something that was never offered
  host,         ///< this machine failed us: memory, files, descriptors
  operator_,    ///< a wrong option, file or permission: say so and do not start
};

/// What went wrong, as one sentence for a log line or for stderr.
struct Error {
  Fault fault;
  std::string what;
};

template <class T>
using Result = std::expected<T, Error>;

[[nodiscard]] inline std::unexpected<Error> fail(Fault fault, std::string what) {
  return std::unexpected(Error{fault, std::move(what)});
}

/// As fail(), with the text of an errno behind the sentence.
[[nodiscard]] inline std::unexpected<Error> fail_errno(Fault fault, std::string what,
                                                       int error = errno) {
  return fail(fault, std::move(what) + ": " + std::strerror(error));
}

/// The error of a result that has one, as another result's.
template <class T>
[[nodiscard]] std::unexpected<Error> pass_on(const Result<T>& failed) {
  return std::unexpected(failed.error());
}

}  // namespace vhost
