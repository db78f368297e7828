"""The guest tests, by subject. Importing the package registers them all, in this order."""

from promises import identity, filesystem, verify, durability, space, firmware, boot_loaders, lifecycle, memory, crash, iommu  # noqa: F401
from promises import migration  # noqa: F401
from promises import net_guests, net_offloads, net_lifecycle, net_migration, net_vlan, net_uplink, net_firmware, net_boot_loaders  # noqa: F401
from promises import machines  # noqa: F401
