#pragma once
#include "libvhost/wire/message.hpp"

/* What the handlers of messages share; session.cpp and session_requests.cpp only. */
namespace vhost {

/// The payload as a T; the table has made sure that it holds one.
template <Wire T>
[[nodiscard]] T payload_as(const Message& message) {
  return read_once<T>(message.payload.data());
}

template <class T>
[[nodiscard]] std::unexpected<Error> pass_on(const Result<T>& failed) {
  return std::unexpected(failed.error());
}

}  // namespace vhost
