#pragma once
#include <functional>
#include <string>
#include <string_view>

#include "libvhost/wire/error.hpp"

/*
 * "vhost-bench net": load on any vhost-user-net back-end.
 *
 * run_net() reads the options into a NetPlan, attaches a network driver to each socket, makes
 * senders and receivers of their pairs as the mode wants them, lets the NetGenerator run them, and
 * prints. Where frames are forwarded, the receiving side first sends one itself, so that a switch
 * learns where it is.
 */
namespace bench {

inline constexpr std::string_view net_program = "vhost-bench net";

/// The exit status: 0, also if frames were lost; an error where a back-end cannot be driven or
/// broke a ring. `interrupted` is asked now and then.
[[nodiscard]] vhost::Result<int> run_net(int argc, const char* const* argv,
                                         const std::string& version,
                                         std::function<bool()> interrupted);

}  // namespace bench
