#include "backends/net/uplink/pci_device.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/unit/common/temp_folder.hpp"

namespace net::tests {
namespace {

using testing::HasSubstr;

class PciDeviceTest : public testing::Test {
 protected:
  void SetUp() override { std::filesystem::create_directories(device_); }
  void bind_to(const std::string& driver) {
    const auto target = folder_.path() / "bus/pci/drivers" / driver;
    std::filesystem::create_directories(target);
    std::filesystem::create_directory_symlink(target, device_ / "driver");
  }
  void guard() {
    std::filesystem::create_directories(device_ / "iommu_group");
    common::test::write_text(device_ / "iommu_group/type", "DMA-FQ\n");
  }
  std::string refusal(bool allow_no_iommu = false, const std::string& address = "0000:01:00.0") {
    const auto checked = check_pci_device(address, allow_no_iommu, folder_.path());
    if (checked) return "taken";
    EXPECT_EQ(checked.error().fault, vhost::Fault::operator_);
    return checked.error().what;
  }

  common::test::TempFolder folder_;
  std::filesystem::path device_ = folder_.path() / "bus/pci/devices/0000:01:00.0";
};

TEST_F(PciDeviceTest, IsTakenBehindAnIommu) {
  bind_to("vfio-pci");
  guard();
  EXPECT_EQ(refusal(), "taken");
}

TEST_F(PciDeviceTest, MustBeThere) {
  EXPECT_THAT(refusal(false, "0000:02:00.0"), HasSubstr("there is no PCI device 0000:02:00.0"));
}

TEST_F(PciDeviceTest, MustBelongToVfio) {
  EXPECT_THAT(refusal(true), HasSubstr("belongs to no driver: give it to vfio-pci"));
  bind_to("ixgbe");
  guard();
  EXPECT_THAT(refusal(true), HasSubstr("belongs to the driver ixgbe: give it to vfio-pci"));
}

TEST_F(PciDeviceTest, NeedsAnIommuOrTheWordThatItNeedsNone) {
  bind_to("vfio-pci");
  EXPECT_THAT(refusal(), HasSubstr("--unsafe-no-iommu"));
  EXPECT_EQ(refusal(true), "taken");
}

}  // namespace
}  // namespace net::tests
