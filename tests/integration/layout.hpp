#pragma once
#include <string>

#include <gtest/gtest.h>

namespace integration {

/// Names a test that runs on both layouts of rings: its parameter says whether they are packed.
inline std::string layout_name(const ::testing::TestParamInfo<bool>& packed) {
  return packed.param ? "Packed" : "Split";
}

}  // namespace integration
