#pragma once
#include <filesystem>
#include <string>

#include "libvhost/wire/error.hpp"

namespace net {

/// Refuses a PCI device that cannot be an uplink, or not a safe one: it is there, vfio-pci has it,
/// and an IOMMU keeps it to the memory that it is given. One sentence with cause and cure, without
/// an option's name in front.
[[nodiscard]] vhost::Result<void> check_pci_device(const std::string& address, bool allow_no_iommu,
                                                   const std::filesystem::path& sysfs = "/sys");

}  // namespace net
