#pragma once
#include "tests/integration/fixture.hpp"

namespace integration {

/// A disk behind an IOMMU, on rings of either layout.
class TranslatedDisk : public Served, public testing::WithParamInterface<bool> {
 protected:
  static constexpr std::size_t page = 4096;

  /// A driver's, with so many queues.
  static BlkOptions options(std::size_t queues = 1) {
    BlkOptions options = with_queues(queues);
    if (GetParam()) options = packed(std::move(options));
    options.wishes.required_features |= vhost::bit(vhost::feature::access_platform);
    return options;
  }
};

/// For INSTANTIATE_TEST_SUITE_P.
[[nodiscard]] inline std::string layout_name(const testing::TestParamInfo<bool>& layout) {
  return layout.param ? "Packed" : "Split";
}

}  // namespace integration
