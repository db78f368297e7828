#include "backends/net/uplink/pci_device.hpp"

#include <string_view>

namespace net {

using vhost::Fault, vhost::Result;

Result<void> check_pci_device(const std::string& address, bool allow_no_iommu,
                              const std::filesystem::path& sysfs) {
  const auto device = sysfs / "bus/pci/devices" / address;
  std::error_code missing;
  if (!std::filesystem::exists(device, missing)) {
    return vhost::fail(Fault::operator_,
                       "there is no PCI device " + address + ": see lspci -D for those there are");
  }
  constexpr std::string_view wanted = "vfio-pci";
  const std::string driver = std::filesystem::read_symlink(device / "driver", missing).filename();
  if (driver != wanted) {
    return vhost::fail(Fault::operator_,
                       "PCI device " + address + " belongs to " +
                           (driver.empty() ? "no driver" : "the driver " + driver) +
                           ": give it to vfio-pci first (driverctl set-override " + address +
                           " vfio-pci); the host loses it as an interface");
  }
  if (allow_no_iommu || std::filesystem::exists(device / "iommu_group/type", missing)) return {};
  return vhost::fail(Fault::operator_,
                     "no IOMMU guards the host's memory from PCI device " + address +
                         ": switch it on in the firmware and the kernel (intel_iommu=on), or "
                         "accept with --unsafe-no-iommu that the device can write to all of it");
}

}  // namespace net
